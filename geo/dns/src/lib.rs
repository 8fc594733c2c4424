//! GeoDNS: an authoritative name server that answers the join hostname with the edges that suit whoever asks.
//!
//! Here live the zone ([`Zone`]: what exists, and what does not), the reading of queries and writing of replies, the response rate
//! limit, and the sockets ([`GeoDns`]). Which edges suit an address is none of its business: it asks a [`World`], which the control
//! plane implements with the same scores as the join API. [`Responder`] is the whole server without sockets and without a clock:
//! bytes in, bytes out.
//!
//! Messages are those of `hickory-server` and `hickory-proto`; its socket loops are not used, because they spawn a task for each
//! datagram, accept TCP connections without a bound, log each query, and answer malformed ones past any rate limit.
//!
//! RFC 1034/1035, 2308 (negative answers), 6891 (EDNS), 7766 (TCP), 7871 (client subnet), 8482 (ANY).
#![forbid(unsafe_code)]

mod config;
mod query;
mod rate;
mod reply;
mod server;
mod subnet;
mod world;
mod zone;

pub use config::DnsConfig;
pub use reply::{Responder, Transport, UDP_BYTES_MAX};
pub use server::{DnsError, GeoDns};
pub use world::{Choice, Target, World};
pub use zone::Zone;
