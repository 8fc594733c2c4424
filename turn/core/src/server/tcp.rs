//! TCP relaying (RFC 6062): Connect, ConnectionAttempt, ConnectionBind. The bytes of bound connections do not pass
//! through here; the shell splices them and asks only for the quota.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::Rng;

use super::allocation::Protocol;
use super::auth::Authenticated;
use super::{AllocationId, Command, RelayId, Server, add};
use crate::credentials::IntegrityKey;
use crate::policy::Route;
use crate::sockets::{ClientSocket, Family, PeerSocket};
use crate::stun::{Class, ErrorCode, Integrity, Message, MessageWriter, Method, TransactionId, attribute};

/// For the peer to answer, and then for the client to bind (RFC 6062 §5.2: at least 30 s).
const PATIENCE: Duration = Duration::from_secs(30);

/// CONNECTION-ID: the worker in the top byte, chance in the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u32);

impl ConnectionId {
    pub fn worker(self) -> u8 {
        (self.0 >> 24) as u8
    }
}

#[derive(Debug)]
enum State {
    /// A Connect request that waits for the peer.
    Connecting {
        transaction: TransactionId,
        integrity: Integrity,
        key: IntegrityKey,
    },
    /// Established; waits for the client's ConnectionBind.
    Waiting,
    Bound {
        client: ClientSocket,
    },
}

#[derive(Debug)]
struct Connection {
    allocation: AllocationId,
    peer: PeerSocket,
    state: State,
    /// Of waiting; a bound connection lives as long as its allocation.
    deadline: Instant,
}

/// All connections to peers of one worker.
#[derive(Debug, Default)]
pub(super) struct Connections {
    all: HashMap<ConnectionId, Connection>,
    deadlines: BTreeSet<(Instant, ConnectionId)>,
    /// Data connections of clients.
    bound: HashMap<ClientSocket, ConnectionId>,
}

impl Connections {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    pub(super) fn is_bound(&self, client: ClientSocket) -> bool {
        self.bound.contains_key(&client)
    }

    fn of(&self, allocation: AllocationId) -> impl Iterator<Item = (&ConnectionId, &Connection)> {
        self.all.iter().filter(move |(_, c)| c.allocation == allocation)
    }

    fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.all.remove(&id)?;
        self.deadlines.remove(&(connection.deadline, id));
        if let State::Bound { client } = connection.state {
            self.bound.remove(&client);
        }
        Some(connection)
    }

    pub(super) fn assert_consistent(&self, lives: impl Fn(AllocationId) -> bool) {
        let waiting = self
            .all
            .values()
            .filter(|c| !matches!(c.state, State::Bound { .. }))
            .count();
        assert_eq!(
            (waiting, self.all.len() - waiting),
            (self.deadlines.len(), self.bound.len())
        );
        assert!(
            self.all.values().all(|c| lives(c.allocation)),
            "a connection ends with its allocation"
        );
    }
}

impl<R: Rng> Server<R> {
    /// RFC 6062 §5.2; answered when the peer has.
    pub(super) fn connect(
        &mut self,
        client: ClientSocket,
        message: &Message<'_>,
        who: &Authenticated,
    ) -> Result<Option<MessageWriter>, ErrorCode> {
        let id = self.own(client, who)?;
        if self.get(id).is_none_or(|a| a.protocol != Protocol::Tcp) {
            return Err(ErrorCode::AllocationMismatch);
        }
        let peer = message
            .get_address(attribute::XOR_PEER_ADDRESS)
            .ok_or(ErrorCode::BadRequest)?;
        let peer = self.checked_peer(id, peer)?;
        let to = match self.shared.config.policy.route(peer.0, &self.shared.relayed) {
            Some(Route::Send(to)) => to,
            Some(Route::Relayed(to)) if self.shared.ports.is_taken(Family::of(to.ip()), to.port()) => to,
            _ => return Err(ErrorCode::Forbidden),
        };
        if let Some((_, known)) = self.connections.of(id).find(|(_, c)| c.peer == peer) {
            // A retransmission waits with the original.
            let again =
                matches!(&known.state, State::Connecting { transaction, .. } if *transaction == message.transaction);
            return if again {
                Ok(None)
            } else {
                Err(ErrorCode::ConnectionAlreadyExists)
            };
        }
        let relay = RelayId {
            allocation: id,
            family: peer.family(),
        };
        let address = self
            .shared
            .config
            .relay(relay.family)
            .ok_or(ErrorCode::PeerAddressFamilyMismatch)?;
        let port = self
            .get(id)
            .and_then(|a| a.relay(relay.family))
            .ok_or(ErrorCode::PeerAddressFamilyMismatch)?
            .port;
        let (transaction, integrity) = (message.transaction, who.integrity);
        let state = State::Connecting {
            transaction,
            integrity,
            key: who.key.clone(),
        };
        let connection = self.begin(id, peer, state).ok_or(ErrorCode::AllocationQuotaReached)?;
        let from = SocketAddr::new(address.bind, port.0);
        self.commands.push_back(Command::ConnectPeer { connection, from, to });
        Ok(None)
    }

