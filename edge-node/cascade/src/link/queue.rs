//! What waits to be sent on a link, by priority, and which layers are let in at all.
//!
//! Whole layers are dropped, top first, before anything gets a link sequence number (numbering first caused NACK storms).
//! Audio goes last. A shed layer comes back only after calm, and then at a keyframe: what came before it would be of use to
//! nobody. Both moments are reported as [`LayerChange`], and the keyframe is asked for
//! ([`LayerQueue::poll_keyframe_request`]). Shed layers must go on being offered: the queue then knows what they would take.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_sfu::media::{Encoding, Layer};

/// Which packets go first, and which layers go away last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    Audio,
    /// Lowest layer of a video.
    Base,
    Mid,
    Top,
}

impl Priority {
    pub const COUNT: usize = 4;

    /// The usual priority of a video layer.
    pub fn of_video(layer: Layer) -> Priority {
        match layer.0 {
            0 => Priority::Base,
            1 => Priority::Mid,
            _ => Priority::Top,
        }
    }
}

/// One RTP packet to be sent over a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaPacket {
    /// Number of the track on this link, agreed on the control stream.
    pub track: u32,
    pub encoding: Encoding,
    pub layer: Layer,
    pub priority: Priority,
    /// A decoder can start here: what a layer that was shed must begin with.
    pub keyframe: bool,
    pub payload: Bytes,
}

/// A layer stopped crossing this link because of congestion, or crosses again: then the keyframe it begins with is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerChange {
    pub track: u32,
    pub layer: Layer,
    pub shed: bool,
}

/// Whether a packet was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    Queued,
    /// Its layer does not cross the link at present.
    Shed,
    /// No room, even after shedding.
    Overflow,
}

/// Layers metered at a time. Beyond, packets pass unmetered by their priority's fate.
pub const STREAMS_MAX: usize = 8192;
/// Rates are averaged over about this long.
const METER: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(50);
const IDLE: Duration = Duration::from_secs(5);
/// A shed layer that pauses is remembered longer: forgotten, it would start again without anybody asking for a keyframe.
const IDLE_SHED: Duration = Duration::from_secs(60);
const TARGET_SHARE: f64 = 0.95;
/// A layer that may cross again and has packets, but no keyframe: it is asked for again after this long.
const KEYFRAME_RETRY: Duration = Duration::from_secs(1);
/// A layer that came back counts with the rate it had before for so long, while the path has no queue: the keyframe it begins
/// with is several times that.
const SETTLING: Duration = Duration::from_secs(1);
const CALM: Duration = Duration::from_secs(2);
/// A layer that comes back and must go again within this time came too early: the next attempt waits twice as long.
const REGRET: Duration = Duration::from_secs(5);
const CALM_MAX: Duration = Duration::from_secs(32);
/// Without regret for this long, 2 s are enough again.
const CALM_FORGET: Duration = Duration::from_secs(120);
const CALM_QUEUE: Duration = Duration::from_millis(10);
/// What may wait here: this long at the target rate.
const WAIT_MAX: Duration = Duration::from_millis(150);
const WAIT_BYTES_MIN: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passage {
    Open,
    Shed,
    /// There is room again: it is let through from its next keyframe on, last asked for then.
    Opening {
        asked: Instant,
    },
}

#[derive(Debug)]
struct Stream {
    priority: Priority,
    passage: Passage,
    /// Bytes offered since the last tick.
    offered: u64,
    rate_bps: f64,
    last: Instant,
    /// When it came back, and its rate then.
    reopened: Option<(Instant, f64)>,
}

impl Stream {
    /// Counts as traffic of the link.
    fn admitted(&self) -> bool {
        self.passage != Passage::Shed
    }

    fn crosses(&self) -> bool {
        self.passage == Passage::Open
    }

    /// Without the keyframe it has just come back with.
    fn settled_bps(&self, now: Instant) -> f64 {
        let settling = self
            .reopened
            .filter(|(at, _)| now.saturating_duration_since(*at) < SETTLING);
        settling.map_or(self.rate_bps, |(_, before)| before.min(self.rate_bps))
    }
}

#[derive(Debug)]
struct Waiting {
    packet: MediaPacket,
    since: Instant,
}

/// The queues of one link's sending side.
#[derive(Debug)]
pub struct LayerQueue {
    queues: [VecDeque<Waiting>; Priority::COUNT],
    bytes: usize,
    streams: HashMap<(u32, Layer), Stream>,
    target_bps: u64,
    /// As of the last tick: asked for with every batch.
    floor_bps: u64,
    ticked: Instant,
    calm_since: Option<Instant>,
    calm_needed: Duration,
    resumed: Option<Instant>,
    regretted: Option<Instant>,
    changes: VecDeque<LayerChange>,
    keyframes_wanted: VecDeque<(u32, Layer)>,
    pub dropped: u64,
}

