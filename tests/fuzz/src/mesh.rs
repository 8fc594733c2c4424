//! What edges say to each other. Neighbours are authenticated, but may be of another version, broken, or taken over.

use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_cascade::link::engine::{MediaLink, PathState};
use meridian_cascade::link::hello::{Hello, Purpose};
use meridian_cascade::link::media::Nack;
use meridian_cascade::link::{MediaPacket, Priority};
use meridian_cascade::wire;
use meridian_room::{
    Identity, NewParticipant, NodeId, ParticipantSid, Room, RoomDelta, RoomInfo, RoomName, RoomSid, Track, TrackKind,
    TrackSid, TrackSource,
};
use prost::Message as _;

use crate::{joined, messages};

/// Any message that is read can be written and read again.
pub(crate) fn control(input: &[u8]) {
    if let Ok(Some(body)) = wire::decode(input) {
        // Longer only where an id was not UTF-8 minimal or a default was spelled out; never over the limit we check.
        if let Ok(again) = wire::decode(&wire::encode(body.clone())) {
            assert_eq!(again, Some(body));
        }
    }
}

pub(crate) fn message_seeds() -> Vec<Vec<u8>> {
    let bodies = [
        wire::Body::Want(wire::TrackWant {
            room: "r".into(),
            track: "TR_VCabc".into(),
            origin: "fra-1".into(),
            epoch: 3,
            layers: 0b101,
            path: vec!["sin-1".into()],
        }),
        wire::Body::Peers(wire::RoomPeers {
            room: "r".into(),
            home_region: "eu".into(),
            sid: "RM_x".into(),
            incarnation: 9,
            edges: vec![wire::RoomEdge {
                node: "iad-1".into(),
                ttl_ms: 30_000,
            }],
            to_home: true,
        }),
        wire::Body::Cast(wire::RoomCast {
            room: "r".into(),
            content: Some(wire::Content::Data(wire::Data {
                packet: Bytes::from_static(b"hello"),
                reliable: true,
                destinations: vec!["anna".into()],
            })),
            ..wire::RoomCast::default()
        }),
        wire::Body::Shed(wire::TrackShed {
            room: "r".into(),
            track: "TR_VCabc".into(),
            number: 7,
            layers: 0b100,
        }),
        wire::Body::Delta(a_delta()),
    ];
    bodies.into_iter().map(|body| wire::encode(body).to_vec()).collect()
}

/// A link's media datagrams, 3 ms apart, and everything it does about them.
pub(crate) fn datagrams(input: &[u8]) {
    let mut now = Instant::now();
    let mut link = MediaLink::new(now);
    for datagram in messages(input) {
        now += Duration::from_millis(3);
        link.handle_datagram(now, Bytes::copy_from_slice(datagram));
        let received: usize = link.take_received().iter().map(|packet| packet.payload.len()).sum();
        assert!(received <= 2 * input.len(), "nothing is delivered that did not come");
        let path = PathState {
            target_bps: 5_000_000,
            queue: Duration::ZERO,
            srtt: Duration::from_millis(90),
        };
        link.handle_timeout(now, path);
        let mut answers = 0;
        while link.poll_transmit(now, 1_200, 1 << 20).is_some() {
            answers += 1;
            assert!(answers < 4_096, "a datagram does not bring an endless answer");
        }
        while link.poll_event().is_some() {}
    }
}

pub(crate) fn datagram_seeds() -> Vec<Vec<u8>> {
    let mut link = MediaLink::new(Instant::now());
    let now = Instant::now();
    for layer in 0..3u8 {
        link.send(
            now,
            MediaPacket {
                track: 4,
                encoding: meridian_sfu::Encoding(layer),
                layer: meridian_sfu::Layer(layer),
                priority: Priority::of_video(meridian_sfu::Layer(layer)),
                keyframe: true,
                payload: Bytes::from(vec![layer; 1_190]),
            },
        );
    }
    let mut sent = Vec::new();
    while let Some(datagram) = link.poll_transmit(now, 700, 1 << 20) {
        sent.push(datagram);
    }
    let (nack, _) = Nack::of(&[3, 4, 7, 90]);
    sent.push(nack.encode());
    vec![joined(sent.iter().map(|datagram| datagram.as_ref()))]
}

pub(crate) fn hello(input: &[u8]) {
    if let Ok((hello, _)) = Hello::read(input, "fra-1") {
        assert_eq!(hello.node, "fra-1");
    }
}

pub(crate) fn hello_seeds() -> Vec<Vec<u8>> {
    [Purpose::Control, Purpose::Media]
        .map(|purpose| Hello::new("fra-1", purpose, 7, 9).encode_to_vec())
        .to_vec()
}

fn room(node: &str) -> Room {
    let info = RoomInfo::new(RoomSid::from("RM_fuzz"), 1_700_000_000_000);
    Room::new(RoomName::from("r"), NodeId::from(node), info, 1)
}

fn a_delta() -> RoomDelta {
    let now = Instant::now();
    let mut other = room("sin");
    let sid = ParticipantSid::from("PA_anna");
    let anna = NewParticipant::new(Identity::from("anna"), sid.clone());
    let track = Track::new(TrackSid::from("TR_VCabc"), TrackKind::Video, TrackSource::Camera);
    let joined = other.join(now, 1_700_000_000_000, anna).is_ok();
    let published = other.publish_track(&sid, track).is_ok();
    debug_assert!(joined && published);
    other
        .delta_since(&room("fra").digest())
        .into_iter()
        .next()
        .unwrap_or_default()
}

/// Room state from a neighbour: applied twice it is the same as once, and what we then tell others they accept.
pub(crate) fn delta(input: &[u8]) {
    let Ok(delta) = RoomDelta::decode(input) else { return };
    let now = Instant::now();
    let (mut ours, sin) = (room("fra"), NodeId::from("sin"));
    if ours.apply(now, &sin, delta.clone()).is_err() {
        return;
    }
    while ours.poll_event().is_some() {}
    let once = ours.digest();
    let _ = ours.apply(now, &sin, delta);
    assert_eq!(ours.digest(), once, "applying twice changes nothing");
    let mut third = room("iad");
    for told in ours.delta_since(&third.digest()) {
        let applied = third.apply(now, &NodeId::from("fra"), told);
        assert!(
            applied.is_ok_and(|applied| applied.rejected == 0),
            "what we hold can be passed on"
        );
    }
}

pub(crate) fn delta_seeds() -> Vec<Vec<u8>> {
    vec![a_delta().encode_to_vec()]
}
