//! The datagrams of a link: media, heartbeats, hop NACKs and sender reports, and the splitting of packets that exceed the
//! path's datagram size. All numbers are big-endian. First byte: version in the high four bits, kind in the low four.
//! Longer bodies than this version knows are accepted and the rest ignored, except for media, whose rest is the payload.
//!
//! ```text
//! media          ver|1  flags u8  sequence u32  track u32  layer u8  payload…
//! heartbeat      ver|2  sequence u32  sent_us u64  echo_us u64  hold_us u32  next u32  loss u16
//! NACK           ver|3  count u8  { first u32  following u32 bitmap } × count
//! sender report  ver|4  track u32  layer u8  ntp u64  rtp_timestamp u32
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use meridian_sfu::media::{Encoding, Layer};

pub const VERSION: u8 = 1;
/// Bytes in front of a media payload.
pub const MEDIA_HEADER: usize = 11;
/// Ranges in one NACK datagram: at most 33 sequences each.
pub const NACK_RANGES_MAX: usize = 64;

const KIND_MEDIA: u8 = 1;
const KIND_HEARTBEAT: u8 = 2;
const KIND_NACK: u8 = 3;
const KIND_SENDER_REPORT: u8 = 4;

const FLAG_SPLIT: u8 = 0b001;
const FLAG_SECOND: u8 = 0b010;
const FLAG_RETRANSMITTED: u8 = 0b100;

/// Which part of a packet a datagram holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    First,
    /// Its sequence is one above that of the first part.
    Second,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Media {
    /// Low 32 bits of the link sequence: one per datagram, no gaps, whatever the track.
    pub sequence: u32,
    /// Number of the track on this link, agreed on the control stream.
    pub track: u32,
    pub encoding: Encoding,
    /// Not below the encoding's first layer.
    pub layer: Layer,
    pub part: Part,
    /// Answer to a NACK.
    pub retransmitted: bool,
    pub payload: Bytes,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    pub sequence: u32,
    /// Sender's clock in µs, from an origin of its own.
    pub sent_us: u64,
    /// `sent_us` of the newest heartbeat the sender received; 0 = none yet.
    pub echo_us: u64,
    /// How long the sender held that heartbeat before this echo, in µs.
    pub hold_us: u32,
    /// Link sequence the sender's next media datagram will have: shows the receiver losses at the tail of a burst.
    pub next: u32,
    /// Loss on the way to the sender, before repair, in 1/10,000.
    pub loss: u16,
}

/// Link sequences asked for again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nack {
    ranges: Vec<(u32, u32)>,
}

/// A publisher's sender report (RFC 3550 §6.4.1) for one encoding, with its NTP timeline unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderReport {
    pub track: u32,
    pub encoding: Encoding,
    /// 32.32 fixed-point NTP time of the publisher.
    pub ntp: u64,
    pub rtp_timestamp: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datagram {
    Media(Media),
    Heartbeat(Heartbeat),
    Nack(Nack),
    SenderReport(SenderReport),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    #[error("datagram is shorter than its kind needs")]
    Truncated,
    #[error("datagram version {0} is not known")]
    Version(u8),
    #[error("datagram kind {0} is not known")]
    Kind(u8),
    #[error("layer {0} does not exist")]
    Layer(u8),
    #[error("a NACK of {0} ranges exceeds the limit")]
    NackRanges(usize),
    #[error("second part without the split flag")]
    Flags,
}

/// Reads one datagram. The payload of media shares the datagram's memory.
pub fn parse(mut datagram: Bytes) -> Result<Datagram, DatagramError> {
    let &first = datagram.first().ok_or(DatagramError::Truncated)?;
    if first >> 4 != VERSION {
        return Err(DatagramError::Version(first >> 4));
    }
    datagram.advance(1);
    match first & 0x0f {
        KIND_MEDIA => parse_media(datagram).map(Datagram::Media),
        KIND_HEARTBEAT => parse_heartbeat(datagram).map(Datagram::Heartbeat),
        KIND_NACK => parse_nack(datagram).map(Datagram::Nack),
        KIND_SENDER_REPORT => parse_report(datagram).map(Datagram::SenderReport),
        kind => Err(DatagramError::Kind(kind)),
    }
}

fn need(body: &Bytes, len: usize) -> Result<(), DatagramError> {
    if body.len() < len {
        Err(DatagramError::Truncated)
    } else {
        Ok(())
    }
}

/// Upper half: how far the layer lies above the first of its encoding (SVC; 0 with simulcast). Lower half: the layer.
fn layer(value: u8) -> Result<(Encoding, Layer), DatagramError> {
    let (above, layer) = (value >> 4, value & 0x0f);
    match layer.checked_sub(above) {
        Some(encoding) if usize::from(layer) < Layer::COUNT => Ok((Encoding(encoding), Layer(layer))),
        _ => Err(DatagramError::Layer(value)),
    }
}

