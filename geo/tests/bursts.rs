//! Bursts of joins: shared between replicas that hear of each other late.

use meridian_geo::{Candidate, Candidates, Client, Policy, regions};
use std::collections::VecDeque;

const REPLICAS: usize = 2;
/// What one replica assigned reaches the others after this long.
const NEWS_EVERY_MS: u64 = 100;

/// A control plane in virtual time: its own assignments at once, the others' late.
struct Replica {
    edges: Candidates,
    own: Vec<VecDeque<u64>>,
    others: Vec<u32>,
}

impl Replica {
    fn assign(&mut self, client: &Client, now_ms: u64, arrive_after_ms: u64) -> usize {
        for (edge, sent) in self.own.iter().enumerate() {
            let since = |ms: u64| sent.iter().filter(|at| now_ms.saturating_sub(**at) < ms).count() as u32;
            let (lately, waiting) = (since(2_000), since(arrive_after_ms));
            let others = self.others[edge];
            let arrived = sent.len() as u32 - waiting;
            self.edges.update(edge, |one| {
                one.lately = lately;
                one.recent = waiting + others;
                one.participants = arrived;
            });
        }
        let chosen = self.edges.assign(client, &[]).ranked[0].index;
        self.own[chosen].push_back(now_ms);
        chosen
    }
}

fn edge(id: &str, region: &str, capacity: u32) -> Candidate {
    Candidate {
        id: id.to_owned(),
        region: region.to_owned(),
        healthy: true,
        accepting: true,
        capacity,
        ..Candidate::default()
    }
}

/// `joins` within `within_ms` at two replicas in turn; gives how many each edge got.
fn burst(list: &[Candidate], joins: u64, within_ms: u64, arrive_after_ms: u64) -> Vec<u32> {
    let policy = Policy::default();
    let mut replicas: Vec<Replica> = (0..REPLICAS)
        .map(|_| Replica {
            edges: Candidates::new(list.to_vec(), &policy),
            own: vec![VecDeque::new(); list.len()],
            others: vec![0; list.len()],
        })
        .collect();
    let client = |n: u64| Client {
        location: regions::find("fra").map(|one| one.location),
        draw: Some(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        ..Client::default()
    };
    let mut counts = vec![0; list.len()];
    let mut told_ms = 0;
    for n in 0..joins {
        let now_ms = n * within_ms / joins;
        if now_ms >= told_ms + NEWS_EVERY_MS {
            told_ms = now_ms;
            let sent: Vec<Vec<u32>> = replicas
                .iter()
                .map(|replica| replica.own.iter().map(|sent| sent.len() as u32).collect())
                .collect();
            for (at, replica) in replicas.iter_mut().enumerate() {
                replica.others.copy_from_slice(&sent[1 - at]);
            }
        }
        counts[replicas[n as usize % REPLICAS].assign(&client(n), now_ms, arrive_after_ms)] += 1;
    }
    counts
}

#[test]
fn a_thousand_joins_in_a_second_spread_by_capacity_with_two_replicas_at_once() {
    for capacities in [
        [1_000, 1_000, 1_000],
        [2_000, 1_000, 500],
        [400, 4_000, 800],
        [60_000, 20_000, 40_000],
    ] {
        for arrive_after_ms in [300, 5_000] {
            let mut list: Vec<Candidate> = ["fra", "ams", "cdg"]
                .into_iter()
                .zip(capacities)
                .map(|(region, capacity)| edge(region, region, capacity))
                .collect();
            // Farther than 20 ms from the best: takes no part.
            list.push(edge("iad", "iad", 100_000));
            list.push(edge("lis", "lis", 100_000));
            let counts = burst(&list, 1_000, 1_000, arrive_after_ms);
            assert_eq!((counts[3], counts[4]), (0, 0), "{capacities:?}: {counts:?}");
            let all: u32 = capacities.iter().sum();
            for (count, capacity) in counts.iter().zip(capacities) {
                let fair = 1_000.0 * f64::from(capacity) / f64::from(all);
                let off = (f64::from(*count) - fair).abs() / fair;
                assert!(
                    off <= 0.1,
                    "{capacities:?}, arriving after {arrive_after_ms} ms: {counts:?}"
                );
            }
        }
    }
}

#[test]
fn a_few_people_go_to_the_nearest() {
    let list = [edge("fra", "fra", 1_000), edge("ams", "ams", 50_000)];
    assert_eq!(burst(&list, 20, 1_000, 500), [20, 0]);
}
