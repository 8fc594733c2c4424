//! A simulcast VP8 publisher, a subscriber that checks everything it is sent, and the network between them and the SFU,
//! in virtual time.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use meridian_sfu::packet::PACKET_BYTES_MAX;
use meridian_sfu::rtcp::{self, Rtcp};
use meridian_sfu::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

pub const VP8: Codec = Codec::Vp8;
const NTP_ZERO: u64 = 3_900_000_000 << 32;

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub fn uplink_media(rids: &[&str]) -> UplinkMedia {
    UplinkMedia {
        mid: "0".into(),
        kind: MediaKind::Video,
        rids: rids.iter().map(ToString::to_string).collect(),
        ssrcs: vec![],
        payloads: vec![PayloadType {
            pt: 96,
            codec: VP8,
            rtx_pt: Some(97),
        }],
        extensions: ExtensionMap {
            mid: Some(3),
            rid: Some(10),
            repaired_rid: Some(11),
            transport_cc: Some(4),
            ..ExtensionMap::default()
        },
    }
}

pub fn downlink_config() -> DownlinkConfig {
    DownlinkConfig {
        kind: MediaKind::Video,
        mid: "5".into(),
        ssrc: 0xD000_0001,
        rtx_ssrc: Some(0xD000_0002),
        payloads: vec![PayloadType {
            pt: 100,
            codec: VP8,
            rtx_pt: Some(101),
        }],
        extensions: ExtensionMap {
            mid: Some(9),
            transport_cc: Some(2),
            abs_send_time: Some(6),
            ..ExtensionMap::default()
        },
        first_sequence: 65_500,
        first_rtx_sequence: 65_530,
    }
}

/// What a test payload says about itself, behind the VP8 descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    pub keyframe: bool,
    pub layer: u8,
    pub frame: u32,
    pub part: u8,
    pub parts: u8,
    pub temporal: u8,
    pub capture_ms: u32,
}

/// One simulcast encoding with its own SSRC, clock offset and counters.
pub struct Encoder {
    pub layer: u8,
    pub ssrc: u32,
    pub sequence: u16,
    pub clock_offset: u32,
    picture_id: u16,
    tl0: u8,
    frame: u32,
    pub keyframe_wanted: bool,
    /// Temporal layers: 1 or 2 (every second frame in layer 1).
    pub temporal_layers: u8,
    sent: HashMap<u16, Vec<u8>>,
    rtx_sequence: u16,
    rid: &'static [u8],
}

impl Encoder {
    pub fn new(layer: u8, rng: &mut SmallRng) -> Self {
        Encoder {
            layer,
            ssrc: 0xA000_0000 + u32::from(layer),
            sequence: rng.random(),
            clock_offset: rng.random(),
            picture_id: rng.random_range(0..0x8000),
            tl0: rng.random(),
            frame: 0,
            keyframe_wanted: true,
            temporal_layers: 1,
            sent: HashMap::new(),
            rtx_sequence: 0,
            rid: [b"q", b"h", b"f"][usize::from(layer)],
        }
    }

    pub fn rtp_time(&self, capture_ms: u32) -> u32 {
        self.clock_offset.wrapping_add(capture_ms * 90)
    }

    pub fn report(&self, capture_ms: u32) -> SenderReportInfo {
        let ntp = NTP_ZERO + (u64::from(capture_ms) << 32) / 1_000;
        SenderReportInfo {
            ntp,
            rtp_timestamp: self.rtp_time(capture_ms),
        }
    }

    /// The packets of the next frame.
    pub fn encode(&mut self, capture_ms: u32, parts: u8) -> Vec<Vec<u8>> {
        let keyframe = std::mem::take(&mut self.keyframe_wanted);
        let upper = self.temporal_layers == 2 && self.frame % 2 == 1 && !keyframe;
        if keyframe {
            self.frame = 0;
        }
        let temporal = u8::from(upper);
        self.frame += 1;
        self.picture_id = (self.picture_id + 1) & 0x7FFF;
        self.tl0 = self.tl0.wrapping_add(1 - temporal);
        (0..parts)
            .map(|part| {
                let content = Content {
                    keyframe,
                    layer: self.layer,
                    frame: self.frame,
                    part,
                    parts,
                    temporal,
                    capture_ms,
                };
                self.packet(content, part + 1 == parts)
            })
            .collect()
    }

