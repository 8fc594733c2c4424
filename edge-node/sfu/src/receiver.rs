//! One publishing peer: which track and layer a datagram belongs to (RFC 8843 §9.2: SSRC, else mid and rid), and the
//! transport-wide feedback about its packets. What happens inside a track is `uplink`'s.

use crate::media::{Layer, TrackId, UplinkMedia};
use crate::packet::RtpHeader;
use std::time::Instant;

/// Where a received packet goes.
#[derive(Clone, Debug)]
pub struct Incoming {
    pub track: TrackId,
    pub layer: Layer,
    /// A retransmission (RFC 4588) on its own SSRC.
    pub repair: bool,
    pub header: RtpHeader,
}

/// Demultiplexer of one peer's incoming RTP.
pub struct UplinkReceiver {
    feedback_ssrc: u32,
}

impl UplinkReceiver {
    /// `feedback_ssrc` is the sender SSRC of our RTCP to this peer.
    pub fn new(_now: Instant, feedback_ssrc: u32) -> Self {
        UplinkReceiver { feedback_ssrc }
    }
    pub fn feedback_ssrc(&self) -> u32 {
        self.feedback_ssrc
    }
    /// Adds a track, or changes it; what was latched stays as long as mid and rids do.
    pub fn publish(&mut self, _track: TrackId, _media: &UplinkMedia) {}
    pub fn unpublish(&mut self, _track: TrackId) {}
    /// Reads a decrypted RTP packet: latches its SSRC, notes it for TWCC. `None` = malformed or of no known track (counted).
    pub fn handle_rtp(&mut self, _now: Instant, _data: &[u8]) -> Option<Incoming> {
        None
    }
    /// The track and layer of a media SSRC: for incoming sender reports.
    pub fn route(&self, _ssrc: u32) -> Option<(TrackId, Layer)> {
        None
    }
    /// Appends one TWCC feedback packet when it is due (≤ 100 ms after the first unreported packet). Call until `false`.
    pub fn poll_twcc(&mut self, _now: Instant, _out: &mut Vec<u8>) -> bool {
        false
    }
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    /// Packets that belonged to no track.
    pub fn unrouted(&self) -> u64 {
        0
    }
}
