//! A running server on loopback, with loopback configured as an allowed network.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use meridian_turn::io::{TurnConfig, TurnServer};
use meridian_turn::policy::MediaPorts;
use meridian_turn::stun::{Method, attribute};
use meridian_udp::LocalPorts;
use support::link::*;
use support::*;

fn start(workers: usize, ip: &str) -> TurnServer {
    let v6 = ip.contains(':');
    let listen = SocketAddr::new(ip.parse().unwrap(), 0);
    let mut config = TurnConfig::new(server_config(v6));
    config.udp = vec![listen];
    config.tcp = vec![listen];
    config.workers = workers;
    TurnServer::start(config).unwrap()
}

#[test]
fn udp_clients_relay_both_ways_over_ipv4_and_ipv6() {
    for ip in ["127.0.0.1", "::1"] {
        let server = start(1, ip);
        let mut socket = udp_socket(ip);
        socket.connect(server.udp()[0]).unwrap();
        whole_story(&mut socket, ip);
        assert_eq!(
            (
                server.allocations(),
                count(&server, "packets_up"),
                count(&server, "packets_down")
            ),
            (0, 21, 21)
        );
    }
}

#[test]
fn tcp_clients_relay_both_ways_and_lose_their_allocation_with_the_connection() {
    let server = start(2, "127.0.0.1");
    let stream = TcpStream::connect(server.tcp()[0]).unwrap();
    let mut link = Framed(stream, Vec::new());
    whole_story(&mut link, "127.0.0.1");
    let mut bert = bert();
    assert_eq!(call(&mut link, &mut bert, Method::ALLOCATE, &[udp()]).error, 0);
    assert_eq!((server.allocations(), count(&server, "streams")), (1, 1));
    drop(link);
    until(|| server.allocations() == 0 && count(&server, "streams") == 0);
}

