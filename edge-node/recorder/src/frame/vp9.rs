//! VP9 out of RTP (RFC 9628 §4.2). Spatial layers of one picture become one superframe (VP9 bitstream specification, annex B).

use super::bits::Bits;
use super::{Format, Malformed};

/// A picture has not more spatial layers than this (three bits of the descriptor).
const LAYERS_MAX: usize = 8;

/// The layer frames of the picture at hand.
#[derive(Default)]
pub(super) struct Picture {
    /// Where each begins in the data.
    starts: Vec<usize>,
    /// The largest size its scalability structure names.
    size: Option<(u16, u16)>,
}

impl Picture {
    pub(super) fn begin(&mut self) {
        self.starts.clear();
        self.size = None;
    }

    pub(super) fn push(&mut self, payload: &[u8], data: &mut Vec<u8>) -> Result<(), Malformed> {
        let descriptor = Descriptor::parse(payload).ok_or(Malformed)?;
        if descriptor.frame_start {
            if self.starts.len() == LAYERS_MAX {
                return Err(Malformed);
            }
            self.starts.push(data.len());
        }
        if self.starts.is_empty() {
            return Err(Malformed);
        }
        self.size = self.size.max(descriptor.size);
        data.extend_from_slice(payload.get(descriptor.len..).ok_or(Malformed)?);
        Ok(())
    }

    pub(super) fn end(&mut self, data: &mut Vec<u8>, format: &mut Format) {
        if let Some(size) = self.size.or_else(|| keyframe_size(data)) {
            format.size = Some(size);
        }
        if self.starts.len() > 1 {
            self.write_index(data);
        }
    }

    fn write_index(&self, data: &mut Vec<u8>) {
        let end = data.len();
        let sizes: Vec<usize> = (self.starts.iter())
            .zip(self.starts[1..].iter().chain([&end]))
            .map(|(start, end)| end - start)
            .collect();
        // Four bytes a size: frames are bounded, and a few bytes a picture cost nothing.
        let marker = 0b1100_0000 | 3 << 3 | (sizes.len() as u8 - 1);
        data.push(marker);
        for size in sizes {
            data.extend_from_slice(&(size as u32).to_le_bytes());
        }
        data.push(marker);
    }
}

struct Descriptor {
    len: usize,
    frame_start: bool,
    size: Option<(u16, u16)>,
}

impl Descriptor {
    fn parse(payload: &[u8]) -> Option<Descriptor> {
        let first = *payload.first()?;
        let has = |bit: u8| first & bit != 0;
        let mut at = 1;
        if has(0x80) {
            at += if payload.get(at)? & 0x80 != 0 { 2 } else { 1 };
        }
        let flexible = has(0x10);
        if has(0x20) {
            at += if flexible { 1 } else { 2 };
        }
        if flexible && has(0x40) {
            // Up to three reference distances, each says whether another follows.
            for _ in 0..3 {
                let reference = *payload.get(at)?;
                at += 1;
                if reference & 1 == 0 {
                    break;
                }
            }
        }
        let mut size = None;
        if has(0x02) {
            (at, size) = scalability_structure(payload, at)?;
        }
        Some(Descriptor {
            len: at,
            frame_start: has(0x08),
            size,
        })
    }
}

/// Where it ends, and the largest size in it.
fn scalability_structure(payload: &[u8], mut at: usize) -> Option<(usize, Option<(u16, u16)>)> {
    let head = *payload.get(at)?;
    at += 1;
    let mut size = None;
    if head & 0x10 != 0 {
        for _ in 0..=head >> 5 {
            let bytes = payload.get(at..at + 4)?;
            let layer = (
                u16::from_be_bytes([bytes[0], bytes[1]]),
                u16::from_be_bytes([bytes[2], bytes[3]]),
            );
            size = size.max(Some(layer));
            at += 4;
        }
    }
    if head & 0x08 != 0 {
        let pictures = *payload.get(at)?;
        at += 1;
        for _ in 0..pictures {
            let references = *payload.get(at)? >> 2 & 0x03;
            at += 1 + usize::from(references);
        }
    }
    Some((at, size))
}

/// The size in a keyframe's uncompressed header (VP9 bitstream specification §6.2).
fn keyframe_size(frame: &[u8]) -> Option<(u16, u16)> {
    let mut bits = Bits::new(frame);
    if bits.take(2)? != 2 {
        return None;
    }
    let profile = bits.take(1)? | bits.take(1)? << 1;
    if profile == 3 {
        bits.skip(1)?;
    }
    let (shows_existing, inter) = (bits.flag()?, bits.flag()?);
    if shows_existing || inter {
        return None;
    }
    bits.skip(2)?;
    if bits.take(24)? != 0x49_8342 {
        return None;
    }
    if profile >= 2 {
        bits.skip(1)?;
    }
    const SRGB: u32 = 7;
    if bits.take(3)? != SRGB {
        bits.skip(1)?;
        if profile & 1 == 1 {
            bits.skip(3)?;
        }
    } else if profile & 1 == 1 {
        bits.skip(1)?;
    }
    let dimension = |minus_one: u32| minus_one.saturating_add(1).min(u32::from(u16::MAX)) as u16;
    Some((dimension(bits.take(16)?), dimension(bits.take(16)?)))
}
