//! What the control plane knows about addresses while it runs: a map that is replaced, and one that errs.

#[path = "support/mmdb.rs"]
mod mmdb;
mod support;

use meridian_control_plane::ControlPlaneConfig;
use meridian_geo::regions;
use serde_json::{Value, json};
use std::path::Path;
use support::{OPERATOR_TOKEN, World, config, eventually};

/// A file that says where 203.0.113.0/24 is, put in place as installers do it.
fn map(path: &Path, region: &str) {
    let at = regions::find(region).unwrap().location;
    let new = path.with_extension("new");
    std::fs::write(&new, mmdb::database(&[([203, 0, 113, 0], 24, at.lat, at.lon)])).unwrap();
    std::fs::rename(&new, path).unwrap();
}

fn with_map(region: &str) -> ControlPlaneConfig {
    let mut config = config();
    std::fs::create_dir_all(&config.data_directory).unwrap();
    let path = config.data_directory.join("map.mmdb");
    map(&path, region);
    config.geo.database = Some(path);
    config.operator_tokens = vec![OPERATOR_TOKEN.to_owned()];
    config.http.trusted_proxies = vec!["127.0.0.1".to_owned()];
    config.limits.joins_per_minute_address = 10_000;
    config
}

async fn explain(world: &World) -> Value {
    let bearer = format!("Bearer {OPERATOR_TOKEN}");
    let path = "/api/v1/operator/assign?address=203.0.113.9";
    let answer = world.http("GET", path, &[("Authorization", &bearer)], None).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

#[tokio::test]
async fn a_map_that_is_replaced_is_used_and_a_broken_one_is_not() {
    let config = with_map("fra");
    let path = config.geo.database.clone().unwrap();
    let (world, _edges) = World::with_edges(config).await;
    assert_eq!(explain(&world).await["client"]["near"], "Frankfurt");
    map(&path, "sin");
    eventually("the new map is used", async || {
        explain(&world).await["client"]["near"] == "Singapore"
    })
    .await;
    assert_eq!(explain(&world).await["ranked"][0]["edge"], "sin-1");
    // A broken one changes nothing, and the next good one is taken in.
    std::fs::write(&path, "no map at all").unwrap();
    for _ in 0..50 {
        assert_eq!(explain(&world).await["client"]["near"], "Singapore");
    }
    map(&path, "iad");
    eventually("the third map is used", async || {
        let near = explain(&world).await["client"]["near"].clone();
        assert!(near == "Singapore" || near == "Ashburn", "{near}");
        near == "Ashburn"
    })
    .await;
}

#[tokio::test]
async fn a_misplaced_address_is_corrected_by_what_edges_measure() {
    let (world, _edges) = World::with_edges(with_map("fra")).await;
    let attached = [
        ("fra-1", world.attach("fra-1").await, 165.0),
        ("iad-1", world.attach("iad-1").await, 228.0),
        ("sin-1", world.attach("sin-1").await, 12.0),
    ];
    let (code, _) = world.meeting(json!({})).await;
    let mut first = Vec::new();
    for nth in 1..=20u8 {
        let address = format!("203.0.113.{nth}");
        let forwarded = [("X-Forwarded-For", address.as_str())];
        let path = format!("/api/v1/meetings/{code}/join");
        let join = world
            .http("POST", &path, &forwarded, Some(&json!({"name": "Ana"})))
            .await
            .json();
        let chosen = join["edge"]["id"].as_str().unwrap().to_owned();
        let (_, edge, rtt_ms) = attached.iter().find(|(id, ..)| *id == chosen).unwrap();
        edge.session(&address, *rtt_ms).await;
        eventually("it is learned", async || {
            let learned = &explain(&world).await["learned"];
            let sessions = |one: &Value| one["prefix"]["sessions"].as_u64().unwrap_or(0).min(12);
            let known: u64 = learned.as_array().unwrap().iter().map(sessions).sum();
            known >= u64::from(nth).min(12)
        })
        .await;
        first.push(chosen);
    }
    assert_eq!(first[0], "fra-1", "at first the map is believed");
    let explanation = explain(&world).await;
    assert_eq!(explanation["ranked"][0]["edge"], "sin-1", "{first:?} {explanation}");
    assert_eq!(explanation["client"]["source"], "inferred");
}
