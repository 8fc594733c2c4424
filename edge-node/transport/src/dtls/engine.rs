//! The `Dtls` trait and its implementation over `dimpl`, DTLS 1.2 only: with 1.3 Chromium ends in AES_CM_128_HMAC_SHA1_80.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dimpl::{Config, DtlsCertificate, Error, Output};
use meridian_dtls_guard::Joiner;

use super::last_flight::LastFlight;
use super::{DtlsIdentity, Fingerprint};
use crate::srtp::{MasterKeys, SrtpProfile};

/// Largest handshake message, bytes. A certificate chain of a WebRTC client is below 1 kB.
const MESSAGE_LEN_MAX: usize = 16_000;

/// What the engine wants done, in order.
#[derive(Debug)]
pub(crate) enum DtlsEvent {
    Transmit(Vec<u8>),
    /// The client's certificate. Comes before `Connected`.
    Certificate(Fingerprint),
    /// Handshake done; `None` if no SRTP profile was negotiated.
    Connected(Option<DtlsKeys>),
    Data(Vec<u8>),
    /// close_notify.
    Closed,
    /// The engine is of no more use.
    Failed,
}

/// Exported SRTP keys (RFC 5764 §4.2).
pub(crate) struct DtlsKeys {
    pub(crate) profile: SrtpProfile,
    pub(crate) client: MasterKeys,
    pub(crate) server: MasterKeys,
}

impl std::fmt::Debug for DtlsKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DtlsKeys")
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

/// One DTLS connection, sans-IO. Every call is followed by draining `poll`.
pub(crate) trait Dtls: Send {
    fn handle_datagram(&mut self, now: Instant, datagram: &[u8]);
    fn handle_timeout(&mut self, now: Instant);
    fn poll(&mut self) -> Option<DtlsEvent>;
    fn poll_timeout(&self) -> Option<Instant>;
    /// One record in one datagram; `data` is at most one SCTP packet.
    fn send(&mut self, now: Instant, data: &[u8]);
    /// close_notify, if the handshake is done.
    fn close(&mut self, now: Instant);
    /// Datagrams dropped before the engine saw them.
    fn dropped(&self) -> u64;
}

/// Timing and limits shared by all connections of a process.
pub(super) fn config() -> Result<Config, Error> {
    Config::builder()
        .mtu(1_200)
        // The path is authenticated by ICE before DTLS may speak: a cookie would only cost a round trip.
        .use_server_cookie(false)
        .require_client_certificate(true)
        // A join at 20 % loss must not wait for seconds: 150 ms doubling, 8 times, is 38 s.
        .flight_start_rto(Duration::from_millis(150))
        .flight_retries(8)
        .handshake_timeout(Duration::from_secs(30))
        .build()
}

/// `dimpl` 0.9. A panic inside it ends this connection, not the thread.
pub(crate) struct DimplDtls {
    engine: Option<dimpl::Dtls>,
    timeout: Option<Instant>,
    /// The engine may have output to drain.
    pending: bool,
    /// An error was met: report it once what was queued before is drained.
    failed: bool,
    connected: bool,
    /// The handshake is done, the keys have not come out yet.
    awaiting_keys: bool,
    dropped: u64,
    /// Until authenticated data has come after the handshake: then the client has our last flight, and plaintext is noise.
    joiner: Option<Joiner>,
    /// Everything of the last flight has been polled.
    settled: bool,
    /// Of a server only, until the client has it.
    last_flight: Option<LastFlight>,
    /// Copies of it that are due.
    copies: VecDeque<Vec<u8>>,
    /// As of the last datagram or timeout.
    now: Instant,
}

impl DimplDtls {
    /// Server role: the client speaks first.
    pub(crate) fn server(identity: &DtlsIdentity, now: Instant) -> DimplDtls {
        DimplDtls::new(identity, now, false)
    }

    /// Client role: the ClientHello is ready to be polled.
    pub(crate) fn client(identity: &DtlsIdentity, now: Instant) -> DimplDtls {
        DimplDtls::new(identity, now, true)
    }

    fn new(identity: &DtlsIdentity, now: Instant, client: bool) -> DimplDtls {
        let certificate = DtlsCertificate {
            certificate: identity.certificate_der.clone(),
            private_key: identity.private_key_der.clone(),
        };
        let mut dtls = DimplDtls {
            engine: None,
            timeout: None,
            pending: true,
            failed: false,
            connected: false,
            awaiting_keys: false,
            dropped: 0,
            joiner: Some(Joiner::new(MESSAGE_LEN_MAX)),
            settled: false,
            last_flight: (!client).then(LastFlight::default),
            copies: VecDeque::new(),
            now,
        };
        let config = Arc::clone(&identity.config);
        dtls.engine = catch_unwind(AssertUnwindSafe(|| {
            let mut engine = dimpl::Dtls::new_12(config, certificate, now);
            engine.set_active(client);
            engine
        }))
        .ok();
        dtls.failed = dtls.engine.is_none();
        dtls.handle_timeout(now);
        dtls
    }

