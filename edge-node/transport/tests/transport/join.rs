use std::time::Duration;

use meridian_transport::{CloseReason, DtlsRole, Fingerprint, PeerEvent, SrtpProfile};

use crate::network::{CLIENT_ADDRESS, Network, Options, SERVER_ADDRESS, address};

#[test]
fn a_client_joins_and_both_sides_say_so_in_order() {
    let network = Network::joined(Options::default());
    let [first, second, ..] = &network.server_events[..] else {
        panic!("{:?}", network.server_events)
    };
    assert_eq!(
        *first,
        PeerEvent::PathChanged {
            local: address(SERVER_ADDRESS),
            remote: address(CLIENT_ADDRESS)
        }
    );
    let PeerEvent::Connected { profile } = second else {
        panic!("{second:?}")
    };
    assert_eq!(*profile, SrtpProfile::AeadAes256Gcm, "the client offers AEAD");
    assert!(
        network
            .client_events
            .contains(&PeerEvent::Connected { profile: *profile })
    );
    assert!(
        network.elapsed() < Duration::from_millis(400),
        "joined after {:?}",
        network.elapsed()
    );
    let stats = network.server.stats();
    assert_eq!(stats, Default::default(), "nothing was dropped");
}

#[test]
fn a_client_joins_over_ipv6() {
    let addresses = ("[2001:db8::1]:7000", "[2001:db8::7]:50000");
    let network = Network::joined(Options {
        addresses,
        ..Options::default()
    });
    assert_eq!(network.server.path().unwrap().remote, address(addresses.1));
}

#[test]
fn a_client_without_data_channels_costs_no_sctp() {
    let network = Network::joined(Options {
        channels: vec![],
        ..Options::default()
    });
    assert!(network.server.is_connected());
}

#[test]
fn a_client_that_waits_for_the_hello_gets_it_with_its_first_check_and_joins_at_loss() {
    let waiting = |seed, loss| Options {
        seed,
        loss,
        channels: vec![],
        role: DtlsRole::Client,
        ..Options::default()
    };
    let network = Network::joined(waiting(1, 0.0));
    assert!(
        network.elapsed() < Duration::from_millis(400),
        "joined after {:?}",
        network.elapsed()
    );
    for seed in 0..20 {
        Network::joined(waiting(seed, 0.2));
    }
}

#[test]
fn forty_of_forty_join_at_twenty_percent_loss() {
    let mut keyed: Vec<Duration> = Vec::new();
    for seed in 0..40 {
        let network = Network::joined(Options {
            seed,
            loss: 0.2,
            ..Options::default()
        });
        keyed.push(network.connected_at.unwrap() - network.start);
    }
    keyed.sort();
    assert!(
        keyed[20] < Duration::from_secs(1),
        "half the joins have media after {:?}",
        keyed[20]
    );
    assert!(
        keyed[39] < Duration::from_secs(8),
        "the slowest join has media after {:?}",
        keyed[39]
    );
}

#[test]
fn forty_of_forty_join_at_twenty_percent_loss_and_high_latency() {
    for seed in 100..140 {
        let latency = Duration::from_millis(150);
        Network::joined(Options {
            seed,
            loss: 0.2,
            latency,
            channels: vec![],
            ..Options::default()
        });
    }
}

#[test]
fn another_certificate_than_the_signalled_one_is_refused() {
    let mut network = Network::new(Options {
        fingerprint: Some(Fingerprint([7; 32])),
        ..Options::default()
    });
    let closed = PeerEvent::Closed(CloseReason::FingerprintMismatch);
    assert!(network.run_until(Duration::from_secs(5), |n| n.server_events.contains(&closed)));
    assert!(!network.server.is_connected());
    assert!(network.server.srtp().is_none());
}
