//! Where a client is believed to be, given what the address database says and what its prefix measured.
//!
//! Databases are wrong about a few addresses in a hundred. A measurement that fits (the place they say, plus some milliseconds of access
//! network) keeps their word. One that cannot be explained so opens the question: every known city is then a hypothesis, weighed by how
//! well it explains all measured round trips, and by how rare wrong entries are. An assignment follows one hypothesis drawn by weight
//! (Thompson sampling): edges that were never tried get their turn exactly as long as they may be the right ones, and each answer
//! narrows the rest, as with triangulation. That is the exploration beyond the policy's one per cent; it ends by itself.

use super::measured::Evidence;
use crate::place::{Unit, rtt_between};
use crate::{Location, regions};
use std::sync::LazyLock;

/// How often an address database is wrong by a continent or so.
const WRONG_ENTRY: f64 = 0.05;
/// A measurement contradicts the database when it is longer than expected by this and by [`SLOW_FACTOR`]: access networks that slow are
/// rare enough to look whether the entry is wrong.
const SLOW_MS: f64 = 40.0;
const SLOW_FACTOR: f64 = 2.0;
/// Or shorter by this and by [`FAST_FACTOR`]: no access network explains that.
const FAST_MS: f64 = 20.0;
const FAST_FACTOR: f64 = 0.6;
/// Evidence weaker than this contradicts nothing.
const EVIDENCE_MIN: f64 = 0.4;
/// The distance model's own access network may be this much too slow.
const ACCESS_MIN_MS: f64 = -6.0;
const ACCESS_MAX_MS: f64 = 1_000.0;

/// Where a client is taken to be for one assignment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Belief {
    pub location: Option<Location>,
    pub source: BeliefSource,
    /// What its access network adds to what distance suggests, ms, as far as it was measured.
    pub access_ms: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BeliefSource {
    /// No database knows, and nothing was measured.
    Unknown,
    /// The address database's word.
    Database,
    /// Inferred from earlier sessions, which contradict the database or stand in for it.
    Inferred {
        /// 0..=1, of this place among all.
        likelihood: f64,
    },
}

impl Default for Belief {
    fn default() -> Self {
        Belief {
            location: None,
            source: BeliefSource::Unknown,
            access_ms: 0.0,
        }
    }
}

/// Takes the database's word and the evidence together. `draw`, uniform over `u64`, chooses among hypotheses; without it the likeliest is
/// taken.
pub(crate) fn believe(database: Option<Location>, evidence: &[Evidence], draw: Option<u64>) -> Belief {
    let placed: Vec<Placed> = evidence.iter().filter_map(Placed::new).collect();
    let here = database.map(Unit::of);
    match (database, here) {
        (location, _) if placed.is_empty() => Belief {
            location,
            source: location.map_or(BeliefSource::Unknown, |_| BeliefSource::Database),
            access_ms: 0.0,
        },
        (Some(location), Some(here)) if !contradicted(here, &placed) => Belief {
            location: Some(location),
            source: BeliefSource::Database,
            access_ms: access_at(here, &placed),
        },
        _ => infer(database, &placed, draw),
    }
}

/// Evidence whose region has a place.
struct Placed {
    at: Unit,
    location: Location,
    rtt_ms: f64,
    weight: f64,
}

impl Placed {
    fn new(evidence: &Evidence) -> Option<Self> {
        let location = evidence.at?;
        Some(Placed {
            at: Unit::of(location),
            location,
            rtt_ms: evidence.rtt_ms,
            weight: evidence.weight,
        })
    }
}

fn contradicted(here: Unit, placed: &[Placed]) -> bool {
    placed.iter().filter(|one| one.weight >= EVIDENCE_MIN).any(|one| {
        let expected = rtt_between(here, one.at);
        let slow = one.rtt_ms > expected + SLOW_MS && one.rtt_ms > expected * SLOW_FACTOR;
        let fast = one.rtt_ms < expected - FAST_MS && one.rtt_ms < expected * FAST_FACTOR;
        slow || fast
    })
}

