//! `meridian dev`: a whole mesh in one process, for trying out, for tests and for `./run demo`. Everything listens on
//! loopback (or one other address), except media, which browsers reach through whichever address of this machine they prefer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use meridian_control_plane::config::{DnsConfig, GeoConfig, GrpcConfig, HttpConfig, LimitsConfig};
use meridian_control_plane::{ControlPlane, ControlPlaneConfig};
use meridian_node::config::{HttpSettings, LinkSettings, MediaSettings, NodeSettings, RecordingSettings};
use meridian_node::{Edge, EdgeConfig};
use meridian_registry::MemoryRegistry;
use meridian_registry::nodes::View;
use meridian_registry::settings::RegistrySettings;
use meridian_turn::settings::TurnSettings;
use rand::Rng;
use rand::distr::Alphanumeric;
use tokio::task::JoinSet;

use crate::run;
use engines::{Data, Engine, Etcd};

mod engines;

/// The PoPs of the demo. Each is one edge, named as its region.
const POPS: [&str; 3] = ["fra", "iad", "sin"];
/// Seconds after which a killed edge gets nobody new: shorter than in production, so that it can be watched.
const LEASE_S: u64 = 2;
/// How long the PoPs may take to be placed on. An etcd that was just started takes a second or two.
const ANNOUNCED: Duration = Duration::from_secs(30);
/// What GeoDNS serves, if asked for; `.test` is nobody's (RFC 6761).
const JOIN_HOSTNAME: &str = "join.meridian.test";
const API_KEY: &str = "devkey";

#[derive(Args)]
pub(crate) struct DevArgs {
    /// Port of the page; 0 = any free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Address to listen on, for browsers on other machines: they give cameras to secure pages only, so it needs a certificate.
    #[arg(long, default_value = "127.0.0.1")]
    address: IpAddr,
    /// PEM certificate chain that browsers trust, for that address.
    #[arg(long, value_name = "FILE", requires = "private_key")]
    certificate: Option<PathBuf>,
    /// PEM key of the certificate.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    private_key: Option<PathBuf>,
    /// Where edges find each other: inside this process, or in an etcd that is started for the demo.
    #[arg(long, value_enum, default_value = "memory")]
    registry: DevRegistry,
    /// The built browser app.
    #[arg(long, default_value = "control-plane/web/dist")]
    web: PathBuf,
    /// Serves join.meridian.test by DNS, on this port of loopback; 0 = any free one. Default: no DNS.
    #[arg(long, value_name = "PORT")]
    dns: Option<u16>,
    /// A MaxMind database of places by address, for joins and DNS.
    #[arg(long, value_name = "FILE")]
    geo: Option<PathBuf>,
    /// Where meetings, keys and certificates are kept. Default: a directory that is removed at the end.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Writes where everything listens, as JSON, once it does.
    #[arg(long)]
    ready_file: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DevRegistry {
    Memory,
    Etcd,
}

pub(crate) async fn run(args: DevArgs) -> anyhow::Result<()> {
    let mut signal = run::Signals::install()?;
    let data = Data::open(args.data.clone())?;
    let demo = tokio::select! {
        demo = Demo::start(&args, &data) => demo?,
        // What has been started goes with the future: etcd is killed, the directory removed.
        () = signal.end_or_hangup() => return Ok(()),
    };
    signal.end_or_hangup().await;
    println!("\nStopping…");
    tokio::select! {
        () = demo.stop() => {}
        () = signal.end_or_hangup() => anyhow::bail!("stopped at once, without a goodbye to clients"),
    }
    println!("Stopped.");
    Ok(())
}

/// Everything that runs.
struct Demo {
    engine: Engine,
    control: ControlPlane,
    edges: Vec<Edge>,
}

impl Demo {
    async fn start(args: &DevArgs, data: &Data) -> anyhow::Result<Demo> {
        let engine = match args.registry {
            DevRegistry::Memory => Engine::Memory(MemoryRegistry::new()),
            DevRegistry::Etcd => Engine::Etcd(Etcd::start(&data.path.join("etcd")).await?),
        };
        let secret: String = rand::rng().sample_iter(Alphanumeric).take(32).map(char::from).collect();
        let control = ControlPlane::start(control_config(args, &data.path, &secret), engine.connect().await?).await?;
        let mut edges = Vec::new();
        for (number, pop) in POPS.iter().enumerate() {
            let identity = control.certificate_authority().issue_node(pop, &[])?;
            let mut config = edge_config(args, pop, &secret, control.grpc_address(), &data.path);
            if args.dns.is_some() {
                config.http.public_addresses = vec![documentation_address(number)];
            }
            let started = Edge::start(config, engine.connect().await?, identity).await;
            edges.push(started.with_context(|| format!("PoP {pop}"))?);
        }
        let everybody = |view: &View| POPS.iter().all(|pop| view.get(pop).is_some());
        let placed = tokio::time::timeout(ANNOUNCED, control.fleet().nodes().wait_for(everybody)).await;
        placed.context("the control plane does not see all PoPs in the registry; the log says more")?;
        let page = control.http_url();
        welcome(&page, &secret, &edges);
        if let Some(dns) = control.dns_addresses().first() {
            println!(
                "\n  DNS           dig @{} -p {} {JOIN_HOSTNAME} +subnet=…",
                dns.ip(),
                dns.port()
            );
        }
        if let Some(path) = &args.ready_file {
            let ready = ready(&page, &secret, &edges, control.dns_addresses(), &data.path).to_string();
            std::fs::write(path, ready).with_context(|| format!("--ready-file {}", path.display()))?;
        }
        Ok(Demo { engine, control, edges })
    }

