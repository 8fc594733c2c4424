//! A bounded parser of offers: lines into borrowed fields, no judgement beyond syntax. Attributes that we never answer
//! are skipped unread, and so are malformed ones where the rest of the section still makes sense.

use super::{OFFER_BYTES_MAX, SECTIONS_MAX, SdpError};
use crate::{Fingerprint, IceCredentials};

const FORMATS_MAX: usize = 128;
const FEEDBACK_MAX: usize = 1024;
const EXTENSIONS_MAX: usize = 64;
const SSRCS_MAX: usize = 64;
const GROUPS_MAX: usize = 32;
const RIDS_MAX: usize = 16;
const MID_LEN_MAX: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Offer<'a> {
    /// mids of the first BUNDLE group (RFC 9143), in its order.
    pub(super) bundle: Vec<&'a str>,
    pub(super) extmap_allow_mixed: bool,
    pub(super) transport: TransportLines<'a>,
    pub(super) sections: Vec<OfferedSection<'a>>,
}

/// Transport attributes, of the session or of one section.
#[derive(Debug, Default)]
pub(super) struct TransportLines<'a> {
    pub(super) ufrag: Option<&'a str>,
    pub(super) pwd: Option<&'a str>,
    pub(super) fingerprint: Option<Fingerprint>,
    pub(super) setup: Option<&'a str>,
}

