//! Forged plaintext handshake fragments (spec/transport.md, guard B): 60,000 records once grew a peer by 17.8 MB.

use std::time::Duration;

use rand::Rng;

use crate::network::{CLIENT_ADDRESS, Network, Options, SERVER_ADDRESS, address};

/// Resident memory of this process; nextest gives every test its own.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// A handshake record of epoch 0 with any message sequence, length, offset and content.
fn forged(network: &mut Network, sequence: u16, plausible: bool) -> Vec<u8> {
    let rng = &mut network.rng;
    let mut body = [0u8; 200];
    rng.fill(&mut body[..]);
    let message_len: u32 = if plausible {
        rng.random_range(200..15_000)
    } else {
        rng.random_range(200..1 << 24)
    };
    let offset: u32 = rng.random_range(0..=message_len - 200);
    let message_seq: u16 = if plausible {
        rng.random_range(0..=8)
    } else {
        rng.random()
    };
    let mut record = vec![22, 254, 253, 0, 0, 0, 0, 0, 0];
    record.extend_from_slice(&sequence.to_be_bytes());
    record.extend_from_slice(&(212u16).to_be_bytes());
    record.push(rng.random_range(0..=20));
    record.extend_from_slice(&message_len.to_be_bytes()[1..]);
    record.extend_from_slice(&message_seq.to_be_bytes());
    record.extend_from_slice(&offset.to_be_bytes()[1..]);
    record.extend_from_slice(&[0, 0, 200]);
    record.extend_from_slice(&body);
    record
}

fn flood(network: &mut Network, records: u32, plausible: bool) -> usize {
    let before = resident_bytes();
    for sequence in 0..records {
        let mut record = forged(network, sequence as u16, plausible);
        network.server.handle_datagram(
            network.now,
            address(CLIENT_ADDRESS),
            address(SERVER_ADDRESS),
            &mut record,
        );
        while network.server.poll_output().is_some() {}
    }
    resident_bytes().saturating_sub(before)
}

#[test]
fn forged_fragments_before_the_handshake_are_bounded_in_memory() {
    for plausible in [false, true] {
        let mut network = Network::new(Options::default());
        // The pair has authenticated, DTLS has not begun: the worst moment.
        assert!(network.run_until(Duration::from_secs(1), |n| n.server.path().is_some()));
        let grown = flood(&mut network, 60_000, plausible);
        assert!(grown < 1 << 20, "grew by {grown} bytes");
    }
}

#[test]
fn forged_fragments_after_the_handshake_are_bounded_and_harm_nothing() {
    let mut network = Network::joined(Options::default());
    for plausible in [false, true] {
        let grown = flood(&mut network, 20_000, plausible);
        assert!(grown < 1 << 20, "grew by {grown} bytes");
    }
    let now = network.now;
    network
        .client
        .send_data(now, meridian_transport::Channel::Reliable, b"alive", true)
        .unwrap();
    assert!(network.run_until(Duration::from_secs(5), |n| n.server_data().len() == 1));
}

#[test]
fn a_join_survives_forged_fragments_no_handshake_contains() {
    let mut network = Network::new(Options::default());
    assert!(network.run_until(Duration::from_secs(1), |n| n.server.path().is_some()));
    flood(&mut network, 10_000, false);
    assert!(
        network.run_until(Duration::from_secs(10), |n| n.is_joined(2)),
        "{:?}",
        network.server_events
    );
}
