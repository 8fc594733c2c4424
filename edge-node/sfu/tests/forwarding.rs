//! What a subscriber sees: layers, switches, losses and repairs, through the whole path from datagram to datagram.

mod support;

use meridian_sfu::*;
use proptest::prelude::*;
use support::*;

fn up_to(layer: u8) -> Demand {
    Demand {
        max_layer: Layer(layer),
        ..Demand::default()
    }
}

/// Longest time between two shown frames, in capture milliseconds.
fn longest_gap(shown: &[(u8, u32)]) -> u32 {
    shown
        .windows(2)
        .map(|pair| pair[1].1.saturating_sub(pair[0].1))
        .max()
        .unwrap_or(0)
}

#[test]
fn a_subscriber_reaches_the_layer_it_asked_for_and_every_number_is_used_once() {
    let mut world = World::new(1);
    world.run(2_000);
    world.settle();
    let shown = world.subscriber.decode();
    assert_eq!(world.subscriber.holes(), 0);
    assert!(
        shown.len() > 55 && shown.iter().rev().take(40).all(|(layer, _)| *layer == 2),
        "{shown:?}"
    );
    assert_eq!(world.subscriber.rtx_packets, 0);
}

#[test]
fn a_switch_waits_for_the_keyframe_and_never_freezes() {
    let mut world = World::new(2);
    world.run(1_000);
    for layer in [0, 2, 1, 2, 0] {
        world.demand(up_to(layer));
        world.run(700);
        assert_eq!(world.downlink.stats().layer, Some(Layer(layer)));
    }
    world.settle();
    let shown = world.subscriber.decode();
    assert!(longest_gap(&shown) <= 100, "{}", longest_gap(&shown));
    assert_eq!(world.subscriber.holes(), 0);
    assert!(world.downlink.stats().switches >= 5);
}

/// Sender reports of both layers put the new layer's frames exactly where the old one's would have been.
#[test]
fn timestamps_stay_on_the_publishers_clock_across_switches() {
    let mut world = World::new(3);
    world.run(1_000);
    for layer in [0, 2, 1, 2] {
        world.demand(up_to(layer));
        world.run(600);
    }
    world.settle();
    let mut offsets: Vec<u32> = Vec::new();
    for (timestamp, payload) in world.subscriber.received.values() {
        offsets.push(timestamp.wrapping_sub(content(payload).capture_ms * 90));
    }
    // The first switches happen before any sender report; from 600 ms on all layers have reported.
    let settled = &offsets[offsets.len() / 3..];
    let spread = settled.iter().max().unwrap() - settled.iter().min().unwrap();
    assert!(spread <= 3, "spread of {spread} ticks");
}

#[test]
fn without_sender_reports_time_continues_by_arrival() {
    let mut world = World::new(4);
    world.send_reports = false;
    world.run(1_000);
    for layer in [0, 2, 1] {
        world.demand(up_to(layer));
        world.run(600);
    }
    world.settle();
    assert!(world.subscriber.decode().len() > 80);
}

#[test]
fn a_silent_target_falls_back_to_a_lower_layer_and_returns() {
    let mut world = World::new(5);
    world.run(1_500);
    assert_eq!(world.downlink.stats().layer, Some(Layer(2)));
    world.active[2] = false;
    world.run(700);
    assert_eq!(world.downlink.stats().layer, Some(Layer(1)));
    world.active[2] = true;
    world.run(700);
    assert_eq!(world.downlink.stats().layer, Some(Layer(2)));
    world.settle();
    let gap = longest_gap(&world.subscriber.decode());
    assert!(gap <= 400, "stall of {gap} ms");
    assert_eq!(world.subscriber.holes(), 0);
}

#[test]
fn a_mute_or_pause_resumes_at_a_keyframe_with_continuous_numbers() {
    let mut world = World::new(6);
    world.run(1_000);
    world.uplink.set_muted(true);
    world.downlink.set_muted(true);
    let before = world.subscriber.sent;
    world.run(3_000);
    assert_eq!(world.subscriber.sent, before);
    world.uplink.set_muted(false);
    world.downlink.set_muted(false);
    world.run(500);
    assert_eq!(world.downlink.stats().layer, Some(Layer(2)));
    world.demand(Demand {
        enabled: false,
        ..up_to(2)
    });
    let before = world.subscriber.sent;
    world.run(1_000);
    assert_eq!(world.subscriber.sent, before);
    assert_eq!(world.downlink.poll_keyframe_request(world.now), None);
    world.demand(up_to(0));
    world.run(500);
    world.settle();
    assert_eq!(world.subscriber.holes(), 0);
    let shown = world.subscriber.decode();
    assert_eq!(shown.last().map(|(layer, _)| *layer), Some(0));
}

#[test]
fn padding_between_frames_leaves_no_hole() {
    let mut world = World::new(7);
    world.padding = 0.4;
    world.run(3_000);
    world.settle();
    assert_eq!(world.subscriber.holes(), 0);
    assert!(
        world
            .subscriber
            .received
            .values()
            .all(|(_, payload)| !payload.is_empty())
    );
    assert!(world.subscriber.decode().len() > 80);
}

