//! The peers of this shard, how datagrams find them, and their life from `AddPeer` to `PeerClosed`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::Instant;

use meridian_sfu::{TrackId, UplinkReceiver};
use meridian_transport::{DatagramKind, IceCredentials, Output, Peer, PeerConfig, PeerEvent, kind, stun_local_ufrag};
use rand::Rng;

use super::data::DataFlow;
use super::link::SubscriberLink;
use super::slab::Slab;
use super::tick::Totals;
use super::{IN_PROCESS, Shard};
use meridian_shard_api::{Event, PeerCloseReason, PeerId};

/// Addresses that lead to one peer: the selected path's and those before it, from which packets may still be under way.
const ADDRESSES_MAX: usize = 4;
/// ICE generations whose ufrag finds the peer: the present one and the one before a restart.
const UFRAGS_MAX: usize = 2;

/// Where a peer's packets go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendPath {
    /// Behind the last one: this process's TURN server.
    pub(crate) socket: usize,
    pub(crate) source: Option<IpAddr>,
    pub(crate) to: SocketAddr,
}

pub(crate) struct PeerSlot {
    // What the fan-out touches comes first.
    pub(crate) path: Option<SendPath>,
    pub(crate) transport_sequence: u16,
    /// Of a peer that receives something, once it negotiated or sent what an estimate is made of.
    pub(crate) link: Option<Box<SubscriberLink>>,
    pub(crate) connected: bool,
    pub(crate) transport: Peer,
    pub(crate) id: PeerId,
    pub(crate) receiver: UplinkReceiver,
    pub(crate) published: Vec<TrackId>,
    /// Indices into the shard's subscriptions.
    pub(crate) subscriptions: Vec<u32>,
    /// When the timer heap will look at the transport.
    pub(crate) armed: Option<Instant>,
    pub(crate) totals: Totals,
    pub(super) data: DataFlow,
    ufrags: VecDeque<String>,
    addresses: VecDeque<SocketAddr>,
}

pub(crate) struct Peers {
    slots: Slab<PeerSlot>,
    by_index: HashMap<u32, u32>,
    by_ufrag: HashMap<String, u32>,
    by_address: HashMap<SocketAddr, u32>,
    /// The last sender: datagrams come in runs.
    last: Option<(SocketAddr, u32)>,
    pub(crate) timers: BinaryHeap<Reverse<(Instant, u32)>>,
}

impl Peers {
    pub(crate) fn new() -> Peers {
        Peers {
            slots: Slab::new(),
            by_index: HashMap::new(),
            by_ufrag: HashMap::new(),
            by_address: HashMap::new(),
            last: None,
            timers: BinaryHeap::new(),
        }
    }

