//! RTP header extensions: which of the offered ones we take, and their ids.

use meridian_sfu::media::{ExtensionMap, MediaKind};

use super::offer::{Direction, OfferedExtension, OfferedSection};

const TRANSPORT_CC: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
const ABS_SEND_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";

/// Where in the map an extension belongs, and whether a section of this kind may carry it.
fn slot<'m>(map: &'m mut ExtensionMap, kind: MediaKind, uri: &str) -> Option<&'m mut Option<u8>> {
    let video = kind == MediaKind::Video;
    Some(match uri {
        "urn:ietf:params:rtp-hdrext:sdes:mid" => &mut map.mid,
        "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id" if video => &mut map.rid,
        "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id" if video => &mut map.repaired_rid,
        "urn:ietf:params:rtp-hdrext:ssrc-audio-level" if !video => &mut map.audio_level,
        ABS_SEND_TIME => &mut map.abs_send_time,
        TRANSPORT_CC => &mut map.transport_cc,
        "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time" => &mut map.abs_capture_time,
        "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension" if video => {
            &mut map.dependency_descriptor
        }
        "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay" if video => &mut map.playout_delay,
        "urn:3gpp:video-orientation" if video => &mut map.video_orientation,
        _ => return None,
    })
}

/// The extensions of a section that we answer: at most one id for each, and no id twice. mid, rid and repaired-rid are
/// kept whatever the section's direction is, or Chromium throws at its next offer (spec/transport.md).
pub(super) fn accepted<'a>(section: &OfferedSection<'a>, kind: MediaKind) -> (Vec<OfferedExtension<'a>>, ExtensionMap) {
    let mut map = ExtensionMap::default();
    let mut lines: Vec<OfferedExtension<'a>> = Vec::new();
    // Transport-wide sequence numbers say all that send times say, at the same cost in every packet.
    let with_transport_cc = section.extensions.iter().any(|extension| extension.uri == TRANSPORT_CC);
    for extension in &section.extensions {
        if extension.direction == Direction::Inactive
            || lines.iter().any(|line| line.id == extension.id)
            || (with_transport_cc && extension.uri == ABS_SEND_TIME)
        {
            continue;
        }
        if let Some(id @ None) = slot(&mut map, kind, extension.uri) {
            *id = Some(extension.id);
            lines.push(*extension);
        }
    }
    (lines, map)
}

/// The map without the extensions that the client restricted to the other direction. `client_sends` says whose packets
/// it is for.
pub(super) fn usable(lines: &[OfferedExtension<'_>], kind: MediaKind, client_sends: bool) -> ExtensionMap {
    let refused = if client_sends {
        Direction::RecvOnly
    } else {
        Direction::SendOnly
    };
    let mut map = ExtensionMap::default();
    for line in lines.iter().filter(|line| line.direction != refused) {
        if let Some(id) = slot(&mut map, kind, line.uri) {
            *id = Some(line.id);
        }
    }
    map
}
