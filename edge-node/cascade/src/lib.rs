//! How edges share rooms: who meets where, what they tell each other, and what one link carries. Sans-IO: messages, `Instant`s
//! and a seed come in; messages, commands and the next timeout go out.
//!
//! [`carriage::Carriage`] is what an edge's driver holds: it decides between rooms ([`words`]), media threads and links. Below it
//! [`mesh::Mesh`] is the facade over the room [`directory`], the replication of room state and the track subscriptions;
//! [`wire`] has its control messages. [`link`] is one link's media half: congestion control, heartbeats, hop repair. Not
//! here: QUIC (`meridian_node::link`), what room state means (`meridian_room`), media forwarding (`meridian_shard`).
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod carriage;
mod crossing;
pub mod directory;
pub mod link;
mod linking;
mod measure;
pub mod mesh;
mod rendezvous;
mod replication;
mod subscriptions;
mod view;
pub mod wire;
pub mod words;

pub use mesh::{ConnectionGrade, Data, Edge, Life, Mesh, MeshCounters, Output, RoomInput};
