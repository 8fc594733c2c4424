//! The manifest: one JSON object a line, in the order things happened. A reader takes whole lines and ignores fields and kinds it does not
//! know; the last line may be cut off by a crash.

use serde::{Deserialize, Serialize};

use crate::WallMs;

/// Version of the lines, in [`Entry::Recording`]. Raised when a reader of the old ones would be wrong about the new.
pub const VERSION: u32 = 1;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// The first line of every part: an edge has begun, or taken over.
    Recording {
        version: u32,
        id: String,
        room: String,
        edge: String,
        at: WallMs,
        /// Which part of the recording this is: each edge that takes over begins another.
        part: u32,
    },
    Joined {
        at: WallMs,
        participant: String,
        identity: String,
        name: String,
    },
    Left {
        at: WallMs,
        participant: String,
    },
    Track {
        at: WallMs,
        track: String,
        participant: String,
        /// `camera`, `microphone`, `screen_share`, `screen_share_audio` or `unknown`.
        source: String,
        /// `opus`, `vp8`, `vp9`, `h264` or `av1`.
        codec: String,
    },
    TrackEnded {
        at: WallMs,
        track: String,
    },
    Muted {
        at: WallMs,
        track: String,
        muted: bool,
    },
    /// A file is complete.
    Segment(SegmentEntry),
    /// Packets that never came, or frames that could not be written.
    Missing(Missing),
    /// Who speaks from now on, loudest first.
    Speakers {
        at: WallMs,
        participants: Vec<String>,
    },
    /// The edge died. It was back at this time, and has completed what was open; between the ends of the tracks' last segments and then it recorded
    /// nothing.
    Interrupted {
        at: WallMs,
    },
    /// The recording is over.
    Ended {
        at: WallMs,
    },
    #[serde(other)]
    Unknown,
}

/// A complete file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentEntry {
    pub track: String,
    /// Below the recording's folder.
    pub file: String,
    /// When its first frame was taken.
    pub at: WallMs,
    /// From its first frame to its last, milliseconds.
    pub duration_ms: i64,
    pub bytes: u64,
    pub frames: u32,
    /// Begins with a keyframe. Else it goes on where the file before it of the same track ends, and decodes only behind that.
    pub keyframe: bool,
    /// Pixels.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<(u16, u16)>,
    /// The simulcast layer, 0 lowest; 0 for audio.
    pub layer: u8,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Missing {
    pub track: String,
    pub at: WallMs,
    /// Packets lost on the way.
    pub packets: u64,
}
