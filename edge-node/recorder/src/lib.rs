//! The recorder's core, sans-IO: RTP packets as the SFU forwards them go in; Matroska segments, manifest lines and requests for
//! keyframes come out. Nothing is decoded or encoded again.
//!
//! A [`Recording`] holds one [`track::TrackRecorder`] per track. Each of them puts packets in order (`order`), joins them to frames
//! (`frame`), and writes frames into segments (`matroska`, `segment`) that end after four seconds, so that a crash costs no more. Whoever drives
//! it writes the bytes of [`Output`] to files, makes them durable and uploads them; `edge-node/node` does.
//!
//! The manifest (`manifest`) is lines of JSON, each whole in itself: what was recorded when, where it is, and what is missing.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod clock;
pub mod frame;
pub mod manifest;
mod matroska;
mod order;
mod recording;
pub mod salvage;
mod segment;
pub mod track;

pub use manifest::{Entry, Missing, SegmentEntry};
pub use matroska::MAX_FRAME_BYTES;
pub use recording::{BadRecordingId, Output, Recording, RecordingId, SegmentId, TRACKS_MAX, TrackInfo};

/// A segment ends after this long at the latest: what a crash of the edge may cost.
pub const SEGMENT_MAX: std::time::Duration = std::time::Duration::from_secs(4);

/// Milliseconds since the Unix epoch, by the edge's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct WallMs(pub i64);
