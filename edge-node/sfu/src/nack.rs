//! Upstream loss detection: which sequence numbers of an encoding are missing, and when to NACK them. Bounded in number, in
//! age and in retries.

use crate::sequence::SourceSequence;
use std::time::{Duration, Instant};

/// Most holes followed at once; a larger loss is a keyframe's business.
const MISSING_MAX: usize = 256;
/// Reordering on the way is given this long before the first NACK.
const REORDER_DELAY: Duration = Duration::from_millis(5);
const RETRIES_MAX: u8 = 10;
const AGE_MAX: Duration = Duration::from_millis(1_000);
/// Bounds of the time between two NACKs of one packet, around the round-trip time.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(400);

#[derive(Clone, Copy, Debug)]
struct Missing {
    sequence: u64,
    since: Instant,
    next: Instant,
    tries: u8,
}

/// What a loss means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gap {
    /// Nothing, or holes that will be NACKed.
    Followed,
    /// Too much is lost to repair: ask for a keyframe.
    Hopeless,
}

/// Missing packets of one encoding, ascending.
#[derive(Debug)]
pub(crate) struct NackTracker {
    missing: Vec<Missing>,
    highest: Option<u64>,
    retry: Duration,
}

impl NackTracker {
    pub(crate) fn new() -> Self {
        NackTracker {
            missing: Vec::new(),
            highest: None,
            retry: Duration::from_millis(100),
        }
    }

    pub(crate) fn set_rtt(&mut self, rtt: Duration) {
        self.retry = (rtt + rtt / 4).clamp(RETRY_MIN, RETRY_MAX);
    }

    /// Forget everything: another SSRC took over.
    pub(crate) fn reset(&mut self) {
        self.missing.clear();
        self.highest = None;
    }

    /// A packet arrived, by itself or by RTX.
    pub(crate) fn arrived(&mut self, now: Instant, sequence: SourceSequence) -> Gap {
        let sequence = sequence.0;
        let Some(highest) = self.highest else {
            self.highest = Some(sequence);
            return Gap::Followed;
        };
        if sequence <= highest {
            if let Ok(index) = self.missing.binary_search_by_key(&sequence, |m| m.sequence) {
                self.missing.remove(index);
            }
            return Gap::Followed;
        }
        self.highest = Some(sequence);
        let lost = (sequence - highest - 1) as usize;
        if lost > MISSING_MAX {
            self.missing.clear();
            return Gap::Hopeless;
        }
        let overflow = (self.missing.len() + lost).saturating_sub(MISSING_MAX);
        self.missing.drain(..overflow);
        let next = now + REORDER_DELAY;
        self.missing.extend((highest + 1..sequence).map(|sequence| Missing {
            sequence,
            since: now,
            next,
            tries: 0,
        }));
        if overflow > 0 { Gap::Hopeless } else { Gap::Followed }
    }

    /// When `take_due` has something.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.missing.iter().map(|m| m.next).min()
    }

    /// Puts what should be NACKed now into `due` (cleared first), and gives up what is too old.
    pub(crate) fn take_due(&mut self, now: Instant, due: &mut Vec<u16>) {
        due.clear();
        self.missing
            .retain(|m| m.tries < RETRIES_MAX && now.saturating_duration_since(m.since) < AGE_MAX);
        for missing in self.missing.iter_mut().filter(|m| m.next <= now) {
            missing.tries += 1;
            missing.next = now + self.retry;
            due.push(missing.sequence as u16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_hole_is_nacked_after_the_reorder_delay_and_again_every_rtt_until_filled() {
        let (start, mut due) = (Instant::now(), Vec::new());
        let mut nack = NackTracker::new();
        nack.set_rtt(ms(40));
        nack.arrived(start, SourceSequence(10));
        nack.arrived(start, SourceSequence(13));
        nack.take_due(start + ms(4), &mut due);
        assert!(due.is_empty());
        assert_eq!(nack.next_due(), Some(start + ms(5)));
        nack.take_due(start + ms(5), &mut due);
        assert_eq!(due, [11, 12]);
        nack.arrived(start + ms(30), SourceSequence(11));
        nack.take_due(start + ms(54), &mut due);
        assert!(due.is_empty());
        nack.take_due(start + ms(55), &mut due);
        assert_eq!(due, [12]);
        nack.arrived(start + ms(60), SourceSequence(12));
        assert_eq!(nack.next_due(), None);
    }

    #[test]
    fn retries_and_holes_are_bounded() {
        let (start, mut due) = (Instant::now(), Vec::new());
        let mut nack = NackTracker::new();
        nack.set_rtt(ms(1));
        nack.arrived(start, SourceSequence(10));
        nack.arrived(start, SourceSequence(12));
        let mut sent = 0;
        for at in 0..5_000 {
            nack.take_due(start + ms(at), &mut due);
            sent += due.len();
        }
        assert_eq!(sent, usize::from(RETRIES_MAX));
        assert_eq!(nack.next_due(), None);
        assert_eq!(nack.arrived(start, SourceSequence(12 + 2_000)), Gap::Hopeless);
        for step in 1..400 {
            nack.arrived(start, SourceSequence(2_012 + 2 * step));
        }
        assert_eq!(nack.missing.len(), MISSING_MAX);
    }
}
