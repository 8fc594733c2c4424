//! A STUN and TURN server without its sockets: RFC 8489, 8656 and 6062.
//!
//! [`Server`] is the protocol, sans-IO: datagrams, frames and `Instant`s go in, [`Command`]s and relayed packets come
//! out; it opens no socket, reads no clock and takes its randomness as a parameter. `meridian-turn` is the shell around it.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod credentials;
pub mod framing;
pub mod limits;
mod nonce;
pub mod policy;
mod ports;
pub mod server;
mod sockets;
pub mod stun;

pub use ports::ReservationToken;
pub use server::{
    AllocationId, Command, ConfigError, ConnectionId, Counters, Framing, Protocol, RelayAddress, RelayId, Relayed,
    Server, ServerConfig, Shared, ToClient, ToPeer,
};
pub use sockets::{AllocationPort, ClientSocket, Family, PeerSocket, Transport};
