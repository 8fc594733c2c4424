//! Packets of one RTP stream in order of their sequence numbers. A hole is waited for as long as a retransmission can take, then
//! told as a loss.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use meridian_sfu::Packet;

/// How long a hole may wait for its packet: the publisher's NACK rounds over a 300 ms path.
pub(crate) const PATIENCE: Duration = Duration::from_millis(700);
/// Packets that wait behind holes at most: half a second of a 20 Mb/s stream. More than that is a loss.
const WAITING_MAX: usize = 1024;

pub(crate) enum Ordered {
    Packet(Packet),
    /// So many packets before the next one are lost.
    Lost(u64),
}

#[derive(Default)]
pub(crate) struct Order {
    /// The number that is due.
    next: Option<u64>,
    waiting: BTreeMap<u64, Packet>,
    /// When the oldest hole's successor came.
    since: Option<Instant>,
}

impl Order {
    /// Takes a packet; hands on what is in order now. Duplicates and packets that come too late are dropped.
    pub(crate) fn push(&mut self, now: Instant, packet: Packet, out: &mut impl FnMut(Ordered)) {
        let sequence = packet.extended_sequence.0;
        match self.next {
            Some(next) if sequence < next => return,
            Some(next) if sequence > next => {
                self.waiting.insert(sequence, packet);
                self.since.get_or_insert(now);
                if self.waiting.len() > WAITING_MAX {
                    self.skip(out);
                }
                self.expire(now, out);
                return;
            }
            _ => {}
        }
        self.next = Some(sequence + 1);
        out(Ordered::Packet(packet));
        if !self.waiting.is_empty() {
            self.release(out);
            self.since = (!self.waiting.is_empty()).then_some(now);
        }
    }

    /// Gives up holes whose time is over.
    pub(crate) fn expire(&mut self, now: Instant, out: &mut impl FnMut(Ordered)) {
        if self.since.is_some_and(|since| now.duration_since(since) >= PATIENCE) {
            self.skip(out);
            self.since = (!self.waiting.is_empty()).then_some(now);
        }
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + PATIENCE)
    }

    /// The stream is over: what waits comes out, with what is missing.
    pub(crate) fn finish(&mut self, out: &mut impl FnMut(Ordered)) {
        while !self.waiting.is_empty() {
            self.skip(out);
        }
        self.next = None;
        self.since = None;
    }

    /// Gives up the oldest hole.
    fn skip(&mut self, out: &mut impl FnMut(Ordered)) {
        let Some((&first, _)) = self.waiting.first_key_value() else {
            return;
        };
        let due = self.next.unwrap_or(first);
        if first > due {
            out(Ordered::Lost(first - due));
        }
        self.next = Some(first);
        self.release(out);
    }

    fn release(&mut self, out: &mut impl FnMut(Ordered)) {
        while let Some(entry) = self.waiting.first_entry() {
            if Some(*entry.key()) != self.next {
                break;
            }
            self.next = Some(*entry.key() + 1);
            out(Ordered::Packet(entry.remove()));
        }
    }
}
