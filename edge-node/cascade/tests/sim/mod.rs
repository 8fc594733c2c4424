//! Two ends of a link in virtual time: the engine, its congestion controller, and between them what quinn does (a buffer, a
//! pacer, a window, acknowledgements) and one of netlab's paths. Ends can be held up, as processes on a busy machine are.
#![allow(dead_code)]

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_cascade::link::engine::PathState;
use meridian_cascade::link::{ControllerConfig, DelayController, EngineEvent, MediaLink, MediaPacket, Priority};
use meridian_netlab::{Impairment, Path};
use meridian_sfu::media::{Encoding, Layer};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const DATAGRAM_MAX: usize = 1312;
pub(crate) const BUFFER: usize = 640 * 1024;

pub(crate) fn media(priority: Priority, number: u64, len: usize, keyframe: bool) -> MediaPacket {
    let mut payload = vec![0; len];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    let layer = Layer((priority as u8).saturating_sub(1));
    MediaPacket {
        track: 1 + u32::from(priority == Priority::Audio),
        encoding: Encoding(layer.0),
        layer,
        priority,
        keyframe,
        payload: payload.into(),
    }
}

/// A sender and a receiver, and between sender and path what quinn does: a buffer, a pacer, a window.
pub(crate) struct Sim {
    pub(crate) near: MediaLink,
    pub(crate) far: MediaLink,
    pub(crate) controller: DelayController,
    pub(crate) there: Path<(Instant, Bytes)>,
    pub(crate) back: Path<Bytes>,
    /// Acknowledgements under way: due, sent, bytes. Lost datagrams are declared lost after a round trip and a quarter.
    pub(crate) acks: BTreeMap<(Instant, u64), (Instant, usize)>,
    pub(crate) outstanding: VecDeque<(Instant, usize, u64)>,
    pub(crate) acked: HashSet<u64>,
    pub(crate) buffer: VecDeque<Bytes>,
    pub(crate) buffered: usize,
    pub(crate) in_flight: usize,
    pub(crate) pace_credit: f64,
    pub(crate) number: u64,
    largest_acked: u64,
    pub(crate) now: Instant,
    elapsed: Duration,
    pub(crate) one_way: Duration,
    pub(crate) sent: u64,
    pub(crate) sent_at: Vec<(Instant, Priority)>,
    /// Number, arrival.
    pub(crate) arrivals: Vec<(u64, Instant)>,
    pub(crate) seen: HashSet<u64>,
    pub(crate) events: Vec<(Instant, EngineEvent)>,
    /// Layers whose next packet begins a keyframe.
    pub(crate) keyframes: HashSet<Layer>,
    pub(crate) since: u64,
    pub(crate) credit: [f64; 4],
    /// Media comes in frames, 30 a second, instead of packet by packet.
    pub(crate) in_frames: bool,
    pub(crate) stalls: Option<Stalls>,
    /// What quinn has stamped as sent and the kernel has not seen yet.
    held: Vec<(usize, (Instant, Bytes))>,
}

/// A machine with too few cores: each end runs a while and then waits for its turn.
pub(crate) struct Stalls {
    rng: SmallRng,
    longest: Duration,
    /// How long an end runs at most before it has to wait again.
    runs: Duration,
    /// Sender, relay, receiver: runs until, is held up until.
    ends: [(Instant, Instant); 3],
}

impl Stalls {
    fn step(&mut self, now: Instant) {
        for (until, held) in &mut self.ends {
            if now >= *until && now >= *held {
                *held = now + self.longest.mul_f64(self.rng.random());
                *until = *held + self.runs.mul_f64(self.rng.random());
            }
        }
    }

    fn is_held(&self, end: usize, now: Instant) -> bool {
        now < self.ends[end].1
    }
}

impl Sim {
    pub(crate) fn new(impairment: Impairment, seed: u64) -> Sim {
        let now = Instant::now();
        Sim {
            near: MediaLink::new(now),
            far: MediaLink::new(now),
            controller: DelayController::new(now, ControllerConfig::default()),
            one_way: impairment.delay,
            back: Path::new(
                Impairment {
                    rate_bps: None,
                    ..impairment.clone()
                },
                seed ^ 0xffff,
            ),
            there: Path::new(impairment, seed),
            acks: BTreeMap::new(),
            outstanding: VecDeque::new(),
            acked: Default::default(),
            buffer: VecDeque::new(),
            buffered: 0,
            in_flight: 0,
            pace_credit: 0.0,
            number: 0,
            largest_acked: 0,
            now,
            elapsed: Duration::ZERO,
            sent: 0,
            sent_at: Vec::new(),
            arrivals: Vec::new(),
            seen: Default::default(),
            events: Vec::new(),
            keyframes: Default::default(),
            since: 0,
            credit: [0.0; 4],
            in_frames: false,
            stalls: None,
            held: Vec::new(),
        }
    }