#[test]
fn tls_clients_relay_both_ways() {
    let issued = rcgen::generate_simple_self_signed(["turn.test".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(issued.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    let mut config = TurnConfig::new(server_config(false));
    config.tls = vec![addr("127.0.0.1:0")];
    config.tls_config = Some(Arc::new(tls));
    let server = TurnServer::start(config).unwrap();

    let mut roots = rustls::RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connection = rustls::ClientConnection::new(Arc::new(client), "turn.test".try_into().unwrap()).unwrap();
    let stream = TcpStream::connect(server.tls()[0]).unwrap();
    whole_story(
        &mut Framed(rustls::StreamOwned::new(connection, stream), Vec::new()),
        "127.0.0.1",
    );
}

#[test]
fn a_stream_that_speaks_something_else_is_closed() {
    let server = start(1, "127.0.0.1");
    let mut stream = TcpStream::connect(server.tcp()[0]).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.write_all(&[0xFF; 64]).unwrap();
    assert!(matches!(stream.read(&mut [0; 16]), Ok(0) | Err(_)));
    until(|| count(&server, "streams") == 0);
}

#[test]
fn workers_share_the_port_and_clients_reach_each_others_relayed_addresses() {
    let server = start(4, "127.0.0.1");
    let mut clients: Vec<_> = (0..8)
        .map(|_| {
            let mut socket = udp_socket("127.0.0.1");
            socket.connect(server.udp()[0]).unwrap();
            let mut client = anna();
            let answer = call(&mut socket, &mut client, Method::ALLOCATE, &[udp()]);
            (socket, client, answer.relayed()[0])
        })
        .collect();
    assert_eq!(server.allocations(), 8);
    let relayed: Vec<_> = clients.iter().map(|(_, _, relayed)| *relayed).collect();
    for (i, (socket, client, _)) in clients.iter_mut().enumerate() {
        for (number, peer) in [(0x4001u32, relayed[(i + 1) % 8]), (0x4002, relayed[(i + 7) % 8])] {
            let number = u32_attribute(attribute::CHANNEL_NUMBER, number << 16);
            assert_eq!(
                call(socket, client, Method::CHANNEL_BIND, &[number, peer_attribute(peer)]).error,
                0
            );
        }
    }
    for i in 0..8 {
        clients[i].0.put(&channel_data(0x4001, &[i as u8; 100]));
        assert_eq!(clients[(i + 1) % 8].0.get(), channel_data(0x4002, &[i as u8; 100]));
    }
}

/// Waits as a thread does.
fn drain(server: &TurnServer, deadline: Duration) -> bool {
    let drained = server.drain(deadline, |pause| {
        std::thread::sleep(pause);
        std::future::ready(())
    });
    let ready = std::pin::pin!(drained).poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    ready == std::task::Poll::Ready(true)
}

#[test]
fn draining_waits_for_the_last_allocation_or_its_deadline() {
    let server = start(1, "127.0.0.1");
    let mut socket = udp_socket("127.0.0.1");
    socket.connect(server.udp()[0]).unwrap();
    let mut anna = anna();
    assert_eq!(call(&mut socket, &mut anna, Method::ALLOCATE, &[udp()]).error, 0);
    assert!(!drain(&server, Duration::from_millis(30)));
    call(
        &mut socket,
        &mut anna,
        Method::REFRESH,
        &[u32_attribute(attribute::LIFETIME, 0)],
    );
    assert!(drain(&server, Duration::from_secs(2)));
    assert_eq!(call(&mut socket, &mut anna, Method::ALLOCATE, &[udp()]).error, 508);
}

/// A peer without a socket, in this process: sends everything back.
#[derive(Debug, Default)]
struct Echo(OnceLock<Arc<dyn LocalPorts>>);

impl LocalPorts for Echo {
    fn deliver(&self, from: SocketAddr, to: SocketAddr, segment: usize, bytes: &[u8]) -> bool {
        self.0.get().unwrap().deliver(to, from, segment, bytes)
    }

    fn wake(&self) {
        self.0.get().unwrap().wake();
    }
}

#[test]
fn a_peer_in_this_process_is_reached_without_a_socket_under_its_advertised_address() {
    let (echo, advertised) = (Arc::new(Echo::default()), addr("203.0.114.7:7882"));
    let mut config = TurnConfig::new(server_config(false));
    config.server.policy.allowed.clear();
    config.server.policy.media = vec![MediaPorts {
        advertised: advertised.ip(),
        actual: [127, 0, 0, 1].into(),
        ports: 7_882..=7_883,
    }];
    config.udp = vec![addr("127.0.0.1:0")];
    config.workers = 2;
    config.local = Some(echo.clone());
    let server = TurnServer::start(config).unwrap();
    echo.0.set(server.local_ports()).unwrap();

    let mut socket = udp_socket("127.0.0.1");
    socket.connect(server.udp()[0]).unwrap();
    let mut anna = anna();
    assert_eq!(call(&mut socket, &mut anna, Method::ALLOCATE, &[udp()]).error, 0);
    let number = u32_attribute(attribute::CHANNEL_NUMBER, 0x4001 << 16);
    let bind = [number, peer_attribute(advertised)];
    assert_eq!(call(&mut socket, &mut anna, Method::CHANNEL_BIND, &bind).error, 0);
    for n in 0..100 {
        socket.put(&channel_data(0x4001, &[n; 500]));
        assert_eq!(socket.get(), channel_data(0x4001, &[n; 500]));
    }
    assert_eq!((count(&server, "local_up"), count(&server, "local_down")), (100, 100));
    assert_eq!(count(&server, "local_dropped"), 0);
    // Ports beside the media ports are as closed as ever.
    let outside = peer_attribute(addr("203.0.114.7:22"));
    let bind = [u32_attribute(attribute::CHANNEL_NUMBER, 0x4002 << 16), outside];
    assert_eq!(call(&mut socket, &mut anna, Method::CHANNEL_BIND, &bind).error, 403);
}
