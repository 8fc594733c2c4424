//! Small worlds, each from a seed, in which everything happens that must not matter in the end.

use std::time::Duration;

use meridian_simulation::{World, layout};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// `SIM_SEEDS=20` tries twenty times as many worlds; `SIM_SEED=7` runs one seed alone.
fn seeds(count: u64) -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    match number("SIM_SEED") {
        Some(seed) => vec![seed],
        None => (0..count * number("SIM_SEEDS").unwrap_or(1)).collect(),
    }
}

/// Says how to run a seed that failed again.
fn in_world(seed: u64, test: &str, outcome: Result<(), String>) {
    if let Err(error) = outcome {
        panic!("seed {seed}: {error}\nagain: SIM_SEED={seed} cargo nextest run -p meridian-simulation {test}");
    }
}

fn rest(world: &mut World, within: Duration) -> Result<(), String> {
    world.come_to_rest(within).map(|_| ())
}

/// People in one room, one after the other.
fn gather(world: &mut World, room: &str, people: usize, publishers: usize) {
    for index in 0..people {
        let person = world.add_person(index < publishers, (index % 3) as u8);
        let edge = index % world.edges.len();
        world.join(person, edge, room);
        world.run(37 * MS);
    }
}

fn calm(seed: u64) -> Result<(), String> {
    let mut world = World::new(seed, layout::of_regions(seed, &[2, 3, 1], false, 64));
    world.run(S);
    gather(&mut world, "r", 12, 4);
    rest(&mut world, 8 * S)?;
    world.run(12 * S);
    match world.entries() {
        (_, 0) => rest(&mut world, S),
        (entries, more) => Err(format!("{more} of {entries} copies enter a region that has one")),
    }
}

#[test]
fn people_on_many_edges_meet_and_one_copy_of_each_picture_enters_a_region() {
    for seed in seeds(6) {
        in_world(seed, "people_on_many_edges_meet", calm(seed));
    }
}

/// Links simulated to the datagram, one of which breaks and heals.
fn exact(seed: u64) -> Result<(), String> {
    let mut world = World::new(seed, layout::of_regions(seed, &[2, 2, 1], true, 64));
    (world.net.weather.loss, world.net.weather.jitter) = (0.03, 0.1);
    world.run(S);
    gather(&mut world, "r", 10, 3);
    rest(&mut world, 10 * S)?;
    world.cut(0, 2);
    rest(&mut world, 15 * S)?;
    world.heal_all();
    rest(&mut world, 20 * S)
}

#[test]
fn links_simulated_to_the_datagram_carry_the_same_meeting_through_loss_and_jitter() {
    for seed in seeds(3) {
        in_world(seed, "links_simulated_to_the_datagram", exact(seed));
    }
}

/// One world of faults. At its end nothing is broken any more, and all must be well.
fn trouble(seed: u64, linked_all_up_to: usize) -> Result<(), String> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let sizes: Vec<usize> = (0..rng.random_range(1..=4)).map(|_| rng.random_range(1..=4)).collect();
    let mut world = World::new(seed, layout::of_regions(seed, &sizes, false, linked_all_up_to));
    (world.net.weather.loss, world.net.weather.jitter) = (0.01, 0.1);
    let edges = world.edges.len();
    for edge in &mut world.edges {
        edge.skew_ms = rng.random_range(-30_000..30_000);
    }
    world.run(S);
    for index in 0..16 {
        world.add_person(index % 3 == 0, (index % 3) as u8);
    }
    for _ in 0..60 {
        let person = rng.random_range(0..16);
        let (edge, other) = (rng.random_range(0..edges), rng.random_range(0..edges));
        match rng.random_range(0..12) {
            0..=4 => world.join(person, edge, ["r", "s"][rng.random_range(0..2)]),
            5 => world.leave(person),
            6 | 7 => world.cut(edge, other),
            8 => world.heal(edge, other),
            9 => world.heal_all(),
            10 if (0..edges).filter(|edge| world.edges[*edge].is_alive).count() > 1 => world.kill(edge),
            _ => (0..edges).for_each(|edge| world.revive(edge)),
        }
        for _ in 0..rng.random_range(1..12) {
            world.run(100 * MS);
            world.check_always()?;
        }
    }
    world.heal_all();
    (0..edges).for_each(|edge| world.revive(edge));
    // A silent edge's people are waited for for ten seconds; a better way is taken after ten more.
    rest(&mut world, 45 * S).map_err(|error| format!("{error}\n{}{}", world.describe("r"), world.describe("s")))
}

#[test]
fn whatever_breaks_everybody_sees_everybody_in_the_end() {
    for seed in seeds(20) {
        in_world(seed, "whatever_breaks", trouble(seed, 64));
    }
}

#[test]
fn edges_that_link_only_whom_they_need_end_up_the_same() {
    for seed in seeds(20) {
        in_world(seed, "edges_that_link_only", trouble(seed, 1));
    }
}

#[test]
fn the_same_seed_is_the_same_world_to_the_last_event() {
    let run = |seed| {
        let mut world = World::new(seed, layout::of_regions(seed, &[2, 3], false, 1));
        world.net.weather.loss = 0.02;
        world.run(S);
        gather(&mut world, "r", 10, 3);
        world.run(5 * S);
        world.kill(1);
        world.run(20 * S);
        (world.happenings, world.net.message_bytes, world.seen_after_us.clone())
    };
    assert_eq!(run(4), run(4));
    assert_ne!(run(4), run(5));
}
