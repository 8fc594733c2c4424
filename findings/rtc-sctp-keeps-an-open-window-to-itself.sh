#!/usr/bin/env bash
# rtc-sctp 0.21.1 (webrtc-rs): a receiver that let its receive window fill and then reads everything says nothing about the room it has again. RFC 9260 §6.2
# has a receiver announce a window that opened (an SACK with the new a_rwnd); here the next SACK comes only when the sender's own zero window
# probe arrives, and the sender spaces those like retransmissions that were lost: RTO.Initial, then twice as long each time, up to a minute. So a
# transfer over a perfect path goes on standing still after a slow reader is done, for up to as long as it was slow. Two endpoints of the crate, no
# network, a clock of the program's own: 2 MB sent into a window of 256 KiB, which is read in one go when it has been full for a while.
# Seen: full for 1, 5 and 20 seconds, the next new data comes 0.5, 2.5 and 11.5 seconds after everything was read.
# Whoever puts back-pressure on a data channel by not reading has to make the association speak when it reads again.
set -euo pipefail
command -v cargo >/dev/null || { echo "needs cargo" >&2; exit 2; }
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "window"
version = "0.0.0"
edition = "2024"
[dependencies]
rtc-sctp = "=0.21.1"
rtc-shared = { version = "=0.21.1", default-features = false }
bytes = "1"
TOML
cat > src/main.rs <<'RUST'
use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::{Duration, Instant}};
use bytes::Bytes;
use rtc_sctp::*;
use rtc_shared::TransportProtocol;

/// One side: an endpoint and its one association.
struct Side { endpoint: Endpoint, association: Option<(AssociationHandle, Association)>, peer: SocketAddr }

impl Side {
    fn receive(&mut self, now: Instant, packet: Bytes) {
        match self.endpoint.handle(now, self.peer, None, packet) {
            Some((handle, DatagramEvent::NewAssociation(association))) => self.association = Some((handle, association)),
            Some((_, DatagramEvent::AssociationEvent(event))) => self.association.as_mut().unwrap().1.handle_event(event),
            _ => {}
        }
    }

    fn send(&mut self, now: Instant) -> Vec<Bytes> {
        let mut packets = Vec::new();
        let Some((handle, association)) = &mut self.association else { return packets };
        if association.poll_timeout().is_some_and(|at| at <= now) {
            association.handle_timeout(now);
        }
        while association.poll().is_some() {}
        while let Some(event) = association.poll_endpoint_event() {
            self.endpoint.handle_event(*handle, event);
        }
        while let Some(transmit) = association.poll_transmit(now) {
            if let Payload::RawEncode(parts) = transmit.message { packets.extend(parts) }
        }
        packets
    }
}

/// Milliseconds from reading everything until the sender's next new data arrives, and until all has arrived.
fn stall(full_for: Duration) -> (u128, u128) {
    let (a, b): (SocketAddr, SocketAddr) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
    let transport = || Arc::new(TransportConfig::default().with_max_receive_buffer_size(256 << 10));
    let (mut now, config) = (Instant::now(), Arc::new(EndpointConfig::new()));
    let mut server_config = ServerConfig::default();
    server_config.transport = transport();
    let mut client = ClientConfig::default();
    client.transport = transport();
    let mut endpoint = Endpoint::new(a, TransportProtocol::UDP, config.clone(), None);
    let association = endpoint.connect(now, client, b).unwrap();
    let mut sender = Side { endpoint, association: Some(association), peer: b };
    let mut receiver = Side { endpoint: Endpoint::new(b, TransportProtocol::UDP, config, Some(Arc::new(server_config))), association: None, peer: a };
    let (mut to_receiver, mut to_sender): (VecDeque<(Instant, Bytes)>, VecDeque<(Instant, Bytes)>) = Default::default();
    let (mut begun, mut full, mut emptied, mut first, mut read) = (false, None, None, None, 0usize);
    const TOTAL: usize = 2_000_000;
    for _ in 0..400_000 {
        now += Duration::from_millis(1);
        while to_receiver.front().is_some_and(|(at, _)| *at <= now) { receiver.receive(now, to_receiver.pop_front().unwrap().1) }
        while to_sender.front().is_some_and(|(at, _)| *at <= now) { sender.receive(now, to_sender.pop_front().unwrap().1) }
        let association = &mut sender.association.as_mut().unwrap().1;
        if !begun && !association.is_handshaking() {
            begun = true;
            let mut stream = association.open_stream(1, PayloadProtocolIdentifier::Binary).unwrap();
            for _ in 0..TOTAL / 10_000 { stream.write(now, &[7; 10_000]).unwrap(); }
        }
        for packet in sender.send(now) { to_receiver.push_back((now + Duration::from_millis(10), packet)) }
        for packet in receiver.send(now) { to_sender.push_back((now + Duration::from_millis(10), packet)) }
        if begun && to_receiver.is_empty() && to_sender.is_empty() && full.is_none() { full = Some(now) }
        if full.is_some_and(|at| now >= at + full_for) {
            emptied.get_or_insert(now);
            let mut got = 0;
            if let Some((_, association)) = &mut receiver.association {
                while association.accept_stream().is_some() {}
                let mut buffer = [0; 16_384];
                if let Ok(mut stream) = association.stream(1) {
                    while let Ok(Some(chunks)) = stream.read_sctp() { got += chunks.read(&mut buffer).unwrap() }
                }
            }
            if read > 0 && got > 0 { first.get_or_insert(now); }
            read += got;
        }
        if read >= TOTAL { break }
    }
    let since = |at: Option<Instant>| at.map_or(u128::MAX, |at| (at - emptied.unwrap()).as_millis());
    (since(first), if read >= TOTAL { since(Some(now)) } else { u128::MAX })
}

fn main() {
    for seconds in [0, 1, 5, 20] {
        let (first, all) = stall(Duration::from_secs(seconds));
        println!("{seconds} {first} {all}");
    }
}
RUST
cargo run --quiet --release > out
echo "rtc-sctp 0.21.1, 20 ms there and back, no loss: seconds full, ms from reading everything to the next new data, ms to all 2 MB"
cat out
awk '$1 == 5 && $2 < 1000 { exit 1 } $1 == 20 && $2 < 5000 { exit 1 }' out || { echo "this has changed" >&2; exit 1; }
