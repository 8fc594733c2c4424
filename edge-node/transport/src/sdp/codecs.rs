//! Codecs: from a section's rtpmap and fmtp lines to [`PayloadType`]s, and back into the lines of an answer.

use std::fmt::Write;

use meridian_sfu::media::{Codec, MediaKind, PayloadType};

use super::AudioPreferences;
use super::offer::{OfferedSection, RtpMap};

/// Feedback that we act on (RFC 4585, RFC 5104, transport-wide congestion control).
const FEEDBACK: [&str; 4] = ["transport-cc", "ccm fir", "nack", "nack pli"];
/// Format parameters that an answer repeats as they were offered. Both sides of a bundle must give a payload type the same
/// parameters in every section, and Chromium reads its start bitrate from the answer.
const REPEATED: [&str; 13] = [
    "minptime",
    "useinbandfec",
    "usedtx",
    "profile-id",
    "level-asymmetry-allowed",
    "packetization-mode",
    "profile-level-id",
    "level-idx",
    "profile",
    "tier",
    "x-google-start-bitrate",
    "x-google-min-bitrate",
    "x-google-max-bitrate",
];

/// The payload types of a section that we understand, in the client's order.
pub(super) fn offered(section: &OfferedSection<'_>, kind: MediaKind) -> Vec<PayloadType> {
    let mut payloads: Vec<PayloadType> = Vec::new();
    for &pt in &section.formats {
        let Some(codec) = codec_of(section, pt).filter(|codec| codec.kind() == kind) else {
            continue;
        };
        if payloads.iter().any(|payload| payload.codec == codec) {
            continue;
        }
        payloads.push(PayloadType {
            pt,
            codec,
            rtx_pt: rtx_of(section, pt),
        });
    }
    payloads
}

/// For each codec the publisher sends, the offered payload type that decodes it: the same codec, else a compatible one.
pub(super) fn matching(offered: &[PayloadType], sent: &[Codec]) -> Vec<PayloadType> {
    if sent.is_empty() {
        return offered.to_vec();
    }
    let mut chosen: Vec<PayloadType> = Vec::new();
    for &codec in sent {
        let best = offered
            .iter()
            .find(|payload| payload.codec == codec)
            .or_else(|| offered.iter().find(|payload| codec.compatible_with(payload.codec)));
        if let Some(best) = best.filter(|best| !chosen.contains(best)) {
            chosen.push(*best);
        }
    }
    chosen
}

fn codec_of(section: &OfferedSection<'_>, pt: u8) -> Option<Codec> {
    let Some(map) = section.rtpmaps.iter().find(|map| map.pt == pt) else {
        // Static payload types (RFC 3551 §6) need no rtpmap.
        return match pt {
            0 => Some(Codec::Pcmu),
            8 => Some(Codec::Pcma),
            _ => None,
        };
    };
    let fmtp = section.fmtp(pt);
    let is = |name: &str, clock_rate_hz: u32| is_encoding(map, name, clock_rate_hz);
    if is("opus", 48_000) && map.channels == 2 {
        Some(Codec::Opus)
    } else if is("red", 48_000) && section.media == "audio" {
        red_over_opus(section, fmtp).then_some(Codec::Red)
    } else if is("PCMU", 8_000) {
        Some(Codec::Pcmu)
    } else if is("PCMA", 8_000) {
        Some(Codec::Pcma)
    } else if is("VP8", 90_000) {
        Some(Codec::Vp8)
    } else if is("VP9", 90_000) {
        number(fmtp, "profile-id", 0).map(|profile| Codec::Vp9 { profile })
    } else if is("H264", 90_000) {
        h264(fmtp)
    } else if is("AV1", 90_000) {
        // Profile 0 (Main) alone has a place in `Codec`.
        (number(fmtp, "profile", 0) == Some(0)).then_some(Codec::Av1)
    } else {
        None
    }
}

fn is_encoding(map: &RtpMap<'_>, name: &str, clock_rate_hz: u32) -> bool {
    map.name.eq_ignore_ascii_case(name) && map.clock_rate_hz == clock_rate_hz
}

