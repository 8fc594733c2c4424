//! Response rate limiting: what keeps this server from being aimed at somebody else with forged sources.

use crate::subnet::network;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

/// Networks remembered, twice: the table has a younger and an older half, and the older is forgotten when the younger is full.
const HALF_MAX: usize = 16_384;
/// Source networks: who forges one address of a network can forge all.
const V4_BITS: u8 = 24;
const V6_BITS: u8 = 56;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Answer,
    /// Only "ask by TCP": a real resolver gets through, and the reply is no longer than the query.
    Slip,
    Silence,
}

/// Token buckets per source network; a network may use a second's worth at once.
pub(crate) struct RateLimit {
    per_second: f64,
    young: HashMap<IpAddr, Bucket>,
    old: HashMap<IpAddr, Bucket>,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
    slipped: bool,
}

impl RateLimit {
    pub(crate) fn new(per_second: u32) -> Self {
        RateLimit {
            per_second: f64::from(per_second),
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    /// Counts one reply to `source`.
    pub(crate) fn take(&mut self, source: IpAddr, now: Instant) -> Verdict {
        let source = source.to_canonical();
        let key = network(source, if source.is_ipv4() { V4_BITS } else { V6_BITS });
        let mut bucket = match self.young.get(&key).or_else(|| self.old.get(&key)) {
            Some(bucket) => *bucket,
            None => Bucket {
                tokens: self.per_second,
                at: now,
                slipped: true,
            },
        };
        let since_s = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + since_s * self.per_second).min(self.per_second);
        bucket.at = now;
        let verdict = if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            Verdict::Answer
        } else {
            bucket.slipped = !bucket.slipped;
            if bucket.slipped {
                Verdict::Silence
            } else {
                Verdict::Slip
            }
        };
        if self.young.len() >= HALF_MAX && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, bucket);
        verdict
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    #[test]
    fn a_network_beyond_its_rate_hears_ask_by_tcp_every_other_time_and_gets_its_rate_back() {
        let (mut limit, now) = (RateLimit::new(3), Instant::now());
        let mut ask = |last: u8, at| limit.take(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)), at);
        let verdicts: Vec<Verdict> = (0..7).map(|last| ask(last, now)).collect();
        use Verdict::{Answer, Silence, Slip};
        assert_eq!(verdicts, [Answer, Answer, Answer, Slip, Silence, Slip, Silence]);
        assert_eq!(ask(200, now + Duration::from_millis(400)), Answer);
        assert_eq!(ask(200, now + Duration::from_millis(400)), Slip);
        let other = limit.take("198.51.100.1".parse().unwrap(), now);
        assert_eq!(other, Answer, "others are not touched");
    }

    #[test]
    fn an_ipv6_network_counts_as_one_and_mapped_addresses_as_ipv4() {
        let (mut limit, now) = (RateLimit::new(1), Instant::now());
        assert_eq!(limit.take("2001:db8:0:1::1".parse().unwrap(), now), Verdict::Answer);
        assert_eq!(limit.take("2001:db8:0:2::9".parse().unwrap(), now), Verdict::Slip);
        assert_eq!(limit.take("::ffff:192.0.2.1".parse().unwrap(), now), Verdict::Answer);
        assert_eq!(limit.take("192.0.2.2".parse().unwrap(), now), Verdict::Slip);
    }

    #[test]
    fn forged_sources_without_number_do_not_fill_the_memory() {
        let (mut limit, now) = (RateLimit::new(1), Instant::now());
        for number in 0..200_000u32 {
            limit.take(IpAddr::V4(Ipv4Addr::from(number << 8)), now);
        }
        assert!(limit.len() <= 2 * HALF_MAX);
    }
}
