//! What one shard knows of one track that it forwards: the packets of each layer, which layers are alive, and how their
//! RTP time relates to the publisher's clock. Filled by [`crate::Uplink`] on the publisher's shard, by [`RemoteTrack`]
//! for a track from a link, and by [`Source::mirror`] on every other shard.

use crate::media::{Codec, Layer, LayerSet, MediaKind, SenderReportInfo, TrackId};
use crate::packet::{Packet, PacketError, PacketOrigin, PacketPool, RtpHeader};
use crate::ring::{Inserted, LayerRing};
use crate::sequence::Unwrapper;
use crate::stats::Rate;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Ring slots of a video layer: 1 s of 3 Mb/s in 1,200-byte packets is 313.
const VIDEO_RING: usize = 512;
/// Audio packets come every 10–60 ms.
const AUDIO_RING: usize = 128;
/// Least time between two keyframe requests for a layer.
pub const KEYFRAME_INTERVAL: Duration = Duration::from_millis(500);
/// A layer is silent after missing this many of its frames while a sibling kept sending, within the bounds below.
const SILENT_FRAMES: u32 = 4;
const SILENT_MIN: Duration = Duration::from_millis(200);
const SILENT_MAX: Duration = Duration::from_millis(2_000);

/// One track on one shard. Downlinks read it.
pub struct Source {
    kind: MediaKind,
    codec: Option<Codec>,
    layers: [Option<Box<SourceLayer>>; Layer::COUNT],
    /// Sender reports of layers whose first packet is still on its way.
    early: [Option<(SenderReportInfo, Instant)>; Layer::COUNT],
    newest_arrival: Option<Instant>,
    /// Layers that do not come over the link at present, as its other end said.
    absent: LayerSet,
}

struct SourceLayer {
    ring: LayerRing,
    ssrc: u32,
    last_arrival: Instant,
    frames: FrameClock,
    rate: Rate,
    report: Option<(SenderReportInfo, Instant)>,
    keyframes: KeyframeLimiter,
    /// Temporal layers seen, as the highest id.
    top_temporal: u8,
}

/// Smoothed time between frames.
struct FrameClock {
    timestamp: u32,
    started: Instant,
    interval_us: u32,
}

/// One PLI per layer and interval, whoever asks.
#[derive(Default)]
struct KeyframeLimiter {
    asked: Option<Instant>,
    pending: bool,
}

impl Source {
    pub fn new(kind: MediaKind) -> Self {
        Source {
            kind,
            codec: None,
            layers: [None, None, None],
            early: [None; Layer::COUNT],
            newest_arrival: None,
            absent: LayerSet::EMPTY,
        }
    }

    pub fn kind(&self) -> MediaKind {
        self.kind
    }

    /// Stores a packet that another shard has numbered. `false`: duplicate or too old, do not forward it.
    pub fn mirror(&mut self, packet: &Packet) -> bool {
        self.insert(packet, drop)
    }

    /// Stores a numbered packet; `retire` gets what falls out of the ring.
    pub(crate) fn insert(&mut self, packet: &Packet, retire: impl FnMut(Packet)) -> bool {
        let ring_size = match self.kind {
            MediaKind::Video => VIDEO_RING,
            MediaKind::Audio => AUDIO_RING,
        };
        let slot = &mut self.layers[packet.layer.index()];
        let report = &mut self.early[packet.layer.index()];
        let layer = slot.get_or_insert_with(|| Box::new(SourceLayer::new(ring_size, packet, report.take())));
        if layer.ring.insert(packet, retire) != Inserted::Stored {
            return false;
        }
        layer.note(packet);
        if packet.frame.keyframe {
            // It comes again: the keyframe is here before the word that announces it.
            self.absent.remove(packet.layer);
        }
        self.codec = Some(packet.codec);
        self.newest_arrival = Some(
            self.newest_arrival
                .map_or(packet.arrival, |newest| newest.max(packet.arrival)),
        );
        true
    }

    pub(crate) fn accepts(&self, layer: Layer, extended_sequence: u64) -> Inserted {
        self.layer(layer)
            .map_or(Inserted::Stored, |l| l.ring.accepts(extended_sequence))
    }

    pub fn ring(&self, layer: Layer) -> Option<&LayerRing> {
        self.layer(layer).map(|l| &l.ring)
    }

    /// Layers that carry packets now. A layer is silent when it misses several frames while a sibling kept sending;
    /// when all stop together (mute, static screen) all stay as they were. Never those that are absent.
    pub fn live(&self) -> LayerSet {
        let Some(newest) = self.newest_arrival else {
            return LayerSet::EMPTY;
        };
        let arriving = self.collect(|l| l.last_arrival + l.frames.silence() >= newest);
        LayerSet(arriving.0 & !self.absent.0)
    }

