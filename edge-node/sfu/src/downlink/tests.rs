use super::*;
use crate::media::{Encoding, TrackId};
use crate::packet::{PACKET_BYTES_MAX, PacketPool, RtpHeader};
use crate::source::RemoteTrack;

const OPUS: PayloadType = PayloadType {
    pt: 111,
    codec: Codec::Opus,
    rtx_pt: None,
};
const H264: Codec = Codec::H264 {
    profile_level_id: 0x42_E01F,
    packetization_mode: 1,
};

/// A track from a link and one subscription of it.
struct Pair {
    track: RemoteTrack,
    pool: PacketPool,
    downlink: Downlink,
    transport_sequence: u16,
    now: Instant,
}

fn config(kind: MediaKind, payloads: &[PayloadType]) -> DownlinkConfig {
    DownlinkConfig {
        kind,
        mid: "12".into(),
        ssrc: 500,
        rtx_ssrc: Some(501),
        payloads: payloads.to_vec(),
        extensions: ExtensionMap {
            mid: Some(4),
            audio_level: Some(7),
            ..ExtensionMap::default()
        },
        first_sequence: 10,
        first_rtx_sequence: 900,
    }
}

impl Pair {
    fn new(codec: Codec, payloads: &[PayloadType]) -> Self {
        Pair {
            track: RemoteTrack::new(TrackId(1), codec),
            pool: PacketPool::new(64),
            downlink: Downlink::new(config(codec.kind(), payloads)),
            transport_sequence: 0,
            now: Instant::now(),
        }
    }

    fn send(&mut self, sequence: u16, timestamp: u32, payload: &[u8]) -> Option<(Forwarded, Vec<u8>)> {
        self.send_raw(&rtp(7, sequence, timestamp, payload))
    }

    fn send_raw(&mut self, data: &[u8]) -> Option<(Forwarded, Vec<u8>)> {
        let packet = self
            .track
            .handle_link(self.now, (Encoding::ONLY, Layer::LOW), data, &mut self.pool)
            .ok()??;
        let mut out = [0; PACKET_BYTES_MAX + 64];
        let mut send = SendContext {
            now: self.now,
            abs_send_time: 0,
            transport_sequence: &mut self.transport_sequence,
            pad_to: 1,
        };
        let forwarded = self
            .downlink
            .forward(self.track.source(), &packet, &mut send, &mut out)?;
        Some((forwarded, out[..forwarded.len].to_vec()))
    }
}

/// With an audio level of −10 dBov under its canonical id.
fn rtp(ssrc: u32, sequence: u16, timestamp: u32, payload: &[u8]) -> Vec<u8> {
    let mut data = vec![0x90, 96];
    data.extend(sequence.to_be_bytes());
    data.extend(timestamp.to_be_bytes());
    data.extend(ssrc.to_be_bytes());
    data.extend([0xBE, 0xDE, 0, 1, 0x10, 0x8A, 0, 0]);
    data.extend(payload);
    data
}

fn elements(data: &[u8]) -> Vec<(u8, Vec<u8>)> {
    RtpHeader::parse(data)
        .unwrap()
        .elements(data)
        .map(|(id, value)| (id, value.to_vec()))
        .collect()
}

#[test]
fn extensions_go_out_under_the_subscribers_ids_and_mid_until_the_first_report() {
    let mut pair = Pair::new(Codec::Opus, &[OPUS]);
    let (forwarded, data) = pair.send(1, 0, b"opus").unwrap();
    assert_eq!((forwarded.ssrc, forwarded.sequence, data[1] & 0x7F), (500, 10, 111));
    assert_eq!(elements(&data), vec![(4, b"12".to_vec()), (7, vec![0x8A])]);
    assert_eq!(&data[forwarded.header_len..], b"opus");
    pair.downlink.handle_report(pair.now, &ReportBlock::default());
    let (_, data) = pair.send(2, 960, b"opus").unwrap();
    assert_eq!(elements(&data), vec![(7, vec![0x8A])]);
}

#[test]
fn reordered_audio_takes_its_own_number_once() {
    let mut pair = Pair::new(Codec::Opus, &[OPUS]);
    let sent: Vec<_> = [100u16, 102, 104, 101, 101, 103]
        .into_iter()
        .map(|sequence| {
            pair.send(sequence, 0, b"opus")
                .map(|(f, _)| (f.sequence, f.late, f.rtx))
        })
        .collect();
    assert_eq!(
        sent,
        vec![
            Some((10, false, false)),
            Some((12, false, false)),
            Some((14, false, false)),
            Some((11, true, false)),
            None,
            Some((13, true, false)),
        ]
    );
    assert!(pair.send(99, 0, b"opus").is_none(), "from before the subscription");
}

