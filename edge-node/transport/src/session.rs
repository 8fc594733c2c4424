//! What both halves share once ICE has given them a path: DTLS, then SRTP and data channels keyed by it. Addresses are
//! not known here.

use std::collections::VecDeque;
use std::time::Instant;

use crate::dtls::{DimplDtls, Dtls, DtlsEvent, DtlsIdentity, Fingerprint};
use crate::peer::{CloseReason, PeerEvent};
use crate::sctp::{Channel, DataChannels, DataEvent, SendDataError};
use crate::srtp::{SrtpReceiver, SrtpSender, UnprotectError};

/// Who speaks first in DTLS (RFC 8842 §5): an offer of `setup:actpass` or `active` leaves us the server, one of `passive` the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtlsRole {
    Server,
    Client,
}

#[derive(Debug)]
pub(crate) enum SessionOutput {
    /// For whoever is at the other end, over whatever path ICE has.
    Datagram(Vec<u8>),
    /// Any but `PathChanged`, which is ICE's. Nothing comes after `Closed`.
    Event(PeerEvent),
}

/// Counters of drops, for `PeerStats`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SessionStats {
    pub(crate) rtp_replayed: u64,
    pub(crate) rtp_unauthentic: u64,
    /// SRTP before the keys, malformed, or of too many SSRCs.
    pub(crate) rtp_refused: u64,
}

pub(crate) struct Session {
    role: DtlsRole,
    dtls: Box<dyn Dtls>,
    remote_fingerprint: Fingerprint,
    certificate_matches: bool,
    connected: bool,
    closed: bool,
    /// Tells this peer's SRTP streams from another's.
    srtp_id: u32,
    sender: Option<Box<SrtpSender>>,
    receiver: Option<Box<SrtpReceiver>>,
    data: Option<Box<DataChannels>>,
    /// Reliable data of the client is not taken.
    data_held: bool,
    /// Channels the client half opens; empty on the server.
    to_open: Vec<Channel>,
    outputs: VecDeque<SessionOutput>,
    stats: SessionStats,
}

impl Session {
    pub(crate) fn new(
        role: DtlsRole,
        identity: &DtlsIdentity,
        remote_fingerprint: Fingerprint,
        to_open: Vec<Channel>,
        srtp_id: u32,
        now: Instant,
    ) -> Session {
        let dtls = match role {
            DtlsRole::Server => DimplDtls::server(identity, now),
            DtlsRole::Client => DimplDtls::client(identity, now),
        };
        Session::over(role, Box::new(dtls), remote_fingerprint, to_open, srtp_id, now)
    }

    fn over(
        role: DtlsRole,
        dtls: Box<dyn Dtls>,
        remote_fingerprint: Fingerprint,
        to_open: Vec<Channel>,
        srtp_id: u32,
        now: Instant,
    ) -> Session {
        let mut session = Session {
            role,
            dtls,
            remote_fingerprint,
            certificate_matches: false,
            connected: false,
            closed: false,
            srtp_id,
            sender: None,
            receiver: None,
            data: None,
            data_held: false,
            to_open,
            outputs: VecDeque::new(),
            stats: SessionStats::default(),
        };
        session.drain(now);
        session
    }

    pub(crate) fn poll(&mut self) -> Option<SessionOutput> {
        self.outputs.pop_front()
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected && !self.closed
    }

    pub(crate) fn stats(&self) -> SessionStats {
        self.stats
    }

    /// DTLS datagrams and SCTP packets refused, data messages ignored, and whether the SCTP library panicked.
    pub(crate) fn refusals(&self) -> (u64, u64, u64, bool) {
        let data = self.data.as_ref().map(|data| data.stats()).unwrap_or_default();
        (self.dtls.dropped(), data.refused, data.ignored, data.panicked)
    }

    pub(crate) fn sender(&mut self) -> Option<&mut SrtpSender> {
        self.sender.as_deref_mut()
    }

    pub(crate) fn handle_dtls(&mut self, now: Instant, datagram: &[u8]) {
        if !self.closed {
            self.dtls.handle_datagram(now, datagram);
            self.drain(now);
        }
    }

    pub(crate) fn unprotect_rtp(&mut self, packet: &mut [u8]) -> Option<usize> {
        let result = self.receiver.as_mut().map(|receiver| receiver.unprotect_rtp(packet));
        self.count(result)
    }

    pub(crate) fn unprotect_rtcp(&mut self, packet: &mut [u8]) -> Option<usize> {
        let result = self.receiver.as_mut().map(|receiver| receiver.unprotect_rtcp(packet));
        self.count(result)
    }

