//! The edges of the registry's view, prepared for placing people: rebuilt when the view changes, kept up to date in between.

use super::State;
use super::edge::{candidate, state_of};
use meridian_geo::{Candidates, Policy};
use meridian_registry::nodes::{NodeRecord, NodeState, View};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// What changes by the mere passing of time (people who did not come, edges that fell silent) is looked at this often.
const REFRESH_EVERY: Duration = Duration::from_millis(100);

pub(super) struct Roster {
    generation: Option<u64>,
    pub(super) records: Vec<NodeRecord>,
    suspects: Vec<bool>,
    index: HashMap<String, usize>,
    pub(super) candidates: Candidates,
    refreshed: Option<Instant>,
    policy: Policy,
}

impl Roster {
    pub(super) fn new(policy: Policy) -> Self {
        Roster {
            generation: None,
            records: Vec::new(),
            suspects: Vec::new(),
            index: HashMap::new(),
            candidates: Candidates::new(Vec::new(), &policy),
            refreshed: None,
            policy,
        }
    }

    pub(super) fn index_of(&self, id: &str) -> Option<usize> {
        self.index.get(id).copied()
    }
}

impl State {
    /// Brings the roster up to date with the view and the clock.
    pub(super) fn refresh(&mut self, view: &View, now: Instant) {
        let roster = &mut self.roster;
        if roster.generation != Some(view.generation) {
            let nodes = view
                .nodes
                .values()
                .filter(|node| node.record.state != NodeState::Leaving);
            (roster.records, roster.suspects) = nodes.map(|node| (node.record.clone(), node.suspect)).unzip();
            let ids = roster
                .records
                .iter()
                .enumerate()
                .map(|(at, record)| (record.id.clone(), at));
            roster.index = ids.collect();
            let both = roster.records.iter().zip(&roster.suspects);
            let list = both.map(|(record, suspect)| candidate(record, *suspect)).collect();
            roster.candidates = Candidates::new(list, &roster.policy);
            roster.generation = Some(view.generation);
            roster.refreshed = None;
        }
        let fresh = |at: Instant| now.saturating_duration_since(at) < REFRESH_EVERY;
        if roster.refreshed.is_some_and(fresh) {
            return;
        }
        self.expire(now);
        for at in 0..self.roster.records.len() {
            self.write(at, now);
        }
        self.roster.refreshed = Some(now);
    }

    /// Something about this edge has changed.
    pub(super) fn touch(&mut self, id: &str, now: Instant) {
        if let Some(at) = self.roster.index_of(id) {
            self.write(at, now);
        }
    }

    fn write(&mut self, at: usize, now: Instant) {
        let roster = &mut self.roster;
        let id = &roster.records[at].id;
        let others = self
            .peers
            .values()
            .map(|peer| peer.people_to(id))
            .fold(0, u32::saturating_add);
        let (capacity, suspect) = (roster.records[at].capacity, roster.suspects[at]);
        let registered = state_of(&roster.records[at]);
        let (edge, wanted) = (self.edges.get(id), self.wanted.get(id));
        roster.candidates.update(at, |candidate| {
            match edge {
                Some(edge) => edge.write(candidate, capacity, others, suspect, now),
                None => candidate.recent = others,
            }
            candidate.state = registered;
            if let Some(wanted) = wanted {
                wanted.apply(candidate);
            }
        });
    }
}
