//! Delay: groups of packets, the trend of their delay, the queue they stood in, and what the link delivered meanwhile.

use super::sent::SentPacket;
use std::collections::VecDeque;

/// Packets sent within this time of the first are one group (GCC §3: 5 ms bursts), µs.
const GROUP_US: u64 = 5_000;
/// Groups kept: at least 640 ms of them.
const GROUPS: usize = 128;
/// Groups in a regression, gain, and smoothing of the accumulated delay (libwebrtc's trendline estimator).
const WINDOW: usize = 20;
const GAIN: f64 = 4.0;
const SMOOTHING: f64 = 0.9;
/// The trend is multiplied with the number of groups seen, up to this.
const GROUPS_COUNT_MAX: f64 = 60.0;
/// The adaptive threshold (GCC §5.4, Carlucci et al. §4.2): start, bounds in ms, and how fast it follows.
const THRESHOLD_START: f64 = 12.5;
const THRESHOLD_MIN: f64 = 6.0;
const THRESHOLD_MAX: f64 = 600.0;
const THRESHOLD_UP: f64 = 0.0087;
const THRESHOLD_DOWN: f64 = 0.039;
/// Beyond the threshold by more than this is a spike it does not learn from.
const THRESHOLD_SPIKE: f64 = 15.0;
/// A trend above the threshold for less than this is not overuse yet.
const OVERUSE_MS: f64 = 10.0;
/// A queue this long that does not fall is overuse, whatever the trend says, µs. Above what Wi-Fi's own aggregation makes.
const QUEUE_US: i64 = 60_000;
/// Falling means by more than this from group to group, µs.
const QUEUE_NOISE_US: i64 = 5_000;
/// The least delay is that of this time or the one before it: clocks drift, routes change, µs.
const BASE_SPAN_US: u64 = 20_000_000;
/// A queue that stays for this long although the rate fell is not ours: the path is that long now, or others fill it. µs.
const FOREIGN_QUEUE_US: u64 = 2_000_000;
/// It stays if it does not fall below this share of itself meanwhile.
const STAYS: f64 = 0.7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usage {
    Normal,
    /// A queue is draining.
    Under,
    Over,
}

/// What went through the link over some span.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Throughput {
    pub(super) sent_bps: f64,
    pub(super) delivered_bps: f64,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    first_sent_us: u64,
    first_arrival_us: i64,
    bytes: u32,
}

#[derive(Debug)]
pub(super) struct DelayDetector {
    groups: VecDeque<Group>,
    trend: Trend,
    base: BaseDelay,
    queue_us: i64,
    /// Group delays past [`QUEUE_US`] on end.
    standing: u32,
    /// Since when, and how long it was then.
    standing_since: Option<(u64, i64)>,
    usage: Usage,
}

impl Default for DelayDetector {
    fn default() -> Self {
        DelayDetector {
            groups: VecDeque::new(),
            trend: Trend::default(),
            base: BaseDelay::default(),
            queue_us: 0,
            standing: 0,
            standing_since: None,
            usage: Usage::Normal,
        }
    }
}

impl DelayDetector {
    /// Packets in the order they were sent; late ones (reordered) count for their group's bytes only.
    pub(super) fn received(&mut self, packet: &SentPacket, arrival_us: i64) {
        if let Some(group) = self.groups.back_mut() {
            if packet.at_us < group.first_sent_us + GROUP_US {
                group.bytes += packet.bytes;
                return;
            }
            let (before, sent) = (group.first_arrival_us, group.first_sent_us);
            let arrived_ms = (arrival_us - before) as f64 / 1e3;
            let sent_ms = (packet.at_us - sent) as f64 / 1e3;
            // Groups of a probe are above the estimate on purpose: their queue is no news about it.
            if packet.cluster == 0 {
                self.trend.add(arrived_ms, sent_ms, arrival_us);
            }
        }
        if self.groups.len() == GROUPS {
            self.groups.pop_front();
        }
        self.groups.push_back(Group {
            first_sent_us: packet.at_us,
            first_arrival_us: arrival_us,
            bytes: packet.bytes,
        });
        self.note_queue(packet.at_us, arrival_us - packet.at_us as i64);
        self.judge();
    }

    fn note_queue(&mut self, sent_us: u64, transit_us: i64) {
        let queue = transit_us - self.base.least(sent_us, transit_us);
        let falling = queue < self.queue_us - QUEUE_NOISE_US;
        if queue < QUEUE_US {
            (self.standing, self.standing_since) = (0, None);
        } else {
            let (since, then) = *self.standing_since.get_or_insert((sent_us, queue));
            if (queue as f64) < STAYS * then as f64 {
                self.standing_since = Some((sent_us, queue));
            }
            self.standing = if falling { 0 } else { self.standing + 1 };
            if queue as f64 >= STAYS * then as f64 && sent_us.saturating_sub(since) > FOREIGN_QUEUE_US {
                self.base.forget(sent_us, transit_us);
                (self.standing, self.standing_since) = (0, None);
            }
        }
        self.queue_us = queue;
    }

    fn judge(&mut self) {
        let usage = if self.standing >= 2 || self.trend.usage == Usage::Over {
            Usage::Over
        } else {
            self.trend.usage
        };
        // Overuse anywhere in a feedback is overuse; otherwise its newest group counts.
        if self.usage != Usage::Over {
            self.usage = usage;
        }
    }

    /// What the feedback said, once.
    pub(super) fn take_usage(&mut self) -> Usage {
        let usage = self.usage;
        self.usage = if self.standing_since.is_some() {
            Usage::Under
        } else {
            Usage::Normal
        };
        usage
    }

    /// After a fall of the rate the old trend must not cause another.
    pub(super) fn forget_uncongested_trend(&mut self, usage: Usage) {
        if usage == Usage::Over {
            self.trend.restart();
            self.standing = 0;
        }
    }

