//! Data channels: messages to clients, and how senders of reliable data are held back when it is not taken, by the node or by those it
//! is for.

use std::time::Instant;

use meridian_transport::{Channel, SendDataError};

use super::Shard;
use crate::metrics::add;
use meridian_shard_api::{Event, PeerCloseReason, PeerId};

/// Bytes of reliable data waiting for a peer at which its senders should wait, and at which they may go on.
const QUEUE_HIGH: usize = 256 * 1024;
const QUEUE_LOW: usize = 64 * 1024;

/// Of one peer.
#[derive(Debug, Default)]
pub(crate) struct DataFlow {
    /// Its queue was high and has not been low since.
    full: bool,
    held_by_node: bool,
    /// This shard's events are not taken.
    held_by_backlog: bool,
}

/// Who holds a peer's reliable data back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Node,
    Backlog,
}

impl Shard {
    pub(super) fn send_data(&mut self, slot: u32, channel: Channel, payload: &[u8], now: Instant) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        match peer.transport.send_data(now, channel, payload, true) {
            Err(SendDataError::QueueFull) if channel == Channel::Reliable => {
                add(&self.shared.counters.data_queues_full, 1);
                self.say_goodbye(slot, now);
                self.remove_peer(slot, Some(PeerCloseReason::DataQueueFull));
                return;
            }
            Err(_) => add(&self.shared.counters.drop_data_out, 1),
            Ok(()) => {}
        }
        self.drain(slot, now);
        self.tell_data_queue(slot, channel == Channel::Reliable);
    }

    /// Tells the node when the peer's queue has become long, or short. `grown`: it may have become long.
    pub(super) fn tell_data_queue(&mut self, slot: u32, grown: bool) {
        let Some(peer) = self.peers.get_mut(slot).filter(|peer| grown || peer.data.full) else {
            return;
        };
        let queued = peer.transport.data_queued(Channel::Reliable);
        let full = queued > if peer.data.full { QUEUE_LOW } else { QUEUE_HIGH };
        if full != peer.data.full {
            peer.data.full = full;
            self.events.send(Event::DataQueue { peer: peer.id, full });
        }
    }

    pub(super) fn hold_data(&mut self, slot: u32, holder: Holder, held: bool, now: Instant) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        match holder {
            Holder::Node => peer.data.held_by_node = held,
            Holder::Backlog => peer.data.held_by_backlog = held,
        }
        let held = peer.data.held_by_node || peer.data.held_by_backlog;
        peer.transport.hold_data(now, held);
        self.drain(slot, now);
    }

    /// After a message of the peer: the node takes no more at present.
    pub(super) fn hold_if_behind(&mut self, slot: u32, channel: Channel, now: Instant) {
        if channel != Channel::Reliable || !self.events.is_behind() {
            return;
        }
        let Some(peer) = self.peers.get_mut(slot).filter(|peer| !peer.data.held_by_backlog) else {
            return;
        };
        peer.data.held_by_backlog = true;
        peer.transport.hold_data(now, true);
        self.held_back.push(peer.id);
        add(&self.shared.counters.data_held, 1);
    }

    /// On every tick: once the node has taken everything, those held back for it go on.
    pub(super) fn release_held_back(&mut self, now: Instant) {
        if self.events.has_backlog() {
            return;
        }
        for peer in std::mem::take(&mut self.held_back) {
            self.release(peer, now);
        }
    }

    fn release(&mut self, peer: PeerId, now: Instant) {
        if let Some(slot) = self.peers.find(peer) {
            self.contained(slot, |shard| shard.hold_data(slot, Holder::Backlog, false, now));
        }
    }
}
