//! Two control planes over one registry and one data directory: they place people as one.

mod support;

use meridian_control_plane::{ControlPlane, ControlPlaneConfig};
use meridian_registry::nodes::{NodeRegistration, announce};
use meridian_wire::v1::{self, edge_command::Command};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{OPERATOR_TOKEN, World, config, eventually, exchange, record};

fn first() -> ControlPlaneConfig {
    let mut config = config();
    config.operator_tokens = vec![OPERATOR_TOKEN.to_owned()];
    config.limits.joins_per_minute_address = 100_000;
    config.limits.participants_max = 5_000;
    config
}

/// A second replica beside the world's, sharing its directory: the meetings, the authority, the token key.
async fn second(world: &World) -> ControlPlane {
    let config = ControlPlaneConfig {
        id: "control-2".into(),
        data_directory: world.directory.0.clone(),
        ..first()
    };
    let plane = ControlPlane::start(config, world.registry.clone()).await.unwrap();
    eventually("the replicas hear each other", async || {
        plane.fleet().replicas() == 1 && world.plane.fleet().replicas() == 1
    })
    .await;
    plane
}

async fn edges(world: &World, planes: &[&ControlPlane], capacities: &[(&str, u32)]) -> Vec<NodeRegistration> {
    let mut edges = Vec::new();
    for (region, capacity) in capacities {
        let mut record = record(region);
        record.capacity = *capacity;
        edges.push(announce(world.registry.clone(), record, Duration::from_secs(2)));
    }
    for plane in planes {
        plane
            .fleet()
            .nodes()
            .wait_for(|view| view.nodes.len() == capacities.len())
            .await;
    }
    edges
}

