//! People who come, move and go, as every edge of a room sees it.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use meridian_room::*;
use prost::Message;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use support::*;

#[test]
fn a_remote_view_equals_the_local_one() {
    let now = Instant::now();
    let mut rng = SmallRng::seed_from_u64(3);
    let mut edges = vec![edge(0, 1), edge(1, 1)];
    let mut new = person("ann", &mut rng);
    new.metadata = "m".into();
    new.attributes.insert("hand".into(), "up".into());
    new.client_protocol = 2;
    new.capabilities = vec![1, 2];
    new.region = "fra".into();
    new.permission.can_publish_sources = vec![TrackSource::Camera as i32];
    let sid = edges[0].room.join(now, 1234, new).expect("join").sid;
    edges[0].room.set_state(&sid, ParticipantState::Active).expect("here");
    let layer = VideoLayer {
        quality: 2,
        width: 1280,
        height: 720,
        bitrate: 1_700_000,
        rid: "f".into(),
        ..Default::default()
    };
    let mut track = Track::new(TrackSid::from("TR_VCx"), TrackKind::Video, TrackSource::Camera);
    track.codecs = vec![TrackCodec {
        mime: "video/VP8".into(),
        cid: "c".into(),
        layers: vec![layer.clone()],
        ..Default::default()
    }];
    track.layers = vec![layer];
    track.encryption = 1;
    track.packet_trailer_features = vec![0];
    edges[0].room.publish_track(&sid, track).expect("publish");
    settle(&mut edges, now);
    assert_eq!(view(&edges[0].room), view(&edges[1].room));
    assert_eq!(
        edges[1]
            .room
            .track(&TrackSid::from("TR_VCx"))
            .map(|(p, _)| p.sid.clone()),
        Some(sid)
    );
}

#[test]
fn a_later_join_elsewhere_evicts_the_earlier_one() {
    let now = Instant::now();
    let mut rng = SmallRng::seed_from_u64(4);
    let mut edges = vec![edge(0, 1), edge(1, 1)];
    let first = edges[0].room.join(now, 0, person("ann", &mut rng)).expect("join");
    settle(&mut edges, now);
    let second = edges[1].room.join(now, 0, person("ann", &mut rng)).expect("join");
    assert!(second.epoch > first.epoch && second.evicted.is_none());
    events(&mut edges[0].room);
    settle(&mut edges, now);
    let told = events(&mut edges[0].room);
    assert!(told.contains(&RoomEvent::LocalEvicted {
        sid: first.sid.clone(),
        identity: Identity::from("ann")
    }));
    assert!(!told.iter().any(|e| matches!(e, RoomEvent::ParticipantLeft { .. })));
    assert_eq!(
        edges[0].room.leave(&first.sid, DisconnectReason::ClientInitiated),
        Err(RoomError::NotHere(first.sid))
    );
    for edge in &edges {
        assert_eq!(
            edge.room.participant(&Identity::from("ann")).map(|p| p.sid.clone()),
            Some(second.sid.clone())
        );
    }
}

#[test]
fn a_move_to_another_edge_is_no_departure_whatever_arrives_first() {
    let now = Instant::now();
    let mut rng = SmallRng::seed_from_u64(14);
    let mut edges = vec![edge(0, 1), edge(1, 1), edge(2, 1)];
    edges[0].room.join(now, 0, person("ann", &mut rng)).expect("join");
    settle(&mut edges, now);
    let second = edges[1].room.join(now, 0, person("ann", &mut rng)).expect("join");
    events(&mut edges[2].room);
    // The old edge hears of the move first, and all it says reaches the third edge before the new edge's news does.
    let (old, new) = (edges[0].room.node().clone(), edges[1].room.node().clone());
    let moved: Vec<_> = std::iter::from_fn(|| edges[1].room.poll_delta()).collect();
    for delta in &moved {
        edges[0].room.apply(now, &new, delta.clone()).expect("same room");
    }
    while let Some(delta) = edges[0].room.poll_delta() {
        edges[2].room.apply(now, &old, delta).expect("same room");
    }
    for delta in moved {
        edges[2].room.apply(now, &new, delta).expect("same room");
    }
    let told = events(&mut edges[2].room);
    assert!(
        !told.iter().any(|e| matches!(e, RoomEvent::ParticipantLeft { .. })),
        "{told:?}"
    );
    assert!(
        told.iter()
            .any(|e| matches!(e, RoomEvent::ParticipantReplaced { seamless: true, .. })),
        "{told:?}"
    );
    // In the end the old record is gone, and nobody sees a difference.
    let later = now + Duration::from_secs(2);
    edges[0].room.handle_timeout(later);
    settle(&mut edges, later);
    for edge in &mut edges {
        assert!(
            !events(&mut edge.room)
                .iter()
                .any(|e| matches!(e, RoomEvent::ParticipantLeft { .. }))
        );
        assert_eq!(
            edge.room.participant(&Identity::from("ann")).map(|p| p.sid.clone()),
            Some(second.sid.clone())
        );
    }
}

