//! No bytes from the network panic, whatever the state, and none but authenticated ones have an effect.

use std::time::Duration;

use meridian_transport::{PeerEvent, Received, kind, stun_local_ufrag};
use proptest::prelude::*;

use crate::network::{CLIENT_ADDRESS, Network, Options, SERVER_ADDRESS, address};

/// Anything, with a first byte of every kind and often a plausible header.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let any_bytes = prop::collection::vec(any::<u8>(), 0..300);
    let stun = prop::collection::vec(any::<u8>(), 0..200).prop_map(|rest| {
        let mut bytes = vec![0, 1];
        bytes.extend_from_slice(&(rest.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
        bytes.extend_from_slice(&[7; 12]);
        bytes.extend_from_slice(&rest);
        bytes
    });
    let dtls = (20u8..64, 0u16..3, prop::collection::vec(any::<u8>(), 0..300)).prop_map(|(kind, epoch, body)| {
        let mut bytes = vec![kind, 254, 253];
        bytes.extend_from_slice(&epoch.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, 0, 0, 9]);
        bytes.extend_from_slice(&(body.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&body);
        bytes
    });
    let rtp =
        (128u8..192, any::<u8>(), prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(first, second, rest)| {
            let mut bytes = vec![first, second];
            bytes.extend_from_slice(&rest);
            bytes
        });
    prop_oneof![any_bytes, stun, dtls, rtp]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn any_datagram_is_survived_before_and_after_the_handshake(noise in prop::collection::vec(datagram(), 200)) {
        let (server, client) = (address(SERVER_ADDRESS), address(CLIENT_ADDRESS));
        let mut network = Network::joined(Options::default());
        for bytes in &noise {
            let _ = (kind(bytes), stun_local_ufrag(bytes));
            let now = network.now;
            prop_assert_eq!(network.server.handle_datagram(now, client, server, &mut bytes.clone()), Received::Nothing);
            network.client.handle_datagram(now, server, client, &mut bytes.clone());
        }
        prop_assert!(network.server.is_connected());
        network.run_for(Duration::from_secs(4));
        prop_assert!(network.server.is_connected() && network.client.is_connected());

        let mut fresh = Network::new(Options::default());
        fresh.run_until(Duration::from_secs(1), |n| n.server.path().is_some());
        for bytes in &noise {
            let now = fresh.now;
            fresh.server.handle_datagram(now, client, server, &mut bytes.clone());
        }
        fresh.run_for(Duration::from_secs(1));
        let got_data = fresh.server_events.iter().any(|e| matches!(e, PeerEvent::Data { .. }));
        prop_assert!(!got_data);
    }

    /// Real datagrams of a join, bent: never a panic.
    #[test]
    fn bent_datagrams_of_a_join_are_survived(seed: u64, bends in prop::collection::vec((any::<u16>(), any::<u8>()), 1..4)) {
        let mut network = Network::new(Options { seed, ..Options::default() });
        network.record = Some(Vec::new());
        network.run_until(Duration::from_secs(2), |n| n.is_joined(2));
        let record = network.record.take().unwrap();
        let mut fresh = Network::new(Options { seed, ..Options::default() });
        fresh.run_until(Duration::from_secs(1), |n| n.server.path().is_some());
        for mut bytes in record {
            for &(at, with) in &bends {
                let at = usize::from(at) % bytes.len();
                bytes[at] ^= with;
            }
            let now = fresh.now;
            fresh.server.handle_datagram(now, address(CLIENT_ADDRESS), address(SERVER_ADDRESS), &mut bytes);
        }
        fresh.run_for(Duration::from_secs(1));
    }
}