    fn packet(&mut self, content: Content, marker: bool) -> Vec<u8> {
        let mut data = self.header(
            96,
            marker,
            self.sequence,
            self.rtp_time(content.capture_ms),
            self.ssrc,
            10,
        );
        let start = if content.part == 0 { 0x10 } else { 0 };
        data.extend([0x80 | start, 0xF0]);
        data.extend((self.picture_id | 0x8000).to_be_bytes());
        data.extend([self.tl0, content.temporal << 6 | 0x20]);
        // Frame header byte (P bit), then ours.
        data.extend([u8::from(!content.keyframe), u8::from(content.keyframe), content.layer]);
        data.extend(content.frame.to_be_bytes());
        data.extend([content.part, content.parts, content.temporal]);
        data.extend(content.capture_ms.to_be_bytes());
        data.extend(vec![0xEE; usize::from(content.part) + 20]);
        self.sent.insert(self.sequence, data.clone());
        self.sequence = self.sequence.wrapping_add(1);
        data
    }

    /// A padding-only packet in the media stream.
    pub fn padding(&mut self, capture_ms: u32) -> Vec<u8> {
        let mut data = self.header(96, false, self.sequence, self.rtp_time(capture_ms), self.ssrc, 10);
        data[0] |= 0x20;
        data.extend([0, 0, 0, 4]);
        self.sent.insert(self.sequence, data.clone());
        self.sequence = self.sequence.wrapping_add(1);
        data
    }

    pub fn rtx(&mut self, sequence: u16) -> Option<Vec<u8>> {
        let original = self.sent.get(&sequence)?.clone();
        let timestamp = u32::from_be_bytes([original[4], original[5], original[6], original[7]]);
        let marker = original[1] & 0x80 != 0;
        let mut data = self.header(97, marker, self.rtx_sequence, timestamp, self.ssrc + 0x100, 11);
        self.rtx_sequence = self.rtx_sequence.wrapping_add(1);
        data[0] |= original[0] & 0x20;
        data.extend(sequence.to_be_bytes());
        data.extend(&original[24..]);
        Some(data)
    }

    fn header(&self, pt: u8, marker: bool, sequence: u16, timestamp: u32, ssrc: u32, rid_id: u8) -> Vec<u8> {
        let mut data = vec![0x90, pt | if marker { 0x80 } else { 0 }];
        data.extend(sequence.to_be_bytes());
        data.extend(timestamp.to_be_bytes());
        data.extend(ssrc.to_be_bytes());
        data.extend([0xBE, 0xDE, 0, 2, 0x30, b'0', rid_id << 4]);
        data.extend(self.rid);
        data.extend([0; 4]);
        data
    }
}

/// Timestamp, picture id, TL0PICIDX, and the packets with their sequence numbers.
type Frame = (u32, u16, u8, Vec<(u64, Content)>);

/// Checks every packet that the SFU sends to one subscriber, and remembers what a receiver would.
#[derive(Default)]
pub struct Subscriber {
    /// (SSRC, sequence) → bytes: a second, different packet is a reused nonce.
    used: HashMap<(u32, u16), Vec<u8>>,
    highest_out: Option<u64>,
    /// What the SFU sent, delivered or not, by extended sequence, after RTX is undone: (timestamp, payload).
    pub emitted: BTreeMap<u64, (u32, Vec<u8>)>,
    /// Delivered, by extended sequence, after RTX is undone.
    pub received: BTreeMap<u64, (u32, Vec<u8>)>,
    nacked: HashMap<u64, u32>,
    pub rtx_packets: usize,
    pub sent: usize,
    transport: Option<u16>,
}

