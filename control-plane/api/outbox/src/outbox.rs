//! The edge's side: entries wait, are sent, and are forgotten once acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// What an outbox may hold and how fast it sends.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entries that are not acknowledged.
    pub entries: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Entries on their way that are not acknowledged; more are sent as acknowledgements come.
    pub flight: usize,
    /// Entries sent at once…
    pub burst: usize,
    /// …and the pause after them: a thousand edges that come back together do not flood who they come back to.
    pub pause: Duration,
}

impl Default for Limits {
    /// 16,384 entries, 8 MiB, 1,024 in flight, at most 6,400 a second.
    fn default() -> Limits {
        Limits {
            entries: 16_384,
            bytes: 8 << 20,
            flight: 1_024,
            burst: 64,
            pause: Duration::from_millis(10),
        }
    }
}

/// What goes first when there is no place: the oldest of the least worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// One of many alike.
    Little,
    /// A fact that nothing else tells.
    Much,
}

/// For metrics. All but the first two only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Entries held now.
    pub depth: usize,
    /// Their bytes.
    pub bytes: usize,
    pub pushed: u64,
    /// Given up for want of a place. One that was on its way may have arrived all the same.
    pub dropped: u64,
    /// Sent again over another connection.
    pub resent: u64,
}

/// Entries on their way to the control plane. Call [`Outbox::connected`] with each new connection, then [`Outbox::poll`] until it
/// gives nothing, again after each push, each acknowledgement, and at [`Outbox::poll_timeout`].
#[derive(Debug)]
pub struct Outbox<T> {
    limits: Limits,
    entries: BTreeMap<u64, Entry<T>>,
    /// Numbers of those of little worth.
    little: BTreeSet<u64>,
    bytes: usize,
    /// The last number given.
    last: u64,
    /// The last number sent over any connection.
    sent: u64,
    connection: Option<Connection>,
    counters: Counters,
}

#[derive(Debug)]
struct Entry<T> {
    item: T,
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    /// All up to here were sent over it, as far as they are still held.
    through: u64,
    /// Of those, how many are held.
    flying: usize,
    /// Sent since `since`.
    burst: usize,
    since: Instant,
}

impl<T: Clone> Outbox<T> {
    #[must_use]
    pub fn new(limits: Limits) -> Outbox<T> {
        Outbox {
            limits,
            entries: BTreeMap::new(),
            little: BTreeSet::new(),
            bytes: 0,
            last: 0,
            sent: 0,
            connection: None,
            counters: Counters::default(),
        }
    }

    /// Takes an entry in and numbers it. If there is no place, the oldest entry of little worth goes; if all are worth much, the new one
    /// goes when it is worth little, the oldest when it is not.
    pub fn push(&mut self, item: T, bytes: usize, worth: Worth) {
        self.counters.pushed += 1;
        if bytes > self.limits.bytes {
            self.counters.dropped += 1;
            return;
        }
        while self.entries.len() >= self.limits.entries || self.bytes + bytes > self.limits.bytes {
            self.counters.dropped += 1;
            let least = self.little.first().copied();
            let oldest = || self.entries.first_key_value().map(|(number, _)| *number);
            let Some(goes) = least.or_else(|| oldest().filter(|_| worth == Worth::Much)) else {
                return;
            };
            self.remove(goes);
        }
        self.last += 1;
        self.entries.insert(self.last, Entry { item, bytes });
        self.bytes += bytes;
        if worth == Worth::Little {
            self.little.insert(self.last);
        }
    }

    /// There is a new connection, and nothing of what is held has been sent over it.
    pub fn connected(&mut self, now: Instant) {
        self.connection = Some(Connection {
            through: 0,
            flying: 0,
            burst: 0,
            since: now,
        });
    }

    pub fn disconnected(&mut self) {
        self.connection = None;
    }

    /// The next entry to send over the connection, with its number; `None`: not now.
    pub fn poll(&mut self, now: Instant) -> Option<(u64, T)> {
        let connection = self.connection.as_mut()?;
        if now.saturating_duration_since(connection.since) >= self.limits.pause {
            connection.burst = 0;
            connection.since = now;
        }
        if connection.burst >= self.limits.burst || connection.flying >= self.limits.flight {
            return None;
        }
        let (number, entry) = self.entries.range(connection.through + 1..).next()?;
        connection.through = *number;
        connection.flying += 1;
        connection.burst += 1;
        if *number <= self.sent {
            self.counters.resent += 1;
        }
        self.sent = self.sent.max(*number);
        Some((*number, entry.item.clone()))
    }