impl LayerQueue {
    pub fn new(now: Instant) -> LayerQueue {
        LayerQueue {
            queues: Default::default(),
            bytes: 0,
            streams: HashMap::new(),
            target_bps: u64::MAX,
            floor_bps: 0,
            ticked: now,
            calm_since: None,
            calm_needed: CALM,
            resumed: None,
            regretted: None,
            changes: VecDeque::new(),
            keyframes_wanted: VecDeque::new(),
            dropped: 0,
        }
    }

    pub fn push(&mut self, now: Instant, packet: MediaPacket) -> Pushed {
        if !self.meter(now, &packet) {
            self.dropped += 1;
            return Pushed::Shed;
        }
        while self.bytes + packet.payload.len() > self.bytes_max() {
            if !self.shed_one() {
                break;
            }
            self.regret(now);
        }
        if !self.crosses(packet.track, packet.layer) {
            self.dropped += 1;
            return Pushed::Shed;
        }
        while self.bytes + packet.payload.len() > self.bytes_max() {
            // Only audio is left. Old audio is worth less than new audio.
            match self.queues[Priority::Audio as usize].pop_front() {
                Some(oldest) => self.bytes -= oldest.packet.payload.len(),
                None => {
                    self.dropped += 1;
                    return Pushed::Overflow;
                }
            }
            self.dropped += 1;
        }
        self.bytes += packet.payload.len();
        self.queues[packet.priority as usize].push_back(Waiting { packet, since: now });
        Pushed::Queued
    }

    /// The next packet to send: highest priority first, in order within a priority.
    pub fn pop(&mut self) -> Option<MediaPacket> {
        let waiting = self.queues.iter_mut().find_map(VecDeque::pop_front)?;
        self.bytes -= waiting.packet.payload.len();
        Some(waiting.packet)
    }

    /// Length of the packet `pop` would give.
    pub fn peek_len(&self) -> Option<usize> {
        self.queues
            .iter()
            .find_map(VecDeque::front)
            .map(|w| w.packet.payload.len())
    }

    /// To be called often; every 50 ms chooses the highest set of layers within 0.95 × `target_bps`. `path_queue` is the
    /// congestion controller's queue delay.
    pub fn tick(&mut self, now: Instant, target_bps: u64, path_queue: Duration) {
        self.target_bps = target_bps;
        let elapsed = now.saturating_duration_since(self.ticked);
        if elapsed < TICK {
            return;
        }
        self.ticked = now;
        self.forget_idle(now);
        let weight = 1.0 - (-elapsed.as_secs_f64() / METER.as_secs_f64()).exp();
        for stream in self.streams.values_mut() {
            let rate = std::mem::take(&mut stream.offered) as f64 * 8.0 / elapsed.as_secs_f64();
            stream.rate_bps += (rate - stream.rate_bps) * weight;
        }
        let limit = target_bps as f64 * TARGET_SHARE;
        // Base layers are the controller's floor: only a queue that really overflows sheds them.
        let queued = path_queue >= CALM_QUEUE;
        while self.burden_bps(now, queued) > limit && self.shed_above(Priority::Base) {
            self.regret(now);
        }
        if path_queue < CALM_QUEUE && self.waiting(now) < CALM_QUEUE {
            let since = *self.calm_since.get_or_insert(now);
            if self
                .regretted
                .is_some_and(|at| now.saturating_duration_since(at) > CALM_FORGET)
            {
                self.calm_needed = CALM;
            }
            if now.saturating_duration_since(since) >= self.calm_needed && self.resume(now, limit) {
                self.calm_since = Some(now);
                self.resumed = Some(now);
            }
        } else {
            self.calm_since = None;
        }
        self.floor_bps = self.sum(|s| s.admitted() && s.priority <= Priority::Base) as u64;
        self.ask_again(now);
    }

    pub fn poll_change(&mut self) -> Option<LayerChange> {
        self.changes.pop_front()
    }

    /// A layer that may cross again as soon as a keyframe of it comes. Repeated until one does.
    pub fn poll_keyframe_request(&mut self) -> Option<(u32, Layer)> {
        self.keyframes_wanted.pop_front()
    }

    /// Rate of audio and admitted base layers, in bit/s: the controller's floor.
    pub fn floor_bps(&self) -> u64 {
        self.floor_bps
    }

    /// Rate of everything let in, in bit/s.
    pub fn admitted_bps(&self) -> f64 {
        self.sum(Stream::admitted)
    }

