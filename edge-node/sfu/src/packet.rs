//! One RTP packet in a pooled buffer, with canonical header extensions, as rings hold it and links carry it; and the
//! parsing of RTP headers (RFC 3550 §5.1). Outgoing headers are written by `downlink`.

use crate::codec::{self, FrameInfo};
use crate::extensions::{self, BlockWriter, ELEMENTS_MAX, Elements};
use crate::media::{CANONICAL, Codec, Encoding, ExtensionMap, Layer};
use crate::sequence::{SequenceSpace, SourceSequence};
use std::collections::VecDeque;
use std::fmt;
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

/// Version 2, no padding, no extension (the block writer sets X), no CSRCs.
pub(crate) fn write_fixed_header(buf: &mut [u8], header: &RtpHeader) {
    buf[0] = 0x80;
    buf[1] = header.payload_type & 0x7F | if header.marker { 0x80 } else { 0 };
    buf[2..4].copy_from_slice(&header.sequence.to_be_bytes());
    buf[4..8].copy_from_slice(&header.timestamp.to_be_bytes());
    buf[8..12].copy_from_slice(&header.ssrc.to_be_bytes());
}

/// What the packet is and where it goes, beyond its own bytes.
#[derive(Clone, Copy, Debug)]
pub struct PacketOrigin {
    pub arrival: Instant,
    pub encoding: Encoding,
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
    /// `sequence` extended by its source.
    pub extended_sequence: SourceSequence,
    pub timestamp: u32,
    pub payload_type: u8,
    pub marker: bool,
    pub encoding: Encoding,
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

impl fmt::Debug for RtpPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RtpPacket")
            .field("ssrc", &self.ssrc)
            .field("sequence", &self.extended_sequence.0)
            .field("timestamp", &self.timestamp)
            .field("layer", &self.layer)
            .field("keyframe", &self.frame.keyframe)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl RtpPacket {
    const ELEMENTS: usize = 5;

    fn empty(origin: PacketOrigin) -> Self {
        RtpPacket {
            arrival: origin.arrival,
            ssrc: 0,
            sequence: 0,
            extended_sequence: SourceSequence::default(),
            timestamp: 0,
            payload_type: 0,
            marker: false,
            encoding: origin.encoding,
            layer: origin.layer,
            codec: origin.codec,
            frame: FrameInfo::default(),
            audio_level: None,
            elements: Default::default(),
            elements_len: 0,
            header_len: 0,
            len: 0,
            buf: [0; PACKET_BYTES_MAX],
        }
    }

    fn fill(
        &mut self,
        data: &[u8],
        header: &RtpHeader,
        map: &ExtensionMap,
        origin: PacketOrigin,
    ) -> Result<(), PacketError> {
        let payload = data.get(header.payload.clone()).ok_or(PacketError::Truncated)?;
        self.arrival = origin.arrival;
        self.encoding = origin.encoding;
        self.layer = origin.layer;
        self.codec = origin.codec;
        self.ssrc = header.ssrc;
        self.sequence = header.sequence;
        self.extended_sequence = SourceSequence::default();
        self.timestamp = header.timestamp;
        self.payload_type = header.payload_type;
        self.marker = header.marker;
        write_fixed_header(&mut self.buf, header);
        let end = self.fill_extensions(data, header, map).ok_or(PacketError::TooLong)?;
        self.header_len = end as u16;
        let len = end + payload.len();
        self.buf
            .get_mut(end..len)
            .ok_or(PacketError::TooLong)?
            .copy_from_slice(payload);
        self.len = len as u16;
        self.audio_level = self
            .extension(CANONICAL.audio_level)
            .and_then(|value| value.first())
            .map(|level| AudioLevel {
                minus_dbov: level & 0x7F,
                voice: level & 0x80 != 0,
            });
        self.frame = codec::inspect(self.codec, payload, self.dependency_descriptor());
        Ok(())
    }

    /// Copies the extensions that are forwarded, under canonical ids; returns the header's length.
    fn fill_extensions(&mut self, data: &[u8], header: &RtpHeader, map: &ExtensionMap) -> Option<usize> {
        let kept = || {
            header
                .elements(data)
                .filter_map(|(id, value)| Some((extensions::canonical_id(map, id)?, value)))
        };
        self.elements_len = 0;
        let two_byte = kept().any(|(id, value)| extensions::needs_two_bytes(id, value.len()));
        let mut writer = BlockWriter::new(&mut self.buf, FIXED_HEADER, two_byte);
        let mut seen = 0u16;
        for (id, value) in kept() {
            // A repeated id is a client's bug; the first counts.
            if seen & (1 << id) != 0 || usize::from(self.elements_len) == Self::ELEMENTS {
                continue;
            }
            seen |= 1 << id;
            let start = writer.push(id, value)?;
            self.elements[usize::from(self.elements_len)] = (id, start as u16, value.len() as u8);
            self.elements_len += 1;
        }
        writer.finish()
    }

    pub fn space(&self) -> SequenceSpace {
        SequenceSpace {
            encoding: self.encoding,
            ssrc: self.ssrc,
        }
    }

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
        self.extensions()
            .find(|(id, _)| Some(*id) == canonical)
            .map(|(_, value)| value)
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
    /// Retired here, still held elsewhere; oldest first.
    held: VecDeque<Packet>,
    max: usize,
    allocated: u64,
}

impl PacketPool {
    /// Keeps at most `idle_max` unused buffers of about 1.6 KB each.
    pub fn new(idle_max: usize) -> Self {
        PacketPool {
            idle: Vec::new(),
            held: VecDeque::new(),
            max: idle_max,
            allocated: 0,
        }
    }

