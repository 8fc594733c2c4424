//! Which layers cross which links, and on which way.

use std::time::Duration;

use meridian_room::{Epoch, TrackSid};
use meridian_sfu::media::{Layer, LayerSet};

use crate::SECOND;
use crate::world::{self, World, room};
/// Somebody on each; 0 and 1 are the two.
fn four_edges_of_which_two_cannot_hear_each_other() -> World {
    let mut world = World::new(9, 4);
    world.view_all();
    world.break_pair(0, 1);
    for edge in 0..4 {
        world.join(edge, "r", &format!("p{edge}"));
    }
    world.run(2 * SECOND);
    world
}

#[test]
fn a_layer_crosses_a_link_only_while_somebody_beyond_it_wants_it() {
    let mut world = World::new(8, 3);
    world.view_all();
    for edge in 0..3 {
        world.join(edge, "r", &format!("p{edge}"));
    }
    world.run(2 * SECOND);
    world.want(1, "r", "TR_a", 0, LayerSet(0b001));
    world.want(2, "r", "TR_a", 0, LayerSet(0b110));
    world.run(SECOND);
    assert_eq!(world.nodes[0].wanted("TR_a"), LayerSet(0b111));
    assert_eq!(world.nodes[0].sent("TR_a", 1), LayerSet(0b001));
    assert_eq!(world.nodes[0].sent("TR_a", 2), LayerSet(0b110));
    assert_eq!(world.flow("TR_a", 0, 1), Some(vec![0, 1]));

    world.request_keyframe(2, "r", "TR_a", 2);
    world.want(2, "r", "TR_a", 0, LayerSet(0b010));
    world.run(SECOND);
    assert_eq!(world.nodes[0].keyframes, [(TrackSid::from("TR_a"), Layer(2))]);
    assert_eq!(world.nodes[0].wanted("TR_a"), LayerSet(0b011));

    world.want(1, "r", "TR_a", 0, LayerSet::EMPTY);
    world.leave(2, "r", "p2");
    world.run(SECOND);
    assert_eq!(world.nodes[0].wanted("TR_a"), LayerSet::EMPTY);
    assert!(world.nodes[0].forwards.is_empty() && world.nodes[1].sources.is_empty());
}

#[test]
fn the_layer_below_one_that_a_link_sheds_is_wanted_until_that_one_crosses_again() {
    let mut world = World::new(8, 3);
    world.view_all();
    for edge in 0..3 {
        world.join(edge, "r", &format!("p{edge}"));
    }
    world.run(2 * SECOND);
    for edge in 1..3 {
        world.want(edge, "r", "TR_a", 0, LayerSet(0b100));
    }
    world.run(SECOND);
    world.shed(0, 1, "TR_a", 2, true);
    world.run(SECOND);
    let state = |world: &World| {
        let [near, one, two] = &world.nodes[..] else {
            unreachable!()
        };
        (near.wanted("TR_a").0, one.absent("TR_a").0, two.absent("TR_a").0)
    };
    assert_eq!(state(&world), (0b110, 0b100, 0), "the other link carries it");
    for (edge, layer) in [(1, 2), (1, 1), (2, 2)] {
        world.request_keyframe(edge, "r", "TR_a", layer);
        world.run(SECOND);
    }
    let asked: Vec<u8> = world.nodes[0].keyframes.iter().map(|(_, layer)| layer.0).collect();
    assert_eq!(asked, [1, 2], "a keyframe that cannot cross is not asked for");
    // The stand-in goes as well, and they come back one after the other.
    world.shed(0, 1, "TR_a", 1, true);
    world.run(SECOND);
    assert_eq!(state(&world), (0b111, 0b110, 0));
    world.shed(0, 1, "TR_a", 1, false);
    world.run(SECOND);
    assert_eq!(state(&world), (0b110, 0b100, 0));
    world.shed(0, 1, "TR_a", 2, false);
    world.run(SECOND);
    assert_eq!(state(&world), (0b100, 0, 0), "only what is wanted crosses");
    // Nothing stands in for the lowest.
    world.want(2, "r", "TR_a", 0, LayerSet::EMPTY);
    world.want(1, "r", "TR_a", 0, LayerSet(0b001));
    world.run(SECOND);
    world.shed(0, 1, "TR_a", 0, true);
    world.run(SECOND);
    assert_eq!(state(&world), (0b001, 0b001, 0));
}

