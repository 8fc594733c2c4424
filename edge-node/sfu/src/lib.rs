//! The SFU's packet path, sans-IO.
#![forbid(unsafe_code)]

pub mod media;

pub use media::{Codec, ExtensionMap, Layer, LayerSet, MediaKind, PayloadType, SenderReportInfo, TrackId};
