//! One direction of a network path in virtual time.

use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What a path does to datagrams. The default is a perfect one.
#[derive(Clone, Debug, PartialEq)]
pub struct Impairment {
    /// One way.
    pub delay: Duration,
    /// Added at random, uniformly from 0; keeps order unless `reorder` strikes.
    pub jitter: Duration,
    /// Share of datagrams lost at random, 0 to 1.
    pub loss: f64,
    /// Share of datagrams that overtake: they skip the delay of `reorder_by`, which all others suffer.
    pub reorder: f64,
    pub reorder_by: Duration,
    /// Share of datagrams delivered twice.
    pub duplicate: f64,
    /// Bottleneck in bit/s of UDP payload; `None` = none.
    pub rate_bps: Option<u64>,
    /// What the bottleneck holds before it drops, in bytes.
    pub queue_bytes: usize,
    /// Longest UDP payload that passes.
    pub mtu: usize,
    /// Nothing passes.
    pub cut: bool,
}

impl Default for Impairment {
    fn default() -> Self {
        Impairment {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            reorder: 0.0,
            reorder_by: Duration::from_millis(5),
            duplicate: 0.0,
            rate_bps: None,
            queue_bytes: 256 * 1024,
            mtu: 65_535,
            cut: false,
        }
    }
}

impl Impairment {
    /// Half of `rtt` this way, and random loss.
    pub fn lossy(rtt: Duration, loss: f64) -> Impairment {
        Impairment {
            delay: rtt / 2,
            loss,
            ..Impairment::default()
        }
    }
}

/// What became of the datagrams of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathCounters {
    pub offered: u64,
    pub delivered: u64,
    pub delivered_bytes: u64,
    pub lost: u64,
    pub queue_dropped: u64,
    pub too_large: u64,
    pub cut: u64,
    pub duplicated: u64,
    /// Longest time a datagram spent in the bottleneck's queue.
    pub queue_max: Duration,
}

/// One direction of a path. `T` is whatever a datagram is to the caller. The same seed, times and lengths give the same fate.
#[derive(Debug)]
pub struct Path<T> {
    impairment: Impairment,
    rng: StdRng,
    /// When the bottleneck has sent all it holds.
    free: Option<Instant>,
    /// Latest departure so far: jitter does not reorder.
    last_due: Option<Instant>,
    flying: BinaryHeap<Flying<T>>,
    number: u64,
    counters: PathCounters,
}

#[derive(Debug)]
struct Flying<T> {
    due: Instant,
    number: u64,
    len: usize,
    datagram: T,
}

impl<T> PartialEq for Flying<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl<T> Eq for Flying<T> {}
impl<T> PartialOrd for Flying<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Flying<T> {
    /// The heap gives the greatest: that must be the earliest.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

/// Datagrams under way at a time; beyond, they are dropped like from a full queue.
const FLYING_MAX: usize = 65_536;

impl<T: Clone> Path<T> {
    pub fn new(impairment: Impairment, seed: u64) -> Path<T> {
        Path {
            impairment,
            rng: StdRng::seed_from_u64(seed),
            free: None,
            last_due: None,
            flying: BinaryHeap::new(),
            number: 0,
            counters: PathCounters::default(),
        }
    }

    /// Changes what happens to datagrams sent from now on.
    pub fn set(&mut self, impairment: Impairment) {
        self.impairment = impairment;
    }

    pub fn impairment(&self) -> &Impairment {
        &self.impairment
    }

    /// Puts a datagram of `len` bytes on the path.
    pub fn send(&mut self, now: Instant, len: usize, datagram: T) {
        self.counters.offered += 1;
        // All dice are thrown for every datagram, so that one setting does not shift the fate another gives.
        let (loss, reorder, duplicate) = (
            self.rng.random::<f64>(),
            self.rng.random::<f64>(),
            self.rng.random::<f64>(),
        );
        let jitter = self.impairment.jitter.mul_f64(self.rng.random::<f64>());
        if self.impairment.cut {
            self.counters.cut += 1;
        } else if len > self.impairment.mtu {
            self.counters.too_large += 1;
        } else if loss < self.impairment.loss {
            self.counters.lost += 1;
        } else {
            let Some(through) = self.pass_bottleneck(now, len) else {
                self.counters.queue_dropped += 1;
                return;
            };
            let due = if reorder < self.impairment.reorder {
                through + self.impairment.delay
            } else {
                let spread = if self.impairment.reorder > 0.0 {
                    self.impairment.reorder_by
                } else {
                    Duration::ZERO
                };
                let due = (through + self.impairment.delay + jitter + spread).max(self.last_due.unwrap_or(now));
                self.last_due = Some(due);
                due
            };
            if duplicate < self.impairment.duplicate {
                self.counters.duplicated += 1;
                self.fly(due, len, datagram.clone());
            }
            self.fly(due, len, datagram);
        }
    }

