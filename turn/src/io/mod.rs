//! The shell around [`crate::Server`]: one thread per worker, each with its own sockets on the same ports
//! (SO_REUSEPORT), its own epoll and its own allocations. UDP goes through `meridian-udp`'s batches, DTLS through these
//! and `dtls`, TCP and TLS through `stream`. No protocol here.

mod dtls;
mod interfaces;
mod metrics;
mod outbound;
mod pace;
mod splice;
mod stream;
mod to_peers;
mod worker;

#[doc(hidden)]
pub use dtls::answer_to_stranger;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use meridian_udp::LocalPorts;
use rand::Rng;

pub use dtls::{DtlsIdentity, DtlsIdentityError};
pub use interfaces::own_addresses;
use meridian_turn_core::Family;
use meridian_turn_core::credentials::Credentials;
use meridian_turn_core::server::{ConfigError, Counters, ServerConfig, Shared};
use outbound::Local;
use worker::{Inbox, Newcomer, Sockets, Worker};

/// Where to listen, and what to be.
#[derive(Clone, Debug)]
pub struct TurnConfig {
    pub server: ServerConfig,
    /// 0 as a port takes any; see [`TurnServer::udp`] and its siblings. IPv6 addresses take IPv6 only.
    pub udp: Vec<SocketAddr>,
    pub tcp: Vec<SocketAddr>,
    pub tls: Vec<SocketAddr>,
    /// Needed for `tls`. Certificates are renewed through its resolver.
    pub tls_config: Option<Arc<rustls::ServerConfig>>,
    /// UDP ports of their own, for DTLS 1.2.
    pub dtls: Vec<SocketAddr>,
    /// Needed for `dtls`.
    pub dtls_identity: Option<Arc<DtlsIdentity>>,
    /// Peers in this process: where the policy's media ports are.
    pub local: Option<Arc<dyn LocalPorts>>,
    /// Threads, 1 to 64; each client is served by one of them.
    pub workers: usize,
    /// Packets that come faster than this apart wait so long for each other (0 to 2 ms; 0 = never): fewer wake-ups, larger
    /// batches. The kernel adds about 0.05 ms.
    pub gather: Duration,
}

/// Half of it on average, and with the kernel's slack well within the 2 ms that a hop may add. A timer costs a worker as much as two
/// packets do: paced audio of a hundred people, a packet each 0.2 ms, costs a quarter less than with 0.75 ms (`./run bench turn --gather-us N`).
pub(crate) const GATHER: Duration = Duration::from_micros(1_900);
pub(crate) const GATHER_MAX: Duration = Duration::from_millis(2);

/// How often draining looks whether allocations have ended.
const DRAIN_LOOK: Duration = Duration::from_millis(100);
/// How often a server looks whether its workers are still there.
const WORKER_LOOK: Duration = Duration::from_millis(500);

impl TurnConfig {
    /// Listens nowhere yet; one worker.
    pub fn new(server: ServerConfig) -> TurnConfig {
        TurnConfig {
            server,
            udp: Vec::new(),
            tcp: Vec::new(),
            tls: Vec::new(),
            tls_config: None,
            dtls: Vec::new(),
            dtls_identity: None,
            local: None,
            workers: 1,
            gather: GATHER,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("TURN configuration: {0}")]
    Config(#[from] ConfigError),
    #[error("TURN over TLS is configured without a certificate")]
    NoCertificate,
    #[error("TURN over DTLS is configured without a certificate")]
    NoDtlsCertificate,
    #[error("cannot listen on {address} for TURN: {error}")]
    Listen { address: SocketAddr, error: io::Error },
    #[error("cannot start a TURN worker: {0}")]
    Io(#[from] io::Error),
}

/// A running server. Dropping it stops its threads and closes its sockets.
pub struct TurnServer {
    shared: Arc<Shared>,
    workers: Vec<Running>,
    stop: Arc<AtomicBool>,
    listening: [Vec<SocketAddr>; 4],
    inboxes: Arc<[Arc<Inbox>]>,
    /// Which worker gets the next newcomer.
    next: AtomicUsize,
}

#[derive(Debug)]
struct Running {
    thread: Option<JoinHandle<()>>,
    waker: Arc<mio::Waker>,
    counters: Arc<Counters>,
    gauges: Arc<Gauges>,
}

/// What the shell counts beside the protocol.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    /// Open TCP and TLS connections of clients.
    pub(crate) streams: AtomicU64,
    /// DTLS sessions of clients, handshakes included.
    pub(crate) dtls_sessions: AtomicU64,
    /// Connections and sessions refused because there were too many.
    pub(crate) streams_refused: AtomicU64,
    /// Frames dropped because a TCP client reads too slowly.
    pub(crate) stream_frames_dropped: AtomicU64,
    /// Datagrams to and from peers in this process.
    pub(crate) local_up: AtomicU64,
    pub(crate) local_down: AtomicU64,
    /// Of those, dropped because a queue was full or the relay had gone.
    pub(crate) local_dropped: AtomicU64,
    /// Datagrams the kernel did not take.
    pub(crate) datagrams_dropped: AtomicU64,
}

impl fmt::Debug for TurnServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "TurnServer({:?}, {} allocations)",
            self.listening,
            self.allocations()
        )
    }
}

