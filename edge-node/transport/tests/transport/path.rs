use std::time::Duration;

use meridian_transport::{CONNECT_TIMEOUT, Channel, CloseReason, IceCredentials, Path, PeerEvent, SrtpStream};

use crate::network::{CLIENT_ADDRESS, Network, Options, SERVER_ADDRESS, address, rtp};

const MOVED: &str = "203.0.113.9:1024";

fn path(remote: &str) -> Option<Path> {
    Some(Path {
        local: address(SERVER_ADDRESS),
        remote: address(remote),
    })
}

#[test]
fn a_client_that_changes_its_address_keeps_its_call() {
    let mut network = Network::joined(Options::default());
    network.unreachable.push(address(CLIENT_ADDRESS));
    network.client.change_address(network.now, address(MOVED));
    assert!(network.run_until(Duration::from_secs(1), |n| n.server.path() == path(MOVED)));
    let moved = PeerEvent::PathChanged {
        local: address(SERVER_ADDRESS),
        remote: address(MOVED),
    };
    assert_eq!(network.server_events.last(), Some(&moved));
    network
        .client
        .send_data(network.now, Channel::Reliable, b"still here", false)
        .unwrap();
    assert!(network.run_until(Duration::from_secs(2), |n| n.server_data().len() == 1));
    network
        .server
        .send_data(network.now, Channel::Reliable, b"so am I", false)
        .unwrap();
    assert!(network.run_until(Duration::from_secs(2), |n| n.client_data().len() == 1));
    assert_eq!(network.server.stats().path_moves, 1);
}

#[test]
fn media_and_data_go_on_through_an_ice_restart() {
    let mut network = Network::joined(Options::default());
    let mut stream = SrtpStream::new(3);
    let mut media = |network: &mut Network, sequence: u16| {
        let mut buffer = rtp(3, sequence, 100);
        buffer.resize(128, 0);
        let len = network
            .server
            .srtp()
            .unwrap()
            .protect_rtp(&mut stream, &mut buffer, 12, 112)
            .unwrap();
        buffer.truncate(len);
        let Path { local, remote } = network.server.path().unwrap();
        network.send(false, local, remote, buffer);
    };
    media(&mut network, 1);
    let (server, client) = (
        IceCredentials::generate(&mut network.rng),
        IceCredentials::generate(&mut network.rng),
    );
    network.server.restart_ice(server.clone(), client.clone());
    media(&mut network, 2);
    network.run_for(Duration::from_millis(100));
    assert_eq!(
        network.server.path(),
        path(CLIENT_ADDRESS),
        "the old path serves until the new one is nominated"
    );
    let connected = network
        .server_events
        .iter()
        .filter(|e| matches!(e, PeerEvent::Connected { .. }))
        .count();
    network.client.restart_ice(network.now, client, server);
    network.client.change_address(network.now, address(MOVED));
    assert!(network.run_until(Duration::from_secs(1), |n| n.server.path() == path(MOVED)));
    media(&mut network, 3);
    network
        .client
        .send_data(network.now, Channel::Lossy, b"same SCTP", false)
        .unwrap();
    assert!(network.run_until(Duration::from_secs(2), |n| n.server_data().len() == 1));
    assert_eq!(network.client_received.len(), 3, "same SRTP context");
    let after = network
        .server_events
        .iter()
        .filter(|e| matches!(e, PeerEvent::Connected { .. }))
        .count();
    assert_eq!(after, connected, "no second handshake");
}

#[test]
fn consent_is_lost_after_thirty_seconds_of_silence() {
    let mut network = Network::joined(Options::default());
    network.run_for(Duration::from_secs(120));
    assert!(network.server.is_connected(), "consent checks keep a quiet call");
    network.loss = 1.0;
    network.run_for(Duration::from_secs(25));
    assert!(network.server.is_connected());
    network.run_for(Duration::from_secs(6));
    assert_eq!(
        network.server_events.last(),
        Some(&PeerEvent::Closed(CloseReason::ConsentLost))
    );
    assert_eq!(
        network.client_events.last(),
        Some(&PeerEvent::Closed(CloseReason::ConsentLost))
    );
    assert_eq!(network.server.poll_timeout(), None);
}

#[test]
fn a_client_that_never_comes_is_given_up() {
    let mut network = Network::new(Options {
        loss: 1.0,
        ..Options::default()
    });
    network.run_for(Duration::from_secs(31));
    assert_eq!(network.server_events, [PeerEvent::Closed(CloseReason::ConsentLost)]);
}

#[test]
fn a_client_that_never_begins_dtls_is_given_up() {
    let mut network = Network::new(Options {
        only_stun: true,
        ..Options::default()
    });
    network.run_for(CONNECT_TIMEOUT - Duration::from_secs(1));
    assert_eq!(network.server.path(), path(CLIENT_ADDRESS));
    assert!(
        !network.server_events.iter().any(|e| matches!(e, PeerEvent::Closed(_))),
        "consent is there"
    );
    network.run_for(Duration::from_secs(1));
    assert_eq!(
        network.server_events.last(),
        Some(&PeerEvent::Closed(CloseReason::DtlsFailed))
    );
}
