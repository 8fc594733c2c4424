//! The HTTP/1.1 listener of every process, with limits that axum's own server does not have: on connections, in all and per address,
//! on TLS handshakes, on how long a request's head and its body may take. Handshakes run beside each other, so that one slow client keeps nobody
//! waiting; WebSockets count as connections for as long as they live. What is answered is the caller's [`Router`]. Another protocol
//! may share the port with HTTPS: see [`Takeover`].

mod answer;
mod body;
mod certificate;
mod front;
mod held;
mod settings;

pub use answer::{REQUEST_ID, query};
pub use certificate::{Certificate, Look, Pem};
pub use settings::{HttpKeys, https};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use front::{Front, Told};
use held::{Held, PerAddress, Slots};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConnection;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::Service as _;
use tracing::Instrument as _;

const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// From the first byte of a request, or the last answer, to the end of the next request's head. Also from the end of a TLS handshake
/// to the first byte.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// Open requests may take this long to finish when the process stops.
const GRACE: Duration = Duration::from_secs(1);
/// Out of file descriptors, most likely: wait for some to be closed instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who is at the other end of the TCP connection: perhaps a proxy. Handlers take it as `ConnectInfo<ClientAddress>`.
#[derive(Debug, Clone, Copy)]
pub struct ClientAddress(pub SocketAddr);

/// A protocol that shares the HTTPS port: it gets the connections whose first decrypted byte it wants. (Neither ALPN nor SNI tells
/// TURN clients from browsers: many send neither.)
pub trait Takeover: Send + Sync {
    /// Whether a connection that begins with this byte is not HTTP. Every HTTP request begins with a letter, 0x41 or above.
    fn wants(&self, first: u8) -> bool;

    /// Takes a connection after its handshake. Nothing was read: the first byte still waits in `tls`. The socket is non-blocking.
    fn take(&self, socket: std::net::TcpStream, tls: ServerConnection, from: SocketAddr);
}

/// How many connections there may be. Further clients wait in the kernel's queue; an address with too many is hung up on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub connections: usize,
    /// Of one IPv4 address or IPv6 /64. This machine itself and trusted proxies are exempt.
    pub connections_per_address: usize,
}

/// Everything [`serve`] needs besides the socket.
pub struct Server {
    pub router: Router,
    /// `None`: plain HTTP.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    pub limits: Limits,
    /// Reverse proxies: each is one address for many people.
    pub is_proxy: Box<dyn Fn(IpAddr) -> bool + Send + Sync>,
    /// Asked about connections over TLS only.
    pub takeover: Option<Arc<dyn Takeover>>,
    /// Turns true when the process stops.
    pub stopped: watch::Receiver<bool>,
}

/// Serves until stopped, then lets open requests finish for a second.
pub async fn serve(listener: TcpListener, server: Server) {
    let slots = Arc::new(Semaphore::new(server.limits.connections));
    let per_address = Arc::new(PerAddress::new(server.limits.connections_per_address));
    let mut stopped = server.stopped.clone();
    let talk = Talk {
        router: server.router,
        acceptor: server.tls.map(TlsAcceptor::from),
        takeover: server.takeover,
        stopped: server.stopped,
    };
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            Some(_) = connections.join_next() => continue,
            _ = stopped.wait_for(|down| *down) => break,
        };
        let Some((stream, from, slot)) = accepted else { continue };
        let exempt = from.ip().to_canonical().is_loopback() || (server.is_proxy)(from.ip());
        let Some(counted) = per_address.enter(from.ip(), exempt) else {
            tracing::debug!(%from, "too many connections of one address");
            continue;
        };
        let _ = stream.set_nodelay(true);
        connections.spawn(talk.clone().connection(stream, from, (slot, counted)));
    }
    let finish = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, finish).await.is_err() {
        tracing::debug!("connections were still open at the end");
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, from)) => Some((stream, from, slot)),
        Err(error) => {
            // A client that has gone already, or no file descriptor left: neither ends the server.
            tracing::debug!(%error, "accept failed");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// What every connection needs.
#[derive(Clone)]
struct Talk {
    router: Router,
    acceptor: Option<TlsAcceptor>,
    takeover: Option<Arc<dyn Takeover>>,
    stopped: watch::Receiver<bool>,
}

impl Talk {
    async fn connection(self, stream: TcpStream, from: SocketAddr, slots: Slots) {
        let Some(acceptor) = &self.acceptor else {
            return self.http(Held::new(stream, slots), from).await;
        };
        let mut stream = match tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%from, %error, "TLS handshake failed"),
            Err(_) => return tracing::debug!(%from, "TLS handshake took too long"),
        };
        if let Some(takeover) = self.takeover.clone() {
            let Some(first) = self.first_byte(&mut stream).await else {
                return;
            };
            if takeover.wants(first) {
                let (socket, tls) = stream.into_inner();
                match socket.into_std() {
                    Ok(socket) => takeover.take(socket, tls, from),
                    Err(error) => tracing::debug!(%from, %error, "a connection could not be handed over"),
                }
                return;
            }
        }
        self.http(Held::new(stream, slots), from).await;
    }

    /// The first decrypted byte, left where it is. `None`: the client has gone, says nothing for too long, or we stop.
    async fn first_byte(&self, stream: &mut TlsStream<TcpStream>) -> Option<u8> {
        let mut stopped = self.stopped.clone();
        let first = async { stream.fill_buf().await.ok()?.first().copied() };
        tokio::select! {
            first = tokio::time::timeout(HEAD_WITHIN, first) => first.ok().flatten(),
            _ = stopped.wait_for(|down| *down) => None,
        }
    }

    async fn http<S>(self, stream: Held<S>, from: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (router, mut stopped) = (self.router, self.stopped);
        let told = Arc::new(Told::default());
        let stream = Front::new(stream, told.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(ClientAddress(from)));
            answer(router.clone(), request.map(body::bounded), told.clone())
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
        let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = async { drop(stopped.wait_for(|down| *down).await) } => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::trace!(%from, %error, "connection ended");
        }
    }
}

async fn answer(mut router: Router, mut request: Request<Body>, told: Arc<Told>) -> Result<Response<Body>, Infallible> {
    let id = answer::prepare(&mut request, &told);
    let path = request.uri().path();
    let is_api = path.starts_with("/api/");
    let shown = id.to_str().unwrap_or_default();
    // Without the query: tokens travel in it.
    let span = tracing::debug_span!("request", id = shown, method = %request.method(), path);
    // A Router is always ready.
    let response = router.call(request).instrument(span).await?;
    Ok(answer::finish(response, is_api, id, &told).await)
}
