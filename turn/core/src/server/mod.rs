//! The protocol of one worker, sans-IO. Whoever drives it feeds every datagram or frame of a client to
//! [`Server::handle_client`] and every datagram that arrives on a relay socket to [`Server::handle_peer`], then drains
//! [`Server::poll_command`], and calls [`Server::handle_timeout`] when [`Server::poll_timeout`] says so (earlier calls
//! do nothing and are safe). Relayed payload is never copied here: results borrow the input.

mod allocation;
mod auth;
mod counters;
mod data;
mod requests;
mod shared;
mod tcp;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rand::Rng;

use crate::sockets::{AllocationPort, ClientSocket, Family, PeerSocket};
use crate::stun::{Class, ErrorCode, Message, MessageWriter, Method, attribute};
use allocation::{Allocation, Reach, RelayState};
use counters::add;
use tcp::Connections;

pub use allocation::Protocol;
pub use counters::Counters;
pub use data::{Framing, Relayed, ToClient, ToPeer};
pub use shared::{ConfigError, RelayAddress, ServerConfig, Shared};
pub use tcp::ConnectionId;

/// One allocation of one worker; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllocationId {
    pub index: u32,
    generation: u32,
}

/// One relayed transport address of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayId {
    pub allocation: AllocationId,
    pub family: Family,
}

/// What the shell has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send a message to a client, from `client.local`.
    Send { client: ClientSocket, message: Vec<u8> },
    /// Bind a UDP socket (or a listening TCP one) there, and report to [`Server::relay_opened`].
    OpenRelay {
        relay: RelayId,
        bind: SocketAddr,
        protocol: Protocol,
    },
    /// Close that socket.
    CloseRelay { relay: RelayId },
    /// Connect from one address to the other over TCP, and report to [`Server::peer_connected`].
    ConnectPeer {
        connection: ConnectionId,
        from: SocketAddr,
        to: SocketAddr,
    },
    /// Close the connection to the peer, and the client's data connection that is spliced to it.
    ClosePeer { connection: ConnectionId },
    /// From here on, bytes pass between the two unchanged; report the end to [`Server::peer_closed`].
    Splice {
        connection: ConnectionId,
        client: ClientSocket,
    },
    /// The stream's last frame concerns another worker: take the stream there and hand in the frame again.
    HandOver { client: ClientSocket, worker: u8 },
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    allocation: Option<Allocation>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Server<R> {
    shared: Arc<Shared>,
    /// Which of the workers; part of connection ids.
    worker: u8,
    rng: R,
    counters: Arc<Counters>,
    now: Instant,
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_client: HashMap<ClientSocket, AllocationId>,
    by_port: HashMap<(Family, AllocationPort), AllocationId>,
    deadlines: BTreeSet<(Instant, AllocationId)>,
    connections: Connections,
    commands: VecDeque<Command>,
    /// Bursts come from one client: spares the hash.
    last: Option<(ClientSocket, AllocationId)>,
}

impl<R: Rng> Server<R> {
    /// `worker`: the same number for no two servers of one `shared`.
    pub fn new(shared: Arc<Shared>, worker: u8, now: Instant, rng: R) -> Server<R> {
        Server {
            shared,
            worker,
            rng,
            counters: Arc::default(),
            now,
            slots: Vec::new(),
            free: Vec::new(),
            by_client: HashMap::new(),
            by_port: HashMap::new(),
            deadlines: BTreeSet::new(),
            connections: Connections::default(),
            commands: VecDeque::new(),
            last: None,
        }
    }

