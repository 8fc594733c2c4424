//! One subscription: which layer it gets, and its outgoing RTP stream. Layers are switched at keyframes only; the stream
//! the subscriber sees has one SSRC, continuous sequence numbers, timestamps and picture ids whatever happens upstream.
//! Encryption is the shard's. An (SSRC, sequence) is never written twice: repeats go out as RTX (RFC 4588) only.

mod continuity;
mod history;
mod repeat;
mod report;
mod rewrite;
mod select;
mod timeline;

use self::continuity::Counters;
use self::history::{History, Mapping};
use self::repeat::{CREDIT_MAX, CREDIT_START};
use self::report::Reports;
use self::rewrite::{OutExtensions, Outgoing};
use self::select::Selection;
use self::timeline::LastFrame;
use crate::allocation::Grant;
use crate::layers::Demand;
use crate::media::{Codec, ExtensionMap, Layer, MediaKind, PayloadType};
use crate::packet::RtpPacket;
use crate::rtcp::{ReportBlock, SenderReport};
use crate::sequence::OutSequence;
use crate::source::Source;
use std::time::{Duration, Instant};

/// Numbers remembered as sent, back from the highest.
const WINDOW: u32 = 64;
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

/// How a source's codec appears to this subscriber.
#[derive(Clone, Copy, Debug)]
struct Format {
    codec: Codec,
    payload_type: u8,
    rtx: Option<u8>,
    /// The subscriber did not negotiate RED: it gets the primary block as plain Opus.
    strip_red: bool,
}

/// A packet of the source with its place in what this subscriber gets.
#[derive(Clone, Copy)]
struct Numbered<'a> {
    packet: &'a RtpPacket,
    mapping: &'a Mapping,
    sequence: OutSequence,
    format: Format,
}

/// Hot state of one subscription (a test keeps it ≤ 1 KB).
pub struct Downlink {
    kind: MediaKind,
    muted: bool,
    send_mid: bool,
    ssrc: u32,
    rtx_ssrc: Option<u32>,
    format: Option<Format>,
    extensions: OutExtensions,
    selection: Selection,
    history: History,
    /// Highest outgoing sequence number, and which of the 64 up to it were sent.
    highest: OutSequence,
    sent: u64,
    last: Option<LastFrame>,
    counters: Counters,
    /// Timestamp of the frame that is being left out (temporal layers).
    dropped_frame: Option<u32>,
    next_rtx: u16,
    credit: u16,
    packets: u64,
    bytes: u64,
    retransmitted: u64,
    unanswered: u64,
    switches: u32,
    reports: Reports,
    payloads: Box<[PayloadType]>,
}

impl Downlink {
    pub fn new(config: DownlinkConfig) -> Self {
        Downlink {
            kind: config.kind,
            muted: false,
            send_mid: true,
            ssrc: config.ssrc,
            rtx_ssrc: config.rtx_ssrc,
            format: None,
            extensions: OutExtensions::new(&config),
            selection: Selection::new(),
            history: History::new(),
            highest: OutSequence((1u32 << 16 | u32::from(config.first_sequence)) - 1),
            sent: 0,
            last: None,
            counters: Counters::default(),
            dropped_frame: None,
            next_rtx: config.first_rtx_sequence,
            credit: CREDIT_START,
            packets: 0,
            bytes: 0,
            retransmitted: 0,
            unanswered: 0,
            switches: 0,
            reports: Reports::default(),
            payloads: config.payloads.into(),
        }
    }

    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    pub fn rtx_ssrc(&self) -> Option<u32> {
        self.rtx_ssrc
    }

    /// A new answer changed payload types, extensions or mid of this section (SSRCs stay).
    pub fn renegotiate(&mut self, config: &DownlinkConfig) {
        self.extensions = OutExtensions::new(config);
        self.payloads = config.payloads.clone().into();
        self.format = None;
        self.send_mid = true;
    }

    pub fn demand(&self) -> Demand {
        self.selection.demand
    }

    /// Takes effect at once when it needs no keyframe; otherwise when one arrives. Poll for keyframe requests afterwards.
    pub fn set_demand(&mut self, demand: Demand, source: &Source) {
        if !demand.enabled {
            self.selection.stop();
        }
        self.selection.demand = demand;
        self.selection.retarget(source);
    }

