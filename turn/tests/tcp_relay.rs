//! RFC 6062 on loopback, over several workers, so that data connections have to be handed over.

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use meridian_turn::framing::{Frame, next_frame};
use meridian_turn::io::{TurnConfig, TurnServer};
use meridian_turn::limits::Rate;
use meridian_turn::stun::{Message, Method, attribute};
use meridian_turn::{Command, Transport};
use support::*;

fn start(bytes: Option<Rate>) -> TurnServer {
    let mut server = config();
    server.relay_v4 = Some("127.0.0.1".parse::<IpAddr>().unwrap().into());
    server.policy.allowed = vec!["127.0.0.0/8".parse().unwrap()];
    server.limits.per_user.bytes = bytes;
    let mut config = TurnConfig::new(server);
    config.tcp = vec![addr("127.0.0.1:0")];
    config.workers = 4;
    TurnServer::start(config).unwrap()
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

/// One message, and not a byte more: what follows may be data.
fn message(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    stream.read_exact(&mut bytes).unwrap();
    let Frame::Incomplete(total) = next_frame(&bytes) else {
        panic!("{bytes:?}")
    };
    bytes.resize(total, 0);
    stream.read_exact(&mut bytes[4..]).unwrap();
    bytes
}

fn call(stream: &mut TcpStream, client: &mut Client, method: Method, attributes: &[Attribute]) -> Answer {
    stream.write_all(&client.request(method, attributes)).unwrap();
    let answer = Answer::of(&message(stream));
    if answer.error != 401 {
        return answer;
    }
    client.nonce = answer.get(attribute::NONCE).unwrap();
    stream.write_all(&client.request(method, attributes)).unwrap();
    Answer::of(&message(stream))
}

fn tcp() -> Attribute {
    u32_attribute(attribute::REQUESTED_TRANSPORT, 6 << 24)
}

fn bind(server: &TurnServer, client: &mut Client, id: u32) -> TcpStream {
    let mut data = connect(server.tcp()[0]);
    let id = u32_attribute(attribute::CONNECTION_ID, id);
    assert_eq!(call(&mut data, client, Method::CONNECTION_BIND, &[id]).error, 0);
    data
}

/// Much both ways at once, then the end passes from one side to the other.
fn exchange(mut a: TcpStream, mut b: TcpStream) {
    let much: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let mut readers = Vec::new();
    for stream in [&a, &b] {
        let (mut stream, len) = (stream.try_clone().unwrap(), much.len());
        readers.push(std::thread::spawn(move || {
            let mut got = vec![0; len];
            stream.read_exact(&mut got).unwrap();
            got
        }));
    }
    let (mut to_b, copy) = (a.try_clone().unwrap(), much.clone());
    let writer = std::thread::spawn(move || to_b.write_all(&copy).unwrap());
    b.write_all(&much).unwrap();
    writer.join().unwrap();
    for reader in readers {
        assert!(reader.join().unwrap() == much);
    }
    b.write_all(b"last words").unwrap();
    drop(b);
    let mut rest = Vec::new();
    a.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"last words");
}

#[test]
fn a_client_connects_to_a_peer() {
    let server = start(None);
    for _ in 0..8 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        let (mut anna, mut control) = (anna(), connect(server.tcp()[0]));
        let relayed = call(&mut control, &mut anna, Method::ALLOCATE, &[tcp()]).relayed()[0];
        let answer = call(&mut control, &mut anna, Method::CONNECT, &[peer_attribute(there)]);
        assert_eq!(answer.error, 0);
        let again = call(&mut control, &mut anna, Method::CONNECT, &[peer_attribute(there)]);
        assert_eq!(again.error, 446);
        let (mut peer, from) = listener.accept().unwrap();
        assert_eq!(from, relayed);
        peer.write_all(b"early").unwrap();
        let mut data = bind(
            &server,
            &mut anna,
            answer.message().get_u32(attribute::CONNECTION_ID).unwrap(),
        );
        let mut early = [0; 5];
        data.read_exact(&mut early).unwrap();
        assert_eq!(&early, b"early");
        exchange(data, peer);
    }
}

