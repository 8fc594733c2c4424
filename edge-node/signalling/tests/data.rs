//! Data packets: stamped, addressed, otherwise untouched.

mod support;

use livekit_protocol as proto;
use meridian_room::*;
use meridian_signalling::data::{DATA_BYTES_MAX, Relay};
use proptest::prelude::*;
use prost::Message;
use proto::data_packet::Value;
use support::*;

fn send(edge: &mut Edge, client: usize, reliable: bool, packet: &proto::DataPacket) -> Option<Relay> {
    let bytes = packet.encode_to_vec();
    edge.clients[client]
        .session
        .inspect_data(&edge.room, reliable, &bytes)
        .expect("valid")
}

fn chat(text: &str) -> proto::DataPacket {
    let chunk = proto::data_stream::Chunk {
        stream_id: "lk.chat".into(),
        content: text.into(),
        ..Default::default()
    };
    proto::DataPacket {
        value: Some(Value::StreamChunk(chunk)),
        ..Default::default()
    }
}

#[test]
fn the_sender_is_stamped_over_whatever_the_packet_claims() {
    let mut edge = Edge::new("fra-1");
    let ann = edge.connect("ann");
    let packet = proto::DataPacket {
        participant_identity: "bob".into(),
        participant_sid: "PA_bob".into(),
        sequence: 3,
        ..chat("hi")
    };
    let relay = send(&mut edge, ann, true, &packet).expect("relayed");
    let got = proto::DataPacket::decode(relay.bytes).expect("valid");
    assert_eq!(
        (got.participant_identity.as_str(), got.participant_sid.as_str()),
        ("ann", edge.clients[ann].sid.as_str())
    );
    assert_eq!((got.sequence, got.value), (3, packet.value));
    assert_eq!((relay.destinations, relay.reliable, relay.sequence), (None, true, 3));
}

#[test]
#[allow(deprecated)] // older clients address inside UserPacket
fn user_packets_are_stamped_inside_and_legacy_destinations_count() {
    let mut edge = Edge::new("fra-1");
    let (ann, bob) = (edge.connect("ann"), edge.connect("bob"));
    let bob_sid = edge.clients[bob].sid.as_str().to_owned();
    let user = proto::UserPacket {
        participant_sid: "PA_lie".into(),
        payload: b"x".to_vec(),
        destination_sids: vec![bob_sid, "PA_nobody".into()],
        destination_identities: vec!["cid".into()],
        topic: Some("t".into()),
        ..Default::default()
    };
    let packet = proto::DataPacket {
        destination_identities: vec!["dan".into(), "cid".into()],
        value: Some(Value::User(user)),
        ..Default::default()
    };
    let relay = send(&mut edge, ann, false, &packet).expect("relayed");
    assert_eq!(
        relay.destinations,
        Some(["bob", "cid", "dan"].map(Identity::from).to_vec())
    );
    let got = proto::DataPacket::decode(relay.bytes).expect("valid");
    let Some(Value::User(user)) = got.value else { panic!() };
    assert_eq!(
        (
            user.participant_identity.as_str(),
            user.payload.as_slice(),
            user.topic.as_deref()
        ),
        ("ann", &b"x"[..], Some("t"))
    );
    assert_eq!(user.participant_sid, edge.clients[ann].sid.as_str());
    // Addressed to somebody who is gone: to nobody, not to everybody.
    let user = proto::UserPacket {
        destination_sids: vec!["PA_gone".into()],
        ..Default::default()
    };
    let packet = proto::DataPacket {
        value: Some(Value::User(user)),
        ..Default::default()
    };
    assert_eq!(
        send(&mut edge, ann, false, &packet).and_then(|r| r.destinations),
        Some(vec![])
    );
}

#[test]
fn fields_from_the_future_pass_unchanged() {
    let mut edge = Edge::new("fra-1");
    let ann = edge.connect("ann");
    let mut bytes = chat("hi").encode_to_vec();
    let future = [0xfa, 0x07, 3, b'n', b'e', b'w']; // field 127, length-delimited
    bytes.extend(future);
    let relay = edge.clients[ann]
        .session
        .inspect_data(&edge.room, true, &bytes)
        .expect("valid")
        .expect("relayed");
    assert!(relay.bytes.windows(future.len()).any(|w| w == future));
}

#[test]
fn repeated_reliable_packets_are_dropped_and_lossy_ones_are_not_numbered() {
    let mut edge = Edge::new("fra-1");
    let ann = edge.connect("ann");
    let numbered = |sequence| proto::DataPacket { sequence, ..chat("x") };
    let passed: Vec<u32> = [1, 2, 2, 1, 3, 5, 4]
        .into_iter()
        .filter(|&n| send(&mut edge, ann, true, &numbered(n)).is_some())
        .collect();
    assert_eq!(passed, [1, 2, 3, 5]);
    assert!(send(&mut edge, ann, false, &numbered(0)).is_some() && send(&mut edge, ann, false, &numbered(0)).is_some());
}

#[test]
#[allow(deprecated)]
fn grants_sizes_and_server_only_kinds_are_enforced() {
    let mut edge = Edge::new("fra-1");
    let mut silent = claims("ann");
    silent.video.as_mut().expect("grants").can_publish_data = Some(false);
    let ann = edge.connect_with(silent, request());
    assert_eq!(send(&mut edge, ann, true, &chat("x")), None);
    let bob = edge.connect("bob");
    let speaker = proto::DataPacket {
        value: Some(Value::Speaker(Default::default())),
        ..Default::default()
    };
    assert_eq!(send(&mut edge, bob, true, &speaker), None);
    assert_eq!(send(&mut edge, bob, true, &proto::DataPacket::default()), None);
    let huge = chat(&"x".repeat(DATA_BYTES_MAX)).encode_to_vec();
    assert!(edge.clients[bob].session.inspect_data(&edge.room, true, &huge).is_err());
    assert!(
        edge.clients[bob]
            .session
            .inspect_data(&edge.room, true, &[0x12, 0x7f])
            .is_err()
    );
}

proptest! {
    #[test]
    fn a_valid_packet_stays_valid_and_an_invalid_one_never_passes(bytes in prop::collection::vec(any::<u8>(), 0..80), text in ".{0,40}", cut in 0usize..60) {
        let mut edge = Edge::new("fra-1");
        let ann = edge.connect("ann");
        let mut mixed = chat(&text).encode_to_vec();
        mixed.truncate(cut);
        mixed.extend(&bytes);
        for input in [bytes, mixed] {
            let session = &mut edge.clients[ann].session;
            match session.inspect_data(&edge.room, false, &input) {
                Ok(Some(relay)) => {
                    let got = proto::DataPacket::decode(relay.bytes).expect("still valid");
                    prop_assert_eq!(got.participant_identity.as_str(), "ann");
                }
                Ok(None) => {}
                Err(_) => {}
            }
        }
    }
}
