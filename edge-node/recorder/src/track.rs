//! One track: which of its streams is recorded, and what becomes of each packet.

use std::time::{Duration, Instant};

use meridian_sfu::{Codec, Layer, LayerSet, MediaKind, Packet, SenderReportInfo, SequenceSpace};

use crate::clock::{PublisherClock, StreamClock};
use crate::frame::{Assembler, Frame, Push};
use crate::matroska::Cluster;
use crate::order::{Order, Ordered};
use crate::segment::{Opening, Segment};
use crate::{Missing, Output, SEGMENT_MAX, SegmentId, TrackInfo, WallMs};

/// Keyframes are asked for this often at most.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// A keyframe that comes after this much of a segment begins the next one.
const CUT_AT_KEYFRAME_MS: i64 = 2000;

/// A packet as the media thread delivers it.
pub struct TrackPacket {
    pub packet: Packet,
    /// The layers of the track that are sent at present.
    pub live: LayerSet,
}

/// The stream at hand: one encoder's packets.
struct Stream {
    space: SequenceSpace,
    layer: Layer,
    order: Order,
    /// The second half stands apart, because frames leave it while the first hands on packets.
    writer: Writer,
}

struct Writer {
    codec: Codec,
    assembler: Assembler,
    clock: StreamClock,
    layer: Layer,
    /// Frames before the next keyframe do not decode.
    waits_for_keyframe: bool,
}

/// What segments need from their track.
struct Files {
    info: TrackInfo,
    segment: Option<(SegmentId, Segment, Instant)>,
    /// Files begun so far.
    count: u32,
    closed_up_to: Option<WallMs>,
    /// The last segment's buffer.
    cluster: Cluster,
}

pub struct TrackRecorder {
    files: Files,
    stream: Option<Stream>,
    asked: Option<(Layer, Instant)>,
    report: Option<SenderReportInfo>,
}

/// What one call to a track may use: the time, its publisher's clock, where outputs go, and the next free number of a segment.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) wall: WallMs,
    pub(crate) publisher: &'a PublisherClock,
    pub(crate) next_segment: &'a mut u64,
    pub(crate) out: &'a mut Vec<Output>,
}

impl Context<'_> {
    fn arrival(&self, packet: &Packet) -> WallMs {
        let ago = self.now.saturating_duration_since(packet.arrival);
        WallMs(self.wall.0 - ago.as_millis() as i64)
    }
}

impl TrackRecorder {
    pub(crate) fn new(info: TrackInfo) -> TrackRecorder {
        TrackRecorder {
            files: Files {
                info,
                segment: None,
                count: 0,
                closed_up_to: None,
                cluster: Cluster::default(),
            },
            stream: None,
            asked: None,
            report: None,
        }
    }

    pub(crate) fn info(&self) -> &TrackInfo {
        &self.files.info
    }

    pub(crate) fn report(&mut self, report: SenderReportInfo) {
        self.report = Some(report);
        if let Some(stream) = &mut self.stream {
            stream.writer.clock.report(report);
        }
    }

    pub(crate) fn packet(&mut self, cx: &mut Context<'_>, packet: TrackPacket) {
        let TrackPacket { packet, live } = packet;
        if self.changes_stream(&packet, live) {
            self.begin_stream(cx, &packet);
        }
        let Some(stream) = &mut self.stream else {
            self.ask(cx, live.iter().last().unwrap_or(packet.layer));
            return;
        };
        if stream.space == packet.space() {
            let arrival = cx.arrival(&packet);
            stream.writer.clock.arrived(packet.timestamp, arrival);
            let (files, writer) = (&mut self.files, &mut stream.writer);
            stream
                .order
                .push(cx.now, packet, &mut |ordered| files.take(cx, writer, ordered));
        }
        let (layer, waits) = (stream.layer, stream.writer.waits_for_keyframe);
        match live.iter().last() {
            Some(best) if best > layer => self.ask(cx, best),
            _ if waits => self.ask(cx, layer),
            _ => {}
        }
    }

    /// Whether the packet begins what shall be recorded from here on: the first stream, a better one, one instead of a stream that has
    /// ended, or the same encoding from another encoder.
    fn changes_stream(&self, packet: &Packet, live: LayerSet) -> bool {
        let starts = self.files.info.codec_kind() == MediaKind::Audio || packet.frame.keyframe;
        match &self.stream {
            None => starts,
            Some(stream) if stream.space == packet.space() => false,
            Some(stream) => {
                let replaced = stream.space.encoding == packet.encoding;
                starts && (replaced || packet.layer > stream.layer || !live.contains(stream.layer))
            }
        }
    }

    fn begin_stream(&mut self, cx: &mut Context<'_>, packet: &Packet) {
        self.end_stream(cx);
        let Some(assembler) = Assembler::new(packet.codec) else {
            return;
        };
        let mut clock = StreamClock::new(rate_hz(packet.codec));
        if let Some(report) = self.report {
            clock.report(report);
        }
        self.stream = Some(Stream {
            space: packet.space(),
            layer: packet.layer,
            order: Order::default(),
            writer: Writer {
                codec: packet.codec,
                assembler,
                clock,
                layer: packet.layer,
                waits_for_keyframe: packet.codec.kind() == MediaKind::Video,
            },
        });
    }

