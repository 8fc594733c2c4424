//! Outages, restarts and connections that overlap, from seeds: what arrives, and how often.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use meridian_outbox::{Inbox, Limits, Outbox, Taken, Worth};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const SEEDS: u64 = 300;
const STEPS: usize = 3_000;

/// A connection: what is on its way in each direction, in order. It may live on for a while after the edge has given it up.
#[derive(Default)]
struct Line {
    incarnation: u64,
    up: VecDeque<(u64, u64)>,
    down: VecDeque<u64>,
    given_up: bool,
}

struct World {
    rng: SmallRng,
    now: Instant,
    limits: Limits,
    outbox: Outbox<u64>,
    incarnation: u64,
    inbox: Inbox,
    lines: Vec<Line>,
    /// How often the control plane acted on each item.
    arrived: BTreeMap<u64, u32>,
    /// Every entry that was acted on, as whoever stores it would know it: never two of one name.
    stored: BTreeMap<(u64, u64), u64>,
    pushed: u64,
    dropped: u64,
    /// Of former lives of the edge, which took what they held along.
    lost_with_a_life: u64,
}

impl World {
    fn new(seed: u64, limits: Limits) -> World {
        World {
            rng: SmallRng::seed_from_u64(seed),
            now: Instant::now(),
            limits,
            outbox: Outbox::new(limits),
            incarnation: 1,
            inbox: Inbox::default(),
            lines: Vec::new(),
            arrived: BTreeMap::new(),
            stored: BTreeMap::new(),
            pushed: 0,
            dropped: 0,
            lost_with_a_life: 0,
        }
    }

    fn push(&mut self) {
        let worth = if self.rng.random_bool(0.5) {
            Worth::Little
        } else {
            Worth::Much
        };
        self.outbox.push(self.pushed, self.rng.random_range(1..200), worth);
        self.pushed += 1;
    }

    fn connect(&mut self) {
        for line in &mut self.lines {
            line.given_up = true;
        }
        self.lines.retain(|line| !line.up.is_empty() || !line.down.is_empty());
        self.lines.push(Line {
            incarnation: self.incarnation,
            ..Line::default()
        });
        self.outbox.connected(self.now);
    }

    /// Of what is on its way over lines that the edge gave up, some arrives later, some never.
    fn lose(&mut self) {
        self.outbox.disconnected();
        for line in &mut self.lines {
            line.given_up = true;
            let kept = self.rng.random_range(0..=line.up.len());
            line.up.truncate(kept);
        }
    }

    fn send(&mut self) {
        if let Some(line) = self.lines.last_mut().filter(|line| !line.given_up) {
            while let Some(entry) = self.outbox.poll(self.now) {
                line.up.push_back(entry);
            }
        }
    }

    /// One entry of one line reaches the control plane, or one acknowledgement the edge.
    fn carry(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.lines.len());
        let line = &mut self.lines[at];
        if self.rng.random_bool(0.6) {
            let Some((number, item)) = line.up.pop_front() else {
                return;
            };
            if self.inbox.take(line.incarnation, number) == Taken::New {
                *self.arrived.entry(item).or_default() += 1;
                let before = self.stored.insert((line.incarnation, number), item);
                assert!(before.is_none_or(|before| before == item), "one name, two entries");
            }
            line.down.push_back(self.inbox.through(line.incarnation));
        } else if let Some(through) = line.down.pop_front()
            && line.incarnation == self.incarnation
        {
            // Also over a line that was given up: late, and still true.
            self.outbox.received(through);
        }
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(self.rng.random_range(0..5));
        match self.rng.random_range(0..100) {
            0..30 => self.push(),
            30..32 => self.connect(),
            32..34 => self.lose(),
            _ => {
                self.send();
                self.carry();
            }
        }
        let counters = self.outbox.counters();
        assert!(counters.depth <= self.limits.entries && counters.bytes <= self.limits.bytes);
    }

    /// The control plane forgets everything, and every connection ends with it: what it had said may still arrive.
    fn control_plane_restarts(&mut self) {
        self.inbox = Inbox::default();
        self.outbox.disconnected();
        for line in &mut self.lines {
            line.given_up = true;
            line.up.clear();
        }
    }

    fn edge_restarts(&mut self) {
        let counters = self.outbox.counters();
        self.dropped += counters.dropped;
        self.lost_with_a_life += counters.depth as u64;
        self.outbox = Outbox::new(self.limits);
        self.incarnation += 1;
        for line in &mut self.lines {
            line.given_up = true;
        }
    }

    /// The weather clears up.
    fn settle(&mut self) {
        self.connect();
        for _ in 0..1_000_000 {
            self.now += Duration::from_millis(5);
            self.send();
            self.carry();
            if self.outbox.is_empty() && self.lines.iter().all(|line| line.up.is_empty()) {
                self.dropped += self.outbox.counters().dropped;
                return;
            }
        }
        panic!("never quiet: {:?}", self.outbox.counters());
    }
}

fn roomy() -> Limits {
    Limits::default()
}

fn tight() -> Limits {
    Limits {
        entries: 20,
        bytes: 2_000,
        flight: 8,
        burst: 3,
        pause: Duration::from_millis(10),
    }
}

#[test]
fn everything_pushed_and_not_counted_as_dropped_arrives_exactly_once_while_nobody_loses_memory() {
    for (seed, limits) in (0..SEEDS).flat_map(|seed| [(seed, roomy()), (seed, tight())]) {
        let mut world = World::new(seed, limits);
        for _ in 0..STEPS {
            world.step();
        }
        world.settle();
        assert!(world.arrived.values().all(|times| *times == 1), "seed {seed}: twice");
        // What was dropped on its way may have arrived.
        let arrived = world.arrived.len() as u64;
        assert!(
            arrived + world.dropped >= world.pushed,
            "seed {seed}: {arrived} of {}",
            world.pushed
        );
        assert!(
            limits.entries == tight().entries || arrived == world.pushed,
            "seed {seed}"
        );
    }
}

#[test]
fn after_the_control_plane_lost_its_memory_everything_arrives_at_least_once_under_the_same_name() {
    let mut repeated = 0;
    for seed in 0..SEEDS {
        let mut world = World::new(seed, roomy());
        for step in 0..STEPS {
            if step % 700 == 699 {
                world.control_plane_restarts();
            }
            world.step();
        }
        world.settle();
        assert_eq!(world.arrived.len() as u64, world.pushed, "seed {seed}");
        // By incarnation and number whoever stores them finds each once.
        assert_eq!(world.stored.len() as u64, world.pushed, "seed {seed}");
        repeated += world.arrived.values().filter(|times| **times > 1).count();
    }
    assert!(repeated > 0, "no restart fell between taking and acknowledging");
}

#[test]
fn a_restarted_edge_loses_what_it_held_and_nothing_else_and_nothing_of_it_is_taken_for_known() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed, roomy());
        for step in 0..STEPS {
            if step % 1_100 == 1_099 {
                world.edge_restarts();
            }
            world.step();
        }
        world.settle();
        assert!(world.arrived.values().all(|times| *times == 1), "seed {seed}: twice");
        let arrived = world.arrived.len() as u64;
        assert!(arrived + world.lost_with_a_life >= world.pushed, "seed {seed}");
    }
}
