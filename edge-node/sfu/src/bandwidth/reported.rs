//! The estimate for peers without transport-wide feedback: the least of what they say they can receive (REMB,
//! draft-alvestrand-rmcat-remb) and what their loss allows.

use super::delay::Throughput;
use super::loss::LossControl;
use super::{RATE_MAX_BPS, RATE_MIN_BPS};
use std::time::{Duration, Instant};

/// REMB is repeated every second or so; after this time without it nothing is known any more.
const VALID: Duration = Duration::from_secs(15);
/// Growth of the bound that loss set, per second.
const GROWTH_PER_S: f64 = 1.08;

/// What one peer reported about its link.
#[derive(Debug)]
pub struct ReportedBandwidth {
    epoch: Instant,
    remb: Option<(u64, Instant)>,
    loss: LossControl,
    /// No more than this because of loss.
    bound: f64,
    grown: Instant,
}

impl ReportedBandwidth {
    pub fn new(now: Instant) -> ReportedBandwidth {
        ReportedBandwidth {
            epoch: now,
            remb: None,
            loss: LossControl::default(),
            bound: RATE_MAX_BPS as f64,
            grown: now,
        }
    }

    pub fn handle_remb(&mut self, now: Instant, bps: u64) {
        self.remb = Some((bps.clamp(RATE_MIN_BPS, RATE_MAX_BPS), now));
    }

    /// A receiver report: of `expected` packets since the last one this share (of 256) was lost; `sent_bps` is what we sent meanwhile.
    pub fn handle_report(&mut self, now: Instant, fraction_lost: u8, expected: u32, sent_bps: f64) {
        let lost = u64::from(expected) * u64::from(fraction_lost) / 256;
        let expected = expected.min(1_000);
        let lost = (lost as u32).min(expected);
        (0..expected - lost).for_each(|_| self.loss.received(false));
        (0..lost).for_each(|_| self.loss.lost());
        let seconds = now.saturating_duration_since(self.grown).as_secs_f64().min(2.0);
        self.grown = now;
        if self.loss.allows_growth() {
            self.bound = (self.bound * GROWTH_PER_S.powf(seconds)).min(RATE_MAX_BPS as f64);
        }
        let now_us = now.saturating_duration_since(self.epoch).as_micros() as u64;
        let delivered = sent_bps * (1.0 - f64::from(fraction_lost) / 256.0);
        let throughput = Throughput {
            sent_bps,
            delivered_bps: delivered,
        };
        // What we sent is what the loss is about.
        let rate = self.bound.min(sent_bps.max(RATE_MIN_BPS as f64));
        if let Some(bound) = self.loss.poll(now_us, rate, Some(throughput)) {
            self.bound = if bound < rate {
                bound.max(RATE_MIN_BPS as f64)
            } else {
                RATE_MAX_BPS as f64
            };
        }
    }

    /// `None`: this peer says nothing.
    pub fn estimate_bps(&self, now: Instant) -> Option<u64> {
        let (remb, at) = self.remb?;
        (now.saturating_duration_since(at) < VALID).then(|| remb.min(self.bound as u64))
    }
}
