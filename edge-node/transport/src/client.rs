//! The client half used by tests and load generators: ICE controlling, DTLS client, SRTP, and data channels that it
//! opens, shaped like a browser's. No SDP, no codecs, one pair at a time. Nothing in the server uses it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rtc_stun::message::TransactionId;

use crate::demux::{DatagramKind, kind};
use crate::dtls::{DtlsIdentity, Fingerprint};
use crate::ice::{IceCredentials, Path};
use crate::peer::{CloseReason, Output, PeerEvent, Received, TransportError, check_credentials};
use crate::sctp::{Channel, SendDataError};
use crate::session::{DtlsRole, Session, SessionOutput};
use crate::srtp::SrtpSender;
use crate::stun;

/// Between checks until the first answer, as Chromium does on a weak connection.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Between consent checks of a working pair (Chromium's interval on a stable connection).
const CONSENT_INTERVAL: Duration = Duration::from_millis(2_500);
/// Answers not heard for this long close the client.
const CONSENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Checks whose answer is still of interest.
const MAX_OUTSTANDING: usize = 16;

pub struct ClientConfig {
    /// One identity may serve many clients of a load generator.
    pub identity: Arc<DtlsIdentity>,
    pub local: IceCredentials,
    pub remote: IceCredentials,
    pub remote_fingerprint: Fingerprint,
    /// Data channels to open once connected; empty = no SCTP at all.
    pub channels: Vec<Channel>,
    /// Transaction ids and tie-breaker come from it; DTLS and SCTP draw from the system.
    pub seed: [u8; 32],
}

/// A controlling WebRTC transport over one address pair. Same drive as `Peer`: feed datagrams and time, drain
/// `poll_output`, wake at `poll_timeout`. `Connected`, `ChannelOpen`, `Data` and `Closed` mean the same as on a `Peer`;
/// `PathChanged` says that the server answered on the pair.
pub struct Client {
    local: IceCredentials,
    remote: IceCredentials,
    pair: Path,
    session: Box<Session>,
    rng: StdRng,
    tie_breaker: u64,
    outstanding: VecDeque<TransactionId>,
    /// The pair answered since it was set or restarted.
    answered: bool,
    next_check: Instant,
    heard: Instant,
    closed: bool,
    /// DTLS waits for the pair, as a browser's does.
    held: Vec<Vec<u8>>,
    outputs: VecDeque<Output>,
}

impl Client {
    /// Begins checks from `local` to the server's `remote`. Drain `poll_output` right away.
    pub fn new(
        config: ClientConfig,
        local: SocketAddr,
        remote: SocketAddr,
        now: Instant,
    ) -> Result<Client, TransportError> {
        Client::with_role(config, DtlsRole::Client, local, remote, now)
    }

    /// [`Client::new`] for clients that wait for the server's DTLS hello, as FFmpeg's do; they open no channels.
    pub fn with_role(
        config: ClientConfig,
        role: DtlsRole,
        local: SocketAddr,
        remote: SocketAddr,
        now: Instant,
    ) -> Result<Client, TransportError> {
        check_credentials(&config.local)?;
        check_credentials(&config.remote)?;
        let mut rng = StdRng::from_seed(config.seed);
        let session = Session::new(
            role,
            &config.identity,
            config.remote_fingerprint,
            config.channels,
            rng.random(),
            now,
        );
        let mut client = Client {
            local: config.local,
            remote: config.remote,
            pair: Path { local, remote },
            session: Box::new(session),
            tie_breaker: rng.random(),
            rng,
            outstanding: VecDeque::new(),
            answered: false,
            next_check: now,
            heard: now,
            closed: false,
            held: Vec::new(),
            outputs: VecDeque::new(),
        };
        client.handle_timeout(now);
        Ok(client)
    }