    fn end_stream(&mut self, cx: &mut Context<'_>) {
        if let Some(mut stream) = self.stream.take() {
            let (files, writer) = (&mut self.files, &mut stream.writer);
            stream.order.finish(&mut |ordered| files.take(cx, writer, ordered));
        }
        self.files.close(cx);
    }

    fn ask(&mut self, cx: &mut Context<'_>, layer: Layer) {
        if self.files.info.codec_kind() == MediaKind::Audio {
            return;
        }
        let recently = |(asked, at): (Layer, Instant)| asked >= layer && cx.now.duration_since(at) < ASK_EVERY;
        if self.asked.is_some_and(recently) {
            return;
        }
        self.asked = Some((layer, cx.now));
        cx.out.push(Output::KeyframeWanted {
            track: self.files.info.id,
            layer,
        });
    }

    pub(crate) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        if let Some(stream) = &mut self.stream {
            let (files, writer) = (&mut self.files, &mut stream.writer);
            stream
                .order
                .expire(cx.now, &mut |ordered| files.take(cx, writer, ordered));
        }
        // A muted track, a still screen: nothing comes, and what has come shall not stay in danger.
        if self.files.due().is_some_and(|due| due <= cx.now) {
            self.files.close(cx);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let hole = self.stream.as_ref().and_then(|stream| stream.order.due());
        hole.into_iter().chain(self.files.due()).min()
    }

    pub(crate) fn finish(&mut self, cx: &mut Context<'_>) {
        self.end_stream(cx);
    }
}

impl Files {
    fn due(&self) -> Option<Instant> {
        self.segment.as_ref().map(|(_, _, opened)| *opened + SEGMENT_MAX)
    }

    fn take(&mut self, cx: &mut Context<'_>, writer: &mut Writer, ordered: Ordered) {
        let is_video = writer.codec.kind() == MediaKind::Video;
        let packet = match ordered {
            Ordered::Packet(packet) => packet,
            Ordered::Lost(packets) => {
                writer.assembler.lost();
                writer.waits_for_keyframe = is_video;
                let at = self.closed_up_to.unwrap_or(cx.wall);
                cx.out.push(Output::missing(Missing {
                    track: self.info.sid.clone(),
                    at: self.last_frame_at().unwrap_or(at),
                    packets,
                }));
                return;
            }
        };
        let Writer {
            codec,
            assembler,
            clock,
            layer,
            waits_for_keyframe,
        } = writer;
        let pushed = assembler.push(&packet, &mut |frame| {
            if frame.keyframe {
                *waits_for_keyframe = false;
            }
            if !*waits_for_keyframe {
                self.write(cx, *codec, *layer, clock, &frame);
            }
        });
        if pushed == Push::Malformed {
            writer.waits_for_keyframe = is_video;
        }
    }

    fn last_frame_at(&self) -> Option<WallMs> {
        let (_, segment, _) = self.segment.as_ref()?;
        Some(WallMs(segment.entry.at.0 + segment.entry.duration_ms))
    }

    fn write(&mut self, cx: &mut Context<'_>, codec: Codec, layer: Layer, clock: &StreamClock, frame: &Frame<'_>) {
        if let Some((_, segment, _)) = &self.segment {
            let offset_ms = segment.offset_ms(frame.timestamp);
            let over = offset_ms >= SEGMENT_MAX.as_millis() as i64
                || frame.keyframe && codec.kind() == MediaKind::Video && offset_ms >= CUT_AT_KEYFRAME_MS
                // The publisher's timestamps jumped back.
                || offset_ms < -CUT_AT_KEYFRAME_MS
                || frame.keyframe && segment.format != *frame.format;
            if over {
                self.close(cx);
            }
        }
        if self.segment.is_none() {
            let at = clock.at(frame.timestamp, cx.publisher).unwrap_or(cx.wall);
            let opening = Opening {
                track: &self.info.sid,
                file: format!("{}/{:06}.mkv", self.info.sid, self.count),
                codec,
                at,
                layer: layer.0,
                rate_hz: rate_hz(codec),
            };
            let (segment, header) = Segment::open(opening, frame, std::mem::take(&mut self.cluster));
            let id = SegmentId(*cx.next_segment);
            *cx.next_segment += 1;
            self.count += 1;
            cx.out.push(Output::Open {
                segment: id,
                file: segment.entry.file.clone(),
                header,
            });
            self.segment = Some((id, segment, cx.now));
        }
        if let Some((id, segment, _)) = &mut self.segment {
            let bytes = segment.push(frame);
            if !bytes.is_empty() {
                cx.out.push(Output::Append { segment: *id, bytes });
            }
        }
    }

    fn close(&mut self, cx: &mut Context<'_>) {
        let Some((id, segment, _)) = self.segment.take() else {
            return;
        };
        let (entry, bytes, cluster) = segment.close();
        self.cluster = cluster;
        if !bytes.is_empty() {
            cx.out.push(Output::Append { segment: id, bytes });
        }
        self.closed_up_to = Some(WallMs(entry.at.0 + entry.duration_ms));
        cx.out.push(Output::Close {
            segment: id,
            entry: Box::new(entry),
        });
    }
}

fn rate_hz(codec: Codec) -> u32 {
    match codec.kind() {
        MediaKind::Audio => 48_000,
        MediaKind::Video => 90_000,
    }
}
