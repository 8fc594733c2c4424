//! Clients that break the protocol, flood it or do not read.

mod support;

use livekit_protocol as proto;
use meridian_room::*;
use meridian_signalling::*;
use proptest::prelude::*;
use prost::Message;
use support::*;

#[test]
fn what_violates_the_protocol_ends_the_session_with_a_reason() {
    let cases: Vec<(Frame, &str)> = vec![
        (Frame::Binary(vec![0xff; 20].into()), "malformed binary"),
        (Frame::Text("{".into()), "malformed text"),
        (Frame::Binary(vec![0; FRAME_BYTES_MAX + 1].into()), "at most"),
        (
            Frame::Binary(
                proto::SignalRequest {
                    message: Some(Ask::Answer(Default::default())),
                }
                .encode_to_vec()
                .into(),
            ),
            "never offers",
        ),
    ];
    for (frame, text) in cases {
        let mut edge = Edge::new("fra-1");
        let (ann, bob) = (edge.connect("ann"), edge.connect("bob"));
        edge.heard(ann);
        let violation = edge.clients[ann]
            .session
            .handle(&edge.room, NOW_MS, frame)
            .expect_err("refused");
        assert!(violation.reason.contains(text), "{violation}");
        edge.pump();
        assert!(matches!(&edge.heard(ann)[..], [Say::Leave(_)]));
        assert!(edge.clients[ann].session.has_left() && !edge.clients[bob].session.has_left());
    }
    let config = SessionConfig::new("n", "r", [0; 32]);
    let mut unstarted = Session::new(config, request(), claims("ann"));
    let ping = proto::SignalRequest {
        message: Some(Ask::Ping(1)),
    }
    .encode_to_vec();
    assert!(
        unstarted
            .handle(&Edge::new("n").room, NOW_MS, Frame::Binary(ping.into()))
            .is_err()
    );
}

#[test]
fn a_flood_ends_the_session() {
    let mut edge = Edge::new("fra-1");
    let ann = edge.connect("ann");
    let ping: Frame = Frame::Binary(
        proto::SignalRequest {
            message: Some(Ask::Ping(1)),
        }
        .encode_to_vec()
        .into(),
    );
    let session = &mut edge.clients[ann].session;
    let admitted = (0..10_000)
        .take_while(|_| session.handle(&edge.room, NOW_MS, ping.clone()).is_ok())
        .count();
    assert!((1_000..5_000).contains(&admitted), "{admitted}");
}

#[test]
fn a_client_that_does_not_read_is_noticed_and_updates_merge_while_they_wait() {
    let mut edge = Edge::new("fra-1");
    let (ann, bob) = (edge.connect("ann"), edge.connect("bob"));
    let sid = edge.clients[ann].sid.clone();
    edge.heard(bob);
    let session = &mut edge.clients[bob].session;
    for i in 0..10_000 {
        let attributes = [("n".to_owned(), i.to_string())].into();
        edge.room
            .update_participant(
                &sid,
                ParticipantUpdate {
                    attributes,
                    ..Default::default()
                },
            )
            .expect("small");
        while let Some(event) = edge.room.poll_event() {
            session.on_room_event(&edge.room, &event);
        }
    }
    assert!(!session.is_overflowed());
    edge.pump();
    let heard = edge.heard(bob);
    assert_eq!(updates(&heard).len(), 1);
    let session = &mut edge.clients[bob].session;
    (0..10_000).for_each(|_| session.refresh_token(String::new()));
    assert!(session.is_overflowed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_frames_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,100}", tag in 1u32..24, flip in any::<usize>()) {
        let mut edge = Edge::new("fra-1");
        let ann = edge.connect("ann");
        // Half of the point is to get past the decoder: a valid tag around anything, and valid messages with one byte changed.
        let mut tagged = Vec::new();
        prost::encoding::encode_key(tag, prost::encoding::WireType::LengthDelimited, &mut tagged);
        prost::encoding::encode_varint(bytes.len() as u64, &mut tagged);
        tagged.extend(&bytes);
        let mut flipped = proto::SignalRequest { message: Some(Ask::AddTrack(camera("c"))) }.encode_to_vec();
        let at = flip % flipped.len();
        flipped[at] ^= (flip >> 8) as u8;
        for frame in [Frame::Binary(bytes.clone().into()), Frame::Binary(tagged.into()), Frame::Binary(flipped.into()), Frame::Text(text)] {
            let _ = edge.clients[ann].session.handle(&edge.room, NOW_MS, frame);
            let _ = edge.clients[ann].session.inspect_data(&edge.room, true, &bytes);
            edge.pump();
        }
    }
}