    /// Layers that the link this track comes over does not carry for now: not live whatever the clock says, and no keyframe
    /// of them can be had. Ends for a layer when a keyframe of it arrives, or by saying so.
    pub fn set_absent(&mut self, layers: LayerSet) {
        self.absent = layers;
        for layer in layers.iter() {
            if let Some(l) = &mut self.layers[layer.index()] {
                l.keyframes.pending = false;
            }
        }
    }

    pub fn absent(&self) -> LayerSet {
        self.absent
    }

    /// Every layer that ever carried a packet.
    pub fn seen(&self) -> LayerSet {
        self.collect(|_| true)
    }

    /// The codec of the newest packet.
    pub fn codec(&self) -> Option<Codec> {
        self.codec
    }

    /// Over about the last second.
    pub fn bitrate_bps(&self, layer: Layer, now: Instant) -> u32 {
        self.layer(layer).map_or(0, |l| l.rate.bps(now))
    }

    /// Highest temporal layer to forward so that at most `max_fps` frames a second remain. Each temporal layer is
    /// assumed to double the rate of the one below it, as encoders do.
    pub fn temporal_for(&self, layer: Layer, max_fps: u8) -> u8 {
        let Some(l) = self.layer(layer) else { return u8::MAX };
        let mut fps = 1_000_000 / l.frames.interval_us.max(1);
        let mut temporal = l.top_temporal;
        // 10 % slack: 30 fps asked and 31 measured is a match.
        while temporal > 0 && fps * 10 > u32::from(max_fps) * 11 {
            temporal -= 1;
            fps /= 2;
        }
        if temporal == l.top_temporal { u8::MAX } else { temporal }
    }

    pub fn set_sender_report(&mut self, now: Instant, layer: Layer, report: SenderReportInfo) {
        match &mut self.layers[layer.index()] {
            Some(l) => l.report = Some((report, now)),
            None => self.early[layer.index()] = Some((report, now)),
        }
    }

    /// The newest report and when it arrived.
    pub fn sender_report(&self, layer: Layer) -> Option<(SenderReportInfo, Instant)> {
        self.layer(layer)?.report
    }

    /// The newest report, moved on to `now`.
    pub fn sender_report_now(&self, now: Instant, layer: Layer) -> Option<SenderReportInfo> {
        let (report, at) = self.sender_report(layer)?;
        Some(report.later(now.saturating_duration_since(at), self.codec?.clock_rate_hz()))
    }

    /// A subscriber needs a keyframe of this layer. `true`: ask the publisher (PLI, or upstream over the link) now.
    /// Otherwise it was asked a moment ago (< 500 ms): [`Source::poll_keyframe_request`] will say when to ask again.
    pub fn request_keyframe(&mut self, now: Instant, layer: Layer) -> bool {
        if self.absent.contains(layer) {
            return false;
        }
        let Some(l) = &mut self.layers[layer.index()] else {
            return false;
        };
        l.keyframes.pending = true;
        l.keyframes.poll(now)
    }

    /// A request that was held back and is now due. Call it on every timer tick, until `None`.
    pub fn poll_keyframe_request(&mut self, now: Instant) -> Option<Layer> {
        let due = |l: &mut Option<Box<SourceLayer>>| l.as_mut().is_some_and(|l| l.keyframes.poll(now));
        self.layers.iter_mut().position(due).map(|index| Layer(index as u8))
    }

    /// When `poll_keyframe_request` has something.
    pub fn keyframe_timeout(&self) -> Option<Instant> {
        self.layers.iter().flatten().filter_map(|l| l.keyframes.due()).min()
    }

    fn layer(&self, layer: Layer) -> Option<&SourceLayer> {
        self.layers[layer.index()].as_deref()
    }

    fn collect(&self, keep: impl Fn(&SourceLayer) -> bool) -> LayerSet {
        let mut set = LayerSet::EMPTY;
        for (index, layer) in self.layers.iter().enumerate() {
            if layer.as_deref().is_some_and(&keep) {
                set.insert(Layer(index as u8));
            }
        }
        set
    }
}

impl SourceLayer {
    fn new(ring_size: usize, first: &Packet, report: Option<(SenderReportInfo, Instant)>) -> Self {
        SourceLayer {
            ring: LayerRing::new(ring_size),
            ssrc: first.ssrc,
            last_arrival: first.arrival,
            frames: FrameClock {
                timestamp: first.timestamp,
                started: first.arrival,
                interval_us: 100_000,
            },
            rate: Rate::default(),
            report,
            keyframes: KeyframeLimiter::default(),
            top_temporal: 0,
        }
    }

    fn note(&mut self, packet: &Packet) {
        if packet.ssrc != self.ssrc {
            // A new encoder: its clock has nothing to do with the old one's.
            self.ssrc = packet.ssrc;
            self.report = None;
            self.top_temporal = 0;
        }
        self.last_arrival = self.last_arrival.max(packet.arrival);
        self.frames.note(packet);
        self.rate.add(packet.arrival, packet.link_bytes().len());
        self.top_temporal = self.top_temporal.max(packet.frame.temporal.unwrap_or(0));
        if packet.frame.keyframe {
            self.keyframes.pending = false;
        }
    }
}

