//! How much one subscriber's link carries: send-side estimation from transport-wide feedback (TWCC), or from REMB and loss
//! for peers without it. What to send with it is `allocation`'s business; pacing and sockets are the shard's.
//!
//! Per packet it costs one eight-byte record; everything else happens per feedback.
//!
//! # The algorithm
//!
//! Google congestion control as published (draft-ietf-rmcat-gcc-02; trend filter and constants as in "Analysis and design of
//! the Google congestion control for WebRTC", Carlucci et al. 2016, and libwebrtc's later linear regression), with three
//! changes an SFU needs. It sends layers of fixed rates, not whatever an encoder is told, so it is nearly always limited by
//! what it has to send; and a frame that a publisher spread over 30 ms may leave in one burst.
//!
//! 1. **Delay** ([`delay`]). Packets sent within 5 ms are a group; the delay of a group is that of its *first* packet, so a long
//!    frame does not count as a queue of its own making. The trend of the delay (regression over 20 groups against an
//!    adaptive threshold) tells overuse, as in GCC. Beside it stands the queue itself, delay above the least of the last
//!    20–40 s: when it is past 60 ms in two groups and not falling, that is overuse, too. After a fall of the link to a quarter the trend needs
//!    half a second to be sure; the queue tells within one feedback. A stall (Wi-Fi) that drains at once is neither.
//! 2. **Rate** ([`rate`]). Overuse takes the estimate to 0.85 × what the link delivered over the last 150 ms, less if a queue has
//!    to drain (down to 0.25 ×); once drained it returns to 0.92 × (quick recovery). If the link delivered all there was, it
//!    says nothing about capacity, and the estimate falls by 0.7 at most. Upwards: 8 % a second far from the last known capacity,
//!    a packet per response time near it, and only while the estimate is used.
//! 3. **Probes** ([`probe`]). While more is wanted than the estimate allows, a cluster of 20 ms at up to twice the estimate asks the
//!    link: at once in the beginning, one second after a fall (at 0.85 × the rate before it), then 1–3 s apart; success asks again
//!    at once. While the estimate is not used, a cluster every 5 s shows that it still holds.
//! 4. **Loss** ([`loss`]). More than 5 % above the link's own (random) loss is a try at a lower rate. If loss follows the rate it was
//!    congestion without a queue (a policer, a tiny buffer) and the lower rate stays; if not, the loss is the link's own,
//!    the rate comes back, and only more than that counts from then on.
//!
//! # What a peer may do to it
//!
//! Feedback is a stranger's word. Packets never sent, arrivals further than ten seconds off the clock seen before, and repeats are counted and
//! otherwise ignored; whatever it says moves its own estimate only, between [`RATE_MIN_BPS`] and [`RATE_MAX_BPS`], and clusters never exceed
//! what is wanted. Memory per peer is at most 64 KB (8,192 packets under way), 1 KB at conference rates.

mod delay;
mod loss;
mod probe;
mod rate;
mod reported;
mod sent;

use self::delay::{DelayDetector, Usage};
use self::loss::LossControl;
use self::probe::Prober;
pub use self::probe::{ProbeDue, ProbeId};
use self::rate::{RateControl, Situation};
pub use self::reported::ReportedBandwidth;
use self::sent::{Reported, SentPackets};
use crate::twcc::Feedback;
use std::time::{Duration, Instant};

/// Estimates never go below: audio and a little video that shows life.
pub const RATE_MIN_BPS: u64 = 50_000;
/// Nor above: no subscriber shows more.
pub const RATE_MAX_BPS: u64 = 50_000_000;
/// Before anything is known. The first clusters follow 3 × and 6 × this at once, as libwebrtc's do its 300 kb/s.
pub const RATE_START_BPS: u64 = 600_000;
/// IPv4 and UDP headers: links carry them, so the estimate includes them (IPv6: 20 more, within the margin of 0.92).
pub const HEADERS_BYTES: usize = 28;