#[test]
fn a_permitted_peer_connects_to_the_client() {
    let server = start(None);
    let (mut anna, mut control) = (anna(), connect(server.tcp()[0]));
    let relayed = call(&mut control, &mut anna, Method::ALLOCATE, &[tcp()]).relayed()[0];
    let mut stranger = connect(relayed);
    assert!(matches!(stranger.read(&mut [0]), Ok(0) | Err(_)), "no permission yet");
    let local = peer_attribute(addr("127.0.0.1:1"));
    assert_eq!(
        call(&mut control, &mut anna, Method::CREATE_PERMISSION, &[local]).error,
        0
    );
    let peer = connect(relayed);
    let bytes = message(&mut control);
    let attempt = Message::parse(&bytes).unwrap();
    assert_eq!(attempt.method, Method::CONNECTION_ATTEMPT);
    assert_eq!(
        attempt.get_address(attribute::XOR_PEER_ADDRESS),
        Some(peer.local_addr().unwrap())
    );
    let data = bind(&server, &mut anna, attempt.get_u32(attribute::CONNECTION_ID).unwrap());
    exchange(peer, data);
}

#[test]
fn nobody_listening_is_a_447_and_inside_is_a_403() {
    let server = start(None);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (mut anna, mut control) = (anna(), connect(server.tcp()[0]));
    assert_eq!(call(&mut control, &mut anna, Method::ALLOCATE, &[tcp()]).error, 0);
    assert_eq!(
        call(&mut control, &mut anna, Method::CONNECT, &[peer_attribute(nobody)]).error,
        447
    );
    assert_eq!(
        call(
            &mut control,
            &mut anna,
            Method::CONNECT,
            &[peer_attribute(addr("10.0.0.1:22"))]
        )
        .error,
        403
    );
}

#[test]
fn a_stream_over_its_quota_is_slowed_and_loses_nothing() {
    let server = start(Some(Rate {
        per_second: 8_000_000,
        burst: 1_000_000,
    }));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut anna, mut control) = (anna(), connect(server.tcp()[0]));
    call(&mut control, &mut anna, Method::ALLOCATE, &[tcp()]);
    let there = peer_attribute(listener.local_addr().unwrap());
    let answer = call(&mut control, &mut anna, Method::CONNECT, &[there]);
    let (peer, _) = listener.accept().unwrap();
    let data = bind(
        &server,
        &mut anna,
        answer.message().get_u32(attribute::CONNECTION_ID).unwrap(),
    );
    let begin = Instant::now();
    exchange(data, peer);
    assert!(
        begin.elapsed() > Duration::from_millis(500),
        "6 MB at 8 MB/s with 1 MB at once"
    );
}

#[test]
fn connections_that_nobody_binds_end_after_thirty_seconds() {
    let mut world = World::new(config());
    let mut anna = anna();
    anna.socket.transport = Transport::Tcp;
    assert_eq!(anna.call(&mut world, Method::ALLOCATE, &[tcp()]).error, 0);
    let peer = addr("192.0.3.5:7000");
    let request = anna.request(Method::CONNECT, &[peer_attribute(peer)]);
    assert!(
        world.ask(anna.socket, &request).is_none(),
        "answered when the peer has answered"
    );
    let Some(Command::ConnectPeer { connection, to, .. }) = world.tcp.pop() else {
        panic!()
    };
    assert_eq!(to, peer);
    world.server.peer_connected(world.now, connection, true);
    world.settle();
    assert_eq!(Answer::of(&world.sent.pop().unwrap().1).error, 0);
    let mut data = Client {
        socket: support::client("198.51.99.10:4001", "anna", "pw-a").socket,
        ..anna.clone()
    };
    data.socket.transport = Transport::Tcp;
    let mut thief = Client {
        username: "bert".into(),
        password: "pw-b".into(),
        ..data.clone()
    };
    let id = || u32_attribute(attribute::CONNECTION_ID, connection.0);
    assert_eq!(thief.call(&mut world, Method::CONNECTION_BIND, &[id()]).error, 441);
    world.pass(Duration::from_secs(30));
    assert_eq!(world.tcp.pop(), Some(Command::ClosePeer { connection }));
    assert_eq!(data.call(&mut world, Method::CONNECTION_BIND, &[id()]).error, 400);
}

#[test]
fn connections_to_peers_are_refused_unless_somebody_has_switched_them_on() {
    let mut server = config();
    server.relay_v4 = Some("127.0.0.1".parse::<IpAddr>().unwrap().into());
    server.tcp_relay = false;
    let mut config = TurnConfig::new(server);
    config.tcp = vec![addr("127.0.0.1:0")];
    let server = TurnServer::start(config).unwrap();
    let (mut anna, mut control) = (anna(), connect(server.tcp()[0]));
    assert_eq!(call(&mut control, &mut anna, Method::ALLOCATE, &[tcp()]).error, 442);
    let udp = u32_attribute(attribute::REQUESTED_TRANSPORT, 17 << 24);
    assert_eq!(call(&mut control, &mut anna, Method::ALLOCATE, &[udp]).error, 0);
}
