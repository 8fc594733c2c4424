//! Probes: short clusters of packets above the present rate, and what their arrival says.

use super::sent::{CLUSTERS, SentPacket};
use super::{RATE_MAX_BPS, RATE_START_BPS};

/// A cluster lasts this long, µs, and has at least so many packets (libwebrtc: 15 ms and 5 packets; arrivals are told in 250 µs here).
const CLUSTER_US: u64 = 20_000;
const CLUSTER_PACKETS: u32 = 6;
/// A cluster that could not be sent in this time is given up, µs.
const CLUSTER_LATE_US: u64 = 150_000;
/// Share of packets that must arrive for a cluster to count.
const ANSWERED: f64 = 0.8;
/// Arrived slower than sent by more than this: the link is full at that rate, of which some must stay free.
const FULL: f64 = 0.9;
const BELOW_FULL: f64 = 0.95;
/// Arrived faster than sent by more than this is a clock or a queue that emptied, not a rate.
const FASTER_MAX: f64 = 2.0;
/// Steps: the first ones from the start, then twice the estimate, and back near where a fall began.
const FIRST_STEPS: [f64; 2] = [3.0, 6.0];
const STEP: f64 = 2.0;
const BACK: f64 = 0.85;
/// A cluster that reached this share of its rate is followed by the next step at once.
const REACHED: f64 = 0.7;
/// Between clusters while more is wanted, doubling while they bring nothing; while the estimate is not used; after a fall. µs.
const WANT_MIN_US: u64 = 1_000_000;
const WANT_MAX_US: u64 = 3_000_000;
const IDLE_US: u64 = 5_000_000;
const AFTER_FALL_US: u64 = 1_000_000;
/// Not into a queue, µs.
const QUEUE_MAX_US: i64 = 25_000;
/// A cluster that asks for more asks for this much more at least, and for this much more than is wanted at most.
const WANT_MORE: f64 = 1.05;
pub(super) const WANT_MARGIN: f64 = 1.2;
/// An estimate of which less than this is sent is not used.
const USED: f64 = 0.65;
/// Time for the feedback about the last packet of a cluster, beyond the response time, µs.
const ANSWER_SLACK_US: u64 = 300_000;
/// Clusters whose answer may be awaited at once.
const OPEN_MAX: usize = 4;

/// Names a cluster.
pub type ProbeId = u8;

/// Padding to be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeDue {
    pub id: ProbeId,
    /// Of one packet and its headers; less is fine, then there will be another.
    pub bytes: usize,
}

/// A cluster's answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProbeResult {
    pub(super) bps: f64,
    /// The link carried clearly less than was asked.
    pub(super) failed: bool,
}

/// What decides whether a cluster is worth it.
pub(super) struct Need {
    pub(super) estimate_bps: u64,
    pub(super) wanted_bps: u64,
    pub(super) used_bps: f64,
    pub(super) queue_us: i64,
    pub(super) response_us: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Sending {
    id: ProbeId,
    bps: f64,
    begun_us: Option<u64>,
    bytes: u32,
    packets: u32,
    planned_us: u64,
}

/// A cluster that was sent and what is known of its arrival.
#[derive(Clone, Copy, Debug)]
struct Open {
    id: ProbeId,
    bps: f64,
    /// Asked because more is wanted: success asks for the next step.
    upwards: bool,
    packets: u32,
    bytes: u32,
    give_up_us: u64,
    seen: Option<Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    packets: u32,
    bytes: u32,
    first_sent_us: u64,
    last_sent_us: u64,
    first_arrival_us: i64,
    last_arrival_us: i64,
    /// Bytes of the first to arrive and of the last sent: they lie outside of the spans.
    first_bytes: u32,
    last_bytes: u32,
}

#[derive(Debug, Default)]
pub(super) struct Prober {
    next_id: ProbeId,
    sending: Option<Sending>,
    open: Vec<Open>,
    first_steps: usize,
    /// A cluster asked for by the answer to another.
    follow_up: bool,
    back_to: Option<u64>,
    next_us: u64,
    wait_us: u64,
    pub(super) started: u64,
    pub(super) answered: u64,
}

impl Prober {
    /// A packet leaves; the cluster it belongs to, or 0.
    #[inline]
    pub(super) fn sent(&mut self, now_us: u64, bytes: usize) -> u8 {
        let Some(sending) = &mut self.sending else { return 0 };
        sending.begun_us.get_or_insert(now_us);
        sending.bytes += bytes as u32;
        sending.packets += 1;
        sending.id
    }