/// A peer that negotiated transport-wide numbers and never answers for this long is served without an estimate.
const SILENT_AFTER: Duration = Duration::from_secs(3);
/// Feedback that stays out this long while packets leave is a link that carries nothing: three of the longest regular
/// intervals (libwebrtc: 250 ms).
const OUT_AFTER: Duration = Duration::from_millis(750);
const OUT_EVERY: Duration = Duration::from_millis(500);
const OUT_FACTOR: f64 = 0.7;
/// 250 µs, the unit of feedback arrivals.
const TICK_US: i64 = 250;
/// Further from the clock seen so far than this is no arrival (µs).
const IMPLAUSIBLE_US: i64 = 10_000_000;
/// So many implausible arrivals on end, all agreeing, are a new clock.
const NEW_CLOCK_AFTER: u32 = 64;

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EstimatorStats {
    pub feedbacks: u64,
    pub received: u64,
    pub lost: u64,
    /// Reported, but never sent or long forgotten.
    pub never_sent: u64,
    /// Arrivals that no clock can have read.
    pub implausible: u64,
    pub overuses: u64,
    pub probes: u64,
    pub probes_answered: u64,
}

/// The estimate of one subscriber's link. Every packet that carries a transport-wide number is told to [`Estimator::sent`].
pub struct Estimator {
    epoch: Instant,
    sent: SentPackets,
    clock: ArrivalClock,
    delay: DelayDetector,
    rate: RateControl,
    loss: LossControl,
    probes: Prober,
    wanted_bps: u64,
    /// More was wanted than estimated when that was last said.
    wants_more: bool,
    /// The link showed that it carries no more: overuse, loss, or a cluster that did not get through.
    limit_seen: bool,
    first_sent: Option<Instant>,
    last_sent: Option<Instant>,
    /// Last feedback that told something, or the last time its absence was acted upon.
    heard: Option<Instant>,
    out_at: Option<Instant>,
    stats: EstimatorStats,
}

impl Estimator {
    pub fn new(now: Instant) -> Estimator {
        Estimator {
            epoch: now,
            sent: SentPackets::default(),
            clock: ArrivalClock::default(),
            delay: DelayDetector::default(),
            rate: RateControl::new(),
            loss: LossControl::default(),
            probes: Prober::default(),
            wanted_bps: 0,
            wants_more: false,
            limit_seen: false,
            first_sent: None,
            last_sent: None,
            heard: None,
            out_at: None,
            stats: EstimatorStats::default(),
        }
    }

    /// A packet with this transport-wide number leaves; `bytes` is the UDP payload.
    #[inline]
    pub fn sent(&mut self, now: Instant, sequence: u16, bytes: usize) {
        let at_us = self.us(now);
        let bytes = bytes + HEADERS_BYTES;
        let cluster = self.probes.sent(at_us, bytes);
        self.sent.push(sequence, at_us, bytes, cluster);
        self.first_sent.get_or_insert(now);
        self.last_sent = Some(now);
    }

    /// The estimate with which everything would be sent: the link is asked for it for as long as the estimate is below, and for no more.
    pub fn set_wanted(&mut self, bps: u64) {
        self.wanted_bps = bps.min(RATE_MAX_BPS);
        let more = self.wanted_bps as f64 > self.rate.bps_f64();
        if more && !self.wants_more && !self.limit_seen {
            // Nobody has asked the link for that much yet: it is not to wait for the next regular cluster.
            self.probes.hurry();
        }
        self.wants_more = more;
    }

    /// Whether the link itself set the estimate; otherwise it may carry more, and nobody has asked.
    pub fn limit_seen(&self) -> bool {
        self.limit_seen
    }

    /// Bits per second of UDP/IP packets that the link is believed to carry; `None` = this peer never answers, nothing is known.
    pub fn estimate_bps(&self, now: Instant) -> Option<u64> {
        (!self.silent(now)).then(|| self.rate.bps())
    }

