//! The file that is being written of one track.

use bytes::Bytes;
use meridian_sfu::Codec;

use crate::WallMs;
use crate::frame::{Format, Frame};
use crate::manifest::SegmentEntry;
use crate::matroska::{self, Cluster};

pub(crate) struct Segment {
    pub(crate) entry: SegmentEntry,
    pub(crate) format: Format,
    first_timestamp: u32,
    rate_hz: u32,
    cluster: Cluster,
}

/// What a segment is about, before its first frame.
pub(crate) struct Opening<'a> {
    pub(crate) track: &'a str,
    pub(crate) file: String,
    pub(crate) codec: Codec,
    pub(crate) at: WallMs,
    pub(crate) layer: u8,
    pub(crate) rate_hz: u32,
}

impl Segment {
    /// The segment, and the beginning of its file.
    pub(crate) fn open(opening: Opening<'_>, first: &Frame<'_>, cluster: Cluster) -> (Segment, Bytes) {
        let header = matroska::header(opening.codec, first.format, opening.track, opening.layer, opening.at);
        let entry = SegmentEntry {
            track: opening.track.to_owned(),
            file: opening.file,
            at: opening.at,
            duration_ms: 0,
            bytes: header.len() as u64,
            frames: 0,
            keyframe: first.keyframe,
            size: first.format.size,
            layer: opening.layer,
        };
        let segment = Segment {
            entry,
            format: first.format.clone(),
            first_timestamp: first.timestamp,
            rate_hz: opening.rate_hz,
            cluster,
        };
        (segment, header)
    }

    /// Milliseconds since its first frame; negative for one that was taken before it.
    pub(crate) fn offset_ms(&self, timestamp: u32) -> i64 {
        let ticks = i64::from(timestamp.wrapping_sub(self.first_timestamp) as i32);
        ticks * 1000 / i64::from(self.rate_hz)
    }

    /// Adds a frame; gives bytes for the file when a cluster is full, else none.
    pub(crate) fn push(&mut self, frame: &Frame<'_>) -> Bytes {
        let at_ms = self.offset_ms(frame.timestamp).max(0);
        let full = match self.cluster.is_full(at_ms) {
            true => self.flush(),
            false => Bytes::new(),
        };
        self.cluster.push(at_ms, frame.keyframe, frame.data);
        self.entry.frames += 1;
        self.entry.duration_ms = self.entry.duration_ms.max(at_ms);
        full
    }

    /// What is left of it, and the buffer for the next one.
    pub(crate) fn close(mut self) -> (SegmentEntry, Bytes, Cluster) {
        let rest = self.flush();
        (self.entry, rest, self.cluster)
    }

    fn flush(&mut self) -> Bytes {
        let bytes = self.cluster.take();
        self.entry.bytes += bytes.len() as u64;
        bytes
    }
}
