//! VP8 payload descriptor (RFC 7741 §4.2) and the first byte of the frame header (§4.3).

use super::{FrameInfo, Tl0, picture_id};

pub(super) fn inspect(payload: &[u8]) -> Option<FrameInfo> {
    let first = *payload.first()?;
    let start = first & 0x10 != 0 && first & 0x07 == 0;
    let mut info = FrameInfo {
        start,
        ..FrameInfo::default()
    };
    let mut at = 1;
    if first & 0x80 != 0 {
        let fields = *payload.get(1)?;
        at = 2;
        if fields & 0x80 != 0 {
            let (id, next) = picture_id(payload, at)?;
            info.picture_id = Some(id);
            at = next;
        }
        if fields & 0x40 != 0 {
            info.tl0 = Some(Tl0 {
                value: *payload.get(at)?,
                at: at as u8,
            });
            at += 1;
        }
        if fields & 0x30 != 0 {
            let layer = *payload.get(at)?;
            at += 1;
            if fields & 0x20 != 0 {
                info.temporal = Some(layer >> 6);
                info.switch_up = layer & 0x20 != 0;
            }
        }
    }
    // P bit of the frame header: 0 = keyframe. Present in the first packet of a frame only.
    info.keyframe = start && payload.get(at).is_some_and(|header| header & 0x01 == 0);
    Some(info)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::PictureId;

    #[test]
    fn all_fields_of_a_keyframe_are_read() {
        let info = inspect(&[0x90, 0xE0, 0x81, 0x02, 7, 0x20, 0x10]).unwrap();
        assert!(info.keyframe && info.start && info.switch_up);
        assert_eq!(
            info.picture_id,
            Some(PictureId {
                value: 0x102,
                at: 2,
                wide: true
            })
        );
        assert_eq!(info.tl0, Some(Tl0 { value: 7, at: 4 }));
        assert_eq!(info.temporal, Some(0));
    }

    #[test]
    fn delta_frames_continuations_and_short_payloads_are_no_keyframes() {
        assert!(!inspect(&[0x10, 0x01]).unwrap().keyframe);
        assert!(!inspect(&[0x00, 0x00]).unwrap().keyframe);
        assert!(!inspect(&[0x10]).unwrap().keyframe);
        assert_eq!(inspect(&[0x90, 0x80, 0x81]), None);
        let narrow = inspect(&[0x90, 0x80, 0x05, 0x00]).unwrap();
        assert_eq!(
            narrow.picture_id,
            Some(PictureId {
                value: 5,
                at: 2,
                wide: false
            })
        );
        assert!(narrow.keyframe);
    }
}
