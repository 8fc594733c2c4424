//! A control plane to test against, edges that attach to it, and an HTTP client of thirty lines.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use meridian_control_plane::{ControlPlane, ControlPlaneConfig};
use meridian_pki::NodeIdentity;
use meridian_registry::nodes::{NodeRecord, NodeRegistration, NodeState, announce};
use meridian_registry::{MemoryRegistry, SharedRegistry};
use meridian_wire::v1::edge_control_client::EdgeControlClient;
use meridian_wire::v1::{self, edge_report::Report};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

pub const API_SECRET: &str = "a-secret-of-at-least-32-characters";
pub const OPERATOR_TOKEN: &str = "an-operators-token-of-some-length";

/// Waits until something holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub struct World {
    pub plane: ControlPlane,
    pub registry: SharedRegistry,
    pub directory: Directory,
}

/// Removed at the end of the test.
pub struct Directory(pub PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A directory of this test's own.
pub fn directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("meridian-cp-{}-{number}", std::process::id()))
}

pub fn config() -> ControlPlaneConfig {
    let mut config = ControlPlaneConfig {
        data_directory: directory(),
        demo: true,
        ..ControlPlaneConfig::default()
    };
    config.http.bind = ([127, 0, 0, 1], 0).into();
    config.grpc.bind = ([127, 0, 0, 1], 0).into();
    config.api_keys.insert("devkey".into(), API_SECRET.into());
    config
}

impl World {
    pub async fn start() -> Self {
        Self::with(config()).await
    }

    pub async fn with(config: ControlPlaneConfig) -> Self {
        let registry: SharedRegistry = Arc::new(MemoryRegistry::new());
        let directory = Directory(config.data_directory.clone());
        let plane = ControlPlane::start(config, registry.clone()).await.unwrap();
        World {
            plane,
            registry,
            directory,
        }
    }

    /// With edges fra-1, iad-1 and sin-1 registered, but not attached.
    pub async fn with_edges(config: ControlPlaneConfig) -> (Self, Vec<NodeRegistration>) {
        let world = Self::with(config).await;
        let mut edges = Vec::new();
        for region in ["fra", "iad", "sin"] {
            edges.push(world.announce(region).await);
        }
        world.plane.fleet().nodes().wait_for(|view| view.nodes.len() == 3).await;
        (world, edges)
    }

    pub async fn announce(&self, region: &str) -> NodeRegistration {
        let registration = announce(self.registry.clone(), record(region), Duration::from_secs(2));
        registration.registered().await;
        registration
    }

    pub async fn http(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Answer {
        let stream = tokio::net::TcpStream::connect(self.plane.http_address()).await.unwrap();
        exchange(stream, method, path, headers, body).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.http("GET", path, &[], None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.http("POST", path, &[], Some(&body)).await
    }

    /// Makes a meeting; gives (code, host key).
    pub async fn meeting(&self, body: Value) -> (String, String) {
        let answer = self.post("/api/v1/meetings", body).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        let json = answer.json();
        (
            json["code"].as_str().unwrap().to_owned(),
            json["host_key"].as_str().unwrap().to_owned(),
        )
    }

    pub async fn join(&self, code: &str, body: Value) -> Answer {
        self.post(&format!("/api/v1/meetings/{code}/join"), body).await
    }

    pub fn client(&self, identity: &NodeIdentity) -> EdgeControlClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("https://{}", self.plane.grpc_address())).unwrap();
        EdgeControlClient::new(endpoint.tls_config(identity.tonic_client()).unwrap().connect_lazy())
    }

    /// An edge attached over gRPC; gives its command stream and where to put reports.
    pub async fn attach(&self, node: &str) -> Attached {
        let identity = self.plane.certificate_authority().issue_node(node, &[]).unwrap();
        self.attach_as(&identity, node).await.unwrap()
    }

    pub async fn attach_as(&self, identity: &NodeIdentity, node: &str) -> Result<Attached, tonic::Status> {
        self.attach_with(identity, hello(node)).await
    }