    async fn stop(self) {
        let mut stopping = JoinSet::new();
        for edge in self.edges {
            stopping.spawn(edge.stop());
        }
        while stopping.join_next().await.is_some() {}
        self.control.shutdown().await;
        self.engine.stop().await;
    }
}

fn welcome(page: &str, secret: &str, edges: &[Edge]) {
    println!(
        "\nMeridian is up: a control plane and {} PoPs on this machine.\n",
        edges.len()
    );
    println!("  Open          {page}");
    println!("  as if from    {page}/?from=fra   {page}/?from=iad   {page}/?from=sin");
    println!("\n  Any LiveKit SDK joins too, with a token signed by");
    println!("  API key       {API_KEY}\n  secret        {secret}");
    for edge in edges {
        println!("  {:<13} {}", edge.id(), edge.url());
    }
    println!("\n  Media through TURN only, as behind a strict firewall: add ?relay=udp or ?relay=tcp to the link.");
    println!("\nCtrl-C stops everything.");
}

fn ready(page: &str, secret: &str, edges: &[Edge], dns: &[SocketAddr], data: &Path) -> serde_json::Value {
    let edges: Vec<_> = edges
        .iter()
        .map(|edge| serde_json::json!({ "id": edge.id(), "region": edge.id(), "url": edge.url(), "turn": edge.turn_urls() }))
        .collect();
    serde_json::json!({ "page": page, "api_key": API_KEY, "api_secret": secret, "edges": edges, "dns": dns, "recordings": recordings_folder(data) })
}

fn control_config(args: &DevArgs, data: &Path, secret: &str) -> ControlPlaneConfig {
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    ControlPlaneConfig {
        data_directory: data.to_owned(),
        http: HttpConfig {
            bind: SocketAddr::new(args.address, args.port),
            certificate: args.certificate.clone(),
            private_key: args.private_key.clone(),
            web_directory: Some(args.web.clone()).filter(|directory| directory.join("index.html").exists()),
            ..HttpConfig::default()
        },
        grpc: GrpcConfig {
            bind: loopback(0),
            ..GrpcConfig::default()
        },
        registry: RegistrySettings {
            lease_s: LEASE_S,
            ..RegistrySettings::default()
        },
        geo: GeoConfig {
            database: args.geo.clone(),
            ..GeoConfig::default()
        },
        dns: args.dns.map(|port| dns_config(loopback(port))).unwrap_or_default(),
        api_keys: BTreeMap::from([(API_KEY.to_owned(), secret.to_owned())]),
        // Everybody in the demo has the same address.
        limits: LimitsConfig {
            joins_per_minute_address: 1_000,
            meetings_per_minute_address: 1_000,
            ..LimitsConfig::default()
        },
        operator_tokens: vec![secret.to_owned()],
        demo: true,
        ..ControlPlaneConfig::default()
    }
}

fn dns_config(bind: SocketAddr) -> DnsConfig {
    const NAME_SERVER: &str = "ns1.meridian.test";
    DnsConfig {
        bind: vec![bind],
        zone: "meridian.test".to_owned(),
        hostnames: vec![JOIN_HOSTNAME.to_owned()],
        name_servers: vec![NAME_SERVER.to_owned()],
        hosts: BTreeMap::from([(NAME_SERVER.to_owned(), vec![bind.ip()])]),
        ..DnsConfig::default()
    }
}

/// All PoPs of the demo are on loopback; so that DNS answers can be told apart, each has an address made for examples (RFC 5737).
fn documentation_address(number: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10 * (number as u8 + 1)))
}

