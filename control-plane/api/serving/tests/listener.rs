//! The listener that the control plane and the edges share, on loopback.

use axum::Router;
use axum::extract::Request;
use axum::extract::WebSocketUpgrade;
use axum::extract::ws::Message;
use axum::response::Response;
use axum::routing::{get, post};
use meridian_pki::{CertificateAuthority, NodeIdentity};
use meridian_serving::listener::{Certificate, Limits, Look, Server, Takeover, https, query, serve};
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsConnector;

const PATIENCE: Duration = Duration::from_secs(10);
/// RFC 6455 §1.2's own example.
const UPGRADE: &str = "GET /echo HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

async fn echo(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async |mut socket| {
        while let Some(Ok(message @ Message::Text(_))) = socket.recv().await {
            if socket.send(message).await.is_err() {
                return;
            }
        }
    })
}

struct Running {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

async fn start(
    connections: usize,
    tls: Option<Arc<rustls::ServerConfig>>,
    takeover: Option<Arc<dyn Takeover>>,
) -> Running {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let server = Server {
        router: Router::new()
            .route("/hello", get(async || "hello"))
            .route("/told", post(async |told: String| told))
            .route("/api/told", post(async |told: String| told))
            .route(
                "/length",
                get(async |request: Request| query(&request.into_parts().0).len().to_string()),
            )
            .route("/echo", get(echo)),
        tls,
        limits: Limits {
            connections,
            connections_per_address: 1,
        },
        is_proxy: Box::new(|_| false),
        takeover,
        stopped,
    };
    let task = tokio::spawn(serve(socket, server));
    Running { address, stop, task }
}

async fn get_hello<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> String {
    stream
        .write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_websocket_is_upgraded_and_counts_as_a_connection_until_it_ends() {
    let server = start(1, None, None).await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    socket.write_all(UPGRADE.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(
        head.starts_with("HTTP/1.1 101") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        "{head}"
    );
    // A text frame of two letters under an all-zero mask, and its echo.
    socket.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await.unwrap();
    let mut frame = [0; 4];
    socket.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, &[0x81, 2, b'h', b'i']);
    let second = TcpStream::connect(server.address).await.unwrap();
    let mut waiting = tokio::spawn(get_hello(second));
    let early = tokio::time::timeout(Duration::from_millis(50), &mut waiting).await;
    assert!(early.is_err(), "the only place is taken");
    drop(socket);
    let answer = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
}

#[tokio::test]
async fn stopping_ends_idle_connections_and_the_listener() {
    let server = start(8, None, None).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    let answer = get_hello(TcpStream::connect(server.address).await.unwrap()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    server.stop.send_replace(true);
    tokio::time::timeout(PATIENCE, server.task).await.unwrap().unwrap();
    assert_eq!(idle.read(&mut [0; 8]).await.unwrap_or(0), 0);
}

/// Wants what begins with a zero byte.
struct Zeros(mpsc::UnboundedSender<(std::net::TcpStream, rustls::ServerConnection)>);

impl Takeover for Zeros {
    fn wants(&self, first: u8) -> bool {
        first == 0
    }

    fn take(&self, socket: std::net::TcpStream, tls: rustls::ServerConnection, _from: SocketAddr) {
        self.0.send((socket, tls)).unwrap();
    }
}

/// A certificate and its key in a folder of their own, removed at the end.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Files {
        Files(std::env::temp_dir().join(format!("meridian-listener-{}-{name}", std::process::id())))
    }

    /// Writes a new certificate and its key.
    fn replace(&self, authority: &CertificateAuthority) -> NodeIdentity {
        let identity = authority.issue_node("web", &[]).unwrap();
        identity.save(&self.0).unwrap();
        identity
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn read(&self) -> Certificate {
        Certificate::read(&self.path("node.pem"), &self.path("node.key")).unwrap()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn a_replaced_certificate_is_shown_to_new_connections_and_a_broken_one_is_not() {
    meridian_access::install_crypto();
    let (files, authority) = (Files::new("renewed"), CertificateAuthority::create().unwrap());
    let first = files.replace(&authority);
    let certificate = files.read();
    let server = start(8, Some(https(&certificate, &[]).unwrap()), None).await;
    let connect = async || {
        // Anew each time: a resumed session shows no certificate.
        let client = TlsConnector::from(Arc::new(first.client_config(&[]).unwrap()));
        let stream = TcpStream::connect(server.address).await.unwrap();
        client.connect("localhost".try_into().unwrap(), stream).await.unwrap()
    };
    let shown = async || {
        let stream = connect().await;
        let chain = stream.get_ref().1.peer_certificates().unwrap();
        chain[0].clone().into_owned()
    };
    let leaf = |identity: &NodeIdentity| {
        meridian_pki::parse_certificates("a certificate", &identity.certificate_pem).unwrap()[0].clone()
    };
    assert_eq!(shown().await, leaf(&first));
    assert_eq!(certificate.look(), Look::Unchanged);
    let standing = connect().await;

    let second = files.replace(&authority);
    assert_eq!(certificate.look(), Look::Settling, "somebody may still be writing");
    assert_eq!(shown().await, leaf(&first));
    assert!(matches!(certificate.look(), Look::Replaced(pem) if pem.chain == second.certificate_pem));
    assert_eq!(shown().await, leaf(&second));
    assert!(get_hello(standing).await.ends_with("hello"), "what stands goes on");

    // Half of a pair, no certificate at all, no file: each is told once, and none is shown.
    let third = authority.issue_node("web", &[]).unwrap();
    for broken in [third.certificate_pem.as_str(), "nothing"] {
        std::fs::write(files.path("node.pem"), broken).unwrap();
        let looks = [certificate.look(), certificate.look(), certificate.look()];
        assert_eq!(looks, [Look::Settling, Look::Kept, Look::Unchanged]);
        assert_eq!(shown().await, leaf(&second));
    }
    std::fs::remove_file(files.path("node.pem")).unwrap();
    assert_eq!([certificate.look(), certificate.look()], [Look::Kept, Look::Unchanged]);

    third.save(&files.0).unwrap();
    assert_eq!(certificate.look(), Look::Settling);
    assert!(matches!(certificate.look(), Look::Replaced(_)));
    assert_eq!(shown().await, leaf(&third), "the other half has come");
}

#[tokio::test]
async fn another_protocol_shares_the_port_by_the_first_decrypted_byte() {
    meridian_access::install_crypto();
    let files = Files::new("shared");
    let identity = files.replace(&CertificateAuthority::create().unwrap());
    let tls = https(&files.read(), &[]).unwrap();
    let (taken_in, mut taken) = mpsc::unbounded_channel();
    let server = start(8, Some(tls), Some(Arc::new(Zeros(taken_in)))).await;
    // No ALPN, as many TURN clients.
    let client = TlsConnector::from(Arc::new(identity.client_config(&[]).unwrap()));
    let connect = async || {
        let stream = TcpStream::connect(server.address).await.unwrap();
        client.connect("localhost".try_into().unwrap(), stream).await.unwrap()
    };
    // Who has not said anything yet keeps nobody waiting.
    let _silent = connect().await;
    let mut other = connect().await;
    other.write_all(&[0, 1, 2, 3]).await.unwrap();
    let (_socket, mut tls) = tokio::time::timeout(PATIENCE, taken.recv()).await.unwrap().unwrap();
    let mut bytes = [0; 4];
    tls.reader().read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, [0, 1, 2, 3], "nothing was read before");
    let answer = get_hello(connect().await).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"),
        "{answer}"
    );
}

#[tokio::test]
async fn half_a_body_holds_a_connection_for_seconds_only() {
    let running = start(4, None, None).await;
    let mut whole = TcpStream::connect(running.address).await.unwrap();
    let head = "POST /api/told HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\nconnection: close\r\n\r\n";
    whole.write_all(format!("{head}told").as_bytes()).await.unwrap();
    let mut answer = String::new();
    whole.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("told"),
        "{answer}"
    );
    let mut half = TcpStream::connect(running.address).await.unwrap();
    let begun = std::time::Instant::now();
    half.write_all(format!("{head}to").as_bytes()).await.unwrap();
    let mut answer = String::new();
    let ended = tokio::time::timeout(2 * PATIENCE, half.read_to_string(&mut answer)).await;
    ended.expect("it is ended").unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("application/problem+json"),
        "{answer}"
    );
    assert!(begun.elapsed() > PATIENCE / 2, "whoever is slow has some time");
}

