//! Delay-based congestion control for a link: uncapped at a ceiling normally, cut when a queue grows, deaf to random loss.
//!
//! Cubic and Reno are unusable at 1 % random loss, BBR does not control application-limited traffic (spec/links.md, facts
//! 1 and 2, where the numbers below come from). The QUIC library can express only a window and paces at 1.25 × window /
//! srtt, so window = rate × srtt. One controller per connection; the quinn shell shares it between quinn and the engine.
//!
//! On a busy machine either end may be held up for tens of milliseconds between the kernel and this code. That makes ACKs late,
//! but all at once after a pause, where a queue on the path delivers without pause: `DelayController::queued`.
//!
//! After a cut of the path from 24 to 12 Mbit/s the numbers here gave an added delay of p50 1.9 ms, p99 3.6 ms.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

const ROUND: Duration = Duration::from_millis(50);
/// A queue of which at least this much is certain for two rounds is congestion.
const QUEUE_HIGH: Duration = Duration::from_millis(15);
/// Above this, one round is enough.
const QUEUE_VERY_HIGH: Duration = Duration::from_millis(35);
/// If its packets were sent over at least this long: one burst may have been held up between taking the time and the system call.
const ROUND_SPAN_MIN: Duration = Duration::from_millis(12);
/// Above this the cut is deeper.
const QUEUE_DEEP: Duration = Duration::from_millis(60);
const CUT: f64 = 0.85;
const CUT_DEEP: f64 = 0.7;
const CUT_SPACING: Duration = Duration::from_millis(50);
const RECOVERY: f64 = 1.02;
const CALM: Duration = Duration::from_millis(200);
const BOTTLENECK_MEMORY: Duration = Duration::from_secs(5);
const BOTTLENECK_SHARE: f64 = 0.97;
/// Loss below this is taken for random.
const LOSS_HIGH: f64 = 0.20;
const LOSS_SAMPLE_BYTES: u64 = 60_000;
/// A round with fewer acknowledged packets proves no queue: a delayed ACK looks like one.
const ROUND_PACKETS_MIN: u32 = 4;
/// After this long without any ACK the first round measures our own stall, not the path.
const STALL: Duration = Duration::from_millis(100);
/// ACKs within this time came at once.
const BURST: Duration = Duration::from_millis(5);
const DELIVERED_ROUNDS: usize = 4;
/// The base delay is the minimum of the last 20–30 s.
const BASE_BUCKET: Duration = Duration::from_secs(10);
const BASE_BUCKETS: usize = 3;
/// Cuts in a row that did not shorten the queue: then it is the path that became longer.
const FUTILE_CUTS: u32 = 3;
/// Below this srtt the window is set as if it were this long: ACK delay and timers dominate on short paths.
const SRTT_MIN: Duration = Duration::from_millis(20);
const WINDOW_MIN: u64 = 16 * 1452;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControllerConfig {
    /// Rate while nothing says otherwise, in bit/s.
    pub ceiling_bps: u64,
    /// Never below this, in bit/s, whatever floor the traffic asks for.
    pub minimum_bps: u64,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        ControllerConfig {
            ceiling_bps: 200_000_000,
            minimum_bps: 300_000,
        }
    }
}

/// What one connection may send. Fed by acknowledgements, read as a window and a target rate.
#[derive(Debug)]
pub struct DelayController {
    config: ControllerConfig,
    target_bps: f64,
    /// Audio and base layers: congestion control never goes below.
    floor_bps: f64,
    srtt: Duration,
    base: VecDeque<(Instant, Duration)>,
    round: Round,
    queue: Duration,
    last_ack: Option<Instant>,
    burst: Option<Burst>,
    /// When ACKs came again after a stall or an outage.
    resumed: Option<Instant>,
    /// (duration, bytes) of the last finished rounds.
    delivered: VecDeque<(Duration, u64)>,
    high_rounds: u32,
    calm_since: Option<Instant>,
    last_cut: Option<Cut>,
    futile_cuts: u32,
    loss_bytes: u64,
    sample_bytes: u64,
}

/// ACKs that came at once.
#[derive(Clone, Copy, Debug)]
struct Burst {
    began: Instant,
    /// When the last ACK before it came.
    before: Instant,
}

#[derive(Debug)]
struct Round {
    start: Instant,
    queue_min: Option<Duration>,
    /// When its first and last packets were sent.
    sent: Option<(Instant, Instant)>,
    packets: u32,
    bytes: u64,
    /// Holds an ACK that came after a stall.
    stalled: bool,
}

#[derive(Clone, Copy, Debug)]
struct Cut {
    at: Instant,
    queue: Duration,
    /// Delivered rate when cut, in bit/s.
    bottleneck_bps: f64,
}

