//! What clients time before they join, over real processes.

use super::mesh::Mesh;
use super::mesh::process::{get, send};

#[tokio::test]
async fn every_process_names_the_regions_to_measure_and_edges_answer_probes_within_limits() {
    let mesh = Mesh::start(&["fra", "iad", "sin"]).await;
    let direct = mesh.get("/api/v1/probes?from=sin").await.unwrap();
    let edge = mesh.edge_address("fra").await;
    let through = get(edge, "/api/v1/probes?from=sin").await.unwrap();
    assert_eq!((through.status, &through.text), (200, &direct.text));
    for answer in [&direct, &through] {
        assert_eq!(answer.header("cache-control"), Some("private, max-age=60"));
    }
    let regions = direct.json()["regions"].clone();
    let names: Vec<&str> = regions
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["region"].as_str())
        .collect();
    assert_eq!(names, ["sin", "fra", "iad"]);
    let port = mesh.edge_address("sin").await.port();
    assert_eq!(regions[0]["url"], format!("http://localhost:{port}/probe"));

    let probe = async |client: &str| {
        let headers = format!("X-Forwarded-For: {client}\r\n");
        send(edge, "GET", "/probe?1", &headers, "").await.unwrap()
    };
    let answer = probe("203.0.113.9").await;
    assert_eq!((answer.status, answer.text.as_str()), (204, ""));
    let headers = ["access-control-allow-origin", "timing-allow-origin", "cache-control"];
    assert_eq!(
        headers.map(|name| answer.header(name)),
        [Some("*"), Some("*"), Some("no-store")]
    );
    let mut last = answer;
    for _ in 0..1_300 {
        last = probe("203.0.113.9").await;
    }
    assert_eq!(
        (last.status, last.header("access-control-allow-origin")),
        (429, Some("*"))
    );
    assert_eq!(probe("198.51.100.7").await.status, 204, "others are not held up");
}
