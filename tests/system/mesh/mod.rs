//! A mesh as an operator runs it: etcd, a control plane and edges, each its own process with its own certificate and its own
//! configuration file.

pub(crate) mod process;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use process::{Answer, Folder, Process, eventually, free_port, get, post};
use serde_json::{Value, json};

pub(crate) const MERIDIAN: &str = env!("CARGO_BIN_EXE_meridian");
/// Seconds that a crashed edge stays in placement.
pub(crate) const LEASE_S: u64 = 2;
pub(crate) const SECRET: &str = "a-secret-of-at-least-32-characters";
pub(crate) const ENROLMENT_TOKEN: &str = "an-enrolment-token-of-24-or-more";
pub(crate) const OPERATOR_TOKEN: &str = "an-operators-token-of-24-or-more";
/// For what takes no time of its own, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) struct Mesh {
    // Dropped in this order: processes before their folder.
    pub(crate) edges: BTreeMap<String, Process>,
    pub(crate) control: Process,
    pub(crate) etcd: Etcd,
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
    pub(crate) folder: Folder,
}

impl Mesh {
    /// Starts everything and waits until people can be placed on every edge. Edges are named as their regions.
    pub(crate) async fn start(regions: &[&str]) -> Mesh {
        let folder = Folder::new();
        let etcd = Etcd::start(&folder);
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (http, grpc) = (loopback(free_port()), loopback(free_port()));
        let control = start_control(&folder, &etcd, http, grpc);
        let mut mesh = Mesh {
            edges: BTreeMap::new(),
            control,
            etcd,
            http,
            grpc,
            folder,
        };
        mesh.control_answers().await;
        for region in regions {
            mesh.start_edge(region).await;
        }
        mesh.wait_for_edges(regions.len()).await;
        mesh
    }

    pub(crate) async fn control_answers(&self) {
        eventually("the control plane is ready", SOON, async || {
            get(self.http, "/readyz").await.filter(|ready| ready.status == 200)
        })
        .await;
    }

    /// Until `count` edges are healthy in placement and attached.
    pub(crate) async fn wait_for_edges(&self, count: usize) {
        eventually(&format!("{count} edges are healthy and attached"), SOON, async || {
            let attached = get(self.http, "/readyz").await?.json()["edges_attached"] == count;
            (attached && self.placed().await?.values().filter(|healthy| **healthy).count() == count).then_some(())
        })
        .await;
    }

    /// Issues a certificate as an operator would, and starts an edge with it.
    pub(crate) async fn start_edge(&mut self, region: &str) {
        let pki = self.folder.path(&format!("pki-{region}"));
        let mut issue = Process::start(
            MERIDIAN,
            &strings(&[
                "pki",
                "node",
                region,
                "--authority",
                &text(&self.folder.path("data")),
                "--out",
                &text(&pki),
            ]),
            &self.folder.path("pki.log"),
        );
        assert!(issue.ended(SOON).await.success());
        self.run_edge(region);
    }

    /// Starts an edge that has its certificate.
    pub(crate) fn run_edge(&mut self, region: &str) {
        let pki = self.folder.path(&format!("pki-{region}"));
        let file = self.folder.path(&format!("{region}.toml"));
        let configuration = format!(
            "[node]\nid = '{region}'\nregion = '{region}'\ndrain_s = 2\n[http]\nbind = '127.0.0.1:0'\ntrusted_proxies = ['127.0.0.1']\n\
             [media]\nbind = ['127.0.0.1:0']\nthreads = 1\n[link]\nbind = '127.0.0.1:0'\n\
             [registry]\nkind = 'etcd'\nendpoints = ['{}']\nlease_s = {LEASE_S}\n\
             [control_plane]\nurl = 'https://{}'\n[pki]\ndirectory = '{}'\n",
            self.etcd.url,
            self.grpc,
            pki.display()
        );
        std::fs::write(&file, configuration).unwrap();
        let log = self.folder.path(&format!("{region}.log"));
        self.edges.insert(
            region.to_owned(),
            Process::start(MERIDIAN, &strings(&["edge", "-c", &text(&file)]), &log),
        );
    }

    /// Starts the control plane again, where it was.
    pub(crate) fn restart_control(&mut self) {
        self.control = start_control(&self.folder, &self.etcd, self.http, self.grpc);
    }

    pub(crate) async fn get(&self, path: &str) -> Option<Answer> {
        get(self.http, path).await
    }

    /// Edges in placement, with whether they are healthy. `None` while the control plane does not answer.
    pub(crate) async fn placed(&self) -> Option<BTreeMap<String, bool>> {
        let edges = self.summaries().await?;
        Some(
            edges
                .iter()
                .map(|edge| (edge["id"].as_str().unwrap().to_owned(), edge["healthy"] == true))
                .collect(),
        )
    }

