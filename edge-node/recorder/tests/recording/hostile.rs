//! Payloads that no encoder makes: nothing panics, nothing grows, files stay whole.

use std::time::Duration;

use meridian_recorder::RecordingId;
use meridian_recorder::frame::FRAME_BYTES_MAX;
use meridian_sfu::{Codec, LayerSet};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::support::{Sender, World};

const CODECS: [Codec; 6] = [
    Codec::Opus,
    Codec::Red,
    Codec::Vp8,
    Codec::Vp9 { profile: 0 },
    Codec::H264 {
        profile_level_id: 0x42_E01F,
        packetization_mode: 1,
    },
    Codec::Av1,
];

#[test]
fn random_payloads_of_every_codec_end_in_whole_files() {
    for codec in CODECS {
        for seed in 0..40 {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut world = World::new(codec);
            let mut sender = Sender::new(codec, 0);
            for _ in 0..200 {
                let mut payload = vec![0u8; random.random_range(0..1200)];
                random.fill(&mut payload[..]);
                let timestamp = random.random::<u32>() >> random.random_range(0..32);
                let packet = sender.payload(world.now, timestamp, random.random(), &payload);
                if random.random_ratio(9, 10) {
                    world.packet(packet, LayerSet(0b001));
                }
                world.advance(Duration::from_millis(random.random_range(0..100)));
            }
            world.finish();
        }
    }
}

#[test]
fn a_frame_without_an_end_is_given_up() {
    let mut world = World::new(Codec::Vp8);
    let mut sender = Sender::new(Codec::Vp8, 0);
    let mut keyframe = vec![0u8; 1100];
    keyframe[..11].copy_from_slice(&[0x10, 0, 0, 0, 0x9D, 1, 0x2A, 64, 1, 180, 0]);
    let packet = sender.payload(world.now, 0, false, &keyframe);
    world.packet(packet, LayerSet(0b001));
    for _ in 0..2 * FRAME_BYTES_MAX / 1100 {
        let packet = sender.payload(world.now, 0, false, &[0; 1100]);
        world.packet(packet, LayerSet(0b001));
    }
    world.advance(Duration::from_secs(1));
    let packet = sender.payload(world.now, 90_000, true, &keyframe);
    world.packet(packet, LayerSet(0b001));
    world.finish();
    let segments = world.segments();
    assert_eq!(
        segments.iter().map(|segment| segment.frames).sum::<u32>(),
        1,
        "the next keyframe only"
    );
    assert!(segments[0].bytes < 4096);
}

#[test]
fn ids_that_are_no_folder_are_refused() {
    for bad in ["", "..", "a/b", "a\\b", "ä", &"x".repeat(65)] {
        assert!(RecordingId::new(bad).is_err(), "{bad}");
    }
    assert!(RecordingId::new("REC_2026-11-29").is_ok());
}
