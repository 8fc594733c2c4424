//! Whole calls over real sockets on loopback: the transport's client half against running media threads.

mod common;
#[path = "calls/data.rs"]
mod data;
#[path = "calls/narrow.rs"]
mod narrow;
#[path = "calls/reports.rs"]
mod reports;
#[path = "calls/shed.rs"]
mod shed;
#[path = "calls/strangers.rs"]
mod strangers;

use std::time::Duration;

use bytes::Bytes;
use common::{
    Camera, Microphone, OPUS, TestClient, VP8, World, audio_publication, subscription, video_publication, video_tag,
};
use meridian_sfu::{Codec, Demand, Layer, LayerSet, MediaKind, TrackId};
use meridian_shard::{Command, Event, PeerCloseReason, PeerId};
use meridian_transport::{Channel, CloseReason};

const AUDIO: TrackId = TrackId(1);
const VIDEO: TrackId = TrackId(2);
const AUDIO_OUT: u32 = 0xa000;
const VIDEO_OUT: u32 = 0xb000;

fn publish(world: &World, publisher: &TestClient) {
    let peer = publisher.peer;
    world.shards.send(Command::Publish {
        peer,
        track: AUDIO,
        publication: audio_publication(),
    });
    world.shards.send(Command::Publish {
        peer,
        track: VIDEO,
        publication: video_publication(),
    });
}

fn subscribe(world: &World, subscriber: &TestClient, top: Layer) {
    let peer = subscriber.peer;
    world.shards.send(Command::Subscribe {
        peer,
        track: AUDIO,
        media: subscription(AUDIO, OPUS, AUDIO_OUT),
    });
    world.shards.send(Command::Subscribe {
        peer,
        track: VIDEO,
        media: subscription(VIDEO, VP8, VIDEO_OUT),
    });
    let demand = Demand {
        max_layer: top,
        ..Demand::default()
    };
    world.shards.send(Command::SetDemand {
        peer,
        track: VIDEO,
        demand,
    });
}

/// A publisher and a subscriber in a call in which video of `top` flows.
fn call(shards: usize, top: Layer) -> (World, TestClient, TestClient, Microphone, Camera) {
    let mut world = World::new(shards);
    let (mut a, mut b) = (world.client(0), world.client(shards as u16 - 1));
    assert_eq!(b.peer.shard, shards as u16 - 1);
    publish(&world, &a);
    subscribe(&world, &b, top);
    world.connect(&mut [&mut a, &mut b]);
    let (mut microphone, mut camera) = (Microphone::new(0x11), Camera::new([0x21, 0x22, 0x23]));
    world.until(&mut [&mut a, &mut b], "media of the wanted layer", |_, clients| {
        microphone.send(clients[0]);
        let plis: usize = camera.ssrcs.iter().map(|&s| clients[0].plis(s)).sum();
        camera.send_frame(clients[0], plis > 0 || camera.frames() == 0);
        std::thread::sleep(Duration::from_millis(2));
        let video = clients[1].of_ssrc(VIDEO_OUT);
        !clients[1].of_ssrc(AUDIO_OUT).is_empty() && video.last().is_some_and(|p| video_tag(&p.payload).0 == top.0)
    });
    (world, a, b, microphone, camera)
}

fn forwards_everything_in_order(shards: usize, top: Layer) {
    let (mut world, mut a, mut b, mut microphone, mut camera) = call(shards, top);
    b.rtp.clear();
    let (first_audio, first_frame) = (microphone.next, camera.frames());
    for _ in 0..30 {
        microphone.send(&mut a);
        camera.send_frame(&mut a, false);
        std::thread::sleep(Duration::from_millis(1));
        a.turn();
        b.turn();
    }
    let (mut audio, mut video) = (Vec::new(), Vec::new());
    world.until(&mut [&mut a, &mut b], "30 audio packets and 30 frames", |_, clients| {
        let tag = |p: &[u8]| u16::from_be_bytes([p[0], p[1]]);
        audio = clients[1]
            .of_ssrc(AUDIO_OUT)
            .into_iter()
            .filter(|p| tag(&p.payload) >= first_audio)
            .cloned()
            .collect();
        let fresh = |p: &&&common::Arrived| video_tag(&p.payload).1 >= first_frame;
        video = clients[1]
            .of_ssrc(VIDEO_OUT)
            .iter()
            .filter(fresh)
            .map(|p| (*p).clone())
            .collect();
        audio.len() >= 30 && video.len() >= 120
    });
    assert_eq!((audio.len(), video.len()), (30, 120));
    for (i, packet) in video.iter().enumerate() {
        let expected = (top.0, first_frame + (i / 4) as u16, (i % 4) as u8);
        assert_eq!(video_tag(&packet.payload), expected);
        assert_eq!(packet.payload.len(), 1_000 + 10 * usize::from(top.0) + i % 4);
        assert_eq!(packet.header.marker, i % 4 == 3);
    }
    for pair in audio.windows(2).chain(video.windows(2)) {
        assert_eq!(pair[1].header.sequence, pair[0].header.sequence.wrapping_add(1));
    }
    assert_eq!(world.count(|e| matches!(e, Event::SubscriptionStarted { .. })), 2);
    assert!(world.count(|e| matches!(e, Event::MediaStarted { track: VIDEO, .. })) == 3);
    let metrics = world.shards.metrics();
    assert_eq!((metrics.peers, metrics.subscriptions), (2, 2));
    assert_eq!(
        (metrics.drop_cross_shard, metrics.drop_protect, metrics.panics),
        (0, 0, 0)
    );
    world.shards.shutdown();
}

