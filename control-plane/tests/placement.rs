//! Where the join API puts people, what it tells them of TURN servers, and the reckoning that operators see.

mod support;

use base64::Engine as _;
use meridian_wire::join::PROBES_MAX;
use serde_json::{Value, json};
use support::{World, config};

#[tokio::test]
async fn measured_round_trips_beat_distance() {
    let (world, _edges) = World::with_edges(config()).await;
    let (code, _) = world.meeting(json!({})).await;
    let probes = json!([{"region": "fra", "rtt_ms": 150.0}, {"region": "sin", "rtt_ms": 20.0}]);
    let answer = world
        .join(&code, json!({"name": "Ana", "from": "fra", "probes": probes}))
        .await
        .json();
    assert_eq!(answer["edge"]["id"], "sin-1");
    assert!(
        answer["reasons"][0]["text"]
            .as_str()
            .unwrap()
            .contains("measured by the client")
    );
}

#[tokio::test]
async fn measurements_that_cannot_be_true_or_are_of_no_region_change_nothing() {
    let (world, _edges) = World::with_edges(config()).await;
    let (code, _) = world.meeting(json!({})).await;
    let hostile = [
        json!({"region": "sin", "rtt_ms": 0.0}),
        json!({"region": "sin", "rtt_ms": -5.0}),
        json!({"region": "sin", "rtt_ms": 1e39}),
        json!({"region": "iad", "rtt_ms": 90_000.0}),
        json!({"region": "atlantis", "rtt_ms": 1.0}),
        json!({"region": "x".repeat(2_000), "rtt_ms": 1.0}),
    ];
    // Only the first eight are read, whatever comes after them.
    let mut probes = hostile.iter().cycle().take(PROBES_MAX).cloned().collect::<Vec<_>>();
    probes.push(json!({"region": "sin", "rtt_ms": 1.0}));
    let answer = world
        .join(&code, json!({"name": "Ana", "from": "fra", "probes": probes}))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.json()["edge"]["id"], "fra-1");
    assert!(!answer.text.contains("measured by the client"), "{}", answer.text);
}

#[tokio::test]
async fn a_meeting_that_may_be_held_in_the_eu_only_is_held_there() {
    let (world, _edges) = World::with_edges(config()).await;
    let (code, _) = world.meeting(json!({"title": "Board", "residency": [" EU "]})).await;
    let info = world.get(&format!("/api/v1/meetings/{code}")).await.json();
    assert_eq!(info["residency"], json!(["eu"]));
    for from in ["fra", "iad", "sin"] {
        let join = world.join(&code, json!({"name": "Ana", "from": from})).await.json();
        assert_eq!(join["edge"]["id"], "fra-1", "from {from}");
        assert_eq!(join["alternates"], json!([]), "no other may hold it");
    }
    let (anywhere, _) = world.meeting(json!({"title": "x"})).await;
    let info = world.get(&format!("/api/v1/meetings/{anywhere}")).await.json();
    assert!(info.get("residency").is_none());
    let (far, _) = world.meeting(json!({"residency": ["oceania"]})).await;
    assert_eq!(
        world.join(&far, json!({"name": "Ana"})).await.refusal(),
        (503, "no_edge".into())
    );
    for wrong in [json!(["atlantis"]), json!(["eu,us"]), json!(vec!["eu"; 17])] {
        let answer = world.post("/api/v1/meetings", json!({"residency": wrong})).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
    }
}

