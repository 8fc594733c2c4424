//! Loss: a try at a lower rate tells whether it is congestion or the link's own.

use super::delay::Throughput;

/// Packets and time of one reading.
const READING_PACKETS: u32 = 50;
const READING_US: u64 = 300_000;
/// Loss above the link's own that is worth a try; at least two standard deviations of the reading, too.
const EXCESS: f64 = 0.05;
/// A step down is to what was delivered, and no further than this.
const STEP: f64 = 0.6;
/// The try is judged by a reading that began this long after the step: what left before it has been reported, µs.
const SETTLE_US: u64 = 400_000;
/// How fast the link's own loss is believed to have gone.
const OWN_DECAY: f64 = 0.3;

#[derive(Debug, Default)]
pub(super) struct LossControl {
    packets: u32,
    lost: u32,
    begun_us: Option<u64>,
    /// The link's own loss.
    own: f64,
    last: f64,
    trial: Option<Trial>,
}

#[derive(Debug)]
struct Trial {
    at_us: u64,
    rate_before: f64,
    loss_before: f64,
}

impl LossControl {
    pub(super) fn received(&mut self, after_all: bool) {
        if after_all {
            self.lost = self.lost.saturating_sub(1);
        } else {
            self.packets += 1;
        }
    }

    pub(super) fn lost(&mut self) {
        self.packets += 1;
        self.lost += 1;
    }

    /// The last reading was no worse than the link itself, and no try is being judged.
    pub(super) fn allows_growth(&self) -> bool {
        self.trial.is_none() && self.last - self.own < EXCESS
    }

    /// The rate to go to, if loss says so: below `rate` for a try, above it when the try showed that it was in vain.
    pub(super) fn poll(&mut self, now_us: u64, rate: f64, throughput: Option<Throughput>) -> Option<f64> {
        let begun = *self.begun_us.get_or_insert(now_us);
        if self.packets < READING_PACKETS || now_us < begun + READING_US {
            return None;
        }
        let packets = f64::from(self.packets);
        let loss = f64::from(self.lost) / packets;
        (self.packets, self.lost, self.begun_us) = (0, 0, Some(now_us));
        self.last = loss;
        let own_before = self.own;
        if loss < self.own {
            self.own += OWN_DECAY * (loss - self.own);
        }
        if let Some(trial) = &self.trial {
            if begun < trial.at_us + SETTLE_US {
                return None;
            }
            // A full link would deliver as much as before and lose the rest; loss of its own would be what it was. Nearer to which?
            let (back, before) = (trial.rate_before, trial.loss_before);
            let if_full = (1.0 - back * (1.0 - before) / rate).clamp(0.0, before);
            let in_vain = loss > (if_full + before) / 2.0;
            if in_vain {
                self.own = own_before.max(loss.min(before));
            }
            self.trial = None;
            return in_vain.then(|| back.max(rate));
        }
        let spread = 2.0 * (loss * (1.0 - loss) / packets).sqrt();
        if loss - self.own <= EXCESS.max(spread) {
            return None;
        }
        self.trial = Some(Trial {
            at_us: now_us,
            rate_before: rate,
            loss_before: loss,
        });
        let delivered = throughput.map_or(0.0, |t| t.delivered_bps);
        Some((rate * STEP).max(delivered).min(rate * (1.0 - loss / 2.0)))
    }
}
