//! A STUN and TURN server: RFC 8489, 8656 and 6062 over UDP, TCP, TLS and DTLS.
//!
//! [`Server`] is the protocol, sans-IO: datagrams, frames and `Instant`s go in, [`Command`]s and relayed packets come
//! out; it opens no socket, reads no clock and takes its randomness as a parameter. [`io`] is the shell around it:
//! threads, sockets, TLS, DTLS. `meridian turn` and the edge start [`io::TurnServer`] from [`settings`]; the join API mints credentials with
//! [`credentials::time_limited_credential`]. WebRTC's own ICE and DTLS do not live here but in `meridian-transport`.

#![forbid(unsafe_code)]

pub mod credentials;
pub mod framing;
pub mod io;
pub mod limits;
mod nonce;
pub mod policy;
mod ports;
pub mod server;
pub mod settings;
mod sockets;
pub mod stun;

pub use ports::ReservationToken;
pub use server::{
    AllocationId, Command, ConfigError, ConnectionId, Counters, Framing, Protocol, RelayAddress, RelayId, Relayed,
    Server, ServerConfig, Shared, ToClient, ToPeer,
};
pub use sockets::{AllocationPort, ClientSocket, Family, PeerSocket, Transport};