    /// RFC 6062 §5.4. `None`: another worker's, which the shell hands the stream to.
    pub(super) fn connection_bind(
        &mut self,
        client: ClientSocket,
        message: &Message<'_>,
        who: &Authenticated,
    ) -> Result<Option<MessageWriter>, ErrorCode> {
        let id = ConnectionId(message.get_u32(attribute::CONNECTION_ID).ok_or(ErrorCode::BadRequest)?);
        if !client.transport.is_stream() || self.by_client.contains_key(&client) || self.connections.is_bound(client) {
            return Err(ErrorCode::BadRequest);
        }
        if id.worker() != self.worker {
            self.commands.push_back(Command::HandOver {
                client,
                worker: id.worker(),
            });
            return Ok(None);
        }
        let connection = self
            .connections
            .all
            .get(&id)
            .filter(|c| matches!(c.state, State::Waiting));
        let owner = connection
            .and_then(|c| self.get(c.allocation))
            .ok_or(ErrorCode::BadRequest)?;
        if owner.username != who.username {
            return Err(ErrorCode::WrongCredentials);
        }
        if let Some(connection) = self.connections.all.get_mut(&id) {
            self.connections.deadlines.remove(&(connection.deadline, id));
            connection.state = State::Bound { client };
            self.connections.bound.insert(client, id);
        }
        let success = MessageWriter::new(Class::Success, message.method, message.transaction);
        let success = success.u32(attribute::CONNECTION_ID, id.0);
        self.send(client, success.sign(who.integrity, &who.key));
        self.commands.push_back(Command::Splice { connection: id, client });
        Ok(None)
    }

    /// The answer to [`Command::ConnectPeer`].
    pub fn peer_connected(&mut self, now: Instant, id: ConnectionId, connected: bool) {
        self.advance(now);
        self.conclude_connect(id, connected);
    }

    /// Somebody connected to the relay's port. `None`: without permission; close it (RFC 6062 §5.3).
    pub fn peer_accepted(&mut self, now: Instant, relay: RelayId, from: SocketAddr) -> Option<ConnectionId> {
        self.advance(now);
        let peer = PeerSocket(self.name_of(from));
        let allocation = self.get(relay.allocation).filter(|a| a.protocol == Protocol::Tcp)?;
        let client = allocation.client;
        if !allocation.permits(peer.0.ip(), self.now) {
            add(&self.counters.dropped_forbidden, 1);
            return None;
        }
        let id = self.begin(relay.allocation, peer, State::Waiting)?;
        let transaction = TransactionId(self.rng.random());
        let indication = MessageWriter::new(Class::Indication, Method::CONNECTION_ATTEMPT, transaction)
            .u32(attribute::CONNECTION_ID, id.0)
            .address(attribute::XOR_PEER_ADDRESS, peer.0);
        self.send(client, indication);
        Some(id)
    }

    /// A connection to a peer has ended. A spurious call does nothing.
    pub fn peer_closed(&mut self, now: Instant, id: ConnectionId) {
        self.advance(now);
        self.connections.remove(id);
    }

