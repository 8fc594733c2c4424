//! The operator's numbers for placement, and what is checked about them.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Loads from this on count as full.
pub(crate) const FULL_LOAD: f64 = 1.0;

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
    /// Edges within so many ms of the best are as good as it: bursts spread over them, explorations go to them.
    pub near_ms: f64,
    /// Joins a second, per replica, to edges that are as good as each other, from which on they are spread by free capacity; a twentieth
    /// of what an edge has left is enough too.
    pub burst_joins_per_s: u32,
    /// Share of assignments that go to a second edge near the best one, so that measurements do not only confirm themselves.
    pub explore_share: f64,
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
            near_ms: 20.0,
            burst_joins_per_s: 20,
            explore_share: 0.01,
        }
    }
}

impl Policy {
    /// Values that make no sense, as (key, what it should be).
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let range = |key, value: f64, range: std::ops::RangeInclusive<f64>, unit: &str| {
            let why = format!("must be {} to {}{unit}", range.start(), range.end());
            (key, range.contains(&value), why)
        };
        let heaviest = self.region_weights_ms.values().fold(0.0_f64, |most, ms| {
            if ms.is_finite() {
                most.max(ms.abs())
            } else {
                f64::INFINITY
            }
        });
        let checks = [
            (
                "load_knee",
                (0.0..1.0).contains(&self.load_knee),
                "must be 0 to 1, below 1".to_owned(),
            ),
            range("load_penalty_ms", self.load_penalty_ms, 0.0..=10_000.0, " ms"),
            range("room_bonus_ms", self.room_bonus_ms, 0.0..=1_000.0, " ms"),
            range("unknown_rtt_ms", self.unknown_rtt_ms, 0.0..=2_000.0, " ms"),
            (
                "region_weights_ms",
                heaviest <= 10_000.0,
                "must be -10000 to 10000 ms each".to_owned(),
            ),
            range("near_ms", self.near_ms, 0.0..=200.0, " ms"),
            (
                "burst_joins_per_s",
                self.burst_joins_per_s >= 1,
                "must be 1 or more".to_owned(),
            ),
            range("explore_share", self.explore_share, 0.0..=0.2, ""),
        ];
        let wrong = checks.into_iter().filter(|(_, holds, _)| !holds);
        wrong.map(|(key, _, why)| (key, why)).collect()
    }

    /// What this load adds to an edge's score, ms.
    pub(crate) fn load_penalty(&self, load: f64) -> f64 {
        let over = ((load - self.load_knee) / (FULL_LOAD - self.load_knee)).clamp(0.0, 1.0);
        // Below the knee a little slope remains, so that equal edges share the work.
        self.load_penalty_ms * over * over + 2.0 * load.min(FULL_LOAD)
    }

    pub(crate) fn weight_of(&self, region: &str) -> f64 {
        self.region_weights_ms.get(region).copied().unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_without_sense_is_found() {
        let policy = Policy {
            load_knee: 1.5,
            explore_share: f64::NAN,
            ..Policy::default()
        };
        let keys: Vec<_> = policy.problems().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["load_knee", "explore_share"]);
        assert!(Policy::default().problems().is_empty());
    }
}