#[test]
fn joins_at_the_same_epoch_are_decided_by_node_id_everywhere_alike() {
    let now = Instant::now();
    let mut rng = SmallRng::seed_from_u64(5);
    let mut edges = vec![edge(0, 1), edge(1, 1)];
    settle(&mut edges, now); // they know of each other: nobody is provisional
    edges[0].room.join(now, 0, person("x", &mut rng)).expect("join");
    edges[1].room.join(now, 0, person("y", &mut rng)).expect("join");
    settle(&mut edges, now);
    let a = edges[0].room.join(now, 0, person("ann", &mut rng)).expect("join");
    let b = edges[1].room.join(now, 0, person("ann", &mut rng)).expect("join");
    assert_eq!(a.epoch, b.epoch);
    settle(&mut edges, now);
    for edge in &edges {
        assert_eq!(
            edge.room.participant(&Identity::from("ann")).map(|p| p.sid.clone()),
            Some(b.sid.clone())
        );
    }
}

#[test]
fn a_client_that_returns_on_an_edge_new_to_the_room_is_not_evicted_by_its_own_ghost() {
    let now = Instant::now();
    let mut rng = SmallRng::seed_from_u64(6);
    let mut edges = vec![edge(0, 1), edge(1, 1), edge(2, 1)];
    for _ in 0..5 {
        edges[0].room.join(now, 0, person("ann", &mut rng)).expect("join");
    }
    settle(&mut edges[..2], now);
    edges[1].room.node_silent(now, &node(0));
    let mut fresh = edges.split_off(2);
    let back = fresh[0].room.join(now, 0, person("ann", &mut rng)).expect("join");
    edges.remove(0);
    edges.push(fresh.remove(0));
    events(&mut edges[0].room);
    settle(&mut edges, now);
    for edge in &mut edges {
        let told = events(&mut edge.room);
        assert!(
            !told
                .iter()
                .any(|e| matches!(e, RoomEvent::LocalEvicted { .. } | RoomEvent::ParticipantLeft { .. })),
            "{told:?}"
        );
        assert_eq!(
            edge.room.participant(&Identity::from("ann")).map(|p| p.sid.clone()),
            Some(back.sid.clone())
        );
    }
}