    /// `None`: there are no keys yet.
    fn count(&mut self, result: Option<Result<usize, UnprotectError>>) -> Option<usize> {
        match result {
            Some(Ok(len)) => return Some(len),
            Some(Err(UnprotectError::Replayed)) => self.stats.rtp_replayed += 1,
            Some(Err(UnprotectError::Unauthentic)) => self.stats.rtp_unauthentic += 1,
            None | Some(Err(UnprotectError::Malformed | UnprotectError::TooManyStreams)) => self.stats.rtp_refused += 1,
        }
        None
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        if self.closed {
            return None;
        }
        let data = self.data.as_ref().and_then(|data| data.poll_timeout());
        [self.dtls.poll_timeout(), data].into_iter().flatten().min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.closed {
            return;
        }
        if self.dtls.poll_timeout().is_some_and(|at| at <= now) {
            self.dtls.handle_timeout(now);
        }
        if let Some(data) = &mut self.data
            && data.poll_timeout().is_some_and(|at| at <= now)
        {
            data.handle_timeout(now);
        }
        self.drain(now);
    }

    pub(crate) fn send_data(
        &mut self,
        now: Instant,
        channel: Channel,
        payload: &[u8],
        binary: bool,
    ) -> Result<(), SendDataError> {
        if self.closed {
            return Err(SendDataError::NotOpen);
        }
        let data = self.data.as_mut().ok_or(SendDataError::NotOpen)?;
        let result = data.send(now, channel, payload, binary);
        self.drain(now);
        result
    }

    pub(crate) fn hold_data(&mut self, now: Instant, held: bool) {
        self.data_held = held;
        if let Some(data) = &mut self.data {
            data.hold(now, held);
            self.drain(now);
        }
    }

    pub(crate) fn data_queued(&mut self, channel: Channel) -> usize {
        self.data.as_mut().map_or(0, |data| data.queued(channel))
    }

    /// Says goodbye and ends with `reason`.
    pub(crate) fn close(&mut self, now: Instant, reason: CloseReason) {
        if self.closed {
            return;
        }
        self.dtls.close(now);
        while let Some(event) = self.dtls.poll() {
            if let DtlsEvent::Transmit(datagram) = event {
                self.outputs.push_back(SessionOutput::Datagram(datagram));
            }
        }
        self.end(reason);
    }

    /// Ends without a word. Frees what a peer that waits to be removed does not need.
    pub(crate) fn end(&mut self, reason: CloseReason) {
        if self.closed {
            return;
        }
        self.closed = true;
        self.sender = None;
        self.receiver = None;
        self.data = None;
        self.outputs.push_back(SessionOutput::Event(PeerEvent::Closed(reason)));
    }

    /// Moves everything between DTLS, SCTP and the outputs until both are quiet.
    fn drain(&mut self, now: Instant) {
        loop {
            while let Some(event) = self.dtls.poll() {
                self.on_dtls(now, event);
                if self.closed {
                    return;
                }
            }
            let Some(data) = &mut self.data else { return };
            while let Some(event) = data.poll_event() {
                self.outputs.push_back(match event {
                    DataEvent::Open(channel) => SessionOutput::Event(PeerEvent::ChannelOpen(channel)),
                    DataEvent::Message {
                        channel,
                        payload,
                        binary,
                    } => SessionOutput::Event(PeerEvent::Data {
                        channel,
                        payload,
                        binary,
                    }),
                });
            }
            // One record per packet, drained at once: DTLS would put two into one datagram.
            let Some(packet) = data.poll_packet() else { return };
            self.dtls.send(now, &packet);
        }
    }

