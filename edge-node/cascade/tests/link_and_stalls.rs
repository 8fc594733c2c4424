//! A queue on the path against processes that wait for their turn: the first sheds layers at once, the second sheds nothing.
//!
//! Before the controller knew the difference, 20 s of stalls of up to 40 ms after runs of up to 10 ms cost every one of
//! twenty seeds its top layer at 2, 5 and 10 Mbit/s, and hid a real bottleneck for up to 5 s and more.

mod sim;

use std::time::Duration;

use meridian_cascade::link::EngineEvent;
use meridian_netlab::Impairment;
use sim::{MS, Sim};

/// Round trip in ms, bit/s, in frames or evenly.
const TRAFFIC: [(u32, u64, bool); 4] = [
    (0, 2_000_000, true),
    (150, 2_000_000, true),
    (150, 5_000_000, true),
    (90, 10_000_000, false),
];

fn wide(rtt_ms: u32) -> Impairment {
    Impairment {
        rate_bps: Some(50_000_000),
        queue_bytes: 1 << 20,
        delay: MS * rtt_ms / 2,
        ..Impairment::default()
    }
}

/// When the first layer was shed, after the path of 50 Mbit/s became a narrow one.
fn shed_after(sim: &mut Sim, rtt_ms: u32, bps: u64, narrow_bps: u64) -> Option<Duration> {
    sim.run(Duration::from_secs(3), bps);
    assert_eq!(sim.sheds(), 0);
    let cut = sim.now;
    sim.there.set(Impairment {
        rate_bps: Some(narrow_bps),
        ..wide(rtt_ms)
    });
    sim.run(Duration::from_secs(3), bps);
    let shed = |event: &EngineEvent| matches!(event, EngineEvent::Layer(change) if change.shed);
    sim.events
        .iter()
        .find(|(_, event)| shed(event))
        .map(|(at, _)| *at - cut)
}

#[test]
fn ends_that_wait_for_their_turn_for_up_to_40_ms_shed_nothing() {
    for (rtt_ms, bps, in_frames) in TRAFFIC {
        for (seed, runs) in (0..8).zip([5, 10, 40, 100].into_iter().cycle()) {
            let mut sim = Sim::new(wide(rtt_ms), seed);
            sim.in_frames = in_frames;
            sim.hold_up(40 * MS, runs * MS, seed);
            sim.run(Duration::from_secs(12), bps);
            let said = format!("{rtt_ms} ms, {bps} bit/s, seed {seed}: {:?}", sim.events);
            assert_eq!(sim.sheds(), 0, "{said}");
            assert_eq!(sim.controller.target_bps(), 200_000_000, "{said}");
        }
    }
}

#[test]
fn a_real_bottleneck_is_noticed_within_two_rounds_of_its_queue() {
    // What the controller needed while it took every late ACK for a queue is the bound.
    for (rtt_ms, bps, narrow_bps, in_frames, within_ms) in [
        (90, 20_000_000, 12_000_000, false, 251),
        (90, 20_000_000, 6_000_000, false, 251),
        (20, 5_000_000, 3_000_000, false, 201),
        (20, 5_000_000, 3_000_000, true, 201),
        (150, 5_000_000, 3_000_000, true, 351),
        (150, 2_500_000, 1_500_000, true, 351),
        (150, 20_000_000, 16_000_000, true, 351),
    ] {
        let mut sim = Sim::new(wide(rtt_ms), 1);
        sim.in_frames = in_frames;
        let after = shed_after(&mut sim, rtt_ms, bps, narrow_bps);
        assert!(
            after.is_some_and(|after| after <= within_ms * MS),
            "{rtt_ms} ms, {bps} into {narrow_bps}: {after:?}"
        );
    }
}

#[test]
fn a_real_bottleneck_is_noticed_between_busy_ends() {
    for (rtt_ms, bps, in_frames) in TRAFFIC {
        for seed in 0..6 {
            let mut sim = Sim::new(wide(rtt_ms), seed);
            sim.in_frames = in_frames;
            sim.hold_up(40 * MS, 20 * MS, seed);
            let after = shed_after(&mut sim, rtt_ms, bps, bps * 6 / 10);
            assert!(
                after.is_some_and(|after| after < 1500 * MS),
                "{rtt_ms} ms, {bps} bit/s, seed {seed}: {after:?}"
            );
        }
    }
}
