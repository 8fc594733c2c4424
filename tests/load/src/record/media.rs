//! What is recorded: a camera (VP8, 25 frames a second of three packets) or a microphone (Opus, 50 packets a second).

use std::time::{Duration, Instant};

use meridian_sfu::packet::{PacketOrigin, PacketPool, RtpHeader};
use meridian_sfu::{Codec, Encoding, ExtensionMap, Layer, Packet, SourceSequence};

pub(super) const VIDEO_PAYLOAD: usize = 1_100;
const VIDEO_PACKETS_A_FRAME: u64 = 3;
const AUDIO_PAYLOAD: usize = 80;
/// A keyframe every so many frames: 4 s.
const KEYFRAME_EVERY: u64 = 100;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Camera,
    Microphone,
}

impl Kind {
    pub(super) fn codec(self) -> Codec {
        match self {
            Kind::Camera => Codec::Vp8,
            Kind::Microphone => Codec::Opus,
        }
    }

    pub(super) fn frame_interval(self) -> Duration {
        match self {
            Kind::Camera => Duration::from_millis(40),
            Kind::Microphone => Duration::from_millis(20),
        }
    }

    pub(super) fn packets_a_frame(self) -> u64 {
        match self {
            Kind::Camera => VIDEO_PACKETS_A_FRAME,
            Kind::Microphone => 1,
        }
    }

    /// RTP packet `index` of a track, as it would come out of SRTP.
    pub(super) fn write(self, index: u64, out: &mut Vec<u8>) {
        let (frame, part) = (index / self.packets_a_frame(), index % self.packets_a_frame());
        let last = part + 1 == self.packets_a_frame();
        let ticks: u64 = if self == Kind::Camera { 3_600 } else { 960 };
        out.clear();
        out.extend_from_slice(&[0x80, 96 | u8::from(last && self == Kind::Camera) << 7]);
        out.extend_from_slice(&(index as u16).to_be_bytes());
        out.extend_from_slice(&((frame * ticks) as u32).to_be_bytes());
        out.extend_from_slice(&[0, 0, 0, 1]);
        let start = out.len();
        if self == Kind::Microphone {
            out.resize(start + AUDIO_PAYLOAD, 0xFC);
            return;
        }
        // Payload descriptor (S in the first packet of a frame) with a picture id; frame header (RFC 6386 §9.1) in the first.
        let id = ((frame & 0x7FFF) as u16 | 0x8000).to_be_bytes();
        out.extend_from_slice(&[if part == 0 { 0x90 } else { 0x80 }, 0x80, id[0], id[1]]);
        if part == 0 && frame.is_multiple_of(KEYFRAME_EVERY) {
            out.extend_from_slice(&[0x10, 0, 0, 0x9D, 0x01, 0x2A, 0x80, 0x02, 0x68, 0x01]);
        } else if part == 0 {
            out.extend_from_slice(&[0x11, 0, 0]);
        }
        out.resize(start + VIDEO_PAYLOAD, 0x5A);
    }
}

/// Makes packets as the SFU holds them.
pub(super) struct Source {
    kind: Kind,
    pool: PacketPool,
    index: u64,
    scratch: Vec<u8>,
}

impl Source {
    pub(super) fn new(kind: Kind) -> Source {
        Source {
            kind,
            pool: PacketPool::new(0),
            index: 0,
            scratch: Vec::new(),
        }
    }

    pub(super) fn next(&mut self, arrival: Instant) -> anyhow::Result<Packet> {
        self.kind.write(self.index, &mut self.scratch);
        let header = RtpHeader::parse(&self.scratch)?;
        let origin = PacketOrigin {
            arrival,
            encoding: Encoding(0),
            layer: Layer(0),
            codec: self.kind.codec(),
        };
        let mut packet = self
            .pool
            .build(&self.scratch, &header, &ExtensionMap::default(), origin)?;
        if let Some(packet) = std::sync::Arc::get_mut(&mut packet) {
            packet.extended_sequence = SourceSequence(65_536 + self.index);
        }
        self.index += 1;
        Ok(packet)
    }
}
