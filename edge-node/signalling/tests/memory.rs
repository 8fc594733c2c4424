//! What a stranger's bytes may become in memory. An element that says nothing is two bytes on the wire; every field of every message a client sends
//! is filled with them here, down to three levels, and what the process held at its height is measured.
#![forbid(unsafe_code)]

mod support;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use livekit_protocol::WrappedJoinRequest;
use meridian_signalling::connect::JOIN_REQUEST_BYTES_MAX;
use meridian_signalling::data::{self, DATA_BYTES_MAX};
use meridian_signalling::{ConnectRequest, FRAME_BYTES_MAX, Frame, Knock, Session, SessionConfig};
use peak_alloc::PeakAlloc;
use prost::Message;
use std::io::Write;
use support::{Edge, claims};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Bytes held at the height, the message itself in its several forms included: 4 times the largest.
const HELD_MAX: usize = 3 << 20;
/// More than the highest number of a field that holds messages or texts.
const FIELDS: u32 = 24;
/// For three levels; what has no limit shows in that, too.
const DEEP_BYTES: usize = 64 * 1024;

/// What `run` added to the heap at its height.
fn held(run: impl FnOnce()) -> usize {
    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    run();
    HEAP.peak_usage().saturating_sub(before)
}

/// A message of about `bytes`: the last field of `path`, empty, over and over, within the others.
fn filled(path: &[u32], bytes: usize) -> Vec<u8> {
    let Some((last, outer)) = path.split_last() else {
        return Vec::new();
    };
    let mut empty = Vec::new();
    prost::encoding::encode_key(*last, prost::encoding::WireType::LengthDelimited, &mut empty);
    empty.push(0);
    let mut message = empty.repeat((bytes - 32) / empty.len());
    for field in outer.iter().rev() {
        let mut around = Vec::new();
        prost::encoding::encode_key(*field, prost::encoding::WireType::LengthDelimited, &mut around);
        prost::encoding::encode_varint(message.len() as u64, &mut around);
        around.extend(message);
        message = around;
    }
    message
}

fn every_path(bytes: usize, mut check: impl FnMut(&[u32], Vec<u8>)) {
    for a in 1..FIELDS {
        check(&[a], filled(&[a], bytes));
        for b in 1..FIELDS {
            check(&[a, b], filled(&[a, b], bytes));
            for c in 1..14 {
                check(&[a, b, c], filled(&[a, b, c], DEEP_BYTES.min(bytes)));
            }
        }
    }
}

#[test]
fn a_join_request() {
    every_path(JOIN_REQUEST_BYTES_MAX, |path, message| {
        let mut zipped = GzEncoder::new(Vec::new(), Compression::fast());
        zipped.write_all(&message).unwrap();
        let wrapped = WrappedJoinRequest {
            compression: 1,
            join_request: zipped.finish().unwrap(),
        };
        let text = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE, wrapped.encode_to_vec());
        let query = format!("access_token=t&join_request={text}");
        let held = held(|| drop(Knock::parse("/rtc/v1", &query, None).and_then(Knock::open)));
        assert!(held < HELD_MAX, "{path:?}: {held} bytes for {} sent", query.len());
    });
}

#[test]
fn a_frame() {
    let mut edge = Edge::new("fra");
    let before = edge.connect("anna");
    let (room, sid) = (&edge.room, edge.clients[before].sid.clone());
    every_path(FRAME_BYTES_MAX, |path, message| {
        let mut session = Session::new(
            SessionConfig::new("fra", "fra", [7; 32]),
            ConnectRequest::default(),
            claims("anna"),
        );
        session.start(room, &sid);
        let frame = Frame::Binary(Bytes::from(message));
        let held = held(|| drop(session.handle(room, support::NOW_MS, frame)));
        assert!(held < HELD_MAX, "{path:?}: {held} bytes");
    });
    let tracks = "{},".repeat(FRAME_BYTES_MAX / 3 - 40);
    let text = format!(r#"{{"syncState":{{"publishTracks":[{}{{}}]}}}}"#, tracks);
    let mut session = Session::new(
        SessionConfig::new("fra", "fra", [7; 32]),
        ConnectRequest::default(),
        claims("anna"),
    );
    session.start(room, &sid);
    let held = held(|| drop(session.handle(room, support::NOW_MS, Frame::Text(text))));
    assert!(held < HELD_MAX, "JSON: {held} bytes");
}

#[test]
fn a_data_packet() {
    let mut edge = Edge::new("fra");
    let anna = edge.connect("anna");
    let sid = edge.clients[anna].sid.clone();
    every_path(DATA_BYTES_MAX, |path, message| {
        let held = held(|| drop(data::inspect(&edge.room, (&"anna".into(), &sid), true, &message)));
        assert!(held < HELD_MAX, "{path:?}: {held} bytes for {}", message.len());
    });
}
