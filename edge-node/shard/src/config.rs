//! What the media threads are made of.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What the media threads are made of.
#[derive(Clone, Debug)]
pub struct ShardsConfig {
    /// One socket per shard and address: shard `i` binds `port + i`, or any free port if the port is 0. An unspecified
    /// IP takes all interfaces of its family.
    pub bind: Vec<SocketAddr>,
    /// Media threads; 0 = one per core.
    pub shards: usize,
    /// Addresses clients are told (1:1 NAT, several interfaces), with the shard's port. Empty = the bound address, or on
    /// a wildcard socket the address this machine would reach the internet from.
    pub advertise: Vec<IpAddr>,
    /// Peers a shard accepts; further `AddPeer` end in `PeerClosed`.
    pub peers_max: usize,
    /// Kernel buffers per socket, bytes each way.
    pub socket_buffer_bytes: usize,
    /// How long packets of an unfinished frame wait for the rest of it before they are forwarded.
    pub flush_delay: Duration,
}

impl Default for ShardsConfig {
    fn default() -> Self {
        ShardsConfig {
            bind: vec![SocketAddr::from(([0, 0, 0, 0], 0))],
            shards: 0,
            advertise: Vec::new(),
            peers_max: 20_000,
            socket_buffer_bytes: 8 << 20,
            flush_delay: Duration::from_micros(500),
        }
    }
}