    /// When [`Outbox::poll`] may give something that only the pause holds back; `None`: after a push, an acknowledgement or a connection.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let connection = self.connection.as_ref()?;
        let held_back = connection.burst >= self.limits.burst
            && connection.flying < self.limits.flight
            && self.last > connection.through;
        held_back.then(|| connection.since + self.limits.pause)
    }

    /// The other side has taken everything through this number. Numbers that were never sent acknowledge nothing beyond what was.
    pub fn received(&mut self, through: u64) {
        let through = through.min(self.sent);
        while let Some((first, _)) = self.entries.first_key_value().filter(|(first, _)| **first <= through) {
            let first = *first;
            self.remove(first);
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            depth: self.entries.len(),
            bytes: self.bytes,
            ..self.counters
        }
    }

    fn remove(&mut self, number: u64) {
        let Some(entry) = self.entries.remove(&number) else {
            return;
        };
        self.bytes -= entry.bytes;
        self.little.remove(&number);
        if let Some(connection) = &mut self.connection
            && number <= connection.through
        {
            connection.flying -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Outbox<&'static str> {
        Outbox::new(Limits {
            entries: 3,
            bytes: 100,
            flight: 2,
            burst: 64,
            pause: Duration::from_millis(10),
        })
    }

    fn held(outbox: &Outbox<&'static str>) -> Vec<&'static str> {
        outbox.entries.values().map(|entry| entry.item).collect()
    }

    #[test]
    fn the_oldest_of_the_least_worth_goes_first() {
        let mut outbox = small();
        for (item, worth) in [
            ("a", Worth::Much),
            ("b", Worth::Little),
            ("c", Worth::Little),
            ("d", Worth::Much),
        ] {
            outbox.push(item, 1, worth);
        }
        assert_eq!(held(&outbox), ["a", "c", "d"]);
        outbox.push("e", 1, Worth::Much);
        assert_eq!(held(&outbox), ["a", "d", "e"]);
        outbox.push("f", 1, Worth::Little);
        assert_eq!(held(&outbox), ["a", "d", "e"]);
        outbox.push("g", 1, Worth::Much);
        assert_eq!(held(&outbox), ["d", "e", "g"]);
        outbox.push("too large", 101, Worth::Much);
        outbox.push("large", 99, Worth::Much);
        assert_eq!(held(&outbox), ["g", "large"]);
        let counters = outbox.counters();
        assert_eq!((counters.pushed, counters.dropped, counters.bytes), (9, 7, 100));
    }

    #[test]
    fn only_so_many_fly_and_acknowledgements_make_place() {
        let now = Instant::now();
        let mut outbox = small();
        for item in ["a", "b", "c"] {
            outbox.push(item, 1, Worth::Much);
        }
        assert_eq!(outbox.poll(now), None, "there is no connection");
        outbox.connected(now);
        let poll = |outbox: &mut Outbox<&'static str>| outbox.poll(now);
        assert_eq!(poll(&mut outbox), Some((1, "a")));
        assert_eq!(poll(&mut outbox), Some((2, "b")));
        assert_eq!(poll(&mut outbox), None);
        outbox.received(1);
        assert_eq!(poll(&mut outbox), Some((3, "c")));
        outbox.connected(now);
        assert_eq!(
            poll(&mut outbox),
            Some((2, "b")),
            "everything that is not acknowledged, once more"
        );
        outbox.received(u64::MAX);
        assert!(outbox.is_empty(), "3 was sent over the first connection");
        assert_eq!(outbox.counters().resent, 1);
    }

    #[test]
    fn nobody_acknowledges_what_was_not_sent() {
        let mut outbox = small();
        outbox.push("a", 1, Worth::Much);
        outbox.received(9);
        assert!(!outbox.is_empty());
    }

    #[test]
    fn sending_is_paced() {
        let start = Instant::now();
        let mut outbox = Outbox::new(Limits::default());
        for number in 0..1_000 {
            outbox.push(number, 1, Worth::Little);
        }
        outbox.connected(start);
        let mut now = start;
        let mut sent = 0;
        loop {
            while outbox.poll(now).is_some() {
                sent += 1;
            }
            match outbox.poll_timeout() {
                Some(due) => now = due,
                None => break,
            }
        }
        assert_eq!(sent, 1_000);
        assert_eq!(
            now - start,
            Duration::from_millis(150),
            "15 pauses between 16 bursts of 64"
        );
    }
}