    fn fly(&mut self, due: Instant, len: usize, datagram: T) {
        if self.flying.len() == FLYING_MAX {
            self.counters.queue_dropped += 1;
            return;
        }
        self.number += 1;
        self.flying.push(Flying {
            due,
            number: self.number,
            len,
            datagram,
        });
    }

    fn pass_bottleneck(&mut self, now: Instant, len: usize) -> Option<Instant> {
        let Some(rate) = self.impairment.rate_bps else {
            return Some(now);
        };
        let begin = self.free.map_or(now, |free| free.max(now));
        let queued = begin - now;
        if queued.as_secs_f64() * rate as f64 / 8.0 > self.impairment.queue_bytes as f64 {
            return None;
        }
        self.counters.queue_max = self.counters.queue_max.max(queued);
        let through = begin + Duration::from_secs_f64(len as f64 * 8.0 / rate.max(1) as f64);
        self.free = Some(through);
        Some(through)
    }

    /// The next datagram that has arrived at `now`.
    pub fn poll(&mut self, now: Instant) -> Option<T> {
        if self.flying.peek()?.due > now {
            return None;
        }
        let flying = self.flying.pop()?;
        self.counters.delivered += 1;
        self.counters.delivered_bytes += flying.len as u64;
        Some(flying.datagram)
    }

    /// When the next datagram arrives.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.flying.peek().map(|flying| flying.due)
    }

    pub fn counters(&self) -> PathCounters {
        self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    /// Sends `count` datagrams of 1,000 bytes, one a millisecond; gives (number, arrival in ms).
    fn run(impairment: Impairment, seed: u64, count: u32) -> (Vec<(u32, u128)>, PathCounters) {
        let start = Instant::now();
        let mut path = Path::new(impairment, seed);
        let mut arrived = Vec::new();
        for ms in 0..count + 2000 {
            let now = start + MS * ms;
            if ms < count {
                path.send(now, 1000, ms);
            }
            while let Some(number) = path.poll(now) {
                arrived.push((number, (now - start).as_millis()));
            }
        }
        (arrived, path.counters())
    }

    #[test]
    fn the_same_seed_gives_the_same_network() {
        let rough = Impairment {
            jitter: 20 * MS,
            reorder: 0.1,
            duplicate: 0.05,
            ..Impairment::lossy(90 * MS, 0.05)
        };
        assert_eq!(run(rough.clone(), 7, 2000), run(rough.clone(), 7, 2000));
        assert_ne!(run(rough.clone(), 7, 2000), run(rough, 8, 2000));
    }

    #[test]
    fn loss_and_delay_are_what_was_asked_for() {
        let (arrived, counters) = run(Impairment::lossy(90 * MS, 0.05), 1, 10_000);
        assert!((400..600).contains(&counters.lost), "{counters:?}");
        assert!(arrived.iter().all(|(number, at)| *at == u128::from(*number) + 45));
    }

    #[test]
    fn a_bottleneck_queues_then_drops() {
        // 8 Mbit/s offered into 4 Mbit/s: 10,000 bytes of queue are 20 ms.
        let narrow = Impairment {
            rate_bps: Some(4_000_000),
            queue_bytes: 10_000,
            ..Impairment::default()
        };
        let (arrived, counters) = run(narrow, 1, 1000);
        assert!((480..520).contains(&arrived.len()), "{}", arrived.len());
        assert!(
            counters.queue_max <= 22 * MS && counters.queue_max >= 18 * MS,
            "{counters:?}"
        );
    }

    #[test]
    fn a_cut_or_too_small_path_passes_nothing() {
        let (arrived, counters) = run(
            Impairment {
                cut: true,
                ..Impairment::default()
            },
            1,
            10,
        );
        assert_eq!((arrived.len(), counters.cut), (0, 10));
        let (arrived, counters) = run(
            Impairment {
                mtu: 999,
                ..Impairment::default()
            },
            1,
            10,
        );
        assert_eq!((arrived.len(), counters.too_large), (0, 10));
    }

    proptest! {
        #[test]
        fn order_is_kept_unless_reordering_was_asked_for(seed: u64, loss in 0.0..0.5f64, jitter in 0u64..50, reorder: bool) {
            let reorder = if reorder { 0.2 } else { 0.0 };
            let impairment = Impairment { jitter: MS * jitter as u32, reorder, ..Impairment::lossy(40 * MS, loss) };
            let (arrived, counters) = run(impairment, seed, 300);
            prop_assert_eq!(arrived.len() as u64 + counters.lost, 300);
            let ordered = arrived.windows(2).all(|pair| pair[0].0 < pair[1].0);
            prop_assert!(ordered || reorder > 0.0);
        }
    }
}
