//! How much anybody may have: token buckets, quotas per user and per source address, and the brake on answers to
//! strangers. Shared by all workers, so everything here is atomic or briefly locked, and nothing grows without bound.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// So much on average, and so much at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units (bytes, packets, answers) per second; 1 to 10⁹.
    pub per_second: u64,
    /// Units at once after a pause.
    pub burst: u64,
}

/// What one user or one source address may have. `None` = unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// At the same time.
    pub allocations: u32,
    /// Relayed payload, both directions together.
    pub bytes: Option<Rate>,
    pub packets: Option<Rate>,
}

/// A token bucket in one atomic: the time at which it will be full again (GCRA).
#[derive(Debug, Default)]
pub(crate) struct Bucket(AtomicU64);

impl Bucket {
    /// Takes `units` whether they are there or not; nothing more is given until the debt has shrunk.
    pub(crate) fn charge(&self, rate: &Rate, now_ns: u64, units: u64) {
        let cost = units.saturating_mul(1_000_000_000) / rate.per_second.max(1);
        let update = |full_at: u64| Some(full_at.max(now_ns).saturating_add(cost));
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
    }

    /// Takes `units` if they are there. `now_ns`: time since the server's beginning.
    pub(crate) fn take(&self, rate: &Rate, now_ns: u64, units: u64) -> bool {
        let per_second = rate.per_second.max(1);
        let cost = units.saturating_mul(1_000_000_000) / per_second;
        // In units, because a division takes long: this is done four times per packet.
        let depth = u128::from(rate.burst.saturating_mul(1_000_000_000));
        let update = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let next = full_at.max(now_ns).saturating_add(cost);
            (u128::from(next - now_ns) * u128::from(per_second) <= depth).then_some(next)
        });
        update.is_ok()
    }
}

/// What a user or a source address uses now, over all workers.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    allocations: AtomicU32,
    bytes: Bucket,
    packets: Bucket,
}

impl Usage {
    /// For streams, which cannot drop: whether there is no debt.
    pub(crate) fn is_within(&self, quota: &Quota, now_ns: u64) -> bool {
        quota.bytes.as_ref().is_none_or(|rate| self.bytes.take(rate, now_ns, 0))
    }

    /// For streams: what has passed.
    pub(crate) fn charge(&self, quota: &Quota, now_ns: u64, bytes: usize) {
        if let Some(rate) = &quota.bytes {
            self.bytes.charge(rate, now_ns, bytes as u64);
        }
    }

    /// Charges one packet. What is refused is dropped, as a full queue would.
    pub(crate) fn take(&self, quota: &Quota, now_ns: u64, bytes: usize) -> bool {
        quota
            .packets
            .as_ref()
            .is_none_or(|rate| self.packets.take(rate, now_ns, 1))
            && quota
                .bytes
                .as_ref()
                .is_none_or(|rate| self.bytes.take(rate, now_ns, bytes as u64))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    User(Arc<str>),
    Source(IpAddr),
}

/// Who holds how many allocations. An entry lives as long as its last allocation, so allocations bound the table.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<HashMap<Key, Arc<Usage>>>);

/// One allocation's places in the ledger; give back with [`Ledger::release`].
#[derive(Debug)]
pub(crate) struct Charge {
    user: (Key, Arc<Usage>),
    source: (Key, Arc<Usage>),
}

impl Charge {
    pub(crate) fn user(&self) -> &Usage {
        &self.user.1
    }

    pub(crate) fn source(&self) -> &Usage {
        &self.source.1
    }
}

impl Ledger {
    /// One more allocation, or `None` if the user or the address has its share.
    pub(crate) fn charge(&self, user: &str, source: IpAddr, per_user: &Quota, per_source: &Quota) -> Option<Charge> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = [Key::User(user.into()), Key::Source(source_of(source))];
        let used = |key: &Key| table.get(key).map_or(0, |u| u.allocations.load(Ordering::Relaxed));
        if used(&keys[0]) >= per_user.allocations || used(&keys[1]) >= per_source.allocations {
            return None;
        }
        let [user, source] = keys.map(|key| {
            let usage = Arc::clone(table.entry(key.clone()).or_default());
            usage.allocations.fetch_add(1, Ordering::Relaxed);
            (key, usage)
        });
        Some(Charge { user, source })
    }

    pub(crate) fn release(&self, charge: &Charge) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, usage) in [&charge.user, &charge.source] {
            if usage.allocations.fetch_sub(1, Ordering::Relaxed) == 1 {
                table.remove(key);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// One subscriber: an IPv4 address, or an IPv6 /64.
pub fn source_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
    }
}

const PREFIX_SLOTS: usize = 16_384;