    /// Queue in front of the link, by the newest feedback.
    pub fn queue(&self) -> Duration {
        Duration::from_micros(self.delay.queue_us().max(0) as u64)
    }

    /// Time from a packet to the feedback about it, the wait for that feedback included; `None` before the first.
    pub fn response_time(&self) -> Option<Duration> {
        self.rate.response_us().map(Duration::from_micros)
    }

    pub fn stats(&self) -> EstimatorStats {
        EstimatorStats {
            probes: self.probes.started,
            probes_answered: self.probes.answered,
            ..self.stats
        }
    }

    pub fn handle_feedback(&mut self, now: Instant, feedback: &Feedback<'_>) {
        let now_us = self.us(now);
        let base = self.clock.reference(feedback.reference_time);
        let offset = base - i64::from(feedback.reference_time) * TICKS_PER_REFERENCE;
        let mut newest_sent = None;
        for (sequence, tick) in feedback.packets() {
            let arrival = tick.map(|tick| (tick + offset) * TICK_US);
            match self.sent.report(sequence, arrival.is_some()) {
                Reported::Unknown => self.stats.never_sent += 1,
                Reported::Again => {}
                Reported::Lost => {
                    self.stats.lost += 1;
                    self.loss.lost();
                }
                Reported::Received { packet, after_all } => {
                    let Some(arrival) = arrival else { continue };
                    let Some(arrival) = self.clock.place(packet.at_us, arrival) else {
                        self.stats.implausible += 1;
                        continue;
                    };
                    self.stats.received += 1;
                    self.loss.received(after_all);
                    newest_sent = newest_sent.max(Some(packet.at_us));
                    if packet.cluster != 0 {
                        self.probes.received(&packet, arrival);
                    }
                    self.delay.received(&packet, arrival);
                }
            }
        }
        self.stats.feedbacks += 1;
        let Some(newest_sent) = newest_sent else { return };
        self.heard = Some(now);
        self.out_at = None;
        self.rate.responded(now_us.saturating_sub(newest_sent));
        self.update(now_us);
    }

    /// One feedback's worth of news becomes an estimate.
    fn update(&mut self, now_us: u64) {
        let usage = self.delay.take_usage();
        let situation = Situation {
            usage,
            queue_us: self.delay.queue_us(),
            recent: self.delay.throughput(CAPACITY_SPAN_US),
            steady: self.delay.throughput(STEADY_SPAN_US),
            growth: self.loss.allows_growth(),
            ceiling_bps: self.wanted_bps as f64 * probe::WANT_MARGIN,
        };
        let before = self.rate.bps();
        self.rate.update(now_us, &situation);
        if usage == Usage::Over {
            self.stats.overuses += 1;
        }
        if let Some(lower_or_back) = self.loss.poll(now_us, self.rate.bps_f64(), situation.steady) {
            self.rate.set(lower_or_back);
        }
        if self.rate.bps() < before {
            self.limit_seen = true;
        }
        if self.rate.bps() * 10 < before * 9 {
            self.probes.fell(now_us, before);
        }
        while let Some(result) = self.probes.poll_result(now_us) {
            // A cluster may lower the estimate only where nothing else speaks about it.
            let idle = situation
                .steady
                .is_none_or(|s| s.delivered_bps * 2.0 < self.rate.bps_f64());
            self.limit_seen = result.failed;
            if result.bps > self.rate.bps_f64() && usage != Usage::Over || idle && result.failed {
                self.rate.set(result.bps);
            }
        }
        self.delay.forget_uncongested_trend(usage);
    }

