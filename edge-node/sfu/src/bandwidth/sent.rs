//! Packets under way, by transport-wide number: eight bytes each, in a ring that grows with what is under way.

/// Entries in the beginning, and at most.
const LEN_MIN: usize = 64;
const LEN_MAX: usize = 8_192;
/// The ring grows rather than forget an unreported packet younger than this (µs).
const REMEMBER_US: u64 = 1_000_000;
/// After so long without a packet nothing before it is remembered: its time would not fit its field (µs).
const RESTART_US: u64 = 60_000_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Free,
    Sent,
    Lost,
    Received,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// Low 32 bits of the time in µs: entries are younger than 71 minutes.
    at: u32,
    /// Up to 2,047 bytes, and the cluster in the upper five bits.
    bytes_cluster: u16,
    state: State,
}

/// A packet as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SentPacket {
    pub(super) at_us: u64,
    pub(super) bytes: u32,
    /// 0 = of no probe.
    pub(super) cluster: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reported {
    /// Never sent, or long ago.
    Unknown,
    /// Nothing new.
    Again,
    Lost,
    Received {
        packet: SentPacket,
        /// It had been reported lost.
        after_all: bool,
    },
}

#[derive(Debug, Default)]
pub(super) struct SentPackets {
    ring: Vec<Entry>,
    newest: u16,
    newest_us: u64,
    /// Consecutive numbers known, back from the newest.
    known: usize,
}

/// Clusters are numbered 1–31, over and over.
pub(super) const CLUSTERS: u8 = 31;
const BYTES_BITS: u16 = 11;

impl SentPackets {
    pub(super) fn push(&mut self, sequence: u16, at_us: u64, bytes: usize, cluster: u8) {
        if self.known == 0 || sequence != self.newest.wrapping_add(1) || at_us > self.newest_us + RESTART_US {
            self.known = 0;
            self.ring.iter_mut().for_each(|e| e.state = State::Free);
        }
        if self.ring.is_empty() {
            self.ring = vec![Entry::default(); LEN_MIN];
        } else if self.known == self.ring.len() {
            self.make_room(sequence, at_us);
        }
        let slot = self.slot(sequence);
        self.ring[slot] = Entry {
            at: at_us as u32,
            bytes_cluster: (bytes as u16).min((1 << BYTES_BITS) - 1) | u16::from(cluster) << BYTES_BITS,
            state: State::Sent,
        };
        self.newest = sequence;
        self.newest_us = at_us;
        self.known = (self.known + 1).min(self.ring.len());
    }

    /// `sequence` is about to take the place of the oldest.
    fn make_room(&mut self, sequence: u16, at_us: u64) {
        let len = self.ring.len();
        let oldest = self.ring[self.slot(sequence)];
        let young = u64::from((at_us as u32).wrapping_sub(oldest.at)) < REMEMBER_US;
        if len >= LEN_MAX || oldest.state != State::Sent || !young {
            return;
        }
        let mut larger = vec![Entry::default(); 2 * len];
        for back in 1..=len as u16 {
            let number = sequence.wrapping_sub(back);
            larger[usize::from(number) % (2 * len)] = self.ring[usize::from(number) % len];
        }
        self.ring = larger;
    }

    pub(super) fn report(&mut self, sequence: u16, received: bool) -> Reported {
        let age = usize::from(self.newest.wrapping_sub(sequence));
        if age >= self.known {
            return Reported::Unknown;
        }
        let slot = self.slot(sequence);
        let entry = &mut self.ring[slot];
        let before = entry.state;
        match (before, received) {
            (State::Free, _) => Reported::Unknown,
            (State::Sent, false) => {
                entry.state = State::Lost;
                Reported::Lost
            }
            (State::Sent | State::Lost, true) => {
                entry.state = State::Received;
                let age_us = (self.newest_us as u32).wrapping_sub(entry.at);
                Reported::Received {
                    packet: SentPacket {
                        at_us: self.newest_us - u64::from(age_us).min(self.newest_us),
                        bytes: u32::from(entry.bytes_cluster & ((1 << BYTES_BITS) - 1)),
                        cluster: (entry.bytes_cluster >> BYTES_BITS) as u8,
                    },
                    after_all: before == State::Lost,
                }
            }
            (State::Lost, false) | (State::Received, _) => Reported::Again,
        }
    }

    /// Whether the newest packet sent after this time is still without feedback.
    pub(super) fn oldest_unreported_after(&self, us: u64) -> Option<u64> {
        let newest = self.ring.get(self.slot(self.newest))?;
        (newest.state == State::Sent && self.newest_us > us).then_some(self.newest_us)
    }

    fn slot(&self, sequence: u16) -> usize {
        // Lengths are powers of two that divide the number space.
        usize::from(sequence) % self.ring.len().max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_eight_bytes() {
        assert_eq!(size_of::<Entry>(), 8);
    }

    #[test]
    fn packets_are_found_across_the_wrap_and_reported_once() {
        let mut sent = SentPackets::default();
        for n in 0..100u16 {
            sent.push(65_500u16.wrapping_add(n), 1_000 * u64::from(n), 1_228, (n % 32) as u8);
        }
        let number = 65_500u16.wrapping_add(70);
        let Reported::Received { packet, after_all } = sent.report(number, true) else {
            panic!("known")
        };
        assert_eq!(
            (packet.at_us, packet.bytes, packet.cluster, after_all),
            (70_000, 1_228, 6, false)
        );
        assert_eq!(sent.report(number, true), Reported::Again);
        assert_eq!(sent.report(number, false), Reported::Again, "received is final");
        assert_eq!(sent.report(number + 1, false), Reported::Lost);
        assert!(matches!(
            sent.report(number + 1, true),
            Reported::Received { after_all: true, .. }
        ));
        assert_eq!(sent.report(65_499, true), Reported::Unknown);
        assert_eq!(
            sent.report(65_500u16.wrapping_add(100), true),
            Reported::Unknown,
            "not sent yet"
        );
    }

    #[test]
    fn the_ring_grows_with_what_is_under_way_and_no_further() {
        let mut sent = SentPackets::default();
        for n in 0..60_000u32 {
            sent.push(n as u16, u64::from(n) * 10, 100, 0);
        }
        assert_eq!(sent.ring.len(), LEN_MAX);
        let mut acknowledged = SentPackets::default();
        for n in 0..60_000u32 {
            acknowledged.push(n as u16, u64::from(n) * 10, 100, 0);
            acknowledged.report(n as u16, true);
        }
        assert_eq!(acknowledged.ring.len(), LEN_MIN);
    }

    #[test]
    fn after_a_jump_of_numbers_or_an_hour_of_silence_nothing_old_is_known() {
        let mut sent = SentPackets::default();
        sent.push(10, 0, 100, 0);
        sent.push(12, 10, 100, 0);
        assert_eq!(sent.report(10, true), Reported::Unknown);
        assert_eq!(sent.report(11, true), Reported::Unknown);
        sent.push(13, 3_600_000_000, 100, 0);
        assert_eq!(sent.report(12, true), Reported::Unknown);
        assert!(matches!(sent.report(13, true), Reported::Received { .. }));
    }
}
