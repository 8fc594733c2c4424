//! Allocate, Refresh, CreatePermission, ChannelBind (RFC 8656 §7, §8, §10, §12): requests that passed authentication.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::Rng;

use super::allocation::{Allocation, Origin, PortWish, Protocol, Reach, Relay, RelayState};
use super::auth::Authenticated;
use super::{AllocationId, Command, RelayId, Server, add};
use crate::ports::ReservationToken;
use crate::sockets::{AllocationPort, ClientSocket, Family, PeerSocket};
use crate::stun::{Class, ErrorCode, Message, MessageWriter, Method, attribute, decode_xor_address};

const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_TCP: u8 = 6;
/// Another process may sit on a port of ours.
const OPEN_ATTEMPTS: u8 = 4;
/// RFC 8656 §12 has 0x4000–0x4FFF; clients of RFC 5766 (§11) go up to 0x7FFF, coturn's among them, and nothing else begins like that here.
const CHANNELS: std::ops::RangeInclusive<u16> = 0x4000..=0x7FFF;

/// Which relayed addresses a client asks for.
struct Wanted {
    protocol: Protocol,
    families: Vec<Family>,
    port: PortWish,
}

/// A port for each family, or why not.
type Ports = Vec<(Family, Result<AllocationPort, ErrorCode>)>;

impl<R: Rng> Server<R> {
    /// `None`: answered later, or not again.
    pub(super) fn allocate(
        &mut self,
        client: ClientSocket,
        message: &Message<'_>,
        who: &Authenticated,
    ) -> Result<Option<MessageWriter>, ErrorCode> {
        if let Some(id) = self.find(client) {
            return match self.get(id) {
                // A retransmission: the same answer (RFC 8656 §7.2).
                Some(a) if a.origin.transaction == message.transaction && *a.username == *who.username => {
                    Ok(if a.is_opening() { None } else { self.allocated(id) })
                }
                _ => Err(ErrorCode::AllocationMismatch),
            };
        }
        let wanted = self.wanted(client, message)?;
        if self.shared.is_draining() {
            let alternate = self.shared.config.alternate.is_some();
            return Err(if alternate {
                ErrorCode::TryAlternate
            } else {
                ErrorCode::InsufficientCapacity
            });
        }
        let limits = &self.shared.config.limits;
        if self.shared.allocations.load(Ordering::Relaxed) >= limits.allocations {
            return Err(ErrorCode::InsufficientCapacity);
        }
        let charge = self.shared.ledger.charge(
            &who.quota_name,
            client.remote.ip(),
            &limits.per_user,
            &limits.per_source,
        );
        let charge = charge.ok_or(ErrorCode::AllocationQuotaReached)?;
        let (ports, token) = match self.take_ports(&wanted, who) {
            Ok(taken) => taken,
            Err(code) => {
                self.shared.ledger.release(&charge);
                return Err(code);
            }
        };
        let lifetime = self.lifetime(message);
        let deadline = self.now + lifetime;
        let (transaction, integrity) = (message.transaction, who.integrity);
        let mut relays = [None, None];
        for (family, port) in &ports {
            let (port, state) = match port {
                Ok(port) => (*port, RelayState::Opening { attempt: 1 }),
                Err(code) => (AllocationPort(0), RelayState::Failed(*code)),
            };
            relays[family.index()] = Some(Relay {
                port,
                state,
                expires: deadline,
            });
        }
        let id = self.insert(Allocation {
            client,
            protocol: wanted.protocol,
            username: who.username.clone(),
            algorithm: who.algorithm,
            key: who.key.clone(),
            origin: Origin {
                transaction,
                integrity,
                lifetime,
                token,
                port: wanted.port,
            },
            relays,
            permissions: Vec::new(),
            channels: Vec::new(),
            charge,
            // Media is not to be had by TCP.
            reach: match wanted.protocol {
                Protocol::Udp => Reach::Nobody,
                Protocol::Tcp => Reach::Others,
            },
            deadline,
        });
        for (family, port) in ports {
            if let Ok(port) = port {
                self.open(RelayId { allocation: id, family }, port);
            }
        }
        Ok(None)
    }

