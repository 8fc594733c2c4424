//! From waiting packets to datagrams: each subscriber's copy is written and encrypted in the outgoing batch itself.

use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use meridian_sfu::packet::PACKET_BYTES_MAX;
use meridian_sfu::{Downlink, Forwarded, Packet, SendContext, Source};
use meridian_udp::{Batch, LocalPorts, Socket};

use super::Shard;
use super::peers::{PeerSlot, SendPath};
use super::subscriptions::Subscription;
use crate::metrics::{Counters, add};
use meridian_shard_api::Event;

/// Outgoing bytes collected before they must be sent: 64 messages of a frame's four packets.
const BATCH_BYTES: usize = 384 * 1024;
/// What `Downlink::forward` wants, and the SRTP tag behind it.
const HEADER_ROOM: usize = 64;
const TAG_ROOM: usize = 16;
const ROOM: usize = PACKET_BYTES_MAX + HEADER_ROOM + TAG_ROOM + PAD_MAX;
/// Packets of one frame that differ by at most this many bytes are padded to one size (RTP padding, RFC 3550 §5.1), so
/// that they leave as one segmented message. libwebrtc cuts a frame into sizes that differ by a few bytes.
const PAD_MAX: usize = 32;

/// The outgoing batches, one per socket, and one for clients behind this process's TURN server.
pub(crate) struct Egress {
    batches: Vec<Batch>,
    turn: Turn,
    counters: Arc<Counters>,
    epoch: Instant,
}

/// How long packets of one layer are to become, decided once per flush for all subscribers.
#[derive(Clone, Copy)]
struct Shape {
    /// Longest payload of the packet's layer in this flush.
    payload_max: usize,
    /// The last of its layer: it may be shorter without ending a message early.
    last: bool,
}

impl Egress {
    pub(crate) fn new(
        sockets: &[Socket],
        turn: Arc<OnceLock<Arc<dyn LocalPorts>>>,
        counters: Arc<Counters>,
        now: Instant,
    ) -> Egress {
        Egress {
            batches: (0..=sockets.len()).map(|_| Batch::new(BATCH_BYTES)).collect(),
            turn: Turn {
                server: turn,
                bound: sockets.iter().map(Socket::local_addr).collect(),
            },
            counters,
            epoch: now,
        }
    }

    pub(crate) fn push(&mut self, sockets: &[Socket], path: SendPath, payload: &[u8]) {
        let Some(batch) = self.batches.get_mut(path.socket) else {
            return;
        };
        if !batch.push(path.to, path.source, payload) {
            let batch = &mut self.batches[path.socket];
            send(batch, sockets.get(path.socket), &self.turn, &self.counters);
            self.batches[path.socket].push(path.to, path.source, payload);
        }
    }

    pub(crate) fn send_all(&mut self, sockets: &[Socket]) {
        for (index, batch) in self.batches.iter_mut().enumerate() {
            send(batch, sockets.get(index), &self.turn, &self.counters);
        }
    }

    /// 24 bits of 6.18 fixed-point seconds (abs-send-time).
    fn abs_send_time(&self, now: Instant) -> u32 {
        let micros = now.saturating_duration_since(self.epoch).as_micros();
        (((micros << 18) / 1_000_000) & 0xff_ffff) as u32
    }
}

/// The TURN server that shares this process.
struct Turn {
    server: Arc<OnceLock<Arc<dyn LocalPorts>>>,
    /// Our own sockets, whose addresses its clients know.
    bound: Vec<SocketAddr>,
}

impl Turn {
    fn send(&self, batch: &mut Batch, counters: &Counters) {
        let server = self.server.get();
        batch.hand_out(|to, source, segment, bytes| {
            let count = bytes.len().div_ceil(segment) as u64;
            let delivered = server.zip(source).is_some_and(|(server, source)| {
                let port = self.port_of(source);
                port.is_some_and(|port| server.deliver(SocketAddr::new(source, port), to, segment, bytes))
            });
            let counter = if delivered {
                &counters.relayed_out
            } else {
                &counters.drop_relayed
            };
            add(counter, count);
        });
        if let Some(server) = server {
            server.wake();
        }
    }

