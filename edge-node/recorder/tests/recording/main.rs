//! What goes in as RTP comes out as files that ffmpeg decodes to the same pictures; in virtual time.
#![forbid(unsafe_code)]

mod hostile;
mod support;

use std::time::Duration;

use meridian_recorder::salvage::salvage;
use meridian_recorder::{Entry, SEGMENT_MAX, SegmentEntry};
use meridian_sfu::{Codec, Layer, LayerSet, Packet};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use support::{Sender, World, checksums, encode, folder};

const FRAME: Duration = Duration::from_millis(40);
const FRAME_TICKS: u32 = 3600;
const H264: Codec = Codec::H264 {
    profile_level_id: 0x42_E01F,
    packetization_mode: 1,
};
const LOWEST: LayerSet = LayerSet(0b001);

#[test]
fn vp8_comes_back_picture_for_picture() {
    comes_back("vp8", Codec::Vp8);
}

#[test]
fn vp9_comes_back_picture_for_picture() {
    comes_back("vp9", Codec::Vp9 { profile: 0 });
}

#[test]
fn h264_comes_back_picture_for_picture() {
    comes_back("h264", H264);
}

#[test]
fn av1_comes_back_picture_for_picture() {
    comes_back("av1", Codec::Av1);
}

/// Reordered and duplicated on the way, cut into segments that each decode alone.
fn comes_back(name: &str, codec: Codec) {
    let folder = folder(name);
    let (original, frames) = encode(&folder, codec, "160x90", 25);
    let mut random = SmallRng::seed_from_u64(7);
    let mut world = World::new(codec);
    let mut sender = Sender::new(codec, 0);
    let mut late: Vec<Packet> = Vec::new();
    for (index, frame) in frames.iter().enumerate() {
        let mut packets = std::mem::take(&mut late);
        packets.extend(sender.frame(world.now, index as u32 * FRAME_TICKS, frame));
        packets.extend(packets.first().cloned());
        if index > 0 {
            packets.shuffle(&mut random);
            late = packets.split_off(packets.len() - random.random_range(0..=packets.len().min(3)));
        }
        packets.into_iter().for_each(|packet| world.packet(packet, LOWEST));
        world.advance(FRAME);
    }
    late.into_iter().for_each(|packet| world.packet(packet, LOWEST));
    world.finish();
    let segments = world.segments();
    assert!(segments.len() >= 2, "{} segments", segments.len());
    for segment in &segments {
        assert_eq!(segment.size, Some((160, 90)));
        assert!(segment.keyframe && segment.duration_ms <= SEGMENT_MAX.as_millis() as i64);
    }
    assert_eq!(segments.iter().map(|segment| segment.frames).sum::<u32>(), 150);
    assert_eq!(world.lost(), 0);
    assert_eq!(world.decoded(&folder), checksums(&original));
    for segment in segments {
        cut_off_anywhere(&folder, segment, &world.files[&segment.file]);
    }
}

/// What a crash leaves of a file is whole up to its last whole cluster.
fn cut_off_anywhere(folder: &std::path::Path, segment: &SegmentEntry, file: &[u8]) {
    let whole = salvage(file, &segment.file).unwrap();
    assert_eq!((whole.len, &whole.entry), (file.len(), segment));
    let mut lengths = std::collections::BTreeSet::new();
    for cut in (0..file.len()).step_by(97) {
        let Some(kept) = salvage(&file[..cut], &segment.file) else {
            continue;
        };
        assert!(kept.len <= cut && kept.entry.frames < segment.frames);
        assert_eq!((kept.entry.at, kept.entry.size), (segment.at, segment.size));
        lengths.insert((kept.len, kept.entry.frames));
    }
    assert!(!lengths.is_empty(), "a cluster a second");
    let &(len, frames) = lengths.last().unwrap();
    let path = folder.join("cut.mkv");
    std::fs::write(&path, &file[..len]).unwrap();
    assert_eq!(checksums(&path).len(), frames as usize);
}

#[test]
fn after_a_loss_a_keyframe_is_asked_for_and_nothing_undecodable_is_written() {
    let folder = folder("loss");
    let (original, frames) = encode(&folder, Codec::Vp8, "160x90", 50);
    let mut world = World::new(Codec::Vp8);
    let mut sender = Sender::new(Codec::Vp8, 0);
    for (index, frame) in frames.iter().enumerate() {
        let mut packets = sender.frame(world.now, index as u32 * FRAME_TICKS, frame);
        if index == 30 {
            packets.remove(0);
        }
        packets.into_iter().for_each(|packet| world.packet(packet, LOWEST));
        world.advance(FRAME);
    }
    world.finish();
    assert_eq!(world.lost(), 1);
    assert!(!world.keyframes_wanted.is_empty());
    let gaps = world.keyframes_wanted.windows(2).map(|pair| pair[1].0 - pair[0].0);
    assert!(
        gaps.min().is_none_or(|gap| gap >= Duration::from_secs(1)),
        "at most one a second"
    );
    let mut expected = checksums(&original);
    expected.drain(30..50);
    assert_eq!(
        world.decoded(&folder),
        expected,
        "from the lost packet to the next keyframe"
    );
    let place = world.segments()[0].at.0 + 29 * 40;
    assert!(
        world
            .lines
            .iter()
            .any(|line| matches!(line, Entry::Missing(missing) if missing.at.0 == place))
    );
}

