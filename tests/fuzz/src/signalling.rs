//! What clients send before and on the signalling socket, and in HTTP headers.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use bytes::Bytes;
use meridian_access::network::{Network, client_address, limit_key};
use meridian_access::token::{Claims, KeyRing, mint, verify_at};
use meridian_room::{Identity, NewParticipant, NodeId, ParticipantSid, Room, RoomInfo, RoomName, RoomSid};
use meridian_signalling::proto::{self, signal_request::Message as Ask};
use meridian_signalling::{Action, ConnectRequest, Frame, Knock, Session, SessionConfig};
use prost::Message as _;

use crate::{joined, messages};

const KEY: &str = "devkey";
const SECRET: &str = "a secret of at least thirty-two characters";
const NOW_MS: i64 = 1_700_000_000_000;

/// The query of `GET /rtc/v1?…`.
pub(crate) fn connect(input: &[u8]) {
    let Ok(query) = std::str::from_utf8(input) else { return };
    match Knock::parse("/rtc/v1", query, None).and_then(Knock::open) {
        Ok(request) => assert!(!request.token.is_empty(), "no token, no request"),
        Err(refusal) => assert!((400..=499).contains(&refusal.status) && !refusal.text.is_empty()),
    }
}

pub(crate) fn connect_seeds() -> Vec<Vec<u8>> {
    [
        "access_token=abc",
        "access_token=abc&join_request=CgA&sid=PA_1&reconnect=1",
        "access_token=a%20b&join_request=H4sIAAAAAAAA",
    ]
    .map(|query| query.as_bytes().to_vec())
    .to_vec()
}

/// A session in a room with somebody else, and its client's frames: text if the first byte is odd.
pub(crate) fn frames(input: &[u8]) {
    let now = Instant::now();
    let info = RoomInfo::new(RoomSid::from("RM_fuzz"), NOW_MS);
    let mut room = Room::new(RoomName::from("r"), NodeId::from("fra"), info, 1);
    let other = NewParticipant::new(Identity::from("bert"), ParticipantSid::from("PA_bert"));
    assert!(room.join(now, NOW_MS, other).is_ok());
    let mut session = Session::new(
        SessionConfig::new("fra", "fra".to_owned(), [7; 32]),
        ConnectRequest::default(),
        Claims::join("anna", "Anna", "r"),
    );
    let sid = ParticipantSid::from("PA_anna");
    assert!(room.join(now, NOW_MS, session.new_participant(sid.clone())).is_ok());
    session.start(&room, &sid);
    for message in messages(input) {
        let frame = match (message.first(), std::str::from_utf8(message)) {
            (Some(first), Ok(text)) if first % 2 == 1 => Frame::Text(text.to_owned()),
            _ => Frame::Binary(Bytes::copy_from_slice(message)),
        };
        match session.handle(&room, NOW_MS, frame) {
            Ok(actions) => carry_out(&mut room, &sid, actions),
            Err(_) => return,
        }
        while let Some(event) = room.poll_event() {
            session.on_room_event(&room, &event);
        }
        let mut frames = 0;
        while session.poll_frame().is_some() {
            frames += 1;
            assert!(frames < 1_000, "a request does not bring an endless answer");
        }
    }
    assert!(
        room.participant(&Identity::from("bert")).is_some(),
        "nobody else is harmed"
    );
}

fn carry_out(room: &mut Room, sid: &ParticipantSid, actions: Vec<Action>) {
    for action in actions {
        // A refusal is an answer, too; only a panic would be wrong.
        let _ = match action {
            Action::UpdateSelf(update) => room.update_participant(sid, update),
            Action::Mute { track, muted } => room.update_track(sid, &track, |held| held.muted = muted),
            Action::SubscriptionPermission(acl) => room.set_acl(sid, acl),
            _ => Ok(()),
        };
    }
}

pub(crate) fn frame_seeds() -> Vec<Vec<u8>> {
    let encode = |ask: Ask| proto::SignalRequest { message: Some(ask) }.encode_to_vec();
    let add = proto::AddTrackRequest {
        cid: "cid".into(),
        r#type: proto::TrackType::Video as i32,
        source: proto::TrackSource::Camera as i32,
        layers: vec![proto::VideoLayer {
            quality: 2,
            width: 1280,
            height: 720,
            ..Default::default()
        }],
        simulcast_codecs: vec![proto::SimulcastCodec {
            codec: "vp8".into(),
            cid: "cid".into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let update = proto::UpdateParticipantMetadata {
        metadata: "m".into(),
        name: "n".into(),
        attributes: [("k".to_owned(), "v".to_owned())].into(),
        request_id: 4,
    };
    let asks = [
        encode(Ask::AddTrack(add)),
        encode(Ask::UpdateMetadata(update)),
        encode(Ask::PingReq(proto::Ping { timestamp: 5, rtt: 6 })),
        encode(Ask::Subscription(proto::UpdateSubscription {
            track_sids: vec!["TR_x".into()],
            subscribe: true,
            ..Default::default()
        })),
        encode(Ask::Leave(proto::LeaveRequest::default())),
    ];
    vec![joined(asks.iter().map(Vec::as_slice))]
}

/// A packet on a data channel.
pub(crate) fn data(input: &[u8]) {
    let info = RoomInfo::new(RoomSid::from("RM_fuzz"), NOW_MS);
    let room = Room::new(RoomName::from("r"), NodeId::from("fra"), info, 1);
    let sender = (&Identity::from("anna"), &ParticipantSid::from("PA_anna"));
    for reliable in [false, true] {
        if let Ok(Some(relay)) = meridian_signalling::data::inspect(&room, sender, reliable, input) {
            let stamped = proto::DataPacket::decode(relay.bytes);
            assert!(
                stamped.is_ok_and(|packet| packet.participant_identity == "anna"),
                "stamped with its sender"
            );
        }
    }
}

pub(crate) fn data_seeds() -> Vec<Vec<u8>> {
    let user = proto::UserPacket {
        payload: b"hello".to_vec(),
        topic: Some("chat".into()),
        ..Default::default()
    };
    let packet = proto::DataPacket {
        participant_identity: "somebody else".into(),
        destination_identities: vec!["bert".into()],
        value: Some(proto::data_packet::Value::User(user)),
        ..Default::default()
    };
    vec![packet.encode_to_vec()]
}

/// An access token; only those that our keys signed are believed.
pub(crate) fn token(input: &[u8]) {
    let Ok(token) = std::str::from_utf8(input) else { return };
    let keys = KeyRing::new().with_api_key(KEY, SECRET);
    if let Ok(claims) = verify_at(token, &keys, 1_700_000_000) {
        assert_eq!(claims.identity(), "anna", "forged");
    }
}

pub(crate) fn token_seeds() -> Vec<Vec<u8>> {
    mint(&Claims::join("anna", "Anna", "r"), KEY, SECRET)
        .map(String::into_bytes)
        .into_iter()
        .collect()
}

/// `X-Forwarded-For` behind a trusted proxy, and networks of the configuration.
pub(crate) fn network(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let proxy = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    let trusted: Vec<Network> = Network::parse("10.0.0.0/8").into_iter().collect();
    let client = client_address(proxy, text.lines(), &trusted);
    assert_eq!(limit_key(limit_key(client)), limit_key(client));
    if let Some(network) = Network::parse(text) {
        let _ = network.contains(client);
    }
}

pub(crate) fn network_seeds() -> Vec<Vec<u8>> {
    [
        "203.0.113.9, 10.0.0.2",
        "[2001:db8::1]:4711",
        "2001:db8::/32",
        "192.0.2.0/24",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
