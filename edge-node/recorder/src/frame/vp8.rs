//! VP8 out of RTP (RFC 7741 §4.2), and the size in a keyframe (RFC 6386 §9.1).

/// The payload behind its descriptor.
pub(super) fn frame_part(payload: &[u8]) -> Option<&[u8]> {
    let first = *payload.first()?;
    let mut at = 1;
    if first & 0x80 != 0 {
        let fields = *payload.get(1)?;
        at = 2;
        if fields & 0x80 != 0 {
            at += if payload.get(at)? & 0x80 != 0 { 2 } else { 1 };
        }
        if fields & 0x40 != 0 {
            at += 1;
        }
        if fields & 0x30 != 0 {
            at += 1;
        }
    }
    payload.get(at..).filter(|part| !part.is_empty())
}

/// Of a keyframe.
pub(super) fn size(frame: &[u8]) -> Option<(u16, u16)> {
    let head = frame.get(..10)?;
    if head[0] & 1 != 0 || head[3..6] != [0x9D, 0x01, 0x2A] {
        return None;
    }
    let dimension = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]) & 0x3FFF;
    Some((dimension(6), dimension(8)))
}
