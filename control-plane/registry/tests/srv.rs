//! SRV records of a real DNS server on loopback, and a registry that follows them from one etcd to another.

#[path = "support/zone.rs"]
mod zone;

use meridian_registry::srv::{Discovery, SrvError};
use meridian_registry::{EtcdOptions, EtcdRegistry, Registry};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use zone::Zone;

const ETCD: &str = "_etcd-client._tcp";

fn any() -> std::net::SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn discovery(zone: &Zone, service: &str) -> Discovery {
    Discovery::new(&format!("{service}.meridian.test"), &[zone.address]).unwrap()
}

#[tokio::test]
async fn servers_are_found_in_order_of_priority_with_their_addresses() {
    let services = [
        (ETCD, (20, 0, 3, "c")),
        (ETCD, (10, 0, 1, "a")),
        (ETCD, (30, 0, 4, "gone")),
    ];
    let zone = Zone::serve(any(), &services, &["a", "c"]).await;
    let servers = discovery(&zone, ETCD).servers().await.unwrap();
    let read: Vec<_> = servers
        .iter()
        .map(|one| (one.name.as_str(), one.address.to_string()))
        .collect();
    // A target without an address is passed over.
    assert_eq!(
        read,
        [
            ("a.meridian.test", "127.0.0.1:1".to_owned()),
            ("c.meridian.test", "127.0.0.1:3".to_owned())
        ]
    );
}

#[tokio::test]
async fn each_failure_says_which_name_and_why() {
    let services = [("_none._tcp", (0, 0, 0, ".")), (ETCD, (0, 0, 1, "gone"))];
    let zone = Zone::serve(any(), &services, &[]).await;
    let error = async |service| discovery(&zone, service).servers().await.unwrap_err();
    assert!(matches!(error("_none._tcp").await, SrvError::NotOffered(_)));
    let missing = error("_other._tcp").await;
    assert!(matches!(missing, SrvError::Lookup { .. }), "{missing}");
    assert!(missing.to_string().contains("_other._tcp.meridian.test"), "{missing}");
    let nowhere = error(ETCD).await;
    assert!(matches!(nowhere, SrvError::NoAddress { .. }), "{nowhere}");
    assert!(nowhere.to_string().contains("gone.meridian.test"), "{nowhere}");
}

#[tokio::test]
async fn what_was_found_last_stands_in_while_dns_fails() {
    let zone = Zone::serve(any(), &[(ETCD, (0, 0, 1, "a"))], &["a"]).await;
    let discovery = discovery(&zone, ETCD);
    let before = discovery.servers().await.unwrap();
    // A zone that no longer has the name answers NXDOMAIN: no reason to let go of servers that work.
    zone.replace(&[], &[]).await;
    assert_eq!(discovery.servers().await.unwrap(), before);
    zone.replace(&[(ETCD, (0, 0, 2, "a"))], &["a"]).await;
    assert_eq!(
        discovery.servers().await.unwrap()[0].address.port(),
        2,
        "asked anew each time"
    );
}

/// Below the ports that the kernel hands out by itself, or another test may be given it before it is used.
fn free_port() -> u16 {
    loop {
        let port = rand::random_range(10_000..32_000);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A single etcd, killed at the end.
struct Etcd {
    process: Child,
    directory: std::path::PathBuf,
    port: u16,
}

impl Etcd {
    fn start(name: &str) -> Etcd {
        let (port, peer) = (free_port(), free_port());
        let directory = std::env::temp_dir().join(format!("meridian-srv-{}-{name}", std::process::id()));
        let (client, peers) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
        let process = Command::new("etcd")
            .args(["--name", name, "--log-level", "error", "--data-dir"])
            .arg(&directory)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("{name}={peers}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is in etcd-server");
        Etcd {
            process,
            directory,
            port,
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Until the registry takes a write; fails after 20 s.
async fn writes(registry: &EtcdRegistry, key: &str) {
    let patience = tokio::time::timeout(Duration::from_secs(20), async {
        while registry.put(key, bytes::Bytes::from_static(b"v"), None).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    patience.await.expect("etcd was not found");
}

#[tokio::test]
async fn a_registry_starts_before_its_records_exist_and_follows_them_to_another_etcd() {
    let zone = Zone::serve(any(), &[], &["a", "b"]).await;
    let options = EtcdOptions {
        discovery: Some(Arc::new(discovery(&zone, ETCD))),
        ..EtcdOptions::new(Vec::<String>::new())
    };
    let registry = EtcdRegistry::connect(options).await.unwrap();
    let error = registry.get("k").await.unwrap_err();
    assert!(error.to_string().contains("etcd has not been found"), "{error}");
    let first = Etcd::start("first");
    zone.replace(&[(ETCD, (0, 0, first.port, "a"))], &["a", "b"]).await;
    writes(&registry, "on-first").await;
    let second = Etcd::start("second");
    zone.replace(&[(ETCD, (0, 0, second.port, "b"))], &["a", "b"]).await;
    drop(first);
    writes(&registry, "on-second").await;
    assert!(
        registry.get("on-first").await.unwrap().is_none(),
        "this is the other etcd"
    );
}