    /// Buffers made since the start: constant in steady state.
    pub fn allocated(&self) -> u64 {
        self.allocated
    }

    /// Gives a packet back, usually one that a ring has just dropped. Only the pool that built it should get it:
    /// two pools that both wait for the other's last reference would never reuse it.
    pub fn retire(&mut self, mut packet: Packet) {
        if Arc::get_mut(&mut packet).is_some() {
            if self.idle.len() < self.max {
                self.idle.push(packet);
            }
        } else if self.held.len() < self.max {
            self.held.push_back(packet);
        }
    }

    /// Parses a packet that came over a link ([`RtpPacket::link_bytes`]).
    ///
    /// # Errors
    /// When the bytes are not RTP.
    pub fn parse_link(&mut self, data: &[u8], origin: PacketOrigin) -> Result<Packet, PacketError> {
        let header = RtpHeader::parse(data)?;
        self.build(data, &header, &CANONICAL, origin)
    }

    /// Copies a received packet into a pooled buffer and normalises it. `header` says what to take from `data` and may
    /// differ from what is written there (a restored RTX packet). `extended_sequence` is left 0: the source numbers it.
    ///
    /// # Errors
    /// When the packet does not fit.
    pub fn build(
        &mut self,
        data: &[u8],
        header: &RtpHeader,
        map: &ExtensionMap,
        origin: PacketOrigin,
    ) -> Result<Packet, PacketError> {
        let mut packet = self.take(origin);
        // `take` only returns packets that nobody else holds.
        let filled = match Arc::get_mut(&mut packet) {
            Some(unique) => unique.fill(data, header, map, origin),
            None => Err(PacketError::TooLong),
        };
        match filled {
            Ok(()) => Ok(packet),
            Err(error) => {
                self.retire(packet);
                Err(error)
            }
        }
    }

