//! The estimator over an emulated link, in virtual time and with seeds. Bounds here are what a user sees: how long until
//! the picture is as good as the link, how long a queue delays the sound.
#![allow(unreachable_pub, reason = "a test binary")]

mod call;
mod link;
mod peers;

use call::{Call, Video, run};
use link::Link;
use std::time::{Duration, Instant};

const ZERO: Duration = Duration::ZERO;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Worst queue between two moments.
fn queue(call: &Call, from: Duration, to: Duration) -> Duration {
    call.between(from, to)
        .map(|sample| sample.queue)
        .max()
        .expect("samples")
}

fn mean_estimate(call: &Call, from: Duration, to: Duration) -> f64 {
    let (sum, count) = call
        .between(from, to)
        .fold((0.0, 0.0), |(sum, count), s| (sum + s.estimate_bps as f64, count + 1.0));
    sum / count
}

/// From when on the estimate stayed within these bounds, seen from `from`, up to `to`.
fn settled(call: &Call, from: Duration, to: Duration, bounds: std::ops::Range<u64>) -> Duration {
    let outside = call
        .between(from, to)
        .filter(|s| !bounds.contains(&s.estimate_bps))
        .map(|s| s.at)
        .last();
    outside.map_or(ZERO, |at| at - from)
}

#[test]
fn a_link_that_falls_to_a_quarter_is_followed_within_two_seconds_and_taken_back_within_six() {
    for seed in 0..5 {
        let mut link = Link::new(
            seed,
            &[(ZERO, 2_500_000), (s(20) + ms(7 * seed), 600_000), (s(40), 2_500_000)],
        );
        let mut calls = [Call::new(Instant::now(), Video::Adaptive(2_300_000))];
        run(&mut link, &mut calls, ZERO, s(60));
        let call = &calls[0];
        assert!(
            mean_estimate(call, s(1), s(3)) > 1_900_000.0,
            "the first second finds the link"
        );
        let settled_down = settled(call, s(20), s(40), 400_000..690_000);
        assert!(settled_down < s(2), "{settled_down:?}");
        // Each 10 ms of a sender who cannot know yet add 29 ms of queue; the news takes one round trip and a feedback interval.
        assert!(queue(call, s(20), s(22)) < ms(900), "{:?}", queue(call, s(20), s(22)));
        assert!(queue(call, s(22), s(40)) < ms(110), "{:?}", queue(call, s(22), s(40)));
        assert!(
            call.goodput(s(22), s(40)) > 0.8 * 600_000.0,
            "{}",
            call.goodput(s(22), s(40))
        );
        let back = call
            .between(s(40), s(60))
            .find(|s| s.estimate_bps > 2_200_000)
            .expect("taken back")
            .at
            - s(40);
        assert!(back < s(6), "{back:?}");
        assert!(call.goodput(s(46), s(60)) > 2_000_000.0);
    }
}

#[test]
fn layers_of_fixed_rates_follow_the_link_by_probes_alone() {
    for seed in 0..5 {
        let mut link = Link::new(seed, &[(ZERO, 3_000_000), (s(20), 700_000), (s(40), 3_000_000)]);
        let mut calls = [Call::new(
            Instant::now(),
            Video::Layers(vec![150_000, 500_000, 1_700_000]),
        )];
        run(&mut link, &mut calls, ZERO, s(60));
        let call = &calls[0];
        assert!(call.goodput(s(2), s(20)) > 1_650_000.0, "{}", call.goodput(s(2), s(20)));
        assert!(call.goodput(s(23), s(40)) > 500_000.0, "{}", call.goodput(s(23), s(40)));
        assert!(queue(call, s(22), s(40)) < ms(120), "{:?}", queue(call, s(22), s(40)));
        assert!(
            call.goodput(s(45), s(60)) > 1_650_000.0,
            "{}",
            call.goodput(s(45), s(60))
        );
        assert!(call.longest_audio_gap() < ms(600));
    }
}

#[test]
fn random_loss_of_a_tenth_does_not_collapse_the_estimate_and_a_policer_is_obeyed() {
    for seed in 0..5 {
        let mut link = Link::new(seed, &[(ZERO, 2_500_000)]);
        link.loss = 0.1;
        let mut calls = [Call::new(Instant::now(), Video::Adaptive(2_300_000))];
        run(&mut link, &mut calls, ZERO, s(60));
        let mean = mean_estimate(&calls[0], s(10), s(60));
        assert!(mean > 1_700_000.0, "{mean}");
        let least = calls[0]
            .between(s(10), s(60))
            .map(|s| s.estimate_bps)
            .min()
            .expect("samples");
        assert!(least > 1_000_000, "{least}");

        let mut policer = Link::new(seed, &[(ZERO, 1_000_000)]);
        policer.queue_max = ms(40);
        let mut calls = [Call::new(Instant::now(), Video::Adaptive(4_000_000))];
        run(&mut policer, &mut calls, ZERO, s(60));
        let (sent, lost) = (calls[0].estimator.stats().received, calls[0].estimator.stats().lost);
        assert!(lost * 12 < sent, "{lost} of {sent}");
        assert!(
            calls[0].goodput(s(5), s(60)) > 600_000.0,
            "{}",
            calls[0].goodput(s(5), s(60))
        );
    }
}

