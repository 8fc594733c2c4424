use std::time::Duration;

use meridian_transport::{Channel, MAX_MESSAGE_LEN, PeerEvent, SendDataError};

use crate::network::{Network, Options};

fn echo(channel: Channel, loss: f64, messages: Vec<(Vec<u8>, bool)>) -> Network {
    let mut network = Network::joined(Options {
        loss,
        ..Options::default()
    });
    for (payload, binary) in &messages {
        network
            .client
            .send_data(network.now, channel, payload, *binary)
            .unwrap();
    }
    network.run_until(Duration::from_secs(60), |n| n.server_data().len() == messages.len());
    for (channel, payload, binary) in network.server_data() {
        network
            .server
            .send_data(network.now, channel, &payload, binary)
            .unwrap();
    }
    network.run_until(Duration::from_secs(60), |n| n.client_data().len() == messages.len());
    network
}

#[test]
fn every_message_of_the_reliable_channel_is_echoed_in_order() {
    let mut messages: Vec<_> = (0..50u8)
        .map(|i| (vec![i; 1 + 200 * usize::from(i)], i % 2 == 0))
        .collect();
    messages.push((Vec::new(), true));
    messages.push((Vec::new(), false));
    messages.push((vec![9; MAX_MESSAGE_LEN], true));
    let expected: Vec<_> = messages
        .iter()
        .cloned()
        .map(|(payload, binary)| (Channel::Reliable, payload, binary))
        .collect();
    let network = echo(Channel::Reliable, 0.0, messages);
    assert!(
        network.client_data() == expected,
        "{} of {} echoed",
        network.client_data().len(),
        expected.len()
    );
}

#[test]
fn the_reliable_channel_survives_ten_percent_loss() {
    let messages: Vec<_> = (0..40u8).map(|i| (vec![i; 900], true)).collect();
    let expected: Vec<_> = messages
        .iter()
        .cloned()
        .map(|(payload, binary)| (Channel::Reliable, payload, binary))
        .collect();
    let network = echo(Channel::Reliable, 0.1, messages);
    assert!(
        network.client_data() == expected,
        "{} of {} echoed",
        network.client_data().len(),
        expected.len()
    );
}

#[test]
fn the_lossy_channel_echoes_what_is_not_lost() {
    let messages: Vec<_> = (0..30u8).map(|i| (vec![i; 300], true)).collect();
    let network = echo(Channel::Lossy, 0.0, messages.clone());
    assert_eq!(network.client_data().len(), 30);
    let network = echo(Channel::Lossy, 0.3, messages);
    assert!(
        network.client_data().len() < 30,
        "no retransmission on the lossy channel"
    );
}

#[test]
fn a_channel_nobody_opened_takes_nothing() {
    let mut network = Network::joined(Options {
        channels: vec![Channel::Reliable],
        ..Options::default()
    });
    let now = network.now;
    assert_eq!(
        network.server.send_data(now, Channel::Lossy, b"x", true),
        Err(SendDataError::NotOpen)
    );
    let large = vec![0; MAX_MESSAGE_LEN + 1];
    let error = SendDataError::TooLarge {
        len: MAX_MESSAGE_LEN + 1,
    };
    assert_eq!(
        network.server.send_data(now, Channel::Reliable, &large, true),
        Err(error)
    );
}

#[test]
fn a_client_that_does_not_read_fills_its_queue_and_no_more() {
    let mut network = Network::joined(Options::default());
    network.loss = 1.0;
    let mut taken = 0;
    let error = loop {
        match network
            .server
            .send_data(network.now, Channel::Reliable, &[0; 10_000], true)
        {
            Ok(()) => taken += 10_000,
            Err(error) => break error,
        }
        assert!(taken < 10_000_000);
    };
    assert_eq!(error, SendDataError::QueueFull);
    assert!(taken <= 8 << 20);
    network.loss = 0.0;
    let arrived = |n: &Network| {
        n.client_events
            .iter()
            .filter(|e| matches!(e, PeerEvent::Data { .. }))
            .count()
    };
    assert!(network.run_until(Duration::from_secs(300), |n| arrived(n) == taken / 10_000));
    network
        .server
        .send_data(network.now, Channel::Reliable, b"room again", true)
        .unwrap();
}

#[test]
fn a_burst_of_messages_from_the_client_arrives_whole() {
    let mut network = Network::joined(Options::default());
    for i in 0..40u8 {
        network
            .client
            .send_data(network.now, Channel::Reliable, &[i; 12_000], true)
            .unwrap();
    }
    assert!(network.run_until(Duration::from_secs(20), |n| n.server_data().len() == 40));
    assert!(!network.server_events.iter().any(|e| matches!(e, PeerEvent::Closed(_))));
}

#[test]
fn minutes_of_lossy_messages_leave_the_channels_open() {
    let mut network = Network::joined(Options::default());
    network.loss = 0.1;
    let mut refused = 0;
    for i in 0..8_000u32 {
        let payload = i.to_be_bytes();
        refused += u32::from(
            network
                .client
                .send_data(network.now, Channel::Lossy, &payload, true)
                .is_err(),
        );
        if i % 40 == 0 {
            // What waits here has to arrive whatever is abandoned around it.
            network
                .client
                .send_data(network.now, Channel::Reliable, &payload, true)
                .unwrap();
        }
        network.run_for(Duration::from_millis(10));
    }
    network.loss = 0.0;
    network.run_for(Duration::from_secs(60));
    let data = network.server_data();
    let count = |channel| data.iter().filter(|(c, ..)| *c == channel).count();
    assert_eq!(count(Channel::Reliable), 200);
    assert_eq!(refused, 0);
    assert!(
        count(Channel::Lossy) > 4_000,
        "{} lossy messages arrived",
        count(Channel::Lossy)
    );
    assert_eq!(network.server.stats().sctp_refused, 0);
}

#[test]
fn a_client_whose_reliable_data_is_held_back_waits_and_loses_nothing() {
    let mut network = Network::joined(Options::default());
    let arrived = |n: &Network| {
        n.server_events
            .iter()
            .filter(|e| matches!(e, PeerEvent::Data { .. }))
            .count()
    };
    for held in [Duration::from_millis(300), Duration::from_secs(100)] {
        let before = arrived(&network);
        network.server.hold_data(network.now, true);
        for i in 0..100u8 {
            let now = network.now;
            network
                .client
                .send_data(now, Channel::Reliable, &[i; 12_000], true)
                .unwrap();
        }
        network.run_for(held);
        assert_eq!(arrived(&network), before, "nothing is taken");
        network.server.hold_data(network.now, false);
        let released = network.now;
        assert!(network.run_until(Duration::from_secs(60), |n| arrived(n) == before + 100));
        let took = network.now - released;
        assert!(took < Duration::from_secs(3), "after {held:?} the rest took {took:?}");
        let order: Vec<u8> = network.server_data()[before..]
            .iter()
            .map(|(_, payload, _)| payload[0])
            .collect();
        assert_eq!(order, (0..100).collect::<Vec<u8>>());
    }
    assert_eq!(network.server.stats().sctp_refused, 0);
}
