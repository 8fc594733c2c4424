//! The trees that tracks take between regions: one copy into each, no loop, nobody left out, and no detour anybody would hear.

use std::collections::BTreeSet;
use std::time::Duration;

use meridian_room::TrackSid;
use meridian_sfu::media::LayerSet;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::world::World;
use crate::{SECOND, seeds};

const BASE: LayerSet = LayerSet(0b001);
/// A better parent is taken after 10 s; what hangs on whom is known, measured and granted a few rounds later.
const CONVERGED: Duration = Duration::from_secs(16);

/// Somebody in one room on every edge, all of whom want one track that edge 0 publishes.
fn everybody_wants(seed: u64, sizes: &[usize]) -> World {
    let mut world = World::of_regions(seed, sizes);
    start(&mut world);
    world
}

fn start(world: &mut World) {
    world.view_all();
    for edge in 0..world.nodes.len() {
        world.join(edge, "r", &format!("p{edge:02}"));
    }
    world.run(3 * SECOND);
    for edge in 1..world.nodes.len() {
        world.want(edge, "r", "TR_a", 0, BASE);
    }
}

/// Edges of each foreign region that take the track from another one.
fn entries(world: &World, track: &str, origin: usize) -> Vec<usize> {
    let enters = |edge: &usize| {
        let from = world.source(track, *edge).filter(|_| world.is_alive(*edge));
        from.is_some_and(|from| world.region(from) != world.region(*edge))
    };
    let mut regions: Vec<usize> = (0..world.nodes.len())
        .filter(|edge| world.region(*edge) != world.region(origin))
        .filter(enters)
        .map(|edge| world.region(edge))
        .collect();
    regions.sort_unstable();
    regions
}

fn one_copy_a_region(world: &World, track: &str, origin: usize) {
    let entries = entries(world, track, origin);
    let regions: BTreeSet<usize> = entries.iter().copied().collect();
    assert_eq!(
        entries.len(),
        regions.len(),
        "copies of {track} enter regions {entries:?}"
    );
}

/// The way is the one the tree claims, and hardly longer than the direct one.
fn no_detour(world: &World, track: &str, origin: usize, edge: usize) {
    let way = world
        .flow(track, origin, edge)
        .unwrap_or_else(|| panic!("edge {edge} is left out"));
    let took: Duration = way.windows(2).map(|hop| world.latency(hop[0], hop[1])).sum();
    let direct = world.latency(origin, edge);
    // The measurements are 5 % off at most, at either end.
    let bearable = direct.mul_f64(1.3).max(direct + Duration::from_millis(10)).mul_f64(1.1);
    assert!(
        way.len() <= 4 && took <= bearable,
        "edge {edge}: {way:?} takes {took:?}, directly {direct:?}"
    );
}

/// Whatever happens, nobody is fed by itself.
fn no_loop(world: &World, track: &str) {
    for edge in 0..world.nodes.len() {
        let mut at = edge;
        let mut hops = 0;
        while let Some(from) = world.source(track, at) {
            // Who is sent nothing under that number is fed by nobody.
            let sent = world.nodes[from]
                .forwards
                .get(&(TrackSid::from(track), crate::world::id(at)));
            if sent.map(|(number, _)| *number) != world.nodes[at].sources.get(track).map(|(_, number)| *number) {
                break;
            }
            (at, hops) = (from, hops + 1);
            assert!(at != edge && hops < world.nodes.len(), "edge {edge} feeds itself");
        }
    }
}

#[test]
fn one_copy_enters_each_region_and_everybody_there_gets_it() {
    for seed in seeds(10) {
        let mut world = everybody_wants(seed, &[3, 5, 4, 1]);
        world.run(SECOND);
        for edge in 1..13 {
            assert!(
                world.flow("TR_a", 0, edge).is_some(),
                "seed {seed}: edge {edge} waits for more than a second"
            );
        }
        world.run(CONVERGED);
        one_copy_a_region(&world, "TR_a", 0);
        assert_eq!(entries(&world, "TR_a", 0), [1, 2, 3]);
        (1..13).for_each(|edge| no_detour(&world, "TR_a", 0, edge));
        assert_eq!(
            world.nodes[0].sent("TR_a", 1),
            BASE,
            "an edge of its own region takes it from the origin"
        );
    }
}

