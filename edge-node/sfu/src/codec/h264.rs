//! H264 NAL units (RFC 6184 §5): where a decoder can start.

use super::FrameInfo;

const IDR: u8 = 5;
const SPS: u8 = 7;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

pub(super) fn inspect(payload: &[u8]) -> FrameInfo {
    let keyframe = match payload[0] & 0x1F {
        STAP_A => aggregated(&payload[1..]).any(starts_keyframe),
        FU_A => match payload.get(1) {
            // Start of a fragmented unit; its type is in the FU header, its first byte follows.
            Some(header) if header & 0x80 != 0 => unit_starts_keyframe(header & 0x1F, payload.get(2)),
            _ => false,
        },
        _ => starts_keyframe(payload),
    };
    FrameInfo {
        keyframe,
        start: keyframe,
        ..FrameInfo::default()
    }
}

fn starts_keyframe(unit: &[u8]) -> bool {
    unit.first()
        .is_some_and(|header| unit_starts_keyframe(header & 0x1F, unit.get(1)))
}

/// Parameter sets come first; a bare IDR counts when it is the picture's first slice: `first_mb_in_slice` = 0 is a single
/// 1 bit (Exp-Golomb).
fn unit_starts_keyframe(unit_type: u8, second: Option<&u8>) -> bool {
    unit_type == SPS || unit_type == IDR && second.is_some_and(|byte| byte & 0x80 != 0)
}

/// Units of a STAP-A (RFC 6184 §5.7.1), up to the first that does not fit.
fn aggregated(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (size, tail) = rest.split_first_chunk::<2>()?;
        let unit = tail.get(..usize::from(u16::from_be_bytes(*size)))?;
        rest = &tail[unit.len()..];
        Some(unit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_sets_and_first_idr_slices_start_a_keyframe() {
        assert!(
            inspect(&[0x78, 0, 2, 0x67, 0x42, 0, 1, 0x68]).keyframe,
            "STAP-A with SPS"
        );
        assert!(inspect(&[0x67, 0x42]).keyframe, "SPS");
        assert!(inspect(&[0x65, 0x88]).keyframe, "IDR, first slice");
        assert!(inspect(&[0x7C, 0x85, 0x88]).keyframe, "FU-A start of an IDR");
    }

    #[test]
    fn everything_else_does_not() {
        assert!(!inspect(&[0x65, 0x40]).keyframe, "IDR, later slice");
        assert!(!inspect(&[0x7C, 0x05, 0x88]).keyframe, "FU-A continuation");
        assert!(!inspect(&[0x41, 0x9A]).keyframe, "P slice");
        assert!(
            !inspect(&[0x78, 0, 9, 0x67]).keyframe,
            "STAP-A with a unit that does not fit"
        );
        assert!(!inspect(&[0x7C]).keyframe);
    }
}