#[test]
fn one_shard_forwards_everything_in_order() {
    forwards_everything_in_order(1, Layer::LOW);
}

#[test]
fn two_shards_forward_everything_in_order() {
    forwards_everything_in_order(2, Layer::HIGH);
}

#[test]
fn packets_of_a_frame_leave_in_one_message() {
    let (world, mut a, mut b, _, mut camera) = call(1, Layer::LOW);
    let before = world.shards.metrics();
    for _ in 0..20 {
        camera.send_frame(&mut a, false);
        std::thread::sleep(Duration::from_millis(3));
        b.turn();
    }
    let after = world.shards.metrics();
    let (packets, messages) = (
        after.packets_out - before.packets_out,
        after.send_messages - before.send_messages,
    );
    // Each frame is four packets of lengths that differ by a byte: one message (and a few of RTCP beside them).
    assert!(
        packets >= 80 && packets as f64 / messages as f64 > 2.0,
        "{packets} packets in {messages} messages"
    );
}

#[test]
fn a_subscriber_that_lost_a_packet_gets_it_as_rtx() {
    let (mut world, mut a, mut b, _, mut camera) = call(2, Layer::LOW);
    b.rtp.clear();
    camera.send_frame(&mut a, false);
    world.until(&mut [&mut a, &mut b], "a frame", |_, clients| {
        clients[1].of_ssrc(VIDEO_OUT).len() >= 4
    });
    let lost = b.of_ssrc(VIDEO_OUT)[1].clone();
    b.send_rtcp(|w| {
        w.nack(1, VIDEO_OUT, &[lost.header.sequence]);
    });
    world.until(&mut [&mut a, &mut b], "the RTX packet", |_, clients| {
        !clients[1].of_ssrc(VIDEO_OUT + 1).is_empty()
    });
    let rtx = b.of_ssrc(VIDEO_OUT + 1)[0].clone();
    assert_eq!(rtx.header.payload_type, 97);
    assert_eq!(rtx.payload[..2], lost.header.sequence.to_be_bytes());
    assert_eq!(rtx.payload[2..], lost.payload);
    assert_eq!(world.shards.metrics().retransmissions_out, 1);
}

#[test]
fn a_packet_lost_on_the_way_in_is_nacked() {
    let (mut world, mut a, mut b, _, mut camera) = call(1, Layer::LOW);
    a.rtcp.clear();
    camera.send_frame_without(&mut a, false, Some(1));
    let missing = camera.sequence(0).wrapping_sub(3);
    world.until(&mut [&mut a, &mut b], "a NACK", |_, clients| {
        clients[0].nacked(0x21).contains(&missing)
    });
}

#[test]
fn a_pli_reaches_the_publisher_once() {
    let (mut world, mut a, mut b, _, mut camera) = call(2, Layer::LOW);
    // Let the requests of the beginning pass their limiter.
    std::thread::sleep(Duration::from_millis(600));
    a.turn();
    a.rtcp.clear();
    for _ in 0..10 {
        b.send_rtcp(|w| {
            w.pli(1, VIDEO_OUT);
        });
    }
    world.until(&mut [&mut a, &mut b], "a PLI", |_, clients| clients[0].plis(0x21) > 0);
    std::thread::sleep(Duration::from_millis(50));
    a.turn();
    assert_eq!(a.plis(0x21), 1);
    camera.send_frame(&mut a, true);
}

