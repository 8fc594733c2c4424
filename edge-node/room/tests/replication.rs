//! Edges of one room agree, whatever happens to the messages between them.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use meridian_room::*;
use proptest::prelude::*;
use prost::Message;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use support::*;

fn random_write(edge: &mut Edge, now: Instant, rng: &mut SmallRng) {
    let pick = (!edge.sids.is_empty()).then(|| edge.sids[rng.random_range(0..edge.sids.len())].clone());
    match (rng.random_range(0..7), pick) {
        (0 | 1, _) | (_, None) => {
            let name = format!("p{}", rng.random_range(0..6));
            let new = person(&name, rng);
            let joined = edge.room.join(now, 1000, new).expect("room for all");
            edge.sids.push((joined.sid, Identity::from(name.as_str())));
        }
        (2, Some((sid, _))) => {
            let _ = edge.room.leave(&sid, DisconnectReason::ClientInitiated);
        }
        (3, Some((sid, _))) => {
            let value = if rng.random_bool(0.3) {
                String::new()
            } else {
                rng.random_range(0..99u8).to_string()
            };
            let attributes = BTreeMap::from([(format!("k{}", rng.random_range(0..3u8)), value)]);
            let _ = edge.room.update_participant(
                &sid,
                ParticipantUpdate {
                    attributes,
                    ..Default::default()
                },
            );
        }
        (4, Some((sid, _))) => {
            let track = TrackSid::generate(TrackKind::Video, TrackSource::Camera, rng);
            let _ = edge
                .room
                .publish_track(&sid, Track::new(track, TrackKind::Video, TrackSource::Camera));
        }
        (5, Some((sid, identity))) => {
            let track = edge
                .room
                .participant(&identity)
                .and_then(|p| p.tracks.keys().next().cloned());
            if let Some(track) = track {
                let _ = edge.room.update_track(&sid, &track, |t| t.muted = !t.muted);
            }
        }
        (_, Some((sid, identity))) => {
            let track = edge
                .room
                .participant(&identity)
                .and_then(|p| p.tracks.keys().next().cloned());
            if let Some(track) = track {
                let _ = edge.room.unpublish_track(&sid, &track);
            }
        }
    }
}

/// 4 edges write at random; every message may be lost, delayed, doubled or relayed; then links heal.
fn simulate(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let now = Instant::now();
    let mut edges: Vec<Edge> = (0..4).map(|i| edge(i, 1)).collect();
    let mut flying: Vec<(usize, NodeId, RoomDelta)> = Vec::new();
    for _ in 0..120 {
        let writer = rng.random_range(0..edges.len());
        random_write(&mut edges[writer], now, &mut rng);
        if rng.random_bool(0.7)
            && let Some(delta) = edges[writer].room.poll_delta()
        {
            for to in (0..edges.len()).filter(|&to| to != writer) {
                for _ in 0..[0, 1, 1, 2][rng.random_range(0..4)] {
                    flying.push((to, edges[writer].node.clone(), delta.clone()));
                }
            }
        }
        flying.shuffle(&mut rng);
        for _ in 0..rng.random_range(0..4) {
            let Some((to, from, delta)) = flying.pop() else { break };
            let applied = edges[to].room.apply(now, &from, delta).expect("same room");
            assert_eq!(applied.rejected, 0);
            if let Some(news) = applied.news.filter(|_| rng.random_bool(0.5)) {
                let next = rng.random_range(0..edges.len());
                flying.push((next, edges[to].node.clone(), news));
            }
        }
        if rng.random_bool(0.05) {
            let (a, b) = (rng.random_range(0..4), rng.random_range(0..4));
            if a != b {
                pull(&mut edges, a, b, now);
            }
        }
    }
    settle(&mut edges, now);
    // Late, old messages change nothing any more.
    for (to, from, delta) in flying {
        edges[to].room.apply(now, &from, delta).expect("same room");
    }
    settle(&mut edges, now);
    let expected = view(&edges[0].room);
    for edge in &mut edges {
        assert_eq!(view(&edge.room), expected, "seed {seed}, {}", edge.node);
        check_event_story(&mut edge.room, seed);
    }
    let sid = edges[0].room.info().sid.clone();
    assert!(
        edges.iter().all(|e| e.room.info().sid == sid),
        "one room sid, seed {seed}"
    );
}

/// Replays the events: joins, replacements and departures must alternate and end at the view.
fn check_event_story(room: &mut Room, seed: u64) {
    let mut present: BTreeSet<Identity> = BTreeSet::new();
    for event in events(room) {
        match event {
            RoomEvent::ParticipantJoined(i) => assert!(present.insert(i), "joined twice, seed {seed}"),
            RoomEvent::ParticipantLeft { participant, .. } => {
                assert!(
                    present.remove(&participant.identity),
                    "left without being there, seed {seed}"
                );
            }
            RoomEvent::ParticipantUpdated(i) => assert!(present.contains(&i)),
            RoomEvent::ParticipantReplaced { previous, .. } => assert!(present.contains(&previous.identity)),
            _ => {}
        }
    }
    let now: BTreeSet<Identity> = room.participants().map(|p| p.identity.clone()).collect();
    assert_eq!(present, now, "seed {seed}");
}

#[test]
fn replicas_converge_under_loss_reordering_duplication_and_relays() {
    for seed in 0..200 {
        simulate(seed);
    }
}

/// A history of one writer as a list of deltas.
fn history(seed: u64, steps: usize, now: Instant) -> (Edge, Vec<RoomDelta>) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut writer = edge(0, 1);
    let mut deltas = Vec::new();
    for _ in 0..steps {
        random_write(&mut writer, now, &mut rng);
        deltas.extend(writer.room.poll_delta());
    }
    (writer, deltas)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn apply_is_commutative_and_idempotent(seed in any::<u64>(), order in any::<u64>(), steps in 1usize..40) {
        let now = Instant::now();
        let (writer, deltas) = history(seed, steps, now);
        let mut shuffled = deltas.clone();
        shuffled.extend(deltas.iter().cloned());
        shuffled.shuffle(&mut SmallRng::seed_from_u64(order));
        let mut reader = edge(1, 1);
        for delta in shuffled {
            reader.room.apply(now, &writer.node, delta).unwrap();
        }
        prop_assert_eq!(view(&reader.room), view(&writer.room));
        // Nothing is lacking: the knowledge is without gaps too.
        let own = |d: RoomDigest| d.writers.into_iter().filter(|w| w.node == "edge-0").map(|w| w.stamp).collect::<Vec<_>>();
        prop_assert_eq!(own(reader.room.digest()), own(writer.room.digest()));
    }

    #[test]
    fn arbitrary_bytes_never_panic_a_replica(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..400) {
        let now = Instant::now();
        let (_, deltas) = history(7, 8, now);
        let mut reader = edge(1, 1);
        let mut good = deltas[0].encode_to_vec();
        good.truncate(cut);
        good.extend(&bytes);
        for bytes in [bytes, good] {
            if let Ok(delta) = RoomDelta::decode(bytes.as_slice()) {
                let _ = reader.room.apply(now, &node(0), delta);
            }
            if let Ok(digest) = RoomDigest::decode(bytes.as_slice()) {
                let _ = reader.room.delta_since(&digest);
            }
        }
    }
}
