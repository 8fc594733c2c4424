//! One contract, run against both registries: in memory, and a real etcd that each test starts and kills.

mod world;

use bytes::Bytes;
use meridian_registry::nodes::{KeeperConfig, NodeRecord, NodeState, NodeWatch, announce};
use meridian_registry::{
    Change, Expected, Leadership, RegistrationState, RegistryError, Swap, WatchEvent, campaign, register, watch,
};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use world::World;

const TTL: Duration = Duration::from_secs(1);
/// The brief's promise: gone within the lease and one second. The rest is for a busy test machine.
const GONE: Duration = Duration::from_millis(2_000 + 500);

macro_rules! contract {
    ($($test:ident),* $(,)?) => {
        mod memory { $(#[tokio::test] async fn $test() { super::$test(super::World::memory()).await; })* }
        mod etcd { $(#[tokio::test] async fn $test() { super::$test(super::World::etcd().await).await; })* }
    };
}

contract!(
    keys_are_written_listed_compared_and_deleted,
    of_many_that_compare_and_set_one_wins,
    a_lease_takes_its_keys_with_it_and_not_early,
    a_registration_that_lives_is_never_gone,
    a_registration_returns_after_its_lease_was_lost,
    a_registration_is_gone_at_once_when_it_leaves_and_with_its_lease_when_it_crashes,
    the_newer_of_two_registrations_of_one_name_stays,
    a_watch_fills_the_gap_after_an_outage,
    a_watch_starts_over_when_the_gap_was_compacted,
    a_leader_resigns_crashes_and_is_followed,
    a_leader_that_is_cut_off_stops_before_the_next_one_starts,
    nodes_are_seen_with_their_state_and_missed_when_killed,
    a_store_that_crashes_and_returns_loses_nobody,
    a_store_that_forgets_everybody_empties_no_view,
);

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn keys_are_written_listed_compared_and_deleted(world: World) {
    let r = world.direct();
    assert_eq!(r.get("a/1").await.unwrap(), None);
    let first = r.put("a/1", bytes("x"), None).await.unwrap();
    let second = r.put("a/2", bytes("y"), None).await.unwrap();
    r.put("b/1", bytes("z"), None).await.unwrap();
    assert!(second > first);
    let listing = r.list("a/").await.unwrap();
    assert!(listing.revision > second);
    let found: Vec<_> = listing
        .entries
        .iter()
        .map(|e| (e.key.as_str(), e.value.as_ref(), e.revision))
        .collect();
    assert_eq!(found, [("a/1", b"x".as_ref(), first), ("a/2", b"y".as_ref(), second)]);
    assert!(
        matches!(r.compare_and_set("a/1", Expected::Absent, Some(bytes("n")), None).await.unwrap(), Swap::Conflict(Some(e)) if e.value == "x")
    );
    assert!(matches!(
        r.compare_and_set("a/9", Expected::Revision(7), Some(bytes("n")), None)
            .await
            .unwrap(),
        Swap::Conflict(None)
    ));
    let Swap::Done { revision } = r
        .compare_and_set("a/1", Expected::Revision(first), Some(bytes("n")), None)
        .await
        .unwrap()
    else {
        panic!()
    };
    assert_eq!(r.get("a/1").await.unwrap().unwrap().revision, revision);
    assert!(matches!(
        r.compare_and_set("a/1", Expected::Revision(revision), None, None)
            .await
            .unwrap(),
        Swap::Done { .. }
    ));
    assert!(r.delete("a/2").await.unwrap() && !r.delete("a/2").await.unwrap());
    assert_eq!(r.list("a/").await.unwrap().entries, []);
}

async fn of_many_that_compare_and_set_one_wins(world: World) {
    let mut tasks = Vec::new();
    for n in 0..10 {
        let r = world.direct();
        tasks.push(tokio::spawn(async move {
            matches!(
                r.compare_and_set("k", Expected::Absent, Some(bytes(&n.to_string())), None)
                    .await
                    .unwrap(),
                Swap::Done { .. }
            )
        }));
    }
    let mut winners = 0;
    for task in tasks {
        winners += usize::from(task.await.unwrap());
    }
    assert_eq!(winners, 1);
}

async fn a_lease_takes_its_keys_with_it_and_not_early(world: World) {
    let r = world.direct();
    let lease = r.grant(TTL).await.unwrap();
    let revision = r.put("k/a", bytes("1"), Some(lease)).await.unwrap();
    assert_eq!(r.get("k/a").await.unwrap().unwrap().lease, Some(lease));
    let mut changes = r.changes("k/", revision).await.unwrap();
    tokio::time::sleep(TTL / 2).await;
    r.keep_alive(lease).await.unwrap();
    let renewed = Instant::now();
    let batch = changes.recv().await.unwrap().unwrap();
    assert!(matches!(&batch.changes[..], [Change::Delete { key, .. }] if key == "k/a"));
    assert!(
        (TTL.mul_f64(0.9)..GONE).contains(&renewed.elapsed()),
        "{:?}",
        renewed.elapsed()
    );
    assert_eq!(r.keep_alive(lease).await, Err(RegistryError::LeaseGone));
    assert_eq!(
        r.put("k/a", bytes("1"), Some(lease)).await,
        Err(RegistryError::LeaseGone)
    );
    r.revoke(lease).await.unwrap();
    let lease = r.grant(TTL).await.unwrap();
    r.put("k/b", bytes("1"), Some(lease)).await.unwrap();
    r.revoke(lease).await.unwrap();
    assert_eq!(r.list("k/").await.unwrap().entries, []);
}

async fn a_registration_that_lives_is_never_gone(world: World) {
    let direct = world.direct();
    let mut watch = watch(direct.clone(), "k");
    assert_eq!(watch.next().await, Some(WatchEvent::Snapshot(vec![])));
    let registration = register(world.registry(), "k", bytes("1"), TTL);
    registration.registered().await;
    tokio::time::sleep(TTL * 2).await;
    // An outage shorter than what is left of the lease harms nobody.
    world.set_down(true);
    tokio::time::sleep(TTL / 3).await;
    world.set_down(false);
    tokio::time::sleep(TTL).await;
    registration.set(bytes("2"));
    let mut seen = Vec::new();
    while seen.last() != Some(&"2".to_string()) {
        let Some(WatchEvent::Changes(changes)) = watch.next().await else {
            panic!("a snapshot")
        };
        for change in changes {
            let Change::Put(entry) = change else {
                panic!("a living registration was declared dead")
            };
            seen.push(String::from_utf8(entry.value.to_vec()).unwrap());
        }
    }
    assert_eq!(seen, ["1", "2"]);
}

async fn a_registration_returns_after_its_lease_was_lost(world: World) {
    let direct = world.direct();
    let registration = register(world.registry(), "k", bytes("1"), TTL);
    registration.registered().await;
    let mut state = registration.state();
    let lease = direct.get("k").await.unwrap().unwrap().lease.unwrap();
    direct.revoke(lease).await.unwrap();
    assert_eq!(direct.get("k").await.unwrap(), None);
    // It may be back before anybody sees it missing.
    while direct
        .get("k")
        .await
        .unwrap()
        .is_none_or(|entry| entry.lease == Some(lease))
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The same after an outage longer than the lease.
    world.set_down(true);
    state.wait_for(|state| *state == RegistrationState::Lost).await.unwrap();
    world.wait_until_absent("k").await;
    world.set_down(false);
    state
        .wait_for(|state| *state == RegistrationState::Registered)
        .await
        .unwrap();
    assert!(direct.get("k").await.unwrap().is_some());
}

async fn a_registration_is_gone_at_once_when_it_leaves_and_with_its_lease_when_it_crashes(world: World) {
    let direct = world.direct();
    let registration = register(world.registry(), "k", bytes("1"), Duration::from_secs(60));
    registration.registered().await;
    registration.leave().await;
    assert_eq!(direct.get("k").await.unwrap(), None);
    let registration = register(world.registry(), "k", bytes("1"), TTL);
    registration.registered().await;
    drop(registration);
    let crashed = Instant::now();
    assert!(direct.get("k").await.unwrap().is_some());
    world.wait_until_absent("k").await;
    assert!(crashed.elapsed() < GONE, "{:?}", crashed.elapsed());
}

async fn the_newer_of_two_registrations_of_one_name_stays(world: World) {
    let direct = world.direct();
    let old = register(world.registry(), "k", bytes("old"), TTL);
    old.registered().await;
    let new = register(world.direct(), "k", bytes("new"), TTL);
    new.registered().await;
    let mut state = old.state();
    state
        .wait_for(|state| *state == RegistrationState::Superseded)
        .await
        .unwrap();
    old.leave().await;
    assert_eq!(direct.get("k").await.unwrap().unwrap().value, "new");
    assert_eq!(*new.state().borrow(), RegistrationState::Registered);
}

/// Applies events until the state is as wanted; returns how many snapshots it took.
async fn follow(
    watch: &mut meridian_registry::Watch,
    state: &mut BTreeMap<String, String>,
    wanted: &[(&str, &str)],
) -> usize {
    let mut snapshots = 0;
    while state
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .ne(wanted.iter().copied())
    {
        let text = |value: &Bytes| String::from_utf8(value.to_vec()).unwrap();
        match tokio::time::timeout(Duration::from_secs(15), watch.next())
            .await
            .expect("the watch is silent")
            .unwrap()
        {
            WatchEvent::Snapshot(entries) | WatchEvent::Rewound(entries) => {
                snapshots += 1;
                *state = entries
                    .iter()
                    .map(|entry| (entry.key.clone(), text(&entry.value)))
                    .collect();
            }
            WatchEvent::Changes(changes) => {
                for change in changes {
                    match change {
                        Change::Put(entry) => state.insert(entry.key, text(&entry.value)),
                        Change::Delete { key, .. } => state.remove(&key),
                    };
                }
            }
        }
    }
    snapshots
}

async fn a_watch_fills_the_gap_after_an_outage(world: World) {
    let direct = world.direct();
    direct.put("k/a", bytes("1"), None).await.unwrap();
    let mut watch = watch(world.registry(), "k/");
    let mut state = BTreeMap::new();
    assert_eq!(follow(&mut watch, &mut state, &[("k/a", "1")]).await, 1);
    direct.put("k/b", bytes("2"), None).await.unwrap();
    direct.put("other", bytes("2"), None).await.unwrap();
    follow(&mut watch, &mut state, &[("k/a", "1"), ("k/b", "2")]).await;
    world.set_down(true);
    direct.delete("k/a").await.unwrap();
    direct.put("k/c", bytes("3"), None).await.unwrap();
    world.set_down(false);
    let snapshots = follow(&mut watch, &mut state, &[("k/b", "2"), ("k/c", "3")]).await;
    assert_eq!(snapshots, 0, "a gap whose history is known needs no snapshot");
}

async fn a_watch_starts_over_when_the_gap_was_compacted(world: World) {
    let direct = world.direct();
    let early = direct.put("k/a", bytes("1"), None).await.unwrap();
    let mut watch = watch(world.registry(), "k/");
    let mut state = BTreeMap::new();
    follow(&mut watch, &mut state, &[("k/a", "1")]).await;
    world.set_down(true);
    direct.delete("k/a").await.unwrap();
    direct.put("k/b", bytes("2"), None).await.unwrap();
    world.compact().await;
    let refused = match direct.changes("k/", early).await {
        Ok(mut changes) => changes.recv().await.unwrap().map(drop),
        Err(error) => Err(error),
    };
    assert!(matches!(refused, Err(RegistryError::Compacted(_))), "{refused:?}");
    world.set_down(false);
    assert_eq!(follow(&mut watch, &mut state, &[("k/b", "2")]).await, 1);
    direct.put("k/c", bytes("3"), None).await.unwrap();
    follow(&mut watch, &mut state, &[("k/b", "2"), ("k/c", "3")]).await;
}

async fn a_leader_resigns_crashes_and_is_followed(world: World) {
    let a = campaign(world.direct(), "recordings", "a", TTL);
    a.state().wait_for(Leadership::is_leader).await.unwrap();
    let Leadership::Leader { term } = a.state().borrow().clone() else {
        panic!()
    };
    let b = campaign(world.direct(), "recordings", "b", TTL);
    let follower = Leadership::Follower {
        leader: Some("a".into()),
    };
    b.state().wait_for(|state| *state == follower).await.unwrap();
    let other = campaign(world.direct(), "another-office", "b", TTL);
    other.state().wait_for(Leadership::is_leader).await.unwrap();
    // It leads for longer than a lease lasts.
    tokio::time::sleep(TTL.mul_f64(1.5)).await;
    assert!(a.is_leader() && !b.is_leader());
    let resigned = Instant::now();
    a.resign().await;
    b.state().wait_for(Leadership::is_leader).await.unwrap();
    assert!(resigned.elapsed() < TTL / 2, "{:?}", resigned.elapsed());
    let Leadership::Leader { term: later } = b.state().borrow().clone() else {
        panic!()
    };
    assert!(later > term);
    let c = campaign(world.direct(), "recordings", "c", TTL);
    drop(b);
    let crashed = Instant::now();
    c.state().wait_for(Leadership::is_leader).await.unwrap();
    assert!(crashed.elapsed() < GONE, "{:?}", crashed.elapsed());
}

async fn a_leader_that_is_cut_off_stops_before_the_next_one_starts(world: World) {
    let cut = campaign(world.registry(), "r", "cut", TTL);
    cut.state().wait_for(Leadership::is_leader).await.unwrap();
    let other = campaign(world.direct(), "r", "other", TTL);
    let mut state = other.state();
    state
        .wait_for(|state| *state != Leadership::Follower { leader: None })
        .await
        .unwrap();
    world.set_down(true);
    state.wait_for(Leadership::is_leader).await.unwrap();
    assert!(!cut.is_leader(), "two leaders at once");
    world.set_down(false);
    let followed = Leadership::Follower {
        leader: Some("other".into()),
    };
    cut.state().wait_for(|state| *state == followed).await.unwrap();
}

fn record(id: &str) -> NodeRecord {
    serde_json::from_value(
        serde_json::json!({"version": 1, "id": id, "region": id, "client_url": "ws://x", "link": "127.0.0.1:9"}),
    )
    .unwrap()
}

async fn nodes_are_seen_with_their_state_and_missed_when_killed(world: World) {
    let nodes = NodeWatch::start(world.registry(), KeeperConfig::default());
    assert!(!nodes.now().known);
    let fra = announce(world.direct(), record("fra"), TTL);
    let mut iad = announce(world.direct(), record("iad"), TTL);
    let sin = announce(world.direct(), record("sin"), TTL);
    let view = nodes.wait_for(|view| view.nodes.len() == 3).await;
    assert_eq!(view.get("sin").unwrap(), &record("sin"));
    iad.set_state(NodeState::Cordoned);
    nodes
        .wait_for(|view| view.get("iad").unwrap().state == NodeState::Cordoned)
        .await;
    drop(sin);
    let killed = Instant::now();
    nodes.wait_for(|view| view.get("sin").is_none()).await;
    assert!(killed.elapsed() < GONE, "{:?}", killed.elapsed());
    // Both others leave at once and on purpose: believed, though they are all there was.
    let left = Instant::now();
    tokio::join!(fra.leave(), iad.leave());
    nodes.wait_for(|view| view.nodes.is_empty()).await;
    assert!(left.elapsed() < TTL, "{:?}", left.elapsed());
}

async fn a_store_that_crashes_and_returns_loses_nobody(mut world: World) {
    let registry = world.direct();
    let nodes = NodeWatch::start(registry.clone(), KeeperConfig::default());
    let mut fra = announce(registry.clone(), record("fra"), TTL * 2);
    let leader = campaign(registry.clone(), "office", "a", TTL * 2);
    nodes.wait_for(|view| view.nodes.len() == 1).await;
    leader.state().wait_for(Leadership::is_leader).await.unwrap();
    let lease = registry.get("nodes/fra").await.unwrap().unwrap().lease;
    world.crash_and_restart().await;
    fra.set_state(NodeState::Draining);
    nodes
        .wait_for(|view| view.get("fra").is_none_or(|record| record.state == NodeState::Draining))
        .await;
    assert!(
        nodes
            .now()
            .get("fra")
            .is_some_and(|record| record.state == NodeState::Draining),
        "it never was gone"
    );
    assert_eq!(registry.get("nodes/fra").await.unwrap().unwrap().lease, lease);
    assert!(leader.is_leader());
}

async fn a_store_that_forgets_everybody_empties_no_view(world: World) {
    let registry = world.direct();
    let nodes = NodeWatch::start(registry.clone(), KeeperConfig::default());
    let ids = ["a", "b", "c", "d", "e"];
    let announced: Vec<_> = ids.map(|id| announce(registry.clone(), record(id), TTL)).into();
    nodes.wait_for(|view| view.nodes.len() == ids.len()).await;
    let lowest = tokio::spawn({
        let mut view = nodes.view();
        async move {
            // The first one to vanish is believed for a moment: one lost node of five looks no different.
            let mut lowest = usize::MAX;
            let mut suspected = false;
            while !suspected || view.borrow().nodes.values().any(|node| node.suspect) {
                view.changed().await.unwrap();
                let now = view.borrow_and_update().clone();
                suspected |= now.nodes.values().any(|node| node.suspect);
                lowest = lowest.min(now.nodes.len());
            }
            lowest
        }
    });
    for id in ids {
        registry.delete(&format!("nodes/{id}")).await.unwrap();
    }
    // All come back by themselves, and no longer under suspicion.
    let lowest = tokio::time::timeout(Duration::from_secs(10), lowest)
        .await
        .expect("still suspected")
        .unwrap();
    assert!(lowest >= ids.len() - 1, "{lowest}");
    assert_eq!(nodes.now().nodes.len(), ids.len());
    drop(announced);
}
