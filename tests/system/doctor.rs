//! `meridian doctor`: each thing is broken in turn, and the sentence is read. What a test cannot break (the kernel's limits, clocks) is broken
//! as data beside the code in `src/doctor`.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use meridian_pki::{CertificateAuthority, NodeIdentity, PeerName, Role};
use serde_json::Value;

use crate::mesh::process::{Folder, free_port};
use crate::mesh::{MERIDIAN, Mesh, text};

/// What the doctor said.
struct Told {
    code: Option<i32>,
    report: Value,
    stderr: String,
}

impl Told {
    /// `problem: sentence → remedy` of the first finding of a check that has these words.
    fn about(&self, check: &str, words: &str) -> String {
        let findings = self.report["findings"].as_array().unwrap();
        let line = |finding: &Value| {
            let part = |key: &str| finding[key].as_str().unwrap().to_owned();
            format!("{}: {} → {}", part("verdict"), part("says"), part("do"))
        };
        let of_check = findings.iter().filter(|finding| finding["check"] == check).map(line);
        of_check
            .into_iter()
            .find(|line| line.contains(words))
            .unwrap_or_else(|| panic!("nothing about {check} with `{words}` in {:#}", self.report))
    }
}

fn doctor(arguments: &str) -> Told {
    told(
        Command::new(MERIDIAN)
            .args(["doctor", "--json"])
            .args(arguments.split(' ')),
    )
}

fn told(command: &mut Command) -> Told {
    let output = command.env_clear().env("PATH", "/usr/bin:/bin").output().unwrap();
    Told {
        code: output.status.code(),
        report: serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&output.stderr))),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn the_doctor_knows_a_mesh_that_is_well_and_what_was_broken_in_it() {
    let mut mesh = Mesh::start(&["fra"]).await;
    let edge = format!("edge -c {}", text(&mesh.folder.path("fra.toml")));
    let control = format!("control-plane -c {}", text(&mesh.folder.path("control-plane.toml")));
    let well = doctor(&edge);
    for (check, says) in [
        ("etcd", "good: http://127.0.0.1:"),
        ("etcd space", "good: http://127.0.0.1:"),
        ("control plane", "answers and takes this edge's certificate"),
        ("clock", "good: within 3 s of"),
        ("mesh identity", "good: "),
        ("listens", "good: "),
        ("configuration", "good: "),
        // All of this mesh is on one machine.
        (
            "advertised",
            "problem: link.advertise is not set, and what is bound is 127.0.0.1, this machine itself",
        ),
    ] {
        well.about(check, says);
    }
    assert_eq!(well.code, Some(1));
    assert!(well.stderr.contains("2 things are wrong"), "{}", well.stderr);
    doctor(&control).about("data directory", "good: only its owner may read");
    doctor(&control).about("GeoIP", "warning: geo.database is not set");

    let data = mesh.folder.path("data");
    chmod(&data.join("pki/ca.key"), 0o644);
    chmod(&data, 0o755);
    let open = doctor(&control).about("data directory", "problem: others on this machine may read");
    assert!(
        open.contains("chmod 700 ") && open.contains("chmod 600 ") && open.contains("ca.key"),
        "{open}"
    );

    let pki = mesh.folder.path("pki-fra");
    chmod(&pki.join("node.key"), 0o644);
    doctor(&edge).about("mesh identity", "problem: everybody on this machine may read");
    let stranger = CertificateAuthority::create().unwrap();
    std::fs::write(pki.join("ca.pem"), stranger.certificate_pem()).unwrap();
    let strange = doctor(&edge);
    strange.about("mesh identity", "do not belong together");
    strange.about("control plane", "problem: https://127.0.0.1:");

    mesh.etcd.stop();
    let alone = doctor(&edge);
    alone.about("etcd", "problem: http://127.0.0.1:");
    alone.about("etcd", "1 of 1 members are away");
}

