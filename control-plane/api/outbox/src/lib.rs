//! What an edge has to tell the control plane for good: numbered, kept until it is acknowledged, bounded. Sans-IO: `Instant`s come in,
//! entries to send and the next time to ask come out.
//!
//! The edge holds an [`Outbox`], the control plane an [`Inbox`] per edge. Numbers start at 1 with each life of an edge (its
//! incarnation) and only grow; one that was dropped leaves a gap, which the other side steps over: on one connection entries come in order,
//! and every connection starts with the oldest that is not acknowledged. So whatever was pushed and is not counted as dropped arrives
//! exactly once while neither side loses its memory. A control plane that lost its own (a restart, another replica) may be told once more
//! what it had not acknowledged: whoever stores entries finds repetitions by incarnation and number.
//!
//! Not here: what entries say (`meridian_wire`), the connection (`meridian_node::control`, the control plane's `grpc`).
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod inbox;
mod outbox;

pub use inbox::{Inbox, Taken};
pub use outbox::{Counters, Limits, Outbox, Worth};
