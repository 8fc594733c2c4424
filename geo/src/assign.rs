//! The choice of an edge: score = predicted round trip + load penalty + region weight − bonus for an edge that has the room.
//!
//! Pure: the same inputs give the same answer, on any replica. Lower scores are better; everything is in milliseconds so that the
//! terms can be weighed against each other by anybody who knows what 20 ms are.

use crate::{Location, predicted_rtt_ms, regions};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Loads above this count as full.
const FULL_LOAD: f64 = 1.0;
/// A client's probe outside of this range is not believed.
const PROBE_MS: std::ops::RangeInclusive<f64> = 0.1..=2_000.0;

/// The operator's numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Where people may be placed: region names or areas (`eu`, `us`, `europe`, …). Empty: anywhere.
    pub residency: Vec<String>,
    /// Load (share of capacity) from which an edge begins to be avoided.
    pub load_knee: f64,
    /// Penalty of a full edge, ms; it rises from the knee with the square.
    pub load_penalty_ms: f64,
    /// Bonus of an edge that already has people of the room, ms.
    pub room_bonus_ms: f64,
    /// The round trip assumed when neither probe nor distance tells, ms.
    pub unknown_rtt_ms: f64,
    /// Added to a region's score, ms; negative attracts.
    pub region_weights_ms: BTreeMap<String, f64>,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            residency: Vec::new(),
            load_knee: 0.6,
            load_penalty_ms: 150.0,
            room_bonus_ms: 15.0,
            unknown_rtt_ms: 100.0,
            region_weights_ms: BTreeMap::new(),
        }
    }
}

impl Policy {
    /// Values that make no sense, as (key, what it should be).
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let checks = [
            ("load_knee", (0.0..1.0).contains(&self.load_knee), "0 to 1, below 1"),
            (
                "load_penalty_ms",
                (0.0..=10_000.0).contains(&self.load_penalty_ms),
                "0 to 10000 ms",
            ),
            (
                "room_bonus_ms",
                (0.0..=1_000.0).contains(&self.room_bonus_ms),
                "0 to 1000 ms",
            ),
            (
                "unknown_rtt_ms",
                (0.0..=2_000.0).contains(&self.unknown_rtt_ms),
                "0 to 2000 ms",
            ),
            (
                "region_weights_ms",
                self.region_weights_ms.values().all(|ms| ms.abs() <= 10_000.0),
                "-10000 to 10000 ms each",
            ),
        ];
        checks
            .into_iter()
            .filter(|(_, holds, _)| !holds)
            .map(|(key, _, why)| (key, format!("must be {why}")))
            .collect()
    }
}

/// A round trip that the client measured itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    pub region: String,
    pub rtt_ms: f64,
}

/// What is known about who wants to join.
#[derive(Debug, Clone, Default)]
pub struct Client {
    pub location: Option<Location>,
    pub probes: Vec<Probe>,
    /// Edges it has just failed to reach: used only if there is nothing else.
    pub avoid: Vec<String>,
    /// The meeting's own residency rules, on top of the policy's.
    pub residency: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CandidateState {
    #[default]
    Active,
    Cordoned,
    Draining,
}

/// An edge as the control plane knows it.
#[derive(Debug, Clone, Default)]
pub struct Candidate {
    pub id: String,
    pub region: String,
    /// Absent: the region's, if that is known.
    pub location: Option<Location>,
    pub state: CandidateState,
    /// False while it is suspected to be gone: used only if there is nothing else.
    pub healthy: bool,
    /// Participants it is meant to hold; 0: unknown, then only `cpu` counts.
    pub capacity: u32,
    pub participants: u32,
    /// People sent there since its last report.
    pub recent: u32,
    /// 0..=1 of all cores.
    pub cpu: f64,
    /// Its own word: false when it takes nobody.
    pub accepting: bool,
    /// People of this room are there.
    pub has_room: bool,
}

impl Candidate {
    fn location(&self) -> Option<Location> {
        self.location
            .or_else(|| regions::find(&self.region).map(|region| region.location))
    }

    /// The larger of the share of capacity and CPU.
    pub fn load(&self) -> f64 {
        let people = f64::from(self.participants) + f64::from(self.recent);
        let share = if self.capacity == 0 {
            0.0
        } else {
            people / f64::from(self.capacity)
        };
        share.max(if self.cpu.is_finite() { self.cpu } else { 0.0 })
    }
}

/// Where a predicted round trip came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RttSource {
    /// The client measured this region.
    Probe,
    /// Distance between the client's address and the edge.
    Distance,
    /// Nothing is known.
    Assumed,
}