impl TurnServer {
    /// Binds everything, then starts the threads.
    pub fn start(mut config: TurnConfig) -> Result<TurnServer, StartError> {
        if !config.tls.is_empty() && config.tls_config.is_none() {
            return Err(StartError::NoCertificate);
        }
        if !config.dtls.is_empty() && config.dtls_identity.is_none() {
            return Err(StartError::NoDtlsCertificate);
        }
        afford(&mut config.server.limits.allocations);
        let own = interfaces::own_addresses();
        config.server.policy.own.extend(own);
        config.server.policy.own.extend(
            config
                .udp
                .iter()
                .chain(&config.tcp)
                .chain(&config.tls)
                .chain(&config.dtls)
                .map(SocketAddr::ip),
        );
        let count = config.workers.clamp(1, 64);
        let mut sockets = Vec::new();
        for _ in 0..count {
            // The first decides what port 0 means; the others share it.
            let bound = Sockets::bind(&config, count > 1)?;
            [config.udp, config.tcp, config.tls, config.dtls] = bound.addresses();
            sockets.push(bound);
        }
        let now = Instant::now();
        let shared = Shared::new(config.server, now, wall_clock(), rand::rng().random())?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut server = TurnServer {
            shared: shared.clone(),
            workers: Vec::new(),
            stop: stop.clone(),
            listening: [config.udp, config.tcp, config.tls, config.dtls],
            inboxes: Arc::from([]),
            next: AtomicUsize::new(0),
        };
        let mut workers = Vec::new();
        for (number, sockets) in (0..).zip(sockets) {
            workers.push(Worker::new(
                number,
                shared.clone(),
                sockets,
                (config.tls_config.clone(), config.dtls_identity.clone()),
                config.gather.min(GATHER_MAX),
                stop.clone(),
            )?);
        }
        let inboxes: Arc<[Arc<Inbox>]> = workers.iter().map(Worker::inbox).collect();
        server.inboxes = inboxes.clone();
        for (number, mut worker) in workers.into_iter().enumerate() {
            worker.know(inboxes.clone());
            if let Some(local) = &config.local {
                worker.neighbour(Local::new(local.clone(), shared.config().policy.media.clone()));
            }
            let (waker, counters, gauges) = worker.handles();
            let thread = std::thread::Builder::new()
                .name(format!("turn-{number}"))
                .spawn(move || {
                    if let Err(error) = worker.run() {
                        tracing::error!(%error, number, "a TURN worker stopped; its clients are cut off");
                    }
                })?;
            server.workers.push(Running {
                thread: Some(thread),
                waker,
                counters,
                gauges,
            });
        }
        Ok(server)
    }

    /// The addresses listened on, with the real ports.
    pub fn udp(&self) -> &[SocketAddr] {
        &self.listening[0]
    }

    pub fn tcp(&self) -> &[SocketAddr] {
        &self.listening[1]
    }

    pub fn tls(&self) -> &[SocketAddr] {
        &self.listening[2]
    }

    pub fn dtls(&self) -> &[SocketAddr] {
        &self.listening[3]
    }

    /// Takes over a TLS connection that somebody else accepted, because another protocol shares its port: after the handshake, with
    /// the client's first bytes unread in `tls`. The socket must be non-blocking. Too many connections are hung up on.
    pub fn adopt(&self, socket: std::net::TcpStream, tls: rustls::ServerConnection, remote: SocketAddr) {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.inboxes.len().max(1);
        if let Some(inbox) = self.inboxes.get(next) {
            let newcomer = Newcomer { socket, tls, remote };
            if !inbox.welcome(newcomer) {
                tracing::debug!(%remote, "a TURN connection was not taken over");
            }
        }
    }

    /// The relayed ports, for peers in this process.
    pub fn local_ports(&self) -> Arc<dyn LocalPorts> {
        Arc::new(RelayedPorts {
            shared: self.shared.clone(),
            inboxes: self.inboxes.clone(),
        })
    }

    /// Who may allocate from now on.
    pub fn set_credentials(&self, credentials: Credentials) {
        self.shared.set_credentials(credentials);
    }

    /// Live allocations.
    pub fn allocations(&self) -> usize {
        self.shared.allocations()
    }