#[test]
fn data_reaches_the_node_and_the_peers_it_names() {
    let mut world = World::new(2);
    let (mut a, mut b) = (world.client(0), world.client(1));
    world.connect(&mut [&mut a, &mut b]);
    a.client
        .send_data(std::time::Instant::now(), Channel::Reliable, b"hello", true)
        .expect("channel is open");
    let from = a.peer;
    world.until(&mut [&mut a, &mut b], "the message", |world, _| {
        world.count(|e| matches!(e, Event::Data { peer, payload, channel: Channel::Reliable, .. } if *peer == from && payload == "hello")) == 1
    });
    let peers = vec![a.peer, b.peer];
    world.shards.send(Command::SendData {
        peers,
        channel: Channel::Lossy,
        payload: Bytes::from_static(b"to all"),
    });
    world.until(&mut [&mut a, &mut b], "the answer", |_, clients| {
        clients.iter().all(|c| c.data.len() == 1)
    });
    assert_eq!(a.data[0], (Channel::Lossy, Bytes::from_static(b"to all")));
}

#[test]
fn a_client_that_changes_its_address_keeps_its_call() {
    let (mut world, mut a, mut b, mut microphone, _) = call(1, Layer::LOW);
    b.move_away();
    a.move_away();
    b.rtp.clear();
    world.until(&mut [&mut a, &mut b], "audio at the new address", |_, clients| {
        microphone.send(clients[0]);
        clients[1].of_ssrc(AUDIO_OUT).len() > 5
    });
    assert_eq!(world.count(|e| matches!(e, Event::PeerClosed { .. })), 0);
    // What a transport counted is in the metrics by the time it is gone, at the latest.
    for peer in [a.peer, b.peer] {
        world.shards.send(Command::RemovePeer { peer });
    }
    world.until(&mut [], "both moves counted", |world, _| {
        world.shards.metrics().transport_path_moves == 2
    });
}

#[test]
fn a_client_that_leaves_is_reported_and_forgotten() {
    let (mut world, mut a, mut b, _, _) = call(2, Layer::LOW);
    b.client.close(std::time::Instant::now());
    let gone = b.peer;
    world.until(&mut [&mut a, &mut b], "the farewell", |world, _| {
        world.count(|e| {
            matches!(e, Event::PeerClosed { peer, reason } if *peer == gone
                && *reason == meridian_shard::PeerCloseReason::Transport(CloseReason::ClosedByPeer))
        }) == 1
            && world.shards.metrics().peers == 1
            && world.shards.metrics().subscriptions == 0
    });
    // The publisher's removal, by command, brings no event.
    world.shards.send(Command::RemovePeer { peer: a.peer });
    world.until(&mut [&mut a], "an empty house", |world, _| {
        world.shards.metrics().peers == 0
    });
    assert_eq!(world.count(|e| matches!(e, Event::PeerClosed { .. })), 1);
}

#[test]
fn a_muted_track_is_silent_until_it_is_not() {
    let (mut world, mut a, mut b, mut microphone, _) = call(2, Layer::LOW);
    world.shards.send(Command::SetMuted {
        track: AUDIO,
        muted: true,
    });
    std::thread::sleep(Duration::from_millis(20));
    b.turn();
    b.rtp.clear();
    for _ in 0..10 {
        microphone.send(&mut a);
    }
    std::thread::sleep(Duration::from_millis(30));
    b.turn();
    assert_eq!(b.of_ssrc(AUDIO_OUT).len(), 0);
    world.shards.send(Command::SetMuted {
        track: AUDIO,
        muted: false,
    });
    world.until(&mut [&mut a, &mut b], "audio again", |_, clients| {
        microphone.send(clients[0]);
        clients[1].of_ssrc(AUDIO_OUT).len() > 3
    });
}