    /// What the attributes ask for, with the combinations that RFC 8656 §7.2 forbids.
    fn wanted(&self, client: ClientSocket, message: &Message<'_>) -> Result<Wanted, ErrorCode> {
        let protocol = match message.get(attribute::REQUESTED_TRANSPORT) {
            Some([PROTOCOL_UDP, _, _, _]) => Protocol::Udp,
            Some([PROTOCOL_TCP, _, _, _]) if client.transport.is_stream() && self.shared.config.tcp_relay => {
                Protocol::Tcp
            }
            Some([_, _, _, _]) => return Err(ErrorCode::UnsupportedTransport),
            _ => return Err(ErrorCode::BadRequest),
        };
        let requested = requested_family(message)?;
        let additional = message.get(attribute::ADDITIONAL_ADDRESS_FAMILY);
        let additional = match additional.or_else(|| message.get(attribute::ADDITIONAL_ADDRESS_FAMILY_DRAFT)) {
            None => false,
            Some([2, _, _, _]) => true,
            Some(_) => return Err(ErrorCode::BadRequest),
        };
        let even = message.get(attribute::EVEN_PORT);
        if even.is_some_and(|value| value.len() != 1) {
            return Err(ErrorCode::BadRequest);
        }
        let reserve_next = even.is_some_and(|value| value[0] & 0x80 != 0);
        let port = match (message.get(attribute::RESERVATION_TOKEN), even) {
            (None, None) => PortWish::Any,
            (None, Some(_)) if reserve_next => PortWish::EvenOfPair,
            (None, Some(_)) => PortWish::Even,
            (Some(token), None) if requested.is_none() && !additional => {
                PortWish::Reserved(token.try_into().map_err(|_| ErrorCode::BadRequest)?)
            }
            (Some(_), _) => return Err(ErrorCode::BadRequest),
        };
        if additional && (requested.is_some() || reserve_next) {
            return Err(ErrorCode::BadRequest);
        }
        // RFC 6062 §5.1.
        let datagrams_only = port != PortWish::Any || message.get(attribute::DONT_FRAGMENT).is_some();
        if protocol == Protocol::Tcp && datagrams_only {
            return Err(ErrorCode::BadRequest);
        }
        let families = if additional {
            vec![Family::V4, Family::V6]
        } else {
            vec![requested.unwrap_or(Family::V4)]
        };
        Ok(Wanted {
            protocol,
            families,
            port,
        })
    }

    fn take_ports(
        &mut self,
        wanted: &Wanted,
        who: &Authenticated,
    ) -> Result<(Ports, Option<ReservationToken>), ErrorCode> {
        if let PortWish::Reserved(token) = &wanted.port {
            let reserved = self.shared.ports.claim_reserved(token, &who.username, self.now);
            let (family, port) = reserved.ok_or(ErrorCode::InsufficientCapacity)?;
            return Ok((vec![(family, Ok(port))], None));
        }
        let mut token = None;
        let mut ports = Vec::new();
        for &family in &wanted.families {
            let port = if self.shared.config.relay(family).is_none() {
                Err(ErrorCode::AddressFamilyNotSupported)
            } else {
                let taken = self.take_port(wanted.port, family, &who.username);
                taken
                    .map(|(port, of_next)| {
                        token = of_next;
                        port
                    })
                    .ok_or(ErrorCode::InsufficientCapacity)
            };
            ports.push((family, port));
        }
        match ports.iter().find_map(|(_, port)| port.err()) {
            Some(code) if ports.iter().all(|(_, port)| port.is_err()) => Err(code),
            _ => Ok((ports, token)),
        }
    }

