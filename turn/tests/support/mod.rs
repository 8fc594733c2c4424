//! A TURN client in a few lines, for tests: builds requests, remembers realm, nonce and key.
#![allow(dead_code, unreachable_pub)]

pub mod link;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use meridian_turn::credentials::{Credentials, IntegrityKey, PasswordAlgorithm};
use meridian_turn::stun::{Class, Integrity, Message, MessageWriter, Method, TransactionId, attribute};
use meridian_turn::{ClientSocket, Command, RelayId, Server, ServerConfig, Shared, Transport};
use rand::SeedableRng;
use rand::rngs::SmallRng;

pub const REALM: &str = "meridian.test";
/// 2026-01-01.
pub const UNIX: Duration = Duration::from_secs(1_767_225_600);

pub fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Public relay addresses of both families; users anna and bert; secret "north".
pub fn config() -> ServerConfig {
    let credentials = Credentials::default()
        .with_user("anna", "pw-a")
        .with_user("bert", "pw-b")
        .with_secret("north");
    let mut config = ServerConfig::new(REALM, credentials);
    config.tcp_relay = true;
    config.relay_v4 = Some("203.0.114.1".parse::<IpAddr>().unwrap().into());
    config.relay_v6 = Some("2a00:1::1".parse::<IpAddr>().unwrap().into());
    config
}

/// One worker in virtual time; relay sockets open at once unless `refuse_ports`.
pub struct World {
    pub server: Server<SmallRng>,
    pub shared: std::sync::Arc<Shared>,
    pub now: Instant,
    pub refuse_ports: u32,
    pub open: Vec<(RelayId, SocketAddr)>,
    pub sent: Vec<(ClientSocket, Vec<u8>)>,
    /// Commands of RFC 6062.
    pub tcp: Vec<Command>,
}

impl World {
    pub fn new(config: ServerConfig) -> World {
        let now = Instant::now();
        let shared = Shared::new(config, now, UNIX, [7; 32]).unwrap();
        let server = Server::new(shared.clone(), 0, now, SmallRng::seed_from_u64(3));
        World {
            server,
            shared,
            now,
            refuse_ports: 0,
            open: Vec::new(),
            sent: Vec::new(),
            tcp: Vec::new(),
        }
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.server.handle_timeout(self.now);
        self.settle();
    }

    pub fn settle(&mut self) {
        while let Some(command) = self.server.poll_command() {
            match command {
                Command::Send { client, message } => self.sent.push((client, message)),
                Command::OpenRelay { relay, bind, .. } => {
                    let ok = self.refuse_ports == 0;
                    self.refuse_ports = self.refuse_ports.saturating_sub(1);
                    if ok {
                        self.open.push((relay, bind));
                    }
                    self.server.relay_opened(self.now, relay, ok);
                }
                other @ (Command::ConnectPeer { .. }
                | Command::ClosePeer { .. }
                | Command::Splice { .. }
                | Command::HandOver { .. }) => self.tcp.push(other),
                Command::CloseRelay { relay } => self.open.retain(|(r, _)| *r != relay),
            }
        }
        self.server.assert_consistent();
    }

    /// Hands in a request; its answer, if there is one.
    pub fn ask(&mut self, client: ClientSocket, bytes: &[u8]) -> Option<Vec<u8>> {
        self.sent.clear();
        self.server.handle_client(self.now, client, bytes);
        self.settle();
        assert!(self.sent.len() <= 1);
        let (to, message) = self.sent.pop()?;
        assert_eq!(to, client);
        Some(message)
    }
}

#[derive(Clone)]
pub struct Client {
    pub socket: ClientSocket,
    pub username: String,
    pub password: String,
    pub algorithm: PasswordAlgorithm,
    pub nonce: Vec<u8>,
    pub counter: u64,
}

pub fn client(remote: &str, username: &str, password: &str) -> Client {
    let remote = addr(remote);
    let local = if remote.is_ipv4() {
        addr("203.0.114.1:3478")
    } else {
        addr("[2a00:1::1]:3478")
    };
    let socket = ClientSocket {
        remote,
        local,
        transport: Transport::Udp,
    };
    Client {
        socket,
        username: username.into(),
        password: password.into(),
        algorithm: PasswordAlgorithm::Md5,
        nonce: Vec::new(),
        counter: 0,
    }
}

pub fn anna() -> Client {
    client("198.51.99.10:4000", "anna", "pw-a")
}

pub fn bert() -> Client {
    client("198.51.99.11:4000", "bert", "pw-b")
}

pub type Attribute = Box<dyn Fn(MessageWriter) -> MessageWriter>;

pub fn u32_attribute(kind: u16, value: u32) -> Attribute {
    Box::new(move |w| w.u32(kind, value))
}

pub fn bytes_attribute(kind: u16, value: &[u8]) -> Attribute {
    let value = value.to_vec();
    Box::new(move |w| w.attribute(kind, &value))
}

pub fn peer_attribute(peer: SocketAddr) -> Attribute {
    Box::new(move |w| w.address(attribute::XOR_PEER_ADDRESS, peer))
}

pub fn udp() -> Attribute {
    u32_attribute(attribute::REQUESTED_TRANSPORT, 17 << 24)
}

