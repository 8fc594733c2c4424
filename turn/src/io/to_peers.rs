//! Datagrams on their way to peers. Every allocation has a relay socket of its own, so they cannot leave in one system call; but
//! they are collected until everything of a round has been looked at, and then leave one behind the other: the server's code and
//! tables stay in the processor's caches meanwhile, and then the kernel's do.

use std::net::SocketAddr;
use std::ops::Range;

use meridian_udp::Batch;

use super::outbound::BATCH_BYTES;

pub(super) struct ToPeers {
    batch: Batch,
    /// The relay that the end of the batch is for.
    slot: usize,
    /// Earlier runs: whose they are, and where in the batch each ends.
    runs: Vec<(usize, usize)>,
}

impl ToPeers {
    pub(super) fn new() -> ToPeers {
        ToPeers {
            batch: Batch::new(BATCH_BYTES),
            slot: 0,
            runs: Vec::new(),
        }
    }

    /// One datagram from the relay at `slot`; `false` = hand out first. A burst for one peer becomes one message.
    #[inline]
    pub(super) fn push(&mut self, slot: usize, to: SocketAddr, payload: &[u8]) -> bool {
        if slot != self.slot {
            self.end_run();
            self.slot = slot;
        }
        self.batch.push(to, None, payload)
    }

    fn end_run(&mut self) {
        let end = self.batch.seal();
        if end > self.runs.last().map_or(0, |&(_, end)| end) {
            self.runs.push((self.slot, end));
        }
    }

    /// Empties it: each run's slot and messages, in order.
    pub(super) fn hand_out(&mut self, mut send: impl FnMut(usize, &mut Batch, Range<usize>)) {
        self.end_run();
        let mut start = 0;
        for (slot, end) in self.runs.drain(..) {
            send(slot, &mut self.batch, start..end);
            start = end;
        }
        self.batch.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_leaves_through_its_own_relay_and_in_order() {
        let peer = SocketAddr::from(([127, 0, 0, 1], 9));
        let mut queue = ToPeers::new();
        for (slot, payload) in [(3, 1), (3, 2), (5, 3), (3, 4)] {
            assert!(queue.push(slot, peer, &[payload; 100]));
        }
        let mut runs = Vec::new();
        queue.hand_out(|slot, _, messages| runs.push((slot, messages)));
        assert_eq!(
            runs,
            [(3, 0..1), (5, 1..2), (3, 2..3)],
            "equal datagrams of one relay share a message"
        );
        queue.hand_out(|slot, _, _| panic!("nothing is left for {slot}"));
    }

    #[test]
    fn a_full_batch_asks_to_be_handed_out() {
        let mut queue = ToPeers::new();
        let peer = |port: usize| SocketAddr::from(([127, 0, 0, 1], 1 + port as u16));
        let taken = (0..100).take_while(|&n| queue.push(n, peer(n), b"x")).count();
        assert!((1..100).contains(&taken));
        let mut runs = 0;
        queue.hand_out(|_, _, _| runs += 1);
        assert_eq!(runs, taken);
        assert!(queue.push(7, peer(7), b"x"));
    }
}