    /// What the subscriber's link has room for. Less takes effect at the next keyframe of a lower layer, until then the present one goes on
    /// with its lowest frame rate; `Paused` at once. Poll for keyframe requests afterwards.
    pub fn set_grant(&mut self, grant: Grant, source: &Source) {
        if grant == self.selection.grant {
            return;
        }
        if grant == Grant::Paused {
            self.selection.stop();
        }
        self.selection.grant = grant;
        self.selection.retarget(source);
    }

    /// Whether a packet of its track may be for this subscriber, at present or once it switches: cheap, and sometimes wrong upwards.
    pub fn may_take(&self, packet: &RtpPacket) -> bool {
        let layer = Some(packet.layer);
        self.selection.current == layer || self.selection.target == layer || packet.frame.keyframe
    }

    pub fn grant(&self) -> Grant {
        self.selection.grant
    }

    pub fn kind(&self) -> MediaKind {
        self.kind
    }

    /// Packets were left out on their way to the subscriber: nothing more of this stream until a keyframe.
    pub fn interrupt(&mut self) {
        self.selection.stop();
    }

    /// The publisher muted or unmuted: after unmuting, video starts again at a keyframe, numbers stay continuous.
    pub fn set_muted(&mut self, muted: bool) {
        if muted != self.muted {
            self.selection.stop();
        }
        self.muted = muted;
    }

    /// Chooses the target layer again from what is live. Call every ~100 ms.
    pub fn handle_timeout(&mut self, _now: Instant, source: &Source) {
        self.selection.retarget(source);
    }

    /// A layer whose keyframe this subscription waits for, when it is time to (re)ask: pass it to
    /// [`Source::request_keyframe`] / [`crate::Uplink::request_keyframe`]. Backs off 500 ms → 2 s.
    pub fn poll_keyframe_request(&mut self, now: Instant) -> Option<Layer> {
        if self.kind == MediaKind::Audio || self.paused() {
            return None;
        }
        self.selection.poll_keyframe_request(now)
    }

    /// PLI or FIR from the subscriber.
    pub fn handle_pli(&mut self, _now: Instant) {
        self.selection.decoder_lost = true;
    }

    /// Writes `packet` as this subscriber must see it, or decides that it is not for them. `source` is the packet's source.
    /// `out` needs [`crate::packet::PACKET_BYTES_MAX`] + 64 bytes.
    pub fn forward(
        &mut self,
        source: &Source,
        packet: &RtpPacket,
        send: &mut SendContext<'_>,
        out: &mut [u8],
    ) -> Option<Forwarded> {
        // The common refusal first: two of three packets of a simulcast track are of other layers.
        let own_layer = self.selection.current == Some(packet.layer);
        let starts = self.kind == MediaKind::Audio || packet.frame.keyframe;
        if !own_layer && !starts || self.paused() {
            return None;
        }
        let format = self.format(packet.codec)?;
        if !own_layer {
            if !self.selection.may_switch(self.kind, source, packet) {
                return None;
            }
            self.switch(source, packet);
        } else if starts && self.selection.interrupted {
            self.switch(source, packet);
        } else if self.is_discontinuous(packet) {
            if !starts {
                self.selection.stop();
                self.selection.retarget(source);
                return None;
            }
            self.switch(source, packet);
        }
        let current = *self.history.current()?;
        let in_current = current.outgoing(packet.extended_sequence);
        let reserved = in_current.precedes(current.out_start);
        let (mapping, sequence) = if reserved {
            let (mapping, sequence) = self.history.of_source(packet.space(), packet.extended_sequence)?;
            (*mapping, sequence)
        } else {
            (current, in_current)
        };
        let numbered = Numbered {
            packet,
            mapping: &mapping,
            sequence,
            format,
        };
        let ahead = sequence.ahead_of(self.highest);
        if ahead <= 0 {
            return self.forward_late(&numbered, send, out);
        }
        // A packet whose number later ones already count with is sent even if it is of no use: it fills the hole.
        if !reserved && self.leaves_out(packet) {
            self.leave_out(packet, current, sequence);
            return None;
        }
        let forwarded = self.write(&numbered, send, out)?;
        self.sent = if ahead as u32 >= WINDOW {
            1
        } else {
            self.sent << ahead | 1
        };
        self.highest = sequence;
        self.credit = (self.credit + 1).min(CREDIT_MAX);
        self.note_sent(packet, &mapping);
        Some(forwarded)
    }

