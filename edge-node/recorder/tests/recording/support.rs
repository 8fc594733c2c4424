//! A recording in virtual time, the files it makes in memory, and ffmpeg to judge them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_recorder::track::TrackPacket;
use meridian_recorder::{Entry, Output, Recording, RecordingId, SegmentEntry, SegmentId, TrackInfo, WallMs};
use meridian_sfu::packet::{PacketOrigin, RtpHeader};
use meridian_sfu::{Codec, Encoding, ExtensionMap, Layer, LayerSet, Packet, PacketPool, SourceSequence, TrackId};
use rtc_rtp::packetizer::Payloader;

pub(crate) const TRACK: TrackId = TrackId(1);
const START_MS: i64 = 1_800_000_000_000;

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) wall: WallMs,
    pub(crate) recording: Recording,
    open: HashMap<SegmentId, (String, Vec<u8>)>,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) lines: Vec<Entry>,
    pub(crate) keyframes_wanted: Vec<(Instant, Layer)>,
}

impl World {
    pub(crate) fn new(codec: Codec) -> World {
        let id = RecordingId::new("rec-1").unwrap();
        let mut world = World {
            now: Instant::now(),
            wall: WallMs(START_MS),
            recording: Recording::new(&id, "room", "fra-1", 0, WallMs(START_MS)),
            open: HashMap::new(),
            files: BTreeMap::new(),
            lines: Vec::new(),
            keyframes_wanted: Vec::new(),
        };
        assert!(world.recording.track_added(world.wall, info(TRACK, codec)));
        world
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        while let Some(due) = self.recording.poll_timeout().filter(|due| *due <= until) {
            self.pass(due.saturating_duration_since(self.now));
            self.recording.handle_timeout(self.now, self.wall);
            self.drain();
        }
        self.pass(until - self.now);
    }

    fn pass(&mut self, by: Duration) {
        self.now += by;
        self.wall.0 = self.wall.0.saturating_add(by.as_millis() as i64);
    }

    pub(crate) fn packet(&mut self, packet: Packet, live: LayerSet) {
        let packet = TrackPacket { packet, live };
        self.recording.packet(self.now, self.wall, TRACK, packet);
        self.drain();
    }

    pub(crate) fn finish(&mut self) {
        self.recording.finish(self.now, self.wall);
        self.drain();
        assert!(self.open.is_empty(), "files were left open");
    }

    fn drain(&mut self) {
        let outputs: Vec<Output> = self.recording.drain().collect();
        for output in outputs {
            match output {
                Output::Open { segment, file, header } => {
                    assert!(self.open.insert(segment, (file, header.to_vec())).is_none());
                }
                Output::Append { segment, bytes } => self.open.get_mut(&segment).unwrap().1.extend_from_slice(&bytes),
                Output::Close { segment, entry } => {
                    let (file, bytes) = self.open.remove(&segment).unwrap();
                    assert_eq!((&file, bytes.len() as u64), (&entry.file, entry.bytes));
                    assert!(self.files.insert(file, bytes).is_none());
                    self.lines.push(Entry::Segment(*entry));
                }
                Output::Line(entry) => self.lines.push(*entry),
                Output::KeyframeWanted { layer, .. } => self.keyframes_wanted.push((self.now, layer)),
            }
        }
    }