/// Why an edge was not considered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exclusion {
    Residency,
    Cordoned,
    Draining,
    Full,
    NotAccepting,
    /// Suspected to be gone, while others are not.
    Unhealthy,
    /// The client could not reach it, and there are others.
    Avoided,
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Exclusion::Residency => "lies outside of where this meeting may be held",
            Exclusion::Cordoned => "is cordoned: takes nobody new",
            Exclusion::Draining => "is being drained",
            Exclusion::Full => "is full",
            Exclusion::NotAccepting => "takes nobody at the moment",
            Exclusion::Unhealthy => "has not been heard of lately",
            Exclusion::Avoided => "was not reachable for this client",
        })
    }
}

/// An edge in the order of preference, with its whole reckoning.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked {
    /// Into the candidates given.
    pub index: usize,
    pub score_ms: f64,
    pub rtt_ms: f64,
    pub source: RttSource,
    pub load: f64,
    pub load_penalty_ms: f64,
    pub room_bonus_ms: f64,
    pub weight_ms: f64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excluded {
    pub index: usize,
    pub why: Exclusion,
}

/// The answer. Empty `ranked`: there is no edge for this client now, and `excluded` says why.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Assignment {
    /// Best first.
    pub ranked: Vec<Ranked>,
    pub excluded: Vec<Excluded>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReasonKind {
    PredictedRtt,
    Load,
    Room,
    Weight,
    Score,
    Excluded,
}

impl ReasonKind {
    /// For programs.
    pub fn as_str(self) -> &'static str {
        match self {
            ReasonKind::PredictedRtt => "predicted_rtt",
            ReasonKind::Load => "load",
            ReasonKind::Room => "room",
            ReasonKind::Weight => "weight",
            ReasonKind::Score => "score",
            ReasonKind::Excluded => "excluded",
        }
    }
}

/// One step of the reckoning, as data and as a line for a person.
#[derive(Debug, Clone, PartialEq)]
pub struct Reason {
    pub edge: String,
    pub kind: ReasonKind,
    /// Milliseconds; 0 for exclusions.
    pub value: f64,
    pub text: String,
}

/// Ranks the candidates for a client.
pub fn assign(client: &Client, candidates: &[Candidate], policy: &Policy) -> Assignment {
    let mut assignment = Assignment::default();
    let mut second_choice = Vec::new();
    for (index, candidate) in candidates.iter().enumerate() {
        match exclusion(client, candidate, policy) {
            Some(why) => assignment.excluded.push(Excluded { index, why }),
            None if client.avoid.contains(&candidate.id) => second_choice.push(Excluded {
                index,
                why: Exclusion::Avoided,
            }),
            None if !candidate.healthy => second_choice.push(Excluded {
                index,
                why: Exclusion::Unhealthy,
            }),
            None => assignment.ranked.push(rank(index, client, candidate, policy)),
        }
    }
    if assignment.ranked.is_empty() {
        // A doubtful edge is better than none: doubts may be ours (a control plane just started, a registry in trouble).
        assignment.ranked = second_choice
            .iter()
            .map(|doubt| rank(doubt.index, client, &candidates[doubt.index], policy))
            .collect();
    } else {
        assignment.excluded.append(&mut second_choice);
    }
    assignment.ranked.sort_by(|a, b| {
        a.score_ms
            .total_cmp(&b.score_ms)
            .then_with(|| candidates[a.index].id.cmp(&candidates[b.index].id))
    });
    assignment
}

fn exclusion(client: &Client, candidate: &Candidate, policy: &Policy) -> Option<Exclusion> {
    let allowed =
        |rules: &[String]| rules.is_empty() || rules.iter().any(|rule| regions::lies_in(&candidate.region, rule));
    match candidate.state {
        _ if !allowed(&policy.residency) || !allowed(&client.residency) => Some(Exclusion::Residency),
        CandidateState::Cordoned => Some(Exclusion::Cordoned),
        CandidateState::Draining => Some(Exclusion::Draining),
        CandidateState::Active if candidate.load() >= FULL_LOAD => Some(Exclusion::Full),
        CandidateState::Active if !candidate.accepting => Some(Exclusion::NotAccepting),
        CandidateState::Active => None,
    }
}

fn rank(index: usize, client: &Client, candidate: &Candidate, policy: &Policy) -> Ranked {
    let (rtt_ms, source) = round_trip(client, candidate, policy);
    let load = candidate.load();
    let over = ((load - policy.load_knee) / (FULL_LOAD - policy.load_knee)).clamp(0.0, 1.0);
    // Below the knee a little slope remains, so that equal edges share the work.
    let load_penalty_ms = policy.load_penalty_ms * over * over + 2.0 * load.min(FULL_LOAD);
    let room_bonus_ms = if candidate.has_room { policy.room_bonus_ms } else { 0.0 };
    let weight_ms = policy.region_weights_ms.get(&candidate.region).copied().unwrap_or(0.0);
    let score_ms = rtt_ms + load_penalty_ms - room_bonus_ms + weight_ms;
    Ranked {
        index,
        score_ms,
        rtt_ms,
        source,
        load,
        load_penalty_ms,
        room_bonus_ms,
        weight_ms,
    }
}

