//! The link engine and its congestion controller over netlab's paths in virtual time: seconds of network in milliseconds.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_cascade::link::engine::PathState;
use meridian_cascade::link::{ControllerConfig, DelayController, EngineEvent, MediaLink, MediaPacket, Priority};
use meridian_netlab::{Impairment, Path};
use meridian_sfu::media::Layer;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);
const DATAGRAM_MAX: usize = 1312;
const BUFFER: usize = 640 * 1024;

#[test]
fn five_percent_loss_both_ways_is_repaired_within_a_round_trip_whatever_the_seed() {
    let mut residual = (0, 0);
    for seed in 0..20 {
        let mut sim = Sim::new(Impairment::lossy(90 * MS, 0.05), seed);
        sim.run(Duration::from_secs(10), 5_000_000);
        sim.run(2000 * MS, 0);
        let (sent, lost) = (sim.sent, sim.lost());
        assert!(lost * 1000 <= sent, "seed {seed}: {lost} of {sent} lost");
        assert!(
            sim.added(0.99) < 110 * MS && sim.added(0.5) < 10 * MS,
            "seed {seed}: p99 {:?}",
            sim.added(0.99)
        );
        let near = sim.near.counters();
        assert!(near.retransmitted * 100 < near.sent * 8, "seed {seed}: {near:?}");
        assert_eq!(near.dropped, 0);
        assert_eq!(sim.sheds(), 0, "random loss is no congestion");
        residual = (residual.0 + lost, residual.1 + sent);
    }
    println!("residual loss over 20 seeds: {} of {}", residual.0, residual.1);
}

#[test]
fn a_short_hop_is_repaired_in_23_ms() {
    let mut sim = Sim::new(Impairment::lossy(20 * MS, 0.05), 1);
    sim.run(Duration::from_secs(10), 5_000_000);
    sim.run(1000 * MS, 0);
    assert_eq!(sim.lost(), 0);
    assert!(sim.added(0.99) < 30 * MS, "p99 {:?}", sim.added(0.99));
}

#[test]
fn a_path_cut_from_24_to_12_mbit_sheds_top_layers_only_and_keeps_the_queue_short() {
    let wide = Impairment {
        rate_bps: Some(24_000_000),
        queue_bytes: 1 << 20,
        delay: 45 * MS,
        ..Impairment::default()
    };
    let mut sim = Sim::new(wide.clone(), 1);
    sim.run(Duration::from_secs(3), 20_000_000);
    assert_eq!(sim.sheds(), 0);
    sim.there.set(Impairment {
        rate_bps: Some(12_000_000),
        ..wide.clone()
    });
    sim.run(1500 * MS, 20_000_000);
    assert!(sim.sheds() > 0);
    sim.arrivals.clear();
    sim.run(Duration::from_secs(5), 20_000_000);
    println!(
        "after the cut: added p50 {:?}, p99 {:?}, target {}",
        sim.added(0.5),
        sim.added(0.99),
        sim.controller.target_bps()
    );
    assert!(
        sim.added(0.5) < 15 * MS && sim.added(0.99) < 60 * MS,
        "p50 {:?} p99 {:?}",
        sim.added(0.5),
        sim.added(0.99)
    );
    let (audio, base) = (sim.arrived(Priority::Audio), sim.arrived(Priority::Base));
    assert!(audio > 0.99 && base > 0.99, "audio {audio}, base {base}");
    assert!(sim.near.counters().retransmitted < 3000, "{:?}", sim.near.counters());
    // And back up, a priority at a time.
    sim.there.set(wide);
    sim.run(Duration::from_secs(25), 20_000_000);
    sim.arrivals.clear();
    sim.run(Duration::from_secs(2), 20_000_000);
    assert!(
        sim.arrived(Priority::Top) > 0.9,
        "top layers are back: {}",
        sim.arrived(Priority::Top)
    );
}

#[test]
fn an_outage_of_300_ms_is_noticed_and_what_was_lost_in_it_comes_after_all() {
    let path = Impairment {
        delay: 20 * MS,
        ..Impairment::default()
    };
    let mut sim = Sim::new(path.clone(), 1);
    sim.run(Duration::from_secs(2), 5_000_000);
    sim.cut(true);
    let began = sim.now;
    sim.run(300 * MS, 2_000_000);
    sim.cut(false);
    sim.run(Duration::from_secs(2), 5_000_000);
    sim.run(Duration::from_secs(1), 0);
    let suspect = sim
        .events
        .iter()
        .find(|(_, e)| matches!(e, EngineEvent::Suspect { .. }))
        .expect("suspected")
        .0;
    assert!(suspect - began < 250 * MS, "{:?}", suspect - began);
    assert!(sim.events.iter().any(|(_, e)| matches!(e, EngineEvent::Alive)));
    assert_eq!(sim.lost(), 0, "the ring holds seconds");
}

