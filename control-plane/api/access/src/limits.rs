//! Limits on how often somebody may try something: token buckets in tables of bounded size. Used by the control plane and by edges.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Buckets kept at once; beyond, those that are nearly full again are forgotten.
const BUCKETS_MAX: usize = 50_000;

/// One limit, counted per key. A key may use its minute's worth at once, then gets it back evenly.
pub struct Limiter<K> {
    per_minute: f64,
    buckets: Mutex<HashMap<K, Bucket>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl<K: Eq + Hash> Limiter<K> {
    /// `per_minute` 0 means that nothing is allowed.
    pub fn new(per_minute: u32) -> Self {
        Limiter {
            per_minute: f64::from(per_minute),
            buckets: Mutex::default(),
        }
    }

    /// Counts one, if it is allowed. `Err`: seconds until it will be.
    pub fn take(&self, key: K, now: Instant) -> Result<(), u32> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens = buckets
            .get(&key)
            .map_or(self.per_minute, |bucket| self.filled(bucket, now));
        self.verdict(tokens)?;
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&key) {
            self.forget(&mut buckets, now);
        }
        buckets.insert(
            key,
            Bucket {
                tokens: tokens - 1.0,
                at: now,
            },
        );
        Ok(())
    }

    /// How many more are allowed at once.
    pub fn left(&self, key: &K, now: Instant) -> u32 {
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens = buckets
            .get(key)
            .map_or(self.per_minute, |bucket| self.filled(bucket, now));
        tokens as u32
    }

    /// Takes back one [`Self::take`].
    pub fn give_back(&self, key: &K) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get_mut(key) {
            bucket.tokens = (bucket.tokens + 1.0).min(self.per_minute);
        }
    }

    fn filled(&self, bucket: &Bucket, now: Instant) -> f64 {
        let since_s = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.tokens + since_s * self.per_minute / 60.0).min(self.per_minute)
    }

    fn verdict(&self, tokens: f64) -> Result<(), u32> {
        if tokens >= 1.0 {
            return Ok(());
        }
        let wait_s = if self.per_minute > 0.0 {
            (1.0 - tokens) * 60.0 / self.per_minute
        } else {
            3600.0
        };
        Err(wait_s.ceil() as u32)
    }

    /// Makes room: first what has recovered, then, under attack by very many keys, whatever comes first.
    fn forget(&self, buckets: &mut HashMap<K, Bucket>, now: Instant) {
        buckets.retain(|_, bucket| self.filled(bucket, now) < self.per_minute * 0.9);
        let mut surplus = buckets.len().saturating_sub(BUCKETS_MAX / 2);
        buckets.retain(|_, _| {
            let keep = surplus == 0;
            surplus = surplus.saturating_sub(1);
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_minutes_worth_at_once_then_evenly() {
        let (limiter, now) = (Limiter::new(6), Instant::now());
        for taken in 0..6 {
            assert_eq!(limiter.left(&"a", now), 6 - taken);
            limiter.take("a", now).unwrap();
        }
        assert_eq!(limiter.left(&"a", now), 0);
        assert_eq!(limiter.take("a", now), Err(10));
        assert!(limiter.take("b", now).is_ok());
        assert_eq!(limiter.take("a", now + Duration::from_secs(9)), Err(1));
        assert!(limiter.take("a", now + Duration::from_secs(10)).is_ok());
    }

    #[test]
    fn the_table_stays_bounded_under_a_flood_of_keys() {
        let (limiter, now) = (Limiter::new(2), Instant::now());
        for key in 0..(BUCKETS_MAX * 3) {
            limiter.take(key, now).unwrap();
        }
        assert!(limiter.buckets.lock().unwrap().len() <= BUCKETS_MAX);
    }

    #[test]
    fn what_is_given_back_was_not_taken() {
        let (limiter, now) = (Limiter::new(1), Instant::now());
        for _ in 0..5 {
            limiter.take(1, now).unwrap();
            limiter.give_back(&1);
        }
        limiter.give_back(&1);
        limiter.take(1, now).unwrap();
        assert!(
            limiter.take(1, now).is_err(),
            "giving back more than was taken gains nothing"
        );
        assert!(Limiter::new(0).take(1, now).is_err());
    }
}
