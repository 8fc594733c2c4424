//! The way to one subscriber: what it is believed to carry, what each stream gets of it, and the packets that wait for
//! their turn so that a keyframe does not stand in front of a word. The decisions are `meridian_sfu`'s.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use meridian_sfu::allocation::{self, Grant, Pauses, Stream};
use meridian_sfu::bandwidth::{Estimator, ReportedBandwidth};
use meridian_sfu::rtcp::ReportBlock;
use meridian_sfu::twcc::Feedback;
use meridian_sfu::{Downlink, Layer, MediaKind, Packet, TrackId};

use super::Shard;
use crate::metrics::add;
use meridian_shard_api::Event;

/// What streams get of the estimate: the rest is for retransmissions and RTCP.
const USABLE: f64 = 0.95;
/// An estimate that fell by this much is acted upon at once, any other change with the next visit.
const FELL: f64 = 0.95;
/// Packets leave at most this much faster than the estimate; what comes faster may be this far ahead, so frames as they usually are
/// leave as they come, and keyframes add no more than that to the way of audio.
const PACING: f64 = 1.25;
const AHEAD_MAX: Duration = Duration::from_millis(40);
/// Video that would wait longer, or more packets of it, is not worth sending: its streams begin again at a keyframe.
const WAIT_MAX: Duration = Duration::from_millis(500);
const WAITING_MAX: usize = 512;
/// One RTX packet with as much padding as it can have.
const PADDING_BYTES: usize = 280;
const LAYERS: [Layer; Layer::COUNT] = [Layer(0), Layer(1), Layer(2)];
/// Headers of 50 audio packets a second, UDP and IP included, bits per second.
const AUDIO_HEADERS_BPS: u64 = 20_000;

/// For so long after its first packet nothing is paused: the first clusters are still being answered, and pacing holds
/// what a slow link cannot take.
const SETTLING: Duration = Duration::from_millis(1_500);

/// How a peer says what reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answers {
    NotYet,
    Transport,
    Remb,
}

/// A packet on its way to one subscription.
pub(super) struct Waiting {
    pub(super) subscription: u32,
    pub(super) track: TrackId,
    pub(super) packet: Packet,
}

pub(crate) struct SubscriberLink {
    estimator: Estimator,
    reported: ReportedBandwidth,
    answers: Answers,
    /// The estimate that was last divided among the streams; `None` = no limit.
    allocated_bps: Option<u64>,
    /// What may leave: the estimate, or what is granted if that is more.
    pace_bps: u64,
    /// The first packet left.
    began: Option<Instant>,
    /// Bytes since the last receiver report, for peers with REMB.
    report: (Instant, u64),
    /// Sending at the paced rate is done with what left at this time.
    busy_until: Instant,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    pauses: Pauses,
}

impl SubscriberLink {
    pub(super) fn new(now: Instant) -> SubscriberLink {
        let estimator = Estimator::new(now);
        let allocated_bps = estimator.estimate_bps(now);
        SubscriberLink {
            allocated_bps,
            pace_bps: allocated_bps.unwrap_or(0),
            estimator,
            began: None,
            reported: ReportedBandwidth::new(now),
            answers: Answers::NotYet,
            report: (now, 0),
            busy_until: now,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            pauses: Pauses::default(),
        }
    }

    fn estimate_bps(&self, now: Instant) -> Option<u64> {
        match self.answers {
            Answers::NotYet | Answers::Transport => self.estimator.estimate_bps(now),
            Answers::Remb => self.reported.estimate_bps(now),
        }
    }

    /// A packet leaves; `number`: the transport-wide one it carries, if it does.
    #[inline]
    pub(super) fn sent(&mut self, now: Instant, number: Option<u16>, bytes: usize) {
        // Of a peer that never answers nothing is remembered.
        if self.allocated_bps.is_none() {
            return;
        }
        self.began.get_or_insert(now);
        match (self.answers, number) {
            (Answers::Remb, _) => self.report.1 += bytes as u64,
            (_, Some(number)) => self.estimator.sent(now, number, bytes),
            _ => {}
        }
        self.busy_until = self.busy_until.max(now) + pace(bytes, self.pace_bps);
    }

    /// Whether this packet has to wait; if so it does from now on.
    #[inline]
    pub(super) fn holds(
        &mut self,
        now: Instant,
        (subscription, track): (u32, TrackId),
        downlink: &Downlink,
        packet: &Packet,
    ) -> bool {
        let full = || self.busy_until > now + AHEAD_MAX;
        if self.allocated_bps.is_none()
            || downlink.kind() == MediaKind::Audio
            || self.waiting.is_empty() && !full()
            || !downlink.may_take(packet)
        {
            return false;
        }
        self.waiting_bytes += packet.payload().len();
        self.waiting.push_back(Waiting {
            subscription,
            track,
            packet: packet.clone(),
        });
        true
    }