    /// Runs `call` on the engine; its error or panic ends the connection.
    fn drive(&mut self, call: impl FnOnce(&mut dimpl::Dtls) -> Result<(), Error>) {
        let Some(engine) = &mut self.engine else { return };
        match catch_unwind(AssertUnwindSafe(|| call(engine))) {
            Ok(Ok(())) => {}
            // Forged fragments filled the bounded queue; the engine returns before it changed anything.
            Ok(Err(Error::ReceiveQueueFull)) => self.dropped += 1,
            Ok(Err(error)) => {
                tracing::debug!(%error, "DTLS failed");
                self.failed = true;
            }
            Err(_) => {
                tracing::error!("DTLS engine panicked; its connection is closed");
                self.engine = None;
                self.failed = true;
            }
        }
        self.pending = true;
    }

    /// What the engine sends from now on answers something else, unless the handshake is done: then the last flight is complete.
    fn begin_flight(&mut self, now: Instant) {
        self.now = now;
        self.settled = self.connected;
        if let Some(flight) = self.last_flight.as_mut().filter(|_| !self.connected) {
            flight.begin();
        }
    }

    fn next(&mut self) -> Option<DtlsEvent> {
        let mut small = [0u8; 2_048];
        let mut large = Vec::new();
        loop {
            let engine = self.engine.as_mut()?;
            let buffer = if large.is_empty() {
                &mut small[..]
            } else {
                &mut large[..]
            };
            match engine.poll_output(buffer) {
                Output::BufferTooSmall { needed } => large = vec![0; needed],
                Output::Packet(packet) => {
                    if let Some(flight) = self.last_flight.as_mut().filter(|_| !self.settled) {
                        flight.push(packet);
                    }
                    return Some(DtlsEvent::Transmit(packet.to_vec()));
                }
                Output::PeerCert(der) => return Some(DtlsEvent::Certificate(Fingerprint::of(der))),
                Output::ApplicationData(data) => {
                    self.joiner = None;
                    self.last_flight = None;
                    return Some(DtlsEvent::Data(data.to_vec()));
                }
                Output::Connected => {
                    self.connected = true;
                    self.awaiting_keys = true;
                    if let Some(flight) = &mut self.last_flight {
                        flight.sent(self.now);
                    }
                }
                Output::KeyingMaterial(material, profile) => {
                    self.awaiting_keys = false;
                    return Some(DtlsEvent::Connected(split_keys(&material, profile)));
                }
                Output::CloseNotify => return Some(DtlsEvent::Closed),
                Output::Timeout(at) => {
                    self.timeout = Some(at);
                    self.pending = false;
                    return None;
                }
                _ => {}
            }
        }
    }
}

