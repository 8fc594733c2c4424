//! One client's WebRTC transport on the server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::dtls::{DtlsIdentity, Fingerprint};
use crate::ice::IceCredentials;
use crate::sctp::{Channel, SendDataError};
use crate::srtp::{SrtpProfile, SrtpSender};

/// What a peer needs to know from signalling.
pub struct PeerConfig {
    pub identity: Arc<DtlsIdentity>,
    pub local: IceCredentials,
    pub remote: IceCredentials,
    /// From the client's SDP; any other certificate closes the peer.
    pub remote_fingerprint: Fingerprint,
    /// Source of this peer's randomness (SCTP tags, timers). Must be unpredictable in production.
    pub seed: [u8; 32],
}

/// What `handle_datagram` left in the slice it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Consumed, or dropped and counted.
    Nothing,
    /// A decrypted RTP packet in the first `len` bytes.
    Rtp { len: usize },
    /// A decrypted compound RTCP packet in the first `len` bytes.
    Rtcp { len: usize },
}

#[derive(Clone, Debug)]
pub enum Output {
    /// Send `payload` from the socket bound to `from`.
    Transmit { from: SocketAddr, to: SocketAddr, payload: Vec<u8> },
    Event(PeerEvent),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// DTLS is done and the certificate is the one signalled: `srtp()` is `Some` from here on.
    Connected { profile: SrtpProfile },
    /// Where to send from now on; the first one comes before `Connected`.
    PathChanged { local: SocketAddr, remote: SocketAddr },
    ChannelOpen(Channel),
    /// One whole message.
    Data { channel: Channel, payload: Bytes, binary: bool },
    /// The last event. The peer stays silent afterwards.
    Closed(CloseReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// No authenticated STUN request for 30 s (RFC 7675), or none ever.
    ConsentLost,
    /// The client sent close_notify.
    ClosedByPeer,
    /// `Peer::close` was called.
    ClosedLocally,
    /// The handshake failed or timed out, or a fatal alert came.
    DtlsFailed,
    /// The client's certificate is not the one in its SDP.
    FingerprintMismatch,
    /// The client offered no SRTP profile we speak.
    NoSrtpProfile,
}

/// A pair of addresses: our socket's and the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error("DTLS configuration: {0}")]
    Dtls(String),
}

/// Counters since the peer began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerStats {}

/// One WebRTC transport: ICE-lite (controlled), DTLS server (`setup:passive`), SRTP, SCTP. Drain `poll_output` until
/// `None` after every call that takes `&mut self`.
pub struct Peer {}

impl Peer {
    pub fn new(_config: PeerConfig, _now: Instant) -> Result<Peer, TransportError> {
        Ok(Peer {})
    }

    /// Takes any datagram of this peer: STUN, DTLS, SRTP, SRTCP. Bad input is counted, never an error.
    pub fn handle_datagram(
        &mut self,
        _now: Instant,
        _from: SocketAddr,
        _local: SocketAddr,
        _datagram: &mut [u8],
    ) -> Received {
        Received::Nothing
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// The selected path: where media goes. `None` until the first authenticated request.
    pub fn path(&self) -> Option<Path> {
        None
    }

    /// The sending half of SRTP, once connected.
    pub fn srtp(&mut self) -> Option<&mut SrtpSender> {
        None
    }

    /// Queues one message on a channel the client opened. Bounded: a client that does not read gets `QueueFull`.
    pub fn send_data(
        &mut self,
        _now: Instant,
        _channel: Channel,
        _payload: &[u8],
        _binary: bool,
    ) -> Result<(), SendDataError> {
        Err(SendDataError::NotOpen)
    }

    /// New credentials of an ICE restart (RFC 8445 §9). The old path keeps serving until the new ones are nominated.
    pub fn restart_ice(&mut self, _local: IceCredentials, _remote: IceCredentials) {}

    /// Says goodbye (DTLS close_notify) and closes.
    pub fn close(&mut self, _now: Instant) {}

    pub fn stats(&self) -> PeerStats {
        PeerStats::default()
    }
}
