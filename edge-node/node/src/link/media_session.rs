//! The media connection of a link that is up: moves datagrams between quinn and the engine.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use meridian_cascade::link::engine::PathState;
use meridian_cascade::link::queue::STREAMS_MAX;
use meridian_cascade::link::{EngineEvent, LinkCounters, MediaLink, MediaPacket, SenderReport};
use meridian_room::ids::NodeId;
use quinn::{Connection, ConnectionError};
use tokio::sync::{Notify, mpsc};

use super::congestion::SharedController;
use super::endpoint::lock;
use super::types::{LinkEvent, LinkStats};

/// Datagrams taken from quinn before they are passed on.
const RECEIVE_BATCH: usize = 128;
/// What quinn may hold of our datagrams, as time at the target rate: enough for a scheduling hiccup, too little for a queue.
const HANDED_OVER: Duration = Duration::from_millis(25);
const HANDED_OVER_BYTES_MIN: usize = 24 * 1024;
const STATS_INTERVAL: Duration = Duration::from_secs(1);
/// Events that must not be lost, waiting for room in the node's channel: a change or two of every layer that crosses.
const UNSENT_MAX: usize = 2 * STREAMS_MAX;

pub(super) struct MediaSession {
    node: NodeId,
    connection: Connection,
    controller: SharedController,
    engine: Mutex<MediaLink>,
    /// Something waits for room; the task must look sooner than it planned.
    wake: Notify,
    send_buffer: usize,
    events: mpsc::Sender<LinkEvent>,
    events_dropped: AtomicU64,
    suspect_since: Mutex<Option<Instant>>,
}

impl MediaSession {
    pub(super) fn new(
        node: NodeId,
        connection: Connection,
        controller: SharedController,
        send_buffer: usize,
        events: mpsc::Sender<LinkEvent>,
    ) -> MediaSession {
        MediaSession {
            node,
            connection,
            controller,
            engine: Mutex::new(MediaLink::new(Instant::now())),
            wake: Notify::new(),
            send_buffer,
            events,
            events_dropped: AtomicU64::new(0),
            suspect_since: Mutex::new(None),
        }
    }

    pub(super) fn send(&self, packets: Vec<MediaPacket>) {
        let now = Instant::now();
        let mut engine = lock(&self.engine);
        for packet in packets {
            engine.send(now, packet);
        }
        self.pump(now, &mut engine);
        if engine.has_backlog() {
            self.wake.notify_one();
        }
    }

    pub(super) fn send_report(&self, report: &SenderReport) {
        let mut engine = lock(&self.engine);
        engine.send_report(report);
        self.pump(Instant::now(), &mut engine);
    }

