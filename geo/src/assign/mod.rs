//! The choice of an edge: score = predicted round trip + load penalty + region weight − bonus for an edge that has the room.
//!
//! Pure: the same inputs give the same answer, on any replica. Lower scores are better; everything is in milliseconds so that the
//! terms can be weighed against each other by anybody who knows what 20 ms are. [`assign`] is the plain scorer, which looks at every
//! edge and is the reference; [`Candidates`] gives the same answers from an index.

mod candidate;
mod choose;
mod index;
mod policy;
mod reasons;
mod score;

pub use candidate::{Candidate, CandidateState, Exclusion, LATELY};
pub use choose::Choice;
pub use index::{Candidates, EXACT};
pub use policy::Policy;
pub use reasons::{Reason, ReasonKind};
pub use score::{Ranked, RttSource};

use crate::learn::{Belief, BeliefSource, Measured};
use crate::{Location, regions};
use score::{Question, Terms};

/// A round trip that the client measured itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    pub region: String,
    pub rtt_ms: f64,
}

/// What is known about who wants to join.
#[derive(Debug, Clone, Default)]
pub struct Client {
    /// What the address database says.
    pub location: Option<Location>,
    pub probes: Vec<Probe>,
    /// Edges it has just failed to reach: used only if there is nothing else.
    pub avoid: Vec<String>,
    /// The meeting's own residency rules, on top of the policy's.
    pub residency: Vec<String>,
    /// What edges measured in earlier sessions from its prefix (`Learned::measured`).
    pub measured: Measured,
    /// A random number for this one assignment. It decides whether a second edge is explored, and which. `None`: always the best known
    /// edge, as GeoDNS and explanations want it.
    pub draw: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excluded {
    pub index: usize,
    pub why: Exclusion,
}

/// The answer. Empty `ranked`: there is no edge for this client now, and `excluded` says why.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Assignment {
    /// The chosen edge, then the others, best first.
    pub ranked: Vec<Ranked>,
    pub excluded: Vec<Excluded>,
    pub choice: Choice,
    pub belief: Belief,
}

/// Ranks the candidates for a client.
pub fn assign(client: &Client, candidates: &[Candidate], policy: &Policy) -> Assignment {
    let place_of = |region: &str| {
        let edge = candidates
            .iter()
            .find(|one| one.region == region && one.location.is_some());
        edge.and_then(|one| one.location)
            .or_else(|| regions::find(region).map(|known| known.location))
    };
    let question = Question::new(client, policy, place_of);
    let terms: Vec<Terms> = candidates.iter().map(|one| Terms::new(one, policy)).collect();
    rank_all(&question, candidates, &terms, |index| candidates[index].has_room)
}

/// The plain scorer: every edge.
fn rank_all(
    question: &Question<'_>,
    candidates: &[Candidate],
    terms: &[Terms],
    has_room: impl Fn(usize) -> bool,
) -> Assignment {
    let mut assignment = Assignment {
        belief: question.belief,
        ..Assignment::default()
    };
    let rank = |index: usize| question.rank(index, &candidates[index], &terms[index], has_room(index));
    let mut second_choice = Vec::new();
    for (index, candidate) in candidates.iter().enumerate() {
        if let Some(why) = question.exclusion(candidate, &terms[index]) {
            assignment.excluded.push(Excluded { index, why });
        } else if let Some(why) = question.doubt(candidate) {
            second_choice.push(Excluded { index, why });
        } else {
            assignment.ranked.push(rank(index));
        }
    }
    if assignment.ranked.is_empty() {
        // A doubtful edge is better than none: doubts may be ours (a control plane just started, a registry in trouble).
        assignment.ranked = second_choice.iter().map(|doubt| rank(doubt.index)).collect();
    } else {
        assignment.excluded.append(&mut second_choice);
    }
    choose::sort(&mut assignment.ranked, |index| &candidates[index]);
    assignment.choice = choose::choose(question, &mut assignment.ranked, |index| &candidates[index]);
    assignment
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
}