#[test]
fn tracks_of_one_publisher_enter_through_different_gateways() {
    let mut world = everybody_wants(1, &[1, 6]);
    let tracks: Vec<String> = (0..12).map(|i| format!("TR_{i}")).collect();
    for track in &tracks {
        (1..7).for_each(|edge| world.want(edge, "r", track, 0, BASE));
    }
    world.run(CONVERGED);
    let gateway = |track: &String| (1..7).find(|edge| world.source(track, *edge) == Some(0));
    let gateways: BTreeSet<usize> = tracks.iter().filter_map(gateway).collect();
    assert!(gateways.len() >= 4, "{gateways:?}");
}

#[test]
fn a_gateway_that_dies_is_missed_for_the_time_it_takes_to_suspect_it_and_ask_another() {
    for seed in seeds(10) {
        let mut world = everybody_wants(seed, &[1, 5]);
        world.run(CONVERGED);
        let gateway = (1..6).find(|edge| world.source("TR_a", *edge) == Some(0)).expect("one");
        world.kill(gateway);
        // 175 ms of silence, a round trip to the next gateway and from there to the origin, each perhaps held up by a loss.
        world.run(Duration::from_millis(1_100));
        for edge in (1..6).filter(|edge| *edge != gateway) {
            let way = world.flow("TR_a", 0, edge).expect("another way");
            assert!(!way.contains(&gateway), "seed {seed}: {way:?}");
        }
        world.run(CONVERGED);
        one_copy_a_region(&world, "TR_a", 0);
    }
}

#[test]
fn a_parent_is_left_only_for_one_that_is_clearly_better_and_stays_so() {
    let mut world = everybody_wants(5, &[1, 1, 1]);
    let ms = Duration::from_millis;
    world.set_latency(0, 1, ms(100));
    world.set_latency(0, 2, ms(45));
    world.set_latency(1, 2, ms(45));
    world.run(CONVERGED);
    assert_eq!(world.flow("TR_a", 0, 1), Some(vec![0, 1]), "10 % is not enough");
    world.set_latency(0, 1, ms(160));
    world.run(8 * SECOND);
    assert_eq!(world.flow("TR_a", 0, 1), Some(vec![0, 1]), "not yet for long enough");
    for _ in 0..1_000 {
        world.run(ms(10));
        assert!(
            world.flow("TR_a", 0, 1).is_some(),
            "the old way is kept until the new one is granted"
        );
    }
    assert_eq!(world.flow("TR_a", 0, 1), Some(vec![0, 2, 1]));
    world.set_latency(0, 1, ms(100));
    world.run(CONVERGED);
    assert_eq!(
        world.flow("TR_a", 0, 1),
        Some(vec![0, 2, 1]),
        "90 ms is still better than 100"
    );
    world.set_latency(0, 1, ms(70));
    world.run(CONVERGED);
    assert_eq!(world.flow("TR_a", 0, 1), Some(vec![0, 1]));
}

#[test]
fn nobody_bears_a_gateway_that_is_far_from_them() {
    let mut world = everybody_wants(3, &[1, 2]);
    world.run(CONVERGED);
    let gateway = (1..3).find(|edge| world.source("TR_a", *edge) == Some(0)).expect("one");
    let behind = 3 - gateway;
    assert_eq!(world.flow("TR_a", 0, behind), Some(vec![0, gateway, behind]));
    let direct = world.latency(0, behind);
    world.set_latency(1, 2, direct);
    world.run(CONVERGED);
    assert_eq!(world.flow("TR_a", 0, behind), Some(vec![0, behind]));
}