    /// Sender report on the publisher's NTP timeline; `None` until the publisher reported and a packet was sent.
    pub fn sender_report(&mut self, now: Instant, source: &Source) -> Option<SenderReport> {
        self.selection.current?;
        let mapping = self.history.current()?;
        let mut info = source.sender_report_now(now, mapping.space.encoding)?;
        info.rtp_timestamp = info.rtp_timestamp.wrapping_add(mapping.timestamp);
        self.reports.sent(now, info.ntp);
        Some(SenderReport {
            ssrc: self.ssrc,
            info,
            packets: self.packets as u32,
            octets: self.bytes as u32,
        })
    }

    /// A report block about our SSRC.
    pub fn handle_report(&mut self, now: Instant, block: &ReportBlock) {
        // The subscriber knows our SSRC by now: mid can be left out (RFC 8843 §9.2).
        self.send_mid = false;
        let clock_rate_hz = self.format.map_or(90_000, |format| format.codec.clock_rate_hz());
        self.reports.received(now, block, clock_rate_hz);
    }

    pub fn stats(&self) -> DownlinkStats {
        DownlinkStats {
            packets: self.packets,
            bytes: self.bytes,
            retransmitted: self.retransmitted,
            unanswered_nacks: self.unanswered,
            switches: self.switches,
            layer: self.selection.current,
            target: self.selection.target,
            ..self.reports.stats()
        }
    }

    /// The first packet was forwarded.
    pub fn started(&self) -> bool {
        self.last.is_some()
    }

    fn paused(&self) -> bool {
        self.muted || !self.selection.demand.enabled || self.selection.grant == Grant::Paused
    }

    /// The payload type for a codec; `None` when the subscriber did not negotiate it.
    fn format(&mut self, codec: Codec) -> Option<Format> {
        if let Some(format) = self.format.filter(|format| format.codec == codec) {
            return Some(format);
        }
        let find = |wanted: Codec| self.payloads.iter().find(|p| p.codec.compatible_with(wanted));
        let exact = find(codec).map(|p| (p, false));
        let (payload, strip_red) = exact.or_else(|| {
            let opus = (codec == Codec::Red).then(|| find(Codec::Opus))??;
            Some((opus, true))
        })?;
        let rtx = payload
            .rtx_pt
            .filter(|_| self.rtx_ssrc.is_some() && self.kind == MediaKind::Video);
        let format = Format {
            codec,
            payload_type: payload.pt,
            rtx,
            strip_red,
        };
        self.format = Some(format);
        Some(format)
    }

    fn write(&mut self, numbered: &Numbered<'_>, send: &mut SendContext<'_>, out: &mut [u8]) -> Option<Forwarded> {
        let Numbered { packet, format, .. } = *numbered;
        let sequence = numbered.sequence.wire();
        let skip_payload = match packet.frame.red_primary {
            Some(primary) if format.strip_red => usize::from(primary),
            // Unreadable RED cannot become Opus.
            None if format.strip_red => return None,
            _ => 0,
        };
        let outgoing = Outgoing {
            packet,
            mapping: numbered.mapping,
            ssrc: self.ssrc,
            sequence,
            payload_type: format.payload_type,
            send_mid: self.send_mid,
            original_sequence: None,
            skip_payload,
            pad: self.kind == MediaKind::Video,
        };
        let (header_len, len) = rewrite::write(&outgoing, &self.extensions, send, out)?;
        self.packets += 1;
        self.bytes += (len - header_len) as u64;
        Some(Forwarded {
            ssrc: self.ssrc,
            sequence,
            header_len,
            len,
            marker: packet.marker,
            rtx: false,
            late: false,
        })
    }
}

#[cfg(test)]
mod tests;
