//! The `Dtls` trait and its implementation over `dimpl`, DTLS 1.2 only: with 1.3 Chromium ends in AES_CM_128_HMAC_SHA1_80.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dimpl::{Config, DtlsCertificate, Error, Output};

use super::{DtlsIdentity, Fingerprint, guard};
use crate::srtp::{MasterKeys, SrtpProfile};

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
        f.debug_struct("DtlsKeys").field("profile", &self.profile).finish_non_exhaustive()
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
    /// Authenticated data came after the handshake: the client has our last flight, plaintext is noise from here on.
    confirmed: bool,
    /// The handshake is done, the keys have not come out yet.
    awaiting_keys: bool,
    dropped: u64,
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
            confirmed: false,
            awaiting_keys: false,
            dropped: 0,
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

    fn next(&mut self) -> Option<DtlsEvent> {
        let mut small = [0u8; 2_048];
        let mut large = Vec::new();
        loop {
            let engine = self.engine.as_mut()?;
            let buffer = if large.is_empty() { &mut small[..] } else { &mut large[..] };
            match engine.poll_output(buffer) {
                Output::BufferTooSmall { needed } => large = vec![0; needed],
                Output::Packet(packet) => return Some(DtlsEvent::Transmit(packet.to_vec())),
                Output::PeerCert(der) => return Some(DtlsEvent::Certificate(Fingerprint::of(der))),
                Output::ApplicationData(data) => {
                    self.confirmed = true;
                    return Some(DtlsEvent::Data(data.to_vec()));
                }
                Output::Connected => {
                    self.connected = true;
                    self.awaiting_keys = true;
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
        let refused = match self.connected {
            false => !guard::is_plausible(datagram),
            true => self.confirmed && guard::first_epoch(datagram) == Some(0),
        };
        if refused {
            self.dropped += 1;
            return;
        }
        self.drive(|engine| {
            engine.handle_timeout(now)?;
            engine.handle_packet(datagram)
        });
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.drive(|engine| engine.handle_timeout(now));
    }

    fn poll(&mut self) -> Option<DtlsEvent> {
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
        self.timeout.filter(|_| self.engine.is_some())
    }

    fn send(&mut self, _now: Instant, data: &[u8]) {
        self.drive(|engine| engine.send_application_data(data).map(drop));
    }

    fn close(&mut self, _now: Instant) {
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
    Some(DtlsKeys { profile, client, server })
}