    pub(crate) fn segments(&self) -> Vec<&SegmentEntry> {
        let lines = self.lines.iter();
        lines
            .filter_map(|line| match line {
                Entry::Segment(entry) => Some(entry),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn lost(&self) -> u64 {
        let missing = |line: &Entry| match line {
            Entry::Missing(missing) => missing.packets,
            _ => 0,
        };
        self.lines.iter().map(missing).sum()
    }

    /// Decodes every segment by itself and gives the checksums of all pictures (or of the sound).
    pub(crate) fn decoded(&self, folder: &Path) -> Vec<String> {
        let mut sums = Vec::new();
        for (index, segment) in self.segments().iter().enumerate() {
            let path = folder.join(format!("segment{index}.mkv"));
            std::fs::write(&path, &self.files[&segment.file]).unwrap();
            sums.extend(checksums(&path));
        }
        sums
    }
}

pub(crate) fn info(id: TrackId, codec: Codec) -> TrackInfo {
    TrackInfo {
        id,
        sid: format!("TR_{}", id.0),
        participant: "PA_ana".into(),
        source: "camera".into(),
        codec,
    }
}

/// One encoder and its packetiser.
pub(crate) struct Sender {
    pool: PacketPool,
    codec: Codec,
    pub(crate) encoding: Encoding,
    pub(crate) layer: Layer,
    ssrc: u32,
    sequence: u16,
    payloader: Box<dyn Payloader>,
}

impl Sender {
    pub(crate) fn new(codec: Codec, index: u8) -> Sender {
        let payloader: Box<dyn Payloader> = match codec {
            Codec::Vp8 => {
                let mut payloader = rtc_rtp::codec::vp8::Vp8Payloader::default();
                payloader.enable_picture_id = true;
                Box::new(payloader)
            }
            Codec::Vp9 { .. } => Box::<rtc_rtp::codec::vp9::Vp9Payloader>::default(),
            Codec::H264 { .. } => Box::<rtc_rtp::codec::h264::H264Payloader>::default(),
            Codec::Av1 => Box::<rtc_rtp::codec::av1::Av1Payloader>::default(),
            _ => Box::<rtc_rtp::codec::opus::OpusPayloader>::default(),
        };
        Sender {
            pool: PacketPool::new(0),
            codec,
            encoding: Encoding(index),
            layer: Layer(index),
            ssrc: 1000 + u32::from(index),
            sequence: 65_500,
            payloader,
        }
    }

    /// The packets of a frame.
    pub(crate) fn frame(&mut self, now: Instant, timestamp: u32, data: &Bytes) -> Vec<Packet> {
        let payloads = self.payloader.payload(1100, data).unwrap();
        let last = payloads.len().wrapping_sub(1);
        let marked = |index| index == last;
        let packets = payloads.iter().enumerate();
        packets
            .map(|(index, payload)| self.payload(now, timestamp, marked(index), payload))
            .collect()
    }

    pub(crate) fn payload(&mut self, now: Instant, timestamp: u32, marker: bool, payload: &[u8]) -> Packet {
        self.sequence = self.sequence.wrapping_add(1);
        let mut data = vec![0x80, 96 | u8::from(marker) << 7];
        data.extend_from_slice(&self.sequence.to_be_bytes());
        data.extend_from_slice(&timestamp.to_be_bytes());
        data.extend_from_slice(&self.ssrc.to_be_bytes());
        data.extend_from_slice(payload);
        let header = RtpHeader::parse(&data).unwrap();
        let origin = PacketOrigin {
            arrival: now,
            encoding: self.encoding,
            layer: self.layer,
            codec: self.codec,
        };
        let map = ExtensionMap::default();
        let mut packet = self.pool.build(&data, &header, &map, origin).unwrap();
        // As a source numbers it; starts near the wrap of the 16 bits.
        let cycle = if self.sequence < 65_500 { 2 << 16 } else { 1 << 16 };
        std::sync::Arc::get_mut(&mut packet).unwrap().extended_sequence =
            SourceSequence(cycle + u64::from(self.sequence));
        packet
    }
}

/// A folder of this test's own, removed by the next run.
pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("meridian-recorder-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

pub(crate) fn ffmpeg(arguments: &[&str]) -> String {
    let output = Command::new("ffmpeg")
        .args(["-hide_banner", "-v", "error", "-nostdin", "-threads", "1"])
        .args(arguments)
        .output()
        .expect("ffmpeg is missing: apt install ffmpeg, or ./run test, which does that");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && complaints.is_empty(),
        "ffmpeg {arguments:?}: {complaints}"
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Of each decoded frame.
pub(crate) fn checksums(path: &Path) -> Vec<String> {
    let text = ffmpeg(&[
        "-i",
        path.to_str().unwrap(),
        "-fps_mode",
        "passthrough",
        "-f",
        "framemd5",
        "-",
    ]);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit(',').next().unwrap().trim().to_owned())
        .collect()
}

/// Six seconds of moving picture, a keyframe every `keyframe_every` of 25 frames a second.
pub(crate) fn encode(folder: &Path, codec: Codec, size: &str, keyframe_every: u32) -> (PathBuf, Vec<Bytes>) {
    let source = format!("testsrc2=size={size}:rate=25:duration=6");
    let every = keyframe_every.to_string();
    let (options, name): (&[&str], &str) = match codec {
        Codec::Vp8 => (
            &[
                "-c:v",
                "libvpx",
                "-deadline",
                "realtime",
                "-cpu-used",
                "8",
                "-auto-alt-ref",
                "0",
                "-b:v",
                "1M",
            ],
            "in.ivf",
        ),
        Codec::Vp9 { .. } => (
            &[
                "-c:v",
                "libvpx-vp9",
                "-deadline",
                "realtime",
                "-cpu-used",
                "8",
                "-lag-in-frames",
                "0",
                "-b:v",
                "1M",
            ],
            "in.ivf",
        ),
        Codec::Av1 => (
            &[
                "-c:v",
                "libaom-av1",
                "-usage",
                "realtime",
                "-cpu-used",
                "8",
                "-lag-in-frames",
                "0",
                "-b:v",
                "1M",
            ],
            "in.ivf",
        ),
        _ => (
            &[
                "-c:v",
                "libx264",
                "-preset",
                "ultrafast",
                "-tune",
                "zerolatency",
                "-bf",
                "0",
                "-x264-params",
                "sliced-threads=0:slices=1",
                "-bsf:v",
                "filter_units=remove_types=6",
            ],
            "in.h264",
        ),
    };
    let path = folder.join(name);
    let mut arguments = vec!["-f", "lavfi", "-i", &source, "-pix_fmt", "yuv420p"];
    arguments.extend_from_slice(options);
    arguments.extend_from_slice(&["-g", &every, "-keyint_min", &every, "-y", path.to_str().unwrap()]);
    ffmpeg(&arguments);
    let data = std::fs::read(&path).unwrap();
    let frames = if name == "in.ivf" {
        ivf_frames(&data)
    } else {
        access_units(&data)
    };
    assert_eq!(frames.len(), 150);
    (path, frames)
}

fn ivf_frames(data: &[u8]) -> Vec<Bytes> {
    let mut rest = &data[32..];
    let mut frames = Vec::new();
    while let Some(head) = rest.get(..12) {
        let len = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
        frames.push(Bytes::copy_from_slice(&rest[12..12 + len]));
        rest = &rest[12 + len..];
    }
    frames
}

/// Of a stream with one slice a picture.
fn access_units(data: &[u8]) -> Vec<Bytes> {
    let starts: Vec<usize> = data
        .windows(4)
        .enumerate()
        .filter(|(_, w)| *w == [0, 0, 0, 1] || w[..3] == [0, 0, 1])
        .map(|(at, _)| at)
        .collect();
    let mut units = Vec::new();
    let mut unit = Vec::new();
    for (index, &start) in starts.iter().enumerate() {
        // The three-byte code inside a four-byte one.
        if start > 0 && data[start - 1] == 0 && data[start..start + 3] == [0, 0, 1] {
            continue;
        }
        let end = starts[index + 1..]
            .iter()
            .copied()
            .find(|&at| !(data[at - 1] == 0 && data[at..at + 3] == [0, 0, 1]))
            .unwrap_or(data.len());
        unit.extend_from_slice(&data[start..end]);
        let code = if data[start..start + 3] == [0, 0, 1] { 3 } else { 4 };
        if [1, 5].contains(&(data[start + code] & 0x1F)) {
            units.push(Bytes::from(std::mem::take(&mut unit)));
        }
    }
    units
}
