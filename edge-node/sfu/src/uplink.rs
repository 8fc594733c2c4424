//! One published track on its publisher's shard: RTX undone, duplicates dropped, losses NACKed, receive statistics kept,
//! packets stored in the [`Source`]. It writes RTCP towards the publisher; it knows nothing of subscribers.

use crate::media::{Layer, SenderReportInfo, TrackId, UplinkMedia};
use crate::packet::{Packet, PacketPool};
use crate::receiver::Incoming;
use crate::source::Source;
use std::time::{Duration, Instant};

/// Counters of one layer since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UplinkStats {
    pub packets: u64,
    pub bytes: u64,
    pub duplicates: u64,
    /// Packets missing at the last report that never came, RTX included (RFC 3550 cumulative lost).
    pub lost: u64,
    /// Holes filled by RTX.
    pub repaired: u64,
    pub nacks_sent: u64,
    pub plis_sent: u64,
    /// Interarrival jitter in milliseconds (RFC 3550 §6.4.1).
    pub jitter_ms: u32,
    /// Share of packets lost in the last report interval, 0–255.
    pub fraction_lost: u8,
    pub bitrate_bps: u32,
}

pub struct Uplink {
    track: TrackId,
    media: UplinkMedia,
    source: Source,
}

impl Uplink {
    pub fn new(track: TrackId, media: UplinkMedia) -> Self {
        let source = Source::new(media.kind);
        Uplink { track, media, source }
    }
    pub fn track(&self) -> TrackId {
        self.track
    }
    pub fn media(&self) -> &UplinkMedia {
        &self.media
    }
    /// The section was negotiated again (payload types or extension ids may differ).
    pub fn update(&mut self, media: UplinkMedia) {
        self.media = media;
    }
    pub fn source(&self) -> &Source {
        &self.source
    }
    pub fn source_mut(&mut self) -> &mut Source {
        &mut self.source
    }
    /// While muted, packets are accounted for but neither stored nor forwarded.
    pub fn set_muted(&mut self, _muted: bool) {}
    /// Round-trip time to the publisher, for the NACK interval. Default 100 ms.
    pub fn set_rtt(&mut self, _rtt: Duration) {}

    /// Takes a packet that [`crate::UplinkReceiver`] routed here. `data` is the same slice. Returns the packet to hand to
    /// every shard's downlinks, restored when it came as RTX; `None` = duplicate, probe padding, muted or unreadable.
    pub fn handle_rtp(&mut self, _now: Instant, _incoming: &Incoming, _data: &[u8], _pool: &mut PacketPool) -> Option<Packet> {
        None
    }
    /// A sender report of this layer's SSRC arrived.
    pub fn handle_sender_report(&mut self, _now: Instant, _layer: Layer, _report: SenderReportInfo) {}
    /// Somebody needs a keyframe (aggregated, ≥ 500 ms apart per layer). Sent by the next `poll_feedback`.
    pub fn request_keyframe(&mut self, _now: Instant, _layer: Layer) {}

    /// Appends due NACKs and PLIs. Call after a batch of packets, after `request_keyframe`, and at `poll_timeout`.
    pub fn poll_feedback(&mut self, _now: Instant, _feedback_ssrc: u32, _out: &mut Vec<u8>) -> bool {
        false
    }
    /// When `poll_feedback` has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    /// Report blocks for the periodic receiver report, one per layer that sent since the last call.
    pub fn report_blocks(&mut self, _now: Instant, _out: &mut Vec<crate::rtcp::ReportBlock>) {}
    pub fn stats(&self, _layer: Layer, _now: Instant) -> UplinkStats {
        UplinkStats::default()
    }
}
