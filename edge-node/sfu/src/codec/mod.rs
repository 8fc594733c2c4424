//! What the SFU reads from payloads: keyframes, frame starts, temporal layers, and the counters that must stay
//! continuous across a layer switch. Only bytes that end-to-end encryption leaves clear.

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
    /// TL0PICIDX: value and its offset in the payload.
    pub tl0: Option<(u8, u8)>,
}

/// A picture id field in the payload descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureId {
    pub value: u16,
    /// Offset in the payload.
    pub at: u8,
    /// 15 bits (else 7).
    pub wide: bool,
}