impl TransportLines<'_> {
    pub(super) fn ice(&self) -> Option<IceCredentials> {
        Some(IceCredentials {
            ufrag: self.ufrag?.to_owned(),
            pwd: self.pwd?.to_owned(),
        })
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Direction {
    #[default]
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

#[derive(Debug, Default)]
pub(super) struct OfferedSection<'a> {
    /// `audio`, `video`, `application` or something we reject.
    pub(super) media: &'a str,
    pub(super) port_zero: bool,
    pub(super) protocol: &'a str,
    /// The rest of the m-line, to be echoed in a rejection.
    pub(super) formats_text: &'a str,
    pub(super) formats: Vec<u8>,
    pub(super) mid: Option<&'a str>,
    pub(super) direction: Direction,
    pub(super) transport: TransportLines<'a>,
    pub(super) bundle_only: bool,
    pub(super) rtcp_mux: bool,
    pub(super) rtcp_rsize: bool,
    pub(super) extmap_allow_mixed: bool,
    pub(super) extensions: Vec<OfferedExtension<'a>>,
    pub(super) rtpmaps: Vec<RtpMap<'a>>,
    pub(super) fmtps: Vec<(u8, &'a str)>,
    /// `None` = `*`, every payload type.
    pub(super) feedback: Vec<(Option<u8>, &'a str)>,
    /// msid stream and track.
    pub(super) msid: Option<(&'a str, &'a str)>,
    pub(super) rids_send: Vec<&'a str>,
    pub(super) simulcast_send: Vec<OfferedLayer<'a>>,
    pub(super) ssrcs: Vec<u32>,
    pub(super) ssrc_groups: Vec<(&'a str, Vec<u32>)>,
    pub(super) sctp_port: bool,
}

/// One stream of `a=simulcast:send`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OfferedLayer<'a> {
    pub(super) rid: &'a str,
    /// Not sent at present (`~`, RFC 8853 §5.1).
    pub(super) paused: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct OfferedExtension<'a> {
    pub(super) id: u8,
    pub(super) direction: Direction,
    pub(super) uri: &'a str,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct RtpMap<'a> {
    pub(super) pt: u8,
    pub(super) name: &'a str,
    pub(super) clock_rate_hz: u32,
    pub(super) channels: u8,
}

impl<'a> Offer<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Offer<'a>, SdpError> {
        if text.len() > OFFER_BYTES_MAX {
            return Err(SdpError::TooLong(text.len()));
        }
        let mut offer = Offer::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_end_matches('\r');
            if index == 0 {
                if line != "v=0" {
                    return Err(SdpError::NotSdp);
                }
                continue;
            }
            let malformed = |what| SdpError::Malformed { line: index + 1, what };
            // A control character could smuggle a line into the answer: nothing that holds one is read.
            if line.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
                return Err(malformed("line with a control character"));
            }
            if let Some(media) = line.strip_prefix("m=") {
                if offer.sections.len() == SECTIONS_MAX {
                    return Err(SdpError::TooManySections);
                }
                offer
                    .sections
                    .push(OfferedSection::parse(media).ok_or_else(|| malformed("m= line"))?);
            } else if let Some(attribute) = line.strip_prefix("a=") {
                let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
                let what = match offer.sections.last_mut() {
                    Some(section) => section.attribute(name, value),
                    None => offer.session_attribute(name, value),
                };
                what.map_err(malformed)?;
            }
        }
        Ok(offer)
    }

    fn session_attribute(&mut self, name: &str, value: &'a str) -> Result<(), &'static str> {
        match name {
            "group" if self.bundle.is_empty() => {
                if let Some(mids) = value.strip_prefix("BUNDLE ") {
                    self.bundle = mids.split_ascii_whitespace().take(SECTIONS_MAX).collect();
                }
            }
            "extmap-allow-mixed" => self.extmap_allow_mixed = true,
            _ => self.transport.attribute(name, value)?,
        }
        Ok(())
    }
}

impl<'a> TransportLines<'a> {
    fn attribute(&mut self, name: &str, value: &'a str) -> Result<(), &'static str> {
        let is_ice = |range: std::ops::RangeInclusive<usize>| {
            range.contains(&value.len()) && value.bytes().all(|b| b.is_ascii_graphic())
        };
        match name {
            // RFC 8839 §5.4
            "ice-ufrag" if is_ice(4..=256) => self.ufrag = Some(value),
            "ice-pwd" if is_ice(22..=256) => self.pwd = Some(value),
            "ice-ufrag" | "ice-pwd" => return Err("ICE credential"),
            "fingerprint" => {
                // Others (sha-512, …) may stand beside it (RFC 8122 §5).
                let (algorithm, octets) = value.split_once(' ').ok_or("fingerprint")?;
                if algorithm.eq_ignore_ascii_case("sha-256") && self.fingerprint.is_none() {
                    self.fingerprint = Some(octets.parse().map_err(|_| "fingerprint")?);
                }
            }
            "setup" => self.setup = Some(value),
            _ => {}
        }
        Ok(())
    }
}

impl<'a> OfferedSection<'a> {
    fn parse(text: &'a str) -> Option<OfferedSection<'a>> {
        let mut parts = text.splitn(4, ' ');
        let (media, port, protocol) = (parts.next()?, parts.next()?, parts.next()?);
        let formats_text = parts.next().map(str::trim).filter(|text| !text.is_empty())?;
        if !is_token(media) || !protocol.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        let port: u16 = port.split('/').next()?.parse().ok()?;
        let mut section = OfferedSection {
            media,
            port_zero: port == 0,
            protocol,
            formats_text,
            ..OfferedSection::default()
        };
        if section.is_rtp() {
            for format in formats_text.split_ascii_whitespace().take(FORMATS_MAX) {
                let pt: u8 = format.parse().ok().filter(|&pt| pt < 128)?;
                if !section.formats.contains(&pt) {
                    section.formats.push(pt);
                }
            }
        }
        Some(section)
    }

    pub(super) fn is_rtp(&self) -> bool {
        matches!(self.media, "audio" | "video")
    }

    fn attribute(&mut self, name: &str, value: &'a str) -> Result<(), &'static str> {
        match name {
            "mid" => {
                if !is_token(value) || value.len() > MID_LEN_MAX {
                    return Err("mid");
                }
                self.mid = Some(value);
            }
            "sendrecv" => self.direction = Direction::SendRecv,
            "sendonly" => self.direction = Direction::SendOnly,
            "recvonly" => self.direction = Direction::RecvOnly,
            "inactive" => self.direction = Direction::Inactive,
            "bundle-only" => self.bundle_only = true,
            "rtcp-mux" => self.rtcp_mux = true,
            "rtcp-rsize" => self.rtcp_rsize = true,
            "extmap-allow-mixed" => self.extmap_allow_mixed = true,
            "extmap" => push(&mut self.extensions, EXTENSIONS_MAX, parse_extension(value)),
            "rtpmap" => push(&mut self.rtpmaps, FORMATS_MAX, parse_rtpmap(value)),
            "fmtp" => push(&mut self.fmtps, FORMATS_MAX, parse_fmtp(value)),
            "rtcp-fb" => push(&mut self.feedback, FEEDBACK_MAX, parse_feedback(value)),
            "msid" => self.msid = parse_msid(value).or(self.msid),
            "rid" => push(&mut self.rids_send, RIDS_MAX, parse_rid(value)),
            "simulcast" => self.simulcast_send = parse_simulcast(value),
            "ssrc" => self.ssrc(value),
            "ssrc-group" => push(&mut self.ssrc_groups, GROUPS_MAX, parse_ssrc_group(value)),
            "sctp-port" => self.sctp_port = true,
            _ => self.transport.attribute(name, value)?,
        }
        Ok(())
    }

    fn ssrc(&mut self, value: &'a str) {
        let (ssrc, rest) = value.split_once(' ').unwrap_or((value, ""));
        let Ok(ssrc) = ssrc.parse::<u32>() else { return };
        if self.ssrcs.len() < SSRCS_MAX && !self.ssrcs.contains(&ssrc) {
            self.ssrcs.push(ssrc);
        }
        // The older place of the msid; the section's own line wins.
        if let (None, Some(msid)) = (self.msid, rest.strip_prefix("msid:")) {
            self.msid = parse_msid(msid);
        }
    }

    pub(super) fn fmtp(&self, pt: u8) -> &'a str {
        self.fmtps.iter().find(|(of, _)| *of == pt).map_or("", |(_, text)| text)
    }
}

fn push<T>(list: &mut Vec<T>, max: usize, item: Option<T>) {
    if let Some(item) = item.filter(|_| list.len() < max) {
        list.push(item);
    }
}

/// RFC 8866 `token`.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`{|}~".contains(&b))
}

fn parse_extension(value: &str) -> Option<OfferedExtension<'_>> {
    let (id, rest) = value.split_once(' ')?;
    let (id, direction) = match id.split_once('/') {
        Some((id, "sendonly")) => (id, Direction::SendOnly),
        Some((id, "recvonly")) => (id, Direction::RecvOnly),
        Some((id, "inactive")) => (id, Direction::Inactive),
        Some((id, _)) => (id, Direction::SendRecv),
        None => (id, Direction::SendRecv),
    };
    let id = id.parse().ok().filter(|&id: &u8| id != 0 && id != 15)?;
    Some(OfferedExtension {
        id,
        direction,
        uri: rest.split_ascii_whitespace().next()?,
    })
}

fn parse_rtpmap(value: &str) -> Option<RtpMap<'_>> {
    let (pt, encoding) = value.split_once(' ')?;
    let mut parts = encoding.trim().split('/');
    let name = parts.next().filter(|name| is_token(name))?;
    Some(RtpMap {
        pt: pt.parse().ok()?,
        name,
        clock_rate_hz: parts.next()?.parse().ok()?,
        channels: parts.next().map_or(Some(1), |n| n.parse().ok())?,
    })
}

fn parse_fmtp(value: &str) -> Option<(u8, &str)> {
    let (pt, parameters) = value.split_once(' ')?;
    Some((pt.parse().ok()?, parameters.trim()))
}

fn parse_feedback(value: &str) -> Option<(Option<u8>, &str)> {
    let (pt, what) = value.split_once(' ')?;
    let pt = if pt == "*" { None } else { Some(pt.parse().ok()?) };
    Some((pt, what.trim()))
}

fn parse_msid(value: &str) -> Option<(&str, &str)> {
    let mut parts = value.split_ascii_whitespace();
    let stream = parts.next()?;
    let track = parts.next().unwrap_or("");
    (is_token(stream) && stream.len() <= 128 && track.len() <= 128).then_some((stream, track))
}

fn parse_rid(value: &str) -> Option<&str> {
    let mut parts = value.split_ascii_whitespace();
    let rid = parts.next().filter(|rid| is_rid(rid))?;
    (parts.next()? == "send").then_some(rid)
}

/// RFC 8851 §10, and short enough for the one-byte header extension.
fn is_rid(text: &str) -> bool {
    (1..=16).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// The `send` list of RFC 8853 §5.1: the first alternative of each stream.
fn parse_simulcast(value: &str) -> Vec<OfferedLayer<'_>> {
    let mut parts = value.split_ascii_whitespace();
    while let Some(direction) = parts.next() {
        let Some(list) = parts.next() else { break };
        if direction == "send" {
            let list = list.strip_prefix("rid=").unwrap_or(list);
            return list
                .split(';')
                .filter_map(|stream| stream.split(',').next())
                .map(|stream| OfferedLayer {
                    rid: stream.trim_start_matches('~'),
                    paused: stream.starts_with('~'),
                })
                .filter(|layer| is_rid(layer.rid))
                .take(RIDS_MAX)
                .collect();
        }
    }
    Vec::new()
}

fn parse_ssrc_group(value: &str) -> Option<(&str, Vec<u32>)> {
    let mut parts = value.split_ascii_whitespace();
    let semantics = parts.next()?;
    let ssrcs: Vec<u32> = parts.map_while(|ssrc| ssrc.parse().ok()).take(RIDS_MAX).collect();
    (!ssrcs.is_empty()).then_some((semantics, ssrcs))
}
