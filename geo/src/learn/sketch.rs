//! What a row remembers of one region: its latest sessions, a few per source.
//!
//! A set of observations of which only the newest are kept, first per source, then in all. Both cuts keep the newest, so merging is
//! taking the union and cutting again: in any order, any number of times, the result is the same. A source is an address in its own
//! prefix, and a prefix in wider rows: however often one reports, it holds [`PER_SOURCE`] of [`OBSERVATIONS`] places.

use super::belief::weighted_median;
use super::measured::Stat;

pub(super) const OBSERVATIONS: usize = 12;
pub(super) const PER_SOURCE: usize = 3;

/// One session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Observation {
    /// Seconds since 1970.
    pub at_s: u32,
    /// Who: a keyed hash of the address, or the tag of a prefix.
    pub source: u32,
    /// Round trip in tenths of a millisecond.
    pub rtt_dms: u16,
    /// What distance suggested, in tenths of a millisecond; 0: nothing.
    pub expected_dms: u16,
}

impl Observation {
    fn rtt_ms(self) -> f64 {
        f64::from(self.rtt_dms) / 10.0
    }

    fn residual_ms(self) -> Option<f64> {
        (self.expected_dms > 0).then(|| self.rtt_ms() - f64::from(self.expected_dms) / 10.0)
    }
}

/// Newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sketch(Vec<Observation>);

impl Sketch {
    pub(super) fn observations(&self) -> &[Observation] {
        &self.0
    }

    pub(super) fn newest_s(&self) -> u32 {
        self.0.first().map_or(0, |one| one.at_s)
    }

    /// Takes one in; whether anything changed.
    pub(super) fn insert(&mut self, new: Observation) -> bool {
        let Err(at) = self.0.binary_search_by(|held| new.cmp(held)) else {
            return false;
        };
        let newer_of_source = self.0[..at].iter().filter(|held| held.source == new.source).count();
        if newer_of_source >= PER_SOURCE || at >= OBSERVATIONS {
            return false;
        }
        self.0.insert(at, new);
        let mut seen = 0;
        self.0.retain(|held| {
            seen += usize::from(held.source == new.source);
            held.source != new.source || seen <= PER_SOURCE
        });
        self.0.truncate(OBSERVATIONS);
        true
    }

    /// The answer now; `None` if too few sources speak. `own`: the source that asks. Others' word alone counts for one session, however
    /// often they repeat it, as long as a single source says it.
    pub(super) fn stat(&self, now_s: u32, half_life_s: f64, sources_min: usize, own: Option<u32>) -> Option<Stat> {
        let mut sources = 0;
        for (at, one) in self.0.iter().enumerate() {
            sources += usize::from(!self.0[..at].iter().any(|earlier| earlier.source == one.source));
        }
        if self.0.is_empty() || sources < sources_min {
            return None;
        }
        let weight_of = |one: &Observation| (-f64::from(now_s.saturating_sub(one.at_s)) / half_life_s).exp2();
        let mut values: Vec<(f64, f64)> = self.0.iter().map(|one| (one.rtt_ms(), weight_of(one))).collect();
        let weight: f64 = values.iter().map(|(_, weight)| weight).sum();
        let median_ms = weighted_median(&mut values)?;
        let mut residuals: Vec<(f64, f64)> = self
            .0
            .iter()
            .filter_map(|one| Some((one.residual_ms()?, weight_of(one))))
            .collect();
        let only_another = sources == 1 && own != self.0.first().map(|one| one.source);
        Some(Stat {
            median_ms,
            residual_ms: weighted_median(&mut residuals),
            weight: if only_another { weight.min(1.0) } else { weight },
            sessions: u32::try_from(self.0.len()).unwrap_or(u32::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn session(at_s: u32, source: u32, rtt_ms: u16) -> Observation {
        Observation {
            at_s,
            source,
            rtt_dms: rtt_ms * 10,
            expected_dms: 100,
        }
    }

    fn filled(all: impl IntoIterator<Item = Observation>) -> Sketch {
        let mut sketch = Sketch::default();
        for one in all {
            sketch.insert(one);
        }
        sketch
    }

    #[test]
    fn one_source_cannot_outvote_the_others_however_often_it_speaks() {
        let honest = (0..6).map(|n| session(100 + n, n, 20));
        let loud = (0..500).map(|n| session(200 + n, 99, 900));
        let sketch = filled(honest.chain(loud));
        let stat = sketch.stat(700, 1e6, 1, None).unwrap();
        assert_eq!((stat.median_ms, stat.sessions), (20.0, 9));
        assert_eq!(stat.residual_ms, Some(10.0));
    }

    #[test]
    fn a_single_source_counts_for_itself_and_for_one_session_to_others() {
        let sketch = filled((0..20).map(|n| session(n, 7, 30)));
        assert!(sketch.stat(20, 1e6, 1, Some(7)).unwrap().weight > 2.9);
        assert_eq!(sketch.stat(20, 1e6, 1, Some(8)).unwrap().weight, 1.0);
        assert!(sketch.stat(20, 1e6, 3, Some(7)).is_none());
    }

    #[test]
    fn old_sessions_fade_behind_new_ones() {
        let sketch = filled(
            (0..4)
                .map(|n| session(n, n, 200))
                .chain([session(1_000, 9, 20), session(1_001, 10, 21)]),
        );
        let stat = sketch.stat(1_001, 100.0, 1, None).unwrap();
        assert!((20.0..22.0).contains(&stat.median_ms) && stat.weight < 2.1, "{stat:?}");
    }

    proptest! {
        #[test]
        fn merging_gives_the_same_in_any_order_and_any_number_of_times(
            sessions in proptest::collection::vec((0u32..40, 0u32..6, 1u16..400), 0..60),
            order in proptest::collection::vec(0usize..60, 0..120),
        ) {
            let all: Vec<Observation> = sessions.into_iter().map(|(at, source, rtt)| session(at, source, rtt)).collect();
            let direct = filled(all.clone());
            let shuffled = order.into_iter().filter_map(|at| all.get(at).copied());
            let mut replica = filled(shuffled);
            // What a replica sends is its sketch, not everything it saw.
            let mut merged = filled(direct.observations().iter().copied());
            for one in replica.observations().to_vec() {
                merged.insert(one);
            }
            prop_assert_eq!(&merged, &direct);
            for one in direct.observations() {
                replica.insert(*one);
            }
            prop_assert_eq!(&replica, &direct);
        }
    }
}