impl Subscriber {
    pub fn take(&mut self, forwarded: &Forwarded, data: &[u8], delivered: bool) {
        assert_eq!(forwarded.len, data.len());
        let header = packet::RtpHeader::parse(data).unwrap();
        assert_eq!((header.ssrc, header.sequence), (forwarded.ssrc, forwarded.sequence));
        assert_eq!(header.payload.start, forwarded.header_len);
        assert_eq!(header.payload_type, if forwarded.rtx { 101 } else { 100 });
        let before = self.used.insert((header.ssrc, header.sequence), data.to_vec());
        assert!(before.is_none(), "(SSRC, sequence) used twice");
        let transport = header.elements(data).find(|(id, _)| *id == 2).unwrap().1;
        let transport = u16::from_be_bytes([transport[0], transport[1]]);
        if let Some(last) = self.transport.replace(transport) {
            assert_eq!(transport, last.wrapping_add(1), "transport-wide numbers are continuous");
        }
        self.sent += 1;
        let payload = &data[header.payload.clone()];
        let (sequence, payload) = if forwarded.rtx {
            self.rtx_packets += 1;
            (u16::from_be_bytes([payload[0], payload[1]]), &payload[2..])
        } else {
            assert_eq!(data.len() % 8, 0, "padded");
            (header.sequence, payload)
        };
        let extended = self.extend(sequence);
        if !forwarded.rtx {
            assert!(
                self.highest_out.is_none_or(|highest| extended > highest),
                "SRTP needs rising numbers"
            );
            self.highest_out = Some(extended);
        }
        let emitted = (header.timestamp, payload.to_vec());
        if delivered {
            self.received.insert(extended, emitted.clone());
        }
        let before = self.emitted.insert(extended, emitted.clone());
        assert!(
            before.is_none_or(|before| before == emitted),
            "same number, other content"
        );
    }

    fn extend(&self, sequence: u16) -> u64 {
        let reference = self.highest_out.unwrap_or(1 << 16 | u64::from(sequence));
        reference.wrapping_add_signed(i64::from(sequence.wrapping_sub(reference as u16) as i16))
    }

    /// Numbers a receiver would NACK, each at most `tries` times.
    pub fn missing(&mut self, tries: u32) -> Vec<u16> {
        let Some((first, last)) = self.range() else {
            return vec![];
        };
        let holes = (first.max(last.saturating_sub(500))..last).filter(|s| !self.received.contains_key(s));
        let mut out = Vec::new();
        for hole in holes {
            let count = self.nacked.entry(hole).or_default();
            if *count < tries {
                *count += 1;
                out.push(hole as u16);
            }
        }
        out
    }

    pub fn holes(&self) -> usize {
        self.range()
            .map_or(0, |(first, last)| (last - first + 1) as usize - self.received.len())
    }

    /// From the first number sent (a receiver would see the stream start there) to the newest it has.
    fn range(&self) -> Option<(u64, u64)> {
        Some((*self.emitted.first_key_value()?.0, *self.received.last_key_value()?.0))
    }

    /// Walks what was sent, in order, as a decoder would. Returns (layer, capture time) of each complete frame shown.
    pub fn decode(&self) -> Vec<(u8, u32)> {
        let mut shown = Vec::new();
        let mut frames: Vec<Frame> = Vec::new();
        for (&sequence, (timestamp, payload)) in &self.emitted {
            if payload.is_empty() {
                continue; // padding that fills a hole
            }
            let content = content(payload);
            let picture_id = u16::from_be_bytes([payload[2], payload[3]]) & 0x7FFF;
            match frames.last_mut() {
                Some(frame) if frame.0 == *timestamp => {
                    if content.temporal == 0 {
                        assert_eq!(
                            (frame.1, frame.2),
                            (picture_id, payload[4]),
                            "one frame, one picture id"
                        );
                    }
                    frame.3.push((sequence, content));
                }
                _ => frames.push((*timestamp, picture_id, payload[4], vec![(sequence, content)])),
            }
        }
        let mut previous: Option<(u32, u16, u8, Content)> = None;
        for (timestamp, picture_id, tl0, packets) in frames {
            let content = packets[0].1;
            let complete = packets.len() == usize::from(content.parts)
                && packets.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1);
            if !complete && content.temporal > 0 {
                continue; // the rest was left out while this part was on its way: it only fills a number
            }
            assert!(
                packets
                    .iter()
                    .all(|(_, c)| (c.layer, c.frame) == (content.layer, content.frame))
            );
            if let Some((last_timestamp, last_id, last_tl0, last)) = previous {
                assert!(timestamp.wrapping_sub(last_timestamp) as i32 > 0, "time goes on");
                let step = picture_id.wrapping_sub(last_id) & 0x7FFF;
                assert!(
                    (1..0x4000).contains(&step),
                    "picture ids go on: {last_id} → {picture_id}"
                );
                assert!(tl0.wrapping_sub(last_tl0) < 128, "tl0picidx goes on");
                if last.layer != content.layer {
                    assert!(
                        content.keyframe && content.part == 0,
                        "a layer begins with the start of a keyframe"
                    );
                }
            } else {
                assert!(
                    content.keyframe && content.part == 0,
                    "the stream begins with the start of a keyframe"
                );
            }
            previous = Some((timestamp, picture_id, tl0, content));
            if complete {
                shown.push((content.layer, content.capture_ms));
            }
        }
        shown
    }
}

