//! Relay ports: which are taken, and which are reserved for a second allocation (RFC 8656 §7.2, EVEN-PORT). One bitmap
//! per family, shared by all workers; a live port is looked up on the packet path without a lock.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::Rng;

use crate::sockets::{AllocationPort, Family};

/// RFC 8656 §7.2: at least 30 seconds.
const RESERVATION_LIFETIME: Duration = Duration::from_secs(30);
const RANDOM_TRIES: usize = 32;

pub type ReservationToken = [u8; 8];

#[derive(Debug)]
struct Reservation {
    family: Family,
    port: AllocationPort,
    username: String,
    expires: Instant,
}

#[derive(Debug)]
pub(crate) struct PortPool {
    range: RangeInclusive<u16>,
    taken: [Box<[AtomicU64]>; 2],
    reservations: Mutex<HashMap<ReservationToken, Reservation>>,
    reservations_max: usize,
}

impl PortPool {
    pub(crate) fn new(range: RangeInclusive<u16>, reservations_max: usize) -> PortPool {
        let bitmap = || (0..1024).map(|_| AtomicU64::new(0)).collect();
        PortPool {
            range,
            taken: [bitmap(), bitmap()],
            reservations: Mutex::default(),
            reservations_max,
        }
    }

    /// Any free port; `even`: an even one.
    pub(crate) fn take(&self, family: Family, even: bool, rng: &mut impl Rng) -> Option<AllocationPort> {
        self.candidates(even, rng)
            .find(|&port| self.claim(family, port))
            .map(AllocationPort)
    }