fn layer_byte(encoding: Encoding, layer: Layer) -> u8 {
    layer.0.saturating_sub(encoding.0) << 4 | layer.0
}

fn parse_media(mut body: Bytes) -> Result<Media, DatagramError> {
    need(&body, MEDIA_HEADER - 1)?;
    let flags = body.get_u8();
    let sequence = body.get_u32();
    let track = body.get_u32();
    let (encoding, layer) = layer(body.get_u8())?;
    let part = match (flags & FLAG_SPLIT != 0, flags & FLAG_SECOND != 0) {
        (false, false) => Part::Whole,
        (true, false) => Part::First,
        (true, true) => Part::Second,
        (false, true) => return Err(DatagramError::Flags),
    };
    Ok(Media {
        sequence,
        track,
        encoding,
        layer,
        part,
        retransmitted: flags & FLAG_RETRANSMITTED != 0,
        payload: body,
    })
}

fn parse_heartbeat(mut body: Bytes) -> Result<Heartbeat, DatagramError> {
    need(&body, 30)?;
    Ok(Heartbeat {
        sequence: body.get_u32(),
        sent_us: body.get_u64(),
        echo_us: body.get_u64(),
        hold_us: body.get_u32(),
        next: body.get_u32(),
        loss: body.get_u16(),
    })
}

fn parse_nack(mut body: Bytes) -> Result<Nack, DatagramError> {
    need(&body, 1)?;
    let count = usize::from(body.get_u8());
    if count > NACK_RANGES_MAX {
        return Err(DatagramError::NackRanges(count));
    }
    need(&body, count * 8)?;
    Ok(Nack {
        ranges: (0..count).map(|_| (body.get_u32(), body.get_u32())).collect(),
    })
}

fn parse_report(mut body: Bytes) -> Result<SenderReport, DatagramError> {
    need(&body, 17)?;
    let track = body.get_u32();
    let encoding = body.get_u8();
    if usize::from(encoding) >= Encoding::COUNT {
        return Err(DatagramError::Layer(encoding));
    }
    Ok(SenderReport {
        track,
        encoding: Encoding(encoding),
        ntp: body.get_u64(),
        rtp_timestamp: body.get_u32(),
    })
}

impl Media {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(MEDIA_HEADER + self.payload.len());
        out.put_u8(VERSION << 4 | KIND_MEDIA);
        let part = match self.part {
            Part::Whole => 0,
            Part::First => FLAG_SPLIT,
            Part::Second => FLAG_SPLIT | FLAG_SECOND,
        };
        out.put_u8(part | if self.retransmitted { FLAG_RETRANSMITTED } else { 0 });
        out.put_u32(self.sequence);
        out.put_u32(self.track);
        out.put_u8(layer_byte(self.encoding, self.layer));
        out.put_slice(&self.payload);
        out.freeze()
    }
}

/// Copy of an encoded media datagram with the retransmission flag set.
pub(crate) fn as_retransmission(encoded: &[u8]) -> Bytes {
    let mut copy = BytesMut::from(encoded);
    if let Some(flags) = copy.get_mut(1) {
        *flags |= FLAG_RETRANSMITTED;
    }
    copy.freeze()
}

impl Heartbeat {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(31);
        out.put_u8(VERSION << 4 | KIND_HEARTBEAT);
        out.put_u32(self.sequence);
        out.put_u64(self.sent_us);
        out.put_u64(self.echo_us);
        out.put_u32(self.hold_us);
        out.put_u32(self.next);
        out.put_u16(self.loss);
        out.freeze()
    }
}

impl Nack {
    /// From ascending sequences. Returns how many of them fit, from the front.
    pub fn of(sequences: &[u64]) -> (Nack, usize) {
        let mut ranges: Vec<(u64, u32)> = Vec::new();
        for (taken, &sequence) in sequences.iter().enumerate() {
            if let Some((first, following)) = ranges.last_mut() {
                match sequence.checked_sub(*first) {
                    Some(0) => continue,
                    Some(distance @ 1..=32) => {
                        *following |= 1 << (distance - 1);
                        continue;
                    }
                    _ => {}
                }
            }
            if ranges.len() == NACK_RANGES_MAX {
                return (
                    Nack {
                        ranges: ranges.iter().map(|&(f, b)| (f as u32, b)).collect(),
                    },
                    taken,
                );
            }
            ranges.push((sequence, 0));
        }
        (
            Nack {
                ranges: ranges.iter().map(|&(f, b)| (f as u32, b)).collect(),
            },
            sequences.len(),
        )
    }

