//! One allocation: its relayed transport addresses, permissions and channels (RFC 8656 §3.2).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::credentials::{IntegrityKey, PasswordAlgorithm};
use crate::limits::Charge;
use crate::policy::Route;
use crate::ports::ReservationToken;
use crate::sockets::{AllocationPort, ClientSocket, Family, PeerSocket};
use crate::stun::{ErrorCode, Integrity, TransactionId};

/// RFC 8656 §9.
pub(crate) const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);
/// RFC 8656 §12.
pub(crate) const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(crate) struct Permission {
    pub(crate) ip: IpAddr,
    pub(crate) expires: Instant,
}

#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) number: u16,
    pub(crate) peer: PeerSocket,
    /// Decided once, when the channel was bound.
    pub(crate) route: Route,
    pub(crate) expires: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RelayState {
    /// The shell was asked to open it.
    Opening {
        attempt: u8,
    },
    Open,
    /// Not to be had; the reason is told to the client.
    Failed(ErrorCode),
}

/// What peers are spoken to with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Udp,
    /// RFC 6062.
    Tcp,
}

/// With whom an allocation speaks, as far as it has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    /// With nobody yet.
    Nobody,
    /// With this PoP's media ports only: of no use once these are closed.
    OwnMedia,
    Others,
}

#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) port: AllocationPort,
    pub(crate) state: RelayState,
    pub(crate) expires: Instant,
}

/// The Allocate request that is being answered, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) transaction: TransactionId,
    pub(crate) integrity: Integrity,
    pub(crate) lifetime: Duration,
    pub(crate) token: Option<ReservationToken>,
    pub(crate) port: PortWish,
}

/// Which relayed ports will do (RFC 8656 §7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortWish {
    Any,
    Even,
    /// An even one, with the next reserved for later.
    EvenOfPair,
    /// The one an earlier allocation reserved, and no other.
    Reserved(ReservationToken),
}

#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) client: ClientSocket,
    pub(crate) protocol: Protocol,
    pub(crate) username: Arc<str>,
    pub(crate) algorithm: PasswordAlgorithm,
    pub(crate) key: IntegrityKey,
    pub(crate) origin: Origin,
    pub(crate) relays: [Option<Relay>; 2],
    pub(crate) permissions: Vec<Permission>,
    pub(crate) channels: Vec<Channel>,
    pub(crate) charge: Charge,
    pub(crate) reach: Reach,
    /// Where it stands in the table of deadlines.
    pub(crate) deadline: Instant,
}

impl Allocation {
    pub(crate) fn relay(&self, family: Family) -> Option<&Relay> {
        self.relays[family.index()]
            .as_ref()
            .filter(|r| r.state == RelayState::Open)
    }

    pub(crate) fn is_opening(&self) -> bool {
        self.relays
            .iter()
            .flatten()
            .any(|r| matches!(r.state, RelayState::Opening { .. }))
    }

    pub(crate) fn permits(&self, ip: IpAddr, now: Instant) -> bool {
        self.permissions.iter().any(|p| p.ip == ip && p.expires > now)
    }

    pub(crate) fn channel(&self, number: u16, now: Instant) -> Option<&Channel> {
        self.channels.iter().find(|c| c.number == number && c.expires > now)
    }

    pub(crate) fn channel_to(&self, peer: PeerSocket, now: Instant) -> Option<&Channel> {
        self.channels.iter().find(|c| c.peer == peer && c.expires > now)
    }

    /// Installs or renews. `false`: there are too many.
    pub(crate) fn permit(&mut self, ip: IpAddr, now: Instant, max: usize) -> bool {
        let expires = now + PERMISSION_LIFETIME;
        if let Some(known) = self.permissions.iter_mut().find(|p| p.ip == ip) {
            known.expires = expires;
            return true;
        }
        if self.permissions.len() >= max {
            self.permissions.retain(|p| p.expires > now);
        }
        let room = self.permissions.len() < max;
        if room {
            self.permissions.push(Permission { ip, expires });
        }
        room
    }

    /// Binds or renews; number and peer are known to fit together. `false`: there are too many.
    pub(crate) fn bind(&mut self, number: u16, peer: PeerSocket, route: Route, now: Instant, max: usize) -> bool {
        let expires = now + CHANNEL_LIFETIME;
        self.channels.retain(|c| c.expires > now);
        if let Some(known) = self.channels.iter_mut().find(|c| c.number == number) {
            known.expires = expires;
            return true;
        }
        let room = self.channels.len() < max;
        if room {
            self.channels.push(Channel {
                number,
                peer,
                route,
                expires,
            });
        }
        room
    }

    /// When something of it runs out next.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.relays.iter().flatten().map(|r| r.expires).min()
    }
}
