//! A segment that a crash cut off: how much of it is whole, and what that is.

use mkv_element::ClusterBlock;
use mkv_element::io::blocking_impl::{ReadElement, ReadFrom};
use mkv_element::prelude::*;

use crate::manifest::SegmentEntry;
use crate::matroska;

/// The whole part of a file that began as a segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Salvaged {
    /// Keep so many bytes. [`SegmentEntry::bytes`] is the same.
    pub len: usize,
    pub entry: SegmentEntry,
}

/// `None` if no whole cluster stands in it, or it is none of our files.
pub fn salvage(data: &[u8], file: &str) -> Option<Salvaged> {
    let mut rest = data;
    element::<Ebml>(&mut rest)?;
    rest = rest.strip_prefix(&matroska::SEGMENT_OF_UNKNOWN_SIZE)?;
    let info = element::<Info>(&mut rest)?;
    let tracks = element::<Tracks>(&mut rest)?;
    let (track, layer) = matroska::parse_title(&info.title?.0)?;
    let at = matroska::from_date(info.date_utc?.0);
    let size = tracks.track_entry.first()?.video.as_ref().map(|video| {
        let pixels = |value: u64| value.min(u64::from(u16::MAX)) as u16;
        (pixels(video.pixel_width.0), pixels(video.pixel_height.0))
    });
    let mut entry = SegmentEntry {
        track,
        file: file.to_owned(),
        at,
        duration_ms: 0,
        bytes: 0,
        frames: 0,
        keyframe: false,
        size,
        layer,
    };
    let mut len = data.len() - rest.len();
    while let Some(cluster) = element::<Cluster>(&mut rest) {
        len = data.len() - rest.len();
        for block in &cluster.blocks {
            let ClusterBlock::Simple(block) = block else { continue };
            let Some(&[_, high, low, flags]) = block.0.first_chunk::<4>() else {
                continue;
            };
            if entry.frames == 0 {
                entry.keyframe = flags & 0x80 != 0;
            }
            entry.frames += 1;
            let relative = i64::from(i16::from_be_bytes([high, low]));
            let cluster_ms = i64::try_from(cluster.timestamp.0).unwrap_or(i64::MAX);
            entry.duration_ms = entry.duration_ms.max(cluster_ms.saturating_add(relative));
        }
    }
    entry.bytes = len as u64;
    (entry.frames > 0).then_some(Salvaged { len, entry })
}

/// The next element, if it is a whole one of this kind; `rest` stays otherwise.
fn element<T: Element>(rest: &mut &[u8]) -> Option<T> {
    let mut reader = *rest;
    let header = Header::read_from(&mut reader).ok()?;
    if header.id != T::ID || *header.size > reader.len() as u64 {
        return None;
    }
    let element = T::read_element(&header, &mut reader).ok()?;
    *rest = reader;
    Some(element)
}
