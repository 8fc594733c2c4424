//! One WebRTC transport, sans-IO: ICE-lite, DTLS, SRTP and SCTP data channels of one client. Bytes and `Instant`s come
//! in, bytes, events and the next timeout go out; no sockets, no clock, no tokio.
//!
//! [`Peer`] is the server's half, driven by a media shard. [`client::Client`] is the other half, for tests and load
//! generators. What a packet carries (RTP semantics, layers, feedback) is `meridian-sfu`'s business, not this crate's.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod client;
mod demux;
mod dtls;
mod ice;
mod peer;
mod sctp;
pub mod sdp;
mod session;
pub mod srtp;
mod stun;

pub use demux::{DatagramKind, kind};
pub use dtls::{DtlsIdentity, Fingerprint, FingerprintError, IdentityError};
pub use ice::{CONSENT_TIMEOUT, IceCredentials, Path};
pub use peer::{
    CONNECT_TIMEOUT, CloseReason, Output, Peer, PeerConfig, PeerEvent, PeerStats, Received, TransportError,
};
pub use sctp::{Channel, MAX_MESSAGE_LEN, SendDataError};
pub use session::DtlsRole;
pub use srtp::{ProtectError, SrtpProfile, SrtpSender, SrtpStream};
pub use stun::stun_local_ufrag;
