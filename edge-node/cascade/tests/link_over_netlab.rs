//! The link engine and its congestion controller over netlab's paths in virtual time: seconds of network in milliseconds.

mod sim;

use std::time::{Duration, Instant};

use meridian_cascade::link::engine::PathState;
use meridian_cascade::link::{EngineEvent, MediaLink, Priority};
use meridian_netlab::Impairment;
use proptest::prelude::*;
use sim::{BUFFER, DATAGRAM_MAX, MS, Sim, media};

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
