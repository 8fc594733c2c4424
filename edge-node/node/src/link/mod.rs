//! Links to other edges over QUIC: the shell around `meridian_cascade::link`.
//!
//! Here live the one UDP socket all links share, TLS and the check of who the other side is, dialling and accepting, the
//! control stream, and the task that moves datagrams between quinn and the sans-IO engine. Not here: what control messages
//! mean, which tracks cross, and who our peers are; the node says so through [`LinkEndpoint`] and listens to [`LinkEvent`]s.
//!
//! Per pair of edges there are two connections: control and room state on one, media datagrams on the other. The edge with
//! the lower NodeId dials both. A link is up once both hellos were answered.

mod congestion;
mod control_stream;
mod dial;
mod endpoint;
mod listen;
mod media_session;
mod session;
mod settings;
mod types;

pub use endpoint::LinkEndpoint;
pub use meridian_cascade::link::{LinkCounters, MediaPacket, Priority, Received, SenderReport};
pub use types::{
    CONTROL_MESSAGE_MAX, DownReason, LinkConfig, LinkError, LinkEvent, LinkStats, PeerAddress, SendControlError,
    SendMediaError,
};
