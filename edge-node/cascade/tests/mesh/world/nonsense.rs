//! What a neighbour might say that is well-formed and makes no sense.

use meridian_cascade::wire;
use rand::Rng;
use rand::rngs::SmallRng;

use super::id;

/// Any message within the wire's limits, about few rooms, edges and tracks, so that they meet each other.
pub(crate) fn any_message(rng: &mut SmallRng) -> wire::Body {
    let room = ["r", "s", "t", ""][rng.random_range(0..4)].to_owned();
    let track = format!("TR_{}", rng.random_range(0..3));
    let node = |rng: &mut SmallRng| id(rng.random_range(0..4)).to_string();
    let nodes = |rng: &mut SmallRng, max: usize| (0..rng.random_range(0..=max)).map(|_| node(rng)).collect::<Vec<_>>();
    // Of lives that are younger than the room's, so that the room keeps its own.
    let incarnation = [0, 1, 7][rng.random_range(0..3)];
    let (sid, home_region) = (
        "RM_made_up".to_owned(),
        ["", "eu", "mars"][rng.random_range(0..3)].to_owned(),
    );
    match rng.random_range(1..13) {
        1 => {
            let said = wire::AnnouncedRoom {
                room,
                home_region,
                sid,
                incarnation,
                edges_hash: 1,
                created_at_ms: -5,
            };
            wire::Body::Announce(wire::RoomAnnounce {
                rooms: vec![said],
                ttl_ms: rng.random_range(0..40_000),
            })
        }
        2 => wire::Body::Query(wire::RoomQuery {
            room,
            home_region,
            sid,
            created_at_ms: i64::MAX,
        }),
        3 => {
            let edge = |node| wire::RoomEdge { node, ttl_ms: 5_000 };
            let edges = nodes(rng, 4).into_iter().map(edge).collect();
            wire::Body::Peers(wire::RoomPeers {
                room,
                home_region,
                sid,
                incarnation,
                edges,
                to_home: rng.random(),
            })
        }
        4 => wire::Body::Leave(wire::RoomLeave { room }),
        5 => wire::Body::Hears(wire::Hears {
            room,
            nodes: nodes(rng, 4),
            latencies_us: (0..rng.random_range(0..6)).map(|_| rng.random()).collect(),
        }),
        6 | 7 => wire::Body::Want(wire::TrackWant {
            room,
            track,
            origin: node(rng),
            epoch: rng.random_range(0..3),
            layers: rng.random_range(0..9),
            path: nodes(rng, 4),
        }),
        8 => wire::Body::Grant(wire::TrackGrant {
            room,
            track,
            number: rng.random(),
            path: nodes(rng, 4),
            latency_us: rng.random(),
            epoch: rng.random_range(0..3),
        }),
        9 => wire::Body::Gone(wire::TrackGone { room, track }),
        10 => wire::Body::Pli(wire::Pli {
            room,
            track,
            layer: rng.random(),
        }),
        11 => wire::Body::Shed(wire::TrackShed {
            room,
            track,
            number: rng.random_range(0..4),
            layers: rng.random(),
        }),
        _ => {
            let (origin, relay_to) = (node(rng), nodes(rng, 4));
            wire::Body::Cast(wire::RoomCast {
                room,
                origin,
                relay_to,
                relay_only: rng.random(),
                content: None,
            })
        }
    }
}