/// Reads a test payload (behind a 6-byte VP8 descriptor).
pub fn content(payload: &[u8]) -> Content {
    let ours = &payload[7..];
    let word = |at: usize| u32::from_be_bytes([ours[at], ours[at + 1], ours[at + 2], ours[at + 3]]);
    Content {
        keyframe: ours[0] == 1,
        layer: ours[1],
        frame: word(2),
        part: ours[6],
        parts: ours[7],
        temporal: ours[8],
        capture_ms: word(9),
    }
}

/// One publisher, one subscriber, the SFU between them.
pub struct World {
    pub start: Instant,
    pub now: Instant,
    pub rng: SmallRng,
    pub encoders: Vec<Encoder>,
    pub active: [bool; 3],
    pub receiver: UplinkReceiver,
    pub uplink: Uplink,
    pub pool: PacketPool,
    pub downlink: Downlink,
    pub subscriber: Subscriber,
    pub upstream: Network,
    /// Loss towards the subscriber.
    pub downstream_loss: f64,
    pub transport_sequence: u16,
    pub plis: Vec<(u64, u8)>,
    pub send_reports: bool,
    pub parts_max: u8,
    pub padding: f64,
}

/// Towards the SFU: delivery time → packets.
#[derive(Default)]
pub struct Network {
    pub loss: f64,
    pub duplicate: f64,
    pub delay_ms: u64,
    pub jitter_ms: u64,
    queue: BTreeMap<(Duration, u64), Vec<u8>>,
    count: u64,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let start = Instant::now();
        let media = uplink_media(&["q", "h", "f"]);
        let mut receiver = UplinkReceiver::new(start, 1);
        receiver.publish(TrackId(7), &media);
        World {
            start,
            now: start,
            encoders: (0..3).map(|layer| Encoder::new(layer, &mut rng)).collect(),
            active: [true; 3],
            receiver,
            uplink: Uplink::new(TrackId(7), media),
            pool: PacketPool::new(4_096),
            downlink: Downlink::new(downlink_config()),
            subscriber: Subscriber::default(),
            upstream: Network {
                delay_ms: 10,
                ..Network::default()
            },
            downstream_loss: 0.0,
            transport_sequence: 65_000,
            plis: Vec::new(),
            send_reports: true,
            parts_max: 4,
            padding: 0.0,
            rng,
        }
    }

    /// What is in flight stays in flight.
    pub fn upstream(&mut self, loss: f64, duplicate: f64, delay_ms: u64, jitter_ms: u64) {
        let network = &mut self.upstream;
        (network.loss, network.duplicate) = (loss, duplicate);
        (network.delay_ms, network.jitter_ms) = (delay_ms, jitter_ms);
    }

    pub fn elapsed_ms(&self) -> u64 {
        (self.now - self.start).as_millis() as u64
    }

    fn transmit(&mut self, data: Vec<u8>) {
        let copies = if self.rng.random_bool(self.upstream.duplicate) {
            2
        } else {
            1
        };
        if self.rng.random_bool(self.upstream.loss) {
            return;
        }
        for _ in 0..copies {
            let jitter = self.rng.random_range(0..=self.upstream.jitter_ms);
            let at = self.now - self.start + ms(self.upstream.delay_ms + jitter);
            self.upstream.count += 1;
            self.upstream.queue.insert((at, self.upstream.count), data.clone());
        }
    }

    /// One frame of every active layer at 30 fps (capture every 33 ms), and sender reports twice a second.
    fn publish(&mut self) {
        let at = self.elapsed_ms();
        if !at.is_multiple_of(33) {
            return;
        }
        for index in 0..3 {
            if !self.active[index] {
                continue;
            }
            let parts = self.rng.random_range(1..=self.parts_max);
            for data in self.encoders[index].encode(at as u32, parts) {
                self.transmit(data);
            }
            if self.rng.random_bool(self.padding) {
                let data = self.encoders[index].padding(at as u32);
                self.transmit(data);
            }
            if self.send_reports && at.is_multiple_of(495) {
                let report = self.encoders[index].report(at as u32);
                self.uplink
                    .handle_sender_report(self.now, Encoding(index as u8), report);
            }
        }
    }

    fn arrive(&mut self) {
        let now = self.now - self.start;
        while let Some(entry) = self.upstream.queue.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let data = entry.remove();
            let Some(incoming) = self.receiver.handle_rtp(self.now, &data) else {
                continue;
            };
            if let Some(packet) = self.uplink.handle_rtp(self.now, &incoming, &data, &mut self.pool) {
                self.send(|downlink, source, send, out| downlink.forward(source, &packet, send, out));
            }
        }
    }

    pub fn send(
        &mut self,
        write: impl FnOnce(&mut Downlink, &Source, &mut SendContext<'_>, &mut [u8]) -> Option<Forwarded>,
    ) -> Option<Forwarded> {
        let mut out = [0; PACKET_BYTES_MAX + 64];
        let mut send = SendContext {
            now: self.now,
            abs_send_time: 0x123456,
            transport_sequence: &mut self.transport_sequence,
            pad_to: 8,
        };
        let forwarded = write(&mut self.downlink, self.uplink.source(), &mut send, &mut out)?;
        let delivered = !self.rng.random_bool(self.downstream_loss);
        self.subscriber.take(&forwarded, &out[..forwarded.len], delivered);
        Some(forwarded)
    }

    fn feedback(&mut self) {
        if let Some(layer) = self.downlink.poll_keyframe_request(self.now) {
            self.uplink.request_keyframe(self.now, layer);
        }
        let mut out = Vec::new();
        self.uplink.poll_feedback(self.now, 1, &mut out);
        for packet in rtcp::parse(&out) {
            match packet {
                Rtcp::Pli { media_ssrc } => {
                    let layer = (media_ssrc - 0xA000_0000) as u8;
                    self.plis.push((self.elapsed_ms(), layer));
                    self.encoders[usize::from(layer)].keyframe_wanted = true;
                }
                Rtcp::Nack { media_ssrc, sequences } => {
                    let layer = (media_ssrc - 0xA000_0000) as usize;
                    for sequence in sequences {
                        if let Some(data) = self.encoders[layer].rtx(sequence) {
                            self.transmit(data);
                        }
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// One millisecond.
    pub fn step(&mut self) {
        self.publish();
        self.arrive();
        self.feedback();
        let at = self.elapsed_ms();
        if at.is_multiple_of(100) {
            self.downlink.handle_timeout(self.now, self.uplink.source());
        }
        if at % 40 == 7 {
            for sequence in self.subscriber.missing(40) {
                self.send(|downlink, source, send, out| downlink.retransmit(sequence, source, send, out));
            }
        }
        self.now += ms(1);
    }

    pub fn run(&mut self, duration_ms: u64) {
        (0..duration_ms).for_each(|_| self.step());
    }

    pub fn demand(&mut self, demand: Demand) {
        self.downlink.set_demand(demand, self.uplink.source());
    }

    /// Lets everything in flight arrive and be repaired, without new frames.
    pub fn settle(&mut self) {
        self.active = [false; 3];
        self.run(1_000);
    }

    pub fn shown_layers(&self) -> BTreeSet<u8> {
        self.subscriber.decode().iter().map(|(layer, _)| *layer).collect()
    }
}