/// The weighted median of what distance does not explain, shrunk while little was measured.
fn access_at(here: Unit, placed: &[Placed]) -> f64 {
    let mut residuals: Vec<(f64, f64)> = placed
        .iter()
        .map(|one| (one.rtt_ms - rtt_between(here, one.at), one.weight))
        .collect();
    let weight: f64 = residuals.iter().map(|(_, weight)| weight).sum();
    let median = weighted_median(&mut residuals).unwrap_or(0.0);
    (median * weight / (weight + 0.5)).clamp(ACCESS_MIN_MS, ACCESS_MAX_MS)
}

/// The value at which half of the weight lies below; `None` without weight.
pub(crate) fn weighted_median(values: &mut [(f64, f64)]) -> Option<f64> {
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half = values.iter().map(|(_, weight)| weight).sum::<f64>() / 2.0;
    let mut below = 0.0;
    for (value, weight) in values.iter() {
        below += weight;
        if below >= half && below > 0.0 {
            return Some(*value);
        }
    }
    None
}

struct Hypothesis {
    location: Location,
    access_ms: f64,
    log_weight: f64,
}

fn infer(database: Option<Location>, placed: &[Placed], draw: Option<u64>) -> Belief {
    static CITIES: LazyLock<Vec<(Location, Unit)>> = LazyLock::new(|| {
        regions::REGIONS
            .iter()
            .map(|one| (one.location, Unit::of(one.location)))
            .collect()
    });
    let elsewhere = (WRONG_ENTRY / CITIES.len() as f64).ln();
    let mut hypotheses: Vec<Hypothesis> = CITIES
        .iter()
        .copied()
        // Sites that are no known city: their users are near them.
        .chain(placed.iter().map(|one| (one.location, one.at)))
        .map(|(location, unit)| weigh(location, unit, placed, elsewhere))
        .collect();
    if let Some(location) = database {
        hypotheses.push(weigh(location, Unit::of(location), placed, (1.0 - WRONG_ENTRY).ln()));
    }
    let most = hypotheses
        .iter()
        .map(|one| one.log_weight)
        .fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = hypotheses.iter().map(|one| (one.log_weight - most).exp()).collect();
    let total: f64 = weights.iter().sum();
    let chosen = match draw {
        Some(draw) => pick(&weights, total * unit_interval(draw)),
        None => hypotheses.iter().position(|one| one.log_weight >= most).unwrap_or(0),
    };
    let hypothesis = &hypotheses[chosen];
    Belief {
        location: Some(hypothesis.location),
        source: BeliefSource::Inferred {
            likelihood: weights[chosen] / total,
        },
        access_ms: hypothesis.access_ms,
    }
}

fn pick(weights: &[f64], mut at: f64) -> usize {
    for (index, weight) in weights.iter().enumerate() {
        at -= weight;
        if at < 0.0 {
            return index;
        }
    }
    weights.len() - 1
}

fn weigh(location: Location, here: Unit, placed: &[Placed], log_prior: f64) -> Hypothesis {
    let access_ms = access_at(here, placed).max(0.0);
    // Most access networks add a few milliseconds; some (satellites, crowded mobile cells) a great many.
    let log_access = (0.9 / 15.0 * (-access_ms / 15.0).exp() + 0.1 / 120.0 * (-access_ms / 120.0).exp()).ln();
    let fit: f64 = placed
        .iter()
        .map(|one| {
            let expected = rtt_between(here, one.at);
            let off = (one.rtt_ms - expected - access_ms) / (6.0 + 0.15 * expected);
            // Nothing is faster than light in fibre on the shortest way.
            let impossible_ms = (crate::place::rtt_min_between(here, one.at) - one.rtt_ms).max(0.0);
            one.weight.min(1.0) * (-0.5 * off * off - impossible_ms)
        })
        .sum();
    Hypothesis {
        location,
        access_ms,
        log_weight: log_prior + log_access + fit,
    }
}

/// Uniform over 0..1 from uniform over `u64`.
pub(crate) fn unit_interval(draw: u64) -> f64 {
    (draw >> 11) as f64 / (1u64 << 53) as f64
}
