//! The sockets: UDP and TCP on each configured address.

use crate::config::DnsConfig;
use crate::reply::{Responder, Transport};
use crate::subnet::network;
use crate::world::World;
use meridian_udp::{RecvBatch, SocketOptions};
use socket2::{Domain, Socket, Type};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Longest query that is read, bytes: a name, OPT, and a signature to ignore fit well.
const QUERY_BYTES_MAX: usize = 2048;
/// A TCP connection may be quiet for this long (RFC 7766, 6.2.3 leaves it to us); also the time for one message to come or go.
const TCP_IDLE: Duration = Duration::from_secs(5);
/// Queries on one TCP connection.
const TCP_QUERIES_MAX: usize = 100;
/// One source network may hold this share of the TCP connections.
const TCP_SHARE: usize = 8;
/// Queries come in bursts; the kernel may grant less.
const UDP_BUFFER_BYTES: usize = 1 << 20;
/// Queries taken from the kernel at once.
const UDP_BATCH: usize = 16;
const TCP_BACKLOG: i32 = 256;
/// Attempts at a port that is free for UDP and TCP, when any may be chosen.
const PORT_ATTEMPTS: usize = 20;

/// Why no DNS is served.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("dns.{key}: {message}")]
    Config { key: String, message: String },
    #[error("dns.bind: DNS cannot listen on {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
}

/// A running name server. Stops when dropped.
pub struct GeoDns {
    addresses: Vec<SocketAddr>,
    responder: Arc<Responder>,
    _tasks: JoinSet<()>,
}

impl GeoDns {
    /// Starts, and returns once all sockets listen.
    ///
    /// # Errors
    /// [`DnsError`].
    pub async fn start(config: &DnsConfig, world: impl World) -> Result<GeoDns, DnsError> {
        if let Some((key, message)) = config.problems().into_iter().next() {
            return Err(DnsError::Config { key, message });
        }
        // The zone changes only with the configuration, and that only with a restart.
        let serial = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |since| since.as_secs() as u32);
        let responder = Responder::new(config, serial, Box::new(world)).ok_or_else(|| DnsError::Config {
            key: "zone".to_owned(),
            message: "is no domain name".to_owned(),
        })?;
        let responder = Arc::new(responder);
        let connections = Arc::new(Connections::new(config.tcp_connections_max));
        let (mut tasks, mut addresses) = (JoinSet::new(), Vec::new());
        for address in &config.bind {
            let bound = bind(*address);
            let (udp, tcp, address) = bound.map_err(|source| DnsError::Listen {
                address: *address,
                source,
            })?;
            addresses.push(address);
            tasks.spawn(serve_udp(udp, responder.clone()));
            tasks.spawn(serve_tcp(tcp, responder.clone(), connections.clone()));
        }
        tracing::info!(?addresses, zone = config.zone, "DNS is served");
        Ok(GeoDns {
            addresses,
            responder,
            _tasks: tasks,
        })
    }

    /// Where it listens (the real ports, if 0 was configured).
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What was counted, in Prometheus' text format.
    pub fn render_metrics(&self) -> String {
        self.responder.render_metrics()
    }
}

/// It tells to which address a query came: on a wildcard socket the kernel would answer from whichever it likes.
struct UdpSocket {
    socket: meridian_udp::Socket,
    /// The same socket, to wait for it.
    readiness: tokio::net::UdpSocket,
}

impl UdpSocket {
    fn new(socket: meridian_udp::Socket) -> std::io::Result<Self> {
        let same = std::net::UdpSocket::from(socket.as_fd().try_clone_to_owned()?);
        let readiness = tokio::net::UdpSocket::from_std(same)?;
        Ok(UdpSocket { socket, readiness })
    }