    /// When to call [`Estimator::handle_timeout`] and [`Estimator::poll_probe`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        let probe = self.probes.timeout().map(|us| self.epoch + Duration::from_micros(us));
        let out = self.out_due();
        [probe, out].into_iter().flatten().min()
    }

    /// Time passed: decides whether a cluster is due, and whether feedback stays out.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now_us = self.us(now);
        if self.out_due().is_some_and(|due| due <= now) {
            self.out_at = Some(now);
            let before = self.rate.bps();
            self.rate.set(self.rate.bps_f64() * OUT_FACTOR);
            self.limit_seen = true;
            self.probes.fell(now_us, before);
        }
        if self.silent(now) || self.out_at.is_some() {
            return self.probes.stop();
        }
        let used = self.delay.throughput(STEADY_SPAN_US).filter(|_| {
            // Old groups say nothing about now.
            self.last_sent
                .is_some_and(|at| now.saturating_duration_since(at) < Duration::from_millis(500))
        });
        self.probes.plan(
            now_us,
            &probe::Need {
                estimate_bps: self.rate.bps(),
                wanted_bps: self.wanted_bps,
                used_bps: used.map_or(0.0, |t| t.sent_bps),
                queue_us: self.delay.queue_us(),
                response_us: self.rate.response_us(),
            },
        );
    }

    /// Padding that is to leave now, as part of a cluster: call until `None`. Each packet is told to [`Estimator::sent`] as well,
    /// like all others that leave meanwhile.
    pub fn poll_probe(&mut self, now: Instant) -> Option<ProbeDue> {
        let now_us = self.us(now);
        self.probes.poll(now_us)
    }

    /// A cluster is being sent: [`Estimator::poll_probe`] wants to be asked in time.
    pub fn probing(&self) -> bool {
        self.probes.is_sending()
    }

    fn silent(&self, now: Instant) -> bool {
        self.heard.is_none()
            && self
                .first_sent
                .is_some_and(|at| now.saturating_duration_since(at) > SILENT_AFTER)
    }

    fn out_due(&self) -> Option<Instant> {
        let (heard, sent) = (self.heard?, self.last_sent?);
        let since = self.out_at.map_or(heard + OUT_AFTER, |at| at + OUT_EVERY);
        // Something left since, whose feedback could have come.
        let outstanding = sent > heard && self.sent.oldest_unreported_after(self.us(heard)).is_some();
        outstanding.then_some(since)
    }

    fn us(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_micros() as u64
    }
}

/// Over which the link's capacity is read off when it is overused, and over which steady use is (µs).
const CAPACITY_SPAN_US: u64 = 150_000;
const STEADY_SPAN_US: u64 = 500_000;
const TICKS_PER_REFERENCE: i64 = 256;

/// The receiver's clock: unwraps reference times, and refuses arrivals it cannot have read.
#[derive(Debug, Default)]
struct ArrivalClock {
    reference: Option<i64>,
    /// Arrival minus sending of the last plausible packet, and of the last implausible one (µs).
    transit: Option<i64>,
    other: i64,
    others: u32,
}

impl ArrivalClock {
    /// The 24-bit reference time as ticks that do not wrap.
    fn reference(&mut self, wire: i32) -> i64 {
        let reference = match self.reference {
            Some(before) => before + i64::from((wire.wrapping_sub(before as i32) << 8) >> 8),
            None => i64::from(wire),
        };
        self.reference = Some(reference);
        reference * TICKS_PER_REFERENCE
    }

    fn place(&mut self, sent_us: u64, arrival_us: i64) -> Option<i64> {
        let transit = arrival_us - sent_us as i64;
        let expected = *self.transit.get_or_insert(transit);
        if (transit - expected).abs() > IMPLAUSIBLE_US {
            self.others = if (transit - self.other).abs() > IMPLAUSIBLE_US {
                1
            } else {
                self.others + 1
            };
            self.other = transit;
            if self.others >= NEW_CLOCK_AFTER {
                self.transit = Some(transit);
                self.others = 0;
            }
            return None;
        }
        self.others = 0;
        self.transit = Some(transit);
        Some(arrival_us)
    }
}
