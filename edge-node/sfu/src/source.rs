//! What one shard knows of one track that it forwards: the packets of each encoding, which layers are alive, and how their
//! RTP time relates to the publisher's clock. Filled by [`crate::Uplink`] on the publisher's shard, by [`RemoteTrack`]
//! for a track from a link, and by [`Source::mirror`] on every other shard.

use crate::media::{Codec, Encoding, Layer, LayerSet, MediaKind, SenderReportInfo, TrackId};
use crate::packet::{Packet, PacketError, PacketOrigin, PacketPool, RtpHeader};
use crate::ring::{Inserted, PacketRing};
use crate::sequence::{SourceSequence, Unwrapper};
use crate::stats::Rate;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Ring slots of a video encoding: 1 s of 3 Mb/s in 1,200-byte packets is 313.
const VIDEO_RING: usize = 512;
/// Audio packets come every 10–60 ms.
const AUDIO_RING: usize = 128;
/// Least time between two keyframe requests for an encoding.
pub const KEYFRAME_INTERVAL: Duration = Duration::from_millis(500);
/// A layer is silent after missing this many of its frames while a sibling kept sending, within the bounds below.
const SILENT_FRAMES: u32 = 4;
const SILENT_MIN: Duration = Duration::from_millis(200);
const SILENT_MAX: Duration = Duration::from_millis(2_000);

/// One track on one shard. Downlinks read it.
pub struct Source {
    kind: MediaKind,
    codec: Option<Codec>,
    streams: [Option<Box<SourceStream>>; Encoding::COUNT],
    layers: [Option<SourceLayer>; Layer::COUNT],
    /// Sender reports of encodings whose first packet is still on its way.
    early: [Option<(SenderReportInfo, Instant)>; Encoding::COUNT],
    newest_arrival: Option<Instant>,
    /// Layers that do not come over the link at present, as its other end said.
    absent: LayerSet,
}

/// What belongs to the RTP stream of an encoding, whatever layers are in it.
struct SourceStream {
    ring: PacketRing,
    ssrc: u32,
    report: Option<(SenderReportInfo, Instant)>,
    keyframes: KeyframeLimiter,
}

/// The packets of one layer, as they come.
struct SourceLayer {
    /// The encoding that carries it.
    encoding: Encoding,
    last_arrival: Instant,
    frames: FrameClock,
    rate: Rate,
    /// Temporal layers seen, as the highest id.
    top_temporal: u8,
}

/// Smoothed time between frames.
struct FrameClock {
    timestamp: u32,
    started: Instant,
    interval_us: u32,
}

/// One PLI per encoding and interval, whoever asks.
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
            streams: [const { None }; Encoding::COUNT],
            layers: [const { None }; Layer::COUNT],
            early: [None; Encoding::COUNT],
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
        let slot = &mut self.streams[packet.encoding.index()];
        let report = &mut self.early[packet.encoding.index()];
        let stream = slot.get_or_insert_with(|| Box::new(SourceStream::new(ring_size, packet, report.take())));
        if stream.ring.insert(packet, retire) != Inserted::Stored {
            return false;
        }
        if stream.note(packet) {
            let replaced = self
                .layers
                .iter_mut()
                .flatten()
                .filter(|l| l.encoding == packet.encoding);
            replaced.for_each(|layer| layer.top_temporal = 0);
        }
        self.layers[packet.layer.index()]
            .get_or_insert_with(|| SourceLayer::new(packet))
            .note(packet);
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

    pub(crate) fn accepts(&self, encoding: Encoding, sequence: SourceSequence) -> Inserted {
        self.stream(encoding)
            .map_or(Inserted::Stored, |stream| stream.ring.accepts(sequence))
    }

    pub fn ring(&self, encoding: Encoding) -> Option<&PacketRing> {
        self.stream(encoding).map(|stream| &stream.ring)
    }

    /// The encoding that carries a layer; one that never came is taken for an encoding of its own (simulcast).
    pub fn carrier(&self, layer: Layer) -> Encoding {
        self.layer(layer)
            .map_or(Encoding(layer.index() as u8), |layer| layer.encoding)
    }

    /// The layers that came in this encoding; before its first packet, the one that it would begin with.
    pub fn carried_by(&self, encoding: Encoding) -> LayerSet {
        let mut carried = self.collect(|layer| layer.encoding == encoding);
        if carried.is_empty() {
            carried.insert(encoding.first_layer());
        }
        carried
    }

    /// Encodings that ever carried a packet.
    pub fn encodings(&self) -> impl Iterator<Item = Encoding> + use<> {
        let seen = self.streams.each_ref().map(Option::is_some);
        (0..Encoding::COUNT as u8)
            .map(Encoding)
            .filter(move |e| seen[e.index()])
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
            if let Some(stream) = &mut self.streams[self.carrier(layer).index()] {
                stream.keyframes.pending = false;
            }
        }
    }

    pub fn absent(&self) -> LayerSet {
        self.absent
    }

    /// The codec of the newest packet.
    pub fn codec(&self) -> Option<Codec> {
        self.codec
    }

    /// Over about the last second.
    pub fn bitrate_bps(&self, layer: Layer, now: Instant) -> u32 {
        self.layer(layer).map_or(0, |l| l.rate.bps(now))
    }

    /// The most a layer took lately, for knowing what it will take again; 0 = never measured.
    pub fn peak_bps(&self, layer: Layer) -> u32 {
        self.layer(layer).map_or(0, |l| l.rate.peak_bps())
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

    pub fn set_sender_report(&mut self, now: Instant, encoding: Encoding, report: SenderReportInfo) {
        match &mut self.streams[encoding.index()] {
            Some(stream) => stream.report = Some((report, now)),
            None => self.early[encoding.index()] = Some((report, now)),
        }
    }

    /// The newest report and when it arrived.
    pub fn sender_report(&self, encoding: Encoding) -> Option<(SenderReportInfo, Instant)> {
        self.stream(encoding)?.report
    }

    /// The newest report, moved on to `now`.
    pub fn sender_report_now(&self, now: Instant, encoding: Encoding) -> Option<SenderReportInfo> {
        let (report, at) = self.sender_report(encoding)?;
        Some(report.later(now.saturating_duration_since(at), self.codec?.clock_rate_hz()))
    }

    /// A subscriber needs a keyframe of this layer. `true`: ask the publisher (PLI, or upstream over the link) now.
    /// Otherwise it was asked a moment ago (< 500 ms): [`Source::poll_keyframe_request`] will say when to ask again.
    pub fn request_keyframe(&mut self, now: Instant, layer: Layer) -> bool {
        if self.absent.contains(layer) {
            return false;
        }
        let Some(stream) = &mut self.streams[self.carrier(layer).index()] else {
            return false;
        };
        stream.keyframes.pending = true;
        stream.keyframes.poll(now)
    }

    /// A request that was held back and is now due. Call it on every timer tick, until `None`.
    pub fn poll_keyframe_request(&mut self, now: Instant) -> Option<Encoding> {
        let due = |s: &mut Option<Box<SourceStream>>| s.as_mut().is_some_and(|s| s.keyframes.poll(now));
        self.streams.iter_mut().position(due).map(|index| Encoding(index as u8))
    }

    /// When `poll_keyframe_request` has something.
    pub fn keyframe_timeout(&self) -> Option<Instant> {
        self.streams.iter().flatten().filter_map(|s| s.keyframes.due()).min()
    }

    fn stream(&self, encoding: Encoding) -> Option<&SourceStream> {
        self.streams[encoding.index()].as_deref()
    }

    fn layer(&self, layer: Layer) -> Option<&SourceLayer> {
        self.layers[layer.index()].as_ref()
    }

    fn collect(&self, keep: impl Fn(&SourceLayer) -> bool) -> LayerSet {
        let mut set = LayerSet::EMPTY;
        for (index, layer) in self.layers.iter().enumerate() {
            if layer.as_ref().is_some_and(&keep) {
                set.insert(Layer(index as u8));
            }
        }
        set
    }
}

