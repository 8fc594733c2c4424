//! The media threads: one per core, each with its own sockets and its own peers.
//!
//! What lives here: sockets, demultiplexing, the fan-out of a packet to its subscribers, hand-over between shards, timers.
//! What does not: any protocol (`meridian-transport`), what happens inside a packet (`meridian-sfu`), who may publish
//! or subscribe what (the node). The node calls [`Shards`] with [`Command`]s and hears [`Event`]s; nothing else goes in
//! or out but datagrams and [`TapBatch`]es for the mesh and the recorder.
//!
//! The way of a packet: `thread` receives a batch of datagrams → `ingress` finds the peer, decrypts in place, and the
//! uplink stores the packet in its ring → `egress` writes it for each subscriber straight into the outgoing batch,
//! encrypts it there, and hands 64 messages at a time to the kernel. No lock, no allocation and no clock on that way.
#![forbid(unsafe_code)]

mod config;
mod events;
mod inbox;
mod metrics;
mod shards;
mod taps;
mod thread;

pub use config::ShardsConfig;
pub use meridian_shard_api::{
    Command, Demand, Event, PeerCloseReason, PeerId, PeerStats, TapBatch, TapConsumer, Tapped,
};
pub use metrics::{Kind, Metric, ShardMetrics};
pub use shards::Shards;
pub use taps::TapSenders;
