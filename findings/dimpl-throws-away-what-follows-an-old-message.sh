#!/usr/bin/env bash
# dimpl 0.9.0 (a Rust crate, DTLS 1.2): a datagram whose first record is a handshake message it has had is thrown away whole, new messages behind it included. RFC 6347
# §4.1.1 lets a peer put several records into a datagram as it likes, and nothing in §4.2.4 has a retransmission grouped like the first
# transmission; record numbers tell what is a replay, message numbers what is old, and both are per record, not per datagram.
# A client that has read the ServerHello alone, because the server sent each message in a datagram of its own and the next was lost, never gets
# on when that server sends its flight again in one datagram, ServerHello first: not on the first retransmission, not on the tenth.
# Two endpoints of the crate, no network; the server's flight is cut into its records, and retransmissions get new record numbers as they should.
# Seen: connected if the flight comes whole, or the retransmission record by record; not connected after ten retransmissions as one datagram.
# It hurts a call with a peer that packs differently the second time; peers that repeat their datagrams as they were (browsers do) are unhurt. Who feeds the
# crate can cut datagrams into records first, which is always allowed.
set -euo pipefail
command -v cargo >/dev/null || { echo "needs cargo" >&2; exit 2; }
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "again"
version = "0.0.0"
edition = "2024"
[dependencies]
dimpl = "=0.9.0"
TOML
cat > src/main.rs <<'RUST'
use std::{sync::Arc, time::Instant};
use dimpl::{Config, Dtls, Output, certificate::generate_self_signed_certificate};

/// What `side` has to send now; notes whether it is connected.
fn drain(side: &mut Dtls, connected: &mut bool) -> Vec<Vec<u8>> {
    let (mut buffer, mut packets) = (vec![0; 4096], vec![]);
    loop {
        match side.poll_output(&mut buffer) {
            Output::Packet(packet) => packets.push(packet.to_vec()),
            Output::Connected => *connected = true,
            Output::Timeout(_) => return packets,
            _ => {}
        }
    }
}

/// The records of datagrams, one by one.
fn records(datagrams: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut all = vec![];
    for mut rest in datagrams.iter().map(|datagram| &datagram[..]) {
        while rest.len() >= 13 {
            let (record, after) = rest.split_at(13 + u16::from_be_bytes([rest[11], rest[12]]) as usize);
            all.push(record.to_vec());
            rest = after;
        }
    }
    all
}

/// Whether both sides connect when `deliver` brings the server's flight, as records, to the client.
fn connects(deliver: fn(&mut Dtls, &[Vec<u8>])) -> bool {
    let (now, config, certificate) = (Instant::now(), Arc::new(Config::default()), generate_self_signed_certificate);
    let mut client = Dtls::new_12(config.clone(), certificate().unwrap(), now);
    client.set_active(true);
    let mut server = Dtls::new_12(config, certificate().unwrap(), now);
    client.handle_timeout(now).unwrap();
    server.handle_timeout(now).unwrap();
    let (mut here, mut there) = (false, false);
    // ClientHello, HelloVerifyRequest, ClientHello with the cookie, then the flight.
    drain(&mut client, &mut here).iter().for_each(|packet| server.handle_packet(packet).unwrap());
    drain(&mut server, &mut there).iter().for_each(|packet| client.handle_packet(packet).unwrap());
    drain(&mut client, &mut here).iter().for_each(|packet| server.handle_packet(packet).unwrap());
    let flight = records(&drain(&mut server, &mut there));
    assert!(flight.len() >= 4 && flight[0][13] == 2, "a ServerHello and more");
    deliver(&mut client, &flight);
    drain(&mut client, &mut here).iter().for_each(|packet| server.handle_packet(packet).unwrap());
    drain(&mut server, &mut there).iter().for_each(|packet| client.handle_packet(packet).unwrap());
    drain(&mut client, &mut here);
    here && there
}

/// The flight as a peer sends it again: the same messages under new record numbers.
fn again(flight: &[Vec<u8>], time: usize) -> Vec<Vec<u8>> {
    let numbered = flight.iter().cloned().enumerate().map(|(index, mut record)| {
        record[5..11].copy_from_slice(&((time * 50 + index) as u64).to_be_bytes()[2..]);
        record
    });
    numbered.collect()
}

fn main() {
    let whole = connects(|client, flight| client.handle_packet(&flight.concat()).unwrap());
    let apart = connects(|client, flight| {
        client.handle_packet(&flight[0]).unwrap();
        drain(client, &mut false);
        again(flight, 1).iter().for_each(|record| client.handle_packet(record).unwrap());
    });
    let together = connects(|client, flight| {
        client.handle_packet(&flight[0]).unwrap();
        for time in 1..=10 {
            drain(client, &mut false);
            client.handle_packet(&again(flight, time).concat()).unwrap();
        }
    });
    println!("connected: whole flight {whole}; ServerHello, then the flight record by record {apart}, ten times in one datagram {together}");
    if !whole || !apart || together {
        eprintln!("this has changed");
        std::process::exit(1);
    }
}
RUST
cargo run --quiet