    /// A port that will do, and the token of the next one where that is reserved.
    fn take_port(
        &mut self,
        wish: PortWish,
        family: Family,
        username: &str,
    ) -> Option<(AllocationPort, Option<ReservationToken>)> {
        let pool = &self.shared.ports;
        match wish {
            PortWish::Any => Some((pool.take(family, false, &mut self.rng)?, None)),
            PortWish::Even => Some((pool.take(family, true, &mut self.rng)?, None)),
            PortWish::EvenOfPair => {
                let (port, token) = pool.take_pair(family, username, self.now, &mut self.rng)?;
                Some((port, Some(token)))
            }
            PortWish::Reserved(_) => None,
        }
    }

    fn open(&mut self, relay: RelayId, port: AllocationPort) {
        let protocol = self.get(relay.allocation).map(|a| a.protocol);
        if let (Some(address), Some(protocol)) = (self.shared.config.relay(relay.family), protocol) {
            let bind = SocketAddr::new(address.bind, port.0);
            self.commands.push_back(Command::OpenRelay { relay, bind, protocol });
        }
    }

    pub(super) fn conclude_opening(&mut self, id: RelayId, opened: bool) {
        let RelayId { allocation, family } = id;
        let Some(found) = self.get(allocation) else { return };
        let (wish, username) = (found.origin.port, found.username.clone());
        let Some(&Relay {
            port,
            state: RelayState::Opening { attempt },
            ..
        }) = found.relays[family.index()].as_ref()
        else {
            return;
        };
        let (port, state, token) = if opened {
            self.by_port.insert((family, port), allocation);
            self.shared.set_owner(family, port, Some(self.worker));
            (port, RelayState::Open, None)
        } else {
            // Taken before the bad one is given back, so that it cannot come again.
            let next = (attempt < OPEN_ATTEMPTS).then(|| self.take_port(wish, family, &username));
            self.shared.ports.release(family, port);
            match next.flatten() {
                Some((next, token)) => (next, RelayState::Opening { attempt: attempt + 1 }, token),
                None => (port, RelayState::Failed(ErrorCode::InsufficientCapacity), None),
            }
        };
        let Some(found) = self.get_mut(allocation) else { return };
        let former = token.and_then(|token| found.origin.token.replace(token));
        if let Some(relay) = found.relays[family.index()].as_mut() {
            (relay.port, relay.state) = (port, state);
        }
        if let Some(former) = former {
            self.shared.ports.cancel(&former);
        }
        match state {
            RelayState::Opening { .. } => self.open(id, port),
            RelayState::Open | RelayState::Failed(_) => self.conclude_allocation(allocation),
        }
    }

    /// Answers once every relayed address is open or has failed.
    fn conclude_allocation(&mut self, id: AllocationId) {
        let Some(allocation) = self.get(id).filter(|a| !a.is_opening()) else {
            return;
        };
        let (client, origin, key) = (allocation.client, allocation.origin, allocation.key.clone());
        if let Some(writer) = self.allocated(id) {
            // What failed is not kept; the answer below has said so.
            let Some(allocation) = self.get_mut(id) else { return };
            for relay in &mut allocation.relays {
                if relay.as_ref().is_some_and(|r| matches!(r.state, RelayState::Failed(_))) {
                    *relay = None;
                }
            }
            self.send(client, writer.sign(origin.integrity, &key));
            return;
        }
        if let Some(token) = origin.token {
            self.shared.ports.cancel(&token);
        }
        add(&self.counters.refused_capacity, 1);
        self.remove(id);
        let writer = MessageWriter::new(Class::Error, Method::ALLOCATE, origin.transaction)
            .error(ErrorCode::InsufficientCapacity);
        self.send(client, writer.sign(origin.integrity, &key));
    }

