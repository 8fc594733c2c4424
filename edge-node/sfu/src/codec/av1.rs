//! AV1: aggregation header (RTP payload for AV1 §4.4) and the mandatory bytes of the dependency descriptor (§A.8.3).

use super::FrameInfo;

pub(super) fn inspect(payload: &[u8], dependency_descriptor: Option<&[u8]>) -> FrameInfo {
    let header = payload[0];
    let (continues, new_sequence) = (header & 0x80 != 0, header & 0x08 != 0);
    // N: first packet of a coded video sequence, which begins with a keyframe.
    let keyframe = new_sequence && !continues;
    let start = dependency_descriptor
        .and_then(|d| d.first())
        .map_or(!continues, |first| first & 0x80 != 0);
    FrameInfo {
        keyframe,
        start,
        ..FrameInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_coded_video_sequence_is_a_keyframe() {
        assert!(inspect(&[0x18, 0x0A], None).keyframe);
        assert!(!inspect(&[0x10, 0x0A], None).keyframe);
        assert!(!inspect(&[0x98, 0x0A], None).keyframe);
    }

    #[test]
    fn frame_starts_come_from_the_dependency_descriptor_when_present() {
        assert!(inspect(&[0x10, 0], Some(&[0x80, 0, 1])).start);
        assert!(!inspect(&[0x10, 0], Some(&[0x40, 0, 1])).start);
    }
}