    /// Low 32 bits of each sequence asked for.
    pub fn sequences(&self) -> impl Iterator<Item = u32> + '_ {
        self.ranges.iter().flat_map(|&(first, following)| {
            std::iter::once(first).chain(
                (0..32)
                    .filter(move |bit| following & (1 << bit) != 0)
                    .map(move |bit| first.wrapping_add(bit + 1)),
            )
        })
    }

    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(2 + self.ranges.len() * 8);
        out.put_u8(VERSION << 4 | KIND_NACK);
        out.put_u8(self.ranges.len().min(NACK_RANGES_MAX) as u8);
        for &(first, following) in self.ranges.iter().take(NACK_RANGES_MAX) {
            out.put_u32(first);
            out.put_u32(following);
        }
        out.freeze()
    }
}

impl SenderReport {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(18);
        out.put_u8(VERSION << 4 | KIND_SENDER_REPORT);
        out.put_u32(self.track);
        out.put_u8(self.encoding.0);
        out.put_u64(self.ntp);
        out.put_u32(self.rtp_timestamp);
        out.freeze()
    }
}

/// Splits a payload for datagrams of at most `datagram_max` bytes: whole, or two parts equal within a byte (GSO batches
/// only datagrams of like size). `None` when two parts are not enough.
pub fn split(payload: Bytes, datagram_max: usize) -> Option<(Bytes, Option<Bytes>)> {
    let room = datagram_max.saturating_sub(MEDIA_HEADER);
    if payload.len() <= room {
        return Some((payload, None));
    }
    let half = payload.len().div_ceil(2);
    if half > room {
        return None;
    }
    let mut first = payload;
    let second = first.split_off(half);
    Some((first, Some(second)))
}

/// Joins the two parts of split packets. Holds a bounded number of halves for a bounded time.
#[derive(Debug, Default)]
pub struct Reassembler {
    halves: VecDeque<Half>,
}

#[derive(Debug)]
struct Half {
    /// Link sequence of the first part, whichever part this is.
    first: u64,
    part: Part,
    track: u32,
    encoding: Encoding,
    layer: Layer,
    payload: Bytes,
    arrived: Instant,
}

impl Reassembler {
    /// Halves waiting at a time; the oldest goes first.
    pub const HALVES_MAX: usize = 512;
    /// Longer than repair can take on any sane path.
    pub const WAIT_MAX: Duration = Duration::from_secs(1);