    /// The estimate fell from here: worth a look when the cause is over.
    pub(super) fn fell(&mut self, now_us: u64, from_bps: u64) {
        self.stop();
        self.back_to = Some(self.back_to.map_or(from_bps, |known| known.max(from_bps)));
        self.wait_us = WANT_MIN_US;
        self.next_us = now_us + AFTER_FALL_US;
        self.follow_up = false;
        self.first_steps = FIRST_STEPS.len();
    }

    /// The next cluster is due at once.
    pub(super) fn hurry(&mut self) {
        self.next_us = 0;
    }

    pub(super) fn stop(&mut self) {
        self.sending = None;
    }

    pub(super) fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    pub(super) fn timeout(&self) -> Option<u64> {
        match &self.sending {
            Some(sending) => Some(sending.due_us()),
            None => Some(self.next_us),
        }
    }

    /// Starts a cluster if one is due and worth it.
    pub(super) fn plan(&mut self, now_us: u64, need: &Need) {
        if let Some(sending) = &self.sending
            && now_us > sending.planned_us + CLUSTER_LATE_US
        {
            self.sending = None;
        }
        if self.sending.is_some() || now_us < self.next_us {
            return;
        }
        if need.wanted_bps == 0 {
            self.next_us = now_us + 100_000;
            return;
        }
        if self.open.len() >= OPEN_MAX || need.queue_us > QUEUE_MAX_US {
            self.next_us = now_us + 50_000;
            return;
        }
        let estimate = need.estimate_bps as f64;
        let ceiling = (need.wanted_bps as f64 * WANT_MARGIN).min(RATE_MAX_BPS as f64);
        let wants_more = need.wanted_bps as f64 > estimate;
        let bps = if wants_more {
            let bps = match FIRST_STEPS.get(self.first_steps) {
                Some(step) => {
                    self.first_steps += 1;
                    step * RATE_START_BPS as f64
                }
                None => match self.back_to.take() {
                    Some(before) => BACK * before as f64,
                    None => STEP * estimate,
                },
            };
            let first = self.first_steps < FIRST_STEPS.len();
            self.wait_us = self.wait_us.clamp(WANT_MIN_US, WANT_MAX_US);
            self.next_us = now_us + if first { CLUSTER_US } else { self.wait_us };
            self.wait_us = (self.wait_us * 3 / 2).min(WANT_MAX_US);
            bps.max(estimate * WANT_MORE)
        } else if need.used_bps < USED * estimate.min(need.wanted_bps as f64) {
            self.next_us = now_us + IDLE_US;
            estimate
        } else {
            self.next_us = now_us + WANT_MIN_US;
            return;
        };
        self.follow_up = false;
        self.begin(now_us, bps.min(ceiling), wants_more, need.response_us);
    }

    fn begin(&mut self, now_us: u64, bps: f64, upwards: bool, response_us: Option<u64>) {
        self.next_id = self.next_id % CLUSTERS + 1;
        self.open.retain(|open| open.id != self.next_id);
        self.started += 1;
        self.sending = Some(Sending {
            id: self.next_id,
            bps,
            begun_us: None,
            bytes: 0,
            packets: 0,
            planned_us: now_us,
        });
        self.open.push(Open {
            id: self.next_id,
            bps,
            upwards,
            packets: 0,
            bytes: 0,
            give_up_us: now_us + CLUSTER_LATE_US + response_us.unwrap_or(200_000) * 2 + ANSWER_SLACK_US,
            seen: None,
        });
    }