#[test]
fn people_of_a_silent_edge_leave_after_ten_seconds_unless_somebody_hears_it() {
    let t0 = Instant::now();
    let mut rng = SmallRng::seed_from_u64(7);
    let mut edges = vec![edge(0, 1), edge(1, 1), edge(2, 1)];
    edges[0].room.join(t0, 0, person("ann", &mut rng)).expect("join");
    edges[1].room.join(t0, 0, person("bob", &mut rng)).expect("join");
    settle(&mut edges, t0);
    let ann = Identity::from("ann");
    // Edge 2 loses edge 0, but edge 1 still hears it and passes its beats on.
    edges[2].room.node_silent(t0, &node(0));
    for second in 1..=30u64 {
        let now = t0 + Duration::from_secs(second);
        for edge in &mut edges {
            edge.room.handle_timeout(now);
        }
        pull(&mut edges, 1, 0, now);
        pull(&mut edges, 2, 1, now);
    }
    assert!(edges[2].room.participant(&ann).is_some());
    // Now edge 1 loses it too.
    let t1 = t0 + Duration::from_secs(30);
    edges[1].room.node_silent(t1, &node(0));
    for second in 1..=9u64 {
        let now = t1 + Duration::from_secs(second);
        for i in 1..3 {
            edges[i].room.handle_timeout(now);
            pull(&mut edges, i, 3 - i, now);
            assert!(edges[i].room.participant(&ann).is_some(), "gone after {second} s");
        }
    }
    let t2 = t1 + Duration::from_secs(12);
    for edge in &mut edges[1..] {
        events(&mut edge.room);
        edge.room.handle_timeout(t2);
        assert!(edge.room.participant(&ann).is_none());
        let left = events(&mut edge.room);
        assert!(matches!(
            &left[..],
            [RoomEvent::ParticipantLeft {
                reason: DisconnectReason::ConnectionTimeout,
                ..
            }]
        ));
    }
    // It was only a partition: the edge is back with the same people.
    for edge in &mut edges[1..] {
        edge.room.node_heard(t2, &node(0));
        assert!(edge.room.participant(&ann).is_some());
    }
}

#[test]
fn a_stay_on_an_edge_that_died_hides_no_later_one_from_an_edge_that_never_heard_of_it() {
    let now = Instant::now();
    let mut rng = SmallRng::seed_from_u64(16);
    let mut edges = vec![edge(0, 1), edge(1, 1), edge(2, 1)];
    for _ in 0..5 {
        edges[0].room.join(now, 0, person("ann", &mut rng)).expect("join");
    }
    edges[1].room.join(now, 0, person("ben", &mut rng)).expect("join");
    pull(&mut edges, 1, 0, now);
    edges[1].room.node_silent(now, &node(0));
    let later = now + Duration::from_secs(11);
    edges[1].room.handle_timeout(later);
    assert!(edges[1].room.participant(&Identity::from("ann")).is_none());
    // She comes back at an edge that has just started: the epoch it gives is lower, and it cannot know.
    let back = edges[2].room.join(later, 0, person("ann", &mut rng)).expect("join");
    pull(&mut edges, 1, 2, later);
    let seen = edges[1]
        .room
        .participant(&Identity::from("ann"))
        .map(|ann| ann.sid.clone());
    assert_eq!(seen, Some(back.sid));
}

#[test]
fn a_restarted_edge_supersedes_its_former_life_without_a_departure_of_those_who_return() {
    let t0 = Instant::now();
    let mut rng = SmallRng::seed_from_u64(8);
    let mut edges = vec![edge(0, 1), edge(1, 1)];
    edges[0].room.join(t0, 0, person("ann", &mut rng)).expect("join");
    edges[0].room.join(t0, 0, person("bob", &mut rng)).expect("join");
    settle(&mut edges, t0);
    events(&mut edges[1].room);
    edges[0] = edge(0, 2);
    edges[0].room.join(t0, 0, person("ann", &mut rng)).expect("join");
    settle(&mut edges, t0);
    assert!(
        !events(&mut edges[1].room)
            .iter()
            .any(|e| matches!(e, RoomEvent::ParticipantLeft { .. }))
    );
    edges[1].room.handle_timeout(t0 + SILENCE);
    assert!(edges[1].room.participant(&Identity::from("bob")).is_none());
    assert!(edges[1].room.participant(&Identity::from("ann")).is_some());
}

#[test]
fn an_edge_whose_clock_ran_backwards_is_believed_again() {
    let now = Instant::now();
    let mut rng = SmallRng::seed_from_u64(9);
    let mut edges = vec![edge(0, 5), edge(1, 1)];
    edges[0].room.join(now, 0, person("bob", &mut rng)).expect("join");
    settle(&mut edges, now);
    edges[0] = edge(0, 4);
    let ann = edges[0].room.join(now, 0, person("ann", &mut rng)).expect("join");
    settle(&mut edges, now);
    let seen = edges[1].room.participant(&Identity::from("ann")).map(|p| p.sid.clone());
    assert_eq!(seen, Some(ann.sid));
}

