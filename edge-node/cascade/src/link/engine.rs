//! The media side of one link as one state machine: queue, numbering, repair, heartbeats.
//!
//! See the module documentation of [`super`] for the order of calls. It never sees QUIC: the caller says how large a datagram
//! may be and how much the connection takes now, and passes on what the congestion controller measured.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_sfu::media::{Encoding, Layer};

use super::heartbeat::{Life, LifeChange};
use super::media::{self, Datagram, MEDIA_HEADER, Media, Nack, Part, Reassembler, SenderReport};
use super::queue::{LayerChange, LayerQueue, MediaPacket, Pushed, STREAMS_MAX};
use super::repair::{Arrival, Gaps, Ring};

/// Datagrams that go out before media, waiting: NACKs, retransmissions, sender reports.
const URGENT_MAX: usize = 4096;
/// Each layer that crosses has a change or two to tell between two drains, and those must not be lost.
const EVENTS_MAX: usize = 2 * STREAMS_MAX;
/// While something waits for room in the connection, look again after this long.
const PUMP: Duration = Duration::from_millis(5);
const TICK: Duration = Duration::from_millis(50);

/// A media packet that arrived, as the publisher sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub track: u32,
    pub encoding: Encoding,
    pub layer: Layer,
    pub payload: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineEvent {
    Suspect {
        silent_for: Duration,
    },
    Alive,
    Layer(LayerChange),
    /// A layer that was shed crosses again as soon as a keyframe of it comes. Repeated until then.
    KeyframeWanted {
        track: u32,
        layer: Layer,
    },
    SenderReport(SenderReport),
}

/// Totals since the link came up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    pub sent: u64,
    pub sent_bytes: u64,
    pub received: u64,
    pub received_bytes: u64,
    /// Sent again because the other side asked.
    pub retransmitted: u64,
    /// Asked for, but too old or over the budget.
    pub retransmit_refused: u64,
    pub nacks_sent: u64,
    pub duplicates: u64,
    /// Datagrams that were missing and came after all.
    pub repaired: u64,
    /// Datagrams given up.
    pub lost: u64,
    /// Packets not sent because their layer was shed or the queue overflowed.
    pub dropped: u64,
    /// Packets too large even for two datagrams.
    pub oversize: u64,
    pub malformed: u64,
}

/// What the congestion controller of the connection knows.
#[derive(Clone, Copy, Debug)]
pub struct PathState {
    pub target_bps: u64,
    pub queue: Duration,
    pub srtt: Duration,
}

/// Sending and receiving half of a link's media.
#[derive(Debug)]
pub struct MediaLink {
    life: Life,
    ring: Ring,
    gaps: Gaps,
    queue: LayerQueue,
    reassembler: Reassembler,
    path: PathState,
    urgent: VecDeque<Bytes>,
    /// Sequences the other side wants again, not yet sent.
    wanted: VecDeque<u32>,
    /// Second half of a packet whose first half is out.
    second_half: Option<Bytes>,
    next_tick: Instant,
    received: Vec<Received>,
    events: VecDeque<EngineEvent>,
    counters: LinkCounters,
}

impl MediaLink {
    pub fn new(now: Instant) -> MediaLink {
        MediaLink {
            life: Life::new(now),
            ring: Ring::new(now),
            gaps: Gaps::new(now),
            queue: LayerQueue::new(now),
            reassembler: Reassembler::default(),
            path: PathState {
                target_bps: u64::MAX,
                queue: Duration::ZERO,
                srtt: Duration::from_millis(100),
            },
            urgent: VecDeque::new(),
            wanted: VecDeque::new(),
            second_half: None,
            next_tick: now,
            received: Vec::new(),
            events: VecDeque::new(),
            counters: LinkCounters::default(),
        }
    }

    /// Queues a packet, or drops it if its layer is shed.
    pub fn send(&mut self, now: Instant, packet: MediaPacket) -> Pushed {
        self.queue.push(now, packet)
    }

