//! `meridian dev` as a process: that it comes up, and that it goes without a trace.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::mesh::process::{Folder, Process, eventually, get};
use crate::mesh::{MERIDIAN, SOON};

#[tokio::test]
async fn ctrl_c_stops_the_demo_and_leaves_nothing_behind() {
    let folder = Folder::new();
    let ready = folder.path("ready.json");
    let start = || {
        let arguments = [
            "dev",
            "--port",
            "0",
            "--dns",
            "0",
            "--registry",
            "etcd",
            "--ready-file",
            ready.to_str().unwrap(),
        ];
        Process::start(MERIDIAN, &arguments.map(str::to_owned), &folder.path("dev.log"))
    };
    let mut demo = start();
    let (ports, _) = eventually("the demo is up", SOON, async || {
        serde_json::from_str::<Value>(&std::fs::read_to_string(&ready).ok()?).ok()
    })
    .await;
    resolves(ports["dns"][0].as_str().unwrap()).await;
    let children = children_of(demo.id());
    assert_eq!(children.len(), 1, "etcd, and nothing else");
    demo.signal("INT");
    let status = demo.ended(Duration::from_secs(5)).await;
    assert_eq!(status.code(), Some(0), "{}", demo.log());
    nothing_is_left(demo.id(), &children).await;
    let port: u16 = ports["page"]
        .as_str()
        .unwrap()
        .rsplit(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(get(([127, 0, 0, 1], port).into(), "/healthz").await, None);
    // Again, but in the middle of starting: etcd is there, the rest is not yet.
    std::fs::remove_file(&ready).unwrap();
    let mut demo = start();
    let (children, _) = eventually("etcd is being started", SOON, async || {
        Some(children_of(demo.id())).filter(|children| !children.is_empty())
    })
    .await;
    demo.signal("INT");
    assert_eq!(
        demo.ended(Duration::from_secs(5)).await.code(),
        Some(0),
        "{}",
        demo.log()
    );
    nothing_is_left(demo.id(), &children).await;
}

/// The join hostname has the addresses of the demo's PoPs.
async fn resolves(dns: &str) {
    let (address, port) = dns.split_once(':').unwrap();
    let server = format!("@{address}");
    eventually("the join hostname leads to an edge", SOON, async || {
        let arguments = [server.as_str(), "-p", port, "+short", "+tries=1", "join.meridian.test"];
        let dig = tokio::process::Command::new("dig").args(arguments).output().await;
        let answer = String::from_utf8(dig.expect("dig is in bind9-dnsutils").stdout).ok()?;
        answer.starts_with("192.0.2.").then_some(())
    })
    .await;
}

async fn nothing_is_left(demo: u32, children: &[u32]) {
    eventually("etcd has ended", SOON, async || {
        children
            .iter()
            .all(|child| !Path::new(&format!("/proc/{child}/exe")).exists())
            .then_some(())
    })
    .await;
    let data = std::env::temp_dir().join(format!("meridian-dev-{demo}"));
    assert!(!data.exists(), "{} is left", data.display());
}

/// Ids of the processes that `parent` has started.
fn children_of(parent: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    children
        .flat_map(|text| {
            text.split_whitespace()
                .filter_map(|id| id.parse().ok())
                .collect::<Vec<u32>>()
        })
        .collect()
}