#[test]
fn what_is_said_of_shed_layers_ends_with_the_demand_and_with_the_link() {
    let mut world = World::new(8, 2);
    world.view_all();
    for edge in 0..2 {
        world.join(edge, "r", &format!("p{edge}"));
    }
    world.run(2 * SECOND);
    let number = |world: &World| world.nodes[0].forwards[&(TrackSid::from("TR_a"), world::id(1))].0;
    world.want(1, "r", "TR_a", 0, LayerSet(0b100));
    world.run(SECOND);
    let first = number(&world);
    world.shed(0, 1, "TR_a", 2, true);
    world.run(SECOND);
    // Less is wanted: still shed, and nothing needs to stand in.
    world.want(1, "r", "TR_a", 0, LayerSet(0b010));
    world.run(SECOND);
    assert_eq!((world.nodes[0].wanted("TR_a").0, number(&world)), (0b010, first));
    world.want(1, "r", "TR_a", 0, LayerSet::EMPTY);
    world.run(SECOND);
    assert_eq!(
        (world.nodes[0].wanted("TR_a").0, world.nodes[1].absent("TR_a").0),
        (0, 0)
    );
    world.want(1, "r", "TR_a", 0, LayerSet(0b100));
    world.run(SECOND);
    world.shed_number(0, 1, first, 2, true);
    world.run(SECOND);
    assert_eq!(
        (world.nodes[0].wanted("TR_a").0, world.nodes[1].absent("TR_a").0),
        (0b100, 0)
    );

    world.shed(0, 1, "TR_a", 2, true);
    world.run(SECOND);
    assert_eq!(world.nodes[1].absent("TR_a"), LayerSet(0b100));
    world.break_pair(0, 1);
    world.run(SECOND);
    assert_eq!(
        (world.nodes[0].wanted("TR_a").0, world.nodes[1].absent("TR_a").0),
        (0, 0)
    );
    world.heal_all();
    world.run(5 * SECOND);
    assert_eq!(world.flow("TR_a", 0, 1), Some(vec![0, 1]));
    assert_eq!(
        (world.nodes[0].wanted("TR_a").0, world.nodes[1].absent("TR_a").0),
        (0b100, 0)
    );
}

#[test]
fn behind_a_relay_it_is_known_what_an_earlier_link_sheds_and_a_way_round_ends_it() {
    let mut world = four_edges_of_which_two_cannot_hear_each_other();
    world.want(1, "r", "TR_a", 0, LayerSet(0b100));
    world.run(SECOND);
    let relay = world.flow("TR_a", 0, 1).expect("a way round")[1];
    world.shed(0, relay, "TR_a", 2, true);
    world.run(SECOND);
    assert_eq!(world.nodes[relay].absent("TR_a"), LayerSet(0b100));
    assert_eq!(world.nodes[1].absent("TR_a"), LayerSet(0b100));
    // Now the relay's own link cannot carry the stand-in either.
    world.shed(relay, 1, "TR_a", 1, true);
    world.run(SECOND);
    assert_eq!(world.nodes[1].absent("TR_a"), LayerSet(0b110));
    assert_eq!(world.nodes[relay].absent("TR_a"), LayerSet(0b100));
    assert_eq!(world.nodes[0].sent("TR_a", relay), LayerSet(0b101));
    assert_eq!(world.nodes[0].wanted("TR_a"), LayerSet(0b111));

    world.break_pair(0, relay);
    world.run(SECOND);
    assert!(
        world.flow("TR_a", 0, 1).is_some(),
        "the relay finds another way for those behind it"
    );
    world.run(12 * SECOND);
    let way = world.flow("TR_a", 0, 1).expect("another way");
    assert!(way.len() == 3 && way[1] != relay, "{way:?}");
    assert_eq!(world.nodes[1].absent("TR_a"), LayerSet::EMPTY);
    assert_eq!(world.nodes[0].wanted("TR_a"), LayerSet(0b100));
}

#[test]
fn media_moves_to_the_direct_link_once_there_is_one_and_round_a_lost_one() {
    let mut world = four_edges_of_which_two_cannot_hear_each_other();
    world.want(1, "r", "TR_a", 0, LayerSet(0b001));
    world.run(SECOND);
    let round = world.flow("TR_a", 0, 1).expect("a way round");
    assert_eq!((round.len(), round[0], round[2]), (3, 0, 1));

    world.heal_all();
    for _ in 0..1_500 {
        world.run(Duration::from_millis(10));
        assert!(
            world.flow("TR_a", 0, 1).is_some(),
            "the old way is kept until the new one is granted"
        );
    }
    assert_eq!(world.flow("TR_a", 0, 1), Some(vec![0, 1]));
    assert!(world.nodes[round[1]].forwards.is_empty(), "the relay was let go");

    world.break_pair(0, 1);
    world.run(2 * SECOND);
    assert_eq!(world.flow("TR_a", 0, 1).map(|way| way.len()), Some(3));
    // The relay it uses loses the origin too: another one takes over.
    let relay = world.flow("TR_a", 0, 1).expect("a way")[1];
    world.break_pair(0, relay);
    world.run(13 * SECOND);
    let way = world.flow("TR_a", 0, 1).expect("another way");
    assert!(way.len() == 3 && way[1] != relay);
}

#[test]
fn a_publisher_who_moves_to_another_edge_is_followed_by_epoch() {
    let mut world = World::new(10, 3);
    world.view_all();
    for edge in 0..3 {
        world.join(edge, "r", &format!("p{edge}"));
    }
    world.run(2 * SECOND);
    world.want(2, "r", "TR_a", 0, LayerSet(0b001));
    world.run(SECOND);
    let now = world.now();
    let (track, layers) = (TrackSid::from("TR_a"), LayerSet(0b001));
    world.nodes[2]
        .mesh
        .want(now, room("r"), track, world::id(1), Epoch(9), layers);
    world.pump(2);
    world.run(SECOND);
    assert_eq!(world.flow("TR_a", 1, 2), Some(vec![1, 2]));
    assert_eq!(world.nodes[0].wanted("TR_a"), LayerSet::EMPTY);
}