/// A certificate for `host` that is good for so long, and its key.
fn certificate(folder: &Folder, host: &str, ttl: Duration) -> String {
    let authority = CertificateAuthority::create().unwrap();
    let name = PeerName {
        role: Role::Edge,
        id: "fra-1".to_owned(),
    };
    let NodeIdentity {
        certificate_pem,
        key_pem,
        ..
    } = authority.issue(name, &[host.to_owned()], ttl).unwrap();
    std::fs::write(folder.path("chain.pem"), certificate_pem).unwrap();
    std::fs::write(folder.path("key.pem"), key_pem).unwrap();
    chmod(&folder.path("key.pem"), 0o600);
    format!(
        "--set http.certificate={} --set http.private_key={}",
        text(&folder.path("chain.pem")),
        text(&folder.path("key.pem"))
    )
}

const EDGE: &str =
    "edge --node-id fra-1 --region fra --media-bind 127.0.0.1:0 --link-bind 127.0.0.1:0 --http-bind 127.0.0.1:0";

#[test]
fn certificates_of_other_names_and_other_times_are_told() {
    let folder = Folder::new();
    let days = |days: u64| Duration::from_secs(days * 86_400);
    let told = |host: &str, ttl| {
        let files = certificate(&folder, host, ttl);
        doctor(&format!("{EDGE} --public-url wss://fra-1.invalid {files}"))
    };
    let good = told("fra-1.invalid", days(90));
    good.about("certificate", "good: it is for fra-1.invalid");
    good.about(
        "advertised",
        "problem: http.public_url: DNS does not know fra-1.invalid",
    );
    good.about("mesh identity", "problem: pki/node.pem");
    told("iad-1.invalid", days(90)).about("certificate", "problem: clients are told fra-1.invalid, but ");
    told("fra-1.invalid", days(3)).about("certificate", "chain.pem ends in 3 days → renew it");
    told("fra-1.invalid", Duration::ZERO).about("certificate", "chain.pem ended 0 days ago → renew it");
    std::fs::write(folder.path("key.pem"), "no key").unwrap();
    let files = format!(
        "--set http.certificate={} --set http.private_key={}",
        text(&folder.path("chain.pem")),
        text(&folder.path("key.pem"))
    );
    doctor(&format!("{EDGE} {files}")).about("certificate", "problem: ");
}

#[test]
fn ports_that_are_taken_and_addresses_that_are_not_ours_are_told() {
    let taken = UdpSocket::bind(("127.0.0.1", free_port())).unwrap();
    let port = taken.local_addr().unwrap().port();
    let edge = format!(
        "edge --node-id fra-1 --region fra --http-bind 127.0.0.1:{}",
        free_port()
    );
    let busy = doctor(&format!("{edge} --media-bind 127.0.0.1:{port} --set media.threads=1"));
    let says = busy.about(
        "listens",
        &format!("problem: media.bind: UDP port {port} is taken by another program"),
    );
    assert!(says.contains(&format!("`ss -ulpn sport = :{port}`")), "{says}");
    let foreign = doctor(&format!("{edge} --media-bind 192.0.2.9:7882"));
    foreign.about(
        "listens",
        "problem: media.bind: 192.0.2.9 is no address of this machine",
    );
}

#[test]
fn a_configuration_with_a_mistake_is_all_that_is_talked_about() {
    let wrong = doctor("edge --node-id fra-1 --region fra --set htp.bind=1");
    assert_eq!(wrong.report["findings"].as_array().unwrap().len(), 1);
    let says = wrong.about("configuration", "`http.bind`");
    assert!(says.contains("deploy/config/edge.toml documents every key"), "{says}");
    assert_eq!(
        (wrong.code, wrong.stderr.as_str()),
        (Some(1), "meridian: 1 thing is wrong\n")
    );
}

