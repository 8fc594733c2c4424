//! Interop: coturn's client and peer programs (`turnutils_uclient`, `turnutils_peer`; Debian package `coturn`) against
//! our server. They carry their own judgement: everything sent must come back.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use meridian_turn::ServerConfig;
use meridian_turn::credentials::Credentials;
use meridian_turn::io::{TurnConfig, TurnServer};

const SECONDS_MAX: u64 = 30;
static STARTED: AtomicU32 = AtomicU32::new(0);

/// These tests judge us by somebody else's programs: without them nothing would be shown.
fn need_coturn() {
    let found = Command::new("turnutils_peer")
        .arg("-?")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    assert!(
        found,
        "coturn's programs are missing: apt-get install coturn (`./run test` does)"
    );
}

fn start() -> TurnServer {
    let credentials = Credentials::default().with_user("anna", "pw").with_secret("north");
    let mut server = ServerConfig::new("meridian.test", credentials);
    server.tcp_relay = true;
    server.relay_v4 = Some("127.0.0.1".parse::<IpAddr>().unwrap().into());
    server.relay_v6 = Some("::1".parse::<IpAddr>().unwrap().into());
    server.policy.allowed = vec!["127.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()];
    // The tests run beside each other, and a reserved port is not bound before its token comes: no two servers, and nobody who takes
    // whatever port the kernel gives (up to 60,999), may share a range.
    let first = 61_000 + ((std::process::id() % 11 * 2 + STARTED.fetch_add(1, Ordering::Relaxed) % 2) * 200) as u16;
    server.relay_ports = first..=first + 199;
    server.limits.unauthenticated = meridian_turn::limits::Rate {
        per_second: 1_000,
        burst: 1_000,
    };
    let mut config = TurnConfig::new(server);
    config.workers = 2;
    config.udp = vec!["127.0.0.1:0".parse().unwrap()];
    config.tcp = config.udp.clone();
    TurnServer::start(config).unwrap()
}

/// Stopped by its own handle when the test ends.
struct Peer(Child, u16);

impl Peer {
    fn start() -> Peer {
        // A port that is free now; the program cannot choose one itself.
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("turnutils_peer");
        command
            .args(["-L", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let peer = Peer(command.spawn().unwrap(), port);
        let probe = UdpSocket::bind("127.0.0.1:0").unwrap();
        probe.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let _ = probe.send_to(b"are you there", ("127.0.0.1", port));
            if probe.recv(&mut [0; 64]).is_ok() {
                return peer;
            }
            assert!(Instant::now() < end, "turnutils_peer does not echo");
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the client; its output must say that nothing was lost.
fn uclient(server: SocketAddr, arguments: &[&str]) {
    let output = run_uclient(server, arguments);
    let lossless = output.contains("Total lost packets 0 (0.000000%)");
    assert!(
        lossless && received(&output).is_some_and(|n| n >= 80),
        "turnutils_uclient {arguments:?}:\n{output}"
    );
}

fn received(output: &str) -> Option<u64> {
    let (_, rest) = output
        .lines()
        .rev()
        .find_map(|line| line.split_once("tot_recv_msgs="))?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn run_uclient(server: SocketAddr, arguments: &[&str]) -> String {
    let (mut status, mut output) = try_uclient(server, arguments);
    // It binds two channels of an allocation to numbers drawn from 16,384: now and then they are the same, which no server may grant.
    if output.contains("channel bind: error 400") {
        (status, output) = try_uclient(server, arguments);
    }
    assert!(status.success(), "turnutils_uclient {arguments:?}: {status}\n{output}");
    output
}

fn try_uclient(server: SocketAddr, arguments: &[&str]) -> (ExitStatus, String) {
    let port = server.port().to_string();
    let mut child = Command::new("turnutils_uclient")
        .args([
            "-u", "anna", "-w", "pw", "-n", "20", "-m", "4", "-z", "5", "-l", "300", "-p", &port,
        ])
        .args(arguments)
        .arg(server.ip().to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(SECONDS_MAX);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            let _ = child.kill();
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    (child.wait().unwrap(), output)
}

fn with_peer(arguments: &[&str]) {
    need_coturn();
    let (server, peer) = (start(), Peer::start());
    let port = peer.1.to_string();
    let both = [&["-e", "127.0.0.1", "-r", &port], arguments].concat();
    uclient(
        if arguments.contains(&"-t") {
            server.tcp()[0]
        } else {
            server.udp()[0]
        },
        &both,
    );
}

#[test]
fn coturn_client_over_udp_with_channels_and_rtcp_pairs() {
    with_peer(&[]);
}

#[test]
fn coturn_client_over_udp_with_send_indications() {
    with_peer(&["-s", "-c"]);
}

#[test]
fn coturn_client_over_udp_with_dont_fragment_and_extra_requests() {
    with_peer(&["-g", "-G", "-c"]);
}

#[test]
fn coturn_client_over_udp_with_a_dual_allocation() {
    with_peer(&["-Z"]);
}

#[test]
fn coturn_client_over_udp_with_a_rest_secret() {
    with_peer(&["-W", "north", "-X", "-c"]);
}

#[test]
fn coturn_client_over_tcp_with_channels() {
    with_peer(&["-t"]);
}

#[test]
fn coturn_client_over_tcp_with_send_indications() {
    with_peer(&["-t", "-s", "-c"]);
}

#[test]
fn coturn_clients_reach_each_other_through_two_relays() {
    need_coturn();
    let server = start();
    uclient(server.udp()[0], &["-y", "-c"]);
    uclient(server.tcp()[0], &["-y", "-c", "-t"]);
    uclient(server.udp()[0], &["-y", "-x", "-c"]);
}

#[test]
fn coturn_clients_reach_each_other_over_tcp_relays() {
    need_coturn();
    let server = start();
    uclient(server.tcp()[0], &["-T"]);
}

/// In this mode the program counts the half that its active side receives, against coturn's own server too (4.6.1).
#[test]
fn coturn_clients_accept_peers_over_tcp_relays() {
    need_coturn();
    let server = start();
    let output = run_uclient(server.tcp()[0], &["-P"]);
    assert!(
        received(&output) == Some(40) && output.contains("Total lost packets 40 "),
        "{output}"
    );
}