    /// An even port and a token for the next higher one.
    pub(crate) fn take_pair(
        &self,
        family: Family,
        username: &str,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Option<(AllocationPort, ReservationToken)> {
        let token: ReservationToken = rng.random();
        let mut reservations = self.reservations.lock().unwrap_or_else(PoisonError::into_inner);
        if reservations.len() >= self.reservations_max {
            self.expire(&mut reservations, now);
        }
        if reservations.len() >= self.reservations_max || reservations.contains_key(&token) {
            return None;
        }
        let port = self.candidates(true, rng).find(|&port| {
            let Some(next) = port.checked_add(1).filter(|n| self.range.contains(n)) else {
                return false;
            };
            if !self.claim(family, port) {
                return false;
            }
            let both = self.claim(family, next);
            if !both {
                self.release(family, AllocationPort(port));
            }
            both
        })?;
        let (username, expires) = (username.to_owned(), now + RESERVATION_LIFETIME);
        reservations.insert(
            token,
            Reservation {
                family,
                port: AllocationPort(port + 1),
                username,
                expires,
            },
        );
        Some((AllocationPort(port), token))
    }

    /// The port reserved under `token`, now the caller's. Only for the user who reserved it.
    pub(crate) fn claim_reserved(
        &self,
        token: &ReservationToken,
        username: &str,
        now: Instant,
    ) -> Option<(Family, AllocationPort)> {
        let mut reservations = self.reservations.lock().unwrap_or_else(PoisonError::into_inner);
        self.expire(&mut reservations, now);
        if reservations.get(token)?.username != username {
            return None;
        }
        reservations.remove(token).map(|r| (r.family, r.port))
    }

    /// Gives up a reservation whose own allocation failed or that nobody claimed in time.
    pub(crate) fn cancel(&self, token: &ReservationToken) {
        let mut reservations = self.reservations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(r) = reservations.remove(token) {
            self.release(r.family, r.port);
        }
    }

    /// Frees ports whose reservation has run out. Called from timers, and whenever the table is full.
    pub(crate) fn expire_reservations(&self, now: Instant) {
        self.expire(
            &mut self.reservations.lock().unwrap_or_else(PoisonError::into_inner),
            now,
        );
    }

    pub(crate) fn release(&self, family: Family, port: AllocationPort) {
        let (word, bit) = self.bit(family, port.0);
        word.fetch_and(!bit, Ordering::Relaxed);
    }

    /// Whether some allocation, on any worker, holds this port.
    pub(crate) fn is_taken(&self, family: Family, port: u16) -> bool {
        let (word, bit) = self.bit(family, port);
        word.load(Ordering::Relaxed) & bit != 0
    }

    fn expire(&self, reservations: &mut HashMap<ReservationToken, Reservation>, now: Instant) {
        reservations.retain(|_, r| {
            let keep = r.expires > now;
            if !keep {
                self.release(r.family, r.port);
            }
            keep
        });
    }

    /// A few random ports, then all from a random place on: unpredictable while there is room, exhaustive when there is
    /// little (RFC 8656 §7.2 wants randomness, RFC 6056).
    fn candidates<G: Rng>(&self, even: bool, rng: &mut G) -> impl Iterator<Item = u16> + use<G> {
        let (start, end) = (u32::from(*self.range.start()), u32::from(*self.range.end()));
        let count = (end + 1).saturating_sub(start).max(1);
        let tries: Vec<u32> = (0..RANDOM_TRIES).map(|_| rng.random_range(0..count)).collect();
        let from = tries[0];
        let all = (0..count).map(move |i| (from + i) % count);
        let ports = tries.into_iter().chain(all).map(move |offset| (start + offset) as u16);
        ports.filter(move |port| (!even || port % 2 == 0) && *port != 0)
    }

    fn claim(&self, family: Family, port: u16) -> bool {
        let (word, bit) = self.bit(family, port);
        self.range.contains(&port) && word.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    fn bit(&self, family: Family, port: u16) -> (&AtomicU64, u64) {
        (&self.taken[family.index()][usize::from(port / 64)], 1 << (port % 64))
    }

    #[cfg(test)]
    pub(crate) fn taken_count(&self) -> u32 {
        self.taken
            .iter()
            .flatten()
            .map(|w| w.load(Ordering::Relaxed).count_ones())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn every_port_of_the_range_is_handed_out_once() {
        let (pool, mut rng) = (PortPool::new(50_000..=50_099, 4), SmallRng::seed_from_u64(1));
        let mut ports: Vec<_> = std::iter::from_fn(|| pool.take(Family::V4, false, &mut rng)).collect();
        ports.sort_unstable();
        assert_eq!(ports, (50_000..=50_099).map(AllocationPort).collect::<Vec<_>>());
        assert!(pool.take(Family::V6, false, &mut rng).is_some(), "families are apart");
        pool.release(Family::V4, AllocationPort(50_007));
        assert_eq!(pool.take(Family::V4, true, &mut rng), None);
        assert_eq!(pool.take(Family::V4, false, &mut rng), Some(AllocationPort(50_007)));
    }

    #[test]
    fn a_reservation_is_claimed_once_by_its_user_or_returns_after_30_s() {
        let (pool, mut rng) = (PortPool::new(50_000..=50_009, 2), SmallRng::seed_from_u64(2));
        let now = Instant::now();
        let (port, token) = pool.take_pair(Family::V4, "anna", now, &mut rng).unwrap();
        assert_eq!(port.0 % 2, 0);
        assert_eq!(pool.claim_reserved(&token, "bert", now), None);
        assert_eq!(
            pool.claim_reserved(&token, "anna", now),
            Some((Family::V4, AllocationPort(port.0 + 1)))
        );
        assert_eq!(pool.claim_reserved(&token, "anna", now), None);
        let (_, late) = pool.take_pair(Family::V4, "anna", now, &mut rng).unwrap();
        assert_eq!(pool.claim_reserved(&late, "anna", now + Duration::from_secs(31)), None);
        assert_eq!(pool.taken_count(), 3);
        for _ in 0..2 {
            pool.take_pair(Family::V4, "anna", now, &mut rng).unwrap();
        }
        assert_eq!(
            pool.take_pair(Family::V4, "anna", now, &mut rng),
            None,
            "the table is bounded"
        );
    }
}