fn round_trip(client: &Client, candidate: &Candidate, policy: &Policy) -> (f64, RttSource) {
    let probes = client
        .probes
        .iter()
        .filter(|probe| probe.region == candidate.region && PROBE_MS.contains(&probe.rtt_ms));
    if let Some(best) = probes.map(|probe| probe.rtt_ms).min_by(f64::total_cmp) {
        return (best, RttSource::Probe);
    }
    match client.location.zip(candidate.location()) {
        Some((here, there)) => (predicted_rtt_ms(here, there), RttSource::Distance),
        None => (policy.unknown_rtt_ms, RttSource::Assumed),
    }
}

impl Assignment {
    /// The whole reckoning: for every edge its terms, then who was left out and why. `candidates` are those given to [`assign`].
    pub fn reasons(&self, candidates: &[Candidate]) -> Vec<Reason> {
        let name = |index: usize| candidates.get(index).map(|one| one.id.clone()).unwrap_or_default();
        let mut reasons = Vec::new();
        for ranked in &self.ranked {
            ranked.reasons(&name(ranked.index), &mut reasons);
        }
        for excluded in &self.excluded {
            let edge = name(excluded.index);
            let text = format!("{edge} {}", excluded.why);
            reasons.push(Reason {
                edge,
                kind: ReasonKind::Excluded,
                value: 0.0,
                text,
            });
        }
        reasons
    }
}