    /// Takes one datagram of extended sequence `sequence`; gives the whole payload once both parts are there.
    pub fn push(&mut self, now: Instant, sequence: u64, media: Media) -> Option<Bytes> {
        let first = match media.part {
            Part::Whole => return Some(media.payload),
            Part::First => sequence,
            Part::Second => sequence.checked_sub(1)?,
        };
        while self
            .halves
            .front()
            .is_some_and(|h| now.saturating_duration_since(h.arrived) > Self::WAIT_MAX)
        {
            self.halves.pop_front();
        }
        let matching = self
            .halves
            .iter()
            .position(|h| h.first == first && h.part != media.part);
        if let Some(other) = matching.and_then(|at| self.halves.remove(at)) {
            if (other.track, other.encoding, other.layer) != (media.track, media.encoding, media.layer) {
                return None;
            }
            let (front, back) = if media.part == Part::First {
                (&media.payload, &other.payload)
            } else {
                (&other.payload, &media.payload)
            };
            let mut whole = BytesMut::with_capacity(front.len() + back.len());
            whole.put_slice(front);
            whole.put_slice(back);
            return Some(whole.freeze());
        }
        if self.halves.len() == Self::HALVES_MAX {
            self.halves.pop_front();
        }
        let Media {
            part,
            track,
            encoding,
            layer,
            payload,
            ..
        } = media;
        self.halves.push_back(Half {
            first,
            part,
            track,
            encoding,
            layer,
            payload,
            arrived: now,
        });
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn media(sequence: u32, part: Part, payload: Bytes) -> Media {
        Media {
            sequence,
            track: 3,
            encoding: Encoding(1),
            layer: Layer(1),
            part,
            retransmitted: false,
            payload,
        }
    }

    #[test]
    fn unknown_versions_kinds_and_layers_are_named_errors() {
        assert_eq!(parse(Bytes::new()), Err(DatagramError::Truncated));
        assert_eq!(parse(Bytes::from_static(&[0x21])), Err(DatagramError::Version(2)));
        assert_eq!(parse(Bytes::from_static(&[0x1f])), Err(DatagramError::Kind(15)));
        let mut bad = media(1, Part::Whole, Bytes::new()).encode().to_vec();
        bad[10] = 3;
        assert_eq!(parse(bad.into()), Err(DatagramError::Layer(3)));
        let mut below = media(1, Part::Whole, Bytes::new()).encode().to_vec();
        below[10] = 0x21;
        assert_eq!(parse(below.into()), Err(DatagramError::Layer(0x21)));
        assert_eq!(
            parse(Bytes::from_static(&[0x13, 65])),
            Err(DatagramError::NackRanges(65))
        );
    }

    #[test]
    fn a_longer_heartbeat_of_a_later_sender_is_still_read() {
        let heartbeat = Heartbeat {
            sequence: 5,
            sent_us: 6,
            echo_us: 7,
            hold_us: 8,
            next: 9,
            loss: 10,
        };
        let mut bytes = heartbeat.encode().to_vec();
        bytes.extend_from_slice(b"more");
        assert_eq!(parse(bytes.into()), Ok(Datagram::Heartbeat(heartbeat)));
    }

    #[test]
    fn halves_wait_for_a_bounded_time_and_number() {
        let now = Instant::now();
        let mut reassembler = Reassembler::default();
        for sequence in 0..2000u32 {
            assert_eq!(
                reassembler.push(
                    now,
                    u64::from(sequence) * 2,
                    media(0, Part::First, Bytes::from_static(b"a"))
                ),
                None
            );
        }
        assert_eq!(reassembler.halves.len(), Reassembler::HALVES_MAX);
        let late = now + Reassembler::WAIT_MAX * 2;
        assert_eq!(
            reassembler.push(late, 3999, media(0, Part::Second, Bytes::from_static(b"b"))),
            None,
            "its half is gone"
        );
        assert_eq!(reassembler.halves.len(), 1);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut versioned = bytes.clone();
            let _ = parse(bytes.into());
            if let Some(first) = versioned.first_mut() { *first = 0x10 | (*first & 7); }
            if let Ok(Datagram::Nack(nack)) = parse(versioned.into()) {
                prop_assert!(nack.sequences().count() <= NACK_RANGES_MAX * 33);
            }
        }

        #[test]
        fn datagrams_survive_the_wire(sequence: u32, track: u32, (encoding, layer) in (0u8..3).prop_flat_map(|top| (0..=top, Just(top))), retransmitted: bool, payload in proptest::collection::vec(any::<u8>(), 0..1400), ntp: u64, rtp_timestamp: u32) {
            let media = Media { sequence, track, encoding: Encoding(encoding), layer: Layer(layer), part: Part::Second, retransmitted, payload: payload.into() };
            prop_assert_eq!(parse(media.encode()), Ok(Datagram::Media(media)));
            let report = SenderReport { track, encoding: Encoding(encoding), ntp, rtp_timestamp };
            prop_assert_eq!(parse(report.encode()), Ok(Datagram::SenderReport(report)));
        }

        #[test]
        fn a_nack_names_exactly_the_sequences_it_took(gaps in proptest::collection::vec(1u64..80, 0..400), start in 0u64..u64::from(u32::MAX) * 3) {
            let sequences: Vec<u64> = gaps.iter().scan(start, |at, gap| { *at += gap; Some(*at) }).collect();
            let (nack, taken) = Nack::of(&sequences);
            let Ok(Datagram::Nack(read)) = parse(nack.encode()) else { return Err(TestCaseError::fail("unreadable")) };
            let expected: Vec<u32> = sequences[..taken].iter().map(|&s| s as u32).collect();
            prop_assert_eq!(read.sequences().collect::<Vec<_>>(), expected);
            prop_assert!(taken > 0 || sequences.is_empty());
        }

        #[test]
        fn an_oversize_packet_comes_back_whole_in_either_order(len in 1usize..2300, max in 600usize..1312, swap: bool) {
            let payload: Bytes = (0..len).map(|i| i as u8).collect::<Vec<_>>().into();
            let now = Instant::now();
            match split(payload.clone(), max) {
                None => prop_assert!(len.div_ceil(2) > max - MEDIA_HEADER),
                Some((whole, None)) => prop_assert_eq!(whole, payload),
                Some((first, Some(second))) => {
                    prop_assert!(first.len() - second.len() <= 1 && first.len() + MEDIA_HEADER <= max);
                    let mut parts = vec![(10, media(10, Part::First, first)), (11, media(11, Part::Second, second))];
                    if swap { parts.reverse(); }
                    let mut reassembler = Reassembler::default();
                    let mut joined = parts.into_iter().filter_map(|(sequence, part)| reassembler.push(now, sequence, part));
                    prop_assert_eq!(joined.next(), Some(payload));
                }
            }
        }
    }
}
