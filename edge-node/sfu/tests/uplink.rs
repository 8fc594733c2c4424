//! What the publisher's side of the SFU accepts, repairs, reports and asks for; and that no bytes can upset it.

mod support;

use meridian_sfu::packet::PACKET_BYTES_MAX;
use meridian_sfu::rtcp::{self, Rtcp};
use meridian_sfu::*;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::time::Instant;
use support::*;

struct Side {
    now: Instant,
    receiver: UplinkReceiver,
    uplink: Uplink,
    pool: PacketPool,
    encoder: Encoder,
}

impl Side {
    fn new() -> Self {
        let now = Instant::now();
        let media = uplink_media(&["q", "h", "f"]);
        let mut receiver = UplinkReceiver::new(now, 1);
        receiver.publish(TrackId(7), &media);
        let encoder = Encoder::new(0, &mut SmallRng::seed_from_u64(1));
        Side {
            now,
            receiver,
            uplink: Uplink::new(TrackId(7), media),
            pool: PacketPool::new(64),
            encoder,
        }
    }

    fn take(&mut self, data: &[u8]) -> Option<Packet> {
        let incoming = self.receiver.handle_rtp(self.now, data)?;
        self.uplink.handle_rtp(self.now, &incoming, data, &mut self.pool)
    }

    fn frame(&mut self) -> Vec<u8> {
        let at = self.encoder.sequence;
        self.encoder.encode(u32::from(at) * 33, 1).remove(0)
    }

    /// NACKed numbers and the number of PLIs that are due.
    fn feedback(&mut self) -> (Vec<u16>, usize) {
        let mut out = Vec::new();
        self.uplink.poll_feedback(self.now, 1, &mut out);
        let (mut nacked, mut plis) = (vec![], 0);
        for packet in rtcp::parse(&out) {
            match packet {
                Rtcp::Nack {
                    media_ssrc: 0xA000_0000,
                    sequences,
                } => nacked.extend(sequences),
                Rtcp::Pli {
                    media_ssrc: 0xA000_0000,
                } => plis += 1,
                other => panic!("{other:?}"),
            }
        }
        (nacked, plis)
    }
}

#[test]
fn a_repaired_packet_is_stored_as_the_original() {
    let mut side = Side::new();
    let first = side.frame();
    let lost = side.frame();
    let third = side.frame();
    assert!(side.take(&first).is_some());
    assert!(side.take(&third).is_some());
    side.now += ms(6);
    let (nacked, _) = side.feedback();
    let sequence = u16::from_be_bytes([lost[2], lost[3]]);
    assert_eq!(nacked, [sequence]);
    let repair = side.encoder.rtx(sequence).unwrap();
    let restored = side.take(&repair).unwrap();
    assert_eq!(
        (restored.sequence, restored.ssrc, restored.payload_type),
        (sequence, 0xA000_0000, 96)
    );
    assert_eq!(restored.payload(), &lost[24..]);
    assert!(side.take(&repair).is_none() && side.take(&lost).is_none(), "duplicates");
    let stats = side.uplink.stats(Encoding::ONLY, side.now);
    assert_eq!(
        (stats.repaired, stats.duplicates, stats.packets, stats.nacks_sent),
        (1, 2, 2, 1)
    );
    let mut blocks = Vec::new();
    side.uplink.report_blocks(side.now, &mut blocks);
    assert_eq!(
        (blocks[0].cumulative_lost, blocks[0].ssrc),
        (1, 0xA000_0000),
        "the network did lose it"
    );
}

#[test]
fn the_first_keyframe_request_goes_out_at_once_and_the_next_after_half_a_second() {
    let mut side = Side::new();
    let first = side.frame();
    side.take(&first);
    side.uplink.request_keyframe(side.now, Layer::LOW);
    assert!(side.uplink.poll_timeout().is_some_and(|due| due <= side.now));
    assert_eq!(side.feedback().1, 1);
    for _ in 0..4 {
        side.now += ms(100);
        side.uplink.request_keyframe(side.now, Layer::LOW);
        assert_eq!(side.feedback().1, 0);
    }
    let due = side.uplink.poll_timeout().unwrap();
    assert_eq!(due, side.now + ms(100));
    side.now = due;
    assert_eq!(side.feedback().1, 1);
    side.now += ms(100);
    side.uplink.request_keyframe(side.now, Layer::LOW);
    side.encoder.keyframe_wanted = true;
    let keyframe = side.frame();
    side.take(&keyframe);
    side.now += ms(1_000);
    assert_eq!(side.feedback().1, 0, "a keyframe came meanwhile");
}

#[test]
fn a_muted_track_is_counted_but_neither_stored_nor_repaired() {
    let mut side = Side::new();
    let first = side.frame();
    side.take(&first);
    side.uplink.set_muted(true);
    side.frame();
    let muted = side.frame();
    assert!(side.take(&muted).is_none());
    side.now += ms(50);
    assert_eq!(side.feedback(), (vec![], 0));
    side.uplink.set_muted(false);
    let next = side.frame();
    assert!(side.take(&next).is_some());
    side.now += ms(50);
    assert_eq!(side.feedback(), (vec![], 0));
    assert_eq!(side.uplink.stats(Encoding::ONLY, side.now).packets, 3);
}

