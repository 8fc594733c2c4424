//! One published track on its publisher's shard: RTX undone, duplicates dropped, losses NACKed, receive statistics kept,
//! packets stored in the [`Source`]. It writes RTCP towards the publisher; it knows nothing of subscribers.

use crate::media::{Codec, Encoding, Layer, MediaKind, SenderReportInfo, TrackId, UplinkMedia};
use crate::nack::{Gap, NackTracker};
use crate::packet::{Packet, PacketOrigin, PacketPool, RtpHeader};
use crate::receiver::Incoming;
use crate::ring::Inserted;
use crate::rtcp::{ReportBlock, Writer};
use crate::sequence::SourceSequence;
use crate::source::{Numbering, Source};
use crate::stats::ReceiveStats;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Counters of one encoding since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UplinkStats {
    pub packets: u64,
    pub bytes: u64,
    pub duplicates: u64,
    /// Packets that never came on the encoding's own SSRC (RFC 3550 cumulative lost); RTX may have repaired them.
    pub lost: u64,
    /// Holes filled by RTX.
    pub repaired: u64,
    pub nacks_sent: u64,
    pub plis_sent: u64,
    /// Interarrival jitter in milliseconds (RFC 3550 §6.4.1).
    pub jitter_ms: u32,
    /// Share of packets lost in the last report interval, of 256.
    pub fraction_lost: u8,
    pub bitrate_bps: u32,
}

pub struct Uplink {
    track: TrackId,
    media: UplinkMedia,
    source: Source,
    streams: [Option<Box<UplinkStream>>; Encoding::COUNT],
    /// Encodings for which a PLI goes out with the next feedback, and since when.
    pli_due: [Option<Instant>; Encoding::COUNT],
    muted: bool,
    rtt: Duration,
    /// Scratch for NACKs.
    due: Vec<u16>,
}

struct UplinkStream {
    numbers: Numbering,
    receive: ReceiveStats,
    nack: NackTracker,
    stats: UplinkStats,
}

impl Uplink {
    pub fn new(track: TrackId, media: UplinkMedia) -> Self {
        Uplink {
            track,
            source: Source::new(media.kind),
            media,
            streams: [None, None, None],
            pli_due: [None; Encoding::COUNT],
            muted: false,
            rtt: Duration::from_millis(100),
            due: Vec::new(),
        }
    }

    pub fn track(&self) -> TrackId {
        self.track
    }

    pub fn media(&self) -> &UplinkMedia {
        &self.media
    }

    /// The section was negotiated again (payload types or extension ids may differ).
    pub fn update(&mut self, media: UplinkMedia) {
        self.media = media;
    }

    pub fn source(&self) -> &Source {
        &self.source
    }

    pub fn source_mut(&mut self) -> &mut Source {
        &mut self.source
    }

    /// While muted, packets are accounted for but neither stored, NACKed nor forwarded.
    pub fn set_muted(&mut self, muted: bool) {
        self.muted = muted;
        self.streams.iter_mut().flatten().for_each(|stream| stream.nack.reset());
    }

    /// Round-trip time to the publisher, for the NACK interval. Default 100 ms.
    pub fn set_rtt(&mut self, rtt: Duration) {
        self.rtt = rtt;
        self.streams
            .iter_mut()
            .flatten()
            .for_each(|stream| stream.nack.set_rtt(rtt));
    }

    /// Takes a packet that [`crate::UplinkReceiver`] routed here. `data` is the same slice. Returns the packet to hand to
    /// every shard's downlinks, restored when it came as RTX; `None` = duplicate, probe padding, muted or unreadable.
    pub fn handle_rtp(
        &mut self,
        now: Instant,
        incoming: &Incoming,
        data: &[u8],
        pool: &mut PacketPool,
    ) -> Option<Packet> {
        let encoding = Encoding(incoming.encoding.index() as u8);
        if incoming.repair {
            return self.handle_repair(now, encoding, incoming, data, pool);
        }
        let header = &incoming.header;
        let codec = self.media.payloads.iter().find(|p| p.pt == header.payload_type)?.codec;
        let rtt = self.rtt;
        let own = self.streams[encoding.index()].get_or_insert_with(|| Box::new(UplinkStream::new(now, codec, rtt)));
        let (sequence, restarted) = own.numbers.number(header.ssrc, header.sequence)?;
        if restarted {
            own.nack.reset();
            own.receive = ReceiveStats::new(now, codec.clock_rate_hz());
        }
        if self.source.accepts(encoding, sequence) != Inserted::Stored {
            own.stats.duplicates += 1;
            return None;
        }
        own.stats.packets += 1;
        own.stats.bytes += data.len() as u64;
        own.receive.received(now, sequence, header.timestamp);
        if self.muted {
            return None;
        }
        // Audio is not repaired: its jitter buffer conceals sooner than a retransmission arrives.
        if self.media.kind == MediaKind::Video && own.nack.arrived(now, sequence) == Gap::Hopeless {
            self.request_keyframe(now, encoding.first_layer());
        }
        self.store(
            data,
            header,
            PacketOrigin {
                arrival: now,
                encoding,
                layer: encoding.first_layer(),
                codec,
            },
            sequence,
            pool,
        )
    }