    /// The port that goes with one of our addresses.
    fn port_of(&self, ip: IpAddr) -> Option<u16> {
        let mut same_family = self.bound.iter().filter(|bound| bound.is_ipv4() == ip.is_ipv4());
        let exact = self.bound.iter().find(|bound| bound.ip() == ip);
        exact.or_else(|| same_family.next()).map(SocketAddr::port)
    }
}

/// Empties a batch into its socket, or, if it has none, into this process's TURN server.
fn send(batch: &mut Batch, socket: Option<&Socket>, turn: &Turn, counters: &Counters) {
    if batch.is_empty() {
        return;
    }
    let Some(socket) = socket else {
        return turn.send(batch, counters);
    };
    let before = *batch.stats();
    socket.send(batch);
    counters.note_send(&before, batch.stats());
}

impl Shard {
    /// Forwards everything that waits.
    pub(super) fn flush(&mut self, now: Instant) {
        self.flush_now = false;
        self.flush_at = None;
        let mut dirty = std::mem::take(&mut self.dirty);
        let mut failed = std::mem::take(&mut self.scratch.failed);
        let mut held = std::mem::take(&mut self.scratch.held);
        for id in dirty.drain(..) {
            let Some(track) = self.tracks.get_mut(&id) else {
                continue;
            };
            let mut fresh = std::mem::take(&mut track.fresh);
            let mut run = Run {
                source: track.origin.source(),
                fresh: &fresh,
                shapes: shapes(&fresh),
                abs_send_time: self.egress.abs_send_time(now),
                now,
                released: false,
                held: &mut held,
                egress: &mut self.egress,
                sockets: &self.sockets,
            };
            for &index in &track.subscribers {
                let Some(subscription) = self.subscriptions.get_mut(index) else {
                    continue;
                };
                let Some(peer) = self.peers.get_mut(subscription.peer) else {
                    continue;
                };
                match catch_unwind(AssertUnwindSafe(|| run.forward(peer, index, subscription))) {
                    Ok(false) => {}
                    Ok(true) => self.events.send(Event::SubscriptionStarted {
                        peer: peer.id,
                        track: id,
                    }),
                    Err(_) => failed.push(subscription.peer),
                }
            }
            fresh.clear();
            track.fresh = fresh;
        }
        self.dirty = dirty;
        self.egress.send_all(&self.sockets);
        self.taps.flush();
        for peer in held.drain(..) {
            self.arm_link(peer, now);
        }
        self.scratch.held = held;
        for peer in failed.drain(..) {
            self.peer_panicked(peer);
        }
        self.scratch.failed = failed;
    }

    /// Packets whose turn has come.
    pub(super) fn release_waiting(&mut self, slot: u32, now: Instant) {
        while let Some(peer) = self.peers.get_mut(slot)
            && let Some(waiting) = peer.link.as_deref_mut().and_then(|link| link.release(now))
        {
            let Some(subscription) = self.subscriptions.get_mut(waiting.subscription) else {
                continue;
            };
            // The number may be somebody else's by now.
            if subscription.peer != slot || subscription.track != waiting.track {
                continue;
            }
            let Some(track) = self.tracks.get(&waiting.track) else {
                continue;
            };
            let fresh = [waiting.packet];
            let mut run = Run {
                source: track.origin.source(),
                fresh: &fresh,
                shapes: [Shape::ALONE; SHAPES_MAX],
                abs_send_time: self.egress.abs_send_time(now),
                now,
                released: true,
                held: &mut self.scratch.held,
                egress: &mut self.egress,
                sockets: &self.sockets,
            };
            if run.forward(peer, waiting.subscription, subscription) {
                self.events.send(Event::SubscriptionStarted {
                    peer: peer.id,
                    track: waiting.track,
                });
            }
        }
    }