#[tokio::test]
async fn a_meeting_that_may_be_held_in_the_eu_only_is_told_of_turn_servers_there_only() {
    let mut config = config();
    config.turn.secret = "shared-with-those-servers".to_owned();
    config.turn.urls = vec!["turn:anycast.example.org:3478?transport=udp".into()];
    let url = |region: &str| format!("turns:far.{region}.example.org:443?transport=tcp");
    config.turn.regions = ["fra", "iad", "syd"]
        .map(|region| (region.to_owned(), vec![url(region)]))
        .into();
    config.assignment.residency = vec!["eu".into(), "us".into(), "asia".into()];
    let told = async |world: &World, code: &str| {
        let join = world.join(code, json!({"name": "Ana", "from": "iad"})).await.json();
        let servers = join["ice_servers"].as_array().unwrap().clone();
        let urls = servers
            .iter()
            .flat_map(|server| server["urls"].as_array().unwrap().clone());
        let payload = join["token"].as_str().unwrap().split('.').nth(1).unwrap().to_owned();
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(payload)
            .unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        let names = urls.map(|url| url.as_str().unwrap().split(':').nth(1).unwrap().to_owned());
        (names.collect::<Vec<_>>(), claims["meridian"]["relays"].clone())
    };
    let (world, _edges) = World::with_edges(config.clone()).await;
    let (anywhere, _) = world.meeting(json!({})).await;
    let all = [
        "iad.example.org",
        "far.iad.example.org",
        "far.fra.example.org",
        "anycast.example.org",
    ];
    let (urls, relays) = told(&world, &anywhere).await;
    assert_eq!(
        urls, all,
        "all but those where nobody may be placed, the near ones first"
    );
    assert_eq!(relays, Value::Null);
    let (pinned, _) = world.meeting(json!({"residency": ["eu"]})).await;
    let (urls, relays) = told(&world, &pinned).await;
    assert_eq!(urls, ["fra.example.org", "far.fra.example.org"]);
    assert_eq!(relays, json!(["fra"]), "its edge is told the same");
    let (pinned, _) = world.meeting(json!({"residency": ["asia"]})).await;
    let (urls, relays) = told(&world, &pinned).await;
    assert_eq!((urls, relays), (vec!["sin.example.org".to_owned()], json!([])));
}

#[tokio::test]
async fn operators_are_told_the_whole_reckoning_and_nobody_else_is() {
    let mut config = config();
    let path = "/api/v1/operator/assign?address=203.0.113.9&from=iad";
    let (world, _edges) = World::with_edges(config.clone()).await;
    assert_eq!(world.get(path).await.refusal(), (403, "no_operators".into()));
    config.data_directory = support::directory();
    config.operator_tokens = vec!["an-operators-token-of-some-length".into()];
    let (world, mut edges) = World::with_edges(config).await;
    edges[2].set_state(meridian_registry::nodes::NodeState::Cordoned);
    let (code, _) = world.meeting(json!({"residency": ["eu"]})).await;
    assert_eq!(world.get(path).await.refusal(), (401, "not_operator".into()));
    let wrong = [("Authorization", "Bearer nearly-an-operators-token-of-length")];
    assert_eq!(
        world.http("GET", path, &wrong, None).await.refusal(),
        (401, "not_operator".into())
    );
    let right = [("Authorization", "Bearer an-operators-token-of-some-length")];
    world
        .plane
        .fleet()
        .nodes()
        .wait_for(|view| {
            view.get("sin-1")
                .is_some_and(|node| node.state != meridian_registry::nodes::NodeState::Active)
        })
        .await;
    let explanation = world.http("GET", path, &right, None).await.json();
    let ranked: Vec<_> = explanation["ranked"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["edge"].clone())
        .collect();
    assert_eq!(ranked, [json!("iad-1"), json!("fra-1")]);
    let sum = |one: &serde_json::Value| {
        let term = |key: &str| one[key].as_f64().unwrap();
        term("rtt_ms") + term("load_penalty_ms") - term("room_bonus_ms") + term("weight_ms") - term("score_ms")
    };
    assert!(sum(&explanation["ranked"][0]).abs() < 1e-6);
    assert_eq!(explanation["excluded"][0]["why"], "cordoned");
    assert_eq!(explanation["client"]["near"], "Ashburn");
    let held = world
        .http("GET", &format!("{path}&meeting={code}"), &right, None)
        .await
        .json();
    assert_eq!(
        (
            held["ranked"][0]["edge"].as_str(),
            held["residency"]["meeting"][0].as_str()
        ),
        (Some("fra-1"), Some("eu"))
    );
    assert_eq!(held["excluded"].as_array().unwrap().len(), 2);
    let missing = world
        .http("GET", &format!("{path}&meeting=zzz-zzzz-zzz"), &right, None)
        .await;
    assert_eq!(missing.refusal(), (404, "not_found".into()));
    let nonsense = world
        .http("GET", "/api/v1/operator/assign?address=nowhere", &right, None)
        .await;
    assert_eq!(nonsense.refusal(), (400, "bad_request".into()));
}
