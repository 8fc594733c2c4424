//! The pruned scorer gives the plain scorer's answers, whatever the world looks like.

use meridian_geo::{
    Candidate, CandidateState, Candidates, Client, EXACT, Location, Measured, Policy, Probe, RegionMeasured, Stat,
    assign, regions,
};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng as _};

/// Edges near cities, or anywhere; idle, loaded, full, cordoned, silent.
fn edges(rng: &mut StdRng, count: usize, clustered: bool) -> Vec<Candidate> {
    let edge = |n: usize, rng: &mut StdRng| {
        let city = &regions::REGIONS[rng.random_range(0..regions::REGIONS.len())];
        let location = match clustered {
            true => Location::new(
                city.location.lat + rng.random_range(-1.0..1.0),
                city.location.lon + rng.random_range(-1.0..1.0),
            ),
            false => Location::new(rng.random_range(-90.0..90.0), rng.random_range(-180.0..180.0)),
        };
        Candidate {
            id: format!("e{n:04}"),
            region: if clustered {
                city.name.to_owned()
            } else {
                format!("r{}", n % 97)
            },
            location: location.filter(|_| n % 50 != 7),
            state: match n % 29 {
                1 => CandidateState::Cordoned,
                2 => CandidateState::Draining,
                _ => CandidateState::Active,
            },
            healthy: n % 31 != 3,
            accepting: n % 37 != 4,
            capacity: if n % 41 == 5 { 0 } else { rng.random_range(10..2_000) },
            participants: rng.random_range(0..1_200),
            recent: rng.random_range(0..50),
            lately: rng.random_range(0..8),
            cpu: rng.random_range(0.0..1.05),
            has_room: false,
        }
    };
    (0..count).map(|n| edge(n, rng)).collect()
}

fn client(rng: &mut StdRng, edges: &[Candidate]) -> Client {
    let some_region = |rng: &mut StdRng| edges[rng.random_range(0..edges.len())].region.clone();
    let stat = |rng: &mut StdRng| Stat {
        median_ms: rng.random_range(1.0..300.0),
        residual_ms: rng.random_bool(0.5).then(|| rng.random_range(-50.0..100.0)),
        weight: rng.random_range(0.1..9.0),
        sessions: 3,
    };
    let regions = (0..rng.random_range(0..4_usize) * rng.random_range(0..2_usize)).map(|_| RegionMeasured {
        region: some_region(rng).into(),
        prefix: Some(stat(rng)),
        wide: rng.random_bool(0.5).then(|| stat(rng)),
        asn: None,
    });
    let measured = Measured {
        regions: regions.collect(),
    };
    let probes = (0..rng.random_range(0..3_usize)).map(|_| Probe {
        region: some_region(rng),
        rtt_ms: rng.random_range(1.0..200.0),
    });
    let probes = probes.collect();
    let avoid = (0..rng.random_range(0..3_usize)).map(|_| edges[rng.random_range(0..edges.len())].id.clone());
    Client {
        probes,
        avoid: avoid.collect(),
        location: rng
            .random_bool(0.95)
            .then(|| Location::new(rng.random_range(-90.0..90.0), rng.random_range(-180.0..180.0)).unwrap()),
        residency: if rng.random_bool(0.2) {
            vec!["eu".into(), "us".into()]
        } else {
            Vec::new()
        },
        measured,
        draw: rng.random_bool(0.7).then(|| rng.random()),
    }
}

fn policy(rng: &mut StdRng) -> Policy {
    let mut policy = Policy {
        explore_share: if rng.random_bool(0.5) { 0.2 } else { 0.0 },
        near_ms: rng.random_range(0.0..60.0),
        burst_joins_per_s: rng.random_range(1..40),
        room_bonus_ms: rng.random_range(0.0..40.0),
        ..Policy::default()
    };
    if rng.random_bool(0.4) {
        policy.region_weights_ms.insert("fra".into(), -25.0);
        policy.region_weights_ms.insert("r5".into(), -40.0);
        policy.region_weights_ms.insert("iad".into(), 30.0);
    }
    if rng.random_bool(0.1) {
        policy.residency = vec!["europe".into()];
    }
    policy
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_pruned_scorer_and_the_plain_one_agree(seed: u64, count in 1usize..400, clustered: bool) {
        let rng = &mut StdRng::seed_from_u64(seed);
        let mut plain = edges(rng, count, clustered);
        let policy = policy(rng);
        let mut pruned = Candidates::new(plain.clone(), &policy);
        for _ in 0..6 {
            // Loads change in place.
            for _ in 0..count / 10 {
                let (at, people) = (rng.random_range(0..count), rng.random_range(0..1_500));
                plain[at].participants = people;
                pruned.update(at, |one| one.participants = people);
            }
            let with_room: Vec<usize> = (0..rng.random_range(0..4)).map(|_| rng.random_range(0..count)).collect();
            let mut asked = plain.clone();
            for at in &with_room {
                asked[*at].has_room = true;
            }
            let client = client(rng, &plain);
            let (want, got) = (assign(&client, &asked, &policy), pruned.assign(&client, &with_room));
            prop_assert_eq!(want.choice, got.choice);
            prop_assert_eq!(want.belief, got.belief);
            let first = |answer: &meridian_geo::Assignment| answer.ranked.iter().take(EXACT).cloned().collect::<Vec<_>>();
            prop_assert_eq!(first(&want), first(&got));
        }
    }
}
