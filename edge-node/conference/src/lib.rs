//! One room on one edge: who is in it, what each of them is told, what they publish and receive, and what that asks of the media
//! threads and of other edges. Sans-IO: [`Input`]s and the time come in, [`Output`]s come out; randomness is handed in as a generator.
//!
//! What lives here: every decision about the people of a room ([`Conference`]). What does not: sockets, timers, and where tokens are
//! renewed (the node), the room's replicated state (`meridian-room`), the client protocol (`meridian-signalling`), media
//! (`meridian-shard`), and how edges find and hear each other (`meridian-cascade`).
//!
//! The contract: [`Conference::handle`] and [`Conference::handle_timeout`] any number of times, then [`Conference::poll_output`] until
//! it gives `None`: what was handled together is told together. [`Conference::poll_timeout`] says when to call again.
//!
//! A member is a stay (who it is, what it may do, how long it belongs to the room), a transport on a media thread, and a [`Voice`]: LiveKit's
//! session is one of several.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod backup;
mod conference;
mod connect;
mod hold;
mod io;
mod learn;
mod media;
mod member;
mod moving;
mod negotiate;
mod recording;
mod relay;
mod renewal;
mod replay;
mod simulate;
mod stay;
mod subscribe;
mod tracks;
mod voice;

pub use conference::{Conference, Setup};
pub use io::{
    Birth, CloseKind, Connect, FromMesh, Input, MediaPlane, MeshData, Newcomer, Note, Output, SessionKey,
    SessionReport, ToMesh,
};
pub use moving::Place;
pub use recording::Recorded;
pub use renewal::Renewed;
pub use voice::{Belongs, HttpAsk, HttpReply, HttpVoice, Purpose, Voice};
