#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]
//! One room's state as one edge sees it, and how edges agree on it. Sans-IO: messages, the clock and randomness come in;
//! events, messages and the next timeout come out.
//!
//! What lives here: the ids everybody shares ([`ids`]), the facts about participants, tracks and the room ([`facts`]), their
//! wire form between edges ([`wire`]), and [`Room`], the replica: local writers, merging, eviction of duplicate identities,
//! and the rule that decides when a lost edge's people are gone.
//!
//! What does not: the client protocol (crate `meridian-signalling` turns this state into messages), media, and the
//! question of which edges talk to each other (crate `meridian-cascade` finds them and carries the bytes).
//!
//! The contract of [`Room`]: after every call that takes `&mut self`, drain [`Room::poll_event`] and [`Room::poll_delta`];
//! call [`Room::handle_timeout`] when [`Room::poll_timeout`] has passed. Spurious timeouts do nothing.

pub mod facts;
pub mod ids;
pub mod limits;
mod replica;
mod room;
pub mod wire;

pub use facts::{
    AclRule, DisconnectReason, Former, NewParticipant, Participant, ParticipantKind, ParticipantState,
    ParticipantUpdate, Permission, RoomInfo, SubscriptionAcl, Track, TrackCodec, TrackKind, TrackSource, VideoLayer,
};
pub use ids::{Epoch, Identity, NodeId, ParticipantSid, RoomName, RoomSid, TrackSid, Version};
pub use room::{Applied, Joined, Room, RoomError, RoomEvent, SILENCE};
pub use wire::{RoomDelta, RoomDigest};
