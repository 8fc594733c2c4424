//! VP9 payload descriptor (RFC 9628 §4.2).

use super::{FrameInfo, Tl0, picture_id};

pub(super) fn inspect(payload: &[u8]) -> Option<FrameInfo> {
    let first = *payload.first()?;
    let has = |bit: u8| first & bit != 0;
    let (inter_predicted, flexible, frame_start) = (has(0x40), has(0x10), has(0x08));
    let mut info = FrameInfo {
        start: frame_start,
        ..FrameInfo::default()
    };
    let mut at = 1;
    if has(0x80) {
        let (id, next) = picture_id(payload, at)?;
        info.picture_id = Some(id);
        at = next;
    }
    let mut spatial = 0;
    if has(0x20) {
        let layer = *payload.get(at)?;
        at += 1;
        info.temporal = Some(layer >> 5);
        info.switch_up = layer & 0x10 != 0;
        spatial = (layer >> 1) & 0x07;
        if !flexible {
            info.tl0 = Some(Tl0 {
                value: *payload.get(at)?,
                at: at as u8,
            });
        }
    }
    // The lowest spatial layer of a picture that refers to no other picture. Upper layers of it depend on this one.
    info.keyframe = frame_start && !inter_predicted && spatial == 0;
    Some(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyframe_starts_at_its_lowest_spatial_layer_only() {
        let lowest = inspect(&[0xA8, 0x81, 0x02, 0x30, 9]).unwrap();
        assert!(lowest.keyframe && lowest.switch_up && lowest.temporal == Some(1));
        assert_eq!(lowest.tl0, Some(Tl0 { value: 9, at: 4 }));
        assert!(
            !inspect(&[0xA8, 0x81, 0x02, 0x03, 9]).unwrap().keyframe,
            "spatial layer 1"
        );
        assert!(
            !inspect(&[0xE8, 0x81, 0x02, 0x00, 9]).unwrap().keyframe,
            "inter-predicted"
        );
        assert!(
            !inspect(&[0xA0, 0x81, 0x02, 0x00, 9]).unwrap().keyframe,
            "not the start of the frame"
        );
        assert_eq!(inspect(&[0xA8, 0x81]), None);
    }

    #[test]
    fn flexible_mode_has_no_tl0picidx() {
        assert_eq!(inspect(&[0xB8, 0x05, 0x00, 9]).unwrap().tl0, None);
    }
}
