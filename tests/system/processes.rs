//! The roles as separate processes: they find each other through a real etcd, place people, and each survives the others' absence.
//!
//! Every wait here polls a condition with a deadline; every process is killed by its id when its test ends.
#![forbid(unsafe_code)]

mod demo;
mod discovery;
mod doctor;
mod mesh;
mod operators;
mod pops;
mod probes;
mod replicas;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use meridian_access::token::{Claims, mint};
use meridian_pki::{CONTROL_PLANE_NAME, CertificateAuthority, NodeIdentity};
use meridian_registry::{EtcdOptions, EtcdRegistry, Registry};
use meridian_wire::v1;
use meridian_wire::v1::edge_control_client::EdgeControlClient;
use mesh::process::{Folder, Process, eventually, get, send};
use mesh::{LEASE_S, MERIDIAN, Mesh, SOON, join_at};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::{ClientTlsConfig, Endpoint};

#[tokio::test]
async fn people_are_placed_near_them_and_any_edge_answers_a_join_as_the_control_plane_does() {
    let mesh = Mesh::start(&["fra", "iad", "sin"]).await;
    let (code, _) = mesh.meeting(json!({"title": "Weekly"})).await;
    for region in ["fra", "iad", "sin"] {
        assert_eq!(mesh.edge_for(&code, region).await, region);
    }
    let direct = mesh.join(&code, &json!({"name": "Ana", "from": "sin"})).await.unwrap();
    for through in ["fra", "iad", "sin"] {
        let address = mesh.edge_address(through).await;
        let answer = join_at(address, &code, &json!({"name": "Ana", "from": "sin"}))
            .await
            .unwrap();
        assert_eq!(
            (answer.status, shape(&answer.json())),
            (200, shape(&direct.json())),
            "through {through}"
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        // The token opens the edge that was chosen, and its alternates.
        let token = answer.json()["token"].as_str().unwrap().to_owned();
        for edge in ["fra", "iad", "sin"] {
            let path = format!("/rtc/v1/validate?access_token={token}&join_request=");
            let validated = get(mesh.edge_address(edge).await, &path).await.unwrap();
            assert_eq!(validated.status, 200, "{edge}: {validated:?}");
        }
    }
    let sdk = mint(&Claims::join("sdk", "SDK", "any"), "devkey", mesh::SECRET).unwrap();
    let path = format!("/rtc/v1/validate?access_token={sdk}&join_request=");
    let validated = get(mesh.edge_address("iad").await, &path).await.unwrap();
    assert_eq!(
        validated.status, 200,
        "API keys of the control plane reach the edges: {validated:?}"
    );
}

/// A granted join without what differs from one person to the next.
fn shape(granted: &Value) -> Value {
    let mut granted = granted.clone();
    for own in ["token", "identity", "expires"] {
        assert!(!granted[own].is_null(), "no {own} in {granted}");
        granted[own] = Value::Null;
    }
    // Scores move by fractions of a millisecond with load.
    granted["reasons"] = json!(granted["reasons"].as_array().unwrap().len());
    granted
}

#[tokio::test]
async fn refusals_are_clear_and_the_same_everywhere() {
    let mesh = Mesh::start(&["fra"]).await;
    let edge = mesh.edge_address("fra").await;
    let (closed, _) = mesh.meeting(json!({"passcode": "open sesame"})).await;
    let (full, _) = mesh.meeting(json!({"max_participants": 1})).await;
    let (ended, host_key) = mesh.meeting(json!({})).await;
    mesh.end_meeting(&ended, &host_key).await;
    assert_eq!(mesh.join(&full, &json!({"name": "First"})).await.unwrap().status, 200);
    let cases = [
        ("abc-defg-hij", json!({"name": "Ana"}), 404, "not_found"),
        ("no%20code%20at%20all", json!({"name": "Ana"}), 404, "not_found"),
        (closed.as_str(), json!({"name": "Ana"}), 403, "passcode_required"),
        (
            closed.as_str(),
            json!({"name": "Ana", "passcode": "open barley"}),
            403,
            "wrong_passcode",
        ),
        (full.as_str(), json!({"name": "Ana"}), 409, "full"),
        (ended.as_str(), json!({"name": "Ana"}), 410, "ended"),
        (
            closed.as_str(),
            json!({"name": "", "passcode": "open sesame"}),
            400,
            "bad_request",
        ),
        (closed.as_str(), json!({"name": 7}), 400, "bad_request"),
    ];
    for (code, body, status, why) in cases {
        let direct = mesh.join(code, &body).await.unwrap();
        let through = join_at(edge, code, &body).await.unwrap();
        assert_eq!(
            (direct.status, direct.json()["code"].as_str()),
            (status, Some(why)),
            "{code} {body}"
        );
        assert_eq!(
            (through.status, &through.text),
            (direct.status, &direct.text),
            "{code} {body}"
        );
    }
    let path = format!("/api/v1/meetings/{closed}/join");
    let form = send(edge, "POST", &path, "Content-Type: text/plain\r\n", "{}")
        .await
        .unwrap();
    assert_eq!(
        (form.status, form.json()["code"].as_str()),
        (415, Some("unsupported_media_type")),
        "other sites' pages send this unasked"
    );
    guessing_is_limited_by_the_client_behind_the_proxy(edge).await;
}

/// The edge trusts 127.0.0.1 to be a proxy, so what it forwards is counted by who is behind it.
async fn guessing_is_limited_by_the_client_behind_the_proxy(edge: SocketAddr) {
    let guess = async |client: &str| {
        let headers = format!("Content-Type: application/json\r\nX-Forwarded-For: {client}\r\n");
        send(
            edge,
            "POST",
            "/api/v1/meetings/zzz-zzzz-zzz/join",
            &headers,
            r#"{"name":"Eve"}"#,
        )
        .await
        .unwrap()
    };
    let mut last = guess("203.0.113.9").await;
    for _ in 0..20 {
        last = guess("203.0.113.9").await;
    }
    assert_eq!((last.status, last.json()["code"].as_str()), (429, Some("rate_limited")));
    assert!(last.header("retry-after").is_some(), "{last:?}");
    assert_eq!(guess("198.51.100.7").await.status, 404, "others are not held up");
}

#[tokio::test]
async fn every_process_tells_its_health_its_readiness_and_its_metrics() {
    let mut mesh = Mesh::start(&["fra"]).await;
    let edge = mesh.edge_address("fra").await;
    let ready = mesh.get("/readyz").await.unwrap();
    assert_eq!((ready.status, &ready.json()["nodes"]), (200, &json!(1)));
    assert_eq!(mesh.get("/healthz").await.unwrap().status, 200);
    assert!(
        mesh.get("/metrics")
            .await
            .unwrap()
            .text
            .contains("meridian_edges_attached 1")
    );
    for (path, expected) in [
        ("/healthz", "ok"),
        ("/readyz", "ready"),
        ("/metrics", "meridian_ready 1"),
        ("/probe", ""),
    ] {
        let answer = get(edge, path).await.unwrap();
        assert!(
            (200..300).contains(&answer.status) && answer.text.contains(expected),
            "{path}: {answer:?}"
        );
    }
    for metrics in [
        get(edge, "/metrics").await.unwrap(),
        mesh.get("/metrics").await.unwrap(),
    ] {
        assert!(
            metrics
                .header("content-type")
                .unwrap()
                .starts_with("text/plain; version=0.0.4")
        );
        is_prometheus_text(&metrics.text);
    }
    mesh.control.signal("KILL");
    mesh.control.ended(SOON).await;
    assert_eq!(
        get(edge, "/readyz").await.unwrap().status,
        200,
        "what an edge has learnt it keeps"
    );
}

fn is_prometheus_text(text: &str) {
    let mut names = std::collections::BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(names.insert(rest.to_owned()), "declared twice: {line}");
        } else if !line.starts_with('#') && !line.is_empty() {
            let value = line.rsplit(' ').next().unwrap();
            assert!(value.parse::<f64>().is_ok(), "not a number: {line}");
        }
    }
    assert!(!names.is_empty());
}