    async fn summaries(&self) -> Option<Vec<Value>> {
        let regions = get(self.http, "/api/v1/regions").await?.json();
        let edges = |region: &Value| region["edges"].as_array().cloned().unwrap_or_default();
        Some(regions["regions"].as_array()?.iter().flat_map(edges).collect())
    }

    /// Where an edge's HTTP listens.
    pub(crate) async fn edge_address(&self, id: &str) -> SocketAddr {
        let edges = self.summaries().await.unwrap();
        let edge = edges
            .iter()
            .find(|edge| edge["id"] == id)
            .unwrap_or_else(|| panic!("{id} is not in placement"));
        let port = edge["url"]
            .as_str()
            .unwrap()
            .rsplit(':')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    /// Makes a meeting; gives its code and its host key.
    pub(crate) async fn meeting(&self, body: Value) -> (String, String) {
        let answer = post(self.http, "/api/v1/meetings", &body).await.unwrap();
        assert_eq!(answer.status, 201, "{answer:?}");
        let json = answer.json();
        (
            json["code"].as_str().unwrap().to_owned(),
            json["host_key"].as_str().unwrap().to_owned(),
        )
    }

    pub(crate) async fn end_meeting(&self, code: &str, host_key: &str) {
        let authorization = format!("Authorization: Bearer {host_key}\r\n");
        let path = format!("/api/v1/meetings/{code}");
        let answer = process::send(self.http, "DELETE", &path, &authorization, "")
            .await
            .unwrap();
        assert_eq!(answer.status, 204, "{answer:?}");
    }

    pub(crate) async fn join(&self, code: &str, body: &Value) -> Option<Answer> {
        join_at(self.http, code, body).await
    }

    /// The edge on which somebody from `region` is placed.
    pub(crate) async fn edge_for(&self, code: &str, region: &str) -> String {
        let answer = self.join(code, &json!({"name": "Ana", "from": region})).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["edge"]["id"].as_str().unwrap().to_owned()
    }
}

/// Joins through the process that listens at `address`: the control plane or an edge.
pub(crate) async fn join_at(address: SocketAddr, code: &str, body: &Value) -> Option<Answer> {
    post(address, &format!("/api/v1/meetings/{code}/join"), body).await
}

fn start_control(folder: &Folder, etcd: &Etcd, http: SocketAddr, grpc: SocketAddr) -> Process {
    let file = folder.path("control-plane.toml");
    // The tests ask more often than people would.
    let configuration = format!(
        "data_directory = '{}'\ndemo = true\nenrolment_tokens = ['{ENROLMENT_TOKEN}']\n\
         operator_tokens = ['{OPERATOR_TOKEN}']\n[http]\nbind = '{http}'\n[grpc]\nbind = '{grpc}'\n\
         [registry]\nkind = 'etcd'\nendpoints = ['{}']\nlease_s = {LEASE_S}\n\
         [limits]\njoins_per_minute_address = 10000\n[api_keys]\ndevkey = '{SECRET}'\n",
        folder.path("data").display(),
        etcd.url
    );
    std::fs::write(&file, configuration).unwrap();
    Process::start(
        MERIDIAN,
        &strings(&["control-plane", "-c", &text(&file)]),
        &folder.path("control-plane.log"),
    )
}

/// A single etcd that can be stopped and started again, with its data or without.
pub(crate) struct Etcd {
    process: Option<Process>,
    pub(crate) url: String,
    peers: String,
    data: PathBuf,
    log: PathBuf,
}

impl Etcd {
    pub(crate) fn start(folder: &Folder) -> Etcd {
        let url = || format!("http://127.0.0.1:{}", free_port());
        let mut etcd = Etcd {
            process: None,
            url: url(),
            peers: url(),
            data: folder.path("etcd"),
            log: folder.path("etcd.log"),
        };
        etcd.run();
        etcd
    }

    pub(crate) fn run(&mut self) {
        let cluster = format!("one={}", self.peers);
        let data = text(&self.data);
        let arguments = [
            ["--name", "one"],
            ["--data-dir", &data],
            ["--listen-client-urls", &self.url],
            ["--advertise-client-urls", &self.url],
            ["--listen-peer-urls", &self.peers],
            ["--initial-advertise-peer-urls", &self.peers],
            ["--initial-cluster", &cluster],
        ];
        self.process = Some(Process::start("etcd", &strings(&arguments.concat()), &self.log));
    }

    /// Kills it.
    pub(crate) fn stop(&mut self) {
        self.process = None;
    }

    /// `STOP` or `CONT`.
    pub(crate) fn signal(&self, signal: &str) {
        self.process.as_ref().unwrap().signal(signal);
    }

    pub(crate) fn lose_data(&self) {
        std::fs::remove_dir_all(&self.data).unwrap();
    }
}

pub(super) fn strings(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|argument| (*argument).to_owned()).collect()
}

pub(super) fn text(path: &std::path::Path) -> String {
    path.to_str().unwrap().to_owned()
}