impl Client {
    pub fn key(&self) -> IntegrityKey {
        IntegrityKey::long_term(self.algorithm, &self.username, REALM, &self.password)
    }

    pub fn transaction(&mut self) -> TransactionId {
        self.counter += 1;
        let mut id = [0; 12];
        id[..8].copy_from_slice(&self.counter.to_be_bytes());
        id[8..10].copy_from_slice(&self.socket.remote.port().to_be_bytes());
        TransactionId(id)
    }

    pub fn request(&mut self, method: Method, attributes: &[Attribute]) -> Vec<u8> {
        let mut writer = MessageWriter::new(Class::Request, method, self.transaction());
        writer = attributes.iter().fold(writer, |w, a| a(w));
        if self.nonce.is_empty() {
            return writer.finish();
        }
        writer = writer
            .attribute(attribute::USERNAME, self.username.as_bytes())
            .attribute(attribute::REALM, REALM.as_bytes())
            .attribute(attribute::NONCE, &self.nonce);
        let integrity = match self.algorithm {
            PasswordAlgorithm::Md5 => Integrity::Sha1,
            PasswordAlgorithm::Sha256 => {
                writer = writer
                    .attribute(attribute::PASSWORD_ALGORITHMS, &[0, 2, 0, 0, 0, 1, 0, 0])
                    .attribute(attribute::PASSWORD_ALGORITHM, &[0, 2, 0, 0]);
                Integrity::Sha256
            }
        };
        writer.sign(integrity, &self.key()).finish_with_fingerprint()
    }

    /// Sends and returns the answer, once more after a challenge (401, 438).
    pub fn call(&mut self, world: &mut World, method: Method, attributes: &[Attribute]) -> Answer {
        let request = self.request(method, attributes);
        let answer = Answer::of(&world.ask(self.socket, &request).expect("an answer"));
        if !matches!(answer.error, 401 | 438) {
            assert!(answer.verify(&self.key()), "authenticated answers are protected");
            return answer;
        }
        assert!(answer.bytes.len() <= 160, "{} bytes to a stranger", answer.bytes.len());
        let nonce = answer.get(attribute::NONCE).expect("a challenge has a nonce");
        if !self.nonce.is_empty() && answer.error == 401 {
            return answer;
        }
        self.nonce = nonce;
        let request = self.request(method, attributes);
        let answer = Answer::of(&world.ask(self.socket, &request).expect("an answer"));
        if !matches!(answer.error, 0 | 401) {
            assert!(answer.verify(&self.key()));
        }
        answer
    }

    pub fn allocate(&mut self, world: &mut World) -> Answer {
        self.call(world, Method::ALLOCATE, &[udp()])
    }

    pub fn permit(&mut self, world: &mut World, peer: SocketAddr) -> Answer {
        self.call(world, Method::CREATE_PERMISSION, &[peer_attribute(peer)])
    }

    pub fn bind(&mut self, world: &mut World, number: u16, peer: SocketAddr) -> Answer {
        let number = u32_attribute(attribute::CHANNEL_NUMBER, u32::from(number) << 16);
        self.call(world, Method::CHANNEL_BIND, &[number, peer_attribute(peer)])
    }

    pub fn refresh(&mut self, world: &mut World, seconds: u32) -> Answer {
        self.call(world, Method::REFRESH, &[u32_attribute(attribute::LIFETIME, seconds)])
    }

    pub fn send_indication(&mut self, peer: SocketAddr, payload: &[u8]) -> Vec<u8> {
        MessageWriter::new(Class::Indication, Method::SEND, self.transaction())
            .address(attribute::XOR_PEER_ADDRESS, peer)
            .attribute(attribute::DATA, payload)
            .finish()
    }
}

pub fn channel_data(number: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

pub struct Answer {
    pub bytes: Vec<u8>,
    /// 0 = success.
    pub error: u16,
}

impl Answer {
    pub fn of(bytes: &[u8]) -> Answer {
        let message = Message::parse(bytes).expect("the server sends well-formed messages");
        let error = message
            .get(attribute::ERROR_CODE)
            .map_or(0, |v| u16::from(v[2]) * 100 + u16::from(v[3]));
        assert_eq!(message.class == Class::Error, error != 0);
        assert!(message.get(0x8022).is_none(), "no SOFTWARE attribute");
        Answer {
            bytes: bytes.to_vec(),
            error,
        }
    }

    pub fn message(&self) -> Message<'_> {
        Message::parse(&self.bytes).unwrap()
    }

    pub fn get(&self, kind: u16) -> Option<Vec<u8>> {
        self.message().get(kind).map(<[u8]>::to_vec)
    }

    pub fn verify(&self, key: &IntegrityKey) -> bool {
        self.message().verify(key)
    }

    pub fn relayed(&self) -> Vec<SocketAddr> {
        let message = self.message();
        let all = message
            .attributes()
            .filter(|(kind, _)| *kind == attribute::XOR_RELAYED_ADDRESS);
        all.map(|(_, v)| meridian_turn::stun::decode_xor_address(v, &message.transaction).unwrap())
            .collect()
    }

    pub fn lifetime(&self) -> u32 {
        self.message().get_u32(attribute::LIFETIME).unwrap()
    }
}
