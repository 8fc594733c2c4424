//! Two control planes as processes, over one etcd and one data directory.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::json;

use crate::mesh::process::{Process, eventually, free_port, get, post};
use crate::mesh::{MERIDIAN, Mesh, OPERATOR_TOKEN, SOON, join_at};

fn arguments(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[tokio::test]
async fn two_control_planes_place_people_as_one_and_either_explains_itself() {
    let mesh = Mesh::start(&["fra", "iad"]).await;
    let [http, grpc] = [free_port(), free_port()].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let file = mesh.folder.path("control-plane.toml");
    let (http_text, grpc_text) = (http.to_string(), grpc.to_string());
    let start = [
        "control-plane",
        "-c",
        file.to_str().unwrap(),
        "--set",
        "id=control-2",
        "--http-bind",
        &http_text,
        "--grpc-bind",
        &grpc_text,
    ];
    let second = Process::start(MERIDIAN, &arguments(&start), &mesh.folder.path("control-2.log"));
    let both = async |address: SocketAddr| {
        let metrics = get(address, "/metrics").await?.text;
        metrics.contains("meridian_replicas 1\n").then_some(())
    };
    eventually("the second hears the first", SOON, async || both(http).await).await;
    // No edge speaks to the second, and yet it knows all of them.
    let (code, _) = mesh.meeting(json!({"max_participants": 2})).await;
    let body = json!({"name": "Ana", "from": "iad"});
    let join = join_at(http, &code, &body).await.unwrap();
    assert_eq!(
        (join.status, join.json()["edge"]["id"].as_str()),
        (200, Some("iad")),
        "{join:?}"
    );
    // Each counts whom the other has sent: the third is one too many wherever it asks.
    assert_eq!(mesh.join(&code, &body).await.unwrap().status, 200);
    let path = format!("/api/v1/meetings/{code}");
    for address in [http, mesh.http] {
        eventually("both people are known", SOON, async || {
            (get(address, &path).await?.json()["participants"] == 2).then_some(())
        })
        .await;
        assert_eq!(join_at(address, &code, &body).await.unwrap().status, 409);
    }
    // The command line asks either.
    let url = format!("http://{http}");
    let ask = |token: &str| {
        let words = [
            "assign",
            "explain",
            "203.0.113.9",
            "--from",
            "fra",
            "--meeting",
            &code,
            "--url",
            &url,
            "--token",
            token,
        ];
        Process::start(MERIDIAN, &arguments(&words), &mesh.folder.path("explain.log"))
    };
    let mut explain = ask(OPERATOR_TOKEN);
    assert!(explain.ended(SOON).await.success(), "{}", explain.log());
    let told = explain.log();
    assert!(
        told.contains("taken to be near Frankfurt") && told.contains("\n1   fra"),
        "{told}"
    );
    let mut refused = ask("not-an-operators-token-at-all");
    assert_eq!(refused.ended(SOON).await.code(), Some(1));
    assert!(refused.log().contains("operator_tokens"), "{}", refused.log());
    // When the second dies, whoever it sent and who never arrived is forgotten.
    drop(second);
    eventually("the second is forgotten", SOON, async || {
        (get(mesh.http, &path).await?.json()["participants"] == 1).then_some(())
    })
    .await;
    assert_eq!(
        post(mesh.http, &format!("{path}/join"), &body).await.unwrap().status,
        200
    );
}