    /// One packet of padding on a stream of this peer that takes it; `false` = there is none.
    pub(super) fn send_padding(&mut self, slot: u32, bytes: usize, now: Instant) -> bool {
        let Some(peer) = self.peers.get_mut(slot) else {
            return false;
        };
        for i in 0..peer.subscriptions.len() {
            let Some(subscription) = self.subscriptions.get_mut(peer.subscriptions[i]) else {
                continue;
            };
            let Some(track) = self.tracks.get(&subscription.track) else {
                continue;
            };
            let mut run = Run {
                source: track.origin.source(),
                fresh: &[],
                shapes: [Shape::ALONE; SHAPES_MAX],
                abs_send_time: self.egress.abs_send_time(now),
                now,
                released: true,
                held: &mut self.scratch.held,
                egress: &mut self.egress,
                sockets: &self.sockets,
            };
            if run.alone(peer, subscription, |downlink, _, context, slot| {
                downlink.padding(bytes, context, slot)
            }) {
                add(&self.shared.counters.padding_out, 1);
                return true;
            }
        }
        false
    }

    /// Answers one NACKed packet.
    pub(super) fn retransmit(&mut self, index: u32, sequence: u16, now: Instant) {
        let Some(subscription) = self.subscriptions.get_mut(index) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(subscription.peer) else {
            return;
        };
        let Some(track) = self.tracks.get(&subscription.track) else {
            return;
        };
        let mut run = Run {
            source: track.origin.source(),
            fresh: &[],
            shapes: [Shape::ALONE; SHAPES_MAX],
            abs_send_time: self.egress.abs_send_time(now),
            now,
            released: true,
            held: &mut self.scratch.held,
            egress: &mut self.egress,
            sockets: &self.sockets,
        };
        if run.alone(peer, subscription, |downlink, source, context, slot| {
            downlink.retransmit(sequence, source, context, slot)
        }) {
            add(&self.shared.counters.media_out, 1);
            add(&self.shared.counters.retransmissions_out, 1);
        }
    }
}

/// Packets of one flush whose lengths are evened out; further ones go as they are.
const SHAPES_MAX: usize = 32;

impl Shape {
    const ALONE: Shape = Shape {
        payload_max: 0,
        last: true,
    };
}

fn shapes(fresh: &[Packet]) -> [Shape; SHAPES_MAX] {
    let mut shapes = [Shape::ALONE; SHAPES_MAX];
    let considered = &fresh[..fresh.len().min(SHAPES_MAX)];
    for (i, packet) in considered.iter().enumerate() {
        if packet.codec.kind() == meridian_sfu::MediaKind::Video {
            let same = || considered.iter().filter(|p| p.layer == packet.layer);
            shapes[i].payload_max = same().map(|p| p.payload().len()).max().unwrap_or(0);
            shapes[i].last = !considered[i + 1..].iter().any(|p| p.layer == packet.layer);
        }
    }
    shapes
}

/// One track's waiting packets on their way to its subscribers.
struct Run<'a> {
    source: &'a Source,
    fresh: &'a [Packet],
    shapes: [Shape; SHAPES_MAX],
    abs_send_time: u32,
    now: Instant,
    /// The packets have waited already.
    released: bool,
    /// Peers for whom packets begin to wait.
    held: &'a mut Vec<u32>,
    egress: &'a mut Egress,
    sockets: &'a [Socket],
}