    fn on_dtls(&mut self, now: Instant, event: DtlsEvent) {
        match event {
            DtlsEvent::Transmit(datagram) => self.outputs.push_back(SessionOutput::Datagram(datagram)),
            DtlsEvent::Certificate(fingerprint) => {
                self.certificate_matches = fingerprint == self.remote_fingerprint;
                if !self.certificate_matches {
                    self.close(now, CloseReason::FingerprintMismatch);
                }
            }
            DtlsEvent::Connected(_) if !self.certificate_matches => self.close(now, CloseReason::FingerprintMismatch),
            DtlsEvent::Connected(None) => self.close(now, CloseReason::NoSrtpProfile),
            DtlsEvent::Connected(Some(keys)) => {
                let (ours, theirs) = match self.role {
                    DtlsRole::Server => (&keys.server, &keys.client),
                    DtlsRole::Client => (&keys.client, &keys.server),
                };
                let (Ok(sender), Ok(receiver)) = (SrtpSender::new(ours, self.srtp_id), SrtpReceiver::new(theirs))
                else {
                    return self.close(now, CloseReason::DtlsFailed);
                };
                self.sender = Some(Box::new(sender));
                self.receiver = Some(Box::new(receiver));
                self.connected = true;
                self.outputs
                    .push_back(SessionOutput::Event(PeerEvent::Connected { profile: keys.profile }));
                if !self.to_open.is_empty() {
                    self.data = Some(Box::new(DataChannels::client(now, &self.to_open)));
                }
            }
            DtlsEvent::Data(packet) if self.connected => {
                let held = self.data_held;
                let data = self.data.get_or_insert_with(|| {
                    let mut channels = Box::new(DataChannels::server());
                    channels.hold(now, held);
                    channels
                });
                data.handle_packet(now, &packet);
            }
            DtlsEvent::Data(_) => {}
            DtlsEvent::Closed => self.close(now, CloseReason::ClosedByPeer),
            DtlsEvent::Failed => self.end(CloseReason::DtlsFailed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtls::DtlsKeys;
    use crate::srtp::{MasterKeys, SrtpProfile, SrtpStream};

    /// A handshake that says what the test wants.
    struct Scripted(VecDeque<DtlsEvent>);

    impl Dtls for Scripted {
        fn handle_datagram(&mut self, _now: Instant, _datagram: &[u8]) {}
        fn handle_timeout(&mut self, _now: Instant) {}
        fn poll(&mut self) -> Option<DtlsEvent> {
            self.0.pop_front()
        }
        fn poll_timeout(&self) -> Option<Instant> {
            None
        }
        fn send(&mut self, _now: Instant, _data: &[u8]) {}
        fn close(&mut self, _now: Instant) {}
        fn dropped(&self) -> u64 {
            0
        }
    }

    const CLIENT: Fingerprint = Fingerprint([1; 32]);

    fn session(role: DtlsRole, events: impl IntoIterator<Item = DtlsEvent>) -> Session {
        let dtls = Box::new(Scripted(events.into_iter().collect()));
        Session::over(role, dtls, CLIENT, Vec::new(), 1, Instant::now())
    }

    fn keys(profile: SrtpProfile) -> DtlsKeys {
        let material: Vec<u8> = (0..2 * (profile.key_len() + profile.salt_len()) as u8).collect();
        let (client, server) = MasterKeys::split(profile, &material).unwrap();
        DtlsKeys {
            profile,
            client,
            server,
        }
    }

    fn closed(session: &mut Session) -> CloseReason {
        match session.poll() {
            Some(SessionOutput::Event(PeerEvent::Closed(reason))) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_profile_carries_media_both_ways() {
        for profile in [
            SrtpProfile::AesCm128HmacSha1_80,
            SrtpProfile::AeadAes128Gcm,
            SrtpProfile::AeadAes256Gcm,
        ] {
            let events = || {
                [
                    DtlsEvent::Certificate(CLIENT),
                    DtlsEvent::Connected(Some(keys(profile))),
                ]
            };
            let (mut from, mut to) = (session(DtlsRole::Server, events()), session(DtlsRole::Client, events()));
            let plain = [0x80, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 1, 2, 3, 4];
            for _ in 0..2 {
                let mut packet = [0; 40];
                packet[..16].copy_from_slice(&plain);
                let sender = from.sender().unwrap();
                let len = sender
                    .protect_rtp(&mut SrtpStream::new(9), &mut packet, 12, 16)
                    .unwrap();
                assert_eq!(len, 16 + profile.tag_len());
                assert_eq!(to.unprotect_rtp(&mut packet[..len]), Some(16));
                assert_eq!(packet[..16], plain);
                std::mem::swap(&mut from, &mut to);
            }
        }
    }

    #[test]
    fn a_handshake_without_srtp_closes() {
        let mut server = session(
            DtlsRole::Server,
            [DtlsEvent::Certificate(CLIENT), DtlsEvent::Connected(None)],
        );
        assert_eq!(closed(&mut server), CloseReason::NoSrtpProfile);
        assert!(!server.is_connected());
    }

    #[test]
    fn no_certificate_is_a_wrong_certificate() {
        let connected = DtlsEvent::Connected(Some(keys(SrtpProfile::AeadAes128Gcm)));
        let mut server = session(DtlsRole::Server, [connected]);
        assert_eq!(closed(&mut server), CloseReason::FingerprintMismatch);
        assert!(server.sender().is_none());
    }
}