    /// Waiting for so long that it is worth nothing any more?
    fn overflows(&self) -> bool {
        pace(self.waiting_bytes, self.pace_bps) > WAIT_MAX || self.waiting.len() > WAITING_MAX
    }

    pub(super) fn release(&mut self, now: Instant) -> Option<Waiting> {
        if self.allocated_bps.is_some() && self.busy_until > now + AHEAD_MAX {
            return None;
        }
        let waiting = self.waiting.pop_front()?;
        self.waiting_bytes -= waiting.packet.payload().len();
        Some(waiting)
    }

    /// When [`Shard::drive_link`] has something to do before the next visit.
    pub(super) fn due(&self) -> Option<Instant> {
        let paced = (!self.waiting.is_empty()).then(|| self.busy_until - AHEAD_MAX);
        let probe = self
            .estimator
            .probing()
            .then(|| self.estimator.poll_timeout())
            .flatten();
        [paced, probe].into_iter().flatten().min()
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

fn pace(bytes: usize, estimate_bps: u64) -> Duration {
    let bps = PACING * estimate_bps.max(1) as f64;
    Duration::from_secs_f64(bytes as f64 * 8.0 / bps)
}

impl Shard {
    pub(super) fn transport_feedback(&mut self, slot: u32, feedback: &Feedback<'_>, now: Instant) {
        let Some(link) = self.peers.get_mut(slot).and_then(|p| p.link.as_deref_mut()) else {
            return;
        };
        let before = link.estimator.stats();
        link.estimator.handle_feedback(now, feedback);
        let after = link.estimator.stats();
        if after.received > before.received {
            link.answers = Answers::Transport;
        }
        let lies = (after.never_sent + after.implausible) - (before.never_sent + before.implausible);
        add(&self.shared.counters.feedback_implausible, lies);
        self.follow_estimate(slot, now);
    }

    pub(super) fn remb(&mut self, slot: u32, bps: u64, now: Instant) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let link = peer.link.get_or_insert_with(|| Box::new(SubscriberLink::new(now)));
        if link.answers != Answers::Transport {
            link.answers = Answers::Remb;
            link.reported.handle_remb(now, bps);
            self.follow_estimate(slot, now);
        }
    }

    /// What receiver reports say about loss, for a peer without transport-wide feedback.
    pub(super) fn report_loss(&mut self, slot: u32, blocks: &[(u32, ReportBlock)], now: Instant) {
        let Some(link) = self.peers.get_mut(slot).and_then(|p| p.link.as_deref_mut()) else {
            return;
        };
        if link.answers != Answers::Remb {
            return;
        }
        let (mut expected, mut lost) = (0u64, 0.0);
        for (index, block) in blocks {
            let Some(subscription) = self.subscriptions.get_mut(*index) else {
                continue;
            };
            let packets = subscription.downlink.stats().packets;
            let since = packets - std::mem::replace(&mut subscription.packets_reported, packets);
            expected += since;
            lost += since as f64 * f64::from(block.fraction_lost) / 256.0;
        }
        let seconds = now.saturating_duration_since(link.report.0).as_secs_f64().max(0.1);
        let sent_bps = link.report.1 as f64 * 8.0 / seconds;
        link.report = (now, 0);
        let fraction = if expected > 0 { lost / expected as f64 } else { 0.0 };
        let expected = u32::try_from(expected).unwrap_or(u32::MAX);
        link.reported
            .handle_report(now, (fraction * 256.0).min(255.0) as u8, expected, sent_bps);
        self.follow_estimate(slot, now);
    }

    /// Less room is acted upon at once.
    fn follow_estimate(&mut self, slot: u32, now: Instant) {
        let Some(link) = self.peers.get(slot).and_then(|p| p.link.as_deref()) else {
            return;
        };
        let fell = match (link.estimate_bps(now), link.allocated_bps) {
            (Some(estimate), Some(allocated)) => (estimate as f64) < FELL * allocated as f64,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if fell {
            self.allocate(slot, now);
        }
    }

    /// Divides what the link carries among the peer's streams, and tells the node which are paused or go on.
    pub(super) fn allocate(&mut self, slot: u32, now: Instant) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let Some(link) = peer.link.as_deref_mut() else { return };
        let estimate = link.estimate_bps(now);
        if estimate.is_none() && link.allocated_bps.is_none() {
            return;
        }
        link.allocated_bps = estimate;
        let mut audio = 0;
        let mut streams = std::mem::take(&mut self.scratch.streams);
        let mut indices = std::mem::take(&mut self.scratch.indices);
        streams.clear();
        indices.clear();
        for &index in &peer.subscriptions {
            let Some(subscription) = self.subscriptions.get(index) else {
                continue;
            };
            let Some(track) = self.tracks.get(&subscription.track) else {
                continue;
            };
            let (source, demand) = (track.origin.source(), subscription.downlink.demand());
            if subscription.downlink.kind() == MediaKind::Audio {
                let bps = u64::from(source.peak_bps(Layer::LOW));
                audio += if bps > 0 { bps + AUDIO_HEADERS_BPS } else { 0 };
            } else if demand.enabled && !track.muted {
                indices.push(index);
                streams.push(Stream {
                    priority: demand.priority,
                    max_layer: demand.max_layer,
                    live: source.live(),
                    rates_bps: LAYERS.map(|layer| source.peak_bps(layer)),
                    current_bps: LAYERS.map(|layer| source.bitrate_bps(layer, now)),
                    granted: subscription.downlink.grant(),
                });
            }
        }
        let wanted = allocation::wanted_bps(&streams);
        link.estimator.set_wanted(if streams.is_empty() {
            0
        } else {
            ((wanted + audio) as f64 / USABLE).ceil() as u64
        });
        match estimate {
            Some(bps) => {
                let settling = link.began.is_none_or(|at| now < at + SETTLING);
                let mut budget = ((bps as f64 * USABLE) as u64).saturating_sub(audio);
                if !settling && link.answers == Answers::Transport && !link.estimator.limit_seen() {
                    // A stream that grew takes nothing from anybody as long as the link has not refused it.
                    budget = budget.max(allocation::granted_bps(&streams));
                }
                if settling {
                    allocation::allocate(budget, &mut streams);
                    link.pace_bps = bps.max(allocation::granted_bps(&streams) + audio);
                    let paused = streams.iter_mut().filter(|stream| stream.granted == Grant::Paused);
                    paused.for_each(|stream| stream.granted = Grant::UpTo(Layer::LOW));
                } else {
                    let dips = link.pauses.allocate(now, budget, &mut streams);
                    let granted = allocation::granted_bps(&streams) + audio;
                    // Through a dip what is shown waits here, where audio overtakes it.
                    link.pace_bps = bps.max(if dips { granted / 2 } else { granted });
                }
            }
            None => streams.iter_mut().for_each(|stream| stream.granted = Grant::All),
        }
        for (&index, stream) in indices.iter().zip(&streams) {
            self.grant(index, stream.granted, now);
        }
        self.scratch.streams = streams;
        self.scratch.indices = indices;
    }

    fn grant(&mut self, index: u32, grant: Grant, now: Instant) {
        let Some(subscription) = self.subscriptions.get_mut(index) else {
            return;
        };
        let before = subscription.downlink.grant();
        if before == grant {
            return;
        }
        let Some(track) = self.tracks.get(&subscription.track) else {
            return;
        };
        subscription.downlink.set_grant(grant, track.origin.source());
        let paused = grant == Grant::Paused;
        if paused != (before == Grant::Paused)
            && let Some(peer) = self.peers.get(subscription.peer)
        {
            self.events.send(Event::StreamState {
                peer: peer.id,
                track: subscription.track,
                paused,
            });
            add(&self.shared.counters.streams_paused, u64::from(paused));
        }
        self.pull_keyframe(index, now);
    }

    /// Clusters and waiting packets that are due.
    pub(super) fn drive_link(&mut self, slot: u32, now: Instant) {
        let Some(link) = self.peers.get_mut(slot).and_then(|p| p.link.as_deref_mut()) else {
            return;
        };
        if link.overflows() {
            self.drop_waiting(slot);
        }
        self.release_waiting(slot, now);
        let Some(link) = self.peers.get_mut(slot).and_then(|p| p.link.as_deref_mut()) else {
            return;
        };
        if link.answers != Answers::Remb {
            link.estimator.handle_timeout(now);
            while let Some(peer) = self.peers.get_mut(slot)
                && let Some(link) = peer.link.as_deref_mut()
                && let Some(due) = link.estimator.poll_probe(now)
            {
                if !self.send_padding(slot, due.bytes.min(PADDING_BYTES), now) {
                    break;
                }
            }
        }
        self.arm_link(slot, now);
    }

    pub(super) fn arm_link(&mut self, slot: u32, now: Instant) {
        if let Some(at) = self
            .peers
            .get(slot)
            .and_then(|p| p.link.as_deref())
            .and_then(SubscriberLink::due)
        {
            self.peers.arm_at(slot, at.max(now + Duration::from_millis(1)));
        }
    }

    /// The link is too slow for what waits: it is given up, and its streams begin again at a keyframe.
    fn drop_waiting(&mut self, slot: u32) {
        let Some(link) = self.peers.get_mut(slot).and_then(|p| p.link.as_deref_mut()) else {
            return;
        };
        add(&self.shared.counters.drop_paced, link.waiting.len() as u64);
        link.waiting_bytes = 0;
        for waiting in std::mem::take(&mut link.waiting) {
            if let Some(subscription) = self.subscriptions.get_mut(waiting.subscription)
                && subscription.peer == slot
                && subscription.track == waiting.track
            {
                subscription.downlink.interrupt();
            }
        }
    }
}