#[test]
fn two_subscribers_behind_one_bottleneck_share_it() {
    for seed in 0..3 {
        let mut link = Link::new(seed, &[(ZERO, 2_000_000)]);
        let zero = Instant::now();
        let mut calls = [(); 2].map(|()| Call::new(zero, Video::Adaptive(2_300_000)));
        // One is there first and has it all.
        run(&mut link, &mut calls[..1], ZERO, s(10) + ms(13 * seed));
        run(&mut link, &mut calls, s(10) + ms(13 * seed), s(100));
        let [a, b] = calls.each_ref().map(|c| c.goodput(s(30), s(100)));
        assert!(a.min(b) > 0.7 * a.max(b), "{a} and {b}");
        assert!(a + b > 1_500_000.0, "{a} and {b}");
        assert!(
            queue(&calls[0], s(30), s(100)) < ms(300),
            "{:?}",
            queue(&calls[0], s(30), s(100))
        );
    }
}

#[test]
fn an_idle_screen_share_stays_probed() {
    let mut link = Link::new(1, &[(ZERO, 3_000_000), (s(60), 800_000)]);
    let mut calls = [Call::new(Instant::now(), Video::Adaptive(2_000_000))];
    run(&mut link, &mut calls, ZERO, s(10));
    calls[0].video = Video::Idle(2_100_000);
    run(&mut link, &mut calls, s(10), s(60));
    let call = &calls[0];
    let least = call
        .between(s(10), s(60))
        .map(|s| s.estimate_bps)
        .min()
        .expect("samples");
    assert!(least > 1_900_000, "nothing was sent that could fail: {least}");
    assert!(
        (8..=60).contains(&(call.estimator.stats().probes)),
        "{:?}",
        call.estimator.stats()
    );
    assert!(
        call.probe_bytes < 50 * 3_000,
        "{} bytes of padding in 50 s",
        call.probe_bytes
    );
    // The link shrinks while nothing is sent: the next cluster tells, before the slide does.
    run(&mut link, &mut calls, s(60), s(70));
    let after = calls[0].samples.last().expect("samples").estimate_bps;
    assert!((400_000..900_000).contains(&after), "{after}");
}

#[test]
fn three_seconds_of_cross_traffic_cost_no_freeze_of_audio() {
    for seed in 0..5 {
        let mut link = Link::new(seed, &[(ZERO, 2_000_000)]);
        link.queue_max = ms(500);
        let mut calls = [Call::new(Instant::now(), Video::Adaptive(2_300_000))];
        run(&mut link, &mut calls, ZERO, s(15));
        let (mut at, mut owed) = (s(15), 0.0);
        while at < s(18) {
            // Somebody's download at 1.5 Mb/s who listens to nobody.
            owed += 1_500.0;
            while owed > 0.0 {
                link.send(at, 1_200);
                owed -= 1_228.0 * 8.0;
            }
            run(&mut link, &mut calls, at, at + ms(1));
            at += ms(1);
        }
        run(&mut link, &mut calls, s(18), s(30));
        let call = &calls[0];
        assert!(call.longest_audio_gap() < ms(200), "{:?}", call.longest_audio_gap());
        assert!(
            call.audio.len() as u64 + 5 > call.audio_sent,
            "{} of {}",
            call.audio.len(),
            call.audio_sent
        );
        let late = call.audio.iter().filter(|(_, took)| *took > ms(400)).count();
        assert!(late < 25, "{late} packets");
        let back = call
            .between(s(18), s(30))
            .find(|s| s.estimate_bps > 1_600_000)
            .expect("back")
            .at
            - s(18);
        assert!(back < s(6), "{back:?}");
    }
}

#[test]
fn a_link_that_carries_nothing_for_five_seconds_is_not_fed_and_comes_back() {
    let mut link = Link::new(1, &[(ZERO, 2_000_000), (s(10), 1), (s(15), 2_000_000)]);
    link.queue_max = ms(200);
    let mut calls = [Call::new(Instant::now(), Video::Adaptive(1_500_000))];
    run(&mut link, &mut calls, ZERO, s(10));
    link.loss = 1.0;
    run(&mut link, &mut calls, s(10), s(15));
    let least = calls[0].samples.last().expect("samples").estimate_bps;
    assert!(least < 300_000, "{least}");
    link.loss = 0.0;
    link = Link::new(1, &[(ZERO, 2_000_000)]);
    run(&mut link, &mut calls, s(15), s(25));
    let back = calls[0]
        .between(s(15), s(25))
        .find(|s| s.estimate_bps > 1_300_000)
        .expect("back")
        .at
        - s(15);
    assert!(back < s(4), "{back:?}");
}
