//! The estimate itself: additive and multiplicative increase, decrease to what the link delivers, quick recovery.

use super::delay::{Throughput, Usage};
use super::{RATE_MAX_BPS, RATE_MIN_BPS, RATE_START_BPS};

/// Decrease to this share of what was delivered (GCC §5.5: β), if there is no queue to speak of.
const BETA: f64 = 0.85;
/// A queue that has to drain takes more: one over this many µs of it, down to [`DRAIN_MIN`].
const DRAIN_US: f64 = 800_000.0;
const DRAIN_MIN: f64 = 0.25;
/// Drained is a queue below this, µs; then this share of the capacity is free to use again.
const DRAINED_US: i64 = 20_000;
const RECOVERED: f64 = 0.92;
/// The link delivered all that was sent, within this: its capacity is unknown, and one step down is no more than that.
const ALL_DELIVERED: f64 = 0.95;
const BLIND_STEP: f64 = 0.7;
/// Multiplicative increase per second (GCC §5.5: η = 1.08), additive increase in bits per response time.
const INCREASE_PER_S: f64 = 1.08;
const PACKET_BITS: f64 = 9_600.0;
/// Near the capacity is within this of it.
const NEAR: f64 = 0.15;
/// The estimate is used if so much of it is sent; growth beyond what is delivered is bounded (GCC §5.5: 1.5).
const USED: f64 = 0.7;
const BEYOND_DELIVERED: f64 = 1.5;
const BEYOND_DELIVERED_BPS: f64 = 20_000.0;
/// How a capacity seen again moves the one known.
const CAPACITY_GAIN: f64 = 0.3;
/// Bounds of the time in which a decrease can show, µs.
const RESPONSE_MIN_US: u64 = 50_000;
const RESPONSE_MAX_US: u64 = 400_000;

/// What a feedback said.
pub(super) struct Situation {
    pub(super) usage: Usage,
    pub(super) queue_us: i64,
    /// Over the last moments, and over half a second.
    pub(super) recent: Option<Throughput>,
    pub(super) steady: Option<Throughput>,
    /// Loss allows an increase, up to here.
    pub(super) growth: bool,
    pub(super) ceiling_bps: f64,
}

#[derive(Debug)]
pub(super) struct RateControl {
    bps: f64,
    capacity: Option<f64>,
    /// A queue is draining; what the link delivered when it began.
    draining: Option<f64>,
    updated_us: u64,
    fell_us: Option<u64>,
    response_us: Option<u64>,
}

impl RateControl {
    pub(super) fn new() -> RateControl {
        RateControl {
            bps: RATE_START_BPS as f64,
            capacity: None,
            draining: None,
            updated_us: 0,
            fell_us: None,
            response_us: None,
        }
    }

    pub(super) fn bps(&self) -> u64 {
        self.bps as u64
    }

    pub(super) fn bps_f64(&self) -> f64 {
        self.bps
    }

    /// Somebody else decided: loss, a probe, or feedback that stays out.
    pub(super) fn set(&mut self, bps: f64) {
        self.bps = bps.clamp(RATE_MIN_BPS as f64, RATE_MAX_BPS as f64);
        if self.capacity.is_some_and(|capacity| self.bps > capacity * (1.0 + NEAR)) {
            self.capacity = None;
        }
    }

    /// Time from a packet to its feedback. Follows down at once and up slowly: queues make it longer for a while.
    pub(super) fn responded(&mut self, us: u64) {
        let known = self.response_us.unwrap_or(us);
        self.response_us = Some(if us < known { us } else { known + (us - known) / 16 });
    }

    pub(super) fn response_us(&self) -> Option<u64> {
        self.response_us
    }

    pub(super) fn update(&mut self, now_us: u64, situation: &Situation) {
        let elapsed_us = now_us.saturating_sub(self.updated_us).min(1_000_000);
        self.updated_us = now_us;
        if situation.usage == Usage::Over {
            return self.decrease(now_us, situation);
        }
        if let Some(capacity) = self.draining {
            if situation.queue_us > DRAINED_US {
                return;
            }
            self.draining = None;
            self.set(self.bps.max(RECOVERED * capacity));
            return;
        }
        if situation.usage == Usage::Normal && situation.growth {
            self.increase(elapsed_us, situation);
        }
    }

    fn decrease(&mut self, now_us: u64, situation: &Situation) {
        let response = self
            .response_us
            .unwrap_or(100_000)
            .clamp(RESPONSE_MIN_US, RESPONSE_MAX_US);
        // What was sent before the last step is still on its way.
        if self.fell_us.is_some_and(|at| now_us < at + response) {
            return;
        }
        self.fell_us = Some(now_us);
        let Some(recent) = situation.recent else {
            return self.set(self.bps * BLIND_STEP);
        };
        let delivered = recent.delivered_bps;
        let drain = 1.0 - (situation.queue_us as f64 / DRAIN_US).max(0.0);
        let target = delivered * drain.clamp(DRAIN_MIN, BETA);
        if delivered >= ALL_DELIVERED * recent.sent_bps {
            return self.set(target.max(self.bps * BLIND_STEP).min(self.bps));
        }
        let known = self.capacity.filter(|c| (c - delivered).abs() < NEAR * 2.0 * c);
        let capacity = known.map_or(delivered, |c| c + CAPACITY_GAIN * (delivered - c));
        self.capacity = Some(capacity);
        self.draining = Some(self.draining.map_or(delivered, |before| before.min(delivered)));
        self.bps = target.min(self.bps).max(RATE_MIN_BPS as f64);
    }

    fn increase(&mut self, elapsed_us: u64, situation: &Situation) {
        let Some(steady) = situation.steady.filter(|s| s.sent_bps >= USED * self.bps) else {
            return;
        };
        let seconds = elapsed_us as f64 / 1e6;
        let near = self.capacity.is_some_and(|c| self.bps > c * (1.0 - NEAR));
        let increased = if near {
            let response_s = self.response_us.unwrap_or(100_000) as f64 / 1e6 + 0.1;
            self.bps + PACKET_BITS / response_s * seconds
        } else {
            self.bps * INCREASE_PER_S.powf(seconds)
        };
        let bound = (BEYOND_DELIVERED * steady.delivered_bps + BEYOND_DELIVERED_BPS).min(situation.ceiling_bps);
        self.set(increased.min(bound.max(self.bps)));
    }
}
