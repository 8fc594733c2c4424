//! When a frame was taken, by the edge's clock: from the packets' arrival until the publisher's sender reports (RFC 3550 §6.4.1) tell
//! how its streams stand to each other.

use std::collections::VecDeque;

use meridian_sfu::SenderReportInfo;

use crate::WallMs;

/// Reports whose delays are compared. At one a second, the fastest of the last 16 s.
const REPORTS: usize = 16;
/// NTP counts from 1900, Unix from 1970.
const NTP_TO_UNIX_S: i64 = 2_208_988_800;

/// The publisher's NTP clock, as far as it is known: shared by all streams of one participant, so that lips and words stay together.
#[derive(Default)]
pub struct PublisherClock {
    /// Edge's time less publisher's, milliseconds, of the last reports: the least is the one that travelled fastest.
    offsets_ms: VecDeque<i64>,
}

impl PublisherClock {
    /// A sender report of any of the publisher's streams, as it arrived.
    pub fn report(&mut self, wall: WallMs, report: SenderReportInfo) {
        if self.offsets_ms.len() == REPORTS {
            self.offsets_ms.pop_front();
        }
        self.offsets_ms.push_back(wall.0 - ntp_unix_ms(report.ntp));
    }

    fn to_wall(&self, publisher_unix_ms: i64) -> Option<WallMs> {
        let offset = self.offsets_ms.iter().min()?;
        Some(WallMs(publisher_unix_ms + offset))
    }
}

/// One stream's RTP timestamps on the edge's time.
pub(crate) struct StreamClock {
    rate_hz: u32,
    /// The first packet's timestamp and arrival.
    anchor: Option<(u32, WallMs)>,
    report: Option<SenderReportInfo>,
}

impl StreamClock {
    pub(crate) fn new(rate_hz: u32) -> StreamClock {
        StreamClock {
            rate_hz,
            anchor: None,
            report: None,
        }
    }

    pub(crate) fn report(&mut self, report: SenderReportInfo) {
        self.report = Some(report);
    }

    pub(crate) fn arrived(&mut self, timestamp: u32, wall: WallMs) {
        let Some((at, anchored)) = self.anchor else {
            self.anchor = Some((timestamp, wall));
            return;
        };
        let ticks = timestamp.wrapping_sub(at) as i32;
        let expected = WallMs(anchored.0 + self.ticks_to_ms(ticks));
        if wall < expected {
            // The earliest line through any packet: one that was held up says nothing.
            self.anchor = Some((timestamp, wall));
        } else if ticks.unsigned_abs() > 1 << 30 {
            // Moved along the same line before the difference of timestamps changes its sign.
            self.anchor = Some((timestamp, expected));
        }
    }

    /// When this timestamp was sampled; `None` before the first packet.
    pub(crate) fn at(&self, timestamp: u32, publisher: &PublisherClock) -> Option<WallMs> {
        if let Some(report) = self.report {
            let since = self.ticks_to_ms(timestamp.wrapping_sub(report.rtp_timestamp) as i32);
            if let Some(wall) = publisher.to_wall(ntp_unix_ms(report.ntp) + since) {
                return Some(wall);
            }
        }
        let (at, wall) = self.anchor?;
        Some(WallMs(wall.0 + self.ticks_to_ms(timestamp.wrapping_sub(at) as i32)))
    }

    fn ticks_to_ms(&self, ticks: i32) -> i64 {
        i64::from(ticks) * 1000 / i64::from(self.rate_hz)
    }
}

fn ntp_unix_ms(ntp: u64) -> i64 {
    let seconds = (ntp >> 32) as i64 - NTP_TO_UNIX_S;
    let fraction_ms = ((ntp & 0xFFFF_FFFF) * 1000) >> 32;
    seconds * 1000 + fraction_ms as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(unix_ms: i64, rtp_timestamp: u32) -> SenderReportInfo {
        let seconds = (unix_ms / 1000 + NTP_TO_UNIX_S) as u64;
        let fraction = ((unix_ms % 1000) as u64) << 32;
        SenderReportInfo {
            ntp: seconds << 32 | fraction.div_ceil(1000),
            rtp_timestamp,
        }
    }

    #[test]
    fn arrival_serves_until_a_report_tells_and_then_both_streams_of_a_publisher_stand_on_one_line() {
        let mut publisher = PublisherClock::default();
        let mut audio = StreamClock::new(48_000);
        let mut video = StreamClock::new(90_000);
        // Sampled together, but the picture took 200 ms longer (an encoder, a queue).
        audio.arrived(1_000, WallMs(50_000));
        video.arrived(9_000, WallMs(50_200));
        assert_eq!(audio.at(1_000 + 48, &publisher), Some(WallMs(50_001)));
        assert_eq!(video.at(9_000, &publisher), Some(WallMs(50_200)));
        // The publisher's clock runs five seconds ahead; reports took 30 and 20 ms.
        audio.report(report(55_000, 1_000));
        publisher.report(WallMs(50_030), report(55_000, 1_000));
        video.report(report(55_000, 9_000));
        publisher.report(WallMs(50_020), report(55_000, 9_000));
        assert_eq!(audio.at(1_000, &publisher), Some(WallMs(50_020)));
        assert_eq!(video.at(9_000, &publisher), Some(WallMs(50_020)));
        assert_eq!(video.at(9_000 + 90_000, &publisher), Some(WallMs(51_020)));
    }

    #[test]
    fn timestamps_wrap_and_a_held_up_first_packet_does_not_stay_the_measure() {
        let mut clock = StreamClock::new(90_000);
        let publisher = PublisherClock::default();
        clock.arrived(u32::MAX - 89_999, WallMs(1_500));
        clock.arrived(0, WallMs(2_000));
        assert_eq!(clock.at(90_000, &publisher), Some(WallMs(3_000)));
        let mut timestamp = 0u32;
        // Thirty hours, well past 2^32 ticks.
        for hour in 1..=30i64 {
            timestamp = timestamp.wrapping_add(90_000 * 3600);
            clock.arrived(timestamp, WallMs(2_000 + hour * 3_600_000));
            assert_eq!(clock.at(timestamp, &publisher), Some(WallMs(2_000 + hour * 3_600_000)));
        }
    }
}