#[test]
fn nobody_feeds_more_edges_than_it_may_and_nobody_is_left_out_for_it() {
    for seed in seeds(5) {
        let mut world = World::of_regions(seed, &[1, 1, 1, 1, 1, 1, 1, 1]);
        world.nodes.iter_mut().for_each(|node| node.mesh.set_fan_out(3));
        start(&mut world);
        for _ in 0..80 {
            world.run(Duration::from_millis(250));
            no_loop(&world, "TR_a");
            assert!(world.nodes.iter().all(|node| node.forwards.len() <= 3));
        }
        for edge in 1..8 {
            assert!(
                world.flow("TR_a", 0, edge).is_some(),
                "seed {seed}: edge {edge} is left out"
            );
        }
    }
}

#[test]
fn edges_of_an_older_build_and_of_this_one_share_a_room_whole() {
    for seed in seeds(10) {
        let mut world = World::of_regions(seed, &[2, 4, 3]);
        let mut rng = SmallRng::seed_from_u64(seed);
        let old: Vec<usize> = (0..9).filter(|_| rng.random_bool(0.4)).collect();
        world.are_old(&old);
        start(&mut world);
        world.run(CONVERGED);
        let people: Vec<String> = (0..9).map(|edge| format!("p{edge:02}")).collect();
        world.assert_agreed("r", &people.iter().map(String::as_str).collect::<Vec<_>>());
        for edge in 1..9 {
            assert!(
                world.flow("TR_a", 0, edge).is_some(),
                "seed {seed}: edge {edge}, old: {old:?}"
            );
        }
        world.break_pair(0, 2);
        world.run(CONVERGED);
        for edge in 1..9 {
            assert!(
                world.flow("TR_a", 0, edge).is_some(),
                "seed {seed}: edge {edge}, old: {old:?}"
            );
        }
    }
}

#[test]
fn trees_survive_joins_leaves_deaths_broken_pairs_and_changed_measurements() {
    for seed in seeds(12) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let sizes: Vec<usize> = (0..rng.random_range(2..=4)).map(|_| rng.random_range(1..=5)).collect();
        let mut world = everybody_wants(seed, &sizes);
        let edges = world.nodes.len();
        let tracks = [("TR_a", 0), ("TR_b", 0), ("TR_c", edges - 1)];
        let mut here: BTreeSet<usize> = (0..edges).collect();
        for _ in 0..40 {
            let edge = rng.random_range(1..edges);
            match rng.random_range(0..10) {
                0..=3 => {
                    let (track, origin) = tracks[rng.random_range(0..3)];
                    let layers = LayerSet(rng.random_range(0..8));
                    if here.contains(&edge) && edge != origin {
                        world.want(edge, "r", track, origin, layers);
                    }
                }
                4 if here.len() > 2 && edge < edges - 1 && here.remove(&edge) => {
                    world.leave(edge, "r", &format!("p{edge:02}"));
                }
                5 if world.is_alive(edge) && here.insert(edge) => world.join(edge, "r", &format!("p{edge:02}")),
                6 if rng.random_bool(0.3) && edge < edges - 1 => {
                    here.remove(&edge);
                    world.kill(edge);
                }
                7 => world.break_pair(rng.random_range(0..edges), edge),
                8 => world.heal_all(),
                _ => {
                    let other = rng.random_range(0..edges);
                    if other != edge {
                        let latency = Duration::from_millis(rng.random_range(1..150));
                        world.set_latency(edge, other, latency);
                    }
                }
            }
            for _ in 0..rng.random_range(1..20) {
                world.run(Duration::from_millis(50));
                tracks.iter().for_each(|(track, _)| no_loop(&world, track));
            }
        }
        world.heal_all();
        world.run(20 * SECOND);
        for (track, origin) in tracks {
            for &edge in here.iter().filter(|edge| **edge != origin) {
                world.want(edge, "r", track, origin, BASE);
            }
        }
        world.run(4 * CONVERGED);
        for (track, origin) in tracks {
            for &edge in here.iter().filter(|edge| **edge != origin) {
                no_detour(&world, track, origin, edge);
            }
            no_loop(&world, track);
        }
    }
}
