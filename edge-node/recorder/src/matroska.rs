//! One track in a Matroska file (RFC 9559) that can be cut off behind any cluster: the segment's size is unknown, there is no index.
//!
//! Headers are `mkv-element`'s; clusters are written here, because every recorded byte goes through them and shall be copied once.

use bytes::{Bytes, BytesMut};
use meridian_sfu::{Codec, MediaKind};
use mkv_element::io::blocking_impl::WriteTo;
use mkv_element::prelude::*;

use crate::WallMs;
use crate::frame::{Format, OPUS_PRE_SKIP};

/// Frames longer than this are not written.
pub const MAX_FRAME_BYTES: usize = crate::frame::FRAME_BYTES_MAX;

/// A cluster is written once it is this long, in milliseconds: what a crash of the process takes from memory. Well below the 32 s that a block's
/// 16-bit relative time can tell.
const CLUSTER_MS: i64 = 1000;
/// Or once it has so many bytes.
const CLUSTER_BYTES: usize = 256 << 10;
/// Matroska counts dates from 2001-01-01, in nanoseconds.
const DATE_EPOCH_MS: i64 = 978_307_200_000;
/// The id of a Segment and a size of all ones (RFC 8794 §6.2): it ends where the file ends.
pub(crate) const SEGMENT_OF_UNKNOWN_SIZE: [u8; 12] =
    [0x18, 0x53, 0x80, 0x67, 0x01, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
const OPUS_SAMPLES_PER_MS: u64 = 48;
/// What a decoder needs to converge after a seek (RFC 7845 §4.6), nanoseconds.
const OPUS_SEEK_PRE_ROLL_NS: u64 = 80_000_000;

/// The beginning of the file, up to the first cluster. It tells whose it is and when it began, so that a file alone can be placed.
pub(crate) fn header(codec: Codec, format: &Format, track: &str, layer: u8, at: WallMs) -> Bytes {
    let mut out = Vec::with_capacity(512);
    let ebml = Ebml {
        doc_type: Some(DocType("matroska".into())),
        doc_type_version: Some(DocTypeVersion(4)),
        doc_type_read_version: Some(DocTypeReadVersion(2)),
        ..Ebml::default()
    };
    let info = Info {
        timestamp_scale: TimestampScale(1_000_000),
        title: Some(Title(format!("{track} layer {layer}"))),
        date_utc: Some(DateUtc(at.0.saturating_sub(DATE_EPOCH_MS).saturating_mul(1_000_000))),
        muxing_app: MuxingApp("meridian".into()),
        writing_app: WritingApp("meridian".into()),
        ..Info::default()
    };
    let tracks = Tracks {
        track_entry: vec![track_entry(codec, format)],
        ..Tracks::default()
    };
    // Writing to memory fails on nothing but bodies too long for a length of eight bytes.
    let written = ebml
        .write_to(&mut out)
        .and_then(|()| {
            out.extend_from_slice(&SEGMENT_OF_UNKNOWN_SIZE);
            info.write_to(&mut out)
        })
        .and_then(|()| tracks.write_to(&mut out));
    debug_assert!(written.is_ok());
    out.into()
}

/// Track and layer out of a title that [`header`] wrote.
pub(crate) fn parse_title(title: &str) -> Option<(String, u8)> {
    let (track, layer) = title.split_once(" layer ")?;
    Some((track.to_owned(), layer.parse().ok()?))
}

/// When a file with this date began.
pub(crate) fn from_date(date_ns: i64) -> WallMs {
    WallMs(date_ns / 1_000_000 + DATE_EPOCH_MS)
}

fn track_entry(codec: Codec, format: &Format) -> TrackEntry {
    let id = match codec {
        Codec::Vp8 => "V_VP8",
        Codec::Vp9 { .. } => "V_VP9",
        Codec::H264 { .. } => "V_MPEG4/ISO/AVC",
        Codec::Av1 => "V_AV1",
        Codec::Opus | Codec::Red | Codec::Pcmu | Codec::Pcma => "A_OPUS",
    };
    let is_audio = codec.kind() == MediaKind::Audio;
    let mut entry = TrackEntry {
        track_number: TrackNumber(1),
        track_uid: TrackUid(1),
        track_type: TrackType(if is_audio { 2 } else { 1 }),
        flag_lacing: FlagLacing(0),
        codec_id: CodecId(id.into()),
        ..TrackEntry::default()
    };
    if !format.private.is_empty() {
        entry.codec_private = Some(CodecPrivate(Bytes::copy_from_slice(&format.private)));
    }
    if is_audio {
        entry.codec_delay = CodecDelay(u64::from(OPUS_PRE_SKIP) * 1_000_000 / OPUS_SAMPLES_PER_MS);
        entry.seek_pre_roll = SeekPreRoll(OPUS_SEEK_PRE_ROLL_NS);
        entry.audio = Some(Audio {
            sampling_frequency: SamplingFrequency(48_000.0),
            channels: Channels(2),
            ..Audio::default()
        });
    } else {
        let (width, height) = format.size.unwrap_or((1, 1));
        entry.video = Some(Video {
            pixel_width: PixelWidth(u64::from(width)),
            pixel_height: PixelHeight(u64::from(height)),
            ..Video::default()
        });
    }
    entry
}

/// The cluster that is being filled. Its buffer is handed out whole, and used again once the file has the bytes: no page of it is touched
/// for the first time twice.
#[derive(Default)]
pub(crate) struct Cluster {
    start_ms: i64,
    /// Room for the header, then blocks; empty between clusters.
    data: BytesMut,
}

impl Cluster {
    /// Id, size, and the Timestamp element.
    const HEADER: usize = 4 + 4 + 2 + 8;

    /// Whether a frame of this time must go into the next one. Times are milliseconds since the file's beginning.
    pub(crate) fn is_full(&self, at_ms: i64) -> bool {
        !self.data.is_empty()
            && (at_ms - self.start_ms >= CLUSTER_MS || at_ms < self.start_ms || self.data.len() >= CLUSTER_BYTES)
    }

    /// Adds a frame as a SimpleBlock (RFC 9559 §10.2).
    pub(crate) fn push(&mut self, at_ms: i64, keyframe: bool, frame: &[u8]) {
        if self.data.is_empty() {
            self.start_ms = at_ms;
            self.data.extend_from_slice(&[0; Self::HEADER]);
        }
        let relative = i16::try_from(at_ms - self.start_ms).unwrap_or(i16::MAX).to_be_bytes();
        let size = size(frame.len() + 4);
        let flags = if keyframe { 0x80 } else { 0 };
        self.data.reserve(9 + frame.len());
        self.data.extend_from_slice(&[
            0xA3,
            size[0],
            size[1],
            size[2],
            size[3],
            0x81,
            relative[0],
            relative[1],
            flags,
        ]);
        self.data.extend_from_slice(frame);
    }

    /// The cluster as it stands in the file; empty if nothing is in it.
    pub(crate) fn take(&mut self) -> Bytes {
        let len = self.data.len();
        if let Some((header, _)) = self.data.split_first_chunk_mut::<{ Self::HEADER }>() {
            header[..4].copy_from_slice(&[0x1F, 0x43, 0xB6, 0x75]);
            header[4..8].copy_from_slice(&size(len - 8));
            header[8..10].copy_from_slice(&[0xE7, 0x88]);
            header[10..].copy_from_slice(&(self.start_ms.max(0) as u64).to_be_bytes());
        }
        self.data.split().freeze()
    }
}

/// An element's size in four bytes: enough for 256 MB (RFC 8794 §4.4).
fn size(size: usize) -> [u8; 4] {
    (0x1000_0000 | size as u32).to_be_bytes()
}