/// What comes back for a request that may be refused before all of it is sent.
async fn asked(running: &Running, request: &[u8]) -> String {
    let stream = TcpStream::connect(running.address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let request = request.to_vec();
    let writing = tokio::spawn(async move {
        let _ = writer.write_all(&request).await;
        writer
    });
    let mut answer = String::new();
    let read = tokio::time::timeout(PATIENCE, reader.read_to_string(&mut answer)).await;
    read.expect("it is answered").unwrap();
    drop(writing.await);
    answer
}

#[tokio::test]
async fn a_page_can_read_why_its_request_was_refused_before_any_handler() {
    let running = start(8, None, None).await;
    let long = "a".repeat(70_000);
    let headers = "x: y\r\n".repeat(200);
    for (request, status, code) in [
        (
            format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"),
            414,
            "address_too_long",
        ),
        (
            format!("GET / HTTP/1.1\r\nhost: x\r\n{headers}\r\n"),
            431,
            "headers_too_large",
        ),
        (
            format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", long.repeat(10)),
            431,
            "headers_too_large",
        ),
        ("nonsense\r\n\r\n".to_owned(), 400, "bad_request"),
    ] {
        let answer = asked(&running, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{code}: {answer}");
        assert!(
            answer.contains("content-type: application/problem+json\r\n"),
            "{answer}"
        );
        assert!(answer.contains("access-control-allow-origin: *\r\n"), "{answer}");
        assert!(
            answer.contains(&format!("\"code\":\"{code}\"")) && answer.ends_with('}'),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_query_longer_than_an_address_reaches_the_handler_and_its_header_cannot_be_forged() {
    let running = start(8, None, None).await;
    let query = "q".repeat(200_000);
    let request = |line: &str, header: &str| {
        format!("GET {line} HTTP/1.1\r\nhost: x\r\n{header}connection: close\r\n\r\n").into_bytes()
    };
    let answer = asked(&running, &request(&format!("/length?{query}"), "")).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n200000"),
        "{answer}"
    );
    let answer = asked(&running, &request("/length?four", "x-meridian-query: forged\r\n")).await;
    assert!(answer.ends_with("\r\n4"), "{answer}");
}

#[tokio::test]
async fn every_answer_is_named_and_every_refusal_has_words() {
    let running = start(8, None, None).await;
    let ask = async |line: &str, header: &str| {
        let text = format!("{line} HTTP/1.1\r\nhost: x\r\n{header}connection: close\r\n\r\n");
        asked(&running, text.as_bytes()).await
    };
    assert!(
        ask("GET /hello", "x-request-id: mine-1\r\n")
            .await
            .contains("x-request-id: mine-1\r\n")
    );
    let answer = ask("GET /hello", "x-request-id: no spaces\r\n").await;
    assert!(
        answer.contains("x-request-id: ") && !answer.contains("no spaces"),
        "{answer}"
    );
    let missing = ask("GET /nothing", "").await;
    assert!(
        missing.starts_with("HTTP/1.1 404") && missing.contains("\"code\":\"no_such_endpoint\""),
        "{missing}"
    );
    let wrong = ask("DELETE /hello", "").await;
    assert!(
        wrong.starts_with("HTTP/1.1 405") && wrong.contains("allow: GET"),
        "{wrong}"
    );
    assert!(wrong.contains("\"code\":\"wrong_method\""), "{wrong}");
}