    /// The success response, or `None` if no relayed address is open.
    fn allocated(&self, id: AllocationId) -> Option<MessageWriter> {
        let allocation = self.get(id)?;
        let mut writer = MessageWriter::new(Class::Success, Method::ALLOCATE, allocation.origin.transaction);
        let mut any = false;
        for family in [Family::V4, Family::V6] {
            if let Some(address) = self.relayed_address(RelayId { allocation: id, family }) {
                writer = writer.address(attribute::XOR_RELAYED_ADDRESS, address);
                any = true;
            } else if let Some(Relay {
                state: RelayState::Failed(code),
                ..
            }) = &allocation.relays[family.index()]
            {
                writer = writer.address_error(family, *code);
            }
        }
        let seconds = allocation.origin.lifetime.as_secs() as u32;
        writer = writer
            .u32(attribute::LIFETIME, seconds)
            .address(attribute::XOR_MAPPED_ADDRESS, allocation.client.remote);
        if let Some(token) = &allocation.origin.token {
            writer = writer.attribute(attribute::RESERVATION_TOKEN, token);
        }
        any.then_some(writer)
    }

    pub(super) fn refresh(
        &mut self,
        client: ClientSocket,
        message: &Message<'_>,
        who: &Authenticated,
    ) -> Result<MessageWriter, ErrorCode> {
        let success = MessageWriter::new(Class::Success, message.method, message.transaction);
        let requested = requested_family(message)?;
        let deletes = message.get_u32(attribute::LIFETIME) == Some(0);
        let id = match self.own(client, who) {
            Ok(id) => id,
            // Deleting twice is no error (RFC 8656 §8.2).
            Err(ErrorCode::AllocationMismatch) if deletes => return Ok(success.u32(attribute::LIFETIME, 0)),
            Err(code) => return Err(code),
        };
        let families: Vec<Family> = requested.map_or(vec![Family::V4, Family::V6], |family| vec![family]);
        let has = |f: &Family| self.get(id).is_some_and(|a| a.relays[f.index()].is_some());
        if !families.iter().any(has) {
            return Err(ErrorCode::PeerAddressFamilyMismatch);
        }
        if deletes {
            for family in families {
                self.close_relay(id, family);
            }
            self.settle(id);
            return Ok(success.u32(attribute::LIFETIME, 0));
        }
        let lifetime = self.lifetime(message);
        let expires = self.now + lifetime;
        if let Some(allocation) = self.get_mut(id) {
            for family in families {
                if let Some(relay) = &mut allocation.relays[family.index()] {
                    relay.expires = expires;
                }
            }
        }
        self.settle(id);
        Ok(success.u32(attribute::LIFETIME, lifetime.as_secs() as u32))
    }

    /// All peers of the request or none (RFC 8656 §10.2).
    pub(super) fn create_permission(
        &mut self,
        id: AllocationId,
        message: &Message<'_>,
    ) -> Result<MessageWriter, ErrorCode> {
        let mut peers = Vec::new();
        for (_, value) in message
            .attributes()
            .filter(|(kind, _)| *kind == attribute::XOR_PEER_ADDRESS)
        {
            let peer = decode_xor_address(value, &message.transaction).ok_or(ErrorCode::BadRequest)?;
            peers.push(self.checked_peer(id, peer)?);
        }
        if peers.is_empty() {
            return Err(ErrorCode::BadRequest);
        }
        let (now, max) = (self.now, self.shared.config.limits.permissions_per_allocation);
        let allocation = self.get_mut(id).ok_or(ErrorCode::AllocationMismatch)?;
        let mut new: Vec<_> = peers
            .iter()
            .map(|p| p.0.ip())
            .filter(|ip| !allocation.permits(*ip, now))
            .collect();
        new.sort_unstable();
        new.dedup();
        let live = allocation.permissions.iter().filter(|p| p.expires > now).count();
        if live + new.len() > max || !peers.iter().all(|peer| allocation.permit(peer.0.ip(), now, max)) {
            return Err(ErrorCode::InsufficientCapacity);
        }
        let policy = &self.shared.config.policy;
        let media = peers.iter().all(|peer| policy.has_media_at(peer.0.ip()));
        self.reaches(id, if media { Reach::OwnMedia } else { Reach::Others });
        Ok(MessageWriter::new(Class::Success, message.method, message.transaction))
    }