/// Every block of the redundancy must be the section's Opus: `63 111/111`.
fn red_over_opus(section: &OfferedSection<'_>, fmtp: &str) -> bool {
    let is_opus = |pt: &str| {
        pt.parse().is_ok_and(|pt: u8| {
            section
                .rtpmaps
                .iter()
                .any(|map| map.pt == pt && map.name.eq_ignore_ascii_case("opus"))
        })
    };
    !fmtp.is_empty() && fmtp.split('/').all(is_opus)
}

fn h264(fmtp: &str) -> Option<Codec> {
    // RFC 6184 §8.1: without the parameter, Baseline level 1; without a mode, single NAL units.
    let profile_level_id = match parameter(fmtp, "profile-level-id") {
        Some(text) if text.len() == 6 => u32::from_str_radix(text, 16).ok()?,
        Some(_) => return None,
        None => 0x42_00_0a,
    };
    let packetization_mode = number(fmtp, "packetization-mode", 0).filter(|&mode| mode <= 1)?;
    Some(Codec::H264 {
        profile_level_id,
        packetization_mode,
    })
}

fn rtx_of(section: &OfferedSection<'_>, pt: u8) -> Option<u8> {
    section
        .rtpmaps
        .iter()
        .filter(|map| is_encoding(map, "rtx", 90_000) && section.formats.contains(&map.pt))
        .find(|map| parameter(section.fmtp(map.pt), "apt").and_then(|apt| apt.parse().ok()) == Some(pt))
        .map(|map| map.pt)
}

fn parameter<'a>(fmtp: &'a str, name: &str) -> Option<&'a str> {
    fmtp.split(';').find_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

fn number(fmtp: &str, name: &str, default: u8) -> Option<u8> {
    parameter(fmtp, name).map_or(Some(default), |value| value.parse().ok())
}

/// Writes rtpmap, rtcp-fb and fmtp of the accepted payload types.
pub(super) fn write(
    out: &mut String,
    section: &OfferedSection<'_>,
    payloads: &[PayloadType],
    with_transport_cc: bool,
    preferences: AudioPreferences,
) {
    for payload in payloads {
        let (pt, clock) = (payload.pt, payload.codec.clock_rate_hz());
        let mime = payload.codec.to_string();
        let name = mime.split('/').nth(1).unwrap_or(&mime);
        let channels = if matches!(payload.codec, Codec::Opus | Codec::Red) {
            "/2"
        } else {
            ""
        };
        let _ = write!(out, "a=rtpmap:{pt} {name}/{clock}{channels}\r\n");
        for feedback in FEEDBACK {
            let is_offered = section
                .feedback
                .iter()
                .any(|(of, what)| *what == feedback && of.is_none_or(|of| of == pt));
            if is_offered && (with_transport_cc || feedback != "transport-cc") {
                let _ = write!(out, "a=rtcp-fb:{pt} {feedback}\r\n");
            }
        }
        let parameters = match payload.codec {
            Codec::Red => section.fmtp(pt).to_owned(),
            codec => parameters(section.fmtp(pt), codec, preferences),
        };
        if !parameters.is_empty() {
            let _ = write!(out, "a=fmtp:{pt} {parameters}\r\n");
        }
        if let Some(rtx) = payload.rtx_pt {
            let _ = write!(out, "a=rtpmap:{rtx} rtx/{clock}\r\na=fmtp:{rtx} apt={pt}\r\n");
        }
    }
}

fn parameters(offered: &str, codec: Codec, preferences: AudioPreferences) -> String {
    let mut kept: Vec<&str> = offered
        .split(';')
        .map(str::trim)
        .filter(|pair| pair.split_once('=').is_some_and(|(name, _)| REPEATED.contains(&name)))
        .take(REPEATED.len())
        .collect();
    if codec == Codec::Opus {
        for (wanted, pair) in [(preferences.dtx, "usedtx=1"), (preferences.stereo, "stereo=1")] {
            if wanted {
                let name = pair.trim_end_matches('1');
                kept.retain(|other| !other.starts_with(name));
                kept.push(pair);
            }
        }
    }
    kept.join(";")
}