    /// One datagram, or one frame of a stream without its padding. A stranger's bytes: whatever they are, the answer is
    /// counted, limited and never a panic.
    pub fn handle_client<'a>(&mut self, now: Instant, client: ClientSocket, bytes: &'a [u8]) -> Relayed<'a> {
        self.advance(now);
        if bytes.first().is_some_and(|first| first >> 6 == 1) {
            return self.channel_data(client, bytes);
        }
        match Message::parse(bytes) {
            Ok(message) if message.class == Class::Indication && message.method == Method::SEND => {
                self.send_indication(client, &message)
            }
            Ok(message) => {
                if message.class == Class::Request {
                    self.handle_request(client, &message);
                }
                Relayed::Nothing
            }
            Err(_) => {
                add(&self.counters.malformed, 1);
                Relayed::Nothing
            }
        }
    }

    /// A stream of a client has ended; its allocation ends with it (RFC 8656 §4). A spurious call does nothing.
    pub fn client_gone(&mut self, now: Instant, client: ClientSocket) {
        self.advance(now);
        if let Some(id) = self.find(client) {
            self.remove(id);
        }
        self.data_client_gone(client);
    }

    /// The answer to [`Command::OpenRelay`]. If it could not be opened another port is tried, a few times.
    pub fn relay_opened(&mut self, now: Instant, relay: RelayId, opened: bool) {
        self.advance(now);
        self.conclude_opening(relay, opened);
    }

    /// What is to be done; drain after every call of another method.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let allocations = self.deadlines.first().map(|(at, _)| *at);
        allocations.into_iter().chain(self.connections.next_deadline()).min()
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        self.shared.ports.expire_reservations(self.now);
    }

    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Live allocations of this worker.
    pub fn allocations(&self) -> usize {
        self.by_client.len()
    }

    /// The open relay at a port of this worker.
    pub fn relay_at(&self, at: SocketAddr) -> Option<RelayId> {
        let family = Family::of(at.ip());
        let allocation = *self.by_port.get(&(family, AllocationPort(at.port())))?;
        Some(RelayId { allocation, family })
    }

    /// Whether the client has an allocation or a data connection; streams without are closed after a while.
    pub fn has_allocation(&self, client: ClientSocket) -> bool {
        self.by_client.contains_key(&client) || self.connections.is_bound(client)
    }

    /// Time never goes backwards here, and nothing that has expired is ever used, however late the timer comes.
    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        while let Some(&(at, id)) = self.deadlines.first() {
            if at > self.now {
                break;
            }
            self.deadlines.pop_first();
            let now = self.now;
            for family in [Family::V4, Family::V6] {
                let Some(allocation) = self.get_mut(id) else { break };
                if allocation.relays[family.index()]
                    .as_ref()
                    .is_some_and(|r| r.expires <= now)
                {
                    self.close_relay(id, family);
                }
            }
            self.settle(id);
        }
        self.expire_connections();
    }

    fn handle_request(&mut self, client: ClientSocket, message: &Message<'_>) {
        if message.method == Method::BINDING {
            return self.binding(client, message);
        }
        let known = [
            Method::ALLOCATE,
            Method::REFRESH,
            Method::CREATE_PERMISSION,
            Method::CHANNEL_BIND,
            Method::CONNECT,
            Method::CONNECTION_BIND,
        ];
        if !known.contains(&message.method) {
            return self.refuse_stranger(client, message, ErrorCode::BadRequest);
        }
        let authenticated = match self.authenticate(client, message) {
            Ok(authenticated) => authenticated,
            Err(code) => return self.refuse_stranger(client, message, code),
        };
        let unknown = unknown_attributes(message);
        let result = if !unknown.is_empty() {
            Err(ErrorCode::UnknownAttribute)
        } else {
            match message.method {
                Method::ALLOCATE => self.allocate(client, message, &authenticated),
                Method::REFRESH => self.refresh(client, message, &authenticated).map(Some),
                Method::CONNECT => self.connect(client, message, &authenticated),
                Method::CONNECTION_BIND => self.connection_bind(client, message, &authenticated),
                method => self
                    .own(client, &authenticated)
                    .and_then(|id| match method {
                        Method::CREATE_PERMISSION => self.create_permission(id, message),
                        _ => self.channel_bind(id, message),
                    })
                    .map(Some),
            }
        };
        let writer = match result {
            Ok(None) => return,
            Ok(Some(writer)) => writer,
            Err(code) => self.error(message, code, &unknown),
        };
        self.send(client, writer.sign(authenticated.integrity, &authenticated.key));
    }

    /// RFC 8489 §7.3.1: the one request that everybody may make.
    fn binding(&mut self, client: ClientSocket, message: &Message<'_>) {
        if !self.may_answer(client) {
            return;
        }
        let unknown = unknown_attributes(message);
        let writer = if unknown.is_empty() {
            MessageWriter::new(Class::Success, Method::BINDING, message.transaction)
                .address(attribute::XOR_MAPPED_ADDRESS, client.remote)
        } else {
            self.error(message, ErrorCode::UnknownAttribute, &unknown)
        };
        self.send(client, writer);
    }

    fn error(&mut self, message: &Message<'_>, code: ErrorCode, unknown: &[u16]) -> MessageWriter {
        let counter = match code {
            ErrorCode::AllocationQuotaReached => Some(&self.counters.refused_quota),
            ErrorCode::InsufficientCapacity => Some(&self.counters.refused_capacity),
            ErrorCode::Forbidden => Some(&self.counters.refused_peer),
            _ => None,
        };
        if let Some(counter) = counter {
            add(counter, 1);
        }
        let mut writer = MessageWriter::new(Class::Error, message.method, message.transaction).error(code);
        if code == ErrorCode::UnknownAttribute {
            let list: Vec<u8> = unknown.iter().flat_map(|kind| kind.to_be_bytes()).collect();
            writer = writer.attribute(attribute::UNKNOWN_ATTRIBUTES, &list);
        }
        match (code, self.shared.config.alternate) {
            (ErrorCode::TryAlternate, Some(alternate)) => {
                let mut value = vec![0, if alternate.is_ipv4() { 1 } else { 2 }];
                value.extend_from_slice(&alternate.port().to_be_bytes());
                match alternate.ip() {
                    std::net::IpAddr::V4(ip) => value.extend_from_slice(&ip.octets()),
                    std::net::IpAddr::V6(ip) => value.extend_from_slice(&ip.octets()),
                }
                writer.attribute(attribute::ALTERNATE_SERVER, &value)
            }
            _ => writer,
        }
    }

    fn send(&mut self, client: ClientSocket, writer: MessageWriter) {
        self.commands.push_back(Command::Send {
            client,
            message: writer.finish_with_fingerprint(),
        });
    }

    fn find(&mut self, client: ClientSocket) -> Option<AllocationId> {
        match self.last {
            Some((last, id)) if last == client => Some(id),
            _ => {
                let id = *self.by_client.get(&client)?;
                self.last = Some((client, id));
                Some(id)
            }
        }
    }

    fn get(&self, id: AllocationId) -> Option<&Allocation> {
        let slot = self.slots.get(id.index as usize)?;
        slot.allocation.as_ref().filter(|_| slot.generation == id.generation)
    }

    fn get_mut(&mut self, id: AllocationId) -> Option<&mut Allocation> {
        let slot = self.slots.get_mut(id.index as usize)?;
        slot.allocation.as_mut().filter(|_| slot.generation == id.generation)
    }

    fn insert(&mut self, allocation: Allocation) -> AllocationId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        let id = AllocationId {
            index,
            generation: slot.generation,
        };
        add(self.counters.created(allocation.client.transport), 1);
        self.by_client.insert(allocation.client, id);
        self.deadlines.insert((allocation.deadline, id));
        slot.allocation = Some(allocation);
        self.shared.allocations.fetch_add(1, Ordering::Relaxed);
        id
    }

    /// Notes with whom an allocation speaks; not asked for packets of a channel, which was noted when it was bound.
    fn speaks_with(&mut self, id: AllocationId, peer: PeerSocket) {
        let media = self.shared.config.policy.is_media(peer.0);
        self.reaches(id, if media { Reach::OwnMedia } else { Reach::Others });
    }

    fn reaches(&mut self, id: AllocationId, reach: Reach) {
        let Some(allocation) = self.get_mut(id).filter(|a| a.reach < reach) else {
            return;
        };
        let before = std::mem::replace(&mut allocation.reach, reach);
        let own_media_only = &self.shared.own_media_only;
        if reach == Reach::OwnMedia {
            own_media_only.fetch_add(1, Ordering::Relaxed);
        } else if before == Reach::OwnMedia {
            own_media_only.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Closes one relayed address and frees its port.
    fn close_relay(&mut self, id: AllocationId, family: Family) {
        let Some(relay) = self.get_mut(id).and_then(|a| a.relays[family.index()].take()) else {
            return;
        };
        match relay.state {
            RelayState::Failed(_) => {}
            RelayState::Open | RelayState::Opening { .. } => {
                if relay.state == RelayState::Open {
                    self.by_port.remove(&(family, relay.port));
                    self.shared.set_owner(family, relay.port, None);
                }
                self.commands.push_back(Command::CloseRelay {
                    relay: RelayId { allocation: id, family },
                });
                self.shared.ports.release(family, relay.port);
            }
        }
    }

    /// Brings the table of deadlines up to date, and removes an allocation that has no relayed address left.
    fn settle(&mut self, id: AllocationId) {
        let Some(allocation) = self.get_mut(id) else { return };
        let old = allocation.deadline;
        match allocation.next_expiry() {
            Some(next) => {
                allocation.deadline = next;
                self.deadlines.remove(&(old, id));
                self.deadlines.insert((next, id));
            }
            None => self.remove(id),
        }
    }

    fn remove(&mut self, id: AllocationId) {
        for family in [Family::V4, Family::V6] {
            self.close_relay(id, family);
        }
        let Some(slot) = self
            .slots
            .get_mut(id.index as usize)
            .filter(|s| s.generation == id.generation)
        else {
            return;
        };
        let Some(allocation) = slot.allocation.take() else {
            return;
        };
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.index);
        self.by_client.remove(&allocation.client);
        self.deadlines.remove(&(allocation.deadline, id));
        self.last = None;
        if allocation.protocol == Protocol::Tcp {
            self.close_connections(id);
        }
        self.shared.ledger.release(&allocation.charge);
        self.shared.allocations.fetch_sub(1, Ordering::Relaxed);
        if allocation.reach == Reach::OwnMedia {
            self.shared.own_media_only.fetch_sub(1, Ordering::Relaxed);
        }
        add(self.counters.ended(allocation.client.transport), 1);
    }

    /// What must hold after every call, for tests: panics if it does not.
    #[doc(hidden)]
    pub fn assert_consistent(&self) {
        let live: Vec<_> = self
            .slots
            .iter()
            .filter_map(|s| s.allocation.as_ref().map(|a| (s.generation, a)))
            .collect();
        assert_eq!(live.len(), self.by_client.len());
        assert_eq!(live.len(), self.deadlines.len());
        assert_eq!(live.len() + self.free.len(), self.slots.len());
        let limits = &self.shared.config.limits;
        for (client, id) in &self.by_client {
            let allocation = self.get(*id).expect("by_client names a live allocation");
            assert_eq!(allocation.client, *client);
            assert!(self.deadlines.contains(&(allocation.deadline, *id)));
            assert_eq!(Some(allocation.deadline), allocation.next_expiry());
            assert!(allocation.deadline > self.now, "nothing expired is kept");
            assert!(allocation.permissions.len() <= limits.permissions_per_allocation);
            assert!(allocation.channels.len() <= limits.channels_per_allocation);
            for family in [Family::V4, Family::V6] {
                let Some(relay) = allocation.relay(family) else {
                    continue;
                };
                assert_eq!(self.by_port.get(&(family, relay.port)), Some(id));
                assert!(self.shared.ports.is_taken(family, relay.port.0));
            }
        }
        let open = live
            .iter()
            .flat_map(|(_, a)| a.relays.iter().flatten())
            .filter(|r| r.state == RelayState::Open);
        assert_eq!(open.count(), self.by_port.len());
        let own_media_only = live.iter().filter(|(_, a)| a.reach == Reach::OwnMedia).count();
        assert!(own_media_only <= self.shared.own_media_only.load(Ordering::Relaxed));
        self.connections.assert_consistent(|id| self.get(id).is_some());
    }
}

/// Attributes a server must understand but does not (RFC 8489 §6.3.1); at most eight are told.
fn unknown_attributes(message: &Message<'_>) -> Vec<u16> {
    use attribute as a;
    let known = |kind: u16| {
        matches!(
            kind,
            a::USERNAME
                | a::REALM
                | a::NONCE
                | a::PASSWORD_ALGORITHM
                | a::USERHASH
                | a::CHANNEL_NUMBER
                | a::LIFETIME
                | a::XOR_PEER_ADDRESS
                | a::DATA
                | a::REQUESTED_ADDRESS_FAMILY
                | a::EVEN_PORT
                | a::REQUESTED_TRANSPORT
                | a::DONT_FRAGMENT
                | a::RESERVATION_TOKEN
                | a::PRIORITY
                | a::XOR_MAPPED_ADDRESS
                | a::CONNECTION_ID
        )
    };
    message
        .attributes()
        .map(|(kind, _)| kind)
        .filter(|&kind| kind < 0x8000 && !known(kind))
        .take(8)
        .collect()
}
