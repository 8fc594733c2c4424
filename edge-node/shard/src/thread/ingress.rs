//! From a received datagram to a packet in its track.

use std::time::Instant;

use meridian_transport::Received;
use meridian_udp::Datagram;

use super::Shard;
use super::tracks::{Origin, Track};
use crate::metrics::add;

impl Shard {
    /// Handles every datagram of one receive call, in place; returns how many there were.
    pub(super) fn ingest<'a>(&mut self, datagrams: impl Iterator<Item = Datagram<'a>>, now: Instant) -> u64 {
        let (mut packets, mut bytes, mut strangers) = (0, 0, 0);
        let mut publisher = None;
        for datagram in datagrams {
            packets += 1;
            bytes += datagram.data.len() as u64;
            let Some(slot) = self.peers.owner(datagram.from, datagram.data) else {
                strangers += 1;
                continue;
            };
            let media = self
                .contained(slot, |shard| shard.datagram(slot, datagram, now))
                .unwrap_or(false);
            // Losses are asked for again as soon as they show, once per run of a publisher's packets.
            if media
                && publisher != Some(slot)
                && let Some(previous) = publisher.replace(slot)
            {
                self.contained(previous, |shard| shard.poll_feedback(previous, now));
            }
        }
        if let Some(slot) = publisher {
            self.contained(slot, |shard| shard.poll_feedback(slot, now));
        }
        let counters = &self.shared.counters;
        add(&counters.packets_in, packets);
        add(&counters.bytes_in, bytes);
        add(&counters.drop_unknown_sender, strangers);
        packets
    }

    /// `true`: it was media.
    fn datagram(&mut self, slot: u32, datagram: Datagram<'_>, now: Instant) -> bool {
        let Datagram { from, local, data } = datagram;
        let Some(peer) = self.peers.get_mut(slot) else {
            return false;
        };
        match peer.transport.handle_datagram(now, from, local, data) {
            Received::Rtp { len } => {
                self.rtp(slot, &data[..len], now);
                true
            }
            Received::Rtcp { len } => {
                self.handle_rtcp(slot, &data[..len], now);
                false
            }
            Received::Nothing => {
                self.drain(slot, now);
                false
            }
        }
    }

    fn rtp(&mut self, slot: u32, data: &[u8], now: Instant) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let Some(incoming) = peer.receiver.handle_rtp(now, data) else {
            add(&self.shared.counters.drop_unknown_stream, 1);
            return;
        };
        let Some(Track {
            origin: Origin::Local { uplink, .. },
            ..
        }) = self.tracks.get_mut(&incoming.track)
        else {
            add(&self.shared.counters.drop_unknown_stream, 1);
            return;
        };
        if let Some(packet) = uplink.handle_rtp(now, &incoming, data, &mut self.pool) {
            self.distribute(incoming.track, packet, now);
        }
    }
}