impl Run<'_> {
    /// All waiting packets to one subscriber; `true` = the first packet of the subscription was among them.
    fn forward(&mut self, peer: &mut PeerSlot, index: u32, subscription: &mut Subscription) -> bool {
        let Some(path) = peer.path.filter(|_| peer.connected) else {
            return false;
        };
        let Some(srtp) = peer.transport.srtp() else {
            return false;
        };
        let batch = &mut self.egress.batches[path.socket];
        // The length all packets of the frame get, known once the first header is written.
        let mut size = 0;
        let mut sent = 0;
        for (i, packet) in self.fresh.iter().enumerate() {
            if !self.released
                && let Some(link) = &mut peer.link
            {
                let waited = link.is_waiting();
                if link.holds(self.now, (index, subscription.track), &subscription.downlink, packet) {
                    if !waited {
                        self.held.push(subscription.peer);
                    }
                    continue;
                }
            }
            let slot = match batch.slot(path.to, path.source, ROOM) {
                Some(slot) => slot,
                None => {
                    let socket = self.sockets.get(path.socket);
                    send(batch, socket, &self.egress.turn, &self.egress.counters);
                    match batch.slot(path.to, path.source, ROOM) {
                        Some(slot) => slot,
                        None => return false,
                    }
                }
            };
            let number = peer.transport_sequence;
            let mut context = SendContext {
                now: self.now,
                abs_send_time: self.abs_send_time,
                transport_sequence: &mut peer.transport_sequence,
                pad_to: 1,
            };
            let Some(forwarded) = subscription.downlink.forward(self.source, packet, &mut context, slot) else {
                continue;
            };
            let mut len = forwarded.len;
            // A packet that comes too late for its place in the stream leaves as RTX, on a stream of its own.
            let stream = if forwarded.rtx {
                &mut subscription.rtx
            } else {
                &mut subscription.stream
            };
            if let Some(shape) = self.shapes.get(i).filter(|_| !forwarded.rtx) {
                size = size.max(forwarded.header_len + shape.payload_max);
                if !shape.last {
                    len = pad(slot, &forwarded, size);
                }
            }
            match srtp.protect_rtp(stream, slot, forwarded.header_len, len) {
                Ok(protected) => {
                    batch.commit(protected);
                    sent += 1;
                    if let Some(link) = &mut peer.link {
                        let carried = peer.transport_sequence != number;
                        link.sent(self.now, carried.then_some(number), protected);
                    }
                }
                Err(_) => add(&self.egress.counters.drop_protect, 1),
            }
        }
        add(&self.egress.counters.media_out, sent);
        if sent > 0 && !subscription.started {
            subscription.started = true;
            return true;
        }
        false
    }

    /// One packet on its own, as `write` writes it; `true` = it leaves.
    fn alone(
        &mut self,
        peer: &mut PeerSlot,
        subscription: &mut Subscription,
        write: impl FnOnce(&mut Downlink, &Source, &mut SendContext<'_>, &mut [u8]) -> Option<Forwarded>,
    ) -> bool {
        let Some(path) = peer.path.filter(|_| peer.connected) else {
            return false;
        };
        let Some(srtp) = peer.transport.srtp() else {
            return false;
        };
        let batch = &mut self.egress.batches[path.socket];
        if batch.slot(path.to, path.source, ROOM).is_none() {
            send(
                batch,
                self.sockets.get(path.socket),
                &self.egress.turn,
                &self.egress.counters,
            );
        }
        let Some(slot) = batch.slot(path.to, path.source, ROOM) else {
            return false;
        };
        let number = peer.transport_sequence;
        let mut context = SendContext {
            now: self.now,
            abs_send_time: self.abs_send_time,
            transport_sequence: &mut peer.transport_sequence,
            pad_to: 1,
        };
        let Some(f) = write(&mut subscription.downlink, self.source, &mut context, slot) else {
            return false;
        };
        let stream = if f.rtx {
            &mut subscription.rtx
        } else {
            &mut subscription.stream
        };
        match srtp.protect_rtp(stream, slot, f.header_len, f.len) {
            Ok(protected) => {
                batch.commit(protected);
                if let Some(link) = &mut peer.link {
                    let carried = peer.transport_sequence != number;
                    link.sent(self.now, carried.then_some(number), protected);
                }
                true
            }
            Err(_) => {
                add(&self.egress.counters.drop_protect, 1);
                false
            }
        }
    }
}

/// Brings a packet to `size` bytes with RTP padding if little is missing; returns its length.
#[inline]
fn pad(slot: &mut [u8], forwarded: &Forwarded, size: usize) -> usize {
    const PADDING_BIT: u8 = 0x20;
    let len = forwarded.len;
    let missing = size.saturating_sub(len);
    if missing == 0 || missing > PAD_MAX || slot[0] & PADDING_BIT != 0 {
        return len;
    }
    slot[0] |= PADDING_BIT;
    slot[len..size - 1].fill(0);
    slot[size - 1] = missing as u8;
    size
}