#[test]
fn departures_are_forgotten_and_a_long_absent_replica_still_learns_of_them() {
    let t0 = Instant::now();
    let mut rng = SmallRng::seed_from_u64(10);
    let mut edges = vec![edge(0, 1), edge(1, 1)];
    let ann = edges[0].room.join(t0, 0, person("ann", &mut rng)).expect("join");
    edges[0].room.join(t0, 0, person("bob", &mut rng)).expect("join");
    settle(&mut edges, t0);
    edges[0]
        .room
        .leave(&ann.sid, DisconnectReason::ClientInitiated)
        .expect("here");
    for i in 0..3_000 {
        let sid = edges[0]
            .room
            .join(t0, 0, person(&format!("v{i}"), &mut rng))
            .expect("join")
            .sid;
        edges[0]
            .room
            .leave(&sid, DisconnectReason::ClientInitiated)
            .expect("here");
    }
    pull(&mut edges, 1, 0, t0);
    assert!(edges[1].room.participant(&Identity::from("ann")).is_none());
    assert!(edges[1].room.participant(&Identity::from("bob")).is_some());
    let wire: usize = edges[0]
        .room
        .delta_since(&RoomDigest {
            room: "r".into(),
            ..Default::default()
        })
        .iter()
        .map(|d| d.encoded_len())
        .sum();
    assert!(wire < 200_000, "{wire} bytes remember departures");
}

#[test]
fn a_takeover_keeps_the_sid_and_grows_the_version() {
    let now = Instant::now();
    let mut rng = SmallRng::seed_from_u64(11);
    let mut edges = vec![edge(0, 1), edge(1, 1)];
    let first = edges[0].room.join(now, 77, person("ann", &mut rng)).expect("join");
    edges[0]
        .room
        .set_state(&first.sid, ParticipantState::Active)
        .expect("here");
    settle(&mut edges, now);
    let mut again = person("ann", &mut rng);
    again.sid = first.sid.clone();
    edges[1].room.join(now, 999, again).expect("join");
    let taken = edges[1]
        .room
        .participant(&Identity::from("ann"))
        .expect("there")
        .clone();
    assert_eq!((taken.joined_at_ms, taken.node.clone()), (77, node(1)));
    let before = edges[0]
        .room
        .participant(&Identity::from("ann"))
        .expect("there")
        .version;
    assert!(taken.version > before);
    settle(&mut edges, now);
    assert!(
        events(&mut edges[0].room)
            .iter()
            .any(|e| matches!(e, RoomEvent::LocalEvicted { .. }))
    );
}

#[test]
fn limits_hold_at_the_writer_and_at_the_replica() {
    let now = Instant::now();
    let mut rng = SmallRng::seed_from_u64(12);
    let mut a = edge(0, 1);
    let sid = a.room.join(now, 0, person("ann", &mut rng)).expect("join").sid;
    let attributes = BTreeMap::from([("k".to_owned(), "v".repeat(limits::ATTRIBUTES_BYTES))]);
    let refused = a.room.update_participant(
        &sid,
        ParticipantUpdate {
            attributes,
            ..Default::default()
        },
    );
    assert!(matches!(refused, Err(RoomError::TooLarge(_))));
    for i in 0..limits::TRACKS {
        let track = Track::new(TrackSid::new(format!("TR_{i}")), TrackKind::Audio, TrackSource::Unknown);
        a.room.publish_track(&sid, track).expect("within the limit");
    }
    let track = Track::new(TrackSid::from("TR_more"), TrackKind::Audio, TrackSource::Unknown);
    assert!(a.room.publish_track(&sid, track).is_err());
    let mut delta = a.room.poll_delta().expect("changes");
    delta.writers[0].records[0].metadata = "m".repeat(limits::METADATA_BYTES + 1);
    let mut b = edge(1, 1);
    assert_eq!(b.room.apply(now, &a.node, delta).expect("same room").rejected, 1);
    assert!(b.room.is_empty());
}

