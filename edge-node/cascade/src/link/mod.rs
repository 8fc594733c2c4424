//! One link between two edges, without sockets or clocks: what rides in its datagrams and when.
//!
//! Here live the congestion [`controller`], the [`heartbeat`] that decides whether the other side is alive, the
//! [`media`] datagram framing, hop-by-hop [`repair`], the layer [`queue`] that sheds whole layers under congestion, the
//! [`hello`] both sides exchange, and [`engine`], which joins them into one state machine per link. Not here: QUIC and TLS
//! (`meridian_node::link` drives this), and what control messages mean (the rest of this crate).
//!
//! The contract of [`engine::MediaLink`]: after every `send`, `handle_datagram` or `handle_timeout`, drain `poll_transmit`,
//! `take_received` and `poll_event`, and call `handle_timeout` again at `poll_timeout`.

pub mod controller;
pub mod engine;
pub mod heartbeat;
pub mod hello;
pub mod media;
pub mod queue;
pub mod repair;

pub use controller::{ControllerConfig, DelayController};
pub use engine::{EngineEvent, LinkCounters, MediaLink, Received};
pub use media::SenderReport;
pub use queue::{LayerChange, MediaPacket, Priority};

/// Extends a 32-bit wire number to 64 bits: the value congruent to `wire` nearest to `reference`.
pub(crate) fn extend(reference: u64, wire: u32) -> u64 {
    let delta = wire.wrapping_sub(reference as u32) as i32;
    reference.saturating_add_signed(i64::from(delta))
}
