//! The reckoning in words: what every term of a score came from.

use super::{Assignment, BeliefSource, Candidate, Choice, Ranked, RttSource};
use crate::regions;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReasonKind {
    PredictedRtt,
    Load,
    Room,
    Weight,
    Score,
    Excluded,
    /// Where the client is taken to be, when that is not what the address database says.
    Place,
    /// Why the first edge is not the one with the lowest score.
    Choice,
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
            ReasonKind::Place => "place",
            ReasonKind::Choice => "choice",
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

impl Assignment {
    /// The whole reckoning: for every edge its terms, then who was left out and why, then what holds for all of them. `candidates`
    /// are those given to [`super::assign`].
    pub fn reasons(&self, candidates: &[Candidate]) -> Vec<Reason> {
        let name = |index: usize| candidates.get(index).map(|one| one.id.clone()).unwrap_or_default();
        let mut reasons = Vec::new();
        for (rank, ranked) in self.ranked.iter().enumerate() {
            ranked.reasons(&name(ranked.index), &mut reasons);
            if rank == 0 {
                reasons.extend(self.choice_reason(&name(ranked.index)));
                reasons.extend(self.place_reason(&name(ranked.index)));
            }
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

    fn choice_reason(&self, edge: &str) -> Option<Reason> {
        let why = match self.choice {
            Choice::Best => return None,
            Choice::Explored => "tried for once, to measure the way there: it is about as near as the best",
            Choice::Spread => "chosen by free capacity: many are joining at once, and several edges are about as near",
            Choice::Known => "kept although an edge never tried might be a little nearer",
        };
        Some(Reason {
            edge: edge.to_owned(),
            kind: ReasonKind::Choice,
            value: 0.0,
            text: format!("{edge}: {why}"),
        })
    }

    fn place_reason(&self, edge: &str) -> Option<Reason> {
        let BeliefSource::Inferred { likelihood } = self.belief.source else {
            return None;
        };
        let place = self
            .belief
            .location
            .map_or_else(|| "an unknown place".to_owned(), regions::name_near);
        let percent = likelihood * 100.0;
        Some(Reason {
            edge: edge.to_owned(),
            kind: ReasonKind::Place,
            value: likelihood,
            text: format!(
                "earlier sessions contradict the address database: taken to be near {place} ({percent:.0} % likely)"
            ),
        })
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
        let text = format!("{edge}: round trip {:.0} ms, {}", self.rtt_ms, self.source);
        push(ReasonKind::PredictedRtt, self.rtt_ms, text);
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

impl std::fmt::Display for RttSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RttSource::Probe => f.write_str("measured by the client"),
            RttSource::Learned { sessions: 1 } => f.write_str("measured in an earlier session"),
            RttSource::Learned { sessions } => write!(f, "measured in {sessions} earlier sessions"),
            RttSource::Distance => f.write_str("from the distance"),
            RttSource::Assumed => f.write_str("assumed: nothing is known about the way there"),
        }
    }
}
