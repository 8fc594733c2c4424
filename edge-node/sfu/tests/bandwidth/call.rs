//! One subscriber in virtual time: a paced sender that asks the estimator under test, and a receiver whose feedback is
//! written by our own `TwccReceiver` and parsed from its bytes.

use super::link::Link;
use meridian_sfu::TwccReceiver;
use meridian_sfu::bandwidth::Estimator;
use meridian_sfu::rtcp::{Rtcp, parse};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const AUDIO_BYTES: usize = 120;
const AUDIO_EVERY: Duration = Duration::from_millis(20);
const FRAME_EVERY: Duration = Duration::from_nanos(33_333_333);
const PACKET: usize = 1_180;
/// As the shard paces.
const PACING: f64 = 1.5;

/// What there is to send beside audio.
#[derive(Clone, Debug)]
pub enum Video {
    /// An encoder that takes what the estimate allows, up to this.
    Adaptive(u64),
    /// An SFU's choice: the highest of these rates that fits.
    Layers(Vec<u64>),
    /// Nothing now, but this much is wanted.
    Idle(u64),
}

/// A moment of the call, one for each millisecond.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub at: Duration,
    pub estimate_bps: u64,
    pub queue: Duration,
}

pub struct Call {
    zero: Instant,
    pub estimator: Estimator,
    pub video: Video,
    receiver: TwccReceiver,
    sequence: u16,
    /// Packets on their way, by arrival.
    arriving: VecDeque<(Duration, u16, bool, usize)>,
    feedback: VecDeque<(Duration, Vec<u8>)>,
    next_audio: Duration,
    next_frame: Duration,
    pacer: VecDeque<usize>,
    tokens: f64,
    pub samples: Vec<Sample>,
    /// When audio packets arrived, and how long they took.
    pub audio: Vec<(Duration, Duration)>,
    pub audio_sent: u64,
    pub delivered: Vec<(Duration, usize)>,
    pub probe_bytes: usize,
}

impl Call {
    pub fn new(zero: Instant, video: Video) -> Call {
        Call {
            zero,
            estimator: Estimator::new(zero),
            video,
            receiver: TwccReceiver::new(zero),
            sequence: 65_000,
            arriving: VecDeque::new(),
            feedback: VecDeque::new(),
            next_audio: Duration::ZERO,
            next_frame: Duration::ZERO,
            pacer: VecDeque::new(),
            tokens: 0.0,
            samples: Vec::new(),
            audio: Vec::new(),
            audio_sent: 0,
            delivered: Vec::new(),
            probe_bytes: 0,
        }
    }

    /// One millisecond.
    pub fn step(&mut self, at: Duration, link: &mut Link) {
        self.receive(at, link.delay);
        let now = self.zero + at;
        let estimate = self.estimator.estimate_bps(now).expect("this receiver answers");
        self.samples.push(Sample {
            at,
            estimate_bps: estimate,
            queue: link.queue(at),
        });
        if at >= self.next_audio {
            self.next_audio += AUDIO_EVERY;
            self.audio_sent += 1;
            self.send(at, AUDIO_BYTES, true, link);
        }
        let (rate, wanted) = self.video_rate(estimate);
        self.estimator.set_wanted(wanted);
        if at >= self.next_frame {
            self.next_frame += FRAME_EVERY;
            let mut left = (rate as f64 * FRAME_EVERY.as_secs_f64() / 8.0) as usize;
            while left > 0 {
                self.pacer.push_back(left.min(PACKET));
                left = left.saturating_sub(PACKET);
            }
        }
        self.tokens = (self.tokens + PACING * estimate as f64 / 8_000.0).min(PACING * estimate as f64 / 8_000.0 * 5.0);
        while self.tokens > 0.0
            && let Some(bytes) = self.pacer.pop_front()
        {
            self.tokens -= bytes as f64;
            self.send(at, bytes, false, link);
        }
        self.estimator.handle_timeout(now);
        while let Some(due) = self.estimator.poll_probe(now) {
            // What padding in one RTX packet amounts to.
            let bytes = due.bytes.min(280);
            self.probe_bytes += bytes;
            self.send(at, bytes, false, link);
        }
    }

    fn video_rate(&self, estimate: u64) -> (u64, u64) {
        let spare = (estimate as f64 * 0.95) as u64;
        let spare = spare.saturating_sub(60_000);
        match &self.video {
            Video::Adaptive(max) => (spare.min(*max), max + 100_000),
            Video::Layers(rates) => {
                let fits = rates.iter().copied().filter(|&r| r <= spare).max();
                (fits.unwrap_or(0), rates.iter().max().expect("layers") + 100_000)
            }
            Video::Idle(wanted) => (0, *wanted),
        }
    }

    fn send(&mut self, at: Duration, bytes: usize, audio: bool, link: &mut Link) {
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        self.estimator.sent(self.zero + at, sequence, bytes);
        if let Some(arrival) = link.send(at, bytes) {
            self.arriving.push_back((arrival, sequence, audio, bytes));
            if audio {
                self.audio.push((arrival, arrival - at));
            }
        }
    }

    fn receive(&mut self, at: Duration, back: Duration) {
        while self.arriving.front().is_some_and(|(arrival, ..)| *arrival <= at) {
            let (arrival, sequence, _, bytes) = self.arriving.pop_front().expect("just seen");
            self.receiver.record(self.zero + arrival, sequence, 1);
            self.delivered.push((arrival, bytes));
        }
        let mut bytes = Vec::new();
        while self.receiver.poll(self.zero + at, 2, &mut bytes) {}
        if !bytes.is_empty() {
            self.feedback.push_back((at + back, bytes));
        }
        while self.feedback.front().is_some_and(|(due, _)| *due <= at) {
            let (_, bytes) = self.feedback.pop_front().expect("just seen");
            for packet in parse(&bytes) {
                if let Rtcp::TransportFeedback(feedback) = packet {
                    self.estimator.handle_feedback(self.zero + at, &feedback);
                }
            }
        }
    }

    pub fn between(&self, from: Duration, to: Duration) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |s| s.at >= from && s.at < to)
    }

    /// Bits per second that arrived in a span.
    pub fn goodput(&self, from: Duration, to: Duration) -> f64 {
        let bytes: usize = self
            .delivered
            .iter()
            .filter(|(at, _)| *at >= from && *at < to)
            .map(|(_, b)| b)
            .sum();
        bytes as f64 * 8.0 / (to - from).as_secs_f64()
    }

    /// Longest time without an audio packet.
    pub fn longest_audio_gap(&self) -> Duration {
        self.audio
            .windows(2)
            .map(|pair| pair[1].0 - pair[0].0)
            .max()
            .unwrap_or_default()
    }
}

/// Runs calls over one link.
pub fn run(link: &mut Link, calls: &mut [Call], from: Duration, to: Duration) {
    let mut at = from;
    while at < to {
        // Nobody is always first.
        let first = (at.as_millis() % calls.len() as u128) as usize;
        for offset in 0..calls.len() {
            let index = (first + offset) % calls.len();
            calls[index].step(at, link);
        }
        at += Duration::from_millis(1);
    }
}