    /// Both ends and the path between them are held up again and again, each at its own times, for up to `longest`.
    pub(crate) fn hold_up(&mut self, longest: Duration, runs: Duration, seed: u64) {
        self.stalls = Some(Stalls {
            rng: SmallRng::seed_from_u64(seed),
            longest,
            runs,
            ends: [(self.now, self.now); 3],
        });
    }

    fn is_held(&self, end: usize) -> bool {
        self.stalls.as_ref().is_some_and(|stalls| stalls.is_held(end, self.now))
    }

    pub(crate) fn cut(&mut self, cut: bool) {
        self.there.set(Impairment {
            cut,
            ..self.there.impairment().clone()
        });
        self.back.set(Impairment {
            cut,
            ..self.back.impairment().clone()
        });
    }

    /// Steps of a millisecond; offers `bps`, a fiftieth of it audio, a tenth base, a quarter mid, the rest top.
    pub(crate) fn run(&mut self, time: Duration, bps: u64) {
        self.since = self.sent;
        let end = self.now + time;
        while self.now < end {
            self.now += MS;
            if let Some(stalls) = &mut self.stalls {
                stalls.step(self.now);
            }
            self.offer(bps as f64);
            if !self.is_held(0) {
                for (len, stamped) in std::mem::take(&mut self.held) {
                    self.there.send(self.now, len, stamped);
                }
                self.step_sender();
            }
            if !self.is_held(2) && !self.is_held(1) {
                self.step_receiver();
            }
        }
    }

    fn offer(&mut self, bps: f64) {
        self.elapsed += MS;
        let shares = [
            (Priority::Audio, 0.02, 160),
            (Priority::Base, 0.1, 1200),
            (Priority::Mid, 0.25, 1200),
            (Priority::Top, 0.63, 1200),
        ];
        for (i, (priority, share, len)) in shares.into_iter().enumerate() {
            self.credit[i] += bps * share / 8000.0;
            let ms = self.elapsed.as_millis() as u64;
            if self.in_frames && priority != Priority::Audio && !ms.is_multiple_of(33) {
                continue;
            }
            while self.credit[i] >= len as f64 {
                self.credit[i] -= len as f64;
                let mut packet = media(priority, self.sent, len, false);
                packet.keyframe = self.keyframes.remove(&packet.layer);
                self.near.send(self.now, packet);
                self.sent_at.push((self.now, priority));
                self.sent += 1;
            }
        }
    }

    fn step_sender(&mut self) {
        let now = self.now;
        while let Some(datagram) = self.back.poll(now) {
            self.near.handle_datagram(now, datagram);
        }
        self.settle_acks();
        let controller = &mut self.controller;
        controller.set_floor(self.near.floor_bps());
        let path = PathState {
            target_bps: controller.target_bps(),
            queue: controller.queue_delay(),
            srtt: controller.srtt(),
        };
        self.near.handle_timeout(now, path);
        let allowed = ((path.target_bps / 8) as f64 * 0.025).clamp(24e3, BUFFER as f64) as usize;
        let mut space = allowed.saturating_sub(self.buffered);
        while let Some(datagram) = self.near.poll_transmit(now, DATAGRAM_MAX, space) {
            space -= datagram.len().min(space);
            self.buffered += datagram.len();
            self.buffer.push_back(datagram);
        }
        self.pace();
        while let Some(event) = self.near.poll_event() {
            if let EngineEvent::KeyframeWanted { layer, .. } = event {
                self.keyframes.insert(layer);
            }
            self.events.push((now, event));
        }
    }