    /// How long the peer has been under suspicion.
    pub(super) fn suspect_for(&self) -> Duration {
        lock(&self.suspect_since).map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Runs until the connection ends; gives the reason.
    pub(super) async fn drive(&self) -> ConnectionError {
        let mut unsent = Vec::new();
        let mut reported = (Instant::now(), LinkCounters::default());
        loop {
            let due = lock(&self.engine).poll_timeout(Instant::now());
            let datagram = tokio::select! {
                datagram = self.connection.read_datagram() => match datagram {
                    Ok(datagram) => Some(datagram),
                    Err(error) => return error,
                },
                () = tokio::time::sleep_until(due.into()) => None,
                () = self.wake.notified() => None,
            };
            let batch = datagram.into_iter().chain(std::iter::from_fn(|| {
                self.connection.read_datagram().now_or_never()?.ok()
            }));
            self.step(batch.take(RECEIVE_BATCH), &mut unsent);
            if reported.0.elapsed() >= STATS_INTERVAL {
                self.report(&mut reported);
            }
            self.deliver(&mut unsent);
        }
    }

    /// Feeds the engine, sends what it has to say, collects what the node should hear.
    fn step(&self, batch: impl Iterator<Item = Bytes>, unsent: &mut Vec<LinkEvent>) {
        let now = Instant::now();
        let mut engine = lock(&self.engine);
        for datagram in batch {
            engine.handle_datagram(now, datagram);
        }
        let path = {
            let mut controller = self.controller.lock();
            controller.set_floor(engine.floor_bps());
            PathState {
                target_bps: controller.target_bps(),
                queue: controller.queue_delay(),
                srtt: controller.srtt(),
            }
        };
        engine.handle_timeout(now, path);
        self.pump(now, &mut engine);
        let packets = engine.take_received();
        let events: Vec<EngineEvent> = std::iter::from_fn(|| engine.poll_event()).collect();
        drop(engine);
        if !packets.is_empty() {
            let count = packets.len() as u64;
            if self
                .events
                .try_send(LinkEvent::Media {
                    node: self.node.clone(),
                    packets,
                })
                .is_err()
            {
                self.events_dropped.fetch_add(count, Ordering::Relaxed);
            }
        }
        for event in events {
            self.note(event, unsent);
        }
    }

    fn note(&self, event: EngineEvent, unsent: &mut Vec<LinkEvent>) {
        let node = self.node.clone();
        let event = match event {
            EngineEvent::Suspect { silent_for } => {
                *lock(&self.suspect_since) = Some(Instant::now());
                LinkEvent::Suspect { node, silent_for }
            }
            EngineEvent::Alive => {
                *lock(&self.suspect_since) = None;
                LinkEvent::Alive { node }
            }
            EngineEvent::Layer(change) => LinkEvent::LayerShed {
                node,
                track: change.track,
                layer: change.layer,
                shed: change.shed,
            },
            EngineEvent::KeyframeWanted { track, layer } => LinkEvent::KeyframeWanted { node, track, layer },
            EngineEvent::SenderReport(report) => LinkEvent::SenderReport { node, report },
        };
        if unsent.len() < UNSENT_MAX {
            unsent.push(event);
        } else {
            self.events_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Hands over what the node's channel takes; the rest is tried again at the next turn, at most 50 ms later.
    fn deliver(&self, unsent: &mut Vec<LinkEvent>) {
        let mut taken = 0;
        while taken < unsent.len()
            && let Ok(permit) = self.events.try_reserve()
        {
            permit.send(std::mem::replace(
                &mut unsent[taken],
                LinkEvent::Alive {
                    node: self.node.clone(),
                },
            ));
            taken += 1;
        }
        unsent.drain(..taken);
    }

    /// Gives quinn what it should hold now. No await in here: a batch goes out in as few system calls as can be.
    fn pump(&self, now: Instant, engine: &mut MediaLink) {
        let Some(datagram_max) = self.connection.max_datagram_size() else {
            return;
        };
        let free = self.connection.datagram_send_buffer_space();
        let target = self.controller.lock().target_bps();
        let allowed = (target as f64 / 8.0 * HANDED_OVER.as_secs_f64()) as usize;
        let allowed = allowed.clamp(HANDED_OVER_BYTES_MIN.min(self.send_buffer), self.send_buffer);
        let mut space = allowed.saturating_sub(self.send_buffer.saturating_sub(free)).min(free);
        while let Some(datagram) = engine.poll_transmit(now, datagram_max, space) {
            space = space.saturating_sub(datagram.len());
            // An MTU that just shrank makes it too large: lost, and too large to be repaired. The next ones are split.
            if let Err(error) = self.connection.send_datagram(datagram) {
                tracing::debug!(peer = %self.node, %error, "datagram not sent");
            }
        }
    }

    fn report(&self, reported: &mut (Instant, LinkCounters)) {
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(reported.0).as_secs_f64();
        let ms = |time: Duration| time.as_secs_f32() * 1000.0;
        let rate = |new: u64, old: u64| ((new - old) as f64 * 8.0 / elapsed) as u64;
        let mut engine = lock(&self.engine);
        let totals = engine.counters();
        let mut stats = LinkStats {
            rtt_ms: engine.life().rtt().map_or(0.0, ms),
            jitter_ms: ms(engine.life().jitter_p99()),
            loss_in: f32::from(engine.inbound_loss(now)) / 10_000.0,
            loss_out: f32::from(engine.life().outbound_loss) / 10_000.0,
            sent_bps: rate(totals.sent_bytes, reported.1.sent_bytes),
            received_bps: rate(totals.received_bytes, reported.1.received_bytes),
            backlog_ms: ms(engine.queued_for(now)),
            layers_shed: engine.shed_layers() as u32,
            totals,
            ..LinkStats::default()
        };
        drop(engine);
        {
            let controller = self.controller.lock();
            stats.target_bps = controller.target_bps();
            stats.queue_ms = ms(controller.queue_delay());
        }
        stats.datagram_max = self.connection.max_datagram_size().unwrap_or_default() as u32;
        stats.events_dropped = self.events_dropped.load(Ordering::Relaxed);
        *reported = (now, totals);
        let _ = self.events.try_send(LinkEvent::Stats {
            node: self.node.clone(),
            stats,
        });
    }
}
