//! Edges that share rooms over links which come, go and delay, in virtual time: whatever happens, they end up agreeing.

mod media;
mod trees;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use meridian_cascade::{Data, Output, RoomInput, wire};
use meridian_room::{RoomEvent, TrackSid};
use meridian_sfu::media::{Layer, LayerSet};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use world::{World, room};

const SECOND: Duration = Duration::from_secs(1);

/// `MESH_SEEDS=20 cargo nextest run -p meridian-cascade` tries twenty times as many worlds.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let times = std::env::var("MESH_SEEDS")
        .ok()
        .and_then(|times| times.parse().ok())
        .unwrap_or(1);
    0..count * times
}

#[test]
fn people_on_three_edges_meet_within_a_second() {
    let mut world = World::new(1, 3);
    world.view_all();
    for edge in 0..3 {
        world.join(edge, "r", &format!("p{edge}"));
    }
    world.run(SECOND);
    world.assert_agreed("r", &["p0", "p1", "p2"]);
}

#[test]
fn one_name_opened_on_many_edges_at_once_is_one_room() {
    for seed in seeds(40) {
        let mut world = World::new(seed, 8);
        let mut rng = SmallRng::seed_from_u64(seed);
        world.view_all();
        let mut people = Vec::new();
        for edge in 0..8 {
            if rng.random_bool(0.5) {
                world.run(Duration::from_millis(rng.random_range(0..400)));
            }
            people.push(format!("p{edge}"));
            world.join(edge, "r", &people[edge]);
        }
        world.run(3 * SECOND);
        let people: Vec<&str> = people.iter().map(String::as_str).collect();
        world.assert_agreed("r", &people);
        assert!(
            world.nodes.iter().all(|node| node.told == 1),
            "seed {seed}: somebody was told a sid and then another"
        );
    }
}

#[test]
fn edges_that_each_reach_only_one_home_meet_through_the_homes() {
    let mut probe = World::new(2, 8);
    probe.view_all();
    probe.run(SECOND);
    probe.join(0, "r", "probe");
    probe.run(SECOND);
    let homes: Vec<usize> = (0..8).filter(|&i| probe.is_linked(0, i)).collect();
    let [first, second] = homes[..] else {
        panic!("two homes, elsewhere: {homes:?}")
    };
    let mut others = (0..8).filter(|i| !homes.contains(i));
    let (a, b) = (others.next().expect("many"), others.next().expect("many"));

    let mut world = World::new(2, 8);
    world.view_all();
    world.run(SECOND);
    world.break_pair(a, first);
    world.break_pair(b, second);
    world.join(a, "r", "a");
    world.join(b, "r", "b");
    world.run(5 * SECOND);
    world.assert_agreed("r", &["a", "b"]);
    // And still do when the homes' first word has expired.
    world.run(100 * SECOND);
    assert!(
        world.nodes[a]
            .mesh
            .members(&room("r"))
            .any(|member| *member == world::id(b))
    );
    assert!(world.nodes[first].mesh.held().0 == 1 && world.nodes[second].mesh.held().0 == 1);
    let c = others.next().expect("many");
    world.break_pair(c, second);
    world.join(c, "r", "c");
    world.run(SECOND);
    assert!(
        world.nodes[c]
            .mesh
            .members(&room("r"))
            .any(|member| *member == world::id(b)),
        "the first home knows b too"
    );
    world.leave(c, "r", "c");
    world.leave(a, "r", "a");
    world.leave(b, "r", "b");
    world.run(SECOND);
    assert!(
        world.nodes.iter().all(|node| node.mesh.held() == (0, 0, 0)),
        "nothing of the room remains"
    );
}

