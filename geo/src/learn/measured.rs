//! What earlier sessions measured, as one assignment sees it.

use crate::Location;
use std::sync::Arc;

/// Weight of what distance predicts beside one measured session.
const PRIOR_SESSIONS: f64 = 0.5;
/// Sessions that the wider prefix and the autonomous system count for at most: they are other people's.
const WIDE_MAX: f64 = 2.0;
const ASN_MAX: f64 = 1.0;

/// A sketch's answer at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stat {
    /// Weighted median of the sessions' round trips, ms.
    pub median_ms: f64,
    /// Weighted median of what distance did not explain, ms; absent if no session's place was known.
    pub residual_ms: Option<f64>,
    /// Sessions, each counted by its age: 1 now, 0.5 a half-life ago.
    pub weight: f64,
    /// Sessions remembered.
    pub sessions: u32,
}

/// What was measured towards one region.
#[derive(Debug, Clone, PartialEq)]
pub struct RegionMeasured {
    pub region: Arc<str>,
    /// By the client's own /24 or /48.
    pub prefix: Option<Stat>,
    /// By its /16 or /32.
    pub wide: Option<Stat>,
    /// By its autonomous system.
    pub asn: Option<Stat>,
}

/// What is known about the ways of one client. Empty: nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured {
    pub regions: Vec<RegionMeasured>,
}

/// One region's measurements, weighed together for one client.
#[derive(Debug, Clone)]
pub(crate) struct Evidence {
    pub(crate) region: Arc<str>,
    /// Where the region is.
    pub(crate) at: Option<Location>,
    pub(crate) rtt_ms: f64,
    /// Sessions' worth.
    pub(crate) weight: f64,
    pub(crate) sessions: u32,
}

impl Evidence {
    /// `expected_ms`: what the database's place and distance suggest.
    pub(crate) fn new(measured: &RegionMeasured, at: Option<Location>, expected_ms: Option<f64>) -> Option<Self> {
        // Other people's round trips are those of other places: what carries over is by how much distance was wrong.
        let others = |stat: &Stat| match expected_ms.zip(stat.residual_ms) {
            Some((expected, residual)) => (expected + residual).max(1.0),
            None => stat.median_ms,
        };
        let terms = [
            measured.asn.map(|stat| (others(&stat), stat.weight.min(ASN_MAX))),
            measured.wide.map(|stat| (others(&stat), stat.weight.min(WIDE_MAX))),
            measured.prefix.map(|stat| (stat.median_ms, stat.weight)),
        ];
        let (sum, weight) = terms
            .into_iter()
            .flatten()
            .fold((0.0, 0.0), |(sum, all), (value, weight)| {
                (sum + value * weight, all + weight)
            });
        let nearest = measured.prefix.or(measured.wide).or(measured.asn)?;
        (weight > 0.0).then(|| Evidence {
            region: measured.region.clone(),
            at,
            rtt_ms: sum / weight,
            weight,
            sessions: nearest.sessions,
        })
    }

    /// The round trip to expect, given what distance alone predicts.
    pub(crate) fn over(&self, predicted_ms: f64) -> f64 {
        (predicted_ms * PRIOR_SESSIONS + self.rtt_ms * self.weight) / (PRIOR_SESSIONS + self.weight)
    }
}
