//! Ways to a running server on loopback, and what every one of them must carry.

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use meridian_turn::ServerConfig;
use meridian_turn::framing::{Frame, next_frame};
use meridian_turn::io::TurnServer;
use meridian_turn::stun::{Message, Method, attribute};

use super::*;

pub fn server_config(v6: bool) -> ServerConfig {
    let mut config = config();
    config.relay_v4 = (!v6).then(|| "127.0.0.1".parse::<std::net::IpAddr>().unwrap().into());
    config.relay_v6 = v6.then(|| "::1".parse::<std::net::IpAddr>().unwrap().into());
    config.policy.allowed = vec!["127.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()];
    config
}

pub fn udp_socket(ip: &str) -> UdpSocket {
    let socket = UdpSocket::bind(SocketAddr::new(ip.parse().unwrap(), 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket
}

/// A way to the server: datagrams or a stream.
pub trait Link {
    fn put(&mut self, bytes: &[u8]);
    fn get(&mut self) -> Vec<u8>;
}

impl Link for UdpSocket {
    fn put(&mut self, bytes: &[u8]) {
        self.send(bytes).unwrap();
    }

    fn get(&mut self) -> Vec<u8> {
        let mut buffer = [0; 2048];
        let n = self.recv(&mut buffer).unwrap();
        buffer[..n].to_vec()
    }
}

pub struct Framed<S>(pub S, pub Vec<u8>);

impl<S: Read + Write> Link for Framed<S> {
    fn put(&mut self, bytes: &[u8]) {
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(4), 0);
        self.0.write_all(&padded).unwrap();
    }

    fn get(&mut self) -> Vec<u8> {
        loop {
            if let Frame::Complete { message, consumed } = next_frame(&self.1) {
                let frame = self.1[..message].to_vec();
                self.1.drain(..consumed);
                return frame;
            }
            let mut buffer = [0; 2048];
            let n = self.0.read(&mut buffer).unwrap();
            assert!(n > 0, "the server closed");
            self.1.extend_from_slice(&buffer[..n]);
        }
    }
}

pub fn call(link: &mut impl Link, client: &mut Client, method: Method, attributes: &[Attribute]) -> Answer {
    link.put(&client.request(method, attributes));
    let answer = Answer::of(&link.get());
    if answer.error != 401 {
        return answer;
    }
    client.nonce = answer.get(attribute::NONCE).unwrap();
    link.put(&client.request(method, attributes));
    Answer::of(&link.get())
}

/// Allocates, then Send/Data and ChannelData both ways.
pub fn whole_story(link: &mut impl Link, ip: &str) {
    let mut anna = anna();
    let peer = udp_socket(ip);
    let there = peer.local_addr().unwrap();
    let family = u32_attribute(
        attribute::REQUESTED_ADDRESS_FAMILY,
        if ip.contains(':') { 2 << 24 } else { 1 << 24 },
    );
    let answer = call(link, &mut anna, Method::ALLOCATE, &[udp(), family]);
    assert_eq!(answer.error, 0);
    let relayed = answer.relayed()[0];
    assert_eq!(
        call(link, &mut anna, Method::CREATE_PERMISSION, &[peer_attribute(there)]).error,
        0
    );

    let mut buffer = [0; 2048];
    link.put(&anna.send_indication(there, b"by indication"));
    let (n, from) = peer.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..n], from), (&b"by indication"[..], relayed));
    peer.send_to(b"and back", relayed).unwrap();
    let data = link.get();
    let message = Message::parse(&data).unwrap();
    assert_eq!(message.get(attribute::DATA), Some(&b"and back"[..]));
    assert_eq!(message.get_address(attribute::XOR_PEER_ADDRESS), Some(there));

    let number = u32_attribute(attribute::CHANNEL_NUMBER, 0x4001 << 16);
    assert_eq!(
        call(link, &mut anna, Method::CHANNEL_BIND, &[number, peer_attribute(there)]).error,
        0
    );
    for round in 0..20u8 {
        let up = vec![round; 1_000 + usize::from(round)];
        link.put(&channel_data(0x4001, &up));
        let (n, from) = peer.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..n], from), (&up[..], relayed));
        peer.send_to(&up, relayed).unwrap();
        assert_eq!(link.get()[..4 + up.len()], channel_data(0x4001, &up));
    }
    assert_eq!(
        call(
            link,
            &mut anna,
            Method::REFRESH,
            &[u32_attribute(attribute::LIFETIME, 0)]
        )
        .error,
        0
    );
}

pub fn count(server: &TurnServer, name: &str) -> u64 {
    server.metrics().iter().find(|(n, _)| *n == name).unwrap().1
}

pub fn until(what: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(2);
    while !what() {
        assert!(Instant::now() < end, "nothing happened");
        std::thread::sleep(Duration::from_millis(2));
    }
}
