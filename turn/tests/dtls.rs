//! TURN over DTLS on loopback: with dimpl as a client, and with OpenSSL's, which is nobody's of ours.

mod support;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use dimpl::{Dtls, DtlsCertificate, Output};
use meridian_turn::io::{DtlsIdentity, StartError, TurnConfig, TurnServer};
use meridian_turn::stun::{Class, Message, MessageWriter, Method, TransactionId, attribute};
use support::link::*;
use support::*;

fn issued() -> (Vec<u8>, Vec<u8>) {
    let issued = rcgen::generate_simple_self_signed(["turn.test".to_owned()]).unwrap();
    (issued.cert.der().to_vec(), issued.signing_key.serialize_der())
}

fn start(workers: usize, ip: &str) -> TurnServer {
    let (certificate, key) = issued();
    let identity = DtlsIdentity::new(&certificate, &key).unwrap();
    start_as(workers, ip, Arc::new(identity))
}

fn start_as(workers: usize, ip: &str, identity: Arc<DtlsIdentity>) -> TurnServer {
    let mut config = TurnConfig::new(server_config(ip.contains(':')));
    config.udp = vec![SocketAddr::new(ip.parse().unwrap(), 0)];
    config.dtls = config.udp.clone();
    config.dtls_identity = Some(identity);
    config.workers = workers;
    TurnServer::start(config).unwrap()
}

/// A DTLS client on a socket.
struct Session {
    socket: UdpSocket,
    engine: Dtls,
    connected: bool,
    closed: bool,
    /// What the server has shown.
    certificate: Vec<u8>,
    inbox: VecDeque<Vec<u8>>,
}

impl Session {
    fn open(server: SocketAddr) -> Session {
        let socket = udp_socket(&server.ip().to_string());
        socket.connect(server).unwrap();
        let (certificate, private_key) = issued();
        let certificate = DtlsCertificate {
            certificate,
            private_key,
        };
        let config = Arc::new(dimpl::Config::builder().build().unwrap());
        let mut engine = Dtls::new_12(config, certificate, Instant::now());
        engine.set_active(true);
        engine.handle_timeout(Instant::now()).unwrap();
        let mut session = Session {
            socket,
            engine,
            connected: false,
            closed: false,
            certificate: Vec::new(),
            inbox: VecDeque::new(),
        };
        session.drain();
        while !session.connected {
            session.hear();
        }
        session
    }

    fn drain(&mut self) {
        let mut buffer = vec![0; 20_000];
        loop {
            match self.engine.poll_output(&mut buffer) {
                Output::Packet(packet) => drop(self.socket.send(packet).unwrap()),
                Output::ApplicationData(data) => self.inbox.push_back(data.to_vec()),
                Output::PeerCert(certificate) => self.certificate = certificate.to_vec(),
                Output::Connected => self.connected = true,
                Output::CloseNotify => self.closed = true,
                Output::Timeout(_) => return,
                _ => {}
            }
        }
    }

    fn hear(&mut self) {
        let mut buffer = [0; 2_048];
        let n = self.socket.recv(&mut buffer).unwrap();
        self.engine.handle_timeout(Instant::now()).unwrap();
        self.engine.handle_packet(&buffer[..n]).unwrap();
        self.drain();
    }
}

impl Link for Session {
    fn put(&mut self, bytes: &[u8]) {
        self.engine.send_application_data(bytes).unwrap();
        self.drain();
    }

    fn get(&mut self) -> Vec<u8> {
        loop {
            if let Some(datagram) = self.inbox.pop_front() {
                return datagram;
            }
            self.hear();
        }
    }
}

#[test]
fn dtls_clients_relay_both_ways_over_ipv4_and_ipv6() {
    for ip in ["127.0.0.1", "::1"] {
        let server = start(2, ip);
        let mut session = Session::open(server.dtls()[0]);
        whole_story(&mut session, ip);
        assert_eq!(
            (
                count(&server, "created_dtls"),
                count(&server, "ended_dtls"),
                count(&server, "created_udp")
            ),
            (1, 1, 0)
        );
        assert_eq!(count(&server, "dtls_sessions"), 1);
        let mut text = String::new();
        server.render_metrics(&mut text);
        assert!(text.contains("meridian_turn_allocations_total{transport=\"dtls\"} 1\n"));
        assert!(text.contains("meridian_turn_dtls_sessions 1\n"));
    }
}

#[test]
fn a_renewed_certificate_is_shown_to_new_sessions_and_one_that_will_not_do_to_none() {
    let pem = |key: &rcgen::KeyPair| {
        let parameters = rcgen::CertificateParams::new(["turn.test".to_owned()]).unwrap();
        (parameters.self_signed(key).unwrap(), key.serialize_pem())
    };
    let [(first, first_key), (second, second_key)] = [(); 2].map(|()| pem(&rcgen::KeyPair::generate().unwrap()));
    let (third, third_key) = pem(&rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap());
    let identity = Arc::new(DtlsIdentity::from_pem(&first.pem(), &first_key).unwrap());
    let server = start_as(2, "127.0.0.1", identity.clone());
    let mut standing = Session::open(server.dtls()[0]);
    assert_eq!(standing.certificate, first.der().to_vec());
    assert!(identity.renew(&second.pem(), &second_key));
    assert_eq!(Session::open(server.dtls()[0]).certificate, second.der().to_vec());
    assert!(!identity.renew(&third.pem(), &third_key), "DTLS needs ECDSA");
    assert_eq!(Session::open(server.dtls()[0]).certificate, second.der().to_vec());
    whole_story(&mut standing, "127.0.0.1");
}

