//! One client's WebRTC transport on the server: ICE-lite decides where, the session what.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::demux::{DatagramKind, kind};
use crate::dtls::{DtlsIdentity, Fingerprint};
use crate::ice::{Checked, IceCredentials, IceLite, Path};
use crate::sctp::{Channel, SendDataError};
use crate::session::{DtlsRole, Session, SessionOutput};
use crate::srtp::{SrtpProfile, SrtpSender};

/// From `Peer::new` until DTLS must be done: signalling, ICE and the slowest handshake fit.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(45);

/// What a peer needs to know from signalling.
pub struct PeerConfig {
    pub identity: Arc<DtlsIdentity>,
    pub local: IceCredentials,
    pub remote: IceCredentials,
    /// From the client's SDP; any other certificate closes the peer.
    pub remote_fingerprint: Fingerprint,
    /// Ours, as the answer says.
    pub role: DtlsRole,
    /// Tells this peer's SRTP streams from another's. Keys do not come from it: the DTLS and SCTP libraries draw their
    /// randomness from the system.
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
    Transmit {
        from: SocketAddr,
        to: SocketAddr,
        payload: Vec<u8>,
    },
    Event(PeerEvent),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// DTLS is done and the certificate is the one signalled: `srtp()` is `Some` from here on.
    Connected { profile: SrtpProfile },
    /// Where to send from now on; the first one comes before `Connected`.
    PathChanged { local: SocketAddr, remote: SocketAddr },
    /// The client opened a channel: both directions may be used.
    ChannelOpen(Channel),
    /// One whole message, at most `MAX_MESSAGE_LEN` bytes.
    Data {
        channel: Channel,
        payload: Bytes,
        binary: bool,
    },
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
    /// The handshake failed, took 30 s or was not done after 45 s of ICE, or a fatal alert came.
    DtlsFailed,
    /// The client's certificate is not the one in its SDP.
    FingerprintMismatch,
    /// The client offered no SRTP profile we speak.
    NoSrtpProfile,
}

#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// RFC 8445 §5.3: a ufrag has 4–256 and a password 22–256 characters.
    #[error("ICE credentials are too short or too long")]
    BadCredentials,
}

/// Counters since the peer began. All of them are drops: what arrived well is the caller's to count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// STUN that was no authenticated binding request.
    pub stun_dropped: u64,
    /// Datagrams other than STUN from an address that never authenticated, or of no known kind.
    pub stray: u64,
    /// DTLS datagrams no real handshake contains, or that found the handshake's queue full.
    pub dtls_dropped: u64,
    pub srtp_replayed: u64,
    pub srtp_unauthentic: u64,
    /// SRTP before the keys, malformed, or of too many SSRCs.
    pub srtp_refused: u64,
    /// SCTP packets refused before parsing.
    pub sctp_refused: u64,
    /// Data messages on unknown channels, too long, or not understood.
    pub data_ignored: u64,
    /// The SCTP library panicked on this client's bytes; its channels are closed.
    pub sctp_panicked: bool,
    /// Times the path moved, the first selection not counted.
    pub path_moves: u64,
}

/// One WebRTC transport: ICE-lite (controlled), DTLS, SRTP, SCTP. Drain `poll_output` until
/// `None` after every call that takes `now`; then ask `poll_timeout` when to call `handle_timeout`.
pub struct Peer {
    ice: IceLite,
    session: Box<Session>,
    connect_by: Instant,
    closed: bool,
    /// A DTLS client's hello, until there is a path for it.
    hello: Option<Vec<u8>>,
    outputs: VecDeque<Output>,
    stats: PeerStats,
}

impl Peer {
    pub fn new(config: PeerConfig, now: Instant) -> Result<Peer, TransportError> {
        check_credentials(&config.local)?;
        check_credentials(&config.remote)?;
        let [a, b, c, d, ..] = config.seed;
        let srtp_id = u32::from_le_bytes([a, b, c, d]);
        let session = Session::new(
            config.role,
            &config.identity,
            config.remote_fingerprint,
            Vec::new(),
            srtp_id,
            now,
        );
        let mut peer = Peer {
            ice: IceLite::new(config.local, config.remote, now),
            session: Box::new(session),
            connect_by: now + CONNECT_TIMEOUT,
            closed: false,
            hello: None,
            outputs: VecDeque::new(),
            stats: PeerStats::default(),
        };
        peer.drain_session();
        Ok(peer)
    }