impl Round {
    fn new(start: Instant) -> Round {
        Round {
            start,
            queue_min: None,
            sent: None,
            packets: 0,
            bytes: 0,
            stalled: false,
        }
    }
}

impl DelayController {
    pub fn new(now: Instant, config: ControllerConfig) -> DelayController {
        let config = ControllerConfig {
            minimum_bps: config.minimum_bps.min(config.ceiling_bps),
            ..config
        };
        DelayController {
            config,
            target_bps: config.ceiling_bps as f64,
            floor_bps: config.minimum_bps as f64,
            srtt: Duration::from_millis(100),
            base: VecDeque::with_capacity(BASE_BUCKETS),
            round: Round::new(now),
            queue: Duration::ZERO,
            last_ack: None,
            burst: None,
            resumed: None,
            delivered: VecDeque::with_capacity(DELIVERED_ROUNDS),
            high_rounds: 0,
            calm_since: None,
            last_cut: None,
            futile_cuts: 0,
            loss_bytes: 0,
            sample_bytes: 0,
        }
    }

    /// A packet of `bytes`, sent at `sent`, was acknowledged. `srtt` is the connection's smoothed round trip.
    pub fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, srtt: Duration) {
        self.srtt = srtt;
        let delay = now.saturating_duration_since(sent);
        if self
            .last_ack
            .is_some_and(|last| now.saturating_duration_since(last) > STALL)
        {
            self.round = Round::new(now);
            self.round.stalled = true;
            // What was lost before the ACKs came back was lost to an outage, and says nothing about the rate.
            self.resumed = Some(now);
            (self.loss_bytes, self.sample_bytes) = (0, 0);
        }
        self.learn_base(now, delay);
        let queued = self.queued(now, sent);
        self.last_ack = Some(now);
        self.round.queue_min = Some(self.round.queue_min.map_or(queued, |min| min.min(queued)));
        self.round.sent = Some(
            self.round
                .sent
                .map_or((sent, sent), |(a, b)| (a.min(sent), b.max(sent))),
        );
        self.round.packets += 1;
        self.round.bytes += bytes;
        self.sample_bytes += bytes;
        if now.saturating_duration_since(self.round.start) >= ROUND {
            self.finish_round(now);
        }
    }

    /// Packets of `bytes` in total were declared lost, the latest of them sent at `sent`.
    pub fn on_loss(&mut self, now: Instant, sent: Instant, bytes: u64) {
        if self.resumed.is_some_and(|resumed| sent < resumed) {
            return;
        }
        self.loss_bytes += bytes;
        self.sample_bytes += bytes;
        self.judge_loss(now);
    }

    /// Rate of audio and base layers, in bit/s: the target never goes below.
    pub fn set_floor(&mut self, bps: u64) {
        self.floor_bps = bps.clamp(self.config.minimum_bps, self.config.ceiling_bps) as f64;
        self.target_bps = self.target_bps.max(self.floor_bps);
    }

    /// Lowers or raises the ceiling, in bit/s.
    pub fn set_ceiling(&mut self, bps: u64) {
        let unlimited = self.target_bps >= self.config.ceiling_bps as f64;
        self.config.ceiling_bps = bps.max(self.config.minimum_bps);
        let ceiling = self.config.ceiling_bps as f64;
        self.target_bps = if unlimited {
            ceiling
        } else {
            self.target_bps.min(ceiling)
        };
    }

    /// Bytes that may be in flight.
    pub fn window(&self) -> u64 {
        ((self.target_bps / 8.0 * self.srtt.max(SRTT_MIN).as_secs_f64()) as u64).max(WINDOW_MIN)
    }

    /// Rate the path is trusted with, in bit/s.
    pub fn target_bps(&self) -> u64 {
        self.target_bps as u64
    }

    /// Queue on the path in the last round.
    pub fn queue_delay(&self) -> Duration {
        self.queue
    }

    /// Acknowledged rate over the last rounds, in bit/s.
    pub fn delivered_bps(&self) -> u64 {
        self.delivered_rate() as u64
    }

    /// Smoothed round trip as the connection sees it.
    pub fn srtt(&self) -> Duration {
        self.srtt
    }

    /// How long a packet acknowledged now was in a queue for certain. A queue delivers all the time. Where nothing came for a while
    /// and then much at once, somebody was held up (a process that waited for its turn on a busy machine, at either end), and
    /// what should have come meanwhile says nothing: only being late already when the pause began is a queue's doing.
    fn queued(&mut self, now: Instant, sent: Instant) -> Duration {
        let last = self.last_ack.unwrap_or(now);
        let burst = match self.burst {
            Some(burst) if now.saturating_duration_since(burst.began) < BURST => burst,
            _ => Burst {
                began: now,
                before: last,
            },
        };
        self.burst = Some(burst);
        burst.before.saturating_duration_since(sent + self.base())
    }

    fn learn_base(&mut self, now: Instant, delay: Duration) {
        match self.base.back_mut() {
            Some((since, min)) if now.saturating_duration_since(*since) < BASE_BUCKET => *min = delay.min(*min),
            _ => {
                if self.base.len() == BASE_BUCKETS {
                    self.base.pop_front();
                }
                self.base.push_back((now, delay));
            }
        }
    }

    fn base(&self) -> Duration {
        self.base.iter().map(|(_, delay)| *delay).min().unwrap_or_default()
    }

    fn delivered_rate(&self) -> f64 {
        let (time, bytes) = self
            .delivered
            .iter()
            .fold((0.0, 0), |(t, b), (d, n)| (t + d.as_secs_f64(), b + n));
        if time > 0.0 { bytes as f64 * 8.0 / time } else { 0.0 }
    }

    fn finish_round(&mut self, now: Instant) {
        let round = std::mem::replace(&mut self.round, Round::new(now));
        if self.delivered.len() == DELIVERED_ROUNDS {
            self.delivered.pop_front();
        }
        self.delivered
            .push_back((now.saturating_duration_since(round.start), round.bytes));
        let queue = round.queue_min.unwrap_or_default();
        if queue > QUEUE_HIGH && (round.stalled || round.packets < ROUND_PACKETS_MIN) {
            return;
        }
        let falling = queue + Duration::from_millis(2) < self.queue;
        self.queue = queue;
        if queue > QUEUE_HIGH {
            self.high_rounds += 1;
            self.calm_since = None;
        } else {
            self.high_rounds = 0;
            self.calm_since.get_or_insert(now);
        }
        let span = round.sent.map_or(Duration::ZERO, |(first, last)| last - first);
        let very_high = queue > QUEUE_VERY_HIGH && span >= ROUND_SPAN_MIN;
        if !falling && (self.high_rounds >= 2 || very_high) {
            self.congested(now, queue);
        }
        self.judge_loss(now);
        if self
            .calm_since
            .is_some_and(|since| now.saturating_duration_since(since) >= CALM)
        {
            self.recover(now);
        }
    }

    fn judge_loss(&mut self, now: Instant) {
        if self.sample_bytes < LOSS_SAMPLE_BYTES {
            return;
        }
        let heavy = self.loss_bytes as f64 > self.sample_bytes as f64 * LOSS_HIGH;
        (self.loss_bytes, self.sample_bytes) = (0, 0);
        if heavy {
            self.cut(now, CUT);
        }
    }

    fn congested(&mut self, now: Instant, queue: Duration) {
        if !self.may_cut(now) {
            return;
        }
        let stuck = self.last_cut.is_some_and(|cut| {
            now.saturating_duration_since(cut.at) < Duration::from_secs(2)
                && queue + Duration::from_millis(3) > cut.queue
                && queue < cut.queue + Duration::from_millis(10)
        });
        self.futile_cuts = if stuck { self.futile_cuts + 1 } else { 0 };
        if self.futile_cuts >= FUTILE_CUTS && self.target_bps > self.floor_bps {
            // Sending less three times changed nothing: no queue of ours, the path is longer now.
            let delay = self.base() + queue;
            self.base.clear();
            self.base.push_back((now, delay));
            self.futile_cuts = 0;
            self.high_rounds = 0;
            return;
        }
        self.cut(now, if queue > QUEUE_DEEP { CUT_DEEP } else { CUT });
    }

    fn may_cut(&self, now: Instant) -> bool {
        self.last_cut
            .is_none_or(|cut| now.saturating_duration_since(cut.at) >= self.srtt + CUT_SPACING)
    }

    fn cut(&mut self, now: Instant, factor: f64) {
        if !self.may_cut(now) {
            return;
        }
        let bottleneck_bps = self.delivered_rate();
        self.target_bps = self.target_bps.min(bottleneck_bps * factor).max(self.floor_bps);
        self.last_cut = Some(Cut {
            at: now,
            queue: self.queue,
            bottleneck_bps,
        });
        self.calm_since = None;
        self.high_rounds = 0;
    }

    fn recover(&mut self, now: Instant) {
        let known = self
            .last_cut
            .filter(|cut| now.saturating_duration_since(cut.at) < BOTTLENECK_MEMORY);
        let limit = known.map_or(f64::INFINITY, |cut| {
            (cut.bottleneck_bps * BOTTLENECK_SHARE).max(self.floor_bps)
        });
        let raised = (self.target_bps * RECOVERY).min(self.config.ceiling_bps as f64);
        if raised <= limit {
            self.target_bps = raised;
        }
    }
}

#[cfg(test)]
mod tests;
