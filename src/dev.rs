//! `meridian dev`: a whole mesh in one process, for trying out, for tests and for `./run demo`. Everything listens on
//! loopback, except media, which browsers reach through whichever address of this machine they prefer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, ValueEnum};
use meridian_api::pki::CertificateAuthority;
use meridian_node::config::{HttpSettings, LinkSettings, MediaSettings, NodeSettings, RegistrySettings};
use meridian_node::{Edge, EdgeConfig};
use meridian_registry::{EtcdOptions, EtcdRegistry, MemoryRegistry, SharedRegistry};
use rand::Rng;
use rand::distr::Alphanumeric;

use crate::run;

/// The PoPs of the demo. Each is one edge, named as its region.
const POPS: [&str; 3] = ["fra", "iad", "sin"];
/// Seconds after which a killed edge gets nobody new: shorter than in production, so that it can be watched.
const LEASE_S: u64 = 2;
const API_KEY: &str = "devkey";

#[derive(Args)]
pub(crate) struct DevArgs {
    /// Port of the page; 0 = any free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Where edges find each other: inside this process, or in an etcd that is started for the demo.
    #[arg(long, value_enum, default_value = "memory")]
    registry: DevRegistry,
    /// The built browser app.
    #[arg(long, default_value = "control-plane/web/dist")]
    web: PathBuf,
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
    let registry: SharedRegistry = Arc::new(MemoryRegistry::new());
    let authority = CertificateAuthority::create()?;
    let secret: String = rand::rng().sample_iter(Alphanumeric).take(32).map(char::from).collect();
    let mut edges = Vec::new();
    for pop in POPS {
        let identity = authority.issue_node(pop, &[])?;
        let config = edge_config(pop, &secret, None);
        edges.push(Edge::start(config, registry.clone(), identity).await.with_context(|| format!("PoP {pop}"))?);
    }
    let listed: Vec<_> =
        edges.iter().map(|edge| serde_json::json!({ "id": edge.id(), "region": edge.id(), "url": edge.url() })).collect();
    let ready = serde_json::json!({ "api_key": API_KEY, "api_secret": secret, "edges": listed });
    if let Some(path) = &args.ready_file {
        std::fs::write(path, ready.to_string()).with_context(|| format!("--ready-file {}", path.display()))?;
    }
    println!("{ready:#}");
    run::stop_signal().await;
    println!("\nStopping…");
    for edge in edges {
        edge.stop().await;
    }
    Ok(())
}

fn edge_config(pop: &str, secret: &str, control_plane: Option<String>) -> EdgeConfig {
    let any_loopback_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut config = EdgeConfig {
        node: NodeSettings { id: pop.to_owned(), region: pop.to_owned(), ..NodeSettings::default() },
        http: HttpSettings { bind: any_loopback_port, ..HttpSettings::default() },
        media: MediaSettings {
            bind: vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))],
            advertise: media_addresses(),
            threads: 1,
        },
        link: LinkSettings { bind: any_loopback_port, advertise: None },
        registry: RegistrySettings { lease_s: LEASE_S, ..RegistrySettings::default() },
        api_keys: BTreeMap::from([(API_KEY.to_owned(), secret.to_owned())]),
        ..EdgeConfig::default()
    };
    config.control_plane.url = control_plane;
    config
}

/// Loopback, and the address this machine has towards others: some clients never use loopback for media.
fn media_addresses() -> Vec<IpAddr> {
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    // Connecting a UDP socket sends nothing: it only asks the routing table. The address is one of documentation (RFC 5737).
    let towards_others = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| socket.connect((Ipv4Addr::new(203, 0, 113, 1), 9)).and_then(|()| socket.local_addr()));
    if let Ok(address) = towards_others
        && !address.ip().is_loopback()
    {
        addresses.insert(0, address.ip());
    }
    addresses
}
