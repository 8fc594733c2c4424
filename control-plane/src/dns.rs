//! What GeoDNS knows of the edges: the fleet, ranked for an address by the same scores as a join.
//!
//! Queries may come by the ten thousand, so the fleet is looked at a few times a second only, and what was found for a network is kept
//! for as long.

use crate::join::JoinService;
use meridian_geo::{Candidate, CandidateState, assign};
use meridian_geodns::{Choice, Target, World};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// An edge that is cordoned or dies is still answered for this long.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Answers kept until the next look.
const CHOICES_MAX: usize = 8_192;
/// Edges in a choice: what an answer may need, not all thousand.
const TARGETS_MAX: usize = 16;

pub(crate) struct FleetWorld {
    joins: Arc<JoinService>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    looked: Option<Instant>,
    edges: Arc<Edges>,
    choices: HashMap<IpAddr, Choice>,
}

/// The edges with public addresses, as of the last look.
#[derive(Default)]
struct Edges {
    candidates: Vec<Candidate>,
    addresses: Vec<Vec<IpAddr>>,
}

impl FleetWorld {
    pub(crate) fn new(joins: Arc<JoinService>) -> Self {
        FleetWorld {
            joins,
            known: Mutex::default(),
        }
    }

    fn rank(&self, edges: &Edges, client: IpAddr) -> Choice {
        let client_at = self.joins.client_at(client);
        // What was measured holds for the prefix it was measured in, whatever the address database takes for one network.
        let learned_bits = match client_at.measured.regions.is_empty() {
            true => 0,
            false if client.to_canonical().is_ipv4() => 24,
            false => 48,
        };
        let mut assignment = assign(&client_at, &edges.candidates, &self.joins.policy);
        if assignment.ranked.is_empty() {
            // Nobody takes people now. A name that leads to the nearest edge, and there to a refusal that says so, is better than a
            // name that leads nowhere; where people may not be placed at all still stays out.
            assignment = assign(&client_at, &edges.as_if_well(), &self.joins.policy);
        }
        let target = |ranked: &meridian_geo::Ranked| {
            Some(Target {
                addresses: edges.addresses.get(ranked.index)?.clone(),
                score_ms: ranked.score_ms,
            })
        };
        Choice {
            targets: assignment.ranked.iter().filter_map(target).take(TARGETS_MAX).collect(),
            prefix: self.joins.learning.network_bits(client).max(learned_bits),
        }
    }
}

impl World for FleetWorld {
    fn choose(&self, client: IpAddr) -> Choice {
        let now = Instant::now();
        let edges = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known
                .looked
                .is_none_or(|at| now.saturating_duration_since(at) >= LOOK_EVERY)
            {
                known.looked = Some(now);
                known.choices.clear();
                let (records, candidates) = self.joins.fleet.candidates("", now);
                let addresses = records.into_iter().map(|record| record.addresses);
                if let Some(edges) = Edges::of(addresses.zip(candidates)) {
                    known.edges = Arc::new(edges);
                }
            }
            if let Some(choice) = known.choices.get(&client) {
                return choice.clone();
            }
            known.edges.clone()
        };
        let choice = self.rank(&edges, client);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.choices.len() < CHOICES_MAX && Arc::ptr_eq(&known.edges, &edges) {
            known.choices.insert(client, choice.clone());
        }
        choice
    }
}

impl Edges {
    /// Those that DNS can answer with. `None` if there is nobody: then those known last stay, because the registry may be away, or
    /// everybody restarting.
    fn of(now: impl Iterator<Item = (Vec<IpAddr>, Candidate)>) -> Option<Edges> {
        let (addresses, candidates): (Vec<_>, Vec<_>) = now.filter(|(addresses, _)| !addresses.is_empty()).unzip();
        (!candidates.is_empty()).then_some(Edges { candidates, addresses })
    }

    fn as_if_well(&self) -> Vec<Candidate> {
        let well = |candidate: &Candidate| Candidate {
            state: CandidateState::Active,
            healthy: true,
            accepting: true,
            participants: 0,
            recent: 0,
            cpu: 0.0,
            ..candidate.clone()
        };
        self.candidates.iter().map(well).collect()
    }
}
