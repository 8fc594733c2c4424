//! Everything that is due by the clock and not by a packet: transport timeouts from a heap, the rest from a coarse tick
//! that visits a tenth of the peers each time.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use meridian_sfu::{Encoding, Layer};
use meridian_transport::PeerStats as TransportStats;

use super::Shard;
use super::peers::Peers;
use super::tracks::{Origin, Track};
use crate::metrics::add;
use meridian_shard_api::{Event, PeerStats};

const TICK: Duration = Duration::from_millis(10);
/// Nobody is here: only commands and first packets wake the thread.
const IDLE_TICK: Duration = Duration::from_millis(500);
/// Ticks in which every peer is visited once.
const TICKS_PER_ROUND: u32 = 10;
const RECEIVER_REPORT_EVERY: Duration = Duration::from_secs(1);
const STATS_EVERY: Duration = Duration::from_secs(2);

pub(crate) struct Clock {
    next: Instant,
    cursor: u32,
    ticks: u32,
}

impl Clock {
    pub(crate) fn new(now: Instant) -> Clock {
        Clock {
            next: now,
            cursor: 0,
            ticks: 0,
        }
    }

    pub(crate) fn next_tick(&self, peers: &Peers, backlog: bool) -> Instant {
        let tick = if peers.len() == 0 && !backlog {
            self.next + (IDLE_TICK - TICK)
        } else {
            self.next
        };
        peers.timers.peek().map_or(tick, |&Reverse((at, _))| at.min(tick))
    }
}

/// What a peer's statistics were when they were last told.
pub(crate) struct Totals {
    report_at: Instant,
    stats_at: Instant,
    told_at: Instant,
    bytes_down: u64,
    bytes_up: u64,
    pub(super) transport: TransportStats,
}

impl Totals {
    pub(crate) fn new(now: Instant) -> Totals {
        Totals {
            report_at: now,
            stats_at: now + STATS_EVERY,
            told_at: now,
            bytes_down: 0,
            bytes_up: 0,
            transport: TransportStats::default(),
        }
    }
}

impl Shard {
    pub(super) fn tick(&mut self, now: Instant) {
        self.run_timers(now);
        if now < self.clock.next {
            return;
        }
        self.clock.next = now + TICK;
        self.clock.ticks = self.clock.ticks.wrapping_add(1);
        self.events.retry();
        self.release_held_back(now);
        self.visit_some_peers(now);
        if self.clock.ticks.is_multiple_of(TICKS_PER_ROUND) {
            self.repeat_keyframe_requests(now);
            self.tell_mesh_reports(now);
            let mut levels = std::mem::take(&mut self.scratch.levels);
            if self.speakers.poll(now, &mut levels) && !levels.is_empty() {
                self.events.send(Event::AudioLevels(levels.clone()));
            }
            self.scratch.levels = levels;
        }
    }

    fn visit_some_peers(&mut self, now: Instant) {
        let bound = self.peers.bound();
        for _ in 0..bound.div_ceil(TICKS_PER_ROUND) {
            self.clock.cursor = if self.clock.cursor + 1 < bound {
                self.clock.cursor + 1
            } else {
                0
            };
            let slot = self.clock.cursor;
            if self.peers.get(slot).is_some_and(|p| p.connected) {
                self.contained(slot, |shard| shard.visit(slot, now));
            }
        }
    }

    fn visit(&mut self, slot: u32, now: Instant) {
        let count = self.peers.get(slot).map_or(0, |p| p.subscriptions.len());
        for i in 0..count {
            let Some(&index) = self.peers.get(slot).and_then(|p| p.subscriptions.get(i)) else {
                break;
            };
            if let Some(subscription) = self.subscriptions.get_mut(index)
                && let Some(track) = self.tracks.get(&subscription.track)
            {
                subscription.downlink.handle_timeout(now, track.origin.source());
            }
            self.pull_keyframe(index, now);
        }
        self.allocate(slot, now);
        self.drive_link(slot, now);
        self.send_sender_reports(slot, now);
        let Some(peer) = self.peers.get_mut(slot) else { return };
        if peer.totals.report_at <= now {
            peer.totals.report_at = now + RECEIVER_REPORT_EVERY;
            self.send_receiver_report(slot, now);
        }
        self.tell_stats(slot, now);
    }