    pub fn send_report(&mut self, report: &SenderReport) {
        self.push_urgent(report.encode());
    }

    /// The next datagram to send, at most `datagram_max` bytes long and only if it also fits `space`, the connection's
    /// free buffer. `None`: nothing to send now, or no room.
    pub fn poll_transmit(&mut self, now: Instant, datagram_max: usize, space: usize) -> Option<Bytes> {
        if space >= 64
            && let Some(beat) = self.life.poll_beat(now, self.ring.next(), self.gaps.loss(now))
        {
            return Some(beat.encode());
        }
        if let Some(datagram) = self.urgent.front() {
            let fits = datagram.len() <= space;
            return if fits { self.urgent.pop_front() } else { None };
        }
        if let Some(again) = self.poll_retransmission(now, datagram_max, space)? {
            return Some(again);
        }
        if let Some(second) = self.second_half.take_if(|half| half.len() <= space) {
            return Some(self.sent(second));
        }
        if self.second_half.is_some() {
            return None;
        }
        self.poll_media(datagram_max, space)
    }

    /// Outer `None`: no room for the retransmission that is next.
    fn poll_retransmission(&mut self, now: Instant, datagram_max: usize, space: usize) -> Option<Option<Bytes>> {
        while let Some(&sequence) = self.wanted.front() {
            let Some(datagram) = self.ring.get(sequence).filter(|d| d.len() <= datagram_max) else {
                self.counters.retransmit_refused += 1;
                self.wanted.pop_front();
                continue;
            };
            if datagram.len() > space {
                return None;
            }
            let again = media::as_retransmission(datagram);
            self.wanted.pop_front();
            if !self.ring.spend(now, self.path.target_bps, again.len()) {
                self.counters.retransmit_refused += 1;
                continue;
            }
            self.counters.retransmitted += 1;
            return Some(Some(again));
        }
        Some(None)
    }

    fn poll_media(&mut self, datagram_max: usize, space: usize) -> Option<Bytes> {
        loop {
            let len = self.queue.peek_len()?;
            if (len + MEDIA_HEADER).min(datagram_max) > space {
                return None;
            }
            let MediaPacket {
                track,
                encoding,
                layer,
                payload,
                ..
            } = self.queue.pop()?;
            let Some((first, second)) = media::split(payload, datagram_max) else {
                self.counters.oversize += 1;
                continue;
            };
            let part = if second.is_some() { Part::First } else { Part::Whole };
            let number = |ring: &mut Ring, part, payload| {
                ring.number(|sequence| {
                    Media {
                        sequence,
                        track,
                        encoding,
                        layer,
                        part,
                        retransmitted: false,
                        payload,
                    }
                    .encode()
                })
            };
            let datagram = number(&mut self.ring, part, first);
            self.second_half = second.map(|payload| number(&mut self.ring, Part::Second, payload));
            return Some(self.sent(datagram));
        }
    }

    fn sent(&mut self, datagram: Bytes) -> Bytes {
        self.counters.sent += 1;
        self.counters.sent_bytes += datagram.len() as u64;
        datagram
    }

    fn push_urgent(&mut self, datagram: Bytes) {
        if self.urgent.len() == URGENT_MAX {
            self.urgent.pop_front();
        }
        self.urgent.push_back(datagram);
    }

    /// Takes a datagram from the other side.
    pub fn handle_datagram(&mut self, now: Instant, datagram: Bytes) {
        if let Some(change) = self.life.heard(now) {
            self.life_changed(change);
        }
        let len = datagram.len();
        match media::parse(datagram) {
            Ok(Datagram::Media(media)) => self.handle_media(now, media, len),
            Ok(Datagram::Heartbeat(beat)) => {
                self.life.on_heartbeat(now, &beat);
                self.gaps.on_next(now, beat.next);
                self.request_missing(now);
            }
            Ok(Datagram::Nack(nack)) => {
                let room = URGENT_MAX.saturating_sub(self.wanted.len());
                self.wanted.extend(nack.sequences().take(room));
            }
            Ok(Datagram::SenderReport(report)) => self.push_event(EngineEvent::SenderReport(report)),
            Err(_) => self.counters.malformed += 1,
        }
    }

