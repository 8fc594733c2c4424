//! RTP and RTCP as they come out of SRTP: authenticated, but written by anybody who may publish.

use std::time::{Duration, Instant};

use meridian_sfu::bandwidth::{Estimator, RATE_MAX_BPS, RATE_MIN_BPS};
use meridian_sfu::packet::PacketPool;
use meridian_sfu::rtcp::{self, Rtcp};
use meridian_sfu::{Codec, ExtensionMap, Layer, MediaKind, PayloadType, TrackId, Uplink, UplinkMedia, UplinkReceiver};

use crate::{joined, messages};

const TRACK: TrackId = TrackId(1);

fn video() -> UplinkMedia {
    let payload = |pt, codec, rtx_pt| PayloadType { pt, codec, rtx_pt };
    UplinkMedia {
        mid: "0".into(),
        kind: MediaKind::Video,
        rids: ["q", "h", "f"].map(String::from).to_vec(),
        ssrcs: Vec::new(),
        payloads: vec![
            payload(96, Codec::Vp8, Some(97)),
            payload(98, Codec::Vp9 { profile: 0 }, None),
            payload(
                102,
                Codec::H264 {
                    profile_level_id: 0x42_e01f,
                    packetization_mode: 1,
                },
                None,
            ),
            payload(45, Codec::Av1, None),
            payload(111, Codec::Opus, None),
            payload(63, Codec::Red, None),
        ],
        extensions: ExtensionMap {
            mid: Some(4),
            rid: Some(10),
            repaired_rid: Some(11),
            transport_cc: Some(3),
            audio_level: Some(1),
            dependency_descriptor: Some(8),
            ..ExtensionMap::default()
        },
    }
}

/// A publisher's packets through routing, RTX, rings and feedback, 5 ms apart.
pub(crate) fn rtp(input: &[u8]) {
    let mut now = Instant::now();
    let media = video();
    let mut receiver = UplinkReceiver::new(now, 7);
    receiver.publish(TRACK, &media);
    let mut uplink = Uplink::new(TRACK, media);
    let mut pool = PacketPool::new(64);
    for data in messages(input) {
        now += Duration::from_millis(5);
        if let Some(incoming) = receiver.handle_rtp(now, data)
            && let Some(packet) = uplink.handle_rtp(now, &incoming, data, &mut pool)
        {
            assert!(packet.payload().len() <= data.len(), "a packet does not grow");
            let _ = (
                packet.extensions().count(),
                packet.link_bytes().len(),
                packet.dependency_descriptor(),
            );
        }
        let mut feedback = Vec::new();
        uplink.poll_feedback(now, 7, &mut feedback);
        receiver.poll_twcc(now, &mut feedback);
        assert!(
            rtcp::parse(&feedback).all(|packet| !matches!(packet, Rtcp::Other)),
            "our own feedback is readable"
        );
    }
    let _ = uplink.source().live().contains(Layer(0));
}

pub(crate) fn rtp_seeds() -> Vec<Vec<u8>> {
    // One-byte extensions (RFC 8285): mid 4 = "0", rid 10 = "q", transport-cc 3.
    let packet = |pt: u8, sequence: u8, rid: u8, payload: &[u8]| {
        let mut packet = vec![0x90, pt, 0, sequence, 0, 0, 0, 1, 0xa0, 0, 0, rid, 0xbe, 0xde, 0, 2];
        packet.extend_from_slice(&[0x40, b'0', 0xa0, rid, 0x31, 0, sequence, 0]);
        packet.extend_from_slice(payload);
        packet
    };
    let vp8 = [0x90, 0x80, 0x81, 0x23, 0x10, 0, 0, 0x9d, 0x01, 0x2a, 0x40, 1, 0xf0, 0];
    let av1 = [0x18, 0x0a, 0x0b, 0, 0, 0, 0x24];
    let h264 = [0x78, 0, 4, 0x67, 0x42, 0xe0, 0x1f, 0, 2, 0x68, 0xce];
    let rtx = [&[0u8, 2][..], &vp8].concat();
    let simulcast = [
        packet(96, 1, b'q', &vp8),
        packet(96, 3, b'q', &vp8),
        packet(96, 1, b'h', &vp8),
        packet(97, 1, b'q', &rtx),
    ];
    let codecs = [
        packet(98, 1, b'q', &[0x8a, 0x81, 1, 2, 3]),
        packet(102, 2, b'f', &h264),
        packet(45, 3, b'f', &av1),
    ];
    vec![
        joined(simulcast.iter().map(Vec::as_slice)),
        joined(codecs.iter().map(Vec::as_slice)),
    ]
}