    /// Name and value of everything counted, summed over the workers. `allocations`, `streams` and `dtls_sessions`
    /// go up and down, the others only up.
    pub fn metrics(&self) -> Vec<(&'static str, u64)> {
        let mut sums = vec![("allocations", self.shared.allocations() as u64)];
        for worker in &self.workers {
            let gauges = &worker.gauges;
            let own = [
                ("streams", &gauges.streams),
                ("dtls_sessions", &gauges.dtls_sessions),
                ("streams_refused", &gauges.streams_refused),
                ("stream_frames_dropped", &gauges.stream_frames_dropped),
                ("datagrams_dropped", &gauges.datagrams_dropped),
                ("local_up", &gauges.local_up),
                ("local_down", &gauges.local_down),
                ("local_dropped", &gauges.local_dropped),
            ];
            let own = own.map(|(name, value)| (name, value.load(Ordering::Relaxed)));
            for (name, value) in worker.counters.snapshot().into_iter().chain(own) {
                match sums.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, sum)) => *sum += value,
                    None => sums.push((name, value)),
                }
            }
        }
        sums
    }

    /// Waits until a worker has ended although this server has not: its clients are cut off, and new ones may be, too. `sleep` as for
    /// [`Self::drain`].
    pub async fn lost<S: Future<Output = ()>>(&self, sleep: impl Fn(Duration) -> S) {
        let is_over = |worker: &Running| worker.thread.as_ref().is_some_and(JoinHandle::is_finished);
        while !self.workers.iter().any(is_over) {
            sleep(WORKER_LOOK).await;
        }
    }

    /// Refuses new allocations, or takes them again. What there is goes on either way.
    pub fn set_draining(&self, draining: bool) {
        self.shared.set_draining(draining);
    }

    pub fn is_draining(&self) -> bool {
        self.shared.is_draining()
    }

    /// Refuses new allocations and waits until the last has ended (`true`) or `deadline` has passed (`false`). Those that speak with
    /// nobody but the policy's media ports are not waited for: they are of no use to anybody once media has ended, and whose client
    /// has vanished would stay for minutes. The waiting itself is whoever calls': `sleep` is asked for a tenth of a second again and
    /// again.
    pub async fn drain<S: Future<Output = ()>>(&self, deadline: Duration, sleep: impl Fn(Duration) -> S) -> bool {
        self.set_draining(true);
        let begin = Instant::now();
        let mut told = false;
        loop {
            let allocations = self.shared.allocations_beside_own_media();
            if allocations == 0 {
                return true;
            }
            let left = deadline.saturating_sub(begin.elapsed());
            if left.is_zero() {
                tracing::warn!(allocations, "TURN allocations have not ended in time; they are cut off");
                return false;
            }
            if !std::mem::replace(&mut told, true) {
                let deadline_s = deadline.as_secs();
                tracing::info!(allocations, deadline_s, "waiting for TURN allocations to end");
            }
            sleep(left.min(DRAIN_LOOK)).await;
        }
    }
}

/// See [`TurnServer::local_ports`].
struct RelayedPorts {
    shared: Arc<Shared>,
    inboxes: Arc<[Arc<Inbox>]>,
}

impl fmt::Debug for RelayedPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelayedPorts")
    }
}

impl LocalPorts for RelayedPorts {
    fn deliver(&self, from: SocketAddr, to: SocketAddr, segment: usize, bytes: &[u8]) -> bool {
        let owner = self.shared.owner(Family::of(to.ip()), to.port());
        let inbox = owner.and_then(|worker| self.inboxes.get(usize::from(worker)));
        inbox.is_some_and(|inbox| inbox.relay(from, to, segment, bytes))
    }

    fn wake(&self) {
        self.inboxes.iter().for_each(|inbox| inbox.wake_if_relayed());
    }
}

impl Drop for TurnServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in &mut self.workers {
            if let Err(error) = worker.waker.wake() {
                tracing::warn!(%error, "cannot wake a TURN worker to stop it");
                continue;
            }
            if let Some(thread) = worker.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

/// Allows no more allocations than there can be sockets for: whoever comes later is told so (508), and what shares the process with this
/// server can still open files and take connections.
fn afford(allocations: &mut usize) {
    let descriptors = match meridian_udp::raise_descriptor_limit() {
        Ok(descriptors) => descriptors,
        Err(error) => return tracing::warn!(%error, "the limit of file descriptors is not known"),
    };
    let affordable = affordable(descriptors);
    if *allocations > affordable {
        tracing::warn!(
            configured = *allocations,
            affordable,
            descriptors,
            "fewer TURN allocations than configured: the limit of file descriptors (ulimit -n, LimitNOFILE) is too low"
        );
        *allocations = affordable;
    }
}

/// Allocations for which so many file descriptors suffice: each may take two, of both families or with the client's own connection, and a
/// quarter is left for everything else.
fn affordable(descriptors: u64) -> usize {
    let reserve = (descriptors / 4).max(128);
    usize::try_from(descriptors.saturating_sub(reserve) / 2)
        .unwrap_or(usize::MAX)
        .max(1)
}

fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_leave_descriptors_for_everything_else() {
        for descriptors in [64, 256, 1_024, 4_096, 524_288, u64::MAX] {
            let allocations = affordable(descriptors);
            assert!(allocations >= 1);
            assert!(
                descriptors < 256 || allocations as u64 * 2 <= descriptors - descriptors / 4,
                "{descriptors}"
            );
        }
        assert_eq!(affordable(1_024), 384);
        assert!(
            affordable(65_536) >= 20_000,
            "what is usual suffices for what is the default"
        );
        let mut few = 3;
        afford(&mut few);
        assert_eq!(few, 3, "what is configured is never raised");
        let mut many = usize::MAX;
        afford(&mut many);
        assert_eq!(many, affordable(meridian_udp::raise_descriptor_limit().unwrap()));
    }
}