#[tokio::test]
async fn a_stopped_edge_leaves_placement_at_once_and_a_killed_one_within_its_lease_and_a_second() {
    let mut mesh = Mesh::start(&["fra", "iad", "sin"]).await;
    let (code, _) = mesh.meeting(json!({})).await;
    let mut fra = mesh.edges.remove("fra").unwrap();
    fra.signal("TERM");
    let gone = async |id: &'static str| {
        eventually(&format!("{id} is gone"), SOON, async || {
            (!mesh.placed().await?.contains_key(id)).then_some(())
        })
        .await
        .1
    };
    let took = gone("fra").await;
    assert!(took < Duration::from_secs(1), "a stopped edge took {took:?} to leave");
    assert_ne!(mesh.edge_for(&code, "fra").await, "fra");
    assert!(fra.ended(Duration::from_secs(5)).await.success(), "{}", fra.log());
    mesh.edges["iad"].signal("KILL");
    let took = gone("iad").await;
    assert!(
        took < Duration::from_secs(LEASE_S + 1),
        "a killed edge took {took:?} to go"
    );
    assert_eq!(mesh.edge_for(&code, "iad").await, "sin");
    assert_eq!(
        mesh.placed().await.unwrap().into_iter().collect::<Vec<_>>(),
        [("sin".to_owned(), true)]
    );
}

