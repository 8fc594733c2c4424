//! What receiver reports say about one outgoing stream.

use super::{DownlinkStats, timeline};
use crate::rtcp::ReportBlock;
use std::time::{Duration, Instant};

#[derive(Clone, Debug, Default)]
pub(super) struct Reports {
    /// Our last two sender reports (middle 32 bits of NTP), newest first: a report block may answer either.
    sent: [Option<(u32, Instant)>; 2],
    fraction_lost: u8,
    cumulative_lost: i32,
    jitter_ms: u32,
    rtt: Option<Duration>,
}

impl Reports {
    pub(super) fn sent(&mut self, now: Instant, ntp: u64) {
        self.sent = [Some(((ntp >> 16) as u32, now)), self.sent[0]];
    }

    pub(super) fn received(&mut self, now: Instant, block: &ReportBlock, clock_rate_hz: u32) {
        self.fraction_lost = block.fraction_lost;
        self.cumulative_lost = block.cumulative_lost;
        self.jitter_ms = (u64::from(block.jitter) * 1_000 / u64::from(clock_rate_hz.max(1))) as u32;
        let answered = |sent: &&(u32, Instant)| sent.0 == block.last_sr && block.last_sr != 0;
        if let Some((_, at)) = self.sent.iter().flatten().find(answered) {
            self.rtt = Some(timeline::round_trip(now, *at, block.delay_since_last_sr));
        }
    }

    pub(super) fn stats(&self) -> DownlinkStats {
        DownlinkStats {
            fraction_lost: self.fraction_lost,
            cumulative_lost: self.cumulative_lost,
            jitter_ms: self.jitter_ms,
            rtt: self.rtt,
            ..DownlinkStats::default()
        }
    }
}
