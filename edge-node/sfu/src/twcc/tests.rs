use super::*;
use crate::rtcp::{self, Rtcp};
use proptest::prelude::*;

fn feedback(data: &[u8]) -> Feedback<'_> {
    match rtcp::parse(data).next() {
        Some(Rtcp::TransportFeedback(feedback)) => feedback,
        other => panic!("expected feedback, got {other:?}"),
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The chunk examples of draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1.3 and §3.1.4.
#[test]
fn the_drafts_chunk_examples_are_read_as_described() {
    let symbols = |bits: u16| {
        let mut chunk = Chunk::new(bits);
        std::iter::from_fn(move || chunk.next()).collect::<Vec<_>>()
    };
    assert_eq!(symbols(0b0000_0000_1101_1101), vec![0; 221], "run of 221 not received");
    assert_eq!(
        symbols(0b0110_0000_0001_1000),
        vec![3; 24],
        "run of 24 of the reserved symbol"
    );
    assert_eq!(
        symbols(0b1001_1111_0001_1100),
        vec![0, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0]
    );
    assert_eq!(symbols(0b1100_1101_0101_0000), vec![0, 3, 1, 1, 1, 0, 0]);
}

#[test]
fn feedback_bytes_are_exact() {
    let start = Instant::now();
    let mut receiver = TwccReceiver::new(start);
    // 70 ms = 280 ticks: reference 1 (64 ms), first delta 24; next 40 ticks later; a hole; then 300 ticks: a large delta.
    receiver.record(start + ms(70), 65_535, 0x0A0B_0C0D);
    receiver.record(start + ms(80), 0, 0x0A0B_0C0D);
    receiver.record(start + ms(155), 2, 0x0A0B_0C0D);
    let mut out = Vec::new();
    assert!(!receiver.poll(start + ms(119), 1, &mut out));
    assert_eq!(receiver.poll_timeout(), Some(start + ms(120)));
    assert!(receiver.poll(start + ms(156), 1, &mut out));
    assert_eq!(
        out,
        [
            0xAF,
            205,
            0,
            6,
            0,
            0,
            0,
            1,
            0x0A,
            0x0B,
            0x0C,
            0x0D, // header with P, sender, media
            0xFF,
            0xFF,
            0,
            4,
            0,
            0,
            1,
            0, // base, count, reference 1, feedback 0
            0b1101_0100,
            0b1000_0000, // two-bit vector: small, small, lost, large
            24,
            40,
            1,
            44, // deltas 24, 40, 300
            0,
            2, // padding
        ]
    );
    assert!(!receiver.poll(start + ms(500), 1, &mut out), "everything is reported");
    assert_eq!(receiver.poll_timeout(), None);
    let read: Vec<_> = feedback(&out).packets().collect();
    assert_eq!(
        read,
        vec![(65_535, Some(280)), (0, Some(320)), (1, None), (2, Some(620))]
    );
}

#[test]
fn a_late_packet_is_reported_again_with_what_follows_it() {
    let start = Instant::now();
    let mut receiver = TwccReceiver::new(start);
    receiver.record(start, 10, 1);
    receiver.record(start + ms(1), 12, 1);
    let mut out = Vec::new();
    assert!(receiver.poll(start + ms(60), 1, &mut out));
    receiver.record(start + ms(61), 11, 1);
    receiver.record(start + ms(61), 11, 1);
    out.clear();
    assert!(receiver.poll(start + ms(120), 1, &mut out));
    let read: Vec<_> = feedback(&out).packets().collect();
    assert_eq!(
        read,
        vec![(11, Some(244)), (12, Some(4))],
        "the second delta is negative"
    );
}

#[test]
fn a_pause_longer_than_a_delta_begins_a_new_feedback() {
    let start = Instant::now();
    let mut receiver = TwccReceiver::new(start);
    receiver.record(start, 1, 1);
    receiver.record(start + ms(9_000), 2, 1);
    let mut out = Vec::new();
    assert!(receiver.poll(start + ms(9_060), 1, &mut out));
    let first = out.len();
    assert!(receiver.poll(start + ms(9_060), 1, &mut out));
    assert_eq!(
        feedback(&out[..first]).packets().collect::<Vec<_>>(),
        vec![(1, Some(0))]
    );
    assert_eq!(
        feedback(&out[first..]).packets().collect::<Vec<_>>(),
        vec![(2, Some(36_000))]
    );
    assert_eq!(feedback(&out[first..]).feedback_count, 1);
}

#[test]
fn feedback_that_covers_more_than_it_holds_is_refused() {
    let mut data = vec![
        0x8F, 205, 0, 5, 0, 0, 0, 1, 0, 0, 0, 2, 0, 1, 0, 9, 0, 0, 0, 0, 0x20, 9, 1, 1,
    ];
    assert!(
        rtcp::parse(&data).next().is_none(),
        "9 small deltas do not fit in 2 bytes"
    );
    data[15] = 2;
    data[21] = 2;
    assert_eq!(feedback(&data).packets().count(), 2);
}

proptest! {
    /// Whatever the arrival pattern: every feedback parses, fits a datagram, and its union says exactly what arrived, when.
    #[test]
    fn what_is_written_is_what_arrived(
        first: u16,
        steps in prop::collection::vec((1u64..30, 0u64..60_000, prop::bool::weighted(0.1)), 1..400),
    ) {
        let start = Instant::now();
        let mut receiver = TwccReceiver::new(start);
        let (mut now, mut sequence) = (start, first);
        let mut expected = std::collections::HashMap::new();
        let mut read = std::collections::HashMap::new();
        let mut out = Vec::new();
        let mut take = |receiver: &mut TwccReceiver, now| {
            out.clear();
            while receiver.poll(now, 1, &mut out) {
                assert!(out.len() < 1_200 && out.len().is_multiple_of(4));
                read.extend(feedback(&out).packets().filter_map(|(s, tick)| Some((s, tick?))));
                out.clear();
            }
        };
        for (gap, wait_us, big) in steps {
            now += Duration::from_micros(wait_us);
            sequence = sequence.wrapping_add(if big { gap as u16 } else { 1 });
            receiver.record(now, sequence, 1);
            expected.insert(sequence, ((now - start).as_micros() / TICK_US) as i64);
            take(&mut receiver, now);
        }
        take(&mut receiver, now + INTERVAL);
        prop_assert_eq!(read, expected);
    }
}
