//! Reliable data: a burst arrives whole, because whoever sends it is held back.

use super::*;

const MESSAGES: usize = 400;
const MESSAGE_LEN: usize = 15_000;

/// What a room does: passes on, and lets senders wait while the receiver's queue is full. Returns how often it was.
fn relay(world: &mut World, from: PeerId, to: PeerId, handled: &mut usize) -> usize {
    let mut full_before = 0;
    while let Some(event) = world.seen.get(*handled).cloned() {
        *handled += 1;
        match event {
            Event::Data {
                peer, channel, payload, ..
            } if peer == from => world.shards.send(Command::SendData {
                peers: vec![to],
                channel,
                payload,
            }),
            Event::DataQueue { peer, full } => {
                assert_eq!(peer, to);
                full_before += usize::from(full);
                world.shards.send(Command::HoldData { peer: from, held: full });
            }
            _ => {}
        }
    }
    full_before
}

fn burst(client: &mut TestClient) {
    for n in 0..MESSAGES {
        let mut message = vec![n as u8; MESSAGE_LEN];
        message[..2].copy_from_slice(&(n as u16).to_be_bytes());
        client
            .client
            .send_data(std::time::Instant::now(), Channel::Reliable, &message, true)
            .unwrap();
    }
}

#[test]
fn a_burst_of_six_megabytes_arrives_whole_and_in_order() {
    let (mut world, mut a, mut b, ..) = call(2, Layer::LOW);
    burst(&mut a);
    let (from, to) = (a.peer, b.peer);
    let (mut handled, mut pauses) = (0, 0);
    let began = std::time::Instant::now();
    while b.data.len() < MESSAGES && began.elapsed() < std::time::Duration::from_secs(60) {
        a.turn();
        b.turn();
        while let Ok(event) = world.events.try_recv() {
            world.seen.push(event);
        }
        pauses += relay(&mut world, from, to, &mut handled);
    }
    let order: Vec<u16> = b
        .data
        .iter()
        .map(|(_, data)| u16::from_be_bytes([data[0], data[1]]))
        .collect();
    assert_eq!(order, (0..MESSAGES as u16).collect::<Vec<u16>>());
    assert!(b.data.iter().all(|(_, data)| data.len() == MESSAGE_LEN));
    println!("{} ms, {pauses} pauses", began.elapsed().as_millis());
}

#[test]
fn a_client_that_takes_nothing_is_closed_when_its_queue_is_full() {
    let (mut world, mut a, mut b, ..) = call(1, Layer::LOW);
    let peer = b.peer;
    let payload = Bytes::from(vec![7; 60_000]);
    for _ in 0..200 {
        world.shards.send(Command::SendData {
            peers: vec![peer],
            channel: Channel::Reliable,
            payload: payload.clone(),
        });
    }
    world.until(&mut [&mut a], "the end of who does not read", |world, _| {
        world.seen.iter().any(|event| {
            matches!(event, Event::PeerClosed { peer: closed, reason: PeerCloseReason::DataQueueFull } if *closed == peer)
        })
    });
    assert_eq!(
        world.count(|event| matches!(event, Event::DataQueue { full: true, .. })),
        1
    );
    assert_eq!(world.shards.metrics().data_queues_full, 1);
    b.turn();
}
