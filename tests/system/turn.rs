//! `meridian turn` as a process, judged by coturn's programs, and how it and the TURN server in an edge end.
#![forbid(unsafe_code)]

#[path = "mesh/process.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod process;
/// A client made of single requests.
#[path = "../../turn/tests/support/mod.rs"]
mod requests;

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meridian_pki::{CertificateAuthority, NodeIdentity, parse_certificates};
use meridian_turn::stun::{Method, attribute};
use process::{Folder, Process, eventually, free_port, get};
use requests::link::{call, udp_socket};
use requests::{Client, anna, bert, channel_data, peer_attribute, u32_attribute, udp};

const MERIDIAN: &str = env!("CARGO_BIN_EXE_meridian");
const SOON: Duration = Duration::from_secs(20);
const SECRET: &str = "a-secret-of-some-length";

struct Turn {
    process: Process,
    udp: SocketAddr,
    tls: SocketAddr,
    dtls: SocketAddr,
    http: SocketAddr,
    folder: Folder,
}

impl Turn {
    /// Relays on loopback, to loopback if `peers` says so.
    async fn start(peers: &str, drain_s: u32) -> Turn {
        let folder = Folder::new();
        certify(&folder);
        let [udp, tls, dtls, http] = [(); 4].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let certificate = folder.path("web/node.pem");
        let key = folder.path("web/node.key");
        let config = format!(
            "[turn]\ndrain_s = {drain_s}\nudp = ['{udp}']\ntcp = ['{udp}']\ntls = ['{tls}']\nsecrets = ['{SECRET}']\n\
             allowed_peers = [{peers}]\nthreads = 2\n[turn.limits]\nstranger_answers_per_s = 1000\n[http]\nbind = '{http}'\n\
             [tls]\ncertificate = '{}'\nprivate_key = '{}'\n",
            certificate.display(),
            key.display()
        );
        let file = folder.path("turn.toml");
        std::fs::write(&file, config).unwrap();
        let dtls_flag = dtls.to_string();
        let arguments = ["turn", "--config", file.to_str().unwrap(), "--dtls", &dtls_flag].map(str::to_owned);
        let process = Process::start(MERIDIAN, &arguments, &folder.path("turn.log"));
        eventually("it is ready", SOON, async || {
            get(http, "/readyz").await.filter(|answer| answer.status == 200)
        })
        .await;
        Turn {
            process,
            udp,
            tls,
            dtls,
            http,
            folder,
        }
    }

    async fn metric(&self, name: &str) -> u64 {
        metric(self.http, name).await
    }
}

