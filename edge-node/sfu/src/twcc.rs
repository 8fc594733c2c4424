//! Transport-wide congestion control feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01): written about the
//! packets of one publishing peer, read from subscribers. Estimating a bandwidth from it is not done here.

use crate::rtcp::Writer;
use crate::sequence::Unwrapper;
use std::time::{Duration, Instant};

/// Arrivals kept: at 100 ms of feedback interval, enough for 100 Mb/s of 1,200-byte packets.
const WINDOW: u64 = 1_024;
/// Received packets in one feedback, so that it stays below 1,200 bytes.
const RECEIVED_MAX: usize = 380;
/// Sending it this long after the first unreported packet lets GCC see delay changes early; libwebrtc itself uses 50–250 ms.
const INTERVAL: Duration = Duration::from_millis(50);
/// A feedback is sent early when this many packets wait.
const PENDING_MAX: u32 = 100;
/// Resolution of deltas.
const TICK_US: u128 = 250;
/// The reference time counts 64 ms.
const TICKS_PER_REFERENCE: i64 = 256;

const RTPFB: u8 = 205;
const FMT_TRANSPORT_CC: u8 = 15;

/// Feedback about one publishing peer's packets. Normally used through [`crate::UplinkReceiver`].
pub struct TwccReceiver {
    epoch: Instant,
    unwrapper: Unwrapper,
    /// Arrival tick + 1 by sequence; 0 = not received. Made at the first packet: most peers never publish.
    arrivals: Vec<u64>,
    /// First sequence the next feedback covers.
    next: u64,
    pending: u32,
    first_pending: Option<Instant>,
    media_ssrc: u32,
    feedback_count: u8,
}

impl TwccReceiver {
    pub fn new(now: Instant) -> Self {
        TwccReceiver {
            epoch: now,
            unwrapper: Unwrapper::default(),
            arrivals: Vec::new(),
            next: 0,
            pending: 0,
            first_pending: None,
            media_ssrc: 0,
            feedback_count: 0,
        }
    }

    /// A packet with this transport-wide sequence number arrived.
    pub fn record(&mut self, now: Instant, sequence: u16, media_ssrc: u32) {
        let before = self.unwrapper.highest();
        let sequence = self.unwrapper.unwrap(sequence);
        match before {
            None => {
                self.arrivals = vec![0; WINDOW as usize];
                self.next = sequence;
            }
            Some(highest) if sequence > highest => {
                let cleared = (sequence - highest).min(WINDOW);
                (sequence + 1 - cleared..=sequence).for_each(|s| self.arrivals[slot(s)] = 0);
                self.next = self.next.max((sequence + 1).saturating_sub(WINDOW));
            }
            Some(highest) if sequence + WINDOW <= highest => return,
            Some(_) if self.arrivals[slot(sequence)] != 0 => return,
            // Late: report again from here, as libwebrtc does.
            Some(_) => self.next = self.next.min(sequence),
        }
        let ticks = now.saturating_duration_since(self.epoch).as_micros() / TICK_US;
        self.arrivals[slot(sequence)] = ticks as u64 + 1;
        self.media_ssrc = media_ssrc;
        self.pending += 1;
        self.first_pending.get_or_insert(now);
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let first = self.first_pending?;
        Some(if self.pending >= PENDING_MAX {
            first
        } else {
            first + INTERVAL
        })
    }

