//! The edge: wiring. Sockets, tasks and connections live here; what they carry is understood in the crates beside this one.
//!
//! - [`config`]: what an operator may set.
//! - `edge`: starts and stops the parts, holds what they share.
//! - `http`: signalling sockets, the join API, health, metrics.
//! - `rooms`: one task per room, with the sockets and the timer of its `meridian-conference`.
//! - `media`: events of the media threads to their rooms.
//! - `mesh`, [`link`]: rooms to other edges, over QUIC.
//! - `turn`: the TURN server in this edge, and what clients are told about it.
//! - `control`: the stream to the control plane.
#![forbid(unsafe_code)]

mod address;
pub mod config;
mod control;
mod edge;
mod http;
pub mod link;
mod media;
mod mesh;
mod recording;
mod rooms;
mod turn;
mod usage;

pub use config::EdgeConfig;
pub use edge::{Edge, EdgeError, check_identity};