    pub async fn attach_with(&self, identity: &NodeIdentity, hello: v1::Hello) -> Result<Attached, tonic::Status> {
        let (reports, queue) = mpsc::channel(8);
        reports
            .send(v1::EdgeReport {
                report: Some(Report::Hello(hello)),
            })
            .await
            .unwrap();
        let mut client = self.client(identity);
        let answer = client.attach(ReceiverStream::new(queue)).await?;
        Ok(Attached {
            client,
            reports,
            acknowledges: answer.metadata().contains_key(meridian_wire::OUTBOX_HEADER),
            commands: answer.into_inner(),
        })
    }
}

pub struct Attached {
    pub client: EdgeControlClient<Channel>,
    pub reports: mpsc::Sender<v1::EdgeReport>,
    pub commands: tonic::Streaming<v1::EdgeCommand>,
    /// It was answered that there is an inbox.
    pub acknowledges: bool,
}

/// An edge of the first protocol.
fn hello(node: &str) -> v1::Hello {
    v1::Hello {
        protocol: 1,
        node: node.into(),
        capacity: 100,
        ..v1::Hello::default()
    }
}

impl Attached {
    /// Sends an entry of the outbox.
    pub async fn entry(&self, number: u64, kind: Option<v1::entry::Kind>) {
        let report = Some(Report::Entry(v1::Entry { number, kind }));
        self.reports.send(v1::EdgeReport { report }).await.unwrap();
    }

    /// Waits until everything through this number is acknowledged.
    pub async fn received(&mut self, through: u64) {
        while self.command().await != v1::edge_command::Command::Received(v1::Received { through }) {}
    }

    /// Reports a session that has ended.
    pub async fn session(&self, address: &str, rtt_ms: f32) {
        let session = v1::SessionReport {
            room: "r".into(),
            participant: "PA_x".into(),
            client_address: address.into(),
            rtt_ms,
            samples: 9,
            duration_ms: 60_000,
            ended: true,
        };
        let report = v1::EdgeReport {
            report: Some(Report::Session(session)),
        };
        self.reports.send(report).await.unwrap();
    }

    pub async fn report(&self, participants: u32, rooms: &[(&str, u32)]) {
        let rooms = rooms.iter().map(|(room, people)| v1::RoomLoad {
            room: (*room).into(),
            participants: *people,
        });
        let load = v1::LoadReport {
            participants,
            rooms: rooms.collect(),
            accepting: true,
            ..v1::LoadReport::default()
        };
        self.reports
            .send(v1::EdgeReport {
                report: Some(Report::Load(load)),
            })
            .await
            .unwrap();
    }

    pub async fn command(&mut self) -> v1::edge_command::Command {
        let next = tokio::time::timeout(Duration::from_secs(5), self.commands.message())
            .await
            .expect("no command");
        next.unwrap().unwrap().command.unwrap()
    }
}

pub fn record(region: &str) -> NodeRecord {
    NodeRecord {
        version: 1,
        id: format!("{region}-1"),
        region: region.to_owned(),
        lat: None,
        lon: None,
        client_url: format!("ws://127.0.0.1:1/{region}"),
        addresses: Vec::new(),
        media: Vec::new(),
        link: None,
        turn: vec![format!("turn:{region}.example.org:3478?transport=udp")],
        state: NodeState::Active,
        capacity: 100,
        software: String::new(),
        incarnation: 0,
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .next()
    }

    /// Status and the code of the error.
    pub fn refusal(&self) -> (u16, String) {
        let json = self.json();
        assert!(json["detail"].as_str().unwrap().ends_with('.'), "{json}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{json}");
        assert_eq!(
            (json["status"].as_u64(), &json["message"]),
            (Some(self.status.into()), &json["detail"])
        );
        (self.status, json["code"].as_str().unwrap().to_owned())
    }
}

pub async fn exchange(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> Answer {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    let body = body.map(Value::to_string).unwrap_or_default();
    if !body.is_empty()
        && !headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("content-type"))
    {
        request += "Content-Type: application/json\r\n";
    }
    request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    // A TLS server may close without a goodbye.
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer {
        status,
        head: head.to_owned(),
        text: body.to_owned(),
    }
}
