use super::*;
use crate::database::testing::Scratch;
use meridian_geo::{Client, Policy};
use meridian_registry::MemoryRegistry;
use meridian_registry::nodes::{
    KeeperConfig, NODE_RECORD_VERSION, NodeRecord, NodeRegistration, NodeState, NodeWatch, announce,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

const NOW_MS: u64 = 1_700_000_000_000;

fn record(id: &str, region: &str) -> NodeRecord {
    NodeRecord {
        version: NODE_RECORD_VERSION,
        id: id.into(),
        region: region.into(),
        lat: None,
        lon: None,
        client_url: format!("wss://{id}"),
        addresses: Vec::new(),
        media: Vec::new(),
        link: None,
        turn: Vec::new(),
        state: NodeState::Active,
        capacity: 100,
        software: "test".into(),
        incarnation: 1,
    }
}

/// A fleet of edges that are in the registry, and what keeps them there.
async fn fleet(edges: &[(&str, &str)]) -> (Fleet, Vec<NodeRegistration>) {
    let registry = Arc::new(MemoryRegistry::new());
    let nodes = NodeWatch::start(registry.clone(), KeeperConfig::default());
    let lease = Duration::from_secs(60);
    let announced = edges
        .iter()
        .map(|(id, region)| announce(registry.clone(), record(id, region), lease))
        .collect();
    let count = edges.len();
    nodes.wait_for(|view| view.nodes.len() == count).await;
    (Fleet::new(nodes, Policy::default()), announced)
}

fn ask(fleet: &Fleet, edge: &str, ask: Ask, now_ms: u64) -> Result<(), NotDone> {
    let row = fleet.asked(edge, ask, Instant::now(), now_ms)?;
    assert_eq!(fleet.take_wanted(vec![row], Instant::now(), now_ms).len(), 1);
    Ok(())
}

fn drain(within_s: u64) -> Ask {
    Ask::Drain { within_s, force: false }
}

fn placed(fleet: &Fleet) -> Vec<String> {
    let placement = fleet.place(&Client::default(), "r", super::super::Note::Returning, Instant::now());
    let mut ids: Vec<String> = placement.edges.into_iter().map(|edge| edge.id).collect();
    ids.sort();
    ids
}

fn attach(fleet: &Fleet, edge: &str) -> (super::super::Attachment, mpsc::Receiver<v1::EdgeCommand>) {
    let (commands, queue) = mpsc::channel(8);
    let hello = v1::Hello {
        node: edge.into(),
        ..v1::Hello::default()
    };
    (fleet.attach(&hello, commands, Instant::now()), queue)
}

fn told(queue: &mut mpsc::Receiver<v1::EdgeCommand>) -> Option<(v1::NodeState, u64)> {
    match queue.try_recv().ok()?.command? {
        Command::SetState(state) => Some((state.state(), state.drain_deadline_ms)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_cordoned_or_draining_edge_gets_nobody_before_it_has_even_heard_of_it() {
    let (fleet, _announced) = fleet(&[("fra-1", "fra"), ("fra-2", "fra"), ("iad-1", "iad")]).await;
    assert_eq!(placed(&fleet), ["fra-1", "fra-2", "iad-1"]);
    ask(&fleet, "fra-1", Ask::Cordon, NOW_MS).unwrap();
    assert_eq!(placed(&fleet), ["fra-2", "iad-1"]);
    ask(
        &fleet,
        "iad-1",
        Ask::Drain {
            within_s: 60,
            force: true,
        },
        NOW_MS,
    )
    .unwrap();
    assert_eq!(placed(&fleet), ["fra-2"]);
    ask(&fleet, "iad-1", Ask::Undrain, NOW_MS).unwrap();
    ask(&fleet, "fra-1", Ask::Uncordon, NOW_MS).unwrap();
    assert_eq!(placed(&fleet), ["fra-1", "fra-2", "iad-1"]);
}

#[tokio::test]
async fn the_last_pop_of_a_region_that_takes_people_is_drained_by_force_only() {
    let (fleet, _announced) = fleet(&[("fra-1", "fra"), ("fra-2", "fra"), ("iad-1", "iad")]).await;
    let refused = ask(&fleet, "iad-1", drain(60), NOW_MS).unwrap_err();
    let words = refused.to_string();
    assert!(
        words.contains("last PoP of region iad") && words.contains("--force"),
        "{words}"
    );
    ask(&fleet, "fra-2", Ask::Cordon, NOW_MS).unwrap();
    let refused = ask(&fleet, "fra-1", drain(60), NOW_MS).unwrap_err();
    assert!(
        matches!(refused, NotDone::LastOfRegion { .. }),
        "a cordoned neighbour takes nobody"
    );
    ask(&fleet, "fra-2", Ask::Uncordon, NOW_MS).unwrap();
    ask(&fleet, "fra-1", drain(60), NOW_MS).unwrap();
    // Who drains already may be given another deadline, whatever became of the others.
    ask(&fleet, "fra-1", drain(10), NOW_MS).unwrap();
    assert!(matches!(
        ask(&fleet, "fra-2", drain(60), NOW_MS),
        Err(NotDone::LastOfRegion { .. })
    ));
    assert!(matches!(
        ask(&fleet, "fra-1", Ask::Uncordon, NOW_MS),
        Err(NotDone::IsDraining(_))
    ));
    assert!(matches!(
        ask(&fleet, "fra-2", Ask::Undrain, NOW_MS),
        Err(NotDone::IsNotDraining(_))
    ));
    assert!(matches!(
        ask(&fleet, "sin-1", Ask::Cordon, NOW_MS),
        Err(NotDone::NoSuchPop(_))
    ));
}

#[tokio::test]
async fn an_edge_is_told_at_once_and_again_whenever_it_comes_back() {
    let (fleet, _announced) = fleet(&[("fra-1", "fra"), ("fra-2", "fra")]).await;
    let (_, mut queue) = attach(&fleet, "fra-1");
    fleet.remind("fra-1", NOW_MS);
    assert_eq!(told(&mut queue), None, "nobody ever wanted anything of it");
    ask(&fleet, "fra-1", drain(60), NOW_MS).unwrap();
    assert_eq!(told(&mut queue), Some((v1::NodeState::Draining, 60_000)));
    let (_, mut queue) = attach(&fleet, "fra-1");
    fleet.remind("fra-1", NOW_MS + 20_000);
    assert_eq!(told(&mut queue), Some((v1::NodeState::Draining, 40_000)));
    fleet.remind("fra-1", NOW_MS + 90_000);
    assert_eq!(
        told(&mut queue),
        Some((v1::NodeState::Draining, 1)),
        "late is at once, not never"
    );
    ask(&fleet, "fra-1", Ask::Undrain, NOW_MS).unwrap();
    assert_eq!(told(&mut queue), Some((v1::NodeState::Active, 0)));
    fleet.remind("fra-1", NOW_MS);
    assert_eq!(
        told(&mut queue),
        Some((v1::NodeState::Active, 0)),
        "an edge may have missed that"
    );
}

#[tokio::test]
async fn what_is_wanted_outlives_the_process_and_the_latest_word_wins_between_replicas() {
    let database = Scratch::open().await;
    let (first, _announced) = fleet(&[("fra-1", "fra"), ("fra-2", "fra")]).await;
    let row = first.asked("fra-1", drain(60), Instant::now(), NOW_MS).unwrap();
    database.save_wanted(std::slice::from_ref(&row)).await.unwrap();
    first.take_wanted(vec![row.clone()], Instant::now(), NOW_MS);
    let undrained = first.asked("fra-1", Ask::Undrain, Instant::now(), NOW_MS).unwrap();
    assert!(undrained.changed_ms > row.changed_ms, "later, whatever the clock says");

    let (second, _announced) = fleet(&[("fra-1", "fra"), ("fra-2", "fra")]).await;
    second.take_wanted(database.load_wanted().await.unwrap(), Instant::now(), NOW_MS);
    assert_eq!(placed(&second), ["fra-2"]);
    database.save_wanted(std::slice::from_ref(&undrained)).await.unwrap();
    database.save_wanted(std::slice::from_ref(&row)).await.unwrap();
    assert_eq!(
        database.load_wanted().await.unwrap(),
        std::slice::from_ref(&undrained),
        "an old row saves nothing"
    );

    // Told by the first replica's news, once, and again after a reconnection.
    first.take_wanted(vec![undrained], Instant::now(), NOW_MS);
    let mut so_far = super::super::Told::default();
    let news = first.news(&mut so_far, Instant::now());
    assert_eq!(second.take_wanted(news.wanted.clone(), Instant::now(), NOW_MS).len(), 1);
    assert_eq!(second.take_wanted(news.wanted, Instant::now(), NOW_MS).len(), 0);
    assert_eq!(
        second.take_wanted(vec![row], Instant::now(), NOW_MS).len(),
        0,
        "an old word"
    );
    assert_eq!(placed(&second), ["fra-1", "fra-2"]);
    assert!(first.news(&mut so_far, Instant::now()).wanted.is_empty());
    assert_eq!(first.news(&mut first.told_nothing(), Instant::now()).wanted.len(), 1);
}

#[tokio::test]
async fn a_drain_tells_how_far_it_is_and_how_long_it_will_take() {
    let (fleet, _announced) = fleet(&[("fra-1", "fra"), ("fra-2", "fra")]).await;
    let (attachment, _queue) = attach(&fleet, "fra-1");
    let people = |participants| {
        let load = v1::LoadReport {
            participants,
            accepting: true,
            ..v1::LoadReport::default()
        };
        fleet.report(&attachment, load, Instant::now());
    };
    let progress = |now_ms| {
        let pops = fleet.pops(Instant::now(), now_ms);
        let drain = pops[0].drain?;
        Some((drain.people_at_start, drain.people_left, drain.eta_s))
    };
    people(40);
    assert_eq!(progress(NOW_MS), None);
    ask(&fleet, "fra-1", drain(60), NOW_MS).unwrap();
    assert_eq!(
        progress(NOW_MS),
        Some((40, 40, 60)),
        "the deadline holds until there is a rate"
    );
    people(30);
    assert_eq!(progress(NOW_MS + 5_000), Some((40, 30, 15)));
    people(39);
    assert_eq!(
        progress(NOW_MS + 50_000),
        Some((40, 39, 10)),
        "the deadline ends it in any case"
    );
    people(0);
    assert_eq!(progress(NOW_MS + 70_000), Some((40, 0, 0)));
}

#[tokio::test]
async fn what_edges_measure_is_kept_between_reports_and_told_to_other_replicas_once() {
    let (first, _announced) = fleet(&[("fra-1", "fra"), ("iad-1", "iad")]).await;
    let (second, _announced_there) = fleet(&[("fra-1", "fra"), ("iad-1", "iad")]).await;
    let (attachment, _queue) = attach(&first, "fra-1");
    let link = v1::LinkReport {
        peer: "iad-1".into(),
        rtt_p50_ms: 88.0,
        ..v1::LinkReport::default()
    };
    let mut told = super::super::Told::default();
    for (links, told_of) in [(vec![link], 1), (Vec::new(), 0)] {
        let load = v1::LoadReport {
            tx_mbps: 7.0,
            accepting: true,
            links,
            ..v1::LoadReport::default()
        };
        first.report(&attachment, load, Instant::now());
        let news = first.news(&mut told, Instant::now());
        assert_eq!(news.loads[0].load.as_ref().unwrap().links.len(), told_of);
        second.hear("control-1", news, Instant::now());
        for fleet in [&first, &second] {
            let links = fleet.links();
            let pairs: Vec<_> = links
                .iter()
                .map(|link| (link.from.as_str(), link.to.as_str()))
                .collect();
            assert_eq!(pairs, [("fra-1", "iad-1")], "kept, and known to both");
            assert_eq!(fleet.pops(Instant::now(), NOW_MS)[0].tx_mbps, 7.0);
        }
    }
    first.detach(&attachment);
    assert!(first.links().is_empty(), "nobody says so any more");
}
