//! Two halves and a network between them: virtual time, latency, seeded loss.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use meridian_transport::client::{Client, ClientConfig};
use meridian_transport::{
    Channel, DatagramKind, DtlsIdentity, DtlsRole, Fingerprint, IceCredentials, Output, Peer, PeerConfig, PeerEvent,
    Received, kind,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

static SERVER: LazyLock<Arc<DtlsIdentity>> = LazyLock::new(|| Arc::new(DtlsIdentity::generate().unwrap()));
static CLIENT: LazyLock<Arc<DtlsIdentity>> = LazyLock::new(|| Arc::new(DtlsIdentity::generate().unwrap()));

pub(crate) const SERVER_ADDRESS: &str = "10.0.0.1:7000";
pub(crate) const CLIENT_ADDRESS: &str = "192.0.2.7:50000";

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) struct Options {
    pub(crate) seed: u64,
    pub(crate) loss: f64,
    pub(crate) latency: Duration,
    pub(crate) channels: Vec<Channel>,
    /// What the server is told about the client's certificate; `None` = the truth.
    pub(crate) fingerprint: Option<Fingerprint>,
    /// Everything but STUN is swallowed.
    pub(crate) only_stun: bool,
    /// Server and client.
    pub(crate) addresses: (&'static str, &'static str),
    /// The server's in DTLS.
    pub(crate) role: DtlsRole,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            seed: 1,
            loss: 0.0,
            latency: Duration::from_millis(20),
            channels: vec![Channel::Reliable, Channel::Lossy],
            fingerprint: None,
            only_stun: false,
            addresses: (SERVER_ADDRESS, CLIENT_ADDRESS),
            role: DtlsRole::Server,
        }
    }
}

struct InFlight {
    at: Instant,
    to_server: bool,
    from: SocketAddr,
    to: SocketAddr,
    payload: Vec<u8>,
}

pub(crate) struct Network {
    pub(crate) now: Instant,
    pub(crate) start: Instant,
    pub(crate) server: Peer,
    pub(crate) client: Client,
    pub(crate) server_events: Vec<PeerEvent>,
    pub(crate) client_events: Vec<PeerEvent>,
    pub(crate) server_received: Vec<Vec<u8>>,
    pub(crate) client_received: Vec<Vec<u8>>,
    pub(crate) loss: f64,
    only_stun: bool,
    /// Source addresses whose datagrams are swallowed.
    pub(crate) unreachable: Vec<SocketAddr>,
    pub(crate) rng: StdRng,
    latency: Duration,
    wire: VecDeque<InFlight>,
    /// When the server had keys.
    pub(crate) connected_at: Option<Instant>,
    /// Every datagram that reached the server, as sent.
    pub(crate) record: Option<Vec<Vec<u8>>>,
}

impl Network {
    pub(crate) fn new(options: Options) -> Network {
        let mut rng = StdRng::seed_from_u64(options.seed);
        let now = Instant::now();
        let server_ice = IceCredentials::generate(&mut rng);
        let client_ice = IceCredentials::generate(&mut rng);
        let server = Peer::new(
            PeerConfig {
                identity: Arc::clone(&SERVER),
                local: server_ice.clone(),
                remote: client_ice.clone(),
                remote_fingerprint: options.fingerprint.unwrap_or(CLIENT.fingerprint()),
                role: options.role,
                seed: rng.random(),
            },
            now,
        )
        .unwrap();
        let config = ClientConfig {
            identity: Arc::clone(&CLIENT),
            local: client_ice,
            remote: server_ice,
            remote_fingerprint: SERVER.fingerprint(),
            channels: options.channels,
            seed: rng.random(),
        };
        let theirs = match options.role {
            DtlsRole::Server => DtlsRole::Client,
            DtlsRole::Client => DtlsRole::Server,
        };
        let (client, server_address) = (address(options.addresses.1), address(options.addresses.0));
        let client = Client::with_role(config, theirs, client, server_address, now).unwrap();
        Network {
            now,
            start: now,
            server,
            client,
            server_events: Vec::new(),
            client_events: Vec::new(),
            server_received: Vec::new(),
            client_received: Vec::new(),
            loss: options.loss,
            only_stun: options.only_stun,
            unreachable: Vec::new(),
            rng,
            latency: options.latency,
            wire: VecDeque::new(),
            connected_at: None,
            record: None,
        }
    }

    /// Connected on both sides, with all its channels open.
    pub(crate) fn joined(options: Options) -> Network {
        let channels = options.channels.len();
        let mut network = Network::new(options);
        let joined = network.run_until(Duration::from_secs(90), |n| n.is_joined(channels));
        assert!(
            joined,
            "not joined: server {:?}, client {:?}",
            network.server_events, network.client_events
        );
        network
    }