#[test]
fn half_the_frame_rate_drops_the_upper_temporal_layer_without_holes() {
    let mut world = World::new(8);
    world
        .encoders
        .iter_mut()
        .for_each(|encoder| encoder.temporal_layers = 2);
    world.run(1_500);
    world.demand(Demand {
        max_fps: Some(15),
        ..up_to(2)
    });
    world.run(1_500);
    let switched = world.subscriber.received.len();
    world.demand(up_to(2));
    world.run(1_500);
    world.settle();
    assert_eq!(world.subscriber.holes(), 0);
    let shown = world.subscriber.decode();
    let fps = |from: u32, to: u32| shown.iter().filter(|(_, at)| (from..to).contains(at)).count();
    assert!(
        (12..=17).contains(&fps(1_900, 2_900)),
        "{} of {switched}",
        fps(1_900, 2_900)
    );
    assert!(fps(3_300, 4_300) >= 28, "{}", fps(3_300, 4_300));
}

#[test]
fn nacked_packets_come_back_as_rtx_with_their_own_number() {
    let mut world = World::new(9);
    world.downstream_loss = 0.1;
    world.run(4_000);
    world.downstream_loss = 0.0;
    world.settle();
    assert_eq!(world.subscriber.holes(), 0);
    assert!(world.subscriber.rtx_packets > 10);
    assert_eq!(world.downlink.stats().unanswered_nacks, 0);
    assert!(world.subscriber.decode().len() > 110);
}

#[test]
fn a_subscriber_that_nacks_for_ever_is_held_to_a_budget() {
    let mut world = World::new(10);
    world.run(1_000);
    let sequence = world
        .subscriber
        .received
        .last_key_value()
        .map(|(s, _)| *s as u16)
        .unwrap();
    let answered = (0..10_000)
        .filter(|_| {
            world
                .send(|d, source, send, out| d.retransmit(sequence, source, send, out))
                .is_some()
        })
        .count();
    assert!(answered < 600, "{answered}");
    assert!(
        world
            .send(|d, source, send, out| d.retransmit(sequence.wrapping_add(9_000), source, send, out))
            .is_none()
    );
}

#[test]
fn upstream_losses_are_nacked_and_repaired_for_everybody() {
    let mut world = World::new(11);
    world.upstream(0.05, 0.0, 15, 0);
    world.run(5_000);
    world.upstream.loss = 0.0;
    world.settle();
    let stats = world.uplink.stats(Encoding(2), world.now);
    assert!(stats.repaired > 5 && stats.lost > 5, "{stats:?}");
    assert_eq!(world.subscriber.holes(), 0);
    assert!(longest_gap(&world.subscriber.decode()) <= 67);
}

#[test]
fn a_thousand_waiting_subscribers_cost_the_publisher_one_keyframe_request() {
    let mut world = World::new(12);
    world.run(1_000);
    world.plis.clear();
    let mut waiting: Vec<_> = (0..1_000).map(|_| Downlink::new(downlink_config())).collect();
    for _ in 0..400 {
        for downlink in &mut waiting {
            downlink.handle_timeout(world.now, world.uplink.source());
            if let Some(layer) = downlink.poll_keyframe_request(world.now) {
                world.uplink.request_keyframe(world.now, layer);
            }
        }
        world.step();
    }
    assert!(world.plis.len() <= 1, "{:?}", world.plis);
    world.run(1_000);
    for layer in 0..3 {
        let times: Vec<_> = world
            .plis
            .iter()
            .filter(|(_, l)| *l == layer)
            .map(|(at, _)| *at)
            .collect();
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 500), "{times:?}");
    }
}

#[test]
fn keyframe_requests_of_one_subscription_back_off() {
    let mut world = World::new(13);
    world.run(500);
    let mut downlink = Downlink::new(downlink_config());
    downlink.handle_timeout(world.now, world.uplink.source());
    let start = world.now;
    let asked: Vec<_> = (0..8_000u64)
        .filter(|&at| downlink.poll_keyframe_request(start + ms(at)) == Some(Layer(2)))
        .collect();
    assert_eq!(asked, [0, 500, 1_500, 3_500, 5_500, 7_500]);
}

#[test]
fn a_publisher_that_restarts_with_a_new_ssrc_continues_the_same_stream() {
    let mut world = World::new(14);
    world.run(1_000);
    for encoder in &mut world.encoders {
        let layer = encoder.layer;
        let ssrc = encoder.ssrc;
        *encoder = Encoder::new(layer, &mut world.rng);
        encoder.ssrc = ssrc + 0x10;
        encoder.keyframe_wanted = true;
    }
    for _ in 0..1_000 {
        // The support world maps PLIs by the first SSRCs; here every encoder starts with a keyframe anyway.
        world.now += ms(1);
        let at = world.elapsed_ms() as u32;
        if at.is_multiple_of(33) {
            for index in 0..3 {
                for data in world.encoders[index].encode(at, 2) {
                    let incoming = world.receiver.handle_rtp(world.now, &data).unwrap();
                    let packet = world
                        .uplink
                        .handle_rtp(world.now, &incoming, &data, &mut world.pool)
                        .unwrap();
                    world.send(|downlink, source, send, out| downlink.forward(source, &packet, send, out));
                }
            }
        }
    }
    assert_eq!(world.subscriber.holes(), 0);
    assert!(world.subscriber.decode().len() > 55);
}