impl FrameClock {
    fn note(&mut self, packet: &Packet) {
        // Only forward steps: a repaired packet of an older frame says nothing.
        if packet.timestamp.wrapping_sub(self.timestamp) as i32 <= 0 {
            return;
        }
        let interval = packet
            .arrival
            .saturating_duration_since(self.started)
            .min(SILENT_MAX)
            .as_micros() as u32;
        self.interval_us = self.interval_us - self.interval_us / 8 + interval / 8;
        self.timestamp = packet.timestamp;
        self.started = packet.arrival;
    }

    fn silence(&self) -> Duration {
        Duration::from_micros(u64::from(SILENT_FRAMES * self.interval_us)).clamp(SILENT_MIN, SILENT_MAX)
    }
}

impl KeyframeLimiter {
    fn due(&self) -> Option<Instant> {
        self.pending.then_some(())?;
        self.asked.map(|asked| asked + KEYFRAME_INTERVAL)
    }

    fn poll(&mut self, now: Instant) -> bool {
        let send = self.pending && self.due().is_none_or(|due| now >= due);
        if send {
            self.asked = Some(now);
            self.pending = false;
        }
        send
    }
}

/// A track that comes over a link: numbers and stores its packets.
pub struct RemoteTrack {
    track: TrackId,
    codec: Codec,
    source: Source,
    numbers: [Numbering; Layer::COUNT],
}

/// Extends the sequence numbers of one layer, following a change of SSRC.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Numbering {
    ssrc: Option<u32>,
    unwrapper: Unwrapper,
    /// The next number that would confirm a restart of the same SSRC (RFC 3550 A.1).
    suspect: Option<u16>,
}

/// Numbers further back than this are not reordering.
const REORDER_MAX: u64 = 2_048;

impl Numbering {
    /// Returns the extended number, and whether a new numbering began. `None`: implausible, drop it.
    pub(crate) fn number(&mut self, ssrc: u32, sequence: u16) -> Option<(u64, bool)> {
        let known = self.ssrc.replace(ssrc);
        if known.is_some_and(|known| known != ssrc) {
            self.unwrapper.restart(sequence);
            self.suspect = None;
            return Some((self.unwrapper.unwrap(sequence), true));
        }
        if let Some(highest) = self.unwrapper.highest()
            && crate::sequence::nearest(highest, sequence) + REORDER_MAX < highest
        {
            if self.suspect != Some(sequence) {
                self.suspect = Some(sequence.wrapping_add(1));
                return None;
            }
            self.suspect = None;
            self.unwrapper.restart(sequence);
            return Some((self.unwrapper.unwrap(sequence), true));
        }
        Some((self.unwrapper.unwrap(sequence), known.is_none()))
    }

    /// Where an older sequence number of the present SSRC lies, without moving on.
    pub(crate) fn place(&self, sequence: u16) -> Option<u64> {
        self.unwrapper
            .highest()
            .map(|highest| crate::sequence::nearest(highest, sequence))
    }

    pub(crate) fn ssrc(&self) -> Option<u32> {
        self.ssrc
    }
}

impl RemoteTrack {
    pub fn new(track: TrackId, codec: Codec) -> Self {
        RemoteTrack {
            track,
            codec,
            source: Source::new(codec.kind()),
            numbers: Default::default(),
        }
    }

    pub fn track(&self) -> TrackId {
        self.track
    }

    pub fn source(&self) -> &Source {
        &self.source
    }

    pub fn source_mut(&mut self) -> &mut Source {
        &mut self.source
    }

    /// Takes canonical RTP from the link. `Ok(None)`: a duplicate.
    ///
    /// # Errors
    /// When the bytes are not RTP.
    pub fn handle_link(
        &mut self,
        now: Instant,
        layer: Layer,
        data: &[u8],
        pool: &mut PacketPool,
    ) -> Result<Option<Packet>, PacketError> {
        let layer = Layer(layer.index() as u8);
        let header = RtpHeader::parse(data)?;
        let Some((sequence, _)) = self.numbers[layer.index()].number(header.ssrc, header.sequence) else {
            return Ok(None);
        };
        if self.source.accepts(layer, sequence) != Inserted::Stored {
            return Ok(None);
        }
        let mut packet = pool.parse_link(
            data,
            PacketOrigin {
                arrival: now,
                layer,
                codec: self.codec,
            },
        )?;
        if let Some(unique) = Arc::get_mut(&mut packet) {
            unique.extended_sequence = sequence;
        }
        self.source.insert(&packet, |old| pool.retire(old));
        Ok(Some(packet))
    }
}