    #[inline]
    pub(crate) fn get(&self, slot: u32) -> Option<&PeerSlot> {
        self.slots.get(slot)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut PeerSlot> {
        self.slots.get_mut(slot)
    }

    pub(crate) fn find(&self, id: PeerId) -> Option<u32> {
        self.by_index.get(&id.index).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn bound(&self) -> u32 {
        self.slots.bound()
    }

    pub(crate) fn indices(&self) -> impl Iterator<Item = u32> + use<> {
        let mut all: Vec<u32> = self.by_index.values().copied().collect();
        all.sort_unstable();
        all.into_iter()
    }

    /// The peer a datagram belongs to. A STUN request names its peer itself, which also finds a client that moved, or one
    /// that came back from a port that an older peer still holds; everything else goes by address. Nothing is learnt
    /// here: an address leads to a peer only after the transport has authenticated a request from it.
    pub(crate) fn owner(&mut self, from: SocketAddr, datagram: &[u8]) -> Option<u32> {
        if kind(datagram) == DatagramKind::Stun
            && let Some(ufrag) = stun_local_ufrag(datagram)
        {
            return self.by_ufrag.get(ufrag).copied();
        }
        if let Some((address, slot)) = self.last
            && address == from
        {
            return Some(slot);
        }
        let slot = self.by_address.get(&from).copied()?;
        self.last = Some((from, slot));
        Some(slot)
    }

    fn learn(&mut self, slot: u32, address: SocketAddr) {
        self.last = None;
        let Some(peer) = self.slots.get_mut(slot) else { return };
        peer.addresses.retain(|&a| a != address);
        peer.addresses.push_back(address);
        let forgotten = if peer.addresses.len() > ADDRESSES_MAX {
            peer.addresses.pop_front()
        } else {
            None
        };
        self.by_address.insert(address, slot);
        if let Some(old) = forgotten {
            self.forget(slot, old);
        }
    }

    fn forget(&mut self, slot: u32, address: SocketAddr) {
        if self.by_address.get(&address) == Some(&slot) {
            self.by_address.remove(&address);
        }
    }

    fn name(&mut self, slot: u32, ufrag: String) {
        let Some(peer) = self.slots.get_mut(slot) else { return };
        peer.ufrags.push_back(ufrag.clone());
        let old = if peer.ufrags.len() > UFRAGS_MAX {
            peer.ufrags.pop_front()
        } else {
            None
        };
        self.by_ufrag.insert(ufrag, slot);
        if let Some(old) = old {
            self.unname(slot, &old);
        }
    }

    fn unname(&mut self, slot: u32, ufrag: &str) {
        if self.by_ufrag.get(ufrag) == Some(&slot) {
            self.by_ufrag.remove(ufrag);
        }
    }

    fn insert(&mut self, peer: PeerSlot) -> u32 {
        let id = peer.id;
        let slot = self.slots.insert(peer);
        self.by_index.insert(id.index, slot);
        slot
    }

    fn remove(&mut self, slot: u32) -> Option<PeerSlot> {
        self.last = None;
        let peer = self.slots.remove(slot)?;
        self.by_index.remove(&peer.id.index);
        for address in &peer.addresses {
            self.forget(slot, *address);
        }
        for ufrag in &peer.ufrags {
            self.unname(slot, ufrag);
        }
        Some(peer)
    }

    /// Puts the transport's next timeout on the heap, unless an earlier look is planned already.
    pub(crate) fn arm(&mut self, slot: u32) {
        if let Some(at) = self.slots.get(slot).and_then(|p| p.transport.poll_timeout()) {
            self.arm_at(slot, at);
        }
    }

    /// Plans a look at this peer: its transport and its feedback.
    pub(crate) fn arm_at(&mut self, slot: u32, at: Instant) {
        let Some(peer) = self.slots.get_mut(slot) else { return };
        if peer.armed.is_none_or(|armed| at < armed) {
            peer.armed = Some(at);
            self.timers.push(Reverse((at, slot)));
        }
    }
}

impl Shard {
    pub(super) fn add_peer(&mut self, id: PeerId, config: PeerConfig, now: Instant) {
        if self.peers.find(id).is_some() {
            // The front has counted it a second time.
            self.shared.load.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let full =
            self.peers.len() >= self.shared.config.peers_max || self.peers.by_ufrag.contains_key(&config.local.ufrag);
        let ufrag = config.local.ufrag.clone();
        let transport = if full { None } else { Peer::new(config, now).ok() };
        let Some(transport) = transport else {
            self.shared.load.fetch_sub(1, Ordering::Relaxed);
            self.events.send(Event::PeerClosed {
                peer: id,
                reason: PeerCloseReason::Refused,
            });
            return;
        };
        let slot = self.peers.insert(PeerSlot {
            path: None,
            transport_sequence: self.rng.random(),
            link: None,
            connected: false,
            transport,
            id,
            receiver: UplinkReceiver::new(now, self.rng.random()),
            published: Vec::new(),
            subscriptions: Vec::new(),
            armed: None,
            totals: Totals::new(now),
            data: DataFlow::default(),
            ufrags: VecDeque::new(),
            addresses: VecDeque::new(),
        });
        self.peers.name(slot, ufrag);
        self.shared
            .counters
            .peers
            .store(self.peers.len() as u64, Ordering::Relaxed);
        self.drain(slot, now);
    }

    pub(super) fn restart_ice(&mut self, slot: u32, local: IceCredentials, remote: IceCredentials, now: Instant) {
        let ufrag = local.ufrag.clone();
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.transport.restart_ice(local, remote);
        }
        self.peers.name(slot, ufrag);
        self.drain(slot, now);
    }

    /// Everything the transport has to say, after anything was done to it.
    pub(super) fn drain(&mut self, slot: u32, now: Instant) {
        while let Some(output) = self.peers.get_mut(slot).and_then(|p| p.transport.poll_output()) {
            match output {
                Output::Transmit { from, to, payload } => {
                    if let Some(path) = self.path_of(from, to) {
                        self.egress.push(&self.sockets, path, &payload);
                    }
                }
                Output::Event(event) => self.transport_event(slot, event, now),
            }
        }
        self.tell_data_queue(slot, false);
        self.peers.arm(slot);
    }

    fn path_of(&self, local: SocketAddr, to: SocketAddr) -> Option<SendPath> {
        if local.port() == IN_PROCESS {
            return Some(SendPath {
                socket: self.sockets.len(),
                source: Some(local.ip()),
                to,
            });
        }
        let socket = self.sockets.iter().position(|s| {
            let bound = s.local_addr();
            bound.port() == local.port()
                && bound.is_ipv4() == local.is_ipv4()
                && (bound.ip() == local.ip() || bound.ip().is_unspecified())
        })?;
        Some(SendPath {
            socket,
            source: Some(local.ip()),
            to,
        })
    }

    fn transport_event(&mut self, slot: u32, event: PeerEvent, now: Instant) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let id = peer.id;
        match event {
            PeerEvent::Connected { profile } => {
                peer.connected = true;
                self.events.send(Event::PeerConnected { peer: id, profile });
                self.ask_for_keyframes(slot, now);
            }
            PeerEvent::PathChanged { local, remote } => {
                let path = self.path_of(local, remote);
                if let Some(peer) = self.peers.get_mut(slot) {
                    peer.path = path;
                }
                self.peers.learn(slot, remote);
            }
            PeerEvent::ChannelOpen(channel) => self.events.send(Event::ChannelOpen { peer: id, channel }),
            PeerEvent::Data {
                channel,
                payload,
                binary,
            } => {
                self.events.send(Event::Data {
                    peer: id,
                    channel,
                    payload,
                    binary,
                });
                self.hold_if_behind(slot, channel, now);
            }
            PeerEvent::Closed(reason) => self.remove_peer(slot, Some(PeerCloseReason::Transport(reason))),
        }
    }

    /// Forgets the peer and everything of it. `reason`: tell the node.
    pub(super) fn remove_peer(&mut self, slot: u32, reason: Option<PeerCloseReason>) {
        let Some(peer) = self.peers.remove(slot) else { return };
        for subscription in &peer.subscriptions {
            self.drop_subscription(*subscription);
        }
        for track in &peer.published {
            self.end_track(*track);
        }
        self.shared
            .counters
            .note_transport(&peer.totals.transport, &peer.transport.stats());
        self.shared.load.fetch_sub(1, Ordering::Relaxed);
        self.shared
            .counters
            .peers
            .store(self.peers.len() as u64, Ordering::Relaxed);
        if let Some(reason) = reason {
            self.events.send(Event::PeerClosed { peer: peer.id, reason });
        }
    }

    /// Sends close_notify; what the transport says about it afterwards is not news.
    pub(super) fn say_goodbye(&mut self, slot: u32, now: Instant) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        peer.transport.close(now);
        while let Some(output) = self.peers.get_mut(slot).and_then(|p| p.transport.poll_output()) {
            if let Output::Transmit { from, to, payload } = output
                && let Some(path) = self.path_of(from, to)
            {
                self.egress.push(&self.sockets, path, &payload);
            }
        }
    }

    pub(super) fn run_timers(&mut self, now: Instant) {
        while let Some(&Reverse((at, slot))) = self.peers.timers.peek() {
            if at > now {
                return;
            }
            self.peers.timers.pop();
            let Some(peer) = self.peers.get_mut(slot) else { continue };
            if peer.armed != Some(at) {
                continue;
            }
            peer.armed = None;
            self.contained(slot, |shard| {
                if let Some(peer) = shard.peers.get_mut(slot)
                    && peer.transport.poll_timeout().is_some_and(|due| due <= now)
                {
                    peer.transport.handle_timeout(now);
                    shard.drain(slot, now);
                } else {
                    shard.peers.arm(slot);
                }
                shard.poll_feedback(slot, now);
                shard.drive_link(slot, now);
            });
        }
    }
}