#[test]
fn a_quiet_room_costs_each_edge_a_few_messages_a_second() {
    for edges in [2, 5, 12] {
        let mut world = World::new(20, edges);
        world.view_all();
        let people: Vec<String> = (0..edges).map(|edge| format!("p{edge:02}")).collect();
        for (edge, person) in people.iter().enumerate() {
            world.join(edge, "r", person);
        }
        world.run(40 * SECOND);
        let before = world.sent;
        world.run(60 * SECOND);
        // A heartbeat of the room to each other edge and three digests a second, answered at most; announcements on top.
        let each = (world.sent - before) as f64 / (60.0 * edges as f64);
        let budget = (edges - 1) as f64 + 2.0 * 3f64.min((edges - 1) as f64) + 1.0;
        assert!(
            each <= budget,
            "{edges} edges: {each:.1} messages a second each, {budget} expected"
        );
        world.assert_agreed("r", &people.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn a_broken_pair_hides_nobody() {
    let mut world = World::new(3, 3);
    world.view_all();
    world.break_pair(0, 1);
    for edge in 0..3 {
        world.join(edge, "r", &format!("p{edge}"));
    }
    world.run(3 * SECOND);
    world.assert_agreed("r", &["p0", "p1", "p2"]);
    world.forget_events();
    world.run(60 * SECOND);
    world.assert_agreed("r", &["p0", "p1", "p2"]);
    world.join(0, "r", "late");
    world.run(SECOND / 2);
    world.assert_agreed("r", &["late", "p0", "p1", "p2"]);
    for node in &world.nodes {
        assert!(
            !node
                .events
                .iter()
                .any(|event| matches!(event, RoomEvent::ParticipantLeft { .. }))
        );
    }
    // Data and media take the way round as well.
    let packet = Data {
        packet: "hello".into(),
        reliable: true,
        ..Data::default()
    };
    world.nodes[0].mesh.send_data(&room("r"), None, packet);
    world.pump(0);
    world.run(SECOND);
    for other in [1, 2] {
        assert_eq!(world.nodes[other].data, [(world::id(0), "hello".to_owned())]);
    }
    world.want(0, "r", "TR_b", 1, LayerSet::up_to(Layer(1)));
    world.run(SECOND);
    assert_eq!(world.nodes[1].wanted("TR_b"), LayerSet::up_to(Layer(1)));
    assert_eq!(world.flow("TR_b", 1, 0), Some(vec![1, 2, 0]));
}

#[test]
fn a_lost_link_to_a_peer_shows_nobody_gone_while_others_hear_it_and_a_dead_edge_is_gone_in_time() {
    let mut world = World::new(4, 4);
    world.view_all();
    for edge in 0..4 {
        world.join(edge, "r", &format!("p{edge}"));
    }
    world.run(3 * SECOND);
    world.forget_events();
    world.break_pair(0, 3);
    for _ in 0..30 {
        world.run(SECOND);
        assert!(
            world.nodes[0]
                .mesh
                .members(&room("r"))
                .any(|member| *member == world::id(3))
        );
    }
    world.assert_agreed("r", &["p0", "p1", "p2", "p3"]);
    assert!(
        world.nodes[0]
            .events
            .iter()
            .all(|event| !matches!(event, RoomEvent::ParticipantLeft { .. }))
    );
    world.kill(3);
    world.run(Duration::from_millis(14_500));
    world.assert_agreed("r", &["p0", "p1", "p2"]);
}

#[test]
fn when_home_edges_die_the_room_is_found_at_others_and_keeps_its_life() {
    for seed in seeds(10) {
        let mut world = World::new(seed, 9);
        world.view_all();
        world.join(0, "r", "p0");
        world.join(1, "r", "p1");
        world.run(2 * SECOND);
        let life = world.nodes[0].lives[&room("r")].clone();
        // The homes: whoever holds links without having people.
        let homes: Vec<usize> = (2..9).filter(|&i| world.is_linked(0, i)).collect();
        for &home in &homes {
            world.kill(home);
        }
        world.run(SECOND);
        world.view_all();
        let joiner = (2..9).find(|edge| !homes.contains(edge)).expect("edges are left");
        world.join(joiner, "r", "late");
        world.run(5 * SECOND);
        world.assert_agreed("r", &["late", "p0", "p1"]);
        for edge in [0, 1, joiner] {
            assert_eq!(
                world.nodes[edge].lives[&room("r")],
                life,
                "seed {seed}: the elder life holds"
            );
        }
    }
}

#[test]
fn a_room_whose_homes_cannot_be_reached_lives_all_the_same() {
    let mut world = World::new(6, 8);
    world.view_all();
    world.run(SECOND);
    for other in 1..8 {
        world.break_pair(0, other);
    }
    world.join(0, "r", "p0");
    world.run(Duration::from_millis(3_300));
    world.assert_agreed("r", &["p0"]);
    world.heal_all();
    world.join(1, "r", "p1");
    world.run(10 * SECOND);
    world.assert_agreed("r", &["p0", "p1"]);
    assert_eq!(world.nodes[0].told, 1, "the elder keeps its name");
}

#[test]
fn a_lost_lease_moves_homes_and_breaks_nothing() {
    let mut world = World::new(5, 6);
    world.view_all();
    for edge in 0..4 {
        world.join(edge, "r", &format!("p{edge}"));
    }
    world.run(40 * SECOND);
    world.forget_events();
    let links = world.links();
    world.view_only(&[4, 5]);
    world.run(120 * SECOND);
    world.assert_agreed("r", &["p0", "p1", "p2", "p3"]);
    for (a, b) in links.into_iter().filter(|(_, b)| *b < 4) {
        assert!(
            world.is_linked(a, b) && world.generation(a, b) == 1,
            "the link {a}–{b} was dropped"
        );
    }
    assert!(world.nodes.iter().all(|node| node.events.is_empty()));
    world.view_only(&[]);
    world.run(10 * SECOND);
    world.assert_agreed("r", &["p0", "p1", "p2", "p3"]);
}

#[test]
fn a_partition_shows_each_side_its_own_and_heals_to_one_room() {
    for seed in seeds(10) {
        let mut world = World::new(seed, 6);
        world.view_all();
        for a in 0..3 {
            for b in 3..6 {
                world.break_pair(a, b);
            }
        }
        // Both sides open the room: two lives, until they meet.
        for edge in 0..6 {
            world.join(edge, "r", &format!("p{edge}"));
        }
        world.run(20 * SECOND);
        world.assert_agreed_among(&[0, 1, 2], "r", &["p0", "p1", "p2"]);
        world.assert_agreed_among(&[3, 4, 5], "r", &["p3", "p4", "p5"]);
        world.heal_all();
        world.run(15 * SECOND);
        world.assert_agreed("r", &["p0", "p1", "p2", "p3", "p4", "p5"]);
    }
}

#[test]
fn edges_of_a_room_converge_through_joins_leaves_losses_and_partitions() {
    for seed in seeds(12) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let edges = rng.random_range(3..=20);
        let mut world = World::new(seed, edges);
        world.view_all();
        let mut people: BTreeSet<(usize, String, String)> = BTreeSet::new();
        for step in 0..60 {
            let edge = rng.random_range(0..edges);
            let name = ["r", "s"][rng.random_range(0..2)];
            match rng.random_range(0..10) {
                0..=3 => {
                    let identity = format!("p{step}");
                    world.join(edge, name, &identity);
                    people.insert((edge, name.to_owned(), identity));
                }
                4..=5 => {
                    let mine = people.iter().find(|(at, ..)| *at == edge).cloned();
                    if let Some((_, name, identity)) = mine {
                        world.leave(edge, &name, &identity);
                        people.retain(|(_, of, who)| (of, who) != (&name, &identity));
                    }
                }
                6 => world.break_pair(edge, rng.random_range(0..edges)),
                7 => world.heal_all(),
                8 => world.view_only(&(0..edges).filter(|_| rng.random_bool(0.7)).collect::<Vec<_>>()),
                _ => world.view_all(),
            }
            world.run(Duration::from_millis(rng.random_range(0..2_000)));
        }
        world.heal_all();
        world.view_all();
        world.run(40 * SECOND);
        assert!(world.sent < 50_000, "{} messages among {edges} edges", world.sent);
        for name in ["r", "s"] {
            let mut expected: Vec<&str> = people
                .iter()
                .filter(|(_, of, _)| of == name)
                .map(|(.., who)| who.as_str())
                .collect();
            expected.sort_unstable();
            world.assert_agreed(name, &expected);
        }
    }
}

#[test]
fn links_nobody_needs_are_let_go() {
    let mut world = World::new(11, 5);
    world.view_all();
    world.join(0, "r", "p0");
    world.join(1, "r", "p1");
    world.run(2 * SECOND);
    assert!(!world.links().is_empty());
    world.leave(0, "r", "p0");
    world.leave(1, "r", "p1");
    world.want(0, "r", "TR_late", 1, LayerSet(0b001));
    world.run(120 * SECOND);
    assert_eq!(world.links(), []);
    assert!(world.nodes.iter().all(|node| node.mesh.held() == (0, 0, 0)));
}

#[test]
fn an_edge_alone_has_its_rooms_at_once() {
    let mut world = World::new(12, 1);
    world.join(0, "r", "p0");
    assert_eq!(world.nodes[0].told, 0, "it has no view yet");
    world.view_only(&[]);
    world.run(SECOND);
    assert_eq!(world.nodes[0].told, 1);
    assert_eq!(world.nodes[0].lives[&room("r")].created_at_ms(), 1_790_000_000_000);
    world.join(0, "s", "p0");
    assert_eq!(world.nodes[0].told, 2);
    world.assert_agreed("r", &["p0"]);
}

#[test]
fn a_room_that_missed_a_message_is_told_again() {
    let mut world = World::new(14, 3);
    world.view_all();
    for edge in 0..3 {
        world.join(edge, "r", &format!("p{edge}"));
    }
    world.run(2 * SECOND);
    world.want(1, "r", "TR_a", 0, LayerSet(0b001));
    world.run(SECOND);
    let mesh = &mut world.nodes[0].mesh;
    mesh.repeat(&room("r"));
    let mut said = Vec::new();
    while let Some(Output::Room { input, .. }) = mesh.poll_output() {
        said.push(input);
    }
    assert!(matches!(said[0], RoomInput::Life(_)));
    assert!(said.contains(&RoomInput::NodeHeard(world::id(2))));
    assert!(said.contains(&RoomInput::Wanted {
        track: TrackSid::from("TR_a"),
        layers: LayerSet(0b001)
    }));
}

#[test]
fn whatever_neighbours_say_an_edge_stands() {
    for seed in seeds(30) {
        let mut world = World::new(seed, 4);
        let mut rng = SmallRng::seed_from_u64(seed);
        world.view_all();
        for edge in 0..4 {
            world.join(edge, "r", &format!("p{edge}"));
        }
        world.run(2 * SECOND);
        for _ in 0..150 {
            let from = rng.random_range(1..4);
            let message = wire::encode(world::any_message(&mut rng));
            if world.is_linked(0, from) {
                let now = world.now();
                world.nodes[0]
                    .mesh
                    .handle_message(now, &world::id(from), &message)
                    .expect("within limits");
                world.pump(0);
            }
            if rng.random_bool(0.1) {
                let layers = LayerSet(rng.random_range(0..8));
                world.want(0, "r", "TR_1", rng.random_range(0..4), layers);
            }
            world.run(Duration::from_millis(rng.random_range(0..100)));
        }
        let (homed, joined, routes) = world.nodes[0].mesh.held();
        assert!(homed <= 4 && joined <= 4 && routes <= 12);
        // None of it lasts: what neighbours made up is gone when they stop, and the room is whole.
        for track in ["TR_0", "TR_1", "TR_2"] {
            world.want(0, "r", track, 0, LayerSet::EMPTY);
        }
        for other in 1..4 {
            world.break_pair(0, other);
        }
        world.run(SECOND);
        assert_eq!(world.nodes[0].mesh.held().2, 0, "seed {seed}");
        world.heal_all();
        world.run(60 * SECOND);
        for edge in 0..4 {
            let people: Vec<String> = world.nodes[edge].rooms["r"]
                .participants()
                .map(|person| person.identity.to_string())
                .collect();
            assert_eq!(people, ["p0", "p1", "p2", "p3"], "seed {seed}");
        }
    }
}

#[test]
fn messages_about_rooms_this_edge_is_not_in_leave_no_trace() {
    let mut world = World::new(13, 2);
    world.view_all();
    world.join(0, "r", "p0");
    world.run(2 * SECOND);
    let now = world.now();
    let node = &mut world.nodes[0];
    while node.mesh.poll_output().is_some() {}
    let from = world::id(1);
    node.mesh.link_up(now, from.clone());
    while node.mesh.poll_output().is_some() {}
    for i in 0..1000 {
        let want = wire::TrackWant {
            room: format!("other-{i}"),
            track: "TR_x".into(),
            origin: world::id(0).to_string(),
            layers: 7,
            path: vec![from.to_string()],
            ..Default::default()
        };
        let message = wire::encode(wire::Body::Want(want));
        node.mesh.handle_message(now, &from, &message).expect("well formed");
    }
    let mut refused = 0;
    while let Some(output) = node.mesh.poll_output() {
        assert!(!matches!(
            output,
            Output::Forward { .. }
                | Output::Room {
                    input: RoomInput::Wanted { .. },
                    ..
                }
        ));
        refused += 1;
    }
    assert_eq!(refused, 1000, "each is refused");
    assert!(node.mesh.handle_message(now, &from, &[0xff; 40]).is_err());
    assert_eq!(node.mesh.counters().malformed, 1);
}