/// A compound packet, every iterator walked to its end.
pub(crate) fn rtcp(input: &[u8]) {
    let mut seen = 0;
    for packet in rtcp::parse(input) {
        seen += 1;
        assert!(seen <= input.len() / 4, "each packet takes at least its header");
        match packet {
            Rtcp::Nack { sequences, .. } => assert!(sequences.count() <= input.len() * 17),
            Rtcp::SenderReport { blocks, .. } | Rtcp::ReceiverReport { blocks, .. } => assert!(blocks.count() <= 31),
            Rtcp::TransportFeedback(feedback) => assert!(feedback.packets().count() <= usize::from(u16::MAX)),
            Rtcp::Fir { targets } => assert!(targets.count() <= input.len()),
            Rtcp::Bye { ssrcs } => assert!(ssrcs.count() <= 31),
            Rtcp::Pli { .. } | Rtcp::Remb { .. } | Rtcp::Other => {}
        }
    }
}

pub(crate) fn rtcp_seeds() -> Vec<Vec<u8>> {
    vec![
        // SR with one block, SDES, NACK, PLI, TWCC, BYE.
        [
            &[0x81, 200, 0, 12, 0, 0, 0, 1][..],
            &[0xe0; 20],
            &[0, 0, 0, 2, 1, 0, 0, 3, 0, 0, 1, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0x81, 202, 0, 3, 0, 0, 0, 1, 1, 2, b'x', b'y', 0, 0, 0, 0],
            &[0x81, 205, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 9, 0x80, 1],
            &[0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2],
            &[
                0x8f, 205, 0, 5, 0, 0, 0, 1, 0, 0, 0, 2, 0, 1, 0, 2, 0, 0, 9, 1, 0x20, 2, 4, 8,
            ],
            &[0x81, 203, 0, 1, 0, 0, 0, 1],
        ]
        .concat(),
    ]
}

/// What a subscriber says about packets it was sent, 5 ms apart: whatever it is, the estimate stays in its bounds.
pub(crate) fn bandwidth(input: &[u8]) {
    let start = Instant::now();
    let mut now = start;
    let mut estimator = Estimator::new(now);
    estimator.set_wanted(2_000_000);
    let mut sequence = 0u16;
    for data in messages(input) {
        now += Duration::from_millis(5);
        estimator.sent(now, sequence, data.len());
        sequence = sequence.wrapping_add(1);
        for packet in rtcp::parse(data) {
            if let Rtcp::TransportFeedback(feedback) = packet {
                estimator.handle_feedback(now, &feedback);
            }
        }
        estimator.handle_timeout(now);
        let mut padding = 0;
        while let Some(due) = estimator.poll_probe(now) {
            estimator.sent(now, sequence, due.bytes.min(280));
            sequence = sequence.wrapping_add(1);
            padding += 1;
            assert!(padding < 1_000, "a cluster ends");
        }
        if let Some(bps) = estimator.estimate_bps(now) {
            assert!((RATE_MIN_BPS..=RATE_MAX_BPS).contains(&bps), "{bps}");
        }
        assert!(
            estimator.stats().received <= u64::from(sequence),
            "nothing is received twice"
        );
    }
}

pub(crate) fn bandwidth_seeds() -> Vec<Vec<u8>> {
    // A feedback: base, count 4, reference 2, a vector of small deltas; then one with a loss and a large delta.
    let feedback = |base: u8, reference: u8| {
        let mut packet = vec![
            0x8f, 205, 0, 6, 0, 0, 0, 1, 0, 0, 0, 2, 0, base, 0, 4, 0, 0, reference, base,
        ];
        packet.extend_from_slice(&[0xd4, 0x90, 20, 20, 2, 0, 40, 0]);
        packet
    };
    let told: Vec<_> = (0..40u8).map(|n| feedback(n, n / 4)).collect();
    let back: Vec<_> = (0..40u8).map(|n| feedback(n, 250 - n)).collect();
    vec![
        joined(told.iter().map(Vec::as_slice)),
        joined(back.iter().map(Vec::as_slice)),
    ]
}