#[test]
fn red_is_passed_on_or_stripped_to_its_primary_block() {
    let red = PayloadType {
        pt: 63,
        codec: Codec::Red,
        rtx_pt: None,
    };
    let payload = [0x80 | 111, 0x0F, 0x00, 3, 111, 1, 2, 3, 42, 43];
    let mut pair = Pair::new(Codec::Red, &[OPUS, red]);
    let (forwarded, data) = pair.send(1, 0, &payload).unwrap();
    assert_eq!((data[1] & 0x7F, &data[forwarded.header_len..]), (63, &payload[..]));
    let mut pair = Pair::new(Codec::Red, &[OPUS]);
    let (forwarded, data) = pair.send(1, 0, &payload).unwrap();
    assert_eq!((data[1] & 0x7F, &data[forwarded.header_len..]), (111, &[42, 43][..]));
    assert!(pair.send(2, 0, &[0xFF]).is_none(), "unreadable RED is no Opus");
}

#[test]
fn a_codec_the_subscriber_did_not_negotiate_is_not_sent() {
    let mut pair = Pair::new(
        Codec::Vp8,
        &[PayloadType {
            pt: 102,
            codec: H264,
            rtx_pt: None,
        }],
    );
    assert!(pair.send(1, 0, &[0x10, 0x00]).is_none());
    assert!(!pair.downlink.started());
}

#[test]
fn h264_starts_at_parameter_sets() {
    let mut pair = Pair::new(
        H264,
        &[PayloadType {
            pt: 102,
            codec: H264,
            rtx_pt: None,
        }],
    );
    assert!(pair.send(1, 0, &[0x41, 0x9A]).is_none());
    assert!(pair.send(2, 3_000, &[0x67, 0x42]).is_some());
    assert!(pair.send(3, 3_000, &[0x68, 0xCE]).is_some());
    assert!(pair.send(4, 3_000, &[0x65, 0x88]).is_some());
}

#[test]
fn a_source_that_numbers_anew_is_followed_from_its_next_keyframe() {
    let vp8 = PayloadType {
        pt: 96,
        codec: Codec::Vp8,
        rtx_pt: Some(97),
    };
    let mut pair = Pair::new(Codec::Vp8, &[vp8]);
    for sequence in 0..200_000u32 {
        let payload = if sequence == 0 { [0x10, 0x00] } else { [0x10, 0x01] };
        assert!(pair.send(sequence as u16, 3_000 * sequence, &payload).is_some());
    }
    let last = pair.downlink.highest.wire();
    // The link broke; the same encoder now comes over another one, numbered from the first cycle again.
    pair.track = RemoteTrack::new(TrackId(1), Codec::Vp8);
    let go_on = |n: u32| (n as u16, 3_000 * n);
    let (sequence, timestamp) = go_on(200_000);
    assert!(pair.send(sequence, timestamp, &[0x10, 0x01]).is_none());
    assert_eq!(pair.downlink.poll_keyframe_request(pair.now), Some(Layer::LOW));
    let (sequence, timestamp) = go_on(200_001);
    let (forwarded, _) = pair.send(sequence, timestamp, &[0x10, 0x00]).unwrap();
    assert_eq!(forwarded.sequence, last.wrapping_add(1));
    assert!(
        pair.downlink.find_sent(last, pair.track.source()).is_none(),
        "other packets have these numbers now"
    );
}

#[test]
fn a_buffer_that_is_too_small_is_refused_without_harm() {
    let mut pair = Pair::new(Codec::Opus, &[OPUS]);
    let data = rtp(7, 1, 0, &[1; 400]);
    let packet = pair
        .track
        .handle_link(pair.now, (Encoding::ONLY, Layer::LOW), &data, &mut pair.pool)
        .unwrap()
        .unwrap();
    let mut send = SendContext {
        now: pair.now,
        abs_send_time: 0,
        transport_sequence: &mut pair.transport_sequence,
        pad_to: 8,
    };
    for size in [0, 12, 20, 300] {
        let mut out = vec![0; size];
        assert!(
            pair.downlink
                .forward(pair.track.source(), &packet, &mut send, &mut out)
                .is_none()
        );
    }
    assert_eq!(pair.send(2, 960, b"opus").map(|(f, _)| f.sequence), Some(11));
}