    /// How long the oldest packet has waited.
    pub fn waiting(&self, now: Instant) -> Duration {
        let oldest = self.queues.iter().filter_map(VecDeque::front).map(|w| w.since).min();
        oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    pub fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Layers that do not cross at present.
    pub fn shed_count(&self) -> usize {
        self.streams.values().filter(|s| !s.crosses()).count()
    }

    fn bytes_max(&self) -> usize {
        let waiting = (self.target_bps / 8).min(1 << 32) as f64 * WAIT_MAX.as_secs_f64();
        (waiting as usize).clamp(WAIT_BYTES_MIN, 8 << 20)
    }

    fn sum(&self, of: impl Fn(&Stream) -> bool) -> f64 {
        self.streams.values().filter(|s| of(s)).map(|s| s.rate_bps).sum()
    }

    /// What has to fit.
    fn burden_bps(&self, now: Instant, queued: bool) -> f64 {
        let rate = |s: &Stream| if queued { s.rate_bps } else { s.settled_bps(now) };
        self.streams.values().filter(|s| s.admitted()).map(rate).sum()
    }

    fn crosses(&self, track: u32, layer: Layer) -> bool {
        self.streams.get(&(track, layer)).is_none_or(Stream::crosses)
    }

    fn forget_idle(&mut self, now: Instant) {
        let changes = &mut self.changes;
        self.streams.retain(|&(track, layer), stream| {
            let patience = if stream.crosses() { IDLE } else { IDLE_SHED };
            let stays = now.saturating_duration_since(stream.last) < patience;
            if !stays && !stream.crosses() {
                changes.push_back(LayerChange {
                    track,
                    layer,
                    shed: false,
                });
            }
            stays
        });
    }

    /// For keyframes that were asked for and did not come, of layers that are sent.
    fn ask_again(&mut self, now: Instant) {
        for (&(track, layer), stream) in &mut self.streams {
            if let Passage::Opening { asked } = &mut stream.passage
                && now.saturating_duration_since(*asked) >= KEYFRAME_RETRY
                && now.saturating_duration_since(stream.last) < KEYFRAME_RETRY
            {
                *asked = now;
                self.keyframes_wanted.push_back((track, layer));
            }
        }
    }

    /// Counts a packet towards its layer's rate; says whether it may cross.
    fn meter(&mut self, now: Instant, packet: &MediaPacket) -> bool {
        let key = (packet.track, packet.layer);
        if !self.streams.contains_key(&key) {
            if self.streams.len() == STREAMS_MAX {
                return true;
            }
            let stream = Stream {
                priority: packet.priority,
                passage: Passage::Open,
                offered: 0,
                rate_bps: 0.0,
                last: now,
                reopened: None,
            };
            self.streams.insert(key, stream);
        }
        let Some(stream) = self.streams.get_mut(&key) else {
            return true;
        };
        stream.priority = packet.priority;
        stream.offered += packet.payload.len() as u64;
        stream.last = now;
        if packet.keyframe && matches!(stream.passage, Passage::Opening { .. }) {
            stream.passage = Passage::Open;
            stream.reopened = Some((now, stream.rate_bps));
            self.changes.push_back(LayerChange {
                track: packet.track,
                layer: packet.layer,
                shed: false,
            });
        }
        stream.crosses()
    }

    /// A layer was shed: if one had just come back, the next waits longer.
    fn regret(&mut self, now: Instant) {
        if self
            .resumed
            .take()
            .is_some_and(|resumed| now.saturating_duration_since(resumed) < REGRET)
        {
            self.calm_needed = (self.calm_needed * 2).min(CALM_MAX);
            self.regretted = Some(now);
        }
    }

    /// Sheds one whole layer of the lowest priority there is, audio excepted.
    fn shed_one(&mut self) -> bool {
        self.shed_above(Priority::Audio)
    }

    /// Sheds one whole layer of a priority lower than `above`: the lowest, of those the one with the highest track number.
    fn shed_above(&mut self, above: Priority) -> bool {
        let last = self
            .streams
            .iter()
            .filter(|(_, s)| s.admitted() && s.priority > above)
            .map(|(k, s)| (s.priority, *k))
            .max();
        let Some((_, key)) = last else { return false };
        self.calm_since = None;
        let crossed = self.streams.get_mut(&key).is_some_and(|stream| {
            let crossed = stream.crosses();
            stream.passage = Passage::Shed;
            crossed
        });
        if !crossed {
            // Nobody was told yet that it would come back.
            return true;
        }
        for queue in &mut self.queues {
            queue.retain(|w| {
                let stays = (w.packet.track, w.packet.layer) != key;
                if !stays {
                    self.bytes -= w.packet.payload.len();
                    self.dropped += 1;
                }
                stays
            });
        }
        self.changes.push_back(LayerChange {
            track: key.0,
            layer: key.1,
            shed: true,
        });
        true
    }

    /// Lets back in, each from its next keyframe on, what fits of the highest shed priority. Says whether anything did.
    fn resume(&mut self, now: Instant, limit: f64) -> bool {
        let mut shed: Vec<(Priority, (u32, Layer))> = self
            .streams
            .iter()
            .filter(|(_, s)| !s.admitted())
            .map(|(k, s)| (s.priority, *k))
            .collect();
        shed.sort_unstable();
        let Some(&(priority, _)) = shed.first() else {
            return false;
        };
        let mut admitted = self.admitted_bps();
        let mut resumed = false;
        for (_, key) in shed.into_iter().take_while(|(p, _)| *p == priority) {
            let Some(stream) = self.streams.get_mut(&key) else {
                continue;
            };
            admitted += stream.rate_bps;
            if admitted > limit {
                break;
            }
            stream.passage = Passage::Opening { asked: now };
            resumed = true;
            self.keyframes_wanted.push_back(key);
        }
        resumed
    }
}

#[cfg(test)]
mod tests;