    /// Delay above the least lately, of the newest group.
    pub(super) fn queue_us(&self) -> i64 {
        self.queue_us
    }

    /// What was sent and what arrived over about `span_us` up to the newest group; `None` before there is as much as half of that.
    pub(super) fn throughput(&self, span_us: u64) -> Option<Throughput> {
        let newest = self.groups.back()?;
        let mut bytes = 0u64;
        let mut oldest = newest;
        for group in self.groups.iter().rev().skip(1) {
            bytes += u64::from(group.bytes);
            oldest = group;
            if newest.first_arrival_us - group.first_arrival_us >= span_us as i64 {
                break;
            }
        }
        let sent_us = newest.first_sent_us.saturating_sub(oldest.first_sent_us);
        let arrived_us = u64::try_from(newest.first_arrival_us - oldest.first_arrival_us).unwrap_or(0);
        let bps = |us: u64| bytes as f64 * 8e6 / us as f64;
        (sent_us.max(arrived_us) >= span_us / 2 && sent_us > 0 && arrived_us > 0).then(|| Throughput {
            sent_bps: bps(sent_us),
            delivered_bps: bps(arrived_us),
        })
    }
}

/// The regression of accumulated delay over time, against its threshold.
#[derive(Debug)]
struct Trend {
    /// (arrival ms, smoothed accumulated delay ms), oldest first.
    points: VecDeque<(f64, f64)>,
    zero_us: Option<i64>,
    accumulated_ms: f64,
    smoothed_ms: f64,
    groups: f64,
    threshold: f64,
    threshold_at: Option<f64>,
    over_for_ms: f64,
    overs: u32,
    previous: f64,
    usage: Usage,
}

impl Default for Trend {
    fn default() -> Self {
        Trend {
            points: VecDeque::new(),
            zero_us: None,
            accumulated_ms: 0.0,
            smoothed_ms: 0.0,
            groups: 0.0,
            threshold: THRESHOLD_START,
            threshold_at: None,
            over_for_ms: 0.0,
            overs: 0,
            previous: 0.0,
            usage: Usage::Normal,
        }
    }
}

impl Trend {
    fn add(&mut self, arrived_ms: f64, sent_ms: f64, arrival_us: i64) {
        let zero = *self.zero_us.get_or_insert(arrival_us);
        let at_ms = (arrival_us - zero) as f64 / 1e3;
        self.groups += 1.0;
        self.accumulated_ms += arrived_ms - sent_ms;
        self.smoothed_ms = SMOOTHING * self.smoothed_ms + (1.0 - SMOOTHING) * self.accumulated_ms;
        self.points.push_back((at_ms, self.smoothed_ms));
        if self.points.len() > WINDOW {
            self.points.pop_front();
        }
        let slope = if self.points.len() == WINDOW {
            slope(&self.points)
        } else {
            0.0
        };
        self.detect(slope, sent_ms, at_ms);
    }

    fn detect(&mut self, slope: f64, sent_ms: f64, at_ms: f64) {
        let trend = self.groups.min(GROUPS_COUNT_MAX) * slope * GAIN;
        if trend > self.threshold {
            // The first time it is assumed to have risen halfway between two groups.
            self.over_for_ms += if self.overs == 0 { sent_ms / 2.0 } else { sent_ms };
            self.overs += 1;
            if self.over_for_ms > OVERUSE_MS && self.overs > 1 && slope >= self.previous {
                (self.over_for_ms, self.overs) = (0.0, 0);
                self.usage = Usage::Over;
            }
        } else {
            (self.over_for_ms, self.overs) = (0.0, 0);
            self.usage = if trend < -self.threshold {
                Usage::Under
            } else {
                Usage::Normal
            };
        }
        self.previous = slope;
        self.adapt(trend.abs(), at_ms);
    }

    fn adapt(&mut self, trend: f64, at_ms: f64) {
        let before = self.threshold_at.replace(at_ms).unwrap_or(at_ms);
        if trend > self.threshold + THRESHOLD_SPIKE {
            return;
        }
        let gain = if trend < self.threshold {
            THRESHOLD_DOWN
        } else {
            THRESHOLD_UP
        };
        let elapsed = (at_ms - before).clamp(0.0, 100.0);
        self.threshold =
            (self.threshold + gain * (trend - self.threshold) * elapsed).clamp(THRESHOLD_MIN, THRESHOLD_MAX);
    }

    /// Begins again, with what was learnt about the threshold.
    fn restart(&mut self) {
        *self = Trend {
            threshold: self.threshold,
            ..Trend::default()
        };
    }
}

fn slope(points: &VecDeque<(f64, f64)>) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let (mut over, mut under) = (0.0, 0.0);
    for point in points {
        over += (point.0 - x) * (point.1 - y);
        under += (point.0 - x).powi(2);
    }
    if under > 0.0 { over / under } else { 0.0 }
}

/// The least transit of the present span and the one before.
#[derive(Debug, Default)]
struct BaseDelay {
    begun_us: u64,
    present: Option<i64>,
    before: Option<i64>,
}

impl BaseDelay {
    fn least(&mut self, sent_us: u64, transit_us: i64) -> i64 {
        if sent_us.saturating_sub(self.begun_us) > BASE_SPAN_US {
            self.begun_us = sent_us;
            self.before = self.present.take();
        }
        let present = self.present.map_or(transit_us, |least| least.min(transit_us));
        self.present = Some(present);
        self.before.map_or(present, |before| before.min(present))
    }

    fn forget(&mut self, sent_us: u64, transit_us: i64) {
        *self = BaseDelay {
            begun_us: sent_us,
            present: Some(transit_us),
            before: None,
        };
    }
}
