//! One question (a client under a policy) prepared, and the score of one edge for it. The plain scorer and the pruned one both call
//! this, so they cannot differ in an edge's score.

use super::policy::Policy;
use super::{Candidate, Client, Exclusion};
use crate::learn::{Belief, Evidence, believe};
use crate::place::{Unit, rtt_between};
use crate::{Location, regions};

/// A client's probe outside of this range is not believed.
const PROBE_MS: std::ops::RangeInclusive<f64> = 0.1..=2_000.0;

/// Where a predicted round trip came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RttSource {
    /// The client measured this region.
    Probe,
    /// Edges measured it in earlier sessions of the client's prefix, or of its wider prefix or autonomous system.
    Learned { sessions: u32 },
    /// Distance between where the client is taken to be and the edge.
    Distance,
    /// Nothing is known.
    Assumed,
}

/// An edge in the order of preference, with its whole reckoning.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked {
    /// Into the candidates given.
    pub index: usize,
    /// Sum of the terms below.
    pub score_ms: f64,
    pub rtt_ms: f64,
    pub source: RttSource,
    /// 0..: share of capacity, or CPU if that is higher.
    pub load: f64,
    pub load_penalty_ms: f64,
    /// Subtracted.
    pub room_bonus_ms: f64,
    pub weight_ms: f64,
}

impl Ranked {
    /// The score as it would be without anybody of the room there.
    pub(crate) fn without_bonus(&self) -> f64 {
        self.rtt_ms + self.load_penalty_ms + self.weight_ms
    }
}

/// What does not change about an edge from one client to the next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) at: Option<Unit>,
    pub(crate) load: f64,
    pub(crate) load_penalty_ms: f64,
    pub(crate) weight_ms: f64,
    /// Left out whoever asks: the policy's residency, its state, its load.
    pub(crate) closed: Option<Exclusion>,
}

impl Terms {
    pub(crate) fn new(candidate: &Candidate, policy: &Policy) -> Self {
        let load = candidate.load();
        let closed = if regions::lies_within(&candidate.region, &policy.residency) {
            candidate.closed(load)
        } else {
            Some(Exclusion::Residency)
        };
        Terms {
            at: candidate.location().map(Unit::of),
            load,
            load_penalty_ms: policy.load_penalty(load),
            weight_ms: policy.weight_of(&candidate.region),
            closed,
        }
    }

    /// After a change of state or load only.
    pub(crate) fn refresh(&mut self, candidate: &Candidate, policy: &Policy) {
        self.load = candidate.load();
        self.load_penalty_ms = policy.load_penalty(self.load);
        if self.closed != Some(Exclusion::Residency) {
            self.closed = candidate.closed(self.load);
        }
    }
}

/// A client's question, prepared.
pub(crate) struct Question<'a> {
    pub(crate) client: &'a Client,
    pub(crate) policy: &'a Policy,
    pub(crate) belief: Belief,
    pub(crate) evidence: Vec<Evidence>,
    /// The believed place.
    pub(crate) here: Option<Unit>,
}

impl<'a> Question<'a> {
    /// `place_of` tells where the edges of a region are.
    pub(crate) fn new(client: &'a Client, policy: &'a Policy, place_of: impl Fn(&str) -> Option<Location>) -> Self {
        let database = client.location.map(Unit::of);
        let evidence: Vec<Evidence> = client
            .measured
            .regions
            .iter()
            .filter_map(|measured| {
                let at = place_of(&measured.region);
                let expected = database.zip(at).map(|(here, there)| rtt_between(here, Unit::of(there)));
                Evidence::new(measured, at, expected)
            })
            .collect();
        let belief = believe(client.location, &evidence, client.draw);
        Question {
            client,
            policy,
            belief,
            evidence,
            here: belief.location.map(Unit::of),
        }
    }

    /// What rules an edge out for this client, of the reasons that are no mere doubts.
    pub(crate) fn exclusion(&self, candidate: &Candidate, terms: &Terms) -> Option<Exclusion> {
        terms.closed.or_else(|| {
            (!regions::lies_within(&candidate.region, &self.client.residency)).then_some(Exclusion::Residency)
        })
    }

    /// A reason to use an edge only if there is nothing else.
    pub(crate) fn doubt(&self, candidate: &Candidate) -> Option<Exclusion> {
        if self.client.avoid.contains(&candidate.id) {
            Some(Exclusion::Avoided)
        } else {
            (!candidate.healthy).then_some(Exclusion::Unhealthy)
        }
    }

    pub(crate) fn rank(&self, index: usize, candidate: &Candidate, terms: &Terms, has_room: bool) -> Ranked {
        let (rtt_ms, source) = self.round_trip(candidate, terms);
        let room_bonus_ms = if has_room { self.policy.room_bonus_ms } else { 0.0 };
        Ranked {
            index,
            score_ms: rtt_ms + terms.load_penalty_ms - room_bonus_ms + terms.weight_ms,
            rtt_ms,
            source,
            load: terms.load,
            load_penalty_ms: terms.load_penalty_ms,
            room_bonus_ms,
            weight_ms: terms.weight_ms,
        }
    }

    fn round_trip(&self, candidate: &Candidate, terms: &Terms) -> (f64, RttSource) {
        if let Some(best) = self.probed(&candidate.region) {
            return (best, RttSource::Probe);
        }
        let (predicted_ms, source) = match self.here.zip(terms.at) {
            Some((here, there)) => (
                (rtt_between(here, there) + self.belief.access_ms).max(0.5),
                RttSource::Distance,
            ),
            None => (self.policy.unknown_rtt_ms, RttSource::Assumed),
        };
        match self.evidence.iter().find(|one| *one.region == *candidate.region) {
            Some(evidence) => (
                evidence.over(predicted_ms),
                RttSource::Learned {
                    sessions: evidence.sessions,
                },
            ),
            None => (predicted_ms, source),
        }
    }

    fn probed(&self, region: &str) -> Option<f64> {
        let probes = self
            .client
            .probes
            .iter()
            .filter(|probe| probe.region == region && PROBE_MS.contains(&probe.rtt_ms));
        probes.map(|probe| probe.rtt_ms).min_by(f64::total_cmp)
    }

    /// Regions to which distance does not decide the round trip.
    pub(crate) fn measured_regions(&self) -> impl Iterator<Item = &str> {
        let learned = self.evidence.iter().map(|one| &*one.region);
        learned.chain(self.client.probes.iter().map(|one| one.region.as_str()))
    }
}