async fn get(plane: &ControlPlane, path: &str) -> Value {
    let stream = tokio::net::TcpStream::connect(plane.http_address()).await.unwrap();
    let bearer = format!("Bearer {OPERATOR_TOKEN}");
    let answer = exchange(stream, "GET", path, &[("Authorization", &bearer)], None).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

async fn explain(plane: &ControlPlane, address: &str) -> Value {
    get(plane, &format!("/api/v1/operator/assign?address={address}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_joins_at_two_replicas_at_once_are_spread_by_capacity() {
    let world = World::with(first()).await;
    let other = second(&world).await;
    let capacities = [("fra", 1_500), ("ams", 3_000), ("cdg", 4_500), ("iad", 90_000)];
    let _edges = edges(&world, &[&world.plane, &other], &capacities).await;
    let (code, _) = world.meeting(json!({"max_participants": 5_000})).await;
    let planes = [world.plane.joins().clone(), other.joins().clone()];
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..20u32 {
        let joins = Arc::clone(&planes[worker as usize % 2]);
        let code = code.clone();
        tasks.spawn(async move {
            let mut chosen = Vec::new();
            for _ in 0..50 {
                let request = v1::JoinRequest {
                    code: code.clone(),
                    name: "Ana".into(),
                    client_address: "203.0.113.9".into(),
                    from: "fra".into(),
                    ..v1::JoinRequest::default()
                };
                chosen.push(joins.join(request).await.unwrap().edge.unwrap().region);
            }
            chosen
        });
    }
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    while let Some(chosen) = tasks.join_next().await {
        for region in chosen.unwrap() {
            *counts.entry(region).or_default() += 1;
        }
    }
    assert_eq!(counts.values().sum::<u32>(), 1_000);
    assert!(
        !counts.contains_key("iad"),
        "it is not within 20 ms of the best: {counts:?}"
    );
    for (region, capacity) in &capacities[..3] {
        let fair = f64::from(*capacity) / 9.0;
        let off = (f64::from(counts[*region]) - fair).abs() / fair;
        assert!(off <= 0.1, "{counts:?}");
    }
    // Each knows of the other's, by edge and by room.
    for plane in [&world.plane, &other] {
        eventually("all joins are known", async || {
            let (_, candidates) = plane.fleet().candidates("", Instant::now());
            let coming: u32 = candidates.iter().map(|one| one.recent).sum();
            coming == 1_000 && plane.fleet().people_in(&code, Instant::now()) == 1_000
        })
        .await;
    }
    other.shutdown().await;
}

#[tokio::test]
async fn what_an_edge_tells_one_replica_the_other_knows() {
    let world = World::with(first()).await;
    let other = second(&world).await;
    let _edges = edges(&world, &[&world.plane, &other], &[("fra", 100), ("iad", 100)]).await;
    let mut edge = world.attach("fra-1").await;
    assert!(matches!(edge.command().await, Command::Policy(_)));
    let (code, host_key) = world.meeting(json!({})).await;
    edge.report(42, &[(&code, 42)]).await;
    let at = |value: &Value, id: &str, key: &str| {
        let ranked = value["ranked"].as_array().unwrap();
        ranked.iter().find(|one| one["edge"] == id).map(|one| one[key].clone())
    };
    eventually("the load is known", async || {
        at(&explain(&other, "203.0.113.9").await, "fra-1", "participants") == Some(json!(42))
    })
    .await;
    assert_eq!(other.fleet().people_in(&code, Instant::now()), 42);
    for nth in 1..=3 {
        edge.session(&format!("203.0.113.{nth}"), 33.0).await;
    }
    eventually("what was measured is known", async || {
        explain(&other, "203.0.113.77").await["learned"][0]["prefix"]["sessions"] == 3
    })
    .await;
    let explanation = explain(&other, "203.0.113.77").await;
    assert_eq!(at(&explanation, "fra-1", "source"), Some(json!("learned")));
    let rtt_ms = at(&explanation, "fra-1", "rtt_ms").unwrap().as_f64().unwrap();
    assert!((30.0..50.0).contains(&rtt_ms), "{explanation}");
    // A meeting that ends at one replica ends on the edges that speak to the other.
    let stream = tokio::net::TcpStream::connect(other.http_address()).await.unwrap();
    let bearer = format!("Bearer {host_key}");
    let path = format!("/api/v1/meetings/{code}");
    exchange(stream, "DELETE", &path, &[("Authorization", &bearer)], None).await;
    let Command::CloseRoom(close) = edge.command().await else {
        panic!()
    };
    assert_eq!(close.room, code);
    other.shutdown().await;
}

#[tokio::test]
async fn a_replica_that_dies_is_forgotten_with_the_joins_it_told_of() {
    let world = World::with(first()).await;
    let other = second(&world).await;
    let _edges = edges(&world, &[&world.plane, &other], &[("fra", 100)]).await;
    let (code, _) = world.meeting(json!({})).await;
    let request = v1::JoinRequest {
        code: code.clone(),
        name: "Ana".into(),
        client_address: "203.0.113.9".into(),
        from: "fra".into(),
        ..v1::JoinRequest::default()
    };
    other.joins().join(request).await.unwrap();
    let people = || world.plane.fleet().people_in(&code, Instant::now());
    eventually("the join is known", async || people() == 1).await;
    drop(other);
    eventually("it is forgotten", async || {
        people() == 0 && world.plane.fleet().replicas() == 0
    })
    .await;
}

#[tokio::test]
async fn what_was_learned_survives_a_restart() {
    let mut config = first();
    let world = World::with(config.clone()).await;
    let _edges = edges(&world, &[&world.plane], &[("fra", 100), ("iad", 100)]).await;
    let edge = world.attach("fra-1").await;
    edge.session("203.0.113.5", 21.0).await;
    eventually("it is learned", async || {
        explain(&world.plane, "203.0.113.5").await["learned"][0]["prefix"]["sessions"] == 1
    })
    .await;
    let World {
        plane,
        registry,
        directory,
    } = world;
    plane.shutdown().await;
    config.id = "control-3".into();
    let plane = ControlPlane::start(config, registry).await.unwrap();
    let learned = &explain(&plane, "203.0.113.5").await["learned"][0];
    assert_eq!(
        (learned["region"].as_str(), learned["prefix"]["median_ms"].as_f64()),
        (Some("fra"), Some(21.0))
    );
    plane.shutdown().await;
    drop(directory);
}

#[tokio::test]
async fn only_control_planes_may_tell_and_only_in_their_own_name() {
    use meridian_wire::v1::replicas_client::ReplicasClient;
    let world = World::with(first()).await;
    let authority = world.plane.certificate_authority();
    let edge = authority.issue_node("fra-1", &[]).unwrap();
    let control = authority.issue_control_plane("control-9", &[]).unwrap();
    let namesake = authority.issue_control_plane("control-1", &[]).unwrap();
    for (identity, says, refused) in [
        (edge, "fra-1", true),
        (namesake, "control-1", true),
        (control.clone(), "control-8", true),
        (control, "control-9", false),
    ] {
        let endpoint =
            tonic::transport::Endpoint::from_shared(format!("https://{}", world.plane.grpc_address())).unwrap();
        let mut client = ReplicasClient::new(endpoint.tls_config(identity.tonic_client()).unwrap().connect_lazy());
        let news = v1::ReplicaNews {
            replica: says.into(),
            ..v1::ReplicaNews::default()
        };
        let answer = client.share(tokio_stream::iter([news])).await;
        assert_eq!(answer.is_err(), refused, "{says}: {answer:?}");
        if let Err(status) = answer {
            assert_eq!(status.code(), tonic::Code::PermissionDenied);
        }
    }
}
