//! Transport-wide congestion control feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01).

use std::time::Instant;

/// Feedback about one publishing peer's packets. Normally used through [`crate::UplinkReceiver`].
pub struct TwccReceiver {}

impl TwccReceiver {
    pub fn new(_now: Instant) -> Self {
        TwccReceiver {}
    }
    pub fn record(&mut self, _now: Instant, _sequence: u16, _media_ssrc: u32) {}
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    pub fn poll(&mut self, _now: Instant, _feedback_ssrc: u32, _out: &mut Vec<u8>) -> bool {
        false
    }
}

/// Parsed feedback (RTCP 205/15).
#[derive(Clone, Copy, Debug)]
pub struct Feedback<'a> {
    pub sender_ssrc: u32,
    pub media_ssrc: u32,
    pub base_sequence: u16,
    /// Number of sequence numbers covered.
    pub count: u16,
    /// Multiples of 64 ms.
    pub reference_time: i32,
    pub feedback_count: u8,
    pub(crate) body: &'a [u8],
}