    /// Takes any datagram of this peer: STUN, DTLS, SRTP, SRTCP. Bad input is counted, never an error.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        local: SocketAddr,
        datagram: &mut [u8],
    ) -> Received {
        if self.closed {
            return Received::Nothing;
        }
        let pair = Path { local, remote: from };
        let kind = kind(datagram);
        if kind == DatagramKind::Stun {
            self.handle_stun(now, pair, datagram);
            return Received::Nothing;
        }
        if !self.ice.is_known(pair) {
            self.stats.stray += 1;
            return Received::Nothing;
        }
        let received = match kind {
            DatagramKind::Rtp => self.session.unprotect_rtp(datagram).map(|len| Received::Rtp { len }),
            DatagramKind::Rtcp => self.session.unprotect_rtcp(datagram).map(|len| Received::Rtcp { len }),
            DatagramKind::Dtls => {
                self.session.handle_dtls(now, datagram);
                self.drain_session();
                return Received::Nothing;
            }
            DatagramKind::Stun | DatagramKind::Other => {
                self.stats.stray += 1;
                None
            }
        };
        if received.is_some() {
            self.ice.heard(now, pair);
        }
        received.unwrap_or(Received::Nothing)
    }

    fn handle_stun(&mut self, now: Instant, pair: Path, datagram: &[u8]) {
        let had_path = self.ice.path().is_some();
        match self.ice.handle(now, pair, datagram) {
            Checked::Dropped => self.stats.stun_dropped += 1,
            Checked::Answered { response, moved_to } => {
                self.outputs.push_back(Output::Transmit {
                    from: pair.local,
                    to: pair.remote,
                    payload: response,
                });
                if let Some(Path { local, remote }) = moved_to {
                    self.stats.path_moves += u64::from(had_path);
                    self.outputs
                        .push_back(Output::Event(PeerEvent::PathChanged { local, remote }));
                    if let Some(payload) = self.hello.take() {
                        let (from, to) = (local, remote);
                        self.outputs.push_back(Output::Transmit { from, to, payload });
                    }
                }
            }
        }
    }

    /// What to send and what happened, in order; `None` when there is nothing more.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call `handle_timeout`; `None` once closed. Changes with every call that takes `now`.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.closed {
            return None;
        }
        let connect_by = (!self.is_connected()).then_some(self.connect_by);
        [self.session.poll_timeout(), connect_by]
            .into_iter()
            .flatten()
            .chain([self.ice.consent_expires()])
            .min()
    }

    /// Retransmissions and consent. Calling it early or twice does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.closed {
            return;
        }
        if now >= self.ice.consent_expires() {
            // Nobody listens any more: no goodbye (RFC 7675 §5.1 forbids sending).
            self.session.end(CloseReason::ConsentLost);
        } else if now >= self.connect_by && !self.is_connected() {
            self.session.close(now, CloseReason::DtlsFailed);
        } else {
            self.session.handle_timeout(now);
        }
        self.drain_session();
    }

    /// The selected path: where media goes. `None` until the first authenticated request.
    pub fn path(&self) -> Option<Path> {
        self.ice.path()
    }

    /// The sending half of SRTP, once connected.
    pub fn srtp(&mut self) -> Option<&mut SrtpSender> {
        self.session.sender()
    }

    pub fn is_connected(&self) -> bool {
        self.session.is_connected()
    }

    /// Queues one message on a channel the client opened. Bounded: a client that does not read gets `QueueFull`, on its reliable channel after 8 MB.
    pub fn send_data(
        &mut self,
        now: Instant,
        channel: Channel,
        payload: &[u8],
        binary: bool,
    ) -> Result<(), SendDataError> {
        let result = self.session.send_data(now, channel, payload, binary);
        self.drain_session();
        result
    }

    /// Stops taking messages of the client's reliable channel, or goes on: it can send some 128 KB more, and the rest waits in its own queue.
    pub fn hold_data(&mut self, now: Instant, held: bool) {
        self.session.hold_data(now, held);
        self.drain_session();
    }

    /// Bytes that wait for the client on this channel, in flight or not.
    pub fn data_queued(&mut self, channel: Channel) -> usize {
        self.session.data_queued(channel)
    }

    /// New credentials of an ICE restart (RFC 8445 §9). DTLS, SRTP and SCTP stay, and the old path keeps serving until a
    /// request with the new credentials nominates.
    pub fn restart_ice(&mut self, local: IceCredentials, remote: IceCredentials) {
        self.ice.restart(local, remote);
    }

    /// Says goodbye (DTLS close_notify) and closes.
    pub fn close(&mut self, now: Instant) {
        self.session.close(now, CloseReason::ClosedLocally);
        self.drain_session();
    }

    pub fn stats(&self) -> PeerStats {
        let session = self.session.stats();
        let (dtls_dropped, sctp_refused, data_ignored, sctp_panicked) = self.session.refusals();
        PeerStats {
            dtls_dropped,
            srtp_replayed: session.rtp_replayed,
            srtp_unauthentic: session.rtp_unauthentic,
            srtp_refused: session.rtp_refused,
            sctp_refused,
            data_ignored,
            sctp_panicked,
            ..self.stats
        }
    }

    fn drain_session(&mut self) {
        while let Some(output) = self.session.poll() {
            let output = match output {
                SessionOutput::Datagram(payload) => match self.ice.path() {
                    Some(Path { local, remote }) => Output::Transmit {
                        from: local,
                        to: remote,
                        payload,
                    },
                    // Only a DTLS client speaks before it was spoken to: its hello, one datagram, which it repeats.
                    None => {
                        self.hello = Some(payload);
                        continue;
                    }
                },
                SessionOutput::Event(event) => {
                    self.closed |= matches!(event, PeerEvent::Closed(_));
                    Output::Event(event)
                }
            };
            self.outputs.push_back(output);
        }
    }
}

pub(crate) fn check_credentials(credentials: &IceCredentials) -> Result<(), TransportError> {
    let sound = (4..=256).contains(&credentials.ufrag.len()) && (22..=256).contains(&credentials.pwd.len());
    sound.then_some(()).ok_or(TransportError::BadCredentials)
}