    /// Waits for datagrams and fills `batch` with them.
    async fn receive(&self, batch: &mut RecvBatch) -> std::io::Result<()> {
        loop {
            self.readiness.readable().await?;
            let received = self
                .readiness
                .try_io(Interest::READABLE, || match self.socket.recv(batch)? {
                    0 => Err(std::io::ErrorKind::WouldBlock.into()),
                    _ => Ok(()),
                });
            match received {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}

/// UDP and TCP on the same port.
fn bind(address: SocketAddr) -> std::io::Result<(UdpSocket, TcpListener, SocketAddr)> {
    let options = SocketOptions {
        reuse_port: false,
        recv_buffer_bytes: UDP_BUFFER_BYTES,
        send_buffer_bytes: UDP_BUFFER_BYTES,
        gro: false,
    };
    let mut attempt = 0;
    loop {
        attempt += 1;
        let tcp = tcp_socket(address)?;
        tcp.listen(TCP_BACKLOG)?;
        let tcp = TcpListener::from_std(tcp.into())?;
        let bound = tcp.local_addr()?;
        match meridian_udp::Socket::bind(bound, &options) {
            Ok(udp) => return Ok((UdpSocket::new(udp)?, tcp, bound)),
            Err(_) if address.port() == 0 && attempt < PORT_ATTEMPTS => {}
            Err(error) => return Err(error),
        }
    }
}

fn tcp_socket(address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        // Or [::]:53 would take IPv4 as well, and 0.0.0.0:53 beside it would be refused.
        socket.set_only_v6(true)?;
    }
    // Connections of the last process that are still fading away are no reason not to start.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

async fn serve_udp(socket: UdpSocket, responder: Arc<Responder>) {
    let mut batch = RecvBatch::new(UDP_BATCH);
    loop {
        if let Err(error) = socket.receive(&mut batch).await {
            tracing::trace!(%error, "DNS over UDP");
            continue;
        }
        let now = Instant::now();
        for query in batch.datagrams().filter(|query| query.data.len() <= QUERY_BYTES_MAX) {
            let (source, asked) = (query.from, query.local.ip());
            let reply = responder.respond(query.data, source.ip(), Transport::Udp, now);
            if let Some(reply) = reply
                && let Err(error) = socket.socket.send_to(&reply, source, Some(asked))
            {
                // Its buffer is full, most likely: who asked asks again.
                tracing::trace!(%source, %error, "a DNS reply was not sent");
            }
        }
    }
}

async fn serve_tcp(listener: TcpListener, responder: Arc<Responder>, connections: Arc<Connections>) {
    let mut serving = JoinSet::new();
    loop {
        while serving.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, source)) => {
                // Beyond its share, the connection is closed at once: nothing waits in a queue that one source fills.
                if let Some(place) = connections.enter(source.ip()) {
                    serving.spawn(converse(stream, source, responder.clone(), place));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "DNS over TCP: a connection could not be accepted");
                // Out of file descriptors, most likely: at once it would fail again.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Serves one TCP connection (RFC 1035, 4.2.2: each message after its length).
async fn converse(mut stream: TcpStream, source: SocketAddr, responder: Arc<Responder>, _place: Place) {
    let mut buffer = vec![0; QUERY_BYTES_MAX];
    for _ in 0..TCP_QUERIES_MAX {
        let Ok(Ok(length)) = timeout(TCP_IDLE, read_message(&mut stream, &mut buffer)).await else {
            return;
        };
        let reply = responder.respond(&buffer[..length], source.ip(), Transport::Tcp, Instant::now());
        let Some(mut message) = reply else {
            return;
        };
        let Ok(length) = u16::try_from(message.len()) else {
            return;
        };
        message.splice(0..0, length.to_be_bytes());
        if !matches!(timeout(TCP_IDLE, stream.write_all(&message)).await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn read_message(stream: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    let length = usize::from(stream.read_u16().await?);
    let Some(message) = buffer.get_mut(..length) else {
        return Err(std::io::ErrorKind::InvalidData.into());
    };
    stream.read_exact(message).await?;
    Ok(length)
}

/// Counts TCP connections, in all and by source network.
struct Connections {
    max: usize,
    by_network: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's place; given back when dropped.
struct Place {
    connections: Arc<Connections>,
    network: IpAddr,
}

impl Connections {
    fn new(max: usize) -> Self {
        Connections {
            max,
            by_network: Mutex::default(),
        }
    }

    fn enter(self: &Arc<Self>, source: IpAddr) -> Option<Place> {
        let source = source.to_canonical();
        let network = network(source, if source.is_ipv4() { 24 } else { 56 });
        let mut by_network = self.by_network.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = by_network.values().sum();
        let own = by_network.get(&network).copied().unwrap_or(0);
        if all >= self.max || own >= (self.max / TCP_SHARE).max(1) {
            return None;
        }
        by_network.insert(network, own + 1);
        Some(Place {
            connections: self.clone(),
            network,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_network = self
            .connections
            .by_network
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_network.get_mut(&self.network) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                by_network.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_cannot_hold_all_connections_and_places_are_given_back() {
        let connections = Arc::new(Connections::new(16));
        let enter = |text: &str| connections.enter(text.parse().unwrap());
        let held: Vec<Option<Place>> = (0..3).map(|last| enter(&format!("192.0.2.{last}"))).collect();
        assert_eq!(held.iter().flatten().count(), 2);
        let other = enter("198.51.100.1");
        assert!(other.is_some());
        drop(held);
        assert!(enter("192.0.2.9").is_some());
        drop(other);
        assert!(connections.by_network.lock().unwrap().is_empty());
    }
}