#[test]
fn channel_data_is_not_padded_and_peers_may_burst() {
    let server = start(1, "127.0.0.1");
    let (mut anna, mut bert) = (anna(), bert());
    let mut links = [Session::open(server.dtls()[0]), Session::open(server.dtls()[0])];
    let [to_anna, to_bert] = &mut links;
    let of_anna = call(to_anna, &mut anna, Method::ALLOCATE, &[udp()]).relayed()[0];
    let of_bert = call(to_bert, &mut bert, Method::ALLOCATE, &[udp()]).relayed()[0];
    let number = || u32_attribute(attribute::CHANNEL_NUMBER, 0x4001 << 16);
    for (link, client, peer) in [(to_anna, &mut anna, of_bert), (to_bert, &mut bert, of_anna)] {
        let answer = call(link, client, Method::CHANNEL_BIND, &[number(), peer_attribute(peer)]);
        assert_eq!(answer.error, 0);
    }
    let [anna, bert] = &mut links;
    for n in 0..40u8 {
        anna.put(&channel_data(0x4001, &vec![n; 901 + usize::from(n)]));
    }
    for n in 0..40u8 {
        assert_eq!(bert.get(), channel_data(0x4001, &vec![n; 901 + usize::from(n)]));
    }
}

#[test]
fn close_notify_ends_the_allocation_and_a_server_that_stops_says_goodbye() {
    let server = start(1, "127.0.0.1");
    let mut session = Session::open(server.dtls()[0]);
    assert_eq!(call(&mut session, &mut anna(), Method::ALLOCATE, &[udp()]).error, 0);
    assert_eq!(server.allocations(), 1);
    session.engine.close().unwrap();
    session.drain();
    until(|| server.allocations() == 0 && count(&server, "dtls_sessions") == 0);
    let mut other = Session::open(server.dtls()[0]);
    drop(server);
    other.hear();
    assert!(other.closed);
}

#[test]
fn a_flood_of_hellos_and_garbage_opens_nothing_and_harms_nobody() {
    let server = start(1, "127.0.0.1");
    let mut session = Session::open(server.dtls()[0]);
    let mut anna = anna();
    assert_eq!(call(&mut session, &mut anna, Method::ALLOCATE, &[udp()]).error, 0);
    let stranger = udp_socket("127.0.0.1");
    stranger.connect(server.dtls()[0]).unwrap();
    // The shape of a ClientHello; what follows the cookie is not looked at before there is one.
    let mut hello = vec![
        22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 112, 1, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 100,
    ];
    hello.extend([0xFE, 0xFD]);
    hello.resize(125, 0);
    let cut = hello[..30].to_vec();
    let garbage = [
        &[0xFF; 90][..],
        &[22; 40],
        &[],
        &cut,
        &[23, 0xFE, 0xFD, 0, 1, 0, 0, 0, 0, 0, 9, 0, 30],
    ];
    let lifetime = u32_attribute(attribute::LIFETIME, 600);
    for n in 0..2_000usize {
        hello[27] = n as u8;
        stranger.send(&hello).unwrap();
        stranger.send(garbage[n % garbage.len()]).unwrap();
        // Whoever is known is served; and its answer says that what came before has been read.
        if n % 50 == 49 {
            let answer = call(
                &mut session,
                &mut anna,
                Method::REFRESH,
                std::slice::from_ref(&lifetime),
            );
            assert_eq!(answer.error, 0);
        }
    }
    stranger.set_nonblocking(true).unwrap();
    let (mut answers, mut buffer) = (0, [0; 2_048]);
    while let Ok(n) = stranger.recv(&mut buffer) {
        assert!(n <= 60 && buffer[13] == 3, "a HelloVerifyRequest");
        answers += 1;
    }
    assert!(answers > 0);
    assert_eq!(count(&server, "dtls_sessions"), 1);
    assert!(
        count(&server, "unauthenticated_braked") > 0,
        "answers to strangers have a limit"
    );
}

#[test]
fn dtls_needs_a_certificate() {
    let mut config = TurnConfig::new(server_config(false));
    config.dtls = vec![addr("127.0.0.1:0")];
    assert!(matches!(TurnServer::start(config), Err(StartError::NoDtlsCertificate)));
}

/// `openssl s_client` pipes bytes into records: a Binding request in, its answer out.
#[test]
fn openssl_shakes_hands_and_gets_an_answer_to_a_binding_request() {
    let server = start(2, "127.0.0.1");
    let mut openssl = Command::new("openssl")
        .args([
            "s_client",
            "-dtls1_2",
            "-quiet",
            "-no_ign_eof",
            "-connect",
            &server.dtls()[0].to_string(),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl is missing: apt-get install openssl (`./run test` does)");
    let request = MessageWriter::new(Class::Request, Method::BINDING, TransactionId([9; 12])).finish();
    openssl.stdin.as_mut().unwrap().write_all(&request).unwrap();
    let mut answer = vec![0; 20];
    let stdout = openssl.stdout.as_mut().unwrap();
    stdout.read_exact(&mut answer).unwrap();
    let rest = usize::from(u16::from_be_bytes([answer[2], answer[3]]));
    answer.resize(20 + rest, 0);
    stdout.read_exact(&mut answer[20..]).unwrap();
    let message = Message::parse(&answer).unwrap();
    assert_eq!(
        (message.class, message.transaction),
        (Class::Success, TransactionId([9; 12]))
    );
    let mapped = message.get_address(attribute::XOR_MAPPED_ADDRESS).unwrap();
    assert!(mapped.ip().is_loopback());
    // Its end of input is its goodbye.
    drop(openssl.stdin.take());
    assert!(openssl.wait().unwrap().success());
    until(|| count(&server, "dtls_sessions") == 0);
}
