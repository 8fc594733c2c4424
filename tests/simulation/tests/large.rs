//! A thousand edges and ten thousand people.

use std::time::Duration;

use meridian_room::RoomName;
use meridian_simulation::{World, layout};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const S: Duration = Duration::from_secs(1);
const EDGES: usize = 1_000;
const ROOMS: usize = 1_000;
const PEOPLE: usize = 10_000;

/// CPU seconds of this process. 0 where the system does not tell.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}

#[test]
fn a_thousand_edges_and_ten_thousand_people_meet_and_outlive_five_deaths() {
    let seed = 1;
    let began = cpu();
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut world = World::new(seed, layout::planet(EDGES, 64));
    world.run(S);
    println!("views and links: {:.1} CPU s", cpu() - began);
    for room in 0..ROOMS {
        let region = world.edges[rng.random_range(0..EDGES)].region.clone();
        world.home_regions.insert(RoomName::new(format!("room-{room}")), region);
    }
    for index in 0..PEOPLE {
        let room = index % ROOMS;
        let person = world.add_person(index < 2 * ROOMS, (index % 3) as u8);
        // Three in four are near the room's home, the others anywhere.
        let edge = if rng.random_bool(0.75) {
            room
        } else {
            rng.random_range(0..EDGES)
        };
        world.join(person, edge, &format!("room-{room}"));
        world.run(Duration::from_micros(500));
    }
    println!("joins: {:.1} CPU s", cpu() - began);
    let took = world
        .come_to_rest(12 * S)
        .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    println!("at rest {took:?} after the last join: {:.1} CPU s", cpu() - began);
    for _ in 0..5 {
        world.kill(rng.random_range(0..EDGES));
    }
    let took = world
        .come_to_rest(30 * S)
        .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let spent = cpu() - began;
    let (entries, more) = world.entries();
    let mut seen = world.seen_after_us.clone();
    seen.sort_unstable();
    println!(
        "at rest {took:?} after five deaths: {spent:.1} CPU s, {} events, {} links, {} messages, {entries} entries, {more} too many, seen after {} ms (median) {} ms (p99)",
        world.happenings,
        world.net.links.values().filter(|link| link.up).count(),
        world.net.messages,
        seen[seen.len() / 2] / 1_000,
        seen[seen.len() * 99 / 100] / 1_000,
    );
    assert!(spent < 60.0, "{spent:.1} CPU seconds");
}