    pub fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        local: SocketAddr,
        datagram: &mut [u8],
    ) -> Received {
        if self.closed || (Path { local, remote: from }) != self.pair {
            return Received::Nothing;
        }
        let received = match kind(datagram) {
            DatagramKind::Stun => {
                self.handle_stun(now, datagram);
                None
            }
            DatagramKind::Dtls => {
                self.session.handle_dtls(now, datagram);
                None
            }
            DatagramKind::Rtp => self.session.unprotect_rtp(datagram).map(|len| Received::Rtp { len }),
            DatagramKind::Rtcp => self.session.unprotect_rtcp(datagram).map(|len| Received::Rtcp { len }),
            DatagramKind::Other => None,
        };
        self.drain_session();
        received.unwrap_or(Received::Nothing)
    }

    fn handle_stun(&mut self, now: Instant, datagram: &[u8]) {
        let Some(transaction) = stun::parse_success(datagram, &self.remote.pwd) else {
            return;
        };
        if !self.outstanding.contains(&transaction) {
            return;
        }
        self.outstanding.clear();
        self.heard = now;
        self.next_check = now + CONSENT_INTERVAL;
        if !self.answered {
            self.answered = true;
            let Path { local, remote } = self.pair;
            self.outputs
                .push_back(Output::Event(PeerEvent::PathChanged { local, remote }));
            for payload in std::mem::take(&mut self.held) {
                self.outputs.push_back(Output::Transmit {
                    from: local,
                    to: remote,
                    payload,
                });
            }
        }
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.closed {
            return None;
        }
        Some(
            self.session
                .poll_timeout()
                .map_or(self.next_check, |at| at.min(self.next_check)),
        )
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if self.closed {
            return;
        }
        if now >= self.heard + CONSENT_TIMEOUT {
            self.session.end(CloseReason::ConsentLost);
            return self.drain_session();
        }
        if now >= self.next_check {
            self.send_check(now);
        }
        self.session.handle_timeout(now);
        self.drain_session();
    }

    fn send_check(&mut self, now: Instant) {
        let transaction = TransactionId(self.rng.random());
        if self.outstanding.len() >= MAX_OUTSTANDING {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back(transaction);
        // Checks that nobody answers are repeated quickly, also on a pair that worked.
        let unanswered = self.outstanding.len() > 1 || !self.answered;
        self.next_check = now + if unanswered { CHECK_INTERVAL } else { CONSENT_INTERVAL };
        let Path { local, remote } = self.pair;
        if let Some(payload) = stun::request(transaction, &self.local, &self.remote, self.tie_breaker, true) {
            self.outputs.push_back(Output::Transmit {
                from: local,
                to: remote,
                payload,
            });
        }
    }

    /// The client has a new address (network change, NAT rebinding): everything goes from there, checks first.
    pub fn change_address(&mut self, now: Instant, local: SocketAddr) {
        self.pair.local = local;
        self.outstanding.clear();
        self.next_check = now;
        self.handle_timeout(now);
    }

    /// ICE restart: new credentials of both sides, same pair; media goes on meanwhile.
    pub fn restart_ice(&mut self, now: Instant, local: IceCredentials, remote: IceCredentials) {
        (self.local, self.remote) = (local, remote);
        self.outstanding.clear();
        self.answered = false;
        self.next_check = now;
        self.handle_timeout(now);
    }

    /// Where packets go: the caller sends its SRTP there itself.
    pub fn path(&self) -> Path {
        self.pair
    }

    pub fn srtp(&mut self) -> Option<&mut SrtpSender> {
        self.session.sender()
    }

    pub fn is_connected(&self) -> bool {
        self.session.is_connected()
    }

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

    pub fn close(&mut self, now: Instant) {
        self.session.close(now, CloseReason::ClosedLocally);
        self.drain_session();
    }

    fn drain_session(&mut self) {
        let Path { local, remote } = self.pair;
        while let Some(output) = self.session.poll() {
            let output = match output {
                // A restart keeps sending on the pair that worked.
                SessionOutput::Datagram(payload) if self.answered || self.is_connected() => Output::Transmit {
                    from: local,
                    to: remote,
                    payload,
                },
                SessionOutput::Datagram(payload) => {
                    self.held.push(payload);
                    continue;
                }
                SessionOutput::Event(event) => {
                    self.closed |= matches!(event, PeerEvent::Closed(_));
                    Output::Event(event)
                }
            };
            self.outputs.push_back(output);
        }
    }
}
