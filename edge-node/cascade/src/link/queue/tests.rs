//! Priorities, shedding and coming back, second by second.

use super::*;

const MS: Duration = Duration::from_millis(1);

fn packet(track: u32, priority: Priority, len: usize) -> MediaPacket {
    let layer = Layer((priority as u8).saturating_sub(1));
    MediaPacket {
        track,
        encoding: Encoding(layer.0),
        layer,
        priority,
        keyframe: true,
        payload: vec![0; len].into(),
    }
}

/// One second of: audio 40 kbit/s, base 400, mid 800, top 2,400 kbit/s on track 1 (and `tracks - 1` more), sent as they come.
fn second(queue: &mut LayerQueue, from: Instant, tracks: u32, target: u64, drain: bool) -> Instant {
    for ms in 0..1000u32 {
        let now = from + MS * ms;
        for track in 1..=tracks {
            if ms % 20 == 0 {
                queue.push(now, packet(track + 1000, Priority::Audio, 100));
            }
            for (priority, every) in [(Priority::Base, 20), (Priority::Mid, 10)] {
                if ms % every == 0 {
                    queue.push(now, packet(track, priority, 1000));
                }
            }
            if ms % 10 == 5 {
                queue.push(now, packet(track, Priority::Top, 3000));
            }
        }
        while drain && queue.pop().is_some() {}
        queue.tick(now, target, Duration::ZERO);
    }
    from + MS * 1000
}

fn changes(queue: &mut LayerQueue) -> Vec<(u32, u8, bool)> {
    std::iter::from_fn(|| queue.poll_change())
        .map(|c| (c.track, c.layer.0, c.shed))
        .collect()
}

#[test]
fn audio_goes_out_before_base_before_mid_before_top() {
    let now = Instant::now();
    let mut queue = LayerQueue::new(now);
    for priority in [
        Priority::Top,
        Priority::Base,
        Priority::Mid,
        Priority::Audio,
        Priority::Base,
    ] {
        queue.push(now, packet(1, priority, 10));
    }
    let order: Vec<Priority> = std::iter::from_fn(|| queue.pop()).map(|p| p.priority).collect();
    assert_eq!(
        order,
        [
            Priority::Audio,
            Priority::Base,
            Priority::Base,
            Priority::Mid,
            Priority::Top
        ]
    );
    assert_eq!((queue.bytes(), queue.is_empty()), (0, true));
}

#[test]
fn a_lower_target_sheds_whole_top_layers_first_and_calm_brings_them_back_one_priority_at_a_time() {
    let start = Instant::now();
    let mut queue = LayerQueue::new(start);
    let mut at = second(&mut queue, start, 1, 10_000_000, true);
    at = second(&mut queue, at, 1, 10_000_000, true);
    assert_eq!(changes(&mut queue), []);
    at = second(&mut queue, at, 1, 3_000_000, true);
    assert_eq!(changes(&mut queue), [(1, 2, true)]);
    at = second(&mut queue, at, 1, 1_000_000, true);
    assert_eq!(changes(&mut queue), [(1, 1, true)]);
    assert!(queue.floor_bps().abs_diff(440_000) < 20_000, "{}", queue.floor_bps());
    at = second(&mut queue, at, 1, 10_000_000, true);
    assert_eq!(changes(&mut queue), [], "two seconds of calm come first");
    assert_eq!(queue.poll_keyframe_request(), None);
    at = second(&mut queue, at, 1, 10_000_000, true);
    assert_eq!(changes(&mut queue), [(1, 1, false)]);
    at = second(&mut queue, at, 1, 10_000_000, true);
    second(&mut queue, at, 1, 10_000_000, true);
    assert_eq!(changes(&mut queue), [(1, 2, false)]);
}

#[test]
fn a_layer_comes_back_at_a_keyframe_which_is_asked_for_until_it_comes() {
    let start = Instant::now();
    let mut queue = LayerQueue::new(start);
    let top = |keyframe| MediaPacket {
        keyframe,
        ..packet(1, Priority::Top, 1000)
    };
    let mut at = start;
    // A target of a megabit a second for two seconds, then plenty.
    let run = |queue: &mut LayerQueue, at: &mut Instant, ms: u32, target: u64| {
        let mut crossed = 0;
        for _ in 0..ms / 4 {
            *at += 4 * MS;
            crossed += usize::from(queue.push(*at, top(false)) == Pushed::Queued);
            while queue.pop().is_some() {}
            queue.tick(*at, target, Duration::ZERO);
        }
        crossed
    };
    assert_eq!(run(&mut queue, &mut at, 1000, 10_000_000), 250);
    run(&mut queue, &mut at, 2000, 1_000_000);
    assert_eq!(changes(&mut queue), [(1, 2, true)]);
    assert_eq!(
        run(&mut queue, &mut at, 5500, 10_000_000),
        0,
        "it may cross again, but this is no beginning"
    );
    let asked = std::iter::from_fn(|| queue.poll_keyframe_request()).count();
    assert!((5..=6).contains(&asked), "asked {asked} times in 5.5 s");
    assert_eq!((changes(&mut queue), queue.shed_count()), (vec![], 1));
    // It was promised to nobody: going away again is no news.
    run(&mut queue, &mut at, 500, 1_000_000);
    assert_eq!(queue.push(at, top(true)), Pushed::Shed);
    assert_eq!(changes(&mut queue), []);
    run(&mut queue, &mut at, 5000, 10_000_000);
    assert_eq!(queue.push(at, top(true)), Pushed::Queued);
    assert_eq!(changes(&mut queue), [(1, 2, false)]);
    assert_eq!(run(&mut queue, &mut at, 400, 10_000_000), 100);
    assert_eq!(queue.shed_count(), 0);
}