impl Ranked {
    fn reasons(&self, edge: &str, out: &mut Vec<Reason>) {
        let mut push = |kind, value: f64, text: String| {
            out.push(Reason {
                edge: edge.to_owned(),
                kind,
                value,
                text,
            })
        };
        let how = match self.source {
            RttSource::Probe => "measured by the client",
            RttSource::Distance => "from the distance",
            RttSource::Assumed => "assumed: nothing is known about the way there",
        };
        push(
            ReasonKind::PredictedRtt,
            self.rtt_ms,
            format!("{edge}: round trip {:.0} ms, {how}", self.rtt_ms),
        );
        if self.load_penalty_ms >= 0.05 {
            let text = format!(
                "{edge}: +{:.1} ms for {:.0} % load",
                self.load_penalty_ms,
                self.load * 100.0
            );
            push(ReasonKind::Load, self.load_penalty_ms, text);
        }
        if self.room_bonus_ms > 0.0 {
            let text = format!(
                "{edge}: -{:.0} ms because people of this meeting are there",
                self.room_bonus_ms
            );
            push(ReasonKind::Room, -self.room_bonus_ms, text);
        }
        if self.weight_ms != 0.0 {
            push(
                ReasonKind::Weight,
                self.weight_ms,
                format!("{edge}: {:+.0} ms by the operator's weight", self.weight_ms),
            );
        }
        push(
            ReasonKind::Score,
            self.score_ms,
            format!("{edge}: {:.0} ms in all", self.score_ms),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(region: &str) -> Candidate {
        Candidate {
            id: format!("{region}-1"),
            region: region.to_owned(),
            healthy: true,
            accepting: true,
            capacity: 100,
            ..Candidate::default()
        }
    }

    fn world() -> Vec<Candidate> {
        vec![edge("fra"), edge("iad"), edge("sin")]
    }

    fn from(region: &str) -> Client {
        Client {
            location: Some(regions::find(region).unwrap().location),
            ..Client::default()
        }
    }

    fn order(client: &Client, candidates: &[Candidate], policy: &Policy) -> Vec<String> {
        assign(client, candidates, policy)
            .ranked
            .iter()
            .map(|one| candidates[one.index].region.clone())
            .collect()
    }

    #[test]
    fn everybody_lands_nearby() {
        let (world, policy) = (world(), Policy::default());
        assert_eq!(order(&from("waw"), &world, &policy), ["fra", "iad", "sin"]);
        assert_eq!(order(&from("yyz"), &world, &policy), ["iad", "fra", "sin"]);
        assert_eq!(order(&from("syd"), &world, &policy)[0], "sin");
    }

    #[test]
    fn what_the_client_measured_beats_the_map_unless_it_cannot_be_true() {
        let (world, policy) = (world(), Policy::default());
        let probe = |region: &str, rtt_ms| Probe {
            region: region.to_owned(),
            rtt_ms,
        };
        let client = Client {
            probes: vec![probe("fra", 180.0), probe("sin", 12.0)],
            ..from("waw")
        };
        assert_eq!(order(&client, &world, &policy), ["sin", "iad", "fra"]);
        let liar = Client {
            probes: vec![probe("sin", 0.0), probe("sin", f64::NAN), probe("sin", -5.0)],
            ..from("waw")
        };
        assert_eq!(order(&liar, &world, &policy)[0], "fra");
    }

    #[test]
    fn load_pushes_people_away_and_full_edges_take_nobody() {
        let (mut world, policy) = (world(), Policy::default());
        world[0].participants = 50;
        assert_eq!(order(&from("fra"), &world, &policy)[0], "fra");
        world[0].participants = 60;
        world[0].recent = 37;
        assert_eq!(
            order(&from("fra"), &world, &policy)[0],
            "iad",
            "recent assignments count"
        );
        world[0].recent = 40;
        let assignment = assign(&from("fra"), &world, &policy);
        assert_eq!(
            assignment.excluded,
            [Excluded {
                index: 0,
                why: Exclusion::Full
            }]
        );
    }

    #[test]
    fn an_edge_with_the_room_wins_a_near_tie_and_no_more() {
        let policy = Policy::default();
        let mut edges = vec![edge("fra"), edge("ams"), edge("sin")];
        edges[1].has_room = true;
        assert_eq!(order(&from("fra"), &edges, &policy)[0], "ams");
        edges[1].has_room = false;
        edges[2].has_room = true;
        assert_eq!(order(&from("fra"), &edges, &policy)[0], "fra");
    }

    #[test]
    fn residency_cordon_drain_and_refusal_are_each_named() {
        let policy = Policy {
            residency: vec!["eu".into()],
            ..Policy::default()
        };
        let mut edges = vec![edge("fra"), edge("iad"), edge("ams"), edge("cdg"), edge("dub")];
        edges[2].state = CandidateState::Cordoned;
        edges[3].state = CandidateState::Draining;
        edges[4].accepting = false;
        let assignment = assign(&from("iad"), &edges, &policy);
        assert_eq!(assignment.ranked.len(), 1);
        let why: Vec<_> = assignment.excluded.iter().map(|one| one.why).collect();
        assert_eq!(
            why,
            [
                Exclusion::Residency,
                Exclusion::Cordoned,
                Exclusion::Draining,
                Exclusion::NotAccepting
            ]
        );
        let meeting = Client {
            residency: vec!["us".into()],
            ..from("iad")
        };
        assert!(assign(&meeting, &edges, &policy).ranked.is_empty(), "both rules hold");
    }

    #[test]
    fn doubtful_edges_are_a_last_resort() {
        let (mut world, policy) = (world(), Policy::default());
        world[0].healthy = false;
        let client = Client {
            avoid: vec!["iad-1".into()],
            ..from("fra")
        };
        let assignment = assign(&client, &world, &policy);
        assert_eq!(assignment.ranked.len(), 1);
        assert_eq!(assignment.excluded.len(), 2);
        world[2].healthy = false;
        assert_eq!(
            order(&client, &world, &policy),
            ["fra", "iad", "sin"],
            "if all are doubtful, doubt says nothing"
        );
    }

    #[test]
    fn unknown_places_are_spread_by_load_and_weights_apply() {
        let (mut world, mut policy) = (world(), Policy::default());
        world[0].participants = 2;
        world[1].participants = 1;
        assert_eq!(order(&Client::default(), &world, &policy), ["sin", "iad", "fra"]);
        policy.region_weights_ms.insert("fra".into(), -10.0);
        assert_eq!(order(&Client::default(), &world, &policy)[0], "fra");
    }

    #[test]
    fn the_reckoning_adds_up_and_reads_well() {
        let (mut world, policy) = (world(), Policy::default());
        world[0].participants = 80;
        world[0].has_room = true;
        world[2].state = CandidateState::Cordoned;
        let assignment = assign(&from("fra"), &world, &policy);
        for one in &assignment.ranked {
            let sum = one.rtt_ms + one.load_penalty_ms - one.room_bonus_ms + one.weight_ms;
            assert!((sum - one.score_ms).abs() < 1e-9);
        }
        let reasons = assignment.reasons(&world);
        let text: Vec<&str> = reasons
            .iter()
            .filter(|one| one.edge == "fra-1")
            .map(|one| one.text.as_str())
            .collect();
        assert_eq!(text[0], "fra-1: round trip 8 ms, from the distance");
        assert_eq!(text[2], "fra-1: -15 ms because people of this meeting are there");
        assert!(
            reasons
                .iter()
                .any(|one| one.text == "sin-1 is cordoned: takes nobody new")
        );
    }

    #[test]
    fn a_policy_without_sense_is_found() {
        let policy = Policy {
            load_knee: 1.5,
            ..Policy::default()
        };
        assert_eq!(policy.problems()[0].0, "load_knee");
        assert!(Policy::default().problems().is_empty());
    }
}
