//! The edge: wiring. Sockets, tasks and connections live here; what they carry is understood in the crates beside this one.
//!
//! - [`config`]: what an operator may set.
//! - `edge`: starts the parts, gives each what it uses, stops them.
//! - `lifecycle`: active, cordoned, draining, leaving, stopped: the one place that every part asks.
//! - `admission`: keys of tokens, and whether anybody new should come.
//! - `profile`, `registration`, `reports`: what this edge is and how it fares, as the registry and the control plane are told.
//! - `http`: signalling sockets, the join API, health, metrics.
//! - `handles`: how everybody else reaches a room; `rooms`: one task per room, with the sockets and the timer of its
//!   `meridian-conference`.
//! - `media`: events of the media threads to their rooms.
//! - `mesh`, [`link`]: rooms to other edges, over QUIC.
//! - `recording`: the recorder's thread, and the task that uploads what it writes.
//! - `turn`: the TURN server in this edge, and what clients are told about it.
//! - `control`: the stream to the control plane.
//!
//! No two of them import each other, however indirectly (`tests/house`): what two parts need of each other stands in a third.
#![forbid(unsafe_code)]

mod address;
mod admission;
mod clock;
pub mod config;
mod control;
mod drain;
mod edge;
mod handles;
mod http;
mod lifecycle;
pub mod link;
mod media;
mod mesh;
mod outgoing;
mod profile;
mod recording;
mod registration;
mod reports;
mod rooms;
mod turn;
mod usage;

pub use config::EdgeConfig;
pub use edge::{Edge, EdgeError, check_identity};
