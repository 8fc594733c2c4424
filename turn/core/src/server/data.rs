//! Relayed packets. Nothing here allocates, copies payload, or takes a lock.

use std::net::SocketAddr;
use std::time::Instant;

use rand::Rng;

use super::allocation::Protocol;
use super::{RelayId, Server, add};
use crate::policy::Route;
use crate::server::AllocationId;
use crate::sockets::{AllocationPort, ClientSocket, Family, PeerSocket};
use crate::stun::{Message, TransactionId, attribute, data_indication_header};

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relayed<'a> {
    /// It was a request (see [`Server::poll_command`]), or nothing to relay.
    Nothing,
    ToPeer(ToPeer<'a>),
    ToClient(ToClient<'a>),
}

/// Send `payload` from the socket of `relay` to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToPeer<'a> {
    pub relay: RelayId,
    pub to: SocketAddr,
    pub payload: &'a [u8],
}

/// Send `payload` to `client`, in a frame that [`ToClient::encode`] writes around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToClient<'a> {
    pub client: ClientSocket,
    pub framing: Framing,
    pub payload: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// ChannelData (RFC 8656 §12.4).
    Channel(u16),
    /// Data indication (RFC 8656 §11).
    Indication {
        peer: PeerSocket,
        transaction: TransactionId,
    },
}

impl ToClient<'_> {
    /// Bytes that [`ToClient::encode`] needs.
    #[inline]
    pub fn encoded_len(&self) -> usize {
        let payload = self.payload.len();
        match self.framing {
            Framing::Channel(_) if self.client.transport.is_stream() => 4 + payload.next_multiple_of(4),
            Framing::Channel(_) => 4 + payload,
            Framing::Indication { peer, .. } => {
                let address = if peer.0.is_ipv4() { 36 } else { 48 };
                address + payload.next_multiple_of(4)
            }
        }
    }

    /// Writes the frame: the one copy of the payload. `false` if `out` is not exactly [`ToClient::encoded_len`] long.
    #[inline]
    pub fn encode(&self, out: &mut [u8]) -> bool {
        if out.len() != self.encoded_len() {
            return false;
        }
        let payload = self.payload.len();
        let header = match self.framing {
            Framing::Channel(number) => {
                out[..2].copy_from_slice(&number.to_be_bytes());
                out[2..4].copy_from_slice(&(payload as u16).to_be_bytes());
                4
            }
            Framing::Indication { peer, transaction } => data_indication_header(out, transaction, peer.0, payload),
        };
        out[header..header + payload].copy_from_slice(self.payload);
        out[header + payload..].fill(0);
        true
    }
}