#[test]
fn what_is_tapped_here_can_be_fed_into_another_edge() {
    let (mut world, mut a, mut b, mut microphone, mut camera) = call(1, Layer::LOW);
    let mut far = World::new(2);
    let mut c = far.client(1);
    far.shards.send(Command::AddRemoteTrack {
        track: AUDIO,
        kind: MediaKind::Audio,
        codec: Codec::Opus,
        layers: 1,
    });
    far.shards.send(Command::AddRemoteTrack {
        track: VIDEO,
        kind: MediaKind::Video,
        codec: Codec::Vp8,
        layers: 3,
    });
    subscribe(&far, &c, Layer::LOW);
    far.connect(&mut [&mut c]);
    world.shards.send(Command::Tap {
        track: AUDIO,
        consumer: meridian_shard::TapConsumer::Mesh,
        layers: LayerSet::up_to(Layer::LOW),
    });
    world.shards.send(Command::Tap {
        track: VIDEO,
        consumer: meridian_shard::TapConsumer::Mesh,
        layers: LayerSet::up_to(Layer::LOW),
    });

    // Beside the mesh, a recorder takes what it wants of the same track.
    world.shards.send(Command::Tap {
        track: AUDIO,
        consumer: meridian_shard::TapConsumer::Recorder,
        layers: LayerSet::up_to(Layer::LOW),
    });
    let (mut crossed, mut recorded) = (0, 0);

    far.until(&mut [&mut a, &mut b, &mut c], "media two edges away", |far, clients| {
        microphone.send(clients[0]);
        // The far subscriber's request for a keyframe would travel the link; the publisher answers it.
        let wanted = far.count(|e| {
            matches!(
                e,
                Event::KeyframeWanted {
                    track: VIDEO,
                    layer: Layer::LOW
                }
            )
        }) > 0;
        camera.send_frame(clients[0], wanted);
        std::thread::sleep(Duration::from_millis(2));
        while let Ok(batch) = world.recorder.try_recv() {
            assert!(batch.packets.iter().all(|tapped| tapped.track == AUDIO));
            recorded += batch.packets.len();
        }
        while let Ok(batch) = world.taps.try_recv() {
            for meridian_shard::Tapped {
                track, layer, packet, ..
            } in batch.packets
            {
                assert_eq!(layer, Layer::LOW);
                crossed += usize::from(track == AUDIO);
                let packets = vec![Bytes::copy_from_slice(packet.link_bytes())];
                far.shards.send(Command::RemoteMedia {
                    track,
                    encoding: packet.encoding,
                    layer,
                    packets,
                });
            }
        }
        clients[2].of_ssrc(VIDEO_OUT).len() > 8 && clients[2].of_ssrc(AUDIO_OUT).len() > 8
    });
    assert!(
        crossed > 8 && recorded >= crossed - 1,
        "{recorded} recorded, {crossed} crossed"
    );
    assert_eq!(far.count(|e| matches!(e, Event::MediaStarted { .. })), 2);
    let video = c.of_ssrc(VIDEO_OUT);
    for pair in video.windows(2) {
        assert_eq!(pair[1].header.sequence, pair[0].header.sequence.wrapping_add(1));
    }
}

#[test]
fn a_subscription_may_come_before_its_track_and_outlive_it() {
    let mut world = World::new(2);
    let (mut a, mut b) = (world.client(0), world.client(1));
    world.connect(&mut [&mut a, &mut b]);
    world.shards.send(Command::Subscribe {
        peer: b.peer,
        track: AUDIO,
        media: subscription(AUDIO, OPUS, AUDIO_OUT),
    });
    for round in 0..2u32 {
        b.rtp.clear();
        world.shards.send(Command::Publish {
            peer: a.peer,
            track: AUDIO,
            publication: audio_publication(),
        });
        let mut microphone = Microphone::new(0x11 + round);
        world.until(&mut [&mut a, &mut b], "audio of this round", |_, clients| {
            microphone.send(clients[0]);
            clients[1].of_ssrc(AUDIO_OUT).len() > 3
        });
        world.shards.send(Command::Unpublish { track: AUDIO });
        // The node hears of the end by itself; what matters here is that packets in flight find nobody.
        std::thread::sleep(Duration::from_millis(20));
        a.turn();
        b.turn();
    }
}

#[test]
fn speech_and_statistics_are_reported() {
    let (mut world, mut a, mut b, mut microphone, _) = call(1, Layer::LOW);
    world.until(
        &mut [&mut a, &mut b],
        "a speaker and two peers' statistics",
        |world, clients| {
            microphone.send(clients[0]);
            std::thread::sleep(Duration::from_millis(5));
            let speaking =
                |e: &Event| matches!(e, Event::AudioLevels(l) if l.iter().any(|(t, v)| *t == AUDIO && *v > 0.0));
            world.count(speaking) > 0
                && world.count(|e| matches!(e, Event::PeerStats { stats, .. } if stats.bitrate_up_bps > 0)) > 0
                && world.count(|e| matches!(e, Event::PeerStats { stats, .. } if stats.bitrate_down_bps > 0)) > 0
        },
    );
}