#[test]
fn too_few_descriptors_are_told_and_text_says_what_json_says() {
    let line = format!(
        "ulimit -n 4096; exec {MERIDIAN} doctor turn --udp 127.0.0.1:0 --set turn.secrets=a-secret-of-sixteen-or-more --set turn.limits.allocations=8000"
    );
    let json = told(Command::new("sh").args(["-c", &format!("{line} --json")]));
    let says = json.about("descriptors", "problem: a process may have 4096 files");
    assert!(says.contains("LimitNOFILE="), "{says}");
    let text = Command::new("sh").args(["-c", &line]).env_clear().output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.contains("problem  descriptors     a process may have 4096 files"),
        "{text}"
    );
    assert!(text.contains("\n                         → LimitNOFILE="), "{text}");
}

#[test]
fn an_old_database_of_places_and_one_that_is_none_are_told() {
    let folder = Folder::new();
    let file = folder.path("places.mmdb");
    let told = || {
        let control = format!(
            "control-plane --data {} --http-bind 127.0.0.1:0",
            text(&folder.path("data"))
        );
        doctor(&format!("{control} --set geo.database={}", text(&file)))
    };
    std::fs::write(&file, "no database").unwrap();
    told().about("GeoIP", "problem: geo.database: ");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    std::fs::write(&file, database(now - 100 * 86_400)).unwrap();
    told().about("GeoIP", "(Places) was built 100 days ago: addresses have moved since");
    std::fs::write(&file, database(now)).unwrap();
    told().about("GeoIP", "good: ");
}

/// The emptiest MaxMind database that is one (<https://maxmind.github.io/MaxMind-DB/>), built at `epoch`.
fn database(epoch: u64) -> Vec<u8> {
    let mut out = vec![0, 0, 1, 0, 0, 1];
    out.extend([0; 16]);
    out.extend(b"\xab\xcd\xefMaxMind.com");
    let string = |text: &str| [&[0x40 | text.len() as u8], text.as_bytes()].concat();
    let number = |kind: u8, value: u64| {
        let bytes = value.to_be_bytes();
        let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
        match kind {
            // uint64 is an extended type.
            9 => [&[bytes.len() as u8, 2], bytes].concat(),
            kind => [&[kind << 5 | bytes.len() as u8], bytes].concat(),
        }
    };
    let entries = [
        (string("node_count"), number(6, 1)),
        (string("record_size"), number(5, 24)),
        (string("ip_version"), number(5, 4)),
        (string("database_type"), string("Places")),
        (string("languages"), vec![0x00, 4]),
        (string("binary_format_major_version"), number(5, 2)),
        (string("binary_format_minor_version"), number(5, 0)),
        (string("build_epoch"), number(9, epoch)),
        (string("description"), vec![0xe0]),
    ];
    out.push(0xe0 | entries.len() as u8);
    for (key, value) in entries {
        out.extend(key);
        out.extend(value);
    }
    out
}

/// Answers every request as an etcd that is full and whose clock is wrong would.
fn full_etcd() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap_or_default();
            let body = if request[..length].starts_with(b"GET /health") {
                r#"{"health":"false","reason":"ALARM NOSPACE"}"#
            } else {
                "etcd_mvcc_db_total_size_in_bytes 2.1e+09\netcd_server_quota_backend_bytes 2.147483648e+09\n"
            };
            let length = body.len();
            let date = "Sun, 29 Nov 2020 23:00:00 GMT";
            let head = format!("HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: {length}\r\n\r\n");
            let _ = stream.write_all((head + body).as_bytes());
        }
    });
    address
}

#[test]
fn a_full_etcd_and_a_wrong_clock_are_told() {
    let folder = Folder::new();
    let data = text(&folder.path("data"));
    let told = doctor(&format!("control-plane --data {data} --etcd http://{}", full_etcd()));
    told.about(
        "etcd",
        "says it is not healthy: ALARM NOSPACE → compact and defragment it",
    );
    told.about("etcd space", "MiB of 2048 MiB");
    let clock = told.about("clock", "s ahead of http://127.0.0.1:");
    assert!(clock.starts_with("problem: ") && clock.contains("chrony"), "{clock}");
}