impl<R: Rng> Server<R> {
    /// A datagram that arrived on a relay's socket. `None`: not permitted, dropped.
    pub fn handle_peer<'a>(
        &mut self,
        now: Instant,
        relay: RelayId,
        from: SocketAddr,
        payload: &'a [u8],
    ) -> Option<ToClient<'a>> {
        self.advance(now);
        let from = PeerSocket(self.name_of(from));
        self.relay_down(relay, from, payload)
    }

    /// RFC 8656 §12.6. `bytes` may carry padding.
    pub(super) fn channel_data<'a>(&mut self, client: ClientSocket, bytes: &'a [u8]) -> Relayed<'a> {
        let Some((&[n0, n1, l0, l1], rest)) = bytes.split_first_chunk::<4>() else {
            add(&self.counters.malformed, 1);
            return Relayed::Nothing;
        };
        let Some(payload) = rest.get(..usize::from(u16::from_be_bytes([l0, l1]))) else {
            add(&self.counters.malformed, 1);
            return Relayed::Nothing;
        };
        let number = u16::from_be_bytes([n0, n1]);
        let now = self.now;
        let Some(id) = self.find(client) else {
            return self.forbidden();
        };
        let found = self.get(id).and_then(|allocation| {
            let channel = allocation.channel(number, now)?;
            let family = channel.peer.family();
            allocation.relay(family)?;
            allocation
                .permits(channel.peer.0.ip(), now)
                .then_some((channel.route, family))
        });
        match found {
            Some((route, family)) => self.relay_up(RelayId { allocation: id, family }, route, payload),
            None => self.forbidden(),
        }
    }

    /// RFC 8656 §11.2. Not authenticated: it is the permission that counts.
    pub(super) fn send_indication<'a>(&mut self, client: ClientSocket, message: &Message<'a>) -> Relayed<'a> {
        let peer = message.get_address(attribute::XOR_PEER_ADDRESS).map(PeerSocket);
        let (Some(peer), Some(payload)) = (peer, message.get(attribute::DATA)) else {
            add(&self.counters.malformed, 1);
            return Relayed::Nothing;
        };
        let now = self.now;
        let Some(id) = self.find(client) else {
            return self.forbidden();
        };
        let permitted = self.get(id).is_some_and(|a| {
            a.protocol == Protocol::Udp && a.relay(peer.family()).is_some() && a.permits(peer.0.ip(), now)
        });
        let route = self.shared.config.policy.route(peer.0, &self.shared.relayed);
        match route.filter(|_| permitted && super::unknown_attributes(message).is_empty()) {
            Some(route) => {
                self.speaks_with(id, peer);
                self.relay_up(
                    RelayId {
                        allocation: id,
                        family: peer.family(),
                    },
                    route,
                    payload,
                )
            }
            None => self.forbidden(),
        }
    }

    fn relay_up<'a>(&mut self, relay: RelayId, route: Route, payload: &'a [u8]) -> Relayed<'a> {
        if !self.take_quota(relay.allocation, payload.len()) {
            return Relayed::Nothing;
        }
        let (Route::Send(to) | Route::Relayed(to)) = route;
        let own = self.shared.relayed.contains(&to.ip());
        if own {
            let family = Family::of(to.ip());
            // Both ends are our clients: no need to bother the kernel.
            if let Some(&other) = self.by_port.get(&(family, AllocationPort(to.port()))) {
                let Some(from) = self.relayed_address(relay) else {
                    return self.forbidden();
                };
                self.count_up(payload);
                let there = RelayId {
                    allocation: other,
                    family,
                };
                return self
                    .relay_down(there, PeerSocket(from), payload)
                    .map_or(Relayed::Nothing, Relayed::ToClient);
            }
            if matches!(route, Route::Relayed(_)) && !self.shared.ports.is_taken(family, to.port()) {
                return self.forbidden();
            }
        }
        self.count_up(payload);
        // A neighbour worker's allocation is reached through the kernel, at the address it is bound to.
        let to = match (route, self.shared.config.relay(Family::of(to.ip()))) {
            (Route::Relayed(to), Some(address)) => SocketAddr::new(address.bind, to.port()),
            _ => to,
        };
        Relayed::ToPeer(ToPeer { relay, to, payload })
    }

    fn relay_down<'a>(&mut self, relay: RelayId, from: PeerSocket, payload: &'a [u8]) -> Option<ToClient<'a>> {
        let now = self.now;
        let found = self.get(relay.allocation).and_then(|allocation| {
            allocation.relay(relay.family)?;
            let permitted = allocation.protocol == Protocol::Udp && allocation.permits(from.0.ip(), now);
            permitted.then(|| (allocation.client, allocation.channel_to(from, now).map(|c| c.number)))
        });
        let Some((client, channel)) = found else {
            self.forbidden();
            return None;
        };
        if !self.take_quota(relay.allocation, payload.len()) {
            return None;
        }
        add(&self.counters.packets_down, 1);
        add(&self.counters.bytes_down, payload.len() as u64);
        let framing = match channel {
            Some(number) => Framing::Channel(number),
            None => {
                self.speaks_with(relay.allocation, from);
                Framing::Indication {
                    peer: from,
                    transaction: TransactionId(self.rng.random()),
                }
            }
        };
        Some(ToClient {
            client,
            framing,
            payload,
        })
    }

    /// What clients know a sender by: relayed addresses and media ports may be bound to other addresses than advertised.
    pub(super) fn name_of(&self, from: SocketAddr) -> SocketAddr {
        let family = Family::of(from.ip());
        match self.shared.config.relay(family) {
            Some(a)
                if a.bind == from.ip() && a.bind != a.advertised && self.shared.ports.is_taken(family, from.port()) =>
            {
                SocketAddr::new(a.advertised, from.port())
            }
            _ => self.shared.config.policy.name_of(from),
        }
    }

    /// The relayed transport address as peers see it.
    pub(super) fn relayed_address(&self, relay: RelayId) -> Option<SocketAddr> {
        let port = self.get(relay.allocation)?.relay(relay.family)?.port;
        Some(SocketAddr::new(
            self.shared.config.relay(relay.family)?.advertised,
            port.0,
        ))
    }

    fn take_quota(&self, id: AllocationId, bytes: usize) -> bool {
        let limits = &self.shared.config.limits;
        let now_ns = self.shared.nanos(self.now);
        let within = self.get(id).is_some_and(|a| {
            a.charge.user().take(&limits.per_user, now_ns, bytes)
                && a.charge.source().take(&limits.per_source, now_ns, bytes)
        });
        if !within {
            add(&self.counters.dropped_quota, 1);
        }
        within
    }

    fn count_up(&self, payload: &[u8]) {
        add(&self.counters.packets_up, 1);
        add(&self.counters.bytes_up, payload.len() as u64);
    }

    fn forbidden(&self) -> Relayed<'static> {
        add(&self.counters.dropped_forbidden, 1);
        Relayed::Nothing
    }
}
