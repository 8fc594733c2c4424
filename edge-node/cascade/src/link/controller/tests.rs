//! The controller against a bottleneck in virtual time: a drop-tail queue behind a fixed one-way delay.

use super::*;

const PACKET: u64 = 1200;
const MS: Duration = Duration::from_millis(1);

/// A sender offering `offered_bps`, held back only by the controller's target, into a bottleneck of `rate_bps`.
struct Path {
    controller: DelayController,
    now: Instant,
    rate_bps: f64,
    delay: Duration,
    /// When the bottleneck is free again.
    free: Instant,
    /// (acknowledged at, sent at)
    acks: VecDeque<(Instant, Instant)>,
    credit: f64,
    loss_every: u64,
    sent: u64,
    queue: Duration,
}

impl Path {
    fn new(rate_bps: f64, delay: Duration, ceiling_bps: u64) -> Path {
        let now = Instant::now();
        let config = ControllerConfig {
            ceiling_bps,
            ..ControllerConfig::default()
        };
        Path {
            controller: DelayController::new(now, config),
            now,
            rate_bps,
            delay,
            free: now,
            acks: VecDeque::new(),
            credit: 0.0,
            loss_every: 0,
            sent: 0,
            queue: Duration::ZERO,
        }
    }

    /// Runs for `time`, offering `offered_bps`; gives the highest and the mean queue.
    fn run(&mut self, time: Duration, offered_bps: f64) -> (Duration, Duration) {
        let end = self.now + time;
        let (mut highest, mut sum, mut count) = (Duration::ZERO, Duration::ZERO, 0u32);
        while self.now < end {
            self.now += MS;
            self.credit = (self.credit + offered_bps.min(self.controller.target_bps() as f64) / 8000.0).min(20_000.0);
            while self.credit >= PACKET as f64 {
                self.credit -= PACKET as f64;
                self.send();
            }
            while self.acks.front().is_some_and(|(at, _)| *at <= self.now) {
                if let Some((_, sent)) = self.acks.pop_front() {
                    self.controller
                        .on_ack(self.now, sent, PACKET, self.delay * 2 + self.queue);
                }
            }
            highest = highest.max(self.queue);
            sum += self.queue;
            count += 1;
        }
        (highest, sum / count.max(1))
    }

    fn send(&mut self) {
        self.sent += 1;
        if self.loss_every > 0 && self.sent.is_multiple_of(self.loss_every) {
            self.controller.on_loss(self.now, self.now, PACKET);
            return;
        }
        self.free = self.free.max(self.now) + Duration::from_secs_f64(PACKET as f64 * 8.0 / self.rate_bps);
        self.queue = self.free - self.now;
        self.acks.push_back((self.free + self.delay * 2, self.now));
    }
}

#[test]
fn a_path_without_a_queue_is_used_up_to_the_ceiling() {
    let mut path = Path::new(100e6, 45 * MS, 50_000_000);
    path.run(Duration::from_secs(5), 20e6);
    assert_eq!(path.controller.target_bps(), 50_000_000);
    assert!(path.controller.delivered_bps().abs_diff(20_000_000) < 2_000_000);
    let full = 50_000_000 / 8 * 90 / 1000;
    assert!(path.controller.window().abs_diff(full) < full / 100);
}

#[test]
fn a_path_cut_in_half_is_followed_within_a_second_and_the_queue_stays_short() {
    let mut path = Path::new(24e6, 45 * MS, 200_000_000);
    path.run(Duration::from_secs(3), 20e6);
    path.rate_bps = 12e6;
    path.run(Duration::from_secs(1), 20e6);
    let (_, mean) = path.run(Duration::from_secs(4), 20e6);
    let target = path.controller.target_bps();
    assert!(mean < 20 * MS, "queue of {mean:?}");
    assert!((6_000_000..13_000_000).contains(&target), "target {target}");
}

#[test]
fn a_freed_path_is_found_again() {
    let mut path = Path::new(12e6, 45 * MS, 200_000_000);
    path.run(Duration::from_secs(3), 20e6);
    path.rate_bps = 100e6;
    path.run(Duration::from_secs(15), 20e6);
    assert!(
        path.controller.delivered_bps() > 18_000_000,
        "{}",
        path.controller.delivered_bps()
    );
}

#[test]
fn random_loss_of_five_percent_is_ignored_and_of_thirty_is_not() {
    let mut path = Path::new(100e6, 45 * MS, 50_000_000);
    path.loss_every = 20;
    path.run(Duration::from_secs(5), 20e6);
    assert_eq!(path.controller.target_bps(), 50_000_000);
    path.loss_every = 3;
    path.run(Duration::from_secs(2), 20e6);
    assert!(path.controller.target_bps() < 20_000_000);
}

#[test]
fn audio_and_base_layers_are_a_floor() {
    let mut path = Path::new(1e6, 45 * MS, 200_000_000);
    path.controller.set_floor(2_000_000);
    path.run(Duration::from_secs(5), 4e6);
    assert_eq!(path.controller.target_bps(), 2_000_000);
}

#[test]
fn a_longer_path_is_not_taken_for_a_queue_for_ever() {
    let mut path = Path::new(100e6, 45 * MS, 50_000_000);
    path.run(Duration::from_secs(3), 10e6);
    path.delay = 75 * MS;
    path.run(Duration::from_secs(4), 10e6);
    let lowest = path.controller.target_bps();
    path.run(Duration::from_secs(10), 10e6);
    assert!(
        path.controller.target_bps() > lowest && path.controller.delivered_bps() > 9_000_000,
        "{:?}",
        path.controller
    );
}

#[test]
fn our_own_stall_is_not_a_queue() {
    let mut path = Path::new(100e6, 45 * MS, 50_000_000);
    path.run(Duration::from_secs(2), 10e6);
    path.now += 300 * MS;
    path.run(Duration::from_secs(1), 10e6);
    assert_eq!(path.controller.target_bps(), 50_000_000);
}

#[test]
fn what_an_outage_lost_does_not_lower_the_rate() {
    let mut path = Path::new(100e6, 45 * MS, 50_000_000);
    path.run(Duration::from_secs(2), 20e6);
    path.loss_every = 1;
    let began = path.now;
    for _ in 0..400 {
        path.now += MS;
        path.sent += 2;
    }
    path.loss_every = 0;
    path.send();
    let resumed = path.acks.back().expect("on its way").0;
    path.controller.on_ack(resumed, path.now, PACKET, 90 * MS);
    for packet in 0..800u32 {
        path.controller.on_loss(resumed, began + MS * (packet / 2), PACKET);
    }
    assert_eq!(path.controller.target_bps(), 50_000_000);
    for _ in 0..100 {
        path.controller.on_loss(resumed + 100 * MS, resumed + 5 * MS, PACKET);
    }
    assert!(path.controller.target_bps() < 50_000_000, "loss after it counts again");
}