    pub(super) fn channel_bind(&mut self, id: AllocationId, message: &Message<'_>) -> Result<MessageWriter, ErrorCode> {
        let number = message
            .get_u32(attribute::CHANNEL_NUMBER)
            .map(|value| (value >> 16) as u16);
        let number = number.filter(|n| CHANNELS.contains(n)).ok_or(ErrorCode::BadRequest)?;
        let peer = message
            .get_address(attribute::XOR_PEER_ADDRESS)
            .ok_or(ErrorCode::BadRequest)?;
        let peer = self.checked_peer(id, peer)?;
        let route = self
            .shared
            .config
            .policy
            .route(peer.0, &self.shared.relayed)
            .ok_or(ErrorCode::Forbidden)?;
        let now = self.now;
        let limits = &self.shared.config.limits;
        let (permissions, channels) = (limits.permissions_per_allocation, limits.channels_per_allocation);
        let allocation = self.get_mut(id).ok_or(ErrorCode::AllocationMismatch)?;
        if allocation.protocol == Protocol::Tcp {
            return Err(ErrorCode::BadRequest);
        }
        let other_peer = allocation.channel(number, now).is_some_and(|c| c.peer != peer);
        let other_number = allocation.channel_to(peer, now).is_some_and(|c| c.number != number);
        if other_peer || other_number {
            return Err(ErrorCode::BadRequest);
        }
        if !allocation.permit(peer.0.ip(), now, permissions) || !allocation.bind(number, peer, route, now, channels) {
            return Err(ErrorCode::InsufficientCapacity);
        }
        self.speaks_with(id, peer);
        Ok(MessageWriter::new(Class::Success, message.method, message.transaction))
    }

    /// The allocation of this 5-tuple, if it is this user's.
    pub(super) fn own(&mut self, client: ClientSocket, who: &Authenticated) -> Result<AllocationId, ErrorCode> {
        let id = self.find(client).ok_or(ErrorCode::AllocationMismatch)?;
        match self.get(id) {
            Some(a) if a.is_opening() => Err(ErrorCode::AllocationMismatch),
            Some(a) if a.username == who.username => Ok(id),
            Some(_) => Err(ErrorCode::WrongCredentials),
            None => Err(ErrorCode::AllocationMismatch),
        }
    }

    pub(super) fn checked_peer(&self, id: AllocationId, peer: SocketAddr) -> Result<PeerSocket, ErrorCode> {
        let family = Family::of(peer.ip());
        if self.get(id).is_none_or(|a| a.relay(family).is_none()) {
            return Err(ErrorCode::PeerAddressFamilyMismatch);
        }
        let permitted = self.shared.config.policy.permits_ip(peer.ip(), &self.shared.relayed);
        if permitted {
            Ok(PeerSocket(peer))
        } else {
            Err(ErrorCode::Forbidden)
        }
    }

    /// RFC 8656 §7.2: no less than the default, no more than the maximum.
    fn lifetime(&self, message: &Message<'_>) -> Duration {
        let config = &self.shared.config;
        let asked = Duration::from_secs(message.get_u32(attribute::LIFETIME).unwrap_or(0).into());
        asked.min(config.lifetime_max).max(config.lifetime_default)
    }
}

fn requested_family(message: &Message<'_>) -> Result<Option<Family>, ErrorCode> {
    match message.get(attribute::REQUESTED_ADDRESS_FAMILY) {
        None => Ok(None),
        Some([1, _, _, _]) => Ok(Some(Family::V4)),
        Some([2, _, _, _]) => Ok(Some(Family::V6)),
        Some([_, _, _, _]) => Err(ErrorCode::AddressFamilyNotSupported),
        Some(_) => Err(ErrorCode::BadRequest),
    }
}