#[test]
fn reordering_costs_few_needless_retransmissions() {
    let path = Impairment {
        delay: 20 * MS,
        reorder: 0.05,
        reorder_by: 4 * MS,
        ..Impairment::default()
    };
    let mut sim = Sim::new(path, 1);
    sim.run(Duration::from_secs(10), 5_000_000);
    sim.run(Duration::from_secs(1), 0);
    assert_eq!(sim.lost(), 0);
    let near = sim.near.counters();
    assert!(near.retransmitted * 100 < near.sent, "{near:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    /// Whatever the other side sends, the engine neither panics nor answers with more than its budget.
    #[test]
    fn no_peer_can_make_the_engine_panic_or_amplify(datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..120), 1..200), kinds: u8) {
        let start = Instant::now();
        let mut link = MediaLink::new(start);
        for i in 0..500 {
            link.send(start, media(Priority::Base, i, 1200, false));
        }
        while link.poll_transmit(start, DATAGRAM_MAX, BUFFER).is_some() {}
        let mut answered = 0;
        for (i, mut datagram) in datagrams.into_iter().enumerate() {
            let now = start + MS * i as u32;
            datagram[0] = 0x10 | ((datagram[0] ^ kinds) % 5);
            link.handle_datagram(now, datagram.into());
            link.handle_timeout(now, PathState { target_bps: 1_000_000, queue: Duration::ZERO, srtt: 50 * MS });
            while let Some(datagram) = link.poll_transmit(now, DATAGRAM_MAX, BUFFER) {
                answered += datagram.len();
            }
            link.take_received();
            while link.poll_event().is_some() {}
            prop_assert!(link.poll_timeout(now) >= start);
        }
        prop_assert!(answered < 400_000, "{answered} bytes");
    }
}

fn media(priority: Priority, number: u64, len: usize, keyframe: bool) -> MediaPacket {
    let mut payload = vec![0; len];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    let layer = Layer((priority as u8).saturating_sub(1));
    MediaPacket {
        track: 1 + u32::from(priority == Priority::Audio),
        layer,
        priority,
        keyframe,
        payload: payload.into(),
    }
}

/// A sender and a receiver, and between sender and path what quinn does: a buffer, a pacer, a window.
struct Sim {
    near: MediaLink,
    far: MediaLink,
    controller: DelayController,
    there: Path<(Instant, Bytes)>,
    back: Path<Bytes>,
    /// Acknowledgements under way: due, sent, bytes. Lost datagrams are declared lost after a round trip and a quarter.
    acks: BTreeMap<(Instant, u64), (Instant, usize)>,
    outstanding: VecDeque<(Instant, usize, u64)>,
    acked: std::collections::HashSet<u64>,
    buffer: VecDeque<Bytes>,
    buffered: usize,
    in_flight: usize,
    pace_credit: f64,
    number: u64,
    now: Instant,
    one_way: Duration,
    sent: u64,
    sent_at: Vec<(Instant, Priority)>,
    /// Number, arrival.
    arrivals: Vec<(u64, Instant)>,
    seen: std::collections::HashSet<u64>,
    events: Vec<(Instant, EngineEvent)>,
    /// Layers whose next packet begins a keyframe.
    keyframes: std::collections::HashSet<Layer>,
    since: u64,
    credit: [f64; 4],
}

impl Sim {
    fn new(impairment: Impairment, seed: u64) -> Sim {
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
            now,
            sent: 0,
            sent_at: Vec::new(),
            arrivals: Vec::new(),
            seen: Default::default(),
            events: Vec::new(),
            keyframes: Default::default(),
            since: 0,
            credit: [0.0; 4],
        }
    }

    fn cut(&mut self, cut: bool) {
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
    fn run(&mut self, time: Duration, bps: u64) {
        self.since = self.sent;
        let end = self.now + time;
        while self.now < end {
            self.now += MS;
            self.offer(bps as f64);
            self.step_sender();
            self.step_receiver();
        }
    }

    fn offer(&mut self, bps: f64) {
        let shares = [
            (Priority::Audio, 0.02, 160),
            (Priority::Base, 0.1, 1200),
            (Priority::Mid, 0.25, 1200),
            (Priority::Top, 0.63, 1200),
        ];
        for (i, (priority, share, len)) in shares.into_iter().enumerate() {
            self.credit[i] += bps * share / 8000.0;
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
            self.there.send(self.now, len, (self.now, numbered.into()));
            self.number += 1;
        }
    }

    fn settle_acks(&mut self) {
        let now = self.now;
        let mut acknowledged = false;
        while let Some(entry) = self.acks.first_entry().filter(|e| e.key().0 <= now) {
            let number = entry.key().1;
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
            // Only an ACK lets QUIC declare losses (RFC 9002 §6.1).
            return;
        }
        let patience = self.controller.srtt().mul_f64(1.25) + 10 * MS;
        while let Some(&(sent, len, number)) = self.outstanding.front().filter(|(sent, ..)| now - *sent > patience) {
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

    fn lost(&self) -> u64 {
        self.sent - self.seen.len() as u64
    }

    fn sheds(&self) -> usize {
        self.events
            .iter()
            .filter(|(_, e)| matches!(e, EngineEvent::Layer(change) if change.shed))
            .count()
    }

    /// Delay beyond the path's own, as a quantile of what arrived since `arrivals` was cleared.
    fn added(&self, share: f64) -> Duration {
        let mut delays: Vec<Duration> = self
            .arrivals
            .iter()
            .map(|(number, at)| (*at - self.sent_at[*number as usize].0).saturating_sub(self.one_way))
            .collect();
        delays.sort_unstable();
        delays[((delays.len() - 1) as f64 * share) as usize]
    }

    /// Share of a priority's packets of the last run that arrived, of those that had 300 ms to do so.
    fn arrived(&self, priority: Priority) -> f64 {
        let due = self.now - 300 * MS;
        let offered: Vec<u64> = (self.since..self.sent)
            .filter(|n| self.sent_at[*n as usize].1 == priority && self.sent_at[*n as usize].0 < due)
            .collect();
        offered.iter().filter(|n| self.seen.contains(n)).count() as f64 / offered.len() as f64
    }
}
