//! What the SFU reads from payloads: keyframes, frame starts, temporal layers, and the counters that must stay
//! continuous across a layer switch. Only bytes that end-to-end encryption leaves clear; nothing is decoded.

mod av1;
mod h264;
mod red;
mod vp8;
mod vp9;

use crate::media::Codec;

/// What a packet says about the frame it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameInfo {
    /// First packet of a keyframe (for H264: of its parameter sets): a decoder can start here.
    pub keyframe: bool,
    /// First packet of a frame, as far as the codec tells.
    pub start: bool,
    /// VP8 or VP9 temporal layer.
    pub temporal: Option<u8>,
    /// A subscriber may start to receive this temporal layer here (VP8 Y bit, VP9 U bit).
    pub switch_up: bool,
    /// VP8 or VP9 picture id.
    pub picture_id: Option<PictureId>,
    pub tl0: Option<Tl0>,
    /// RED audio: offset in the payload of the primary block, which is a whole Opus payload.
    pub red_primary: Option<u16>,
}

/// A picture id field in the payload descriptor (RFC 7741 §4.2, RFC 9628 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureId {
    pub value: u16,
    /// Offset in the payload.
    pub at: u8,
    /// 15 bits (else 7).
    pub wide: bool,
}

/// A TL0PICIDX field in the payload descriptor: counts frames of temporal layer 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tl0 {
    pub value: u8,
    /// Offset in the payload.
    pub at: u8,
}

/// Reads a payload. A malformed one yields what could be read: it is forwarded like any other, since whether it decodes is
/// the subscriber's business.
pub fn inspect(codec: Codec, payload: &[u8], dependency_descriptor: Option<&[u8]>) -> FrameInfo {
    if payload.is_empty() {
        return FrameInfo::default();
    }
    match codec {
        Codec::Vp8 => vp8::inspect(payload).unwrap_or_default(),
        Codec::Vp9 { .. } => vp9::inspect(payload).unwrap_or_default(),
        Codec::H264 { .. } => h264::inspect(payload),
        Codec::Av1 => av1::inspect(payload, dependency_descriptor),
        Codec::Red => FrameInfo {
            red_primary: red::primary_offset(payload),
            ..FrameInfo::default()
        },
        Codec::Opus | Codec::Pcmu | Codec::Pcma => FrameInfo::default(),
    }
}

/// Reads a 7- or 15-bit picture id at `at`; returns it and the offset behind it.
fn picture_id(payload: &[u8], at: usize) -> Option<(PictureId, usize)> {
    let first = *payload.get(at)?;
    let offset = u8::try_from(at).ok()?;
    if first & 0x80 == 0 {
        return Some((
            PictureId {
                value: u16::from(first),
                at: offset,
                wide: false,
            },
            at + 1,
        ));
    }
    let value = u16::from_be_bytes([first & 0x7F, *payload.get(at + 1)?]);
    Some((
        PictureId {
            value,
            at: offset,
            wide: true,
        },
        at + 2,
    ))
}