#[test]
fn sender_reports_keep_the_publishers_ntp_line() {
    let mut world = World::new(15);
    world.run(2_000);
    let now = world.now;
    let report = world.downlink.sender_report(now, world.uplink.source()).unwrap();
    assert_eq!(report.ssrc, 0xD000_0001);
    assert_eq!(u64::from(report.packets), world.downlink.stats().packets);
    // A frame captured at t was sent with timestamp x: the report's line must pass through (t, x).
    let (timestamp, payload) = world.subscriber.received.last_key_value().unwrap().1;
    let captured = world.encoders[2].report(content(payload).capture_ms).ntp;
    let ahead_ticks = i64::from(report.info.rtp_timestamp.wrapping_sub(*timestamp) as i32);
    let ahead_ntp = report.info.ntp.wrapping_sub(captured) as i64;
    let error = ahead_ticks - ((i128::from(ahead_ntp) * 90_000) >> 32) as i64;
    assert!(error.abs() <= 2, "{error} ticks off the line");

    let block = rtcp::ReportBlock {
        ssrc: report.ssrc,
        fraction_lost: 25,
        jitter: 900,
        last_sr: (report.info.ntp >> 16) as u32,
        delay_since_last_sr: 65_536 / 10,
        ..rtcp::ReportBlock::default()
    };
    world.downlink.handle_report(now + ms(140), &block);
    let stats = world.downlink.stats();
    assert_eq!((stats.fraction_lost, stats.jitter_ms), (25, 10));
    assert!(stats.rtt.unwrap().abs_diff(ms(40)) < ms(1), "{:?}", stats.rtt);
}

#[test]
fn forwarding_allocates_no_buffers_in_steady_state() {
    let mut world = World::new(16);
    world.run(4_000);
    let allocated = world.pool.allocated();
    world.run(4_000);
    assert!(
        world.pool.allocated() <= allocated + 30,
        "{} then {}",
        allocated,
        world.pool.allocated()
    );
}

#[test]
fn hot_state_of_a_subscription_fits_in_a_kilobyte() {
    let size = std::mem::size_of::<Downlink>();
    println!("size_of::<Downlink>() = {size}");
    assert!(size <= 1_024, "{size}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Loss, reordering and duplication both ways, random demands, mutes and dying layers: the subscriber's checks hold,
    /// and once everything is repaired nothing is missing.
    #[test]
    fn the_stream_is_sound_whatever_happens(
        seed: u64,
        loss in 0.0..0.15f64,
        downstream_loss in 0.0..0.1f64,
        duplicate in 0.0..0.1f64,
        jitter_ms in 0u64..25,
        padding in prop_oneof![Just(0.0), 0.0..0.3f64],
        temporal_layers in 1u8..=2,
        actions in prop::collection::vec((0u8..12, 20u64..600), 1..10),
    ) {
        let mut world = World::new(seed);
        world.upstream(loss, duplicate, 10, jitter_ms);
        world.downstream_loss = downstream_loss;
        world.padding = padding;
        world.encoders.iter_mut().for_each(|encoder| encoder.temporal_layers = temporal_layers);
        for (action, run_ms) in actions {
            match action {
                0..=2 => world.demand(up_to(action)),
                3 => world.demand(Demand { max_fps: Some(15), ..world.downlink.demand() }),
                4 => world.demand(Demand { enabled: !world.downlink.demand().enabled, ..up_to(2) }),
                5..=7 => {
                    let layer = usize::from(action - 5);
                    world.active[layer] = !world.active[layer];
                }
                8 | 9 => {
                    world.uplink.set_muted(action == 8);
                    world.downlink.set_muted(action == 8);
                }
                _ => world.downlink.handle_pli(world.now),
            }
            world.run(run_ms);
        }
        world.upstream.loss = 0.0;
        world.downstream_loss = 0.0;
        world.settle();
        world.subscriber.decode();
    }

    /// The same with a steady demand: everything forwarded is delivered in the end.
    #[test]
    fn a_steady_stream_is_repaired_completely(
        seed: u64,
        loss in 0.0..0.1f64,
        downstream_loss in 0.0..0.1f64,
        jitter_ms in 0u64..20,
    ) {
        let mut world = World::new(seed);
        world.run(500);
        world.upstream(loss, 0.0, 10, jitter_ms);
        world.downstream_loss = downstream_loss;
        world.run(2_500);
        world.upstream.loss = 0.0;
        world.downstream_loss = 0.0;
        world.settle();
        world.subscriber.decode();
        prop_assert_eq!(world.subscriber.holes(), 0);
    }
}