    /// Whether the quota lets more bytes pass between the two ends; if not, let them wait.
    pub fn may_splice(&mut self, now: Instant, id: ConnectionId) -> bool {
        self.advance(now);
        let limits = &self.shared.config.limits;
        let now_ns = self.shared.nanos(self.now);
        self.connections
            .all
            .get(&id)
            .and_then(|c| self.get(c.allocation))
            .is_some_and(|a| {
                a.charge.user().is_within(&limits.per_user, now_ns)
                    && a.charge.source().is_within(&limits.per_source, now_ns)
            })
    }

    /// Charges bytes that have passed.
    pub fn spliced(&mut self, now: Instant, id: ConnectionId, bytes: usize, up: bool) {
        self.advance(now);
        let limits = &self.shared.config.limits;
        let now_ns = self.shared.nanos(self.now);
        let Some(allocation) = self.connections.all.get(&id).and_then(|c| self.get(c.allocation)) else {
            return;
        };
        allocation.charge.user().charge(&limits.per_user, now_ns, bytes);
        allocation.charge.source().charge(&limits.per_source, now_ns, bytes);
        add(
            if up {
                &self.counters.bytes_up
            } else {
                &self.counters.bytes_down
            },
            bytes as u64,
        );
    }

    pub(super) fn expire_connections(&mut self) {
        while let Some(&(at, id)) = self.connections.deadlines.first() {
            if at > self.now {
                break;
            }
            self.commands.push_back(Command::ClosePeer { connection: id });
            self.conclude_connect(id, false);
            self.connections.remove(id);
        }
    }

    pub(super) fn close_connections(&mut self, allocation: AllocationId) {
        let ids: Vec<_> = self.connections.of(allocation).map(|(id, _)| *id).collect();
        for connection in ids {
            self.connections.remove(connection);
            self.commands.push_back(Command::ClosePeer { connection });
        }
    }

    /// A data connection of a client has ended, and with it the peer's.
    pub(super) fn data_client_gone(&mut self, client: ClientSocket) {
        if let Some(&connection) = self.connections.bound.get(&client) {
            self.connections.remove(connection);
            self.commands.push_back(Command::ClosePeer { connection });
        }
    }

    fn conclude_connect(&mut self, id: ConnectionId, connected: bool) {
        let deadline = self.now + PATIENCE;
        let Some(connection) = self.connections.all.get_mut(&id) else {
            return;
        };
        let State::Connecting {
            transaction,
            integrity,
            key,
        } = &connection.state
        else {
            return;
        };
        let (transaction, integrity, key) = (*transaction, *integrity, key.clone());
        let allocation = connection.allocation;
        let writer = if connected {
            self.connections.deadlines.remove(&(connection.deadline, id));
            self.connections.deadlines.insert((deadline, id));
            connection.deadline = deadline;
            connection.state = State::Waiting;
            MessageWriter::new(Class::Success, Method::CONNECT, transaction).u32(attribute::CONNECTION_ID, id.0)
        } else {
            self.connections.remove(id);
            let error = ErrorCode::ConnectionTimeoutOrFailure;
            MessageWriter::new(Class::Error, Method::CONNECT, transaction).error(error)
        };
        if let Some(client) = self.get(allocation).map(|a| a.client) {
            self.send(client, writer.sign(integrity, &key));
        }
    }

    fn begin(&mut self, allocation: AllocationId, peer: PeerSocket, state: State) -> Option<ConnectionId> {
        let max = self.shared.config.limits.peer_connections_per_allocation;
        if self.connections.of(allocation).count() >= max {
            return None;
        }
        let id = ConnectionId(u32::from(self.worker) << 24 | self.rng.random_range(0..1 << 24));
        if self.connections.all.contains_key(&id) {
            return None;
        }
        let deadline = self.now + PATIENCE;
        self.connections.deadlines.insert((deadline, id));
        self.connections.all.insert(
            id,
            Connection {
                allocation,
                peer,
                state,
                deadline,
            },
        );
        Some(id)
    }
}
