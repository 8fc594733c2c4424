//! RTP time across layer switches, and sender reports. Every encoding has its own random RTP clock offset; sender reports say
//! how each relates to the publisher's NTP clock (RFC 3550 §6.4.1), and through it to the others.

use crate::media::SenderReportInfo;
use std::time::{Duration, Instant};

/// What was sent last, in the subscriber's RTP time.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastFrame {
    pub(super) timestamp: u32,
    pub(super) arrival: Instant,
}

/// The clock of one encoding.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamClock {
    pub(super) report: SenderReportInfo,
    /// Outgoing minus source timestamp.
    pub(super) offset: u32,
}

/// The outgoing timestamp of the first frame of a new layer: exact by sender reports of both encodings when they are
/// plausible, else by arrival. Always after the last frame, even if both encode the same instant.
pub(super) fn continue_at(
    timestamp: u32,
    arrival: Instant,
    last: LastFrame,
    old: Option<StreamClock>,
    new: Option<SenderReportInfo>,
    clock_rate_hz: u32,
) -> u32 {
    let waited = arrival.saturating_duration_since(last.arrival);
    let by_arrival = last.timestamp.wrapping_add(ticks(waited, clock_rate_hz));
    let aligned = match (old, new) {
        (Some(old), Some(new)) => {
            let captured_ntp = add_ticks(new.ntp, timestamp.wrapping_sub(new.rtp_timestamp) as i32, clock_rate_hz);
            let old_clock = ntp_to_ticks(captured_ntp.wrapping_sub(old.report.ntp) as i64, clock_rate_hz)
                .wrapping_add(old.report.rtp_timestamp);
            let exact = old_clock.wrapping_add(old.offset);
            // More than a second off: one of the reports is stale or wrong.
            let plausible = (exact.wrapping_sub(by_arrival) as i32).unsigned_abs() <= clock_rate_hz;
            if plausible { exact } else { by_arrival }
        }
        _ => by_arrival,
    };
    if (aligned.wrapping_sub(last.timestamp) as i32) <= 0 {
        last.timestamp.wrapping_add(1)
    } else {
        aligned
    }
}

/// Round-trip time from a report block (RFC 3550 §6.4.1): `sent` is when the report with `last_sr` was sent.
pub(super) fn round_trip(now: Instant, sent: Instant, delay_since_last_sr: u32) -> Duration {
    let delay = Duration::from_nanos(u64::from(delay_since_last_sr) * 1_000_000_000 / 65_536);
    now.saturating_duration_since(sent).saturating_sub(delay)
}

fn ticks(elapsed: Duration, clock_rate_hz: u32) -> u32 {
    (elapsed.as_nanos() * u128::from(clock_rate_hz) / 1_000_000_000) as u32
}

fn add_ticks(ntp: u64, ticks: i32, clock_rate_hz: u32) -> u64 {
    ntp.wrapping_add(((i64::from(ticks) << 32) / i64::from(clock_rate_hz.max(1))) as u64)
}

fn ntp_to_ticks(ntp: i64, clock_rate_hz: u32) -> u32 {
    ((i128::from(ntp) * i128::from(clock_rate_hz)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u32 = 90_000;

    #[test]
    fn layers_with_different_clocks_meet_at_the_same_capture_time() {
        let now = Instant::now();
        // Old layer: RTP 1000 at NTP 10 s, sent with offset 500. New layer: RTP 4,000,000,000 at NTP 10.5 s.
        let old = StreamClock {
            report: SenderReportInfo {
                ntp: 10 << 32,
                rtp_timestamp: 1_000,
            },
            offset: 500,
        };
        let new = SenderReportInfo {
            ntp: (10 << 32) + (1 << 31),
            rtp_timestamp: 4_000_000_000,
        };
        // Last sent: old frame captured at 10.8 s; the new frame at 10.833 s arrives 100 ms late.
        let last = LastFrame {
            timestamp: 1_500 + 72_000,
            arrival: now,
        };
        let timestamp = 4_000_000_000 + 30_000; // 10.5 s + 333 ms
        let out = continue_at(
            timestamp,
            now + Duration::from_millis(133),
            last,
            Some(old),
            Some(new),
            HZ,
        );
        let exact = 1_500 + 75_000;
        assert!(out.abs_diff(exact) <= 1, "{out} against {exact}");
        let blind = continue_at(timestamp, now + Duration::from_millis(133), last, None, Some(new), HZ);
        assert_eq!(blind, last.timestamp + 11_970);
        let stale = StreamClock {
            report: SenderReportInfo {
                ntp: 2 << 32,
                ..old.report
            },
            ..old
        };
        assert_eq!(
            continue_at(
                timestamp,
                now + Duration::from_millis(133),
                last,
                Some(stale),
                Some(new),
                HZ
            ),
            blind
        );
    }

    #[test]
    fn time_never_stands_still_or_runs_back() {
        let now = Instant::now();
        let last = LastFrame {
            timestamp: u32::MAX,
            arrival: now,
        };
        assert_eq!(continue_at(7, now, last, None, None, HZ), 0);
    }

    #[test]
    fn a_report_stays_on_its_line() {
        let report = SenderReportInfo {
            ntp: 10 << 32,
            rtp_timestamp: u32::MAX - 44_999,
        };
        let later = report.later(Duration::from_millis(1_500), HZ);
        assert_eq!(
            later,
            SenderReportInfo {
                ntp: (11 << 32) + (1 << 31),
                rtp_timestamp: 90_000
            }
        );
    }

    #[test]
    fn the_round_trip_excludes_the_receivers_delay() {
        let sent = Instant::now();
        assert_eq!(
            round_trip(sent + Duration::from_millis(600), sent, 32_768),
            Duration::from_millis(100)
        );
        assert_eq!(round_trip(sent, sent, u32::MAX), Duration::ZERO);
    }
}
