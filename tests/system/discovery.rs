//! Processes that know nothing but the name of a domain: etcd and the control plane are found by its SRV records, also after they moved.

use std::net::{Ipv4Addr, SocketAddr};

use super::mesh::process::{Folder, Process, eventually, free_port, get};
use super::mesh::{Etcd, LEASE_S, MERIDIAN, SECRET, SOON, strings, text};

#[path = "../../control-plane/registry/tests/support/zone.rs"]
mod zone;
use zone::Zone;

const ETCD: &str = "_etcd-client._tcp";
const CONTROL: &str = "_meridian-control._tcp";
const HOSTS: [&str; 1] = ["host"];

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// What both roles are told about the mesh.
fn found_by(zone: &Zone) -> String {
    format!(
        "[discovery]\nresolvers = ['{}']\n[registry]\nkind = 'etcd'\nsrv = '{ETCD}.meridian.test'\nlease_s = {LEASE_S}\n",
        zone.address
    )
}

fn control_plane(folder: &Folder, zone: &Zone, http: SocketAddr, grpc: SocketAddr) -> Process {
    let file = folder.path("control-plane.toml");
    let configuration = format!(
        "data_directory = '{}'\n[http]\nbind = '{http}'\n[grpc]\nbind = '{grpc}'\n{}[api_keys]\ndevkey = '{SECRET}'\n",
        folder.path("data").display(),
        found_by(zone)
    );
    std::fs::write(&file, configuration).unwrap();
    let arguments = strings(&["control-plane", "-c", &text(&file)]);
    Process::start(MERIDIAN, &arguments, &folder.path("control-plane.log"))
}

fn edge(folder: &Folder, zone: &Zone) -> Process {
    let file = folder.path("fra.toml");
    let configuration = format!(
        "[node]\nid = 'fra'\nregion = 'fra'\n[http]\nbind = '127.0.0.1:0'\n[media]\nbind = ['127.0.0.1:0']\nthreads = 1\n\
         [link]\nbind = '127.0.0.1:0'\n{}[control_plane]\nsrv = '{CONTROL}.meridian.test'\n[pki]\ndirectory = '{}'\n",
        found_by(zone),
        folder.path("pki-fra").display()
    );
    std::fs::write(&file, configuration).unwrap();
    let arguments = strings(&["edge", "-c", &text(&file)]);
    Process::start(MERIDIAN, &arguments, &folder.path("fra.log"))
}

async fn attached(http: SocketAddr, count: u64) {
    eventually(
        &format!("{count} edges are attached and registered"),
        SOON,
        async || {
            let ready = get(http, "/readyz").await?.json();
            (ready["edges_attached"] == count && ready["nodes"] == count).then_some(())
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_found_by_srv_records_also_after_the_control_plane_moved() {
    let folder = Folder::new();
    let etcd = Etcd::start(&folder);
    let etcd_port = etcd.url.rsplit(':').next().unwrap().parse().unwrap();
    let (http, grpc, dead) = (loopback(free_port()), loopback(free_port()), free_port());
    let services = |grpc: SocketAddr| {
        [
            (ETCD, (0, 0, etcd_port, "host")),
            // The first by priority is not there: the next one is tried.
            (CONTROL, (0, 0, dead, "host")),
            (CONTROL, (10, 0, grpc.port(), "host")),
        ]
    };
    let zone = Zone::serve(loopback(0), &services(grpc), &HOSTS).await;
    let control = control_plane(&folder, &zone, http, grpc);
    eventually("the control plane is ready", SOON, async || {
        get(http, "/readyz").await.filter(|ready| ready.status == 200)
    })
    .await;
    let (authority, out) = (text(&folder.path("data")), text(&folder.path("pki-fra")));
    let issue = strings(&["pki", "node", "fra", "--authority", &authority, "--out", &out]);
    let mut issue = Process::start(MERIDIAN, &issue, &folder.path("pki.log"));
    assert!(issue.ended(SOON).await.success());
    let _edge = edge(&folder, &zone);
    attached(http, 1).await;

    drop(control);
    let (http, grpc) = (loopback(free_port()), loopback(free_port()));
    zone.replace(&services(grpc), &HOSTS).await;
    let _control = control_plane(&folder, &zone, http, grpc);
    attached(http, 1).await;
}