#[test]
fn the_keyframe_a_layer_comes_back_with_does_not_send_it_away_again_unless_it_queues() {
    for (path_queue, shed) in [(Duration::ZERO, false), (CALM_QUEUE, true)] {
        let start = Instant::now();
        let mut queue = LayerQueue::new(start);
        let mut at = second(&mut queue, start, 1, 10_000_000, true);
        at = second(&mut queue, at, 1, 3_000_000, true);
        assert_eq!(changes(&mut queue), [(1, 2, true)]);
        // 3.64 Mbit/s in all.
        while queue.poll_keyframe_request().is_none() {
            queue.tick(at, 4_000_000, Duration::ZERO);
            for (priority, len) in [(Priority::Base, 2500), (Priority::Mid, 5000), (Priority::Top, 15_000)] {
                queue.push(
                    at,
                    MediaPacket {
                        keyframe: false,
                        ..packet(1, priority, len)
                    },
                );
            }
            while queue.pop().is_some() {}
            at += TICK;
        }
        assert_eq!(queue.push(at, packet(1, Priority::Top, 60_000)), Pushed::Queued);
        queue.tick(at + TICK, 4_000_000, path_queue);
        let gone = changes(&mut queue).contains(&(1, 2, true));
        assert_eq!(gone, shed, "{path_queue:?}");
    }
}

#[test]
fn a_layer_that_comes_back_too_early_waits_twice_as_long_the_next_time() {
    let start = Instant::now();
    let mut queue = LayerQueue::new(start);
    let mut at = second(&mut queue, start, 1, 10_000_000, true);
    let mut attempts = Vec::new();
    for s in 1..40 {
        // Only 3 Mbit/s are there, but that shows only while the top layer crosses.
        let crossing = queue.shed_count() == 0;
        at = second(&mut queue, at, 1, if crossing { 3_000_000 } else { 10_000_000 }, true);
        if changes(&mut queue).contains(&(1, 2, false)) {
            attempts.push(s);
        }
    }
    let waits: Vec<i32> = attempts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(
        waits.windows(2).all(|pair| pair[1] >= pair[0] * 2 - 2) && *waits.last().expect("two") >= 8,
        "{attempts:?}"
    );
}

#[test]
fn several_tracks_lose_single_top_layers_not_all_of_them() {
    let start = Instant::now();
    let mut queue = LayerQueue::new(start);
    let mut at = second(&mut queue, start, 3, 100_000_000, true);
    at = second(&mut queue, at, 3, 100_000_000, true);
    second(&mut queue, at, 3, 10_000_000, true);
    assert_eq!(changes(&mut queue), [(3, 2, true)]);
}

#[test]
fn a_stuck_link_keeps_bounded_bytes_and_audio_to_the_last() {
    let start = Instant::now();
    let mut queue = LayerQueue::new(start);
    queue.tick(start + TICK, 500_000, Duration::ZERO);
    let mut at = start + TICK;
    for _ in 0..20 {
        at = second(&mut queue, at, 2, 500_000, false);
        assert!(queue.bytes() <= WAIT_BYTES_MIN);
    }
    let shed = changes(&mut queue);
    assert_eq!(shed.len(), 6, "all video layers, each once: {shed:?}");
    let left: Vec<Priority> = std::iter::from_fn(|| queue.pop()).map(|p| p.priority).collect();
    assert!(
        left.len() > 500 && left.iter().all(|p| *p == Priority::Audio),
        "{}",
        left.len()
    );
}

#[test]
fn shedding_drops_before_numbering_so_a_strangers_tracks_are_bounded() {
    let now = Instant::now();
    let mut queue = LayerQueue::new(now);
    for track in 0..20_000 {
        queue.push(now, packet(track, Priority::Base, 1));
        queue.pop();
    }
    assert_eq!(queue.streams.len(), STREAMS_MAX);
    queue.tick(now + IDLE, 1_000_000, Duration::ZERO);
    assert_eq!(queue.streams.len(), 0);
}