impl SourceStream {
    fn new(ring_size: usize, first: &Packet, report: Option<(SenderReportInfo, Instant)>) -> Self {
        SourceStream {
            ring: PacketRing::new(ring_size),
            ssrc: first.ssrc,
            report,
            keyframes: KeyframeLimiter::default(),
        }
    }

    /// `true`: a new encoder.
    fn note(&mut self, packet: &Packet) -> bool {
        let replaced = packet.ssrc != self.ssrc;
        if replaced {
            // Its clock has nothing to do with the old one's.
            self.ssrc = packet.ssrc;
            self.report = None;
        }
        if packet.frame.keyframe {
            self.keyframes.pending = false;
        }
        replaced
    }
}

impl SourceLayer {
    fn new(first: &Packet) -> Self {
        SourceLayer {
            encoding: first.encoding,
            last_arrival: first.arrival,
            frames: FrameClock {
                timestamp: first.timestamp,
                started: first.arrival,
                interval_us: 100_000,
            },
            rate: Rate::default(),
            top_temporal: 0,
        }
    }

    fn note(&mut self, packet: &Packet) {
        self.encoding = packet.encoding;
        self.last_arrival = self.last_arrival.max(packet.arrival);
        self.frames.note(packet);
        self.rate.add(packet.arrival, packet.link_bytes().len());
        self.top_temporal = self.top_temporal.max(packet.frame.temporal.unwrap_or(0));
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
    numbers: [Numbering; Encoding::COUNT],
}

/// Extends the sequence numbers of one encoding, following a change of SSRC.
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
    pub(crate) fn number(&mut self, ssrc: u32, sequence: u16) -> Option<(SourceSequence, bool)> {
        let known = self.ssrc.replace(ssrc);
        if known.is_some_and(|known| known != ssrc) {
            self.unwrapper.restart(sequence);
            self.suspect = None;
            return Some((SourceSequence(self.unwrapper.unwrap(sequence)), true));
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
            return Some((SourceSequence(self.unwrapper.unwrap(sequence)), true));
        }
        Some((SourceSequence(self.unwrapper.unwrap(sequence)), known.is_none()))
    }

    /// Where an older sequence number of the present SSRC lies, without moving on.
    pub(crate) fn place(&self, sequence: u16) -> Option<SourceSequence> {
        self.unwrapper
            .highest()
            .map(|highest| SourceSequence(crate::sequence::nearest(highest, sequence)))
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
        (encoding, layer): (Encoding, Layer),
        data: &[u8],
        pool: &mut PacketPool,
    ) -> Result<Option<Packet>, PacketError> {
        let (encoding, layer) = (Encoding(encoding.index() as u8), Layer(layer.index() as u8));
        let header = RtpHeader::parse(data)?;
        let Some((sequence, _)) = self.numbers[encoding.index()].number(header.ssrc, header.sequence) else {
            return Ok(None);
        };
        if self.source.accepts(encoding, sequence) != Inserted::Stored {
            return Ok(None);
        }
        let mut packet = pool.parse_link(
            data,
            PacketOrigin {
                arrival: now,
                encoding,
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