    /// quinn's pacer: 1.25 × window / srtt, in bursts of at most 10 packets; and the window.
    fn pace(&mut self) {
        let window = self.controller.window() as f64;
        let rate = 1.25 * window / self.controller.srtt().as_secs_f64();
        self.pace_credit = (self.pace_credit + rate / 1000.0).min((rate / 1000.0).max(13_500.0));
        // Its turn ends between taking the time and the system call.
        let preempted = self
            .stalls
            .as_ref()
            .is_some_and(|stalls| self.now + MS >= stalls.ends[0].0);
        while let Some(len) = self.buffer.front().map(Bytes::len) {
            if self.pace_credit < len as f64 || (self.in_flight + len) as f64 > window {
                return;
            }
            let Some(datagram) = self.buffer.pop_front() else {
                return;
            };
            self.buffered -= len;
            self.pace_credit -= len as f64;
            self.in_flight += len;
            self.outstanding.push_back((self.now, len, self.number));
            // The path carries the packet's number in front, as QUIC would.
            let mut numbered = self.number.to_be_bytes().to_vec();
            numbered.extend_from_slice(&datagram);
            let stamped = (self.now, numbered.into());
            if preempted {
                self.held.push((len, stamped));
            } else {
                self.there.send(self.now, len, stamped);
            }
            self.number += 1;
        }
    }

    fn settle_acks(&mut self) {
        let now = self.now;
        let mut acknowledged = false;
        while let Some(entry) = self.acks.first_entry().filter(|e| e.key().0 <= now) {
            let number = entry.key().1;
            self.largest_acked = self.largest_acked.max(number);
            let (sent, len) = entry.remove();
            acknowledged = true;
            if self.acked.insert(number) {
                self.in_flight = self.in_flight.saturating_sub(len);
                let rtt = now - sent;
                let srtt = (self.controller.srtt() * 7 + rtt) / 8;
                self.controller.on_ack(now, sent, len as u64, srtt);
            }
        }
        if !acknowledged {
            // Only an ACK, of something later, lets QUIC declare losses (RFC 9002 §6.1).
            return;
        }
        let patience = self.controller.srtt().mul_f64(1.25) + 10 * MS;
        let largest = self.largest_acked;
        let lost = |(sent, _, number): &&(Instant, usize, u64)| *number < largest && now - *sent > patience;
        while let Some(&(sent, len, number)) = self.outstanding.front().filter(lost) {
            self.outstanding.pop_front();
            if self.acked.insert(number) {
                self.in_flight = self.in_flight.saturating_sub(len);
                self.controller.on_loss(now, sent, len as u64);
            }
        }
    }

    fn step_receiver(&mut self) {
        let now = self.now;
        while let Some((sent, numbered)) = self.there.poll(now) {
            let number = u64::from_be_bytes(numbered[..8].try_into().expect("numbered"));
            self.acks
                .insert((now + self.one_way, number), (sent, numbered.len() - 8));
            self.far.handle_datagram(now, numbered.slice(8..));
        }
        self.far.handle_timeout(
            now,
            PathState {
                target_bps: 200_000_000,
                queue: Duration::ZERO,
                srtt: self.one_way * 2,
            },
        );
        while let Some(datagram) = self.far.poll_transmit(now, DATAGRAM_MAX, BUFFER) {
            self.back.send(now, datagram.len(), datagram);
        }
        for packet in self.far.take_received() {
            let number = u64::from_be_bytes(packet.payload[..8].try_into().expect("numbered"));
            assert!(self.seen.insert(number), "{number} delivered twice");
            self.arrivals.push((number, now));
        }
        while let Some(event) = self.far.poll_event() {
            self.events.push((now, event));
        }
    }

    pub(crate) fn lost(&self) -> u64 {
        self.sent - self.seen.len() as u64
    }

    pub(crate) fn sheds(&self) -> usize {
        self.events
            .iter()
            .filter(|(_, e)| matches!(e, EngineEvent::Layer(change) if change.shed))
            .count()
    }

    /// Delay beyond the path's own, as a quantile of what arrived since `arrivals` was cleared.
    pub(crate) fn added(&self, share: f64) -> Duration {
        let mut delays: Vec<Duration> = self
            .arrivals
            .iter()
            .map(|(number, at)| (*at - self.sent_at[*number as usize].0).saturating_sub(self.one_way))
            .collect();
        delays.sort_unstable();
        delays[((delays.len() - 1) as f64 * share) as usize]
    }

    /// Share of a priority's packets of the last run that arrived, of those that had 300 ms to do so.
    pub(crate) fn arrived(&self, priority: Priority) -> f64 {
        let due = self.now - 300 * MS;
        let offered: Vec<u64> = (self.since..self.sent)
            .filter(|n| self.sent_at[*n as usize].1 == priority && self.sent_at[*n as usize].0 < due)
            .collect();
        offered.iter().filter(|n| self.seen.contains(n)).count() as f64 / offered.len() as f64
    }
}
