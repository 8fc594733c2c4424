//! The recent packets of one encoding, by extended sequence number, shared by all subscribers of a shard. Answers NACKs and
//! recognises duplicates. Bounded by count and by age.

use crate::packet::Packet;
use crate::sequence::SourceSequence;
use std::time::Duration;

/// How long packets are kept for retransmission: longer than any round trip worth repairing over.
pub const RING_AGE_MAX: Duration = Duration::from_millis(1_500);

/// A window of packets ending at the newest.
pub struct PacketRing {
    slots: Box<[Option<Packet>]>,
    newest: SourceSequence,
    /// First number that age has not been checked for.
    tail: SourceSequence,
    /// Highest number that was stored and dropped again: at or below it, nothing is accepted any more.
    floor: SourceSequence,
}

/// What became of a packet offered to the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    Stored,
    Duplicate,
    TooOld,
}

impl PacketRing {
    /// `capacity` is rounded up to a power of two. 512 holds 1 s at 3 Mb/s with 1,200-byte packets, with room to spare.
    pub fn new(capacity: usize) -> Self {
        PacketRing {
            slots: vec![None; capacity.next_power_of_two()].into(),
            newest: SourceSequence(0),
            tail: SourceSequence(0),
            floor: SourceSequence(0),
        }
    }

    pub fn get(&self, extended_sequence: SourceSequence) -> Option<&Packet> {
        let slot = self.slots[self.index(extended_sequence)].as_ref()?;
        (slot.extended_sequence == extended_sequence).then_some(slot)
    }

    /// Highest extended sequence stored so far; 0 = none.
    pub fn newest(&self) -> SourceSequence {
        self.newest
    }

    /// Whether `insert` would store this number.
    pub fn accepts(&self, extended_sequence: SourceSequence) -> Inserted {
        if extended_sequence <= self.floor || extended_sequence.0 + self.slots.len() as u64 <= self.newest.0 {
            Inserted::TooOld
        } else if self.get(extended_sequence).is_some() {
            Inserted::Duplicate
        } else {
            Inserted::Stored
        }
    }

    /// Stores a packet; what falls out goes to `retire`.
    pub fn insert(&mut self, packet: &Packet, mut retire: impl FnMut(Packet)) -> Inserted {
        let sequence = packet.extended_sequence;
        let verdict = self.accepts(sequence);
        if verdict != Inserted::Stored {
            return verdict;
        }
        if sequence > self.newest {
            if self.newest.0 == 0 {
                self.tail = sequence;
            } else if sequence.0 - self.newest.0 >= self.slots.len() as u64 {
                self.floor = self.newest;
                self.slots.iter_mut().filter_map(Option::take).for_each(&mut retire);
                self.tail = sequence;
            }
            self.newest = sequence;
        }
        self.tail = self.tail.min(sequence);
        let index = self.index(sequence);
        if let Some(old) = self.slots[index].replace(packet.clone()) {
            self.floor = self.floor.max(old.extended_sequence);
            retire(old);
        }
        self.drop_aged(packet, retire);
        Inserted::Stored
    }

    /// Low-rate encodings would otherwise keep minutes of packets. Amortised O(1): `tail` only returns for late packets.
    fn drop_aged(&mut self, newest: &Packet, mut retire: impl FnMut(Packet)) {
        let oldest = (self.newest.0 + 1).saturating_sub(self.slots.len() as u64);
        self.tail = self.tail.max(SourceSequence(oldest));
        while self.tail < self.newest {
            let index = self.index(self.tail);
            if let Some(packet) = &self.slots[index]
                && packet.extended_sequence == self.tail
            {
                if newest.arrival.saturating_duration_since(packet.arrival) <= RING_AGE_MAX {
                    return;
                }
                self.floor = self.floor.max(self.tail);
                self.slots[index].take().into_iter().for_each(&mut retire);
            }
            self.tail.0 += 1;
        }
    }

    fn index(&self, extended_sequence: SourceSequence) -> usize {
        extended_sequence.0 as usize & (self.slots.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{Codec, Encoding, Layer};
    use crate::packet::{PacketOrigin, PacketPool};
    use std::sync::Arc;
    use std::time::Instant;

    fn packet(pool: &mut PacketPool, sequence: u64, arrival: Instant) -> Packet {
        let data = [0x80, 96, 0, 0, 0, 0, 0, 1, 0, 0, 0, 7, 1];
        let origin = PacketOrigin {
            arrival,
            encoding: Encoding::ONLY,
            layer: Layer::LOW,
            codec: Codec::Opus,
        };
        let mut packet = pool.parse_link(&data, origin).unwrap();
        Arc::get_mut(&mut packet).unwrap().extended_sequence = SourceSequence(sequence);
        packet
    }

    #[test]
    fn packets_are_found_until_newer_ones_take_their_place() {
        let (mut pool, now) = (PacketPool::new(64), Instant::now());
        let mut ring = PacketRing::new(8);
        for sequence in 100..112 {
            let packet = packet(&mut pool, sequence, now);
            assert_eq!(ring.insert(&packet, drop), Inserted::Stored);
            assert_eq!(ring.insert(&packet, drop), Inserted::Duplicate);
        }
        assert!(
            ring.get(SourceSequence(103)).is_none()
                && ring.get(SourceSequence(104)).is_some()
                && ring.get(SourceSequence(111)).is_some()
        );
        assert_eq!(ring.accepts(SourceSequence(103)), Inserted::TooOld);
        let restart = packet(&mut pool, 200_000, now);
        assert_eq!(ring.insert(&restart, drop), Inserted::Stored);
        assert!(ring.get(SourceSequence(111)).is_none() && ring.accepts(SourceSequence(111)) == Inserted::TooOld);
        assert_eq!(ring.accepts(SourceSequence(199_999)), Inserted::Stored);
    }

    #[test]
    fn a_hole_can_be_filled_late_but_nothing_returns_that_aged_out() {
        let (mut pool, now) = (PacketPool::new(64), Instant::now());
        let mut ring = PacketRing::new(64);
        for (sequence, ms) in [(100, 0), (102, 10), (103, 1_000), (104, 1_600)] {
            ring.insert(&packet(&mut pool, sequence, now + Duration::from_millis(ms)), drop);
        }
        assert!(
            ring.get(SourceSequence(100)).is_none()
                && ring.get(SourceSequence(102)).is_none()
                && ring.get(SourceSequence(103)).is_some()
        );
        assert_eq!(ring.accepts(SourceSequence(100)), Inserted::TooOld);
        assert_eq!(ring.accepts(SourceSequence(101)), Inserted::TooOld);
        let mut ring = PacketRing::new(64);
        for (sequence, ms) in [(100, 0), (102, 10), (103, 20)] {
            ring.insert(&packet(&mut pool, sequence, now + Duration::from_millis(ms)), drop);
        }
        let late = packet(&mut pool, 101, now + Duration::from_millis(80));
        assert_eq!(ring.insert(&late, drop), Inserted::Stored);
    }

    #[test]
    fn a_running_stream_reuses_buffers_and_allocates_nothing() {
        let (mut pool, start) = (PacketPool::new(2_048), Instant::now());
        let mut ring = PacketRing::new(512);
        let mut allocated = 0;
        for sequence in 1..20_000u64 {
            let packet = packet(&mut pool, sequence, start + Duration::from_millis(3 * sequence));
            ring.insert(&packet, |old| pool.retire(old));
            if sequence == 1_000 {
                allocated = pool.allocated();
            }
        }
        assert_eq!(pool.allocated(), allocated);
        assert!(allocated < 600, "{allocated}");
    }
}