    /// Appends one feedback packet when it is due. `false` = nothing to send (now).
    pub fn poll(&mut self, now: Instant, feedback_ssrc: u32, out: &mut Vec<u8>) -> bool {
        let Some(highest) = self.unwrapper.highest() else {
            return false;
        };
        if self.poll_timeout().is_none_or(|due| now < due) {
            return false;
        }
        let mut symbols = [Symbol::Lost; WINDOW as usize];
        let mut deltas = [0i16; RECEIVED_MAX];
        let (mut covered, mut received) = (0, 0);
        let mut reference = None;
        let mut last_tick = 0i64;
        for sequence in self.next..=highest {
            let tick = self.arrivals[slot(sequence)] as i64 - 1;
            if tick >= 0 {
                if reference.is_none() {
                    let floor = tick.div_euclid(TICKS_PER_REFERENCE);
                    reference = Some(floor);
                    last_tick = floor * TICKS_PER_REFERENCE;
                }
                // A delta that does not fit 16 bits (8 s) begins a new feedback with its own reference.
                let Ok(delta) = i16::try_from(tick - last_tick) else {
                    break;
                };
                if received == RECEIVED_MAX {
                    break;
                }
                symbols[covered] = if (0..=255).contains(&delta) {
                    Symbol::Small
                } else {
                    Symbol::Large
                };
                deltas[received] = delta;
                received += 1;
                last_tick = tick;
            }
            covered += 1;
        }
        let base = self.next;
        self.next += covered as u64;
        if self.next > highest {
            self.pending = 0;
            self.first_pending = None;
        }
        let Some(reference) = reference else { return false };
        let mut writer = Writer::new(out);
        let start = writer.begin();
        writer.feedback(feedback_ssrc, self.media_ssrc);
        writer.out.extend((base as u16).to_be_bytes());
        writer.out.extend((covered as u16).to_be_bytes());
        writer
            .out
            .extend(((reference as u32) << 8 | u32::from(self.feedback_count)).to_be_bytes());
        self.feedback_count = self.feedback_count.wrapping_add(1);
        write_chunks(&symbols[..covered], writer.out);
        write_deltas(&deltas[..received], writer.out);
        pad(start, writer.out);
        writer.end(start, RTPFB, FMT_TRANSPORT_CC);
        true
    }
}

fn slot(sequence: u64) -> usize {
    (sequence % WINDOW) as usize
}

/// Packet status (draft §3.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Symbol {
    Lost = 0,
    Small = 1,
    Large = 2,
}

/// Run-length chunks for runs, else one-bit vectors of 14 where no large delta occurs, else two-bit vectors of 7.
fn write_chunks(mut symbols: &[Symbol], out: &mut Vec<u8>) {
    while let Some(&first) = symbols.first() {
        let run = symbols.iter().take_while(|&&symbol| symbol == first).count();
        let (chunk, used) = if run >= 14 || run == symbols.len() || run >= 7 && first == Symbol::Large {
            let run = run.min(0x1FFF);
            ((first as u16) << 13 | run as u16, run)
        } else {
            let one_bit = symbols.iter().take(14).all(|&symbol| symbol != Symbol::Large);
            let (width, capacity, head) = if one_bit { (1, 14, 0x8000) } else { (2, 7, 0xC000) };
            let used = symbols.len().min(capacity);
            let vector = symbols[..used].iter().enumerate().fold(head, |chunk, (i, &symbol)| {
                chunk | (symbol as u16) << (14 - width * (i + 1))
            });
            (vector, used)
        };
        out.extend(chunk.to_be_bytes());
        symbols = &symbols[used..];
    }
}

fn write_deltas(deltas: &[i16], out: &mut Vec<u8>) {
    for &delta in deltas {
        match u8::try_from(delta) {
            Ok(small) => out.push(small),
            Err(_) => out.extend(delta.to_be_bytes()),
        }
    }
}

/// RTCP padding (P bit, count in the last byte) to a whole word.
fn pad(start: usize, out: &mut Vec<u8>) {
    let missing = (out.len() - start).next_multiple_of(4) - (out.len() - start);
    if missing > 0 {
        out.resize(out.len() + missing - 1, 0);
        out.push(missing as u8);
        out[start] |= 0x20;
    }
}

/// Parsed feedback (RTCP 205/15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feedback<'a> {
    pub sender_ssrc: u32,
    pub media_ssrc: u32,
    pub base_sequence: u16,
    /// Number of sequence numbers covered.
    pub count: u16,
    /// Multiples of 64 ms, 24-bit signed.
    pub reference_time: i32,
    pub feedback_count: u8,
    /// Chunks, then deltas.
    body: &'a [u8],
    deltas_at: usize,
}

