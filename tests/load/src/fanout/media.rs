//! The seeded video: both sides can make any packet of it again.

use meridian_sfu::{Codec, ExtensionMap, MediaKind, PayloadType, TrackId};
use meridian_transport::IceCredentials;
use meridian_transport::sdp::{Publication, SubscriptionMedia};
use rand::SeedableRng;
use rand::rngs::StdRng;

pub(crate) const FRAMES_PER_SECOND: u32 = 30;
pub(crate) const PACKETS_PER_FRAME: usize = 4;
/// Typical size of a packet on the wire, RTP header and SRTP tag included.
pub(crate) const PACKET_BYTES: usize = 1_200;
pub(crate) const TRACK: TrackId = TrackId(1);
/// VP8 with 15-bit picture ids, as libwebrtc sends it.
pub(crate) const DESCRIPTOR_BYTES: usize = 4;
/// Behind the descriptor: room for the VP8 frame header, then frame and index, then noise.
const TAG_AT: usize = DESCRIPTOR_BYTES + 10;
const VP8: PayloadType = PayloadType {
    pt: 96,
    codec: Codec::Vp8,
    rtx_pt: Some(97),
};
pub(crate) const EXTENSIONS: ExtensionMap = ExtensionMap {
    mid: Some(4),
    rid: None,
    repaired_rid: None,
    audio_level: None,
    abs_send_time: None,
    transport_cc: Some(3),
    abs_capture_time: None,
    dependency_descriptor: None,
    playout_delay: None,
    video_orientation: None,
};
pub(crate) const PUBLISHER_SSRC: u32 = 0x1111;
pub(crate) const VIEWER_SSRC: u32 = 0x2222;

pub(crate) fn publication() -> Publication {
    Publication {
        mid: "0".into(),
        kind: MediaKind::Video,
        stream_id: "-".into(),
        cid: "camera".into(),
        rids: Vec::new(),
        ssrcs: Vec::new(),
        payloads: vec![VP8],
        extensions: EXTENSIONS,
        active: true,
    }
}

pub(crate) fn subscription() -> SubscriptionMedia {
    SubscriptionMedia {
        key: TRACK.0,
        mid: "0".into(),
        ssrc: VIEWER_SSRC,
        rtx_ssrc: VIEWER_SSRC + 1,
        payloads: vec![VP8],
        extensions: EXTENSIONS,
    }
}

/// ICE credentials of client `index` (0 is the publisher): the server's and the client's. Both processes know them.
pub(crate) fn credentials(seed: u64, index: usize) -> (IceCredentials, IceCredentials) {
    let mut rng = StdRng::seed_from_u64(seed ^ (index as u64) << 32);
    (IceCredentials::generate(&mut rng), IceCredentials::generate(&mut rng))
}

/// Length of a payload: frames differ by tens of bytes, the packets of a frame by one or two, as a packetizer's do.
pub(crate) fn payload_len(seed: u64, frame: u32, index: usize) -> usize {
    let frame_part = mix(seed, u64::from(frame)) % 40;
    let packet_part = mix(seed, u64::from(frame) << 8 | index as u64 | 1 << 63) % 3;
    PACKET_BYTES - 60 + frame_part as usize + packet_part as usize
}

/// Writes the payload of one packet. `picture_id` and the keyframe bit are the only things not seeded.
pub(crate) fn payload(seed: u64, frame: u32, index: usize, keyframe: bool, out: &mut Vec<u8>) {
    out.clear();
    let start = if index == 0 { 0x10 } else { 0 };
    out.extend_from_slice(&[0x80 | start, 0x80, 0x80 | (frame >> 8) as u8 & 0x7f, frame as u8]);
    out.extend_from_slice(&[
        u8::from(index != 0 || !keyframe),
        0,
        0,
        0x9d,
        0x01,
        0x2a,
        128,
        2,
        104,
        1,
    ]);
    out.extend_from_slice(&frame.to_be_bytes());
    out.push(index as u8);
    let len = payload_len(seed, frame, index);
    let mut word = mix(seed, u64::from(frame) << 8 | index as u64);
    while out.len() < len {
        word = word
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let bytes = word.to_le_bytes();
        out.extend_from_slice(&bytes[..bytes.len().min(len - out.len())]);
    }
}

/// Whether a received payload is, byte for byte, what the publisher sent. The picture id may have been rewritten, and
/// whether it is a keyframe is not ours to know.
pub(crate) fn matches(seed: u64, received: &[u8], scratch: &mut Vec<u8>) -> bool {
    let Some(tag) = received.get(TAG_AT..TAG_AT + 5) else {
        return false;
    };
    let frame = u32::from_be_bytes([tag[0], tag[1], tag[2], tag[3]]);
    payload(
        seed,
        frame,
        usize::from(tag[4]),
        received[DESCRIPTOR_BYTES] == 0,
        scratch,
    );
    received.len() == scratch.len()
        && received[0] == scratch[0]
        && received[DESCRIPTOR_BYTES..] == scratch[DESCRIPTOR_BYTES..]
}

fn mix(seed: u64, value: u64) -> u64 {
    let mut z = seed.wrapping_add(value.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
