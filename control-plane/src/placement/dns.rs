//! What GeoDNS knows of the edges: the fleet, ranked for an address by the same scores as a join.
//!
//! Queries may come by the ten thousand, so the fleet is looked at a few times a second only, and what was found for a network is kept
//! for as long.

use crate::meetings::join::JoinService;
use meridian_geo::{Candidate, CandidateState, Candidates, Policy};
use meridian_geodns::{Choice, Target, World};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// An edge that is cordoned or dies is still answered for this long.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Answers kept until the next look.
const CHOICES_MAX: usize = 8_192;
/// Edges in a choice: what an answer may need, not all thousand.
const TARGETS_MAX: usize = 16;
/// Round trips are learned for such prefixes.
const LEARNED_BITS_V4: u8 = 24;
const LEARNED_BITS_V6: u8 = 48;

pub(crate) struct FleetWorld {
    joins: Arc<JoinService>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    looked: Option<Instant>,
    /// `None`: no edge was ever seen.
    edges: Option<Arc<Edges>>,
    choices: HashMap<IpAddr, Choice>,
}

/// The edges with public addresses, as of the last look.
struct Edges {
    candidates: Candidates,
    addresses: Vec<Vec<IpAddr>>,
    /// The same, as if nothing spoke against any of them. Made when it is needed.
    well: OnceLock<Candidates>,
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
        let mut assignment = edges.candidates.assign(&client_at, &[]);
        if assignment.ranked.is_empty() {
            // Nobody takes people now. A name that leads to the nearest edge, and there to a refusal that says so, is better than a
            // name that leads nowhere; where people may not be placed at all still stays out.
            assignment = edges.as_if_well(&self.joins.policy).assign(&client_at, &[]);
        }
        let target = |ranked: &meridian_geo::Ranked| {
            Some(Target {
                addresses: edges.addresses.get(ranked.index)?.clone(),
                score_ms: ranked.score_ms,
            })
        };
        Choice {
            targets: assignment.ranked.iter().filter_map(target).take(TARGETS_MAX).collect(),
            prefix: self.network_bits(client),
        }
    }

    /// How far around an address the same answer holds. As soon as anything was measured, one prefix may have another answer than the
    /// rest of what the address database takes for one network, and scopes must not overlap (RFC 7871, 7.2.1).
    fn network_bits(&self, client: IpAddr) -> u8 {
        let learned = match (self.joins.learning.rows(), client.to_canonical()) {
            (0, _) => 0,
            (_, IpAddr::V4(_)) => LEARNED_BITS_V4,
            (_, IpAddr::V6(_)) => LEARNED_BITS_V6,
        };
        self.joins.learning.network_bits(client).max(learned)
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
                if let Some(edges) = Edges::of(addresses.zip(candidates), &self.joins.policy) {
                    known.edges = Some(Arc::new(edges));
                }
            }
            if let Some(choice) = known.choices.get(&client) {
                return choice.clone();
            }
            match &known.edges {
                Some(edges) => edges.clone(),
                None => return Choice::default(),
            }
        };
        let choice = self.rank(&edges, client);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.choices.len() < CHOICES_MAX && known.edges.as_ref().is_some_and(|now| Arc::ptr_eq(now, &edges)) {
            known.choices.insert(client, choice.clone());
        }
        choice
    }
}

impl Edges {
    /// Those that DNS can answer with. `None` if there is nobody: then those known last stay, because the registry may be away, or
    /// everybody restarting.
    fn of(now: impl Iterator<Item = (Vec<IpAddr>, Candidate)>, policy: &Policy) -> Option<Edges> {
        let (addresses, candidates): (Vec<_>, Vec<_>) = now.filter(|(addresses, _)| !addresses.is_empty()).unzip();
        (!candidates.is_empty()).then(|| Edges {
            candidates: Candidates::new(candidates, policy),
            addresses,
            well: OnceLock::new(),
        })
    }

    fn as_if_well(&self, policy: &Policy) -> &Candidates {
        let well = |candidate: &Candidate| Candidate {
            state: CandidateState::Active,
            healthy: true,
            accepting: true,
            participants: 0,
            recent: 0,
            cpu: 0.0,
            ..candidate.clone()
        };
        self.well
            .get_or_init(|| Candidates::new(self.candidates.list().iter().map(well).collect(), policy))
    }
}
