//! One subscription: which layer it gets, and its outgoing RTP stream. Layers are switched at keyframes only; the stream
//! the subscriber sees has one SSRC, continuous sequence numbers, timestamps and picture ids whatever happens upstream.
//! Encryption is the shard's. An (SSRC, sequence) is never written twice: repeats go out as RTX (RFC 4588) only.

use crate::layers::Demand;
use crate::media::{ExtensionMap, Layer, MediaKind, PayloadType};
use crate::packet::RtpPacket;
use crate::rtcp::{ReportBlock, SenderReport};
use crate::source::Source;
use std::time::{Duration, Instant};

/// What SDP negotiated for this subscription, and the randomness.
#[derive(Clone, Debug)]
pub struct DownlinkConfig {
    pub kind: MediaKind,
    pub mid: String,
    pub ssrc: u32,
    /// `None` = no retransmission.
    pub rtx_ssrc: Option<u32>,
    pub payloads: Vec<PayloadType>,
    pub extensions: ExtensionMap,
    /// First outgoing sequence number and first RTX sequence number: random (RFC 3550 §5.1), below 2^15.
    pub first_sequence: u16,
    pub first_rtx_sequence: u16,
}

/// What a packet needs from its peer at the moment it is sent.
pub struct SendContext<'a> {
    pub now: Instant,
    /// abs-send-time: 24 bits, 6.18 fixed-point seconds. Same for every packet of a batch.
    pub abs_send_time: u32,
    /// The peer's next transport-wide sequence number; advanced when a packet carries it.
    pub transport_sequence: &'a mut u16,
    /// Pad video packets (P bit) to a multiple of this many bytes, so that packets of a frame share one GSO batch. ≤ 1 = no.
    pub pad_to: usize,
}

/// A packet written to the front of the caller's buffer, ready to be encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarded {
    pub ssrc: u32,
    pub sequence: u16,
    pub header_len: usize,
    /// Header, payload and padding; the SRTP tag is the shard's.
    pub len: usize,
    pub marker: bool,
    /// On the RTX SSRC: use the RTX stream's SRTP state.
    pub rtx: bool,
    /// The sequence number is below one sent before (audio reordered upstream, ≤ 64 back). Never repeated.
    pub late: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DownlinkStats {
    pub packets: u64,
    pub bytes: u64,
    pub retransmitted: u64,
    /// NACKed but no longer in the ring, or over budget.
    pub unanswered_nacks: u64,
    pub switches: u32,
    pub layer: Option<Layer>,
    pub target: Option<Layer>,
    /// From the last receiver report.
    pub fraction_lost: u8,
    pub cumulative_lost: i32,
    pub jitter_ms: u32,
    pub rtt: Option<Duration>,
}

pub struct Downlink {
    ssrc: u32,
}

impl Downlink {
    pub fn new(config: DownlinkConfig) -> Self {
        Downlink { ssrc: config.ssrc }
    }
    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }
    pub fn rtx_ssrc(&self) -> Option<u32> {
        None
    }
    /// A new answer changed payload types, extensions or mid of this section (SSRCs stay).
    pub fn renegotiate(&mut self, _config: &DownlinkConfig) {}
    pub fn demand(&self) -> Demand {
        Demand::default()
    }
    /// Takes effect at once when it needs no keyframe; otherwise when one arrives. Poll for keyframe requests afterwards.
    pub fn set_demand(&mut self, _demand: Demand, _source: &Source) {}
    /// The publisher muted or unmuted: after unmuting, video starts again at a keyframe, numbers stay continuous.
    pub fn set_muted(&mut self, _muted: bool) {}
    /// Chooses the target layer again from what is live. Call every ~100 ms.
    pub fn handle_timeout(&mut self, _now: Instant, _source: &Source) {}
    /// A layer whose keyframe this subscription waits for, when it is time to (re)ask: pass it to
    /// [`Source::request_keyframe`] / [`crate::Uplink::request_keyframe`]. Backs off 500 ms → 2 s.
    pub fn poll_keyframe_request(&mut self, _now: Instant) -> Option<Layer> {
        None
    }
    /// PLI or FIR from the subscriber.
    pub fn handle_pli(&mut self, _now: Instant) {}

    /// Writes `packet` as this subscriber must see it, or decides that it is not for them. `source` is the packet's source.
    /// `out` needs [`crate::packet::PACKET_BYTES_MAX`] + 64 bytes.
    pub fn forward(&mut self, _source: &Source, _packet: &RtpPacket, _send: &mut SendContext<'_>, _out: &mut [u8]) -> Option<Forwarded> {
        None
    }
    /// Answers one NACKed sequence number with an RTX packet. Budgeted; `None` = unknown, gone or no RTX negotiated.
    pub fn retransmit(&mut self, _sequence: u16, _source: &Source, _send: &mut SendContext<'_>, _out: &mut [u8]) -> Option<Forwarded> {
        None
    }
    /// Sender report on the publisher's NTP timeline; `None` until the publisher reported and a packet was sent.
    pub fn sender_report(&mut self, _now: Instant, _source: &Source) -> Option<SenderReport> {
        None
    }
    /// A report block about our SSRC.
    pub fn handle_report(&mut self, _now: Instant, _block: &ReportBlock) {}
    pub fn stats(&self) -> DownlinkStats {
        DownlinkStats::default()
    }
    /// The first packet was forwarded.
    pub fn started(&self) -> bool {
        false
    }
}