/// The value of a metric, with its labels as they are written.
async fn metric(http: SocketAddr, name: &str) -> u64 {
    let text = get(http, "/metrics").await.unwrap().text;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

/// An edge alone, with a TURN server in it that relays to loopback.
struct Edge {
    process: Process,
    turn: SocketAddr,
    media: SocketAddr,
    http: SocketAddr,
    folder: Folder,
}

impl Edge {
    async fn start(drain_s: u32) -> Edge {
        let edge = Edge::launch(drain_s, |_| Default::default());
        eventually("it is ready", SOON, async || {
            get(edge.http, "/readyz").await.filter(|answer| answer.status == 200)
        })
        .await;
        edge
    }

    /// With HTTPS, and DTLS.
    async fn start_secure(dtls: SocketAddr) -> Edge {
        let edge = Edge::launch(0, |folder| {
            let [certificate, key] = ["web/node.pem", "web/node.key"].map(|name| folder.path(name));
            let (certificate, key) = (certificate.display(), key.display());
            [
                format!("certificate = '{certificate}'\nprivate_key = '{key}'\n"),
                format!("dtls = ['{dtls}']\n"),
            ]
        });
        eventually("it is ready", SOON, async || {
            edge.process.log().contains("edge started").then_some(())
        })
        .await;
        edge
    }

    /// `more`: lines for [http], and for [turn].
    fn launch(drain_s: u32, more: impl FnOnce(&Folder) -> [String; 2]) -> Edge {
        let folder = Folder::new();
        certify(&folder);
        let [http_keys, turn_keys] = more(&folder);
        let [turn, media, http] = [(); 3].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let config = format!(
            "[node]\nid = 'web'\nregion = 'fra'\n[http]\nbind = '{http}'\n{http_keys}[media]\nbind = ['{media}']\nthreads = 1\n\
             [turn]\n{turn_keys}drain_s = {drain_s}\nudp = ['{turn}']\ntcp = ['{turn}']\nsecrets = ['{SECRET}']\nthreads = 2\n\
             realm = '{}'\nallowed_peers = ['127.0.0.0/8']\n[turn.users]\nanna = 'pw-a'\nbert = 'pw-b'\n[link]\nbind = '127.0.0.1:0'\n[registry]\nkind = 'memory'\n\
             [pki]\ndirectory = '{}'\n[api_keys]\ndevkey = 'a-secret-of-at-least-32-characters'\n",
            requests::REALM,
            folder.path("web").display()
        );
        let file = folder.path("edge.toml");
        std::fs::write(&file, config).unwrap();
        let arguments = ["edge", "--config", file.to_str().unwrap()].map(str::to_owned);
        let process = Process::start(MERIDIAN, &arguments, &folder.path("edge.log"));
        Edge {
            process,
            turn,
            media,
            http,
            folder,
        }
    }

    /// Allocates over UDP, with channel 0x4001 to `peer`.
    fn allocate(&self, mut client: Client, peer: SocketAddr) -> Caller {
        let mut socket = udp_socket("127.0.0.1");
        socket.connect(self.turn).unwrap();
        assert_eq!(call(&mut socket, &mut client, Method::ALLOCATE, &[udp()]).error, 0);
        let number = u32_attribute(attribute::CHANNEL_NUMBER, 0x4001 << 16);
        let bind = [number, peer_attribute(peer)];
        assert_eq!(call(&mut socket, &mut client, Method::CHANNEL_BIND, &bind).error, 0);
        Caller { client, socket }
    }

    async fn waits(&self) {
        eventually("its own people were sent away", SOON, async || {
            let log = self.process.log();
            log.contains("waiting for TURN allocations to end").then_some(())
        })
        .await;
    }
}

/// Somebody with an allocation.
struct Caller {
    client: Client,
    socket: UdpSocket,
}

impl Caller {
    /// The error code; 0 = none.
    fn refresh(&mut self, seconds: u32) -> u16 {
        let lifetime = [u32_attribute(attribute::LIFETIME, seconds)];
        call(&mut self.socket, &mut self.client, Method::REFRESH, &lifetime).error
    }

    /// What comes back from an echo behind the channel.
    fn echo(&self, payload: &[u8]) -> Vec<u8> {
        let mut buffer = [0; 2048];
        self.socket.send(&channel_data(0x4001, payload)).unwrap();
        let length = self.socket.recv(&mut buffer).unwrap();
        buffer[4..length].to_vec()
    }
}

fn certify(folder: &Folder) {
    let run = |arguments: &[&str]| {
        assert!(
            Command::new(MERIDIAN)
                .args(arguments)
                .env_clear()
                .status()
                .unwrap()
                .success()
        )
    };
    let path = |name: &str| folder.path(name).to_str().unwrap().to_owned();
    run(&["pki", "create", "--out", &path("ca")]);
    run(&["pki", "node", "web", "--authority", &path("ca"), "--out", &path("web")]);
}

/// coturn's echo, stopped when dropped.
struct Echo(Child, u16);

impl Echo {
    async fn start() -> Echo {
        let port = free_port();
        let child = Command::new("turnutils_peer")
            .args(["-L", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("coturn's programs are missing: apt-get install coturn (`./run test` does)");
        let probe = UdpSocket::bind("127.0.0.1:0").unwrap();
        probe.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        eventually("turnutils_peer echoes", SOON, async || {
            probe.send_to(b"are you there", ("127.0.0.1", port)).ok()?;
            probe.recv(&mut [0; 64]).ok()
        })
        .await;
        Echo(child, port)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts coturn's client with the secret of the TURN REST convention.
fn client(server: SocketAddr, arguments: &[&str], output: &Path) -> Child {
    Command::new("turnutils_uclient")
        .args([
            "-W",
            SECRET,
            "-u",
            "ana",
            "-m",
            "2",
            "-z",
            "5",
            "-l",
            "300",
            "-p",
            &server.port().to_string(),
        ])
        .args(arguments)
        .arg(server.ip().to_string())
        .stdout(std::fs::File::create(output).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .expect("coturn's programs are missing: apt-get install coturn (`./run test` does)")
}

async fn end_of(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn coturns_client_gets_everything_back_over_udp_tcp_and_tls_and_metrics_say_so() {
    let (turn, echo, folder) = (
        Turn::start("'127.0.0.0/8'", 0).await,
        Echo::start().await,
        Folder::new(),
    );
    let port = echo.1.to_string();
    let relayed = async |direction: &str| {
        let name = format!("meridian_turn_relayed_packets_total{{direction=\"{direction}\"}}");
        turn.metric(&name).await
    };
    for (transport, server, flags) in [
        ("udp", turn.udp, &[][..]),
        ("tcp", turn.udp, &["-t"]),
        ("tls", turn.tls, &["-t", "-S"]),
    ] {
        let before = [relayed("up").await, relayed("down").await];
        let arguments = [&["-n", "20", "-c", "-e", "127.0.0.1", "-r", &port], flags].concat();
        let log = folder.path(transport);
        let status = end_of(&mut client(server, &arguments, &log)).await;
        let output = std::fs::read_to_string(&log).unwrap();
        let said = format!("{transport}:\n{output}\n{}", turn.process.log());
        assert!(status.success(), "{said}");
        let now = [relayed("up").await, relayed("down").await];
        assert!(
            now[0] - before[0] == 40 && now[1] - before[1] == 40,
            "{before:?} {now:?} {said}"
        );
        // Over TLS this client takes a record for a message: of two that came in one record it misses the second.
        let all = output.contains("Total lost packets 0 (0.000000%)");
        assert!(all || transport == "tls", "{said}");
        let total = format!("meridian_turn_allocations_total{{transport=\"{transport}\"}}");
        assert!(turn.metric(&total).await >= 2, "{transport}");
    }
}

#[tokio::test]
async fn loopback_is_refused_unless_it_is_configured() {
    let (turn, echo, folder) = (Turn::start("", 0).await, Echo::start().await, Folder::new());
    let port = echo.1.to_string();
    let log = folder.path("log");
    let mut refused = client(turn.udp, &["-n", "5", "-c", "-e", "127.0.0.1", "-r", &port], &log);
    // Loopback is the relay's own address here, so it takes a packet to know that no allocation has the peer's port.
    eventually("a packet was refused", SOON, async || {
        (turn.metric("meridian_turn_dropped_total{reason=\"peer\"}").await > 0).then_some(())
    })
    .await;
    let _ = refused.kill();
    let _ = refused.wait();
    assert_eq!(
        turn.metric("meridian_turn_relayed_packets_total{direction=\"up\"}")
            .await,
        0
    );
}

#[tokio::test]
async fn stopping_waits_for_the_last_allocation_and_a_second_signal_waits_for_nothing() {
    let (echo, folder) = (Echo::start().await, Folder::new());
    let port = echo.1.to_string();
    for hurried in [false, true] {
        let mut turn = Turn::start("'127.0.0.0/8'", 600).await;
        // Over TCP an allocation ends with its connection. A minute of packets: nobody waits for it.
        let arguments = ["-n", "60000", "-z", "1", "-c", "-t", "-e", "127.0.0.1", "-r", &port];
        let mut held = client(turn.udp, &arguments, &folder.path("held"));
        eventually("an allocation", SOON, async || {
            (turn.metric("meridian_turn_allocations{transport=\"tcp\"}").await > 0).then_some(())
        })
        .await;
        turn.process.signal("TERM");
        eventually("it takes nobody new", SOON, async || {
            get(turn.http, "/readyz").await.filter(|answer| answer.status == 503)
        })
        .await;
        assert_eq!(turn.metric("meridian_turn_draining").await, 1);
        if hurried {
            turn.process.signal("TERM");
            assert_eq!(
                turn.process.ended(SOON).await.code(),
                Some(1),
                "it says that it did not wait"
            );
        }
        let _ = held.kill();
        let _ = held.wait();
        if !hurried {
            assert_eq!(turn.process.ended(SOON).await.code(), Some(0), "{}", turn.process.log());
        }
    }
}

#[tokio::test]
async fn an_edge_that_is_stopped_relays_between_others_until_the_last_allocation_or_a_second_signal() {
    let echo = Echo::start().await;
    for hurried in [false, true] {
        let mut edge = Edge::start(600).await;
        let mut anna = edge.allocate(anna(), ([127, 0, 0, 1], echo.1).into());
        edge.process.signal("TERM");
        edge.waits().await;
        let ready = get(edge.http, "/readyz").await.unwrap();
        assert_eq!((ready.status, ready.text.as_str()), (503, "stopping\n"));
        assert_eq!(metric(edge.http, "meridian_turn_draining").await, 1);
        assert_eq!(get(edge.http, "/rtc/v1?access_token=x").await.unwrap().status, 503);
        let mut newcomer = udp_socket("127.0.0.1");
        newcomer.connect(edge.turn).unwrap();
        assert_eq!(
            call(&mut newcomer, &mut bert(), Method::ALLOCATE, &[udp()]).error,
            508,
            "it takes nobody new"
        );
        assert_eq!(
            (anna.refresh(600), anna.echo(b"still here")),
            (0, b"still here".to_vec())
        );
        if hurried {
            edge.process.signal("TERM");
            let code = edge.process.ended(SOON).await.code();
            assert_eq!(code, Some(1), "it says that it did not wait");
        } else {
            assert_eq!(anna.refresh(0), 0);
            assert_eq!(edge.process.ended(SOON).await.code(), Some(0), "{}", edge.process.log());
        }
    }
}

#[tokio::test]
async fn an_edge_that_is_stopped_waits_for_others_no_longer_than_configured() {
    let (echo, mut edge) = (Echo::start().await, Edge::start(2).await);
    let _gone = edge.allocate(anna(), ([127, 0, 0, 1], echo.1).into());
    let begin = Instant::now();
    edge.process.signal("TERM");
    assert_eq!(edge.process.ended(SOON).await.code(), Some(0), "{}", edge.process.log());
    assert!(begin.elapsed() >= Duration::from_secs(2));
    assert!(edge.process.log().contains("TURN allocations have not ended in time"));
}

#[tokio::test]
async fn an_edge_that_is_stopped_does_not_wait_for_allocations_that_lead_nowhere_but_to_itself() {
    let mut edge = Edge::start(600).await;
    let mut anna = edge.allocate(anna(), edge.media);
    assert_eq!(anna.refresh(600), 0);
    edge.process.signal("TERM");
    assert_eq!(edge.process.ended(SOON).await.code(), Some(0), "{}", edge.process.log());
    assert!(!edge.process.log().contains("waiting for TURN allocations"));
}

/// The first certificate that a TLS port shows.
async fn shown(address: SocketAddr, trusting: &NodeIdentity) -> Option<Vec<u8>> {
    // Anew each time: a resumed session shows no certificate.
    let client = tokio_rustls::TlsConnector::from(Arc::new(trusting.client_config(&[]).unwrap()));
    let stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let name = "localhost".try_into().unwrap();
    let stream = client.connect(name, stream).await.ok()?;
    Some(stream.get_ref().1.peer_certificates()?.first()?.to_vec())
}

/// Whether a DTLS port shows this certificate, as OpenSSL sees it.
async fn shows_by_dtls(address: SocketAddr, certificate_pem: &str) -> bool {
    let output = tokio::task::spawn_blocking(move || {
        Command::new("openssl")
            .args(["s_client", "-dtls1_2", "-connect", &address.to_string()])
            .stdin(Stdio::null())
            .output()
            .expect("openssl is missing: apt-get install openssl (`./run test` does)")
    });
    let plain = |text: &str| text.split_whitespace().collect::<String>();
    plain(&String::from_utf8_lossy(&output.await.unwrap().stdout)).contains(&plain(certificate_pem))
}

#[tokio::test]
async fn renewed_certificates_are_shown_without_a_restart_by_turn_and_by_an_edge() {
    let dtls = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (turn, edge) = (Turn::start("", 0).await, Edge::start_secure(dtls).await);
    for (tls, dtls, folder, process) in [
        (turn.tls, turn.dtls, &turn.folder, &turn.process),
        (edge.http, dtls, &edge.folder, &edge.process),
    ] {
        let authority = CertificateAuthority::load(&folder.path("ca")).unwrap();
        let renewed = authority.issue_node("web", &[]).unwrap();
        let leaf = parse_certificates("renewed", &renewed.certificate_pem).unwrap()[0].to_vec();
        assert_ne!(shown(tls, &renewed).await.unwrap(), leaf);
        renewed.save(&folder.path("web")).unwrap();
        eventually("the new one is shown", SOON, async || {
            (shown(tls, &renewed).await? == leaf).then_some(())
        })
        .await;
        eventually("by DTLS too", SOON, async || {
            shows_by_dtls(dtls, &renewed.certificate_pem).await.then_some(())
        })
        .await;
        std::fs::write(folder.path("web/node.pem"), "half a certificate").unwrap();
        eventually("the broken one is noticed", SOON, async || {
            process.log().contains("the new certificate is of no use").then_some(())
        })
        .await;
        assert_eq!(shown(tls, &renewed).await.unwrap(), leaf);
    }
}