fn edge_config(args: &DevArgs, pop: &str, secret: &str, control_plane: SocketAddr, data: &Path) -> EdgeConfig {
    let any_port = SocketAddr::new(args.address, 0);
    let mut config = EdgeConfig {
        node: NodeSettings {
            id: pop.to_owned(),
            region: pop.to_owned(),
            // All stop together.
            drain_s: 0,
            ..NodeSettings::default()
        },
        http: HttpSettings {
            bind: any_port,
            certificate: args.certificate.clone(),
            private_key: args.private_key.clone(),
            ..HttpSettings::default()
        },
        media: MediaSettings {
            bind: vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))],
            advertise: media_addresses(args.address),
            threads: 1,
        },
        turn: TurnSettings {
            udp: vec![any_port],
            tcp: vec![any_port],
            threads: 1,
            drain_s: 0,
            ..TurnSettings::default()
        },
        recording: RecordingSettings {
            store: recordings_url(data),
            spool: data.join("spool").join(pop),
            ..RecordingSettings::default()
        },
        link: LinkSettings {
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            advertise: None,
        },
        registry: RegistrySettings {
            lease_s: LEASE_S,
            ..RegistrySettings::default()
        },
        api_keys: BTreeMap::from([(API_KEY.to_owned(), secret.to_owned())]),
        ..EdgeConfig::default()
    };
    config.control_plane.url = Some(format!("https://{control_plane}"));
    config
}

/// Recordings of the demo stand in a folder beside its other data.
fn recordings_folder(data: &Path) -> PathBuf {
    let folder = data.join("recordings");
    std::path::absolute(&folder).unwrap_or(folder)
}

fn recordings_url(data: &Path) -> String {
    url::Url::from_file_path(recordings_folder(data)).map_or_else(|()| String::new(), |url| url.to_string())
}

/// What the demo listens on, or, on loopback, the address this machine has towards others too: some clients never use loopback for media.
fn media_addresses(listening: IpAddr) -> Vec<IpAddr> {
    if !listening.is_loopback() {
        return vec![listening];
    }
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    // Connecting a UDP socket sends nothing: it only asks the routing table. The address is one of documentation (RFC 5737).
    let towards_others = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket
            .connect((Ipv4Addr::new(203, 0, 113, 1), 9))
            .and_then(|()| socket.local_addr())
    });
    if let Ok(address) = towards_others
        && !address.ip().is_loopback()
    {
        addresses.insert(0, address.ip());
    }
    addresses
}
