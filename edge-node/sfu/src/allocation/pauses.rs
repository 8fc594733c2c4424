//! When a stream that has no room is paused, and when it goes on again. An estimate dips for moments: each time a queue has to drain, and after
//! each keyframe on a narrow link. A picture that is taken away for that comes back with a keyframe, which is the next dip.

use super::{Grant, Stream, allocate};
use std::time::{Duration, Instant};

/// Room has to lack for so long before what is shown is paused: a queue is drained in less, and until then packets wait in the pacer.
const LACKS_FOR: Duration = Duration::from_millis(1_500);
/// Unless the smallest of everything takes so much more than there is: then audio would suffer.
const HOPELESS: f64 = 2.5;
/// A paused stream rests for so long at least, twice as long each time it was paused again within [`SOON`]. No longer than a person waits before
/// taking a picture for frozen for good: an estimate that dips again and again (a busy machine reads its clock late) once kept one away for 24 s.
const REST_MIN: Duration = Duration::from_secs(3);
const REST_MAX: Duration = Duration::from_secs(8);
const SOON: Duration = Duration::from_secs(10);
/// With so much more room than is taken nobody rests: the link is another one.
const PLENTY: f64 = 1.5;

/// The pauses on one subscriber's link.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pauses {
    lacks_since: Option<Instant>,
    paused: Option<Instant>,
    resumed: Option<Instant>,
    rest: Duration,
}

impl Pauses {
    /// [`allocate`], with what is paused now and what goes on now decided by how long room has lacked. Returns whether streams are kept on
    /// that do not fit: their packets have to wait at the sender, not in the link's queue.
    pub fn allocate(&mut self, now: Instant, budget_bps: u64, streams: &mut [Stream]) -> bool {
        let before: Vec<Grant> = streams.iter().map(|stream| stream.granted).collect();
        allocate(budget_bps, streams);
        let paused = |grant: &Grant| *grant == Grant::Paused;
        let falls = |(before, stream): (&Grant, &Stream)| !paused(before) && paused(&stream.granted);
        if before.iter().zip(&*streams).any(falls) {
            let since = *self.lacks_since.get_or_insert(now);
            let shown = streams.iter().zip(&before).filter(|(_, before)| !paused(before));
            let least: f64 = shown.map(|(stream, _)| stream.current_cost(stream.lowest())).sum();
            if now.saturating_duration_since(since) < LACKS_FOR && least < HOPELESS * budget_bps as f64 {
                for (stream, before) in streams.iter_mut().zip(&before) {
                    stream.granted = if paused(before) {
                        Grant::Paused
                    } else {
                        Grant::UpTo(stream.lowest())
                    };
                }
                return true;
            }
            self.pause(now);
        } else {
            self.lacks_since = None;
        }
        let rests = self.paused.is_some_and(|at| now < at + self.rest);
        let taken = super::granted_bps(streams) as f64;
        let resumes = |(before, stream): (&Grant, &Stream)| paused(before) && !paused(&stream.granted);
        if before.iter().zip(&*streams).any(resumes) {
            if rests && taken * PLENTY > budget_bps as f64 && !before.iter().zip(&*streams).any(falls) {
                for (stream, before) in streams.iter_mut().zip(&before) {
                    if paused(before) {
                        stream.granted = Grant::Paused;
                    }
                }
            } else {
                self.resumed = Some(now);
            }
        }
        false
    }

    fn pause(&mut self, now: Instant) {
        self.lacks_since = None;
        let soon = self.resumed.is_some_and(|at| now < at + SOON);
        self.rest = if soon {
            (self.rest * 2).clamp(REST_MIN, REST_MAX)
        } else {
            REST_MIN
        };
        self.paused = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{Layer, LayerSet};

    const LOW_BPS: u32 = 150_000;

    fn two(granted: Grant) -> [Stream; 2] {
        [Stream {
            priority: 0,
            max_layer: Layer::LOW,
            live: LayerSet::up_to(Layer::HIGH),
            rates_bps: [LOW_BPS; 3],
            current_bps: [LOW_BPS; 3],
            granted,
        }; 2]
    }

    fn shown(streams: &[Stream]) -> usize {
        streams.iter().filter(|stream| stream.granted != Grant::Paused).count()
    }

    #[test]
    fn a_dip_of_a_second_pauses_nobody_and_a_lack_that_stays_does() {
        let (start, mut pauses, mut streams) = (Instant::now(), Pauses::default(), two(Grant::All));
        for ms in (0..1_400).step_by(100) {
            assert!(pauses.allocate(start + Duration::from_millis(ms), 250_000, &mut streams));
            assert_eq!(shown(&streams), 2, "after {ms} ms");
        }
        assert!(!pauses.allocate(start + Duration::from_millis(1_400), 330_000, &mut streams));
        assert!(pauses.allocate(start + Duration::from_millis(1_600), 250_000, &mut streams));
        assert_eq!(shown(&streams), 2, "it fitted in between");
        assert!(!pauses.allocate(start + Duration::from_millis(3_200), 250_000, &mut streams));
        assert_eq!(shown(&streams), 1);
    }

    #[test]
    fn a_link_that_carries_next_to_nothing_is_left_to_audio_at_once() {
        let mut streams = two(Grant::All);
        assert!(!Pauses::default().allocate(Instant::now(), 100_000, &mut streams));
        assert_eq!(shown(&streams), 0);
    }

    #[test]
    fn who_was_paused_rests_longer_each_time_unless_there_is_plenty() {
        let (start, mut pauses, mut streams) = (Instant::now(), Pauses::default(), two(Grant::All));
        let mut flips = Vec::new();
        // Room for both only as long as one of them is paused: as a link does whose every keyframe is a dip.
        for ms in (0..120_000).step_by(100) {
            let before = shown(&streams);
            pauses.allocate(
                start + Duration::from_millis(ms),
                if before == 2 { 250_000 } else { 400_000 },
                &mut streams,
            );
            if shown(&streams) < before {
                flips.push(ms);
            }
        }
        let apart: Vec<u64> = flips.windows(2).map(|at| (at[1] - at[0]) / 1_000).collect();
        assert!(
            apart.is_sorted() && apart[0] >= 4 && (8..=10).contains(apart.last().unwrap()),
            "{apart:?} s"
        );
        pauses.allocate(start + Duration::from_millis(119_900), 2_000_000, &mut streams);
        assert_eq!(shown(&streams), 2);
    }

    #[test]
    fn the_one_that_was_pinned_takes_the_others_place_without_a_rest() {
        let (start, mut pauses) = (Instant::now(), Pauses::default());
        let mut streams = two(Grant::All);
        for ms in [0, 1_600] {
            pauses.allocate(start + Duration::from_millis(ms), 250_000, &mut streams);
        }
        assert_eq!(
            [streams[0].granted, streams[1].granted],
            [Grant::UpTo(Layer::LOW), Grant::Paused]
        );
        streams[1].priority = 200;
        for ms in [1_700, 3_300] {
            pauses.allocate(start + Duration::from_millis(ms), 250_000, &mut streams);
        }
        assert_eq!(
            [streams[0].granted, streams[1].granted],
            [Grant::Paused, Grant::UpTo(Layer::LOW)]
        );
    }
}
