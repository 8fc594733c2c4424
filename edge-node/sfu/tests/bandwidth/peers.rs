//! Peers that lie, peers that say nothing, and peers with REMB only.

use super::{ms, s};
use meridian_sfu::TwccReceiver;
use meridian_sfu::bandwidth::{Estimator, RATE_MAX_BPS, RATE_MIN_BPS, RATE_START_BPS, ReportedBandwidth};
use meridian_sfu::rtcp::{Rtcp, parse};
use std::time::{Duration, Instant};

fn tell(estimator: &mut Estimator, now: Instant, bytes: &[u8]) {
    for packet in parse(bytes) {
        if let Rtcp::TransportFeedback(feedback) = packet {
            estimator.handle_feedback(now, &feedback);
        }
    }
}

/// Feedback that these numbers arrived then, by a receiver whose clock began at `zero`.
fn feedback(zero: Instant, arrivals: impl IntoIterator<Item = (u16, Duration)>) -> Vec<u8> {
    let mut receiver = TwccReceiver::new(zero);
    let mut last = zero;
    for (sequence, at) in arrivals {
        last = last.max(zero + at);
        receiver.record(zero + at, sequence, 1);
    }
    let mut bytes = Vec::new();
    while receiver.poll(last + s(1), 2, &mut bytes) {}
    bytes
}

#[test]
fn feedback_for_packets_never_sent_moves_nothing_and_is_counted() {
    let zero = Instant::now();
    let mut estimator = Estimator::new(zero);
    estimator.set_wanted(RATE_MAX_BPS);
    (0..50u16).for_each(|n| estimator.sent(zero + ms(10 * u64::from(n)), n, 1_000));
    let lie = feedback(zero, (20_000..20_300).map(|n| (n, ms(u64::from(n) - 20_000))));
    tell(&mut estimator, zero + ms(600), &lie);
    assert_eq!(estimator.stats().never_sent, 300);
    assert_eq!(estimator.stats().received, 0);
    assert_eq!(estimator.estimate_bps(zero + ms(600)), Some(RATE_START_BPS));
    // The same packets over and over: each counts once.
    let truth = feedback(zero, (0..50).map(|n| (n, ms(10 * u64::from(n)))));
    for repeat in 0..20 {
        tell(&mut estimator, zero + ms(600 + repeat), &truth);
    }
    assert_eq!(estimator.stats().received, 50);
}

#[test]
fn times_that_go_back_by_hours_are_refused_and_a_clock_that_was_really_set_is_believed_in_the_end() {
    let zero = Instant::now();
    let mut estimator = Estimator::new(zero);
    let mut sent = 0u16;
    let mut send = |estimator: &mut Estimator, at: Duration| {
        estimator.sent(zero + at, sent, 1_000);
        sent += 1;
        sent - 1
    };
    let honest: Vec<_> = (0..50)
        .map(|n| (send(&mut estimator, ms(20 * n)), s(7_200) + ms(20 * n)))
        .collect();
    tell(&mut estimator, zero + s(1), &feedback(zero, honest));
    assert_eq!(estimator.stats().implausible, 0);
    let back: Vec<_> = (50..100)
        .map(|n| (send(&mut estimator, ms(20 * n)), ms(20 * n)))
        .collect();
    tell(&mut estimator, zero + s(2), &feedback(zero, back));
    assert_eq!(estimator.stats().implausible, 50);
    let more: Vec<_> = (100..150)
        .map(|n| (send(&mut estimator, ms(20 * n)), ms(20 * n)))
        .collect();
    tell(&mut estimator, zero + s(3), &feedback(zero, more));
    assert_eq!(estimator.stats().implausible, 64, "then it is the clock");
    let estimate = estimator.estimate_bps(zero + s(3)).expect("it answers");
    assert!((RATE_MIN_BPS..=RATE_START_BPS * 2).contains(&estimate), "{estimate}");
}

#[test]
fn who_claims_that_everything_arrives_at_once_is_sent_no_more_than_is_wanted() {
    let zero = Instant::now();
    let mut estimator = Estimator::new(zero);
    estimator.set_wanted(2_000_000);
    let (mut sequence, mut padding) = (0u16, 0);
    for tick in 0..10_000u64 {
        let now = zero + ms(tick);
        let first = sequence;
        if tick % 20 == 0 {
            estimator.sent(now, sequence, 1_000);
            sequence = sequence.wrapping_add(1);
        }
        estimator.handle_timeout(now);
        while let Some(due) = estimator.poll_probe(now) {
            estimator.sent(now, sequence, due.bytes.min(280));
            padding += due.bytes.min(280);
            sequence = sequence.wrapping_add(1);
        }
        if first != sequence {
            let count = sequence.wrapping_sub(first);
            let lie = feedback(zero, (0..count).map(|n| (first.wrapping_add(n), ms(tick))));
            tell(&mut estimator, now, &lie);
        }
    }
    let estimate = estimator.estimate_bps(zero + s(10)).expect("it answers");
    assert!(estimate <= 2_400_000, "{estimate}");
    assert!(padding < 100_000, "{padding} bytes of padding in ten seconds");
}

#[test]
fn a_peer_that_never_answers_is_served_without_an_estimate() {
    let zero = Instant::now();
    let mut estimator = Estimator::new(zero);
    estimator.set_wanted(3_000_000);
    let mut sequence = 0;
    for tick in 0..5_000u64 {
        let now = zero + ms(tick);
        estimator.handle_timeout(now);
        if tick % 10 == 0 {
            estimator.sent(now, sequence, 500);
            sequence += 1;
        }
        while estimator.poll_probe(now).is_some() {
            estimator.sent(now, sequence, 280);
            sequence += 1;
        }
        let known = estimator.estimate_bps(now);
        assert_eq!(known.is_some(), tick <= 3_000, "at {tick} ms");
    }
    assert!(estimator.poll_probe(zero + s(6)).is_none());
}

#[test]
fn with_remb_the_estimate_is_what_the_peer_says_less_what_loss_takes() {
    let zero = Instant::now();
    let mut peer = ReportedBandwidth::new(zero);
    assert_eq!(peer.estimate_bps(zero), None);
    peer.handle_remb(zero, 1_500_000);
    assert_eq!(peer.estimate_bps(zero), Some(1_500_000));
    let mut now = zero;
    // A link that carries 800 kb/s and says so by loss alone: what is sent follows.
    for _ in 0..60 {
        now += s(1);
        let sent = peer.estimate_bps(now).expect("REMB is fresh") as f64;
        let lost = (1.0 - 800_000.0 / sent).max(0.0);
        peer.handle_report(now, (lost * 256.0) as u8, (sent / 8_000.0) as u32, sent);
        peer.handle_remb(now, 1_500_000);
    }
    let estimate = peer.estimate_bps(now).expect("fresh");
    assert!((600_000..1_000_000).contains(&estimate), "{estimate}");
    // Loss of a tenth whatever is sent: the link's own.
    let mut lossy = ReportedBandwidth::new(zero);
    let mut least = u64::MAX;
    let mut now = zero;
    for _ in 0..60 {
        now += s(1);
        lossy.handle_remb(now, 1_500_000);
        let sent = lossy.estimate_bps(now).expect("fresh");
        lossy.handle_report(now, 26, (sent / 8_000) as u32, sent as f64);
        least = least.min(sent);
    }
    assert!(least > 900_000, "{least}");
    assert_eq!(lossy.estimate_bps(now + s(60)), None, "REMB went stale");
}