    /// RFC 4588 §4: the payload begins with the original sequence number.
    fn handle_repair(
        &mut self,
        now: Instant,
        encoding: Encoding,
        incoming: &Incoming,
        data: &[u8],
        pool: &mut PacketPool,
    ) -> Option<Packet> {
        let own = self.streams[encoding.index()].as_mut()?;
        let original = self
            .media
            .payloads
            .iter()
            .find(|p| p.rtx_pt == Some(incoming.header.payload_type))?;
        // Probes are RTX packets with nothing but padding.
        let payload = data.get(incoming.header.payload.clone())?;
        let header = RtpHeader {
            payload_type: original.pt,
            ssrc: own.numbers.ssrc()?,
            sequence: u16::from_be_bytes(*payload.first_chunk::<2>()?),
            payload: incoming.header.payload.start + 2..incoming.header.payload.end,
            ..incoming.header.clone()
        };
        let sequence = own.numbers.place(header.sequence)?;
        if self.muted || self.source.accepts(encoding, sequence) != Inserted::Stored {
            own.stats.duplicates += 1;
            return None;
        }
        own.nack.arrived(now, sequence);
        own.stats.repaired += 1;
        let codec = original.codec;
        self.store(
            data,
            &header,
            PacketOrigin {
                arrival: now,
                encoding,
                layer: encoding.first_layer(),
                codec,
            },
            sequence,
            pool,
        )
    }

    fn store(
        &mut self,
        data: &[u8],
        header: &RtpHeader,
        origin: PacketOrigin,
        sequence: SourceSequence,
        pool: &mut PacketPool,
    ) -> Option<Packet> {
        let mut packet = pool.build(data, header, &self.media.extensions, origin).ok()?;
        Arc::get_mut(&mut packet)?.extended_sequence = sequence;
        self.source.insert(&packet, |old| pool.retire(old)).then_some(packet)
    }

    /// A sender report of this encoding's SSRC arrived.
    pub fn handle_sender_report(&mut self, now: Instant, encoding: Encoding, report: SenderReportInfo) {
        if let Some(own) = &mut self.streams[encoding.index()] {
            own.receive.sender_report(now, report.ntp);
            self.source.set_sender_report(now, encoding, report);
        }
    }

    /// Somebody needs a keyframe (aggregated, ≥ 500 ms apart per encoding). Sent by the next `poll_feedback`.
    pub fn request_keyframe(&mut self, now: Instant, layer: Layer) {
        if self.media.kind == MediaKind::Video && self.source.request_keyframe(now, layer) {
            self.pli_due[self.source.carrier(layer).index()] = Some(now);
        }
    }

    /// Appends due NACKs and PLIs. Call after a batch of packets, after `request_keyframe`, and at `poll_timeout`.
    /// `false` = nothing was due.
    pub fn poll_feedback(&mut self, now: Instant, feedback_ssrc: u32, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        while let Some(encoding) = self.source.poll_keyframe_request(now) {
            self.pli_due[encoding.index()] = Some(now);
        }
        let mut writer = Writer::new(out);
        for (index, slot) in self.streams.iter_mut().enumerate() {
            let Some(own) = slot else { continue };
            let Some(ssrc) = own.numbers.ssrc() else { continue };
            if self.pli_due[index].take().is_some() {
                writer.pli(feedback_ssrc, ssrc);
                own.stats.plis_sent += 1;
            }
            own.nack.take_due(now, &mut self.due);
            if !self.due.is_empty() {
                writer.nack(feedback_ssrc, ssrc, &self.due);
                own.stats.nacks_sent += self.due.len() as u64;
            }
        }
        out.len() > before
    }

    /// When `poll_feedback` has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let nacks = self
            .streams
            .iter()
            .flatten()
            .filter_map(|stream| stream.nack.next_due());
        let plis = self.pli_due.iter().flatten().copied();
        nacks.chain(plis).chain(self.source.keyframe_timeout()).min()
    }

    /// Report blocks for the periodic receiver report, one per encoding that sent since the last call. Appends.
    pub fn report_blocks(&mut self, now: Instant, out: &mut Vec<ReportBlock>) {
        for own in self.streams.iter_mut().flatten() {
            out.extend(own.numbers.ssrc().and_then(|ssrc| own.receive.report(now, ssrc)));
        }
    }

    pub fn stats(&self, encoding: Encoding, now: Instant) -> UplinkStats {
        let Some(own) = &self.streams[encoding.index()] else {
            return UplinkStats::default();
        };
        UplinkStats {
            lost: own.receive.lost().max(0) as u64,
            jitter_ms: own.receive.jitter_ms(),
            fraction_lost: own.receive.fraction_lost,
            bitrate_bps: self.source.bitrate_bps(encoding.first_layer(), now),
            ..own.stats
        }
    }
}

impl UplinkStream {
    fn new(now: Instant, codec: Codec, rtt: Duration) -> Self {
        let mut nack = NackTracker::new();
        nack.set_rtt(rtt);
        UplinkStream {
            numbers: Numbering::default(),
            receive: ReceiveStats::new(now, codec.clock_rate_hz()),
            nack,
            stats: UplinkStats::default(),
        }
    }
}