#[test]
fn the_room_facts_of_the_last_writer_hold_everywhere() {
    let now = Instant::now();
    let mut edges = vec![edge(0, 1), edge(1, 1), edge(2, 1)];
    edges[1]
        .room
        .update_info(|info| {
            info.incarnation = 9;
            info.sid = RoomSid::from("RM_home");
            info.metadata = "hello".into();
        })
        .expect("small");
    settle(&mut edges, now);
    edges[2]
        .room
        .update_info(|info| info.recording = "rec-1".into())
        .expect("small");
    settle(&mut edges, now);
    for edge in &mut edges {
        assert_eq!(edge.room.info().sid.as_str(), "RM_home");
        assert_eq!(edge.room.info().recording, "rec-1");
        assert!(events(&mut edge.room).contains(&RoomEvent::RoomUpdated));
    }
}

fn tracks(edge: &Edge) -> Vec<String> {
    let ann = edge.room.participant(&Identity::from("ann")).expect("here");
    ann.tracks.keys().map(ToString::to_string).collect()
}

#[test]
fn what_somebody_who_was_told_to_move_sends_goes_on_until_their_former_edge_releases_it() {
    let camera = |sid: &str| Track::new(TrackSid::from(sid), TrackKind::Video, TrackSource::Camera);
    for told in [true, false] {
        let now = Instant::now();
        let mut rng = SmallRng::seed_from_u64(21);
        let mut edges = vec![edge(0, 1), edge(1, 1), edge(2, 1)];
        let first = edges[0].room.join(now, 0, person("ann", &mut rng)).expect("join");
        edges[0]
            .room
            .publish_track(&first.sid, camera("TR_old"))
            .expect("publish");
        if told {
            edges[0].room.set_moving(&first.sid).expect("here");
        }
        settle(&mut edges, now);
        let second = edges[1].room.join(now, 0, person("ann", &mut rng)).expect("join");
        settle(&mut edges, now);
        assert!(
            edges.iter().all(|edge| tracks(edge).len() == usize::from(told)),
            "made before broken: {told}"
        );
        edges[1]
            .room
            .publish_track(&second.sid, camera("TR_new"))
            .expect("publish");
        edges.iter_mut().for_each(|edge| drop(events(&mut edge.room)));
        settle(&mut edges, now);
        for edge in &mut edges {
            let ann = edge.room.participant(&Identity::from("ann")).expect("here").clone();
            assert_eq!((&ann.sid, &ann.node), (&second.sid, &node(1)));
            assert_eq!(ann.origin_of(&TrackSid::from("TR_new")), (node(1), second.epoch));
            let own: Vec<_> = ann.own_tracks().map(|track| track.sid.clone()).collect();
            assert_eq!(own, [TrackSid::from("TR_new")]);
            if told {
                assert_eq!(ann.origin_of(&TrackSid::from("TR_old")), (node(0), first.epoch));
                assert_eq!(
                    edge.room.track(&TrackSid::from("TR_old")).map(|(p, _)| p.sid.clone()),
                    Some(ann.sid.clone())
                );
            }
            events(&mut edge.room);
        }
        edges[0].room.release(&Identity::from("ann"), &first.sid);
        settle(&mut edges, now);
        for edge in &mut edges {
            assert_eq!(tracks(edge), ["TR_new"]);
            let told = events(&mut edge.room);
            assert!(!told.iter().any(|e| matches!(e, RoomEvent::ParticipantLeft { .. })));
        }
    }
}

#[test]
fn a_move_that_nobody_finishes_is_over_after_six_seconds() {
    let mut now = Instant::now();
    let mut rng = SmallRng::seed_from_u64(22);
    let mut edges = vec![edge(0, 1), edge(1, 1)];
    let first = edges[0].room.join(now, 0, person("ann", &mut rng)).expect("join");
    let camera = Track::new(TrackSid::from("TR_old"), TrackKind::Video, TrackSource::Camera);
    edges[0].room.publish_track(&first.sid, camera).expect("publish");
    edges[0].room.set_moving(&first.sid).expect("here");
    settle(&mut edges, now);
    edges[1].room.join(now, 0, person("ann", &mut rng)).expect("join");
    settle(&mut edges, now);
    for (seconds, left) in [(5, 1), (2, 0)] {
        now += Duration::from_secs(seconds);
        edges[0].room.handle_timeout(now);
        settle(&mut edges, now);
        assert_eq!(tracks(&edges[1]).len(), left);
    }
}