#[test]
fn a_stream_that_starts_over_is_accepted_after_two_consecutive_packets() {
    let mut side = Side::new();
    for _ in 0..10 {
        let data = side.frame();
        side.take(&data);
    }
    side.encoder.sequence = side.encoder.sequence.wrapping_sub(20_000);
    let (first, second, third) = (side.frame(), side.frame(), side.frame());
    assert!(side.take(&first).is_none(), "one stray packet means nothing");
    let second = side.take(&second).unwrap();
    let third = side.take(&third).unwrap();
    assert_eq!(third.extended_sequence.0, second.extended_sequence.0 + 1);
}

#[test]
fn what_a_link_carries_is_the_same_packet_again() {
    let mut side = Side::new();
    let mut remote = RemoteTrack::new(TrackId(8), VP8);
    let mut pool = PacketPool::new(64);
    for _ in 0..20 {
        let data = side.frame();
        let packet = side.take(&data).unwrap();
        let there = remote
            .handle_link(side.now, (Encoding(1), Layer(1)), packet.link_bytes(), &mut pool)
            .unwrap()
            .unwrap();
        assert_eq!(there.link_bytes(), packet.link_bytes());
        assert_eq!((there.frame, there.encoding), (packet.frame, Encoding(1)));
        assert!(
            remote
                .handle_link(side.now, (Encoding(1), Layer(1)), packet.link_bytes(), &mut pool)
                .unwrap()
                .is_none()
        );
    }
    assert_eq!(remote.source().live(), LayerSet(0b010));
}

#[test]
fn layers_are_silent_only_while_a_sibling_goes_on() {
    let mut world = World::new(1);
    world.run(1_000);
    assert_eq!(world.uplink.source().live(), LayerSet(0b111));
    world.active[1] = false;
    world.run(400);
    assert_eq!(world.uplink.source().live(), LayerSet(0b101));
    world.active = [false; 3];
    world.run(5_000);
    assert_eq!(
        world.uplink.source().live(),
        LayerSet(0b101),
        "all silent together: nothing is known"
    );
}

proptest! {
    /// Hostile bytes behind valid SRTP: nothing panics, and what comes out fits the buffer.
    #[test]
    fn no_bytes_upset_the_packet_path(
        packets in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..120), 0u8..4, any::<u16>(), prop::bool::ANY),
            1..60,
        ),
        kind in 0usize..6,
    ) {
        let codec = [
            Codec::Opus, Codec::Red, VP8, Codec::Vp9 { profile: 0 }, Codec::Av1,
            Codec::H264 { profile_level_id: 0x42e01f, packetization_mode: 1 },
        ][kind];
        let now = Instant::now();
        let mut media = uplink_media(&[]);
        media.kind = codec.kind();
        media.payloads = vec![PayloadType { pt: 96, codec, rtx_pt: Some(97) }];
        media.extensions.dependency_descriptor = Some(1);
        let mut receiver = UplinkReceiver::new(now, 1);
        receiver.publish(TrackId(1), &media);
        let mut uplink = Uplink::new(TrackId(1), media.clone());
        let mut downlink = Downlink::new(DownlinkConfig {
            kind: codec.kind(),
            payloads: media.payloads,
            extensions: ExtensionMap { dependency_descriptor: Some(200), ..downlink_config().extensions },
            ..downlink_config()
        });
        let (mut pool, mut transport_sequence) = (PacketPool::new(64), 0);
        let mut out = vec![0; PACKET_BYTES_MAX + 64];
        for (n, (bytes, shape, sequence, repair)) in packets.into_iter().enumerate() {
            let now = now + ms(n as u64);
            let mut data = bytes;
            if data.len() >= 12 {
                data[0] = 0x80 | data[0] & if shape == 0 { 0x3F } else { 0x30 };
                data[1] = data[1] & 0x80 | if repair { 97 } else { 96 };
                data[2..4].copy_from_slice(&(sequence % 64).to_be_bytes());
                data[8..12].copy_from_slice(&[0, 0, 0, if repair { 9 } else { 5 }]);
                if data[0] & 0x10 != 0 && data.len() >= 16 {
                    data[12..16].copy_from_slice(if shape == 1 { &[0xBE, 0xDE, 0, 3] } else { &[0x10, 0, 0, 3] });
                }
            }
            if let Some(incoming) = receiver.handle_rtp(now, &data)
                && let Some(packet) = uplink.handle_rtp(now, &incoming, &data, &mut pool)
            {
                let mut send =
                    SendContext { now, abs_send_time: 0, transport_sequence: &mut transport_sequence, pad_to: 8 };
                if let Some(f) = downlink.forward(uplink.source(), &packet, &mut send, &mut out) {
                    let header = packet::RtpHeader::parse(&out[..f.len]).unwrap();
                    prop_assert_eq!(header.payload.start, f.header_len);
                    downlink.retransmit(f.sequence, uplink.source(), &mut send, &mut out);
                }
            }
            let mut feedback = Vec::new();
            uplink.poll_feedback(now, 1, &mut feedback);
            receiver.poll_twcc(now, &mut feedback);
            downlink.sender_report(now, uplink.source());
        }
    }
}
