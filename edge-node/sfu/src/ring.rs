//! The recent packets of one layer, by extended sequence number, shared by all subscribers of a shard.

use crate::packet::Packet;
use std::time::Duration;

/// How long packets are kept for retransmission.
pub const RING_AGE_MAX: Duration = Duration::from_millis(1_500);

/// A window of packets ending at the newest.
pub struct LayerRing {
    slots: Box<[Option<Packet>]>,
    newest: u64,
}

impl LayerRing {
    /// `capacity` is rounded up to a power of two. 512 holds 1 s at 3 Mb/s with 1,200-byte packets, with room to spare.
    pub fn new(capacity: usize) -> Self {
        LayerRing { slots: vec![None; capacity.next_power_of_two()].into(), newest: 0 }
    }

    pub fn get(&self, extended_sequence: u64) -> Option<&Packet> {
        let slot = self.slots[extended_sequence as usize & (self.slots.len() - 1)].as_ref()?;
        (slot.extended_sequence == extended_sequence).then_some(slot)
    }

    /// Highest extended sequence stored so far; 0 = none.
    pub fn newest(&self) -> u64 {
        self.newest
    }
}