    fn take(&mut self, origin: PacketOrigin) -> Packet {
        if let Some(packet) = self.idle.pop() {
            return packet;
        }
        // Two looks are enough to drain `held` faster than one packet per call fills it.
        for _ in 0..2 {
            let Some(mut packet) = self.held.pop_front() else { break };
            if Arc::get_mut(&mut packet).is_some() {
                return packet;
            }
            self.held.push_back(packet);
        }
        self.allocated += 1;
        Arc::new(RtpPacket::empty(origin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn origin(codec: Codec) -> PacketOrigin {
        PacketOrigin {
            arrival: Instant::now(),
            encoding: Encoding(1),
            layer: Layer(1),
            codec,
        }
    }

    /// One CSRC, one-byte extensions 1 (level), 3 (mid), 4 (unknown), 2 bytes of payload, 3 of padding.
    const SAMPLE: [u8; 37] = [
        0xB1,
        0x80 | 96,
        0x12,
        0x34,
        0,
        0,
        0,
        9,
        0,
        0,
        0,
        7,
        1,
        2,
        3,
        4,
        0xBE,
        0xDE,
        0,
        2,
        0x10,
        0x85,
        0x30,
        b'0',
        0x42,
        1,
        2,
        3,
        0xAA,
        0xBB,
        0xCC,
        0xDD,
        0xEE,
        0xFF,
        0,
        0,
        3,
    ];

    #[test]
    fn a_packet_is_normalised_to_canonical_extensions_without_csrc_and_padding() {
        let map = ExtensionMap {
            audio_level: Some(1),
            mid: Some(3),
            ..ExtensionMap::default()
        };
        let header = RtpHeader::parse(&SAMPLE).unwrap();
        assert_eq!((header.sequence, header.ssrc, header.marker), (0x1234, 7, true));
        assert_eq!(
            header.elements(&SAMPLE).collect::<Vec<_>>(),
            vec![(1, &[0x85][..]), (3, b"0"), (4, &[1, 2, 3])]
        );
        let packet = PacketPool::new(4)
            .build(&SAMPLE, &header, &map, origin(Codec::Opus))
            .unwrap();
        assert_eq!(packet.payload(), &SAMPLE[28..34]);
        assert_eq!(
            packet.audio_level,
            Some(AudioLevel {
                minus_dbov: 5,
                voice: true
            })
        );
        assert_eq!(packet.extensions().collect::<Vec<_>>(), vec![(1, &[0x85][..])]);
        let link = packet.link_bytes();
        assert_eq!(link[0], 0x90, "extension, no padding, no CSRC");
        let again = PacketPool::new(4).parse_link(link, origin(Codec::Opus)).unwrap();
        assert_eq!(again.link_bytes(), link);
    }

    #[test]
    fn long_extensions_keep_the_two_byte_form() {
        let mut data = vec![0x90, 45, 0, 1, 0, 0, 0, 9, 0, 0, 0, 7, 0x10, 0x00, 0, 6, 200, 20];
        data.extend([5; 20]);
        data.extend([0, 0, 0x18, 1, 2]);
        let map = ExtensionMap {
            dependency_descriptor: Some(200),
            ..ExtensionMap::default()
        };
        let header = RtpHeader::parse(&data).unwrap();
        let packet = PacketPool::new(4)
            .build(&data, &header, &map, origin(Codec::Av1))
            .unwrap();
        assert_eq!(packet.dependency_descriptor(), Some(&[5; 20][..]));
        assert!(packet.frame.keyframe);
        let again = PacketPool::new(4)
            .parse_link(packet.link_bytes(), origin(Codec::Av1))
            .unwrap();
        assert_eq!(again.dependency_descriptor(), Some(&[5; 20][..]));
    }

    #[test]
    fn impossible_lengths_are_refused() {
        assert_eq!(RtpHeader::parse(&[0x80; 11]), Err(PacketError::NotRtp));
        assert_eq!(RtpHeader::parse(&[0x40; 12]), Err(PacketError::NotRtp));
        assert_eq!(RtpHeader::parse(&[0x8F; 14]), Err(PacketError::Truncated));
        let mut zero_padding = [0u8; 13];
        zero_padding[0] = 0xA0;
        assert_eq!(RtpHeader::parse(&zero_padding), Err(PacketError::Truncated));
        let mut big = vec![0; 2_000];
        big[0] = 0x80;
        let mut pool = PacketPool::new(4);
        assert_eq!(
            pool.parse_link(&big, origin(Codec::Opus)).unwrap_err(),
            PacketError::TooLong
        );
    }

    #[test]
    fn a_buffer_is_reused_once_its_last_holder_let_go() {
        let mut pool = PacketPool::new(4);
        let first = pool.parse_link(&SAMPLE, origin(Codec::Opus)).unwrap();
        let elsewhere = first.clone();
        pool.retire(first);
        let second = pool.parse_link(&SAMPLE, origin(Codec::Opus)).unwrap();
        assert_eq!(pool.allocated(), 2);
        drop(elsewhere);
        let third = pool.parse_link(&SAMPLE, origin(Codec::Opus)).unwrap();
        pool.retire(second);
        let fourth = pool.parse_link(&SAMPLE, origin(Codec::Opus)).unwrap();
        assert_eq!(pool.allocated(), 2);
        drop((third, fourth));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic_and_survive_a_link(
            mut data in prop::collection::vec(any::<u8>(), 0..200),
            kind in 0usize..6,
        ) {
            if let Some(first) = data.first_mut() {
                *first = *first & 0x3F | 0x80;
            }
            let codec = [
                Codec::Opus, Codec::Red, Codec::Vp8, Codec::Vp9 { profile: 0 }, Codec::Av1,
                Codec::H264 { profile_level_id: 0x42e01f, packetization_mode: 1 },
            ][kind];
            let mut pool = PacketPool::new(4);
            if let Ok(packet) = pool.parse_link(&data, origin(codec)) {
                let again = pool.parse_link(packet.link_bytes(), origin(codec)).unwrap();
                prop_assert_eq!(again.link_bytes(), packet.link_bytes());
                prop_assert_eq!(again.payload(), packet.payload());
                prop_assert_eq!(again.frame, packet.frame);
            }
        }
    }
}
