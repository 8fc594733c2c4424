//! Receive statistics of one encoding (RFC 3550 §6.4.1, appendix A), and rates over time.

use crate::rtcp::ReportBlock;
use crate::sequence::SourceSequence;
use std::time::{Duration, Instant};

/// Loss and jitter as a receiver report tells them. RTX is not counted: the sender should see what the network lost.
#[derive(Debug)]
pub(crate) struct ReceiveStats {
    clock_rate_hz: u32,
    epoch: Instant,
    first: Option<u64>,
    highest: u64,
    received: u64,
    expected_before: u64,
    received_before: u64,
    transit: Option<u32>,
    /// Times 16.
    jitter_q4: u32,
    pub(crate) fraction_lost: u8,
    last_sr: Option<(u32, Instant)>,
}

impl ReceiveStats {
    pub(crate) fn new(now: Instant, clock_rate_hz: u32) -> Self {
        ReceiveStats {
            clock_rate_hz,
            epoch: now,
            first: None,
            highest: 0,
            received: 0,
            expected_before: 0,
            received_before: 0,
            transit: None,
            jitter_q4: 0,
            fraction_lost: 0,
            last_sr: None,
        }
    }

    pub(crate) fn received(&mut self, now: Instant, sequence: SourceSequence, timestamp: u32) {
        let sequence = sequence.0;
        let first = *self.first.get_or_insert(sequence);
        self.first = Some(first.min(sequence));
        self.highest = self.highest.max(sequence);
        self.received += 1;
        let elapsed_us = now.saturating_duration_since(self.epoch).as_micros();
        let arrival = (elapsed_us * u128::from(self.clock_rate_hz) / 1_000_000) as u32;
        let transit = arrival.wrapping_sub(timestamp);
        if let Some(before) = self.transit.replace(transit) {
            let difference = (transit.wrapping_sub(before) as i32).unsigned_abs();
            // A timestamp jump (mute, restart) is not jitter.
            if difference < self.clock_rate_hz {
                self.jitter_q4 = self.jitter_q4 + difference - ((self.jitter_q4 + 8) >> 4);
            }
        }
    }

    pub(crate) fn sender_report(&mut self, now: Instant, ntp: u64) {
        self.last_sr = Some(((ntp >> 16) as u32, now));
    }

    pub(crate) fn jitter_ms(&self) -> u32 {
        (u64::from(self.jitter_q4 >> 4) * 1_000 / u64::from(self.clock_rate_hz.max(1))) as u32
    }

    pub(crate) fn expected(&self) -> u64 {
        self.first.map_or(0, |first| self.highest - first + 1)
    }

    pub(crate) fn lost(&self) -> i64 {
        self.expected() as i64 - self.received as i64
    }

    /// The block for a receiver report, and the start of the next interval. `None` when nothing arrived since the last.
    pub(crate) fn report(&mut self, now: Instant, ssrc: u32) -> Option<ReportBlock> {
        if self.received == self.received_before {
            return None;
        }
        let expected = self.expected() - self.expected_before.min(self.expected());
        let lost = expected.saturating_sub(self.received - self.received_before);
        self.fraction_lost = (lost * 256 / expected.max(1)).min(255) as u8;
        self.expected_before = self.expected();
        self.received_before = self.received;
        Some(ReportBlock {
            ssrc,
            fraction_lost: self.fraction_lost,
            cumulative_lost: self.lost().clamp(-0x80_0000, 0x7F_FFFF) as i32,
            // Our own numbering begins in its second cycle, RFC 3550's in the first.
            highest_sequence: (self.highest - (self.first.unwrap_or(0) >> 16 << 16)) as u32,
            jitter: self.jitter_q4 >> 4,
            last_sr: self.last_sr.map_or(0, |(ntp, _)| ntp),
            delay_since_last_sr: self.last_sr.map_or(0, |(_, at)| {
                (now.saturating_duration_since(at).as_micros() * 65_536 / 1_000_000) as u32
            }),
        })
    }
}

/// Bytes per second over windows of about half a second.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    window: Option<Instant>,
    bytes: u64,
    bps: u32,
    peak_bps: u32,
}

impl Rate {
    const WINDOW: Duration = Duration::from_millis(500);

    pub(crate) fn add(&mut self, now: Instant, bytes: usize) {
        let start = *self.window.get_or_insert(now);
        let elapsed = now.saturating_duration_since(start);
        if elapsed >= Self::WINDOW {
            let bps = (self.bytes * 8_000 / elapsed.as_millis().max(1) as u64) as u32;
            self.bps = if self.bps == 0 { bps } else { self.bps / 2 + bps / 2 };
            self.peak_bps = self.bps.max(self.peak_bps - self.peak_bps / 32);
            self.window = Some(now);
            self.bytes = 0;
        }
        self.bytes += bytes as u64;
    }

    /// The most it was lately: halves in eleven seconds of less, and stays while nothing comes.
    pub(crate) fn peak_bps(&self) -> u32 {
        self.peak_bps
    }

    /// 0 when nothing came for four windows.
    pub(crate) fn bps(&self, now: Instant) -> u32 {
        match self.window {
            Some(start) if now.saturating_duration_since(start) < 4 * Self::WINDOW => self.bps,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_loss_of_its_interval_and_in_total() {
        let start = Instant::now();
        let mut stats = ReceiveStats::new(start, 90_000);
        assert_eq!(stats.report(start, 7), None);
        for sequence in (65_536 + 100..65_536 + 200).filter(|s| s % 4 != 0) {
            stats.received(start, SourceSequence(sequence), 0);
        }
        stats.sender_report(start, 0x1111_2222_3333_4444);
        let block = stats.report(start + Duration::from_millis(500), 7).unwrap();
        // The first (100) was lost as well, which a receiver cannot know.
        assert_eq!(
            (block.cumulative_lost, block.fraction_lost),
            (24, (24 * 256 / 99) as u8)
        );
        assert_eq!(block.highest_sequence, 199);
        assert_eq!((block.last_sr, block.delay_since_last_sr), (0x2222_3333, 32_768));
        stats.received(start, SourceSequence(65_536 + 200), 0);
        assert_eq!(stats.report(start, 7).unwrap().fraction_lost, 0);
        assert_eq!(stats.report(start, 7), None);
    }

    #[test]
    fn jitter_follows_rfc_3550() {
        let start = Instant::now();
        let mut stats = ReceiveStats::new(start, 90_000);
        // Every second packet 10 ms late: |D| = 900 each time, so the estimate converges to 900 units = 10 ms.
        for n in 0..200u32 {
            let late = if n % 2 == 0 { 0 } else { 10 };
            stats.received(
                start + Duration::from_millis(u64::from(20 * n + late)),
                SourceSequence(1_000 + u64::from(n)),
                1_800 * n,
            );
        }
        assert!((9..=10).contains(&stats.jitter_ms()), "{}", stats.jitter_ms());
    }

    #[test]
    fn a_rate_is_what_arrived_lately() {
        let start = Instant::now();
        let mut rate = Rate::default();
        for ms in 0..2_000 {
            rate.add(start + Duration::from_millis(ms), 125);
        }
        let now = start + Duration::from_millis(2_000);
        assert!((990_000..1_010_000).contains(&rate.bps(now)), "{}", rate.bps(now));
        assert_eq!(rate.bps(now + Duration::from_secs(5)), 0);
        assert!(rate.peak_bps() >= 990_000, "a slide that stands still will move again");
    }
}