#[test]
fn a_publisher_without_keyframes_is_cut_anyway_and_the_parts_decode_together() {
    let folder = folder("long");
    let (original, frames) = encode(&folder, Codec::Vp8, "160x90", 1000);
    let mut world = World::new(Codec::Vp8);
    let mut sender = Sender::new(Codec::Vp8, 0);
    for (index, frame) in frames.iter().enumerate() {
        for packet in sender.frame(world.now, index as u32 * FRAME_TICKS, frame) {
            world.packet(packet, LOWEST);
        }
        world.advance(FRAME);
    }
    world.finish();
    let segments = world.segments();
    let begins: Vec<bool> = segments.iter().map(|segment| segment.keyframe).collect();
    assert_eq!(begins, [true, false]);
    assert_eq!(segments[1].at.0 - segments[0].at.0, segments[0].duration_ms + 40);
    // A reader that goes on from one file to the next sees every picture.
    let list: String = (0..segments.len())
        .map(|index| format!("file 'segment{index}.mkv'\n"))
        .collect();
    for (index, segment) in segments.iter().enumerate() {
        std::fs::write(folder.join(format!("segment{index}.mkv")), &world.files[&segment.file]).unwrap();
    }
    let list_path = folder.join("list.txt");
    std::fs::write(&list_path, list).unwrap();
    let joined = folder.join("joined.mkv");
    support::ffmpeg(&[
        "-f",
        "concat",
        "-i",
        list_path.to_str().unwrap(),
        "-c",
        "copy",
        "-y",
        joined.to_str().unwrap(),
    ]);
    assert_eq!(checksums(&joined), checksums(&original));
}

#[test]
fn the_best_layer_is_recorded_and_a_change_of_size_begins_a_file() {
    let folder = folder("layers");
    let (_, small) = encode(&folder, Codec::Vp8, "160x90", 25);
    let (_, large) = encode(&folder, Codec::Vp8, "320x180", 25);
    let mut world = World::new(Codec::Vp8);
    let (mut low, mut high) = (Sender::new(Codec::Vp8, 0), Sender::new(Codec::Vp8, 2));
    for index in 0..150 {
        // The upper layer is sent from frame 40 to 90.
        let both = (40..90).contains(&index);
        let live = if both { LayerSet(0b101) } else { LOWEST };
        let timestamp = index as u32 * FRAME_TICKS;
        let mut packets = low.frame(world.now, timestamp, &small[index]);
        if both {
            packets.extend(high.frame(world.now, timestamp, &large[index]));
        }
        packets.into_iter().for_each(|packet| world.packet(packet, live));
        world.advance(FRAME);
    }
    world.finish();
    let seen: Vec<_> = world
        .segments()
        .iter()
        .map(|s| (s.layer, s.size.unwrap(), s.frames))
        .collect();
    // Up and down at keyframes: 50 and 100. The picture at the way up is in both files.
    let mut by_layer = vec![(0, (160, 90), 0), (2, (320, 180), 0), (0, (160, 90), 0)];
    let mut at = 0;
    for (layer, size, frames) in seen {
        if by_layer[at].0 != layer {
            at += 1;
        }
        assert_eq!((by_layer[at].0, by_layer[at].1), (layer, size));
        by_layer[at].2 += frames;
    }
    assert_eq!(by_layer.map_frames(), [51, 40, 50]);
    assert!(world.keyframes_wanted.iter().any(|(_, layer)| *layer == Layer(2)));
    assert_eq!(world.decoded(&folder).len(), 141);
}

trait MapFrames {
    fn map_frames(&self) -> Vec<u32>;
}

impl MapFrames for Vec<(u8, (u16, u16), u32)> {
    fn map_frames(&self) -> Vec<u32> {
        self.iter().map(|entry| entry.2).collect()
    }
}

#[test]
fn a_track_that_falls_silent_leaves_no_file_open() {
    let mut world = World::new(Codec::Opus);
    let mut sender = Sender::new(Codec::Opus, 0);
    for index in 0..50u32 {
        let packet = sender.payload(world.now, index * 960, false, &[0xFC, 0xFF, 0xFE]);
        world.packet(packet, LOWEST);
        world.advance(Duration::from_millis(20));
    }
    assert!(world.segments().is_empty());
    world.advance(SEGMENT_MAX);
    assert_eq!(world.segments().len(), 1);
    assert_eq!((world.segments()[0].frames, world.segments()[0].duration_ms), (50, 980));
    // It speaks again after a minute: a file of its own, at its own time.
    world.advance(Duration::from_secs(60));
    let packet = sender.payload(world.now, 50 * 960 + 65 * 48_000, true, &[0xFC, 0xFF, 0xFE]);
    let spoke = world.wall;
    world.packet(packet, LOWEST);
    world.finish();
    let segments = world.segments();
    assert_eq!((segments.len(), segments[1].at.0 - spoke.0), (2, 0));
    let folder = folder("silence");
    assert!(world.decoded(&folder).len() >= 50);
    assert_eq!(world.lost(), 0);
}

#[test]
fn an_hours_track_has_its_last_frame_at_its_own_time() {
    let mut world = World::new(Codec::Opus);
    let mut sender = Sender::new(Codec::Opus, 0);
    let mut expected = 0;
    for index in 0..3600u32 {
        expected = world.wall.0;
        let packet = sender.payload(world.now, index * 48_000, false, &[0xFC, 0xFF, 0xFE]);
        world.packet(packet, LOWEST);
        world.advance(Duration::from_secs(1));
    }
    world.finish();
    let segments = world.segments();
    let last = segments.last().unwrap();
    assert_eq!(last.at.0 + last.duration_ms, expected);
    for pair in segments.windows(2) {
        assert!(
            pair[1].at.0 > pair[0].at.0 + pair[0].duration_ms,
            "files of a track do not overlap"
        );
    }
}
