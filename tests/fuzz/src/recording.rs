//! Payloads that a recorder joins to frames: written by anybody who may publish.

use std::time::{Duration, Instant};

use meridian_recorder::track::TrackPacket;
use meridian_recorder::{Output, Recording, RecordingId, TrackInfo, WallMs};
use meridian_sfu::packet::{PacketOrigin, PacketPool, RtpHeader};
use meridian_sfu::{Codec, Encoding, ExtensionMap, Layer, LayerSet, SourceSequence, TrackId};

use crate::{joined, messages};

const TRACK: TrackId = TrackId(1);
const CODECS: [Codec; 5] = [
    Codec::Vp8,
    Codec::Vp9 { profile: 0 },
    Codec::H264 {
        profile_level_id: 0x42_e01f,
        packetization_mode: 1,
    },
    Codec::Av1,
    Codec::Red,
];

/// Files that somebody else may have bent.
pub(crate) fn segment(input: &[u8]) {
    if let Some(kept) = meridian_recorder::salvage::salvage(input, "TR_1/000000.mkv") {
        assert!(kept.len <= input.len() && kept.entry.bytes == kept.len as u64);
    }
}

/// Each message is one payload; its first byte says how it is numbered, the first message's which codec it is.
pub(crate) fn frames(input: &[u8]) {
    let Ok(id) = RecordingId::new("fuzz") else { return };
    let codec = CODECS[usize::from(input.first().copied().unwrap_or(0)) % CODECS.len()];
    let mut now = Instant::now();
    let mut wall = WallMs(0);
    let mut recording = Recording::new(&id, "room", "edge", 0, wall);
    let info = TrackInfo {
        id: TRACK,
        sid: "TR_1".into(),
        participant: "PA_1".into(),
        source: "camera".into(),
        codec,
    };
    recording.track_added(wall, info);
    let mut pool = PacketPool::new(8);
    let (mut sequence, mut timestamp) = (1u64 << 16, 0u32);
    let (mut taken, mut written) = (0usize, 0usize);
    for message in messages(input.get(1..).unwrap_or(&[])) {
        let Some((&how, payload)) = message.split_first() else {
            continue;
        };
        sequence += u64::from(how & 3);
        timestamp = timestamp.wrapping_add(u32::from(how >> 2 & 7) * 3000);
        let mut data = vec![0x80, 96 | how & 0x80, 0, 0];
        data.extend_from_slice(&timestamp.to_be_bytes());
        data.extend_from_slice(&[0, 0, 0, 1]);
        data.extend_from_slice(payload);
        let origin = PacketOrigin {
            arrival: now,
            encoding: Encoding(0),
            layer: Layer(0),
            codec,
        };
        let Ok(header) = RtpHeader::parse(&data) else { continue };
        let Ok(mut packet) = pool.build(&data, &header, &ExtensionMap::default(), origin) else {
            continue;
        };
        if let Some(packet) = std::sync::Arc::get_mut(&mut packet) {
            packet.extended_sequence = SourceSequence(sequence);
        }
        taken += payload.len();
        now += Duration::from_millis(u64::from(how));
        wall.0 += i64::from(how);
        let live = LayerSet(1);
        recording.packet(now, wall, TRACK, TrackPacket { packet, live });
        recording.handle_timeout(now, wall);
        written += appended(&mut recording);
    }
    recording.finish(now, wall);
    written += appended(&mut recording);
    // Lengths, indices and block headers, at most so many bytes for each byte of payload.
    assert!(written <= 48 * taken, "{written} bytes out of {taken}");
}

pub(crate) fn segment_seeds() -> Vec<Vec<u8>> {
    let Ok(id) = RecordingId::new("fuzz") else {
        return Vec::new();
    };
    let (now, wall) = (Instant::now(), WallMs(1_800_000_000_000));
    let mut recording = Recording::new(&id, "room", "edge", 0, wall);
    let info = TrackInfo {
        id: TRACK,
        sid: "TR_1".into(),
        participant: "PA_1".into(),
        source: "microphone".into(),
        codec: Codec::Opus,
    };
    recording.track_added(wall, info);
    let mut pool = PacketPool::new(8);
    let origin = PacketOrigin {
        arrival: now,
        encoding: Encoding(0),
        layer: Layer(0),
        codec: Codec::Opus,
    };
    let data = [0x80, 111, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0xfc, 0xff, 0xfe];
    if let Ok(header) = RtpHeader::parse(&data)
        && let Ok(packet) = pool.build(&data, &header, &ExtensionMap::default(), origin)
    {
        let live = LayerSet(1);
        recording.packet(now, wall, TRACK, TrackPacket { packet, live });
    }
    recording.finish(now, wall);
    let bytes = |output: Output| match output {
        Output::Open { header, .. } => header.to_vec(),
        Output::Append { bytes, .. } => bytes.to_vec(),
        _ => Vec::new(),
    };
    vec![recording.drain().flat_map(bytes).collect()]
}

fn appended(recording: &mut Recording) -> usize {
    let bytes = |output: Output| match output {
        Output::Append { bytes, .. } => bytes.len(),
        _ => 0,
    };
    recording.drain().map(bytes).sum()
}

pub(crate) fn frame_seeds() -> Vec<Vec<u8>> {
    let seed = |codec: u8, payloads: &[&[u8]]| {
        let packets: Vec<Vec<u8>> = (payloads.iter())
            .map(|payload| [&[0x85][..], payload].concat())
            .collect();
        [&[codec][..], &joined(packets.iter().map(Vec::as_slice))].concat()
    };
    let vp8 = [0x90, 0x80, 0x81, 0x23, 0x10, 0, 0, 0x9d, 0x01, 0x2a, 0x40, 1, 0xf0, 0];
    let vp9 = [
        0x8a, 0x81, 0x01, 0x18, 1, 0x40, 0, 0xb4, 0x82, 0x49, 0x83, 0x42, 0, 0x13, 0xf0, 0x0b, 0x30,
    ];
    let h264 = [
        0x78, 0, 8, 0x67, 0x42, 0xe0, 0x1f, 0xda, 0x02, 0x80, 0xf6, 0, 4, 0x68, 0xce, 0x3c, 0x80,
    ];
    let av1 = [
        0x18, 0x0a, 0x0b, 0, 0, 0, 0x24, 0xcf, 0x7f, 0x0d, 0xbf, 0xff, 0x30, 0x08,
    ];
    vec![
        seed(0, &[&vp8, &[0x80, 0x80, 0x81, 0x23, 1, 2, 3]]),
        seed(1, &[&vp9]),
        seed(
            2,
            &[&h264, &[0x7c, 0x85, 0x88, 0x84], &[0x7c, 0x45, 1, 2], &[0x65, 0x88]],
        ),
        seed(3, &[&av1]),
        seed(4, &[&[0xef, 0, 0, 2, 0x6f, 1, 2, 3, 4]]),
    ]
}
