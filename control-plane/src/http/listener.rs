//! Serves HTTP/1.1 with limits that axum's own server does not have: on connections, on handshakes, on how long a request's head may
//! take. TLS handshakes run beside each other, so that one slow client keeps nobody waiting.

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use meridian_api::pki::{PkiError, parse_certificates};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::Service as _;

/// Connections at once; further clients wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8_192;
/// Connections of one address. A reverse proxy is one address too: operators trust it, so it is exempt.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 256;
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// From the first byte of a request, or the last answer, to the end of the next request's head.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// Open requests may take this long to finish when the process stops.
const GRACE: Duration = Duration::from_secs(1);

/// Who is at the other end of the TCP connection: perhaps a proxy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Reads a certificate chain and key for browsers.
///
/// # Errors
/// [`PkiError`] naming the file.
pub(crate) fn tls_acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, PkiError> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|source| PkiError::File {
            path: path.to_owned(),
            source,
        })
    };
    let chain = parse_certificates(&certificate.display().to_string(), &read(certificate)?)?;
    let key = PrivateKeyDer::from_pem_slice(read(key)?.as_bytes()).map_err(|error| PkiError::Invalid {
        what: key.display().to_string(),
        why: error.to_string(),
    })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Everything [`serve`] needs besides the socket.
pub(crate) struct Server {
    pub(crate) router: Router,
    pub(crate) tls: Option<TlsAcceptor>,
    /// Addresses that may have any number of connections.
    pub(crate) is_proxy: Box<dyn Fn(IpAddr) -> bool + Send + Sync>,
    pub(crate) stopped: watch::Receiver<bool>,
}

/// Serves until stopped, then lets open requests finish for a second.
pub(crate) async fn serve(listener: TcpListener, server: Server) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let per_address = Arc::new(PerAddress::default());
    let mut stopped = server.stopped.clone();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            Some(_) = connections.join_next() => continue,
            _ = stopped.wait_for(|down| *down) => break,
        };
        let Some((stream, from, slot)) = accepted else { continue };
        let Some(counted) = per_address.enter(from.ip(), (server.is_proxy)(from.ip())) else {
            tracing::debug!(%from, "too many connections of one address");
            continue;
        };
        let (router, tls, stopped) = (server.router.clone(), server.tls.clone(), server.stopped.clone());
        connections.spawn(async move {
            let _held = (slot, counted);
            let _ = stream.set_nodelay(true);
            match tls {
                None => talk(stream, from, router, stopped).await,
                Some(tls) => match tokio::time::timeout(HANDSHAKE_WITHIN, tls.accept(stream)).await {
                    Ok(Ok(stream)) => talk(stream, from, router, stopped).await,
                    Ok(Err(error)) => tracing::debug!(%from, %error, "TLS handshake failed"),
                    Err(_) => tracing::debug!(%from, "TLS handshake took too long"),
                },
            }
        });
    }
    let finish = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, finish).await.is_err() {
        tracing::debug!("connections were still open at the end");
    }
}

type Slot = tokio::sync::OwnedSemaphorePermit;

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> Option<(TcpStream, SocketAddr, Slot)> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, from)) => Some((stream, from, slot)),
        Err(error) => {
            // Out of file descriptors, or a client gone already: neither ends the server.
            tracing::debug!(%error, "accept failed");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

async fn talk<S>(stream: S, from: SocketAddr, router: Router, mut stopped: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(Peer(from)));
        // A Router is always ready.
        router.clone().call(request.map(Body::new))
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
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

/// How many connections each address has.
#[derive(Default)]
struct PerAddress(Mutex<HashMap<IpAddr, usize>>);

struct Counted {
    table: Arc<PerAddress>,
    address: IpAddr,
}

impl PerAddress {
    /// One more, unless it would be too many. Its table is as small as the number of connections.
    fn enter(self: &Arc<Self>, address: IpAddr, exempt: bool) -> Option<Counted> {
        let address = meridian_api::network::limit_key(address);
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = table.entry(address).or_default();
        if *count >= CONNECTIONS_PER_ADDRESS_MAX && !exempt {
            return None;
        }
        *count += 1;
        Some(Counted {
            table: self.clone(),
            address,
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut table = self.table.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = table.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                table.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_gets_so_many_connections_and_a_proxy_any() {
        let (table, address) = (Arc::new(PerAddress::default()), IpAddr::from([203, 0, 113, 1]));
        let mut held: Vec<_> = (0..CONNECTIONS_PER_ADDRESS_MAX)
            .map(|_| table.enter(address, false).unwrap())
            .collect();
        assert!(table.enter(address, false).is_none() && table.enter(address, true).is_some());
        assert!(table.enter(IpAddr::from([203, 0, 113, 2]), false).is_some());
        held.pop();
        assert!(table.enter(address, false).is_some());
        held.clear();
        assert!(table.0.lock().unwrap().is_empty());
    }
}
