//! GeoDNS over a real control plane, asked with `dig`, and the list of regions to measure: the same map answers both.

#[path = "support/mmdb.rs"]
mod mmdb;
mod support;

use meridian_control_plane::ControlPlaneConfig;
use meridian_control_plane::config::DnsConfig;
use meridian_registry::nodes::{NodeRegistration, NodeState, announce};
use std::process::Command;
use std::time::Duration;
use support::{World, config, record};

/// A database in which 81/8 is in Frankfurt, 12/8 near Washington, 103.0.0.0/10 in Singapore.
fn with_map() -> ControlPlaneConfig {
    let mut config = config();
    std::fs::create_dir_all(&config.data_directory).unwrap();
    let path = config.data_directory.join("map.mmdb");
    let map = mmdb::database(&[
        ([81, 0, 0, 0], 8, 50.1, 8.7),
        ([12, 0, 0, 0], 8, 39.0, -77.5),
        ([103, 0, 0, 0], 10, 1.35, 103.8),
    ]);
    std::fs::write(&path, map).unwrap();
    config.geo.database = Some(path);
    config.dns = DnsConfig {
        bind: vec![([127, 0, 0, 1], 0).into()],
        zone: "meridian.test".into(),
        hostnames: vec!["join.meridian.test".into()],
        name_servers: vec!["ns1.example.test".into()],
        ..DnsConfig::default()
    };
    config
}

/// Edges fra-1 (192.0.2.1), iad-1 (192.0.2.2) and sin-1 (192.0.2.3).
async fn world() -> (World, Vec<NodeRegistration>) {
    let world = World::with(with_map()).await;
    let mut edges = Vec::new();
    for (number, region) in ["fra", "iad", "sin"].into_iter().enumerate() {
        let mut record = record(region);
        record.addresses = vec![[192, 0, 2, number as u8 + 1].into()];
        let edge = announce(world.registry.clone(), record, Duration::from_secs(2));
        edge.registered().await;
        edges.push(edge);
    }
    world.plane.fleet().nodes().wait_for(|view| view.nodes.len() == 3).await;
    (world, edges)
}

/// `dig` blocks: beside the runtime.
async fn dig(world: &World, arguments: &str) -> String {
    let port = world.plane.dns_addresses()[0].port().to_string();
    let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
    let run = move || {
        let mut dig = Command::new("dig");
        dig.args(["@127.0.0.1", "-p", &port, "+tries=1"]).args(arguments);
        String::from_utf8_lossy(&dig.output().expect("dig is in bind9-dnsutils").stdout).into_owned()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

async fn answers(world: &World, subnet: &str) -> String {
    let text = dig(world, &format!("join.meridian.test A +short +subnet={subnet}")).await;
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The answer, once it is another than `before`: the fleet is looked at four times a second.
async fn answers_after(world: &World, subnet: &str, before: &str) -> String {
    for _ in 0..100 {
        let now = answers(world, subnet).await;
        if now != before {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    before.to_owned()
}

#[tokio::test]
async fn each_network_is_sent_to_its_own_edge_and_told_for_how_large_a_network_that_holds() {
    let (world, _edges) = world().await;
    assert_eq!(answers(&world, "81.2.69.0/24").await, "192.0.2.1");
    assert_eq!(answers(&world, "12.1.2.0/24").await, "192.0.2.2");
    assert_eq!(answers(&world, "103.4.5.0/24").await, "192.0.2.3");
    let text = dig(&world, "join.meridian.test A +subnet=103.4.5.0/24").await;
    assert!(text.contains("CLIENT-SUBNET: 103.4.5.0/24/10"), "{text}");
    let metrics = world.get("/metrics").await.text;
    assert!(
        metrics.contains("meridian_dns_queries_total{transport=\"udp\"} 4"),
        "{metrics}"
    );
}

#[tokio::test]
async fn edges_that_take_nobody_are_not_answered_unless_nobody_does() {
    let (world, mut edges) = world().await;
    assert_eq!(answers(&world, "81.2.69.0/24").await, "192.0.2.1");
    edges[0].set_state(NodeState::Cordoned);
    assert_eq!(answers_after(&world, "81.2.69.0/24", "192.0.2.1").await, "192.0.2.2");
    edges[1].set_state(NodeState::Draining);
    assert_eq!(answers_after(&world, "81.2.69.0/24", "192.0.2.2").await, "192.0.2.3");
    edges[2].set_state(NodeState::Cordoned);
    assert_eq!(
        answers_after(&world, "81.2.69.0/24", "192.0.2.3").await,
        "192.0.2.1",
        "a name that leads nowhere helps nobody"
    );
    for edge in edges {
        edge.leave().await;
    }
    world.plane.fleet().nodes().wait_for(|view| view.nodes.is_empty()).await;
    assert_eq!(answers(&world, "12.1.2.0/24").await, "192.0.2.2", "the last known ones");
}

/// A session that an edge reports, of somebody at `address`.
#[tokio::test]
async fn what_sessions_measured_corrects_the_map_for_dns_as_it_does_for_joins() {
    let (world, _edges) = world().await;
    assert_eq!(answers(&world, "81.2.69.0/24").await, "192.0.2.1");
    // The map is wrong about 81.2.69.0/24: it is in Singapore.
    let (fra, sin) = (world.attach("fra-1").await, world.attach("sin-1").await);
    for last in 1..=20 {
        let address = format!("81.2.69.{last}");
        fra.session(&address, 180.0).await;
        sin.session(&address, 12.0).await;
    }
    assert_eq!(answers_after(&world, "81.2.69.0/24", "192.0.2.1").await, "192.0.2.3");
    assert_eq!(
        answers(&world, "81.77.0.0/24").await,
        "192.0.2.1",
        "others of the same network stay"
    );
    let text = dig(&world, "join.meridian.test A +subnet=81.2.69.0/24").await;
    assert!(text.contains("CLIENT-SUBNET: 81.2.69.0/24/24"), "{text}");
}

#[tokio::test]
async fn before_any_edge_was_seen_dns_says_that_it_does_not_know() {
    let world = World::with(with_map()).await;
    let text = dig(&world, "join.meridian.test A").await;
    assert!(text.contains("status: SERVFAIL"), "{text}");
}

#[tokio::test]
async fn the_three_likeliest_regions_are_offered_for_measuring_and_may_be_kept_for_a_minute() {
    let (world, mut edges) = world().await;
    for region in ["ams", "nrt"] {
        edges.push(world.announce(region).await);
    }
    world.plane.fleet().nodes().wait_for(|view| view.nodes.len() == 5).await;
    let answer = world.get("/api/v1/probes?from=fra").await;
    assert_eq!(answer.header("cache-control"), Some("private, max-age=60"));
    let json = answer.json();
    let regions: Vec<&str> = json["regions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["region"].as_str().unwrap())
        .collect();
    assert_eq!(regions, ["fra", "ams", "iad"]);
    assert_eq!(json["regions"][0]["url"], "http://127.0.0.1:1/fra/probe");
}

#[tokio::test]
async fn one_region_is_not_worth_measuring() {
    let world = World::with(config()).await;
    let _edge = world.announce("fra").await;
    world.plane.fleet().nodes().wait_for(|view| view.nodes.len() == 1).await;
    assert_eq!(
        world.get("/api/v1/probes").await.json()["regions"],
        serde_json::json!([])
    );
}