impl<'a> Feedback<'a> {
    /// `body` follows the 4-byte RTCP header, without padding. `None` when chunks or deltas do not fit.
    pub(crate) fn parse(body: &'a [u8]) -> Option<Feedback<'a>> {
        let head = body.first_chunk::<16>()?;
        let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let mut feedback = Feedback {
            sender_ssrc: word(0),
            media_ssrc: word(4),
            base_sequence: (word(8) >> 16) as u16,
            count: word(8) as u16,
            reference_time: word(12) as i32 >> 8,
            feedback_count: word(12) as u8,
            body: &body[16..],
            deltas_at: 0,
        };
        let mut covered = 0;
        while covered < usize::from(feedback.count) {
            let chunk = feedback.body.get(feedback.deltas_at..)?.first_chunk::<2>()?;
            covered += Chunk::new(u16::from_be_bytes(*chunk)).len();
            feedback.deltas_at += 2;
        }
        // Walk once, so that iterating later cannot run short.
        let mut packets = feedback.packets();
        let seen = packets.by_ref().count();
        (seen == usize::from(feedback.count) && !packets.short).then_some(feedback)
    }

    /// Every covered packet: its sequence number and, when it arrived, its arrival time in 250 µs ticks on the receiver's
    /// clock (relative to that clock's zero; wraps with the reference time every 12 days).
    pub fn packets(&self) -> FeedbackPackets<'a> {
        FeedbackPackets {
            chunks: &self.body[..self.deltas_at],
            deltas: &self.body[self.deltas_at..],
            chunk: Chunk::default(),
            sequence: self.base_sequence,
            left: self.count,
            tick: i64::from(self.reference_time) * TICKS_PER_REFERENCE,
            short: false,
        }
    }
}

/// One packet status chunk being read.
#[derive(Clone, Copy, Debug, Default)]
struct Chunk {
    bits: u16,
    left: usize,
}

impl Chunk {
    fn new(bits: u16) -> Self {
        let left = match bits >> 14 {
            0b10 => 14,
            0b11 => 7,
            _ => usize::from(bits & 0x1FFF),
        };
        Chunk { bits, left }
    }

    fn len(&self) -> usize {
        self.left
    }

    fn next(&mut self) -> Option<u16> {
        self.left = self.left.checked_sub(1)?;
        Some(match self.bits >> 14 {
            0b10 => (self.bits >> self.left) & 1,
            0b11 => (self.bits >> (2 * self.left)) & 3,
            _ => (self.bits >> 13) & 3,
        })
    }
}

/// Iterator of [`Feedback::packets`].
#[derive(Clone, Debug)]
pub struct FeedbackPackets<'a> {
    chunks: &'a [u8],
    deltas: &'a [u8],
    chunk: Chunk,
    sequence: u16,
    left: u16,
    tick: i64,
    short: bool,
}

impl FeedbackPackets<'_> {
    fn symbol(&mut self) -> Option<u16> {
        loop {
            if let Some(symbol) = self.chunk.next() {
                return Some(symbol);
            }
            let (head, rest) = self.chunks.split_first_chunk::<2>()?;
            self.chunk = Chunk::new(u16::from_be_bytes(*head));
            self.chunks = rest;
        }
    }

    fn delta(&mut self, symbol: u16) -> Option<i64> {
        if symbol == Symbol::Small as u16 {
            let (&delta, rest) = self.deltas.split_first()?;
            self.deltas = rest;
            return Some(i64::from(delta));
        }
        let (delta, rest) = self.deltas.split_first_chunk::<2>()?;
        self.deltas = rest;
        Some(i64::from(i16::from_be_bytes(*delta)))
    }
}

impl Iterator for FeedbackPackets<'_> {
    type Item = (u16, Option<i64>);

    fn next(&mut self) -> Option<(u16, Option<i64>)> {
        self.left = self.left.checked_sub(1)?;
        let symbol = self.symbol()?;
        let arrival = match symbol {
            0 => None,
            _ => match self.delta(symbol) {
                Some(delta) => {
                    self.tick += delta;
                    Some(self.tick)
                }
                None => {
                    self.short = true;
                    self.left = 0;
                    return None;
                }
            },
        };
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        Some((sequence, arrival))
    }
}

#[cfg(test)]
mod tests;