/// Brakes answers to the unauthenticated per source prefix (/24, /56). A fixed table under a keyed hash: a flood from
/// invented sources costs no memory, and at worst brakes those who share its slots.
#[derive(Debug)]
pub(crate) struct PrefixLimiter {
    slots: Box<[Bucket]>,
    hasher: RandomState,
}

impl PrefixLimiter {
    pub(crate) fn new() -> PrefixLimiter {
        PrefixLimiter {
            slots: (0..PREFIX_SLOTS).map(|_| Bucket::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    pub(crate) fn permits(&self, rate: &Rate, now_ns: u64, source: IpAddr) -> bool {
        let prefix = match source {
            IpAddr::V4(ip) => u64::from(u32::from(ip) >> 8),
            IpAddr::V6(ip) => (u128::from(ip) >> 72) as u64 | 1 << 63,
        };
        let slot = self.hasher.hash_one(prefix) as usize % PREFIX_SLOTS;
        self.slots[slot].take(rate, now_ns, 1)
    }
}

/// Everything that can be counted has a limit; these are per server unless they say otherwise.
#[derive(Clone, Debug)]
pub struct Limits {
    pub allocations: usize,
    pub per_user: Quota,
    /// Per IPv4 address or IPv6 /64.
    pub per_source: Quota,
    /// Answers (and the work for them) to requests that are not authenticated, per /24 or /56.
    pub unauthenticated: Rate,
    pub permissions_per_allocation: usize,
    pub channels_per_allocation: usize,
    /// TCP and TLS connections of clients, per worker; and as many DTLS sessions.
    pub connections: usize,
    pub connections_per_source: usize,
    /// Bytes that may wait for a slow TCP client; beyond it, relayed data is dropped.
    pub stream_queue_bytes: usize,
    /// A TCP connection without an allocation is closed after this time.
    pub stream_idle: Duration,
    /// Reserved ports (EVEN-PORT with R) that wait for their claim.
    pub reservations: usize,
    /// RFC 6062 connections per allocation.
    pub peer_connections_per_allocation: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        let media = |mbit: u64| {
            Some(Rate {
                per_second: mbit * 125_000,
                burst: mbit * 125_000,
            })
        };
        let packets = |n| {
            Some(Rate {
                per_second: n,
                burst: n,
            })
        };
        Limits {
            allocations: 20_000,
            per_user: Quota {
                allocations: 24,
                bytes: media(100),
                packets: packets(25_000),
            },
            per_source: Quota {
                allocations: 512,
                bytes: media(1_000),
                packets: packets(250_000),
            },
            unauthenticated: Rate {
                per_second: 100,
                burst: 200,
            },
            permissions_per_allocation: 64,
            channels_per_allocation: 64,
            connections: 10_000,
            connections_per_source: 512,
            stream_queue_bytes: 256 * 1024,
            stream_idle: Duration::from_secs(30),
            reservations: 1_024,
            peer_connections_per_allocation: 16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let (bucket, rate) = (
            Bucket::default(),
            Rate {
                per_second: 10,
                burst: 5,
            },
        );
        assert_eq!((0..20).filter(|_| bucket.take(&rate, 0, 1)).count(), 5);
        assert_eq!((0..20).filter(|_| bucket.take(&rate, SECOND / 5, 1)).count(), 2);
        assert_eq!((0..20).filter(|_| bucket.take(&rate, 60 * SECOND, 1)).count(), 5);
    }

    #[test]
    fn the_ledger_forgets_who_holds_nothing() {
        let ledger = Ledger::default();
        let quota = Quota {
            allocations: 1,
            bytes: None,
            packets: None,
        };
        let ip: IpAddr = "2a00::1".parse().unwrap();
        let neighbour: IpAddr = "2a00::2".parse().unwrap();
        let charge = ledger.charge("anna", ip, &quota, &quota).unwrap();
        assert!(
            ledger
                .charge("anna", "1.1.1.1".parse().unwrap(), &quota, &quota)
                .is_none()
        );
        assert!(
            ledger.charge("bert", neighbour, &quota, &quota).is_none(),
            "one /64 is one source"
        );
        ledger.release(&charge);
        assert_eq!(ledger.len(), 0);
        assert!(ledger.charge("anna", ip, &quota, &quota).is_some());
    }

    #[test]
    fn a_flood_brakes_its_own_prefix() {
        let limiter = PrefixLimiter::new();
        let rate = Rate {
            per_second: 10,
            burst: 10,
        };
        let flood = |last: u8| limiter.permits(&rate, 0, IpAddr::from([9, 9, 9, last]));
        assert_eq!((0..=255).filter(|&last| flood(last)).count(), 10);
        let others = (0..100u8)
            .filter(|&n| limiter.permits(&rate, 0, IpAddr::from([8, 8, n, 1])))
            .count();
        assert!(others >= 99);
    }
}