    pub(crate) fn is_joined(&self, channels: usize) -> bool {
        let open = |events: &[PeerEvent]| events.iter().filter(|e| matches!(e, PeerEvent::ChannelOpen(_))).count();
        self.server.is_connected()
            && self.client.is_connected()
            && open(&self.server_events) >= channels
            && open(&self.client_events) >= channels
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Runs until `done` or `limit` of virtual time has passed; says which.
    pub(crate) fn run_until(&mut self, limit: Duration, done: impl Fn(&Network) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            self.collect();
            if done(self) {
                return true;
            }
            let next = [
                self.wire.front().map(|p| p.at),
                self.server.poll_timeout(),
                self.client.poll_timeout(),
            ]
            .into_iter()
            .flatten()
            .min();
            let Some(next) = next.filter(|&at| at <= end) else {
                self.now = end;
                return false;
            };
            self.now = self.now.max(next);
            if self.wire.front().is_some_and(|p| p.at <= self.now) {
                self.deliver();
            }
            if self.server.poll_timeout().is_some_and(|at| at <= self.now) {
                self.server.handle_timeout(self.now);
            }
            if self.client.poll_timeout().is_some_and(|at| at <= self.now) {
                self.client.handle_timeout(self.now);
            }
        }
    }

    pub(crate) fn run_for(&mut self, duration: Duration) {
        self.run_until(duration, |_| false);
    }

    fn deliver(&mut self) {
        let Some(InFlight {
            to_server,
            from,
            to,
            mut payload,
            ..
        }) = self.wire.pop_front()
        else {
            return;
        };
        let received = if to_server {
            if let Some(record) = &mut self.record {
                record.push(payload.clone());
            }
            self.server.handle_datagram(self.now, from, to, &mut payload)
        } else {
            self.client.handle_datagram(self.now, from, to, &mut payload)
        };
        if let Received::Rtp { len } | Received::Rtcp { len } = received {
            payload.truncate(len);
            let list = if to_server {
                &mut self.server_received
            } else {
                &mut self.client_received
            };
            list.push(payload);
        }
    }

    fn collect(&mut self) {
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Transmit { from, to, payload } => self.send(false, from, to, payload),
                Output::Event(event) => {
                    if matches!(event, PeerEvent::Connected { .. }) {
                        self.connected_at = Some(self.now);
                    }
                    self.server_events.push(event);
                }
            }
        }
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::Transmit { from, to, payload } => self.send(true, from, to, payload),
                Output::Event(event) => self.client_events.push(event),
            }
        }
    }

    pub(crate) fn send(&mut self, to_server: bool, from: SocketAddr, to: SocketAddr, payload: Vec<u8>) {
        assert!(payload.len() <= 1_280, "a datagram of {} bytes", payload.len());
        let lost = self.rng.random_bool(self.loss) || (self.only_stun && kind(&payload) != DatagramKind::Stun);
        if !lost && !self.unreachable.contains(&from) && !self.unreachable.contains(&to) {
            self.wire.push_back(InFlight {
                at: self.now + self.latency,
                to_server,
                from,
                to,
                payload,
            });
        }
    }

    pub(crate) fn server_data(&self) -> Vec<(Channel, Vec<u8>, bool)> {
        data(&self.server_events)
    }

    pub(crate) fn client_data(&self) -> Vec<(Channel, Vec<u8>, bool)> {
        data(&self.client_events)
    }
}

fn data(events: &[PeerEvent]) -> Vec<(Channel, Vec<u8>, bool)> {
    events
        .iter()
        .filter_map(|event| match event {
            PeerEvent::Data {
                channel,
                payload,
                binary,
            } => Some((*channel, payload.to_vec(), *binary)),
            _ => None,
        })
        .collect()
}

/// An RTP packet with `payload_len` bytes and room for the tag.
pub(crate) fn rtp(ssrc: u32, sequence: u16, payload_len: usize) -> Vec<u8> {
    let mut packet = vec![0x80, 96];
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(&[0; 4]);
    packet.extend_from_slice(&ssrc.to_be_bytes());
    packet.extend((0..payload_len).map(|i| i as u8));
    packet
}

/// An empty receiver report.
pub(crate) fn receiver_report(ssrc: u32) -> Vec<u8> {
    let mut packet = vec![0x80, 201, 0, 1];
    packet.extend_from_slice(&ssrc.to_be_bytes());
    packet
}
