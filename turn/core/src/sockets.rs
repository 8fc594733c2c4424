//! Addresses that must not be mixed up, as types of their own.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(ip: IpAddr) -> Family {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

/// What a client speaks to us over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    Udp,
    Tcp,
    Tls,
    /// Each message in a datagram, as over UDP.
    Dtls,
}

impl Transport {
    /// Whether messages arrive in a byte stream, where ChannelData is padded (RFC 8656 §12.5).
    pub fn is_stream(self) -> bool {
        matches!(self, Transport::Tcp | Transport::Tls)
    }
}

/// A client as the server sees it: the 5-tuple that identifies an allocation (RFC 8656 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientSocket {
    pub remote: SocketAddr,
    /// The server's end, which answers must come from.
    pub local: SocketAddr,
    pub transport: Transport,
}

/// The remote end tells clients apart; this is done for every packet.
impl Hash for ClientSocket {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let port = u32::from(self.remote.port()) << 8 | self.transport as u32;
        match self.remote.ip() {
            IpAddr::V4(ip) => state.write_u64(u64::from(u32::from(ip)) << 32 | u64::from(port)),
            IpAddr::V6(ip) => {
                state.write_u128(ip.into());
                state.write_u32(port);
            }
        }
    }
}

/// A peer behind the relay, as clients name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerSocket(pub SocketAddr);

impl PeerSocket {
    pub fn family(self) -> Family {
        Family::of(self.0.ip())
    }
}

/// A port of the relay's address of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllocationPort(pub u16);

impl fmt::Display for PeerSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
