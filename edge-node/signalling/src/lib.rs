#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]
//! The client protocol: LiveKit's wire messages on the one side, the room's state on the other. Sans-IO: frames, room
//! events and the time come in; frames and [`Action`]s come out.
//!
//! What lives here: reading the connect request in two steps, the token first ([`connect`]), one client's protocol state ([`Session`]), turning room facts
//! into messages ([`convert`]), and inspecting data packets ([`data`]).
//!
//! What does not: sockets, tokens' signatures (`meridian_access::token`), SDP (`meridian_transport::sdp`) and media. The caller
//! is the node: it owns the [`meridian_room::Room`], carries out the actions, and writes what [`Session::poll_frame`] gives.
//!
//! The contract of [`Session`]: [`Session::start`] or [`Session::resume`] once per socket, then any calls in any order;
//! carry out returned actions in their order; drain `poll_frame` after each call.

pub mod connect;
pub mod convert;
mod counts;
pub mod data;
mod fields;
mod frame;
mod session;

pub use connect::{ConnectRequest, Knock, Refusal};
pub use frame::{FRAME_BYTES_MAX, Frame, Violation};
/// The wire types.
pub use livekit_protocol as proto;
pub use session::{
    Action, LeaveAction, Matched, PublicationKey, Session, SessionConfig, SubscriptionFailure, TrackChange,
    TrackSetting,
};
