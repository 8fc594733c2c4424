use std::time::Duration;

use meridian_transport::{Channel, CloseReason, PeerEvent, Received, SendDataError};

use crate::network::{CLIENT_ADDRESS, Network, Options, SERVER_ADDRESS, address};

#[test]
fn the_server_says_goodbye() {
    let mut network = Network::joined(Options::default());
    network.server.close(network.now);
    network.run_for(Duration::from_millis(100));
    assert_eq!(
        network.server_events.last(),
        Some(&PeerEvent::Closed(CloseReason::ClosedLocally))
    );
    assert_eq!(
        network.client_events.last(),
        Some(&PeerEvent::Closed(CloseReason::ClosedByPeer))
    );
    assert!(network.server.srtp().is_none());
    let now = network.now;
    assert_eq!(
        network.server.send_data(now, Channel::Reliable, b"x", true),
        Err(SendDataError::NotOpen)
    );
}

#[test]
fn a_client_that_says_goodbye_is_heard_and_late_packets_are_not() {
    let mut network = Network::joined(Options::default());
    network.record = Some(Vec::new());
    network
        .client
        .send_data(network.now, Channel::Reliable, b"last words", true)
        .unwrap();
    network.client.close(network.now);
    network.run_for(Duration::from_millis(100));
    assert_eq!(network.server_data().len(), 1);
    assert_eq!(
        network.server_events.last(),
        Some(&PeerEvent::Closed(CloseReason::ClosedByPeer))
    );
    let count = network.server_events.len();
    for mut late in network.record.take().unwrap() {
        let now = network.now;
        let received = network
            .server
            .handle_datagram(now, address(CLIENT_ADDRESS), address(SERVER_ADDRESS), &mut late);
        assert_eq!(received, Received::Nothing);
        assert!(network.server.poll_output().is_none());
    }
    assert_eq!(network.server_events.len(), count);
}
