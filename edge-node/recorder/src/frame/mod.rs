//! Payloads of one RTP stream, in order and without holes, joined to frames as Matroska stores them.

mod av1;
mod bits;
mod h264;
mod vp8;
mod vp9;

use meridian_sfu::{Codec, RtpPacket};

/// A frame is not longer than this; a 4K keyframe stays below. Longer ones are dropped as malformed.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// What a decoder must know before the first frame. A change starts a new segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Format {
    /// Pixels; `None` for audio and while no keyframe has told it.
    pub size: Option<(u16, u16)>,
    /// Matroska's CodecPrivate; empty if the codec has none.
    pub private: Vec<u8>,
}

/// A whole frame.
#[derive(Debug)]
pub struct Frame<'a> {
    pub timestamp: u32,
    /// A decoder can start here.
    pub keyframe: bool,
    pub data: &'a [u8],
    pub format: &'a Format,
}

/// What came of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    Good,
    /// Its payload makes no sense, or its frame is too long: the frame is dropped, and nothing after it decodes until a keyframe.
    Malformed,
}

struct Malformed;

/// Per codec: takes payloads of one frame, one after the other.
enum Payloads {
    /// One payload is one frame: Opus, also out of RED.
    Whole,
    Vp8,
    Vp9(vp9::Picture),
    H264(h264::Units),
    Av1(av1::Units),
}

/// Joins the packets of one RTP stream to frames.
pub struct Assembler {
    payloads: Payloads,
    format: Format,
    data: Vec<u8>,
    timestamp: u32,
    keyframe: bool,
    /// A frame is being joined.
    open: bool,
    /// What comes of this timestamp belongs to a frame whose beginning is lost.
    dropped: Option<u32>,
}

impl Assembler {
    /// `None` for codecs that are not recorded.
    pub fn new(codec: Codec) -> Option<Assembler> {
        let mut format = Format::default();
        let payloads = match codec {
            Codec::Opus | Codec::Red => {
                format.private = opus_head().to_vec();
                Payloads::Whole
            }
            Codec::Vp8 => Payloads::Vp8,
            Codec::Vp9 { .. } => Payloads::Vp9(vp9::Picture::default()),
            Codec::H264 { .. } => Payloads::H264(h264::Units::default()),
            Codec::Av1 => Payloads::Av1(av1::Units::default()),
            Codec::Pcmu | Codec::Pcma => return None,
        };
        Some(Assembler {
            payloads,
            format,
            data: Vec::new(),
            timestamp: 0,
            keyframe: false,
            open: false,
            dropped: None,
        })
    }

    /// Takes the next packet; gives at most two frames: one that ended without a marker, and one that ends with this packet.
    pub fn push(&mut self, packet: &RtpPacket, give: &mut impl FnMut(Frame<'_>)) -> Push {
        if packet.is_padding_only() {
            return Push::Good;
        }
        if self.open && packet.timestamp != self.timestamp {
            self.end(give);
        }
        if self.dropped == Some(packet.timestamp) {
            return Push::Good;
        }
        self.dropped = None;
        if !self.open {
            self.begin(packet);
        }
        self.keyframe |= packet.frame.keyframe;
        if self.append(packet).is_err() || self.data.len() > FRAME_BYTES_MAX {
            self.lost();
            self.dropped = Some(packet.timestamp);
            return Push::Malformed;
        }
        if packet.marker || matches!(self.payloads, Payloads::Whole) {
            self.end(give);
        }
        Push::Good
    }

    /// Packets before the next one are lost: what was begun is dropped, and the rest of it, should it come.
    pub fn lost(&mut self) {
        if self.open {
            self.dropped = Some(self.timestamp);
        }
        self.open = false;
        self.data.clear();
    }

    fn begin(&mut self, packet: &RtpPacket) {
        self.open = true;
        self.timestamp = packet.timestamp;
        self.keyframe = matches!(self.payloads, Payloads::Whole);
        self.data.clear();
        match &mut self.payloads {
            Payloads::Whole | Payloads::Vp8 => {}
            Payloads::Vp9(picture) => picture.begin(),
            Payloads::H264(units) => units.begin(),
            Payloads::Av1(units) => units.begin(),
        }
    }

    fn append(&mut self, packet: &RtpPacket) -> Result<(), Malformed> {
        let (payload, data) = (packet.payload(), &mut self.data);
        match &mut self.payloads {
            Payloads::Whole => {
                let from = packet.frame.red_primary.map_or(0, usize::from);
                data.extend_from_slice(payload.get(from..).ok_or(Malformed)?);
                Ok(())
            }
            Payloads::Vp8 => {
                data.extend_from_slice(vp8::frame_part(payload).ok_or(Malformed)?);
                Ok(())
            }
            Payloads::Vp9(picture) => picture.push(payload, data),
            Payloads::H264(units) => units.push(payload, data),
            Payloads::Av1(units) => units.push(payload, data),
        }
    }

    fn end(&mut self, give: &mut impl FnMut(Frame<'_>)) {
        self.open = false;
        match &mut self.payloads {
            Payloads::Whole => {}
            Payloads::Vp8 => {
                if self.keyframe {
                    self.format.size = vp8::size(&self.data).or(self.format.size);
                }
            }
            Payloads::Vp9(picture) => picture.end(&mut self.data, &mut self.format),
            Payloads::H264(units) => {
                units.end(&mut self.format);
                self.keyframe &= units.has_idr();
            }
            Payloads::Av1(units) => {
                units.end(&mut self.format);
                self.keyframe &= units.has_sequence_header();
            }
        }
        if !self.data.is_empty() {
            give(Frame {
                timestamp: self.timestamp,
                keyframe: self.keyframe,
                data: &self.data,
                format: &self.format,
            });
        }
        self.data.clear();
    }
}

/// The identification header of Opus (RFC 7845 §5.1): stereo decodes mono streams as well; 312 samples of pre-skip are what encoders of
/// WebRTC look ahead.
fn opus_head() -> [u8; 19] {
    let mut head = *b"OpusHead\x01\x02\0\0\x80\xbb\0\0\0\0\0";
    head[10..12].copy_from_slice(&OPUS_PRE_SKIP.to_le_bytes());
    head
}

/// Samples of 48 kHz that a decoder drops at the beginning.
pub(crate) const OPUS_PRE_SKIP: u16 = 312;