    /// The next packet of the cluster being sent, if it is due.
    pub(super) fn poll(&mut self, now_us: u64) -> Option<ProbeDue> {
        let sending = self.sending.as_ref()?;
        if sending.complete() {
            let done = *sending;
            self.sending = None;
            if let Some(open) = self.open.iter_mut().find(|open| open.id == done.id) {
                (open.packets, open.bytes) = (done.packets, done.bytes);
            }
            return None;
        }
        if now_us < sending.due_us() {
            return None;
        }
        let left = (sending.bytes_wanted() as u32).saturating_sub(sending.bytes);
        Some(ProbeDue {
            id: sending.id,
            bytes: (left as usize).max(MIN_PACKET),
        })
    }

    /// A packet of a cluster arrived.
    pub(super) fn received(&mut self, packet: &SentPacket, arrival_us: i64) {
        let Some(open) = self.open.iter_mut().find(|open| open.id == packet.cluster) else {
            return;
        };
        let seen = open.seen.get_or_insert(Seen {
            packets: 0,
            bytes: 0,
            first_sent_us: packet.at_us,
            last_sent_us: packet.at_us,
            first_arrival_us: arrival_us,
            last_arrival_us: arrival_us,
            first_bytes: packet.bytes,
            last_bytes: packet.bytes,
        });
        seen.packets += 1;
        seen.bytes += packet.bytes;
        seen.first_sent_us = seen.first_sent_us.min(packet.at_us);
        if arrival_us < seen.first_arrival_us {
            (seen.first_arrival_us, seen.first_bytes) = (arrival_us, packet.bytes);
        }
        if packet.at_us >= seen.last_sent_us {
            (seen.last_sent_us, seen.last_bytes) = (packet.at_us, packet.bytes);
        }
        seen.last_arrival_us = seen.last_arrival_us.max(arrival_us);
    }

    /// The answer of a cluster that is complete.
    pub(super) fn poll_result(&mut self, now_us: u64) -> Option<ProbeResult> {
        self.open.retain(|open| now_us < open.give_up_us);
        let at = self.open.iter().position(|open| {
            open.packets > 0
                && open.seen.is_some_and(|seen| {
                    f64::from(seen.packets) >= ANSWERED * f64::from(open.packets)
                        && f64::from(seen.bytes) >= ANSWERED * f64::from(open.bytes)
                })
        })?;
        let open = self.open.swap_remove(at);
        let result = open.result()?;
        self.answered += 1;
        if open.upwards && result.bps >= REACHED * open.bps {
            self.wait_us = WANT_MIN_US;
            if !self.follow_up {
                self.follow_up = true;
                self.next_us = self.next_us.min(now_us);
            }
        }
        Some(result)
    }
}

/// Smaller packets are mostly headers.
const MIN_PACKET: usize = 100;

impl Sending {
    fn bytes_wanted(&self) -> u64 {
        (self.bps * CLUSTER_US as f64 / 8e6) as u64
    }

    fn complete(&self) -> bool {
        u64::from(self.bytes) >= self.bytes_wanted() && self.packets >= CLUSTER_PACKETS
    }

    /// When the next packet is due so that the cluster has its rate.
    fn due_us(&self) -> u64 {
        match self.begun_us {
            Some(begun) => begun + (f64::from(self.bytes) * 8e6 / self.bps) as u64,
            None => self.planned_us,
        }
    }
}

impl Open {
    fn result(&self) -> Option<ProbeResult> {
        let seen = self.seen?;
        let sent_us = seen.last_sent_us.saturating_sub(seen.first_sent_us);
        let arrived_us = u64::try_from(seen.last_arrival_us - seen.first_arrival_us).ok()?;
        if sent_us == 0 || seen.packets < CLUSTER_PACKETS - 1 {
            return None;
        }
        let rate = |bytes: u32, us: u64| f64::from(bytes) * 8e6 / us.max(1) as f64;
        let sent = rate(seen.bytes - seen.last_bytes, sent_us);
        let arrived = rate(seen.bytes - seen.first_bytes, arrived_us.max(1_000));
        if arrived > FASTER_MAX * sent {
            return None;
        }
        let failed = arrived < FULL * sent;
        let bps = if failed {
            BELOW_FULL * arrived
        } else {
            arrived.min(sent)
        };
        Some(ProbeResult { bps, failed })
    }
}
