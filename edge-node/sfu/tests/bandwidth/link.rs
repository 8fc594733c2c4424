//! A bottleneck in virtual time: a rate that changes, a queue, a way, and random loss.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;

pub struct Link {
    /// From when on (since the start) the link carries how much, in order.
    rates: Vec<(Duration, u64)>,
    /// One way, without the queue.
    pub delay: Duration,
    /// Longest queue, in time at the present rate; what would wait longer is dropped.
    pub queue_max: Duration,
    pub loss: f64,
    busy_until: Duration,
    rng: SmallRng,
    pub dropped: u64,
}

/// IP and UDP.
const HEADERS: usize = 28;

impl Link {
    pub fn new(seed: u64, rates: &[(Duration, u64)]) -> Link {
        Link {
            rates: rates.to_vec(),
            delay: Duration::from_millis(25),
            queue_max: Duration::from_secs(2),
            loss: 0.0,
            busy_until: Duration::ZERO,
            rng: SmallRng::seed_from_u64(seed),
            dropped: 0,
        }
    }

    pub fn rate(&self, at: Duration) -> u64 {
        let since = self.rates.iter().rev().find(|(from, _)| *from <= at);
        since.expect("a rate from the start").1
    }

    pub fn queue(&self, at: Duration) -> Duration {
        self.busy_until.saturating_sub(at)
    }

    /// When a packet sent now arrives at the other end.
    pub fn send(&mut self, at: Duration, bytes: usize) -> Option<Duration> {
        if self.queue(at) > self.queue_max {
            self.dropped += 1;
            return None;
        }
        let takes = Duration::from_secs_f64(((bytes + HEADERS) * 8) as f64 / self.rate(at) as f64);
        self.busy_until = self.busy_until.max(at) + takes;
        (!self.rng.random_bool(self.loss)).then(|| self.busy_until + self.delay)
    }
}