#[test]
fn every_advertised_address_of_a_wildcard_socket_works_and_so_does_ipv6() {
    // The kernel would answer from 127.0.0.1: a client that asked 127.0.0.5 hears only that address.
    let mut world = World::bound_to(2, &["0.0.0.0:0", "[::1]:0"], &["127.0.0.1", "127.0.0.5", "::1"]);
    let mut clients: Vec<TestClient> = (0..3).map(|candidate| world.client_via(1, candidate)).collect();
    let [publisher, near, far] = &mut clients[..] else {
        unreachable!("three were made")
    };
    assert!(far.server.is_ipv6() && near.server.ip().to_string() == "127.0.0.5");
    world.shards.send(Command::Publish {
        peer: publisher.peer,
        track: AUDIO,
        publication: audio_publication(),
    });
    for client in [&*near, &*far] {
        let media = subscription(AUDIO, OPUS, AUDIO_OUT);
        world.shards.send(Command::Subscribe {
            peer: client.peer,
            track: AUDIO,
            media,
        });
    }
    world.connect(&mut [publisher, near, far]);
    let mut microphone = Microphone::new(0x11);
    world.until(&mut [publisher, near, far], "audio over both families", |_, clients| {
        microphone.send(clients[0]);
        clients[1..].iter().all(|c| c.of_ssrc(AUDIO_OUT).len() > 3)
    });
}

#[test]
fn a_restart_of_ice_keeps_the_call() {
    let (mut world, mut a, mut b, mut microphone, _) = call(1, Layer::LOW);
    let (ours, theirs) = world.credentials();
    world.shards.send(Command::RestartIce {
        peer: b.peer,
        local: ours.clone(),
        remote: theirs.clone(),
    });
    b.client.restart_ice(std::time::Instant::now(), theirs, ours);
    b.move_away();
    b.rtp.clear();
    world.until(&mut [&mut a, &mut b], "audio after the restart", |_, clients| {
        microphone.send(clients[0]);
        clients[1].of_ssrc(AUDIO_OUT).len() > 5
    });
    assert_eq!(world.count(|e| matches!(e, Event::PeerConnected { .. })), 2);
}

#[test]
fn a_track_whose_publisher_came_back_as_another_peer_keeps_its_subscribers() {
    // The publisher's old peer is on shard 0, beside one subscriber; the new one is on shard 1, beside the other.
    let (mut world, mut a, mut b, _, _) = call(2, Layer::LOW);
    let (mut c, mut back) = (world.client(0), world.client(1));
    world.shards.send(Command::Subscribe {
        peer: c.peer,
        track: AUDIO,
        media: subscription(AUDIO, OPUS, AUDIO_OUT),
    });
    world.connect(&mut [&mut a, &mut b, &mut c, &mut back]);
    world.shards.send(Command::Publish {
        peer: back.peer,
        track: AUDIO,
        publication: audio_publication(),
    });
    world.shards.send(Command::RemovePeer { peer: a.peer });
    b.rtp.clear();
    let mut microphone = Microphone::new(0x99);
    world.until(
        &mut [&mut b, &mut c, &mut back],
        "audio of the new peer",
        |_, clients| {
            microphone.send(clients[2]);
            clients[..2].iter().all(|client| client.of_ssrc(AUDIO_OUT).len() > 5)
        },
    );
}

#[test]
fn a_publish_of_a_peer_that_is_gone_does_no_harm() {
    let mut world = World::new(2);
    let (mut a, mut b) = (world.client(0), world.client(1));
    let ghost = world.shards.allocate_peer_on(1);
    world.shards.send(Command::Subscribe {
        peer: b.peer,
        track: AUDIO,
        media: subscription(AUDIO, OPUS, AUDIO_OUT),
    });
    world.shards.send(Command::Publish {
        peer: ghost,
        track: AUDIO,
        publication: audio_publication(),
    });
    world.connect(&mut [&mut a, &mut b]);
    world.shards.send(Command::Publish {
        peer: a.peer,
        track: AUDIO,
        publication: audio_publication(),
    });
    let mut microphone = Microphone::new(0x11);
    world.until(&mut [&mut a, &mut b], "audio", |_, clients| {
        microphone.send(clients[0]);
        clients[1].of_ssrc(AUDIO_OUT).len() > 3
    });
}
