//! The vocabulary of media that transport, SFU, shard and cascade share: codecs, payload types, header extensions,
//! layers. No behaviour beyond parsing and printing of names lives here.

use std::fmt;
use std::time::Duration;

/// A track inside one edge: handed out by the node, the same number on every shard of this process, never on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackId(pub u64);

/// One RTP stream of a track as its publisher encodes it, from low to high: 0 (`q`), 1 (`h`), 2 (`f`) with simulcast, else 0.
/// Each has an SSRC, sender reports and a sequence space of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Encoding(pub u8);

impl Encoding {
    /// Encodings a track can have: WebRTC clients send at most three.
    pub const COUNT: usize = 3;
    pub const ONLY: Encoding = Encoding(0);

    pub fn index(self) -> usize {
        usize::from(self.0).min(Self::COUNT - 1)
    }

    /// The lowest layer that it carries; further ones (SVC) follow upwards.
    pub fn first_layer(self) -> Layer {
        Layer(self.index() as u8)
    }
}

/// A spatial layer of a track, from low to high: what subscribers choose, dynacast asks for and links shed. With simulcast each
/// layer is an [`Encoding`] of its own, with SVC several are in one. Audio has layer 0 only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Layer(pub u8);

impl Layer {
    /// Layers a track can have, however they are encoded.
    pub const COUNT: usize = 3;
    pub const LOW: Layer = Layer(0);
    pub const HIGH: Layer = Layer(2);

    pub fn index(self) -> usize {
        usize::from(self.0).min(Self::COUNT - 1)
    }
}

/// A set of layers, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LayerSet(pub u8);

impl LayerSet {
    pub const EMPTY: LayerSet = LayerSet(0);

    pub fn contains(self, layer: Layer) -> bool {
        self.0 & (1 << layer.index()) != 0
    }
    pub fn insert(&mut self, layer: Layer) {
        self.0 |= 1 << layer.index();
    }
    pub fn remove(&mut self, layer: Layer) {
        self.0 &= !(1 << layer.index());
    }
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    pub fn intersects(self, other: LayerSet) -> bool {
        self.0 & other.0 != 0
    }
    /// Every layer up to and including `top`.
    pub fn up_to(top: Layer) -> LayerSet {
        LayerSet((1u8 << (top.index() + 1)) - 1)
    }
    pub fn iter(self) -> impl Iterator<Item = Layer> {
        (0..Layer::COUNT as u8).map(Layer).filter(move |&l| self.contains(l))
    }
}

impl std::ops::BitOr for LayerSet {
    type Output = LayerSet;
    fn bitor(self, other: LayerSet) -> LayerSet {
        LayerSet(self.0 | other.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MediaKind {
    Audio,
    Video,
}

/// What a payload type carries. RTX is not a codec here: it is an attribute of the payload type it repairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    Opus,
    /// Redundant audio (RFC 2198) over Opus.
    Red,
    Pcmu,
    Pcma,
    Vp8,
    Vp9 {
        profile: u8,
    },
    /// `profile_level_id` is the 24-bit number of the `fmtp` parameter (RFC 6184 §8.1).
    H264 {
        profile_level_id: u32,
        packetization_mode: u8,
    },
    Av1,
}

impl Codec {
    pub fn kind(self) -> MediaKind {
        match self {
            Codec::Opus | Codec::Red | Codec::Pcmu | Codec::Pcma => MediaKind::Audio,
            Codec::Vp8 | Codec::Vp9 { .. } | Codec::H264 { .. } | Codec::Av1 => MediaKind::Video,
        }
    }

    /// RTP clock rate in Hz.
    pub fn clock_rate_hz(self) -> u32 {
        match self {
            Codec::Opus | Codec::Red => 48_000,
            Codec::Pcmu | Codec::Pcma => 8_000,
            _ => 90_000,
        }
    }

    /// Same bitstream for a decoder that negotiated the other (H264 levels may differ, profiles may not).
    pub fn compatible_with(self, other: Codec) -> bool {
        match (self, other) {
            (
                Codec::H264 {
                    profile_level_id: a,
                    packetization_mode: m,
                },
                Codec::H264 {
                    profile_level_id: b,
                    packetization_mode: n,
                },
            ) => m == n && a >> 16 == b >> 16,
            _ => self == other,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Codec::Opus => "audio/opus",
            Codec::Red => "audio/red",
            Codec::Pcmu => "audio/PCMU",
            Codec::Pcma => "audio/PCMA",
            Codec::Vp8 => "video/VP8",
            Codec::Vp9 { .. } => "video/VP9",
            Codec::H264 { .. } => "video/H264",
            Codec::Av1 => "video/AV1",
        })
    }
}

/// One payload type of a media section, with the RTX payload type that repairs it (RFC 4588), if negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadType {
    pub pt: u8,
    pub codec: Codec,
    pub rtx_pt: Option<u8>,
}

/// An SSRC a client announced in SDP (`a=ssrc`), and the SSRC of its retransmissions (`a=ssrc-group:FID`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SsrcInfo {
    pub ssrc: u32,
    pub rtx: Option<u32>,
}

/// One client-sending media section, as far as the packet path needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkMedia {
    pub mid: String,
    pub kind: MediaKind,
    /// Simulcast rids from low to high; empty = one encoding.
    pub rids: Vec<String>,
    /// SSRCs announced in SDP, from low to high; empty when the client relies on mid and rid.
    pub ssrcs: Vec<SsrcInfo>,
    pub payloads: Vec<PayloadType>,
    pub extensions: ExtensionMap,
}

/// Ids of the RTP header extensions (RFC 8285) negotiated for one media section; `None` = not negotiated. Ids are 1–14
/// in the one-byte form, up to 255 in the two-byte form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtensionMap {
    pub mid: Option<u8>,
    pub rid: Option<u8>,
    pub repaired_rid: Option<u8>,
    pub audio_level: Option<u8>,
    pub abs_send_time: Option<u8>,
    pub transport_cc: Option<u8>,
    pub abs_capture_time: Option<u8>,
    pub dependency_descriptor: Option<u8>,
    pub playout_delay: Option<u8>,
    pub video_orientation: Option<u8>,
}

/// Extension ids inside the house: what links carry and rings hold. Chosen to equal what libwebrtc offers by default
/// where it can, so that most packets need no rewriting.
pub const CANONICAL: ExtensionMap = ExtensionMap {
    mid: None,
    rid: None,
    repaired_rid: None,
    audio_level: Some(1),
    abs_send_time: None,
    transport_cc: None,
    abs_capture_time: Some(8),
    dependency_descriptor: Some(12),
    playout_delay: Some(5),
    video_orientation: Some(13),
};

/// A sender report's mapping of RTP time to the publisher's NTP timeline (RFC 3550 §6.4.1). Hops may move it
/// along its line ([`SenderReportInfo::later`]), never off it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderReportInfo {
    /// 64-bit NTP timestamp, 32.32 fixed point, seconds since 1900.
    pub ntp: u64,
    pub rtp_timestamp: u32,
}

impl SenderReportInfo {
    /// The report as the publisher would have sent it `elapsed` later.
    pub fn later(self, elapsed: Duration, clock_rate_hz: u32) -> SenderReportInfo {
        let ntp_elapsed = (elapsed.as_nanos() << 32) / 1_000_000_000;
        let ticks = elapsed.as_nanos() * u128::from(clock_rate_hz) / 1_000_000_000;
        SenderReportInfo {
            ntp: self.ntp.wrapping_add(ntp_elapsed as u64),
            rtp_timestamp: self.rtp_timestamp.wrapping_add(ticks as u32),
        }
    }
}