    /// Requests that were held back by the limit, of tracks that come from elsewhere. (An uplink's are in its timeout.)
    fn repeat_keyframe_requests(&mut self, now: Instant) {
        let mut due: Vec<(meridian_sfu::TrackId, Layer)> = Vec::new();
        for (&id, track) in &mut self.tracks {
            let source = match &mut track.origin {
                Origin::Local { .. } => continue,
                Origin::Remote(remote) => remote.source_mut(),
                Origin::Mirror { source, .. } => source,
            };
            while let Some(encoding) = source.poll_keyframe_request(now) {
                due.push((id, encoding.first_layer()));
            }
        }
        for (id, layer) in due {
            self.ask_upstream(id, layer);
        }
    }

    fn tell_stats(&mut self, slot: u32, now: Instant) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        if peer.totals.stats_at > now {
            return;
        }
        let seconds = now
            .saturating_duration_since(peer.totals.told_at)
            .as_secs_f64()
            .max(0.001);
        let mut stats = PeerStats::default();
        let (mut bytes_down, mut bytes_up) = (0, 0);
        let (mut lost, mut packets) = (0.0, 0.0);
        for subscription in peer.subscriptions.iter().filter_map(|&i| self.subscriptions.get(i)) {
            let s = subscription.downlink.stats();
            bytes_down += s.bytes;
            // Weighted by what each stream sent: the lost tenth of a still slide is not the lost tenth of a call.
            lost += f64::from(s.fraction_lost) / 256.0 * s.packets as f64;
            packets += s.packets as f64;
            stats.jitter_ms = stats.jitter_ms.max(s.jitter_ms as f32);
            if let Some(rtt) = s.rtt {
                let rtt = rtt.as_secs_f32() * 1_000.0;
                stats.rtt_ms = Some(stats.rtt_ms.map_or(rtt, |known| known.min(rtt)));
            }
        }
        stats.loss_down = if packets > 0.0 { (lost / packets) as f32 } else { 0.0 };
        for id in &peer.published {
            let Some(Track {
                origin: Origin::Local { uplink, .. },
                ..
            }) = self.tracks.get_mut(id)
            else {
                continue;
            };
            for encoding in (0..Encoding::COUNT as u8).map(Encoding) {
                let s = uplink.stats(encoding, now);
                bytes_up += s.bytes;
                stats.loss_up = stats.loss_up.max(f32::from(s.fraction_lost) / 256.0);
                stats.jitter_ms = stats.jitter_ms.max(s.jitter_ms as f32);
            }
            if let Some(rtt) = stats.rtt_ms {
                uplink.set_rtt(Duration::from_secs_f32(rtt / 1_000.0));
            }
        }
        let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 * 8.0 / seconds) as u64;
        stats.bitrate_down_bps = rate(bytes_down, peer.totals.bytes_down);
        stats.bitrate_up_bps = rate(bytes_up, peer.totals.bytes_up);
        let transport = peer.transport.stats();
        self.shared.counters.note_transport(&peer.totals.transport, &transport);
        peer.totals = Totals {
            report_at: peer.totals.report_at,
            stats_at: now + STATS_EVERY,
            told_at: now,
            bytes_down,
            bytes_up,
            transport,
        };
        self.events.send(Event::PeerStats { peer: peer.id, stats });
    }

    /// A rate-limited keyframe request leaves this shard.
    pub(super) fn ask_upstream(&mut self, id: meridian_sfu::TrackId, layer: Layer) {
        match self.tracks.get(&id).map(|t| &t.origin) {
            Some(Origin::Remote(_)) => {
                add(&self.shared.counters.keyframes_requested, 1);
                self.events.send(Event::KeyframeWanted { track: id, layer });
            }
            Some(Origin::Mirror { home: Some(home), .. }) => {
                self.shared.mailboxes[usize::from(*home)].note(crate::inbox::Note::Keyframe { track: id, layer });
            }
            _ => {}
        }
    }
}
