//! One room on one edge: who is in it, what each of them is told, what they publish and receive, and what that asks of the media
//! threads and of other edges. Sans-IO: [`Input`]s and the time come in, [`Output`]s come out; randomness is handed in as a generator.
//!
//! What lives here: every decision about the people of a room ([`Conference`]). What does not: sockets, timers, and where tokens are
//! renewed (the node), the room's replicated state (`meridian-room`), the client protocol (`meridian-signalling`), media
//! (`meridian-shard`), and how edges find and hear each other (`meridian-cascade`).
//!
//! The contract: [`Conference::handle`] and [`Conference::handle_timeout`] any number of times, then [`Conference::poll_output`] until
//! it gives `None`: what was handled together is told together. [`Conference::poll_timeout`] says when to call again.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod backup;
mod client;
mod conference;
mod connect;
mod hold;
mod io;
mod learn;
mod negotiate;
mod recording;
mod relay;
mod renewal;
mod replay;
mod simulate;
mod subscribe;
mod tracks;

pub use conference::{Conference, Setup};
pub use io::{
    Birth, CloseKind, Connect, FromMesh, Input, MediaPlane, MeshData, Note, Output, SessionKey, SessionReport, ToMesh,
};
pub use recording::Recorded;
pub use renewal::Renewed;
