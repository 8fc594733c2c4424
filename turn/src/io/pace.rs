//! When a worker looks at its sockets again. Being woken up for every packet is what relaying paced audio costs most, so
//! once packets come faster than [`Pace::gather`] apart they are left to gather for that long and share a wake-up. The
//! first packet after a quiet moment is never delayed. Decisions only: sleeping is the worker's business.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Pace {
    gather: Duration,
    /// When the worker last looked.
    looked: Instant,
    busy: bool,
}

impl Pace {
    /// `gather`: the longest a packet is left waiting for others; zero never waits.
    pub(crate) fn new(gather: Duration, now: Instant) -> Pace {
        Pace {
            gather,
            looked: now,
            busy: false,
        }
    }

    /// The worker waited from `asked` until `woken`.
    pub(crate) fn woken(&mut self, asked: Instant, woken: Instant) {
        self.busy = woken.saturating_duration_since(asked) < self.gather;
        self.looked = woken;
    }

    /// How long to leave the sockets alone before waiting for them, if at all.
    pub(crate) fn pause(&self, now: Instant) -> Option<Duration> {
        if !self.busy {
            return None;
        }
        let rest = (self.looked + self.gather).checked_duration_since(now)?;
        Some(rest.min(self.gather))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATHER: Duration = Duration::from_micros(400);

    #[test]
    fn only_packets_close_behind_each_other_are_left_to_gather() {
        let start = Instant::now();
        let at = |us| start + Duration::from_micros(us);
        let mut pace = Pace::new(GATHER, start);
        assert_eq!(pace.pause(at(0)), None);
        pace.woken(at(0), at(5_000));
        assert_eq!(pace.pause(at(5_010)), None, "the first after a quiet moment");
        pace.woken(at(5_010), at(5_200));
        assert_eq!(pace.pause(at(5_250)), Some(Duration::from_micros(350)));
        assert_eq!(pace.pause(at(5_700)), None, "the work itself took longer");
        pace.woken(at(5_600), at(5_600));
        assert_eq!(pace.pause(at(5_600)), Some(GATHER));
        pace.woken(at(6_000), at(6_400));
        assert_eq!(pace.pause(at(6_400)), None, "quiet again");
    }

    #[test]
    fn without_gathering_nobody_waits() {
        let start = Instant::now();
        let mut pace = Pace::new(Duration::ZERO, start);
        pace.woken(start, start);
        assert_eq!(pace.pause(start), None);
    }
}