    fn handle_media(&mut self, now: Instant, media: Media, len: usize) {
        let sequence = match self.gaps.on_media(now, media.sequence, media.retransmitted) {
            Arrival::New(sequence) | Arrival::Repaired(sequence) => sequence,
            Arrival::Duplicate | Arrival::Stale => {
                self.counters.duplicates += 1;
                return;
            }
        };
        self.counters.received += 1;
        self.counters.received_bytes += len as u64;
        let (track, encoding, layer) = (media.track, media.encoding, media.layer);
        if let Some(payload) = self.reassembler.push(now, sequence, media) {
            self.received.push(Received {
                track,
                encoding,
                layer,
                payload,
            });
        }
        self.request_missing(now);
    }

    fn request_missing(&mut self, now: Instant) {
        let rtt = self.life.rtt().unwrap_or(self.path.srtt);
        let requests = self.gaps.poll_requests(now, rtt);
        let mut rest = requests.as_slice();
        while !rest.is_empty() {
            let (nack, taken) = Nack::of(rest);
            rest = rest.get(taken..).unwrap_or_default();
            self.counters.nacks_sent += 1;
            self.push_urgent(nack.encode());
        }
    }

    /// Packets that arrived since the last call, in order of arrival.
    pub fn take_received(&mut self) -> Vec<Received> {
        std::mem::take(&mut self.received)
    }

    pub fn poll_event(&mut self) -> Option<EngineEvent> {
        self.events.pop_front()
    }

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&self, now: Instant) -> Instant {
        let mut due = self.next_tick.min(self.life.poll_timeout());
        if let Some(nack) = self.gaps.poll_timeout() {
            due = due.min(nack);
        }
        if self.has_backlog() {
            due = due.min(now + PUMP);
        }
        due
    }

    /// Whether something waits for room in the connection.
    pub fn has_backlog(&self) -> bool {
        !self.queue.is_empty() || !self.urgent.is_empty() || !self.wanted.is_empty() || self.second_half.is_some()
    }

    /// Does what is due at `now`. Spurious calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant, path: PathState) {
        self.path = path;
        if let Some(change) = self.life.poll_silence(now) {
            self.life_changed(change);
        }
        self.request_missing(now);
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.queue.tick(now, path.target_bps, path.queue);
            while let Some(change) = self.queue.poll_change() {
                self.push_event(EngineEvent::Layer(change));
            }
            while let Some((track, layer)) = self.queue.poll_keyframe_request() {
                self.push_event(EngineEvent::KeyframeWanted { track, layer });
            }
        }
    }

    /// Rate of audio and base layers, in bit/s, with framing: the congestion controller's floor.
    pub fn floor_bps(&self) -> u64 {
        self.queue.floor_bps() * 11 / 10
    }

    pub fn life(&self) -> &Life {
        &self.life
    }

    /// Loss on the way to us, before repair, in 1/10,000.
    pub fn inbound_loss(&mut self, now: Instant) -> u16 {
        self.gaps.loss(now)
    }

    /// How long the oldest queued packet has waited for the congestion controller.
    pub fn queued_for(&self, now: Instant) -> Duration {
        self.queue.waiting(now)
    }

    pub fn shed_layers(&self) -> usize {
        self.queue.shed_count()
    }

    pub fn counters(&self) -> LinkCounters {
        let dropped = self.queue.dropped;
        LinkCounters {
            repaired: self.gaps.repaired(),
            lost: self.gaps.lost(),
            dropped,
            ..self.counters
        }
    }

    fn life_changed(&mut self, change: LifeChange) {
        self.push_event(match change {
            LifeChange::Suspect { silent_for } => EngineEvent::Suspect { silent_for },
            LifeChange::Alive => EngineEvent::Alive,
        });
    }

    fn push_event(&mut self, event: EngineEvent) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}