#[tokio::test]
async fn an_edge_killed_and_started_again_has_its_name_back_at_once() {
    let mut mesh = Mesh::start(&["fra", "iad"]).await;
    let before = mesh.edge_address("fra").await;
    mesh.edges.remove("fra");
    mesh.start_edge("fra").await;
    eventually("the new process is the one that is placed", SOON, async || {
        (mesh.edge_address("fra").await != before).then_some(())
    })
    .await;
    mesh.wait_for_edges(2).await;
    holds_for(Duration::from_secs(LEASE_S + 1), async || {
        mesh.placed().await.unwrap().len() == 2
    })
    .await;
    let (code, _) = mesh.meeting(json!({})).await;
    assert_eq!(mesh.edge_for(&code, "fra").await, "fra");
}

/// A condition that must hold at every look for this long.
async fn holds_for(time: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < time {
        assert!(holds().await, "no longer after {:?}", start.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn an_outage_of_the_registry_drops_no_living_edge_and_stops_no_join() {
    let mut mesh = Mesh::start(&["fra", "iad"]).await;
    let (code, _) = mesh.meeting(json!({})).await;
    mesh.etcd.stop();
    serves(&mesh, &code, Duration::from_secs(5)).await;
    mesh.etcd.run();
    serves(&mesh, &code, Duration::from_secs(1)).await;
    registered(&mesh, 2).await;
    // A registry that comes back empty is not believed; the edges fill it again.
    mesh.etcd.stop();
    mesh.etcd.lose_data();
    mesh.etcd.run();
    serves(&mesh, &code, Duration::from_secs(LEASE_S + 1)).await;
    registered(&mesh, 2).await;
    mesh.wait_for_edges(2).await;
    // The mesh still follows: an edge that leaves now is seen to leave.
    mesh.edges["iad"].signal("TERM");
    eventually("iad is gone", SOON, async || {
        (!mesh.placed().await?.contains_key("iad")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_registry_that_hangs_and_comes_back_with_every_lease_ended_stops_no_join() {
    let mesh = Mesh::start(&["fra", "iad"]).await;
    let (code, _) = mesh.meeting(json!({})).await;
    let joins = async || {
        mesh.join(&code, &json!({"name": "Ana", "from": "fra"}))
            .await
            .unwrap()
            .status
            == 200
    };
    mesh.etcd.signal("STOP");
    serves(&mesh, &code, Duration::from_secs(LEASE_S + 1)).await;
    mesh.etcd.signal("CONT");
    // Its clock ran on: it may end every lease before it hears the first renewal.
    holds_for(Duration::from_secs(1), joins).await;
    registered(&mesh, 2).await;
    mesh.wait_for_edges(2).await;
}

/// Both edges stay in placement and joins are answered, at every look.
async fn serves(mesh: &Mesh, code: &str, time: Duration) {
    holds_for(time, async || {
        let placed = mesh.placed().await.unwrap();
        assert_eq!(placed.len(), 2, "{placed:?}");
        mesh.edge_for(code, "fra").await == "fra" && mesh.edge_for(code, "iad").await == "iad"
    })
    .await;
}

async fn registered(mesh: &Mesh, count: usize) {
    let registry = EtcdRegistry::connect(EtcdOptions::new([mesh.etcd.url.clone()]))
        .await
        .unwrap();
    eventually("all edges are in etcd again", SOON, async || {
        (registry.list("nodes/").await.ok()?.entries.len() == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_control_plane_that_was_away_is_found_again_and_knows_its_meetings() {
    let mut mesh = Mesh::start(&["fra", "iad"]).await;
    let (code, _) = mesh.meeting(json!({})).await;
    let edge = mesh.edge_address("fra").await;
    let ana = json!({"name": "Ana", "from": "fra"});
    let token = join_at(edge, &code, &ana).await.unwrap().json()["token"]
        .as_str()
        .unwrap()
        .to_owned();
    for signal in ["TERM", "KILL"] {
        mesh.control.signal(signal);
        let status = mesh.control.ended(Duration::from_secs(5)).await;
        assert_eq!(status.success(), signal == "TERM", "{status}");
        let away = join_at(edge, &code, &ana).await.unwrap();
        assert_eq!(
            (away.status, away.json()["code"].as_str()),
            (503, Some("control_plane_away")),
            "{away:?}"
        );
        assert!(away.header("retry-after").is_some());
        let path = format!("/rtc/v1/validate?access_token={token}&join_request=");
        assert_eq!(
            get(edge, &path).await.unwrap().status,
            200,
            "who has a token joins without the control plane"
        );
        mesh.restart_control();
        mesh.wait_for_edges(2).await;
        assert_eq!(mesh.edge_for(&code, "iad").await, "iad");
        eventually("joins through an edge work again", SOON, async || {
            join_at(edge, &code, &ana).await.filter(|answer| answer.status == 200)
        })
        .await;
    }
}

#[tokio::test]
async fn strangers_get_nothing_by_grpc() {
    let mesh = Mesh::start(&["fra"]).await;
    let authority = CertificateAuthority::load(&mesh.folder.path("data/pki")).unwrap();
    let ours = authority.issue_node("ours", &[]).unwrap();
    let call = async |tls: ClientTlsConfig| {
        let endpoint = Endpoint::from_shared(format!("https://{}", mesh.grpc))
            .unwrap()
            .tls_config(tls)
            .unwrap();
        let mut client = EdgeControlClient::new(endpoint.connect_lazy());
        client
            .join(v1::JoinRequest::default())
            .await
            .map(drop)
            .map_err(|status| status.code())
    };
    assert_eq!(call(ours.tonic_client()).await, Ok(()), "an edge of ours is heard");
    let without = ClientTlsConfig::new()
        .ca_certificate(tonic::transport::Certificate::from_pem(&ours.ca_pem))
        .domain_name(CONTROL_PLANE_NAME);
    assert!(call(without).await.is_err(), "no certificate");
    let stranger = CertificateAuthority::create().unwrap().issue_node("fra", &[]).unwrap();
    let stranger = NodeIdentity {
        ca_pem: ours.ca_pem.clone(),
        ..stranger
    };
    assert!(
        call(stranger.tonic_client()).await.is_err(),
        "another authority's certificate"
    );
    let control = authority.issue_control_plane("control-2", &[]).unwrap();
    assert_eq!(
        call(control.tonic_client()).await,
        Err(Code::PermissionDenied),
        "not an edge's certificate"
    );
    let plain = Endpoint::from_shared(format!("http://{}", mesh.grpc)).unwrap();
    let answer = EdgeControlClient::new(plain.connect_lazy())
        .join(v1::JoinRequest::default())
        .await;
    assert!(answer.is_err(), "no TLS");
}

#[tokio::test]
async fn an_edge_without_keys_is_not_ready_says_why_and_is_placed_only_once_it_has_some() {
    let mut mesh = Mesh::start(&["fra"]).await;
    mesh.control.signal("TERM");
    assert!(mesh.control.ended(SOON).await.success());
    mesh.start_edge("iad").await;
    let (address, _) = eventually("iad listens", SOON, async || listening(mesh.edges["iad"].id())).await;
    let (ready, _) = eventually("iad answers", SOON, async || get(address, "/readyz").await).await;
    assert_eq!(
        (ready.status, ready.text.contains("no token keys")),
        (503, true),
        "{ready:?}"
    );
    let registry = EtcdRegistry::connect(EtcdOptions::new([mesh.etcd.url.clone()]))
        .await
        .unwrap();
    let names: Vec<_> = registry
        .list("nodes/")
        .await
        .unwrap()
        .entries
        .into_iter()
        .map(|entry| entry.key)
        .collect();
    assert_eq!(names, ["nodes/fra"]);
    mesh.restart_control();
    mesh.wait_for_edges(2).await;
    assert_eq!(get(address, "/readyz").await.unwrap().status, 200);
}

/// The TCP address on which a process listens, from `/proc`.
fn listening(process: u32) -> Option<SocketAddr> {
    let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{process}/fd"))
        .ok()?
        .flatten()
        .filter_map(|file| std::fs::read_link(file.path()).ok()?.to_str().map(str::to_owned))
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listens =
            fields.get(3) == Some(&"0A") && sockets.iter().any(|socket| fields.get(9) == Some(&socket.as_str()));
        let port = u16::from_str_radix(fields.get(1)?.rsplit(':').next()?, 16).ok()?;
        listens.then(|| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    })
}

#[tokio::test]
async fn people_are_counted_again_after_a_restart_and_sent_away_only_once_nobody_is_placed_there() {
    let mut mesh = Mesh::start(&["fra", "iad"]).await;
    let (code, _) = mesh.meeting(json!({})).await;
    // Whoever is placed counts as on the way for a while, so they ask for another meeting.
    let (other, _) = mesh.meeting(json!({})).await;
    let ana = json!({"name": "Ana", "from": "fra"});
    let granted = mesh.join(&code, &ana).await.unwrap().json();
    let mut client = enter(mesh.edge_address("fra").await, granted["token"].as_str().unwrap()).await;
    counts(&mesh, &code, 1).await;
    // A control plane that starts anew knows of nobody on the way: whoever it counts, an edge has reported.
    mesh.control.signal("KILL");
    mesh.control.ended(SOON).await;
    mesh.restart_control();
    mesh.wait_for_edges(2).await;
    counts(&mesh, &code, 1).await;
    mesh.edges["fra"].signal("TERM");
    // The goodbye is a Leave message, then a WebSocket close frame, then the end.
    let said = tokio::time::timeout(SOON, async {
        let mut said = Vec::new();
        let mut buffer = [0; 4096];
        // What is left of the join's own messages has long been sent: the next bytes are the goodbye.
        let read = client.read(&mut buffer).await.unwrap();
        said.extend_from_slice(&buffer[..read]);
        assert_eq!(
            mesh.edge_for(&other, "fra").await,
            "iad",
            "told to go while others are still sent here"
        );
        client.read_to_end(&mut said).await.unwrap();
        said
    })
    .await
    .expect("the client is told to go");
    const CLOSE: u8 = 0x88;
    assert!(said.contains(&CLOSE), "{said:?}");
    assert!(
        mesh.edges
            .get_mut("fra")
            .unwrap()
            .ended(Duration::from_secs(5))
            .await
            .success()
    );
    counts(&mesh, &code, 0).await;
}

async fn counts(mesh: &Mesh, code: &str, people: u32) {
    let path = format!("/api/v1/meetings/{code}");
    eventually(&format!("the meeting counts {people}"), SOON, async || {
        (mesh.get(&path).await?.json()["participants"] == people).then_some(())
    })
    .await;
}

/// Opens the signalling WebSocket and reads what comes with the join.
async fn enter(edge: SocketAddr, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(edge).await.unwrap();
    let request = format!(
        "GET /rtc/v1?access_token={token}&join_request= HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    // Until nothing has come for a moment.
    while let Ok(read) = tokio::time::timeout(Duration::from_millis(500), stream.read_buf(&mut said)).await {
        assert!(read.unwrap() > 0, "closed: {}", String::from_utf8_lossy(&said));
    }
    assert!(said.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&said));
    stream
}

#[tokio::test]
async fn a_new_edge_enrols_with_a_token_and_takes_part() {
    let mut mesh = Mesh::start(&["fra"]).await;
    let out = mesh.folder.path("pki-sin");
    let enrol = async |node: &str, token: &str| {
        let (url, ca) = (format!("https://{}", mesh.grpc), mesh.folder.path("data/pki/ca.pem"));
        let arguments = [
            "pki",
            "enrol",
            node,
            "--control-plane",
            &url,
            "--ca",
            ca.to_str().unwrap(),
            "--token",
            token,
        ];
        let mut arguments: Vec<String> = arguments.map(str::to_owned).into();
        arguments.extend(["--out".to_owned(), out.to_str().unwrap().to_owned()]);
        let mut process = Process::start(MERIDIAN, &arguments, &mesh.folder.path("enrol.log"));
        (process.ended(SOON).await.code(), process.log())
    };
    let (code, log) = enrol("sin", "not-the-token-of-this-control-plane").await;
    assert!(code == Some(1) && log.contains("token"), "{log}");
    let (code, log) = enrol("fra", mesh::ENROLMENT_TOKEN).await;
    assert!(
        code == Some(1) && log.contains("alive"),
        "the name of a living edge: {log}"
    );
    assert!(!out.exists());
    let (code, log) = enrol("sin", mesh::ENROLMENT_TOKEN).await;
    assert_eq!(code, Some(0), "{log}");
    mesh.run_edge("sin");
    mesh.wait_for_edges(2).await;
    let (code, _) = mesh.meeting(json!({})).await;
    assert_eq!(mesh.edge_for(&code, "sin").await, "sin");
}

#[tokio::test]
async fn an_edge_with_another_edges_certificate_does_not_start() {
    let folder = Folder::new();
    CertificateAuthority::create()
        .unwrap()
        .issue_node("iad", &[])
        .unwrap()
        .save(&folder.path("pki"))
        .unwrap();
    let arguments = [
        "edge",
        "--node-id",
        "fra",
        "--region",
        "fra",
        "--http-bind",
        "127.0.0.1:0",
        "--pki",
    ];
    let mut arguments: Vec<String> = arguments.map(str::to_owned).into();
    arguments.push(folder.path("pki").to_str().unwrap().to_owned());
    let mut edge = Process::start(MERIDIAN, &arguments, &folder.path("log"));
    assert_eq!(edge.ended(SOON).await.code(), Some(1));
    assert!(edge.log().contains("node.id is fra"), "{}", edge.log());
}