impl Dtls for DimplDtls {
    fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) {
        let records = match &mut self.joiner {
            Some(joiner) => joiner.take(datagram),
            None => (meridian_dtls_guard::first_epoch(datagram) != Some(0)).then(|| vec![Cow::Borrowed(datagram)]),
        };
        let Some(records) = records else {
            self.dropped += 1;
            return;
        };
        self.begin_flight(now);
        self.drive(|engine| engine.handle_timeout(now));
        for record in records {
            self.drive(|engine| engine.handle_packet(&record));
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.begin_flight(now);
        if let Some(flight) = &mut self.last_flight {
            self.copies.extend(flight.copy(now));
        }
        self.drive(|engine| engine.handle_timeout(now));
    }

    fn poll(&mut self) -> Option<DtlsEvent> {
        if let Some(copy) = self.copies.pop_front() {
            return Some(DtlsEvent::Transmit(copy));
        }
        while self.pending {
            let event = match catch_unwind(AssertUnwindSafe(|| self.next())) {
                Ok(event) => event,
                Err(_) => {
                    self.engine = None;
                    self.failed = true;
                    None
                }
            };
            match event {
                Some(event) => return Some(event),
                None => self.pending = false,
            }
        }
        // The engine hands out keys in the same drain as it says "connected", or never.
        if std::mem::take(&mut self.awaiting_keys) {
            return Some(DtlsEvent::Connected(None));
        }
        if std::mem::take(&mut self.failed) {
            self.engine = None;
            return Some(DtlsEvent::Failed);
        }
        None
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let copy = self.last_flight.as_ref().and_then(LastFlight::due);
        self.timeout
            .into_iter()
            .chain(copy)
            .min()
            .filter(|_| self.engine.is_some())
    }

    fn send(&mut self, _now: Instant, data: &[u8]) {
        self.settled = true;
        self.drive(|engine| engine.send_application_data(data).map(drop));
    }

    fn close(&mut self, _now: Instant) {
        self.last_flight = None;
        self.drive(dimpl::Dtls::close);
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

fn split_keys(material: &[u8], profile: dimpl::SrtpProfile) -> Option<DtlsKeys> {
    let profile = match profile {
        dimpl::SrtpProfile::AEAD_AES_128_GCM => SrtpProfile::AeadAes128Gcm,
        dimpl::SrtpProfile::AEAD_AES_256_GCM => SrtpProfile::AeadAes256Gcm,
        dimpl::SrtpProfile::AES128_CM_SHA1_80 => SrtpProfile::AesCm128HmacSha1_80,
        _ => return None,
    };
    let (client, server) = MasterKeys::split(profile, material)?;
    Some(DtlsKeys {
        profile,
        client,
        server,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CM80: u16 = 1;
    const GCM128: u16 = 7;
    const GCM256: u16 = 8;
    /// AES128_CM_HMAC_SHA1_32, which we do not speak.
    const CM32: u16 = 2;

    /// A real client's ClientHello, one handshake message without its record header.
    fn client_hello() -> Vec<u8> {
        let identity = DtlsIdentity::generate().unwrap();
        let mut client = DimplDtls::client(&identity, Instant::now());
        let Some(DtlsEvent::Transmit(datagram)) = client.poll() else {
            panic!("no ClientHello")
        };
        assert!(client.poll().is_none(), "the client's hello is one datagram");
        datagram[13..].to_vec()
    }

    /// Replaces the three profiles of use_srtp (RFC 5764 §4.1.1).
    fn offer(hello: &mut [u8], profiles: [u16; 3]) {
        let at = hello.windows(6).position(|w| w == [0, 14, 0, 9, 0, 6]).unwrap() + 6;
        for (slot, profile) in hello[at..at + 6].chunks_exact_mut(2).zip(profiles) {
            slot.copy_from_slice(&profile.to_be_bytes());
        }
    }

    /// The hello as browsers send it: two datagrams, because it spans more than one.
    fn in_two_datagrams(hello: &[u8]) -> [Vec<u8>; 2] {
        let (header, body) = hello.split_at(12);
        let half = body.len() / 2;
        [(0, &body[..half]), (half, &body[half..])].map(|(offset, part)| {
            let mut datagram = vec![22, 254, 253, 0, 0, 0, 0, 0, 0, 0, offset.min(1) as u8];
            datagram.extend_from_slice(&((part.len() + 12) as u16).to_be_bytes());
            datagram.extend_from_slice(&header[..6]);
            datagram.extend_from_slice(&(offset as u32).to_be_bytes()[1..]);
            datagram.extend_from_slice(&(part.len() as u32).to_be_bytes()[1..]);
            datagram.extend_from_slice(part);
            datagram
        })
    }

    /// The profile the server answers with, out of its plaintext ServerHello.
    fn answer(hello: &[u8]) -> Option<u16> {
        let identity = DtlsIdentity::generate().unwrap();
        let now = Instant::now();
        let mut server = DimplDtls::server(&identity, now);
        for datagram in in_two_datagrams(hello) {
            server.handle_datagram(now, &datagram);
        }
        let mut flight = Vec::new();
        while let Some(event) = server.poll() {
            match event {
                DtlsEvent::Transmit(datagram) => flight.extend(datagram),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(flight.get(13), Some(&2), "a ServerHello");
        let at = flight.windows(6).position(|w| w == [0, 14, 0, 5, 0, 2])? + 6;
        Some(u16::from_be_bytes([flight[at], flight[at + 1]]))
    }

    #[test]
    fn an_aead_profile_is_chosen_whenever_one_is_offered() {
        let cases = [
            ([CM80, GCM256, GCM128], Some(GCM256)), // Chromium
            ([GCM128, GCM256, CM80], Some(GCM256)), // Firefox, without its fourth
            ([CM80, GCM128, CM32], Some(GCM128)),
            ([GCM128, CM80, CM80], Some(GCM128)),
            ([CM80, CM32, CM32], Some(CM80)),
            ([CM32, CM32, CM80], Some(CM80)),
            ([CM32, CM32, CM32], None),
        ];
        let original = client_hello();
        for (profiles, expected) in cases {
            let mut hello = original.clone();
            offer(&mut hello, profiles);
            assert_eq!(answer(&hello), expected, "offered {profiles:?}");
        }
    }
}
