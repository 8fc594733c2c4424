//! The front of all media threads: starts them, sends each command to the thread it concerns, sums their counters.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use meridian_transport::DtlsIdentity;
use meridian_udp::{LocalPorts, Socket, SocketOptions};
use tokio::sync::mpsc;

use crate::config::ShardsConfig;
use crate::inbox::{Mailbox, Note, Routes, inbox};
use crate::metrics::{Counters, ShardMetrics};
use crate::taps::TapSenders;
use crate::thread::{Shard, Shared};
use meridian_shard_api::{Command, Event, PeerId};

struct Front {
    mailbox: Mailbox,
    counters: Arc<Counters>,
    candidates: Vec<SocketAddr>,
    next_peer: AtomicU32,
    /// Peers added and not yet gone, as far as the front knows; the shard takes down what it closes.
    load: Arc<AtomicUsize>,
}

/// All media threads of this process. Shared by reference; every method may be called from any task or thread, and none
/// blocks.
pub struct Shards {
    fronts: Vec<Front>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    routes: Arc<Mutex<Routes>>,
    dropped_commands: Counters,
    next: AtomicUsize,
    turn: Arc<OnceLock<Arc<dyn LocalPorts>>>,
    bound: Vec<(SocketAddr, u16)>,
}

impl Shards {
    /// Binds the sockets and starts the threads. `events` and `taps` are written with `try_send`: changes of state wait
    /// inside when `events` is full, tap batches are dropped and counted.
    ///
    /// # Errors
    /// When an address cannot be bound, `bind` is empty, or a thread cannot be started.
    pub fn start(
        config: ShardsConfig,
        identity: Arc<DtlsIdentity>,
        events: mpsc::Sender<Event>,
        taps: TapSenders,
    ) -> io::Result<Shards> {
        if config.bind.is_empty() || config.bind.len() > 8 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "media needs one to eight addresses to bind",
            ));
        }
        let count = match config.shards {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let count = u16::try_from(count.min(256)).unwrap_or(256);
        let mut inboxes = Vec::new();
        let mut mailboxes = Vec::new();
        for _ in 0..count {
            let (mailbox, inbox) = inbox()?;
            mailboxes.push(mailbox);
            inboxes.push(inbox);
        }
        let routes = Arc::new(Mutex::new(Routes::default()));
        let turn = Arc::new(OnceLock::new());
        let mut bound = Vec::new();
        let mut fronts = Vec::new();
        let mut threads = Vec::new();
        for (index, inbox) in (0..count).zip(inboxes) {
            let sockets = bind(&config, index)?;
            bound.extend(sockets.iter().map(|socket| (socket.local_addr(), index)));
            let counters = Arc::new(Counters::default());
            let load = Arc::new(AtomicUsize::new(0));
            let front = Front {
                mailbox: mailboxes[usize::from(index)].clone(),
                counters: counters.clone(),
                candidates: sockets
                    .iter()
                    .flat_map(|s| advertised(&config, s.local_addr()))
                    .collect(),
                next_peer: AtomicU32::new(1),
                load: load.clone(),
            };
            let shared = Shared {
                index,
                config: config.clone(),
                identity: identity.clone(),
                mailboxes: mailboxes.clone(),
                routes: routes.clone(),
                counters,
                load,
                turn: turn.clone(),
            };
            let (events, taps) = (events.clone(), taps.clone());
            let thread = std::thread::Builder::new()
                .name(format!("media-{index}"))
                .spawn(move || Shard::new(shared, sockets, events, taps).run(inbox))?;
            fronts.push(front);
            threads.push(thread);
        }
        Ok(Shards {
            fronts,
            threads: Mutex::new(threads),
            routes,
            dropped_commands: Counters::default(),
            next: AtomicUsize::new(0),
            turn,
            bound,
        })
    }

    /// A number for a new peer, on the least loaded shard. The peer exists from `AddPeer` on.
    pub fn allocate_peer(&self) -> PeerId {
        let shard = self.least_loaded();
        let index = self.fronts[usize::from(shard)]
            .next_peer
            .fetch_add(1, Ordering::Relaxed);
        PeerId { shard, index }
    }

    /// Like [`Shards::allocate_peer`], on a shard of the caller's choice (taken modulo their number).
    pub fn allocate_peer_on(&self, shard: u16) -> PeerId {
        let shard = shard % self.fronts.len() as u16;
        let index = self.fronts[usize::from(shard)]
            .next_peer
            .fetch_add(1, Ordering::Relaxed);
        PeerId { shard, index }
    }

    /// The addresses a client of this peer's shard is told.
    pub fn candidates(&self, peer: PeerId) -> Vec<SocketAddr> {
        self.fronts
            .get(usize::from(peer.shard))
            .map(|f| f.candidates.clone())
            .unwrap_or_default()
    }

    /// Reaches clients behind this process's TURN server through `ports` from now on. Only the first call counts.
    pub fn set_turn(&self, ports: Arc<dyn LocalPorts>) {
        let _ = self.turn.set(ports);
    }

    /// The media ports, for this process's TURN server.
    pub fn local_ports(&self) -> Arc<dyn LocalPorts> {
        let shard_of = |(address, shard): &(SocketAddr, u16)| ((address.is_ipv4(), address.port()), *shard);
        Arc::new(MediaPorts {
            shard_of: self.bound.iter().map(shard_of).collect(),
            mailboxes: self.fronts.iter().map(|front| front.mailbox.clone()).collect(),
        })
    }

    pub fn len(&self) -> usize {
        self.fronts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.fronts.is_empty()
    }

    /// Passes a command on. Never blocks; media and messages for a shard that is behind are dropped and counted.
    pub fn send(&self, command: Command) {
        match command {
            Command::SendData {
                peers,
                channel,
                payload,
            } => {
                let mut by_shard = vec![Vec::new(); self.fronts.len()];
                for peer in peers {
                    if let Some(list) = by_shard.get_mut(usize::from(peer.shard)) {
                        list.push(peer);
                    }
                }
                for (shard, peers) in by_shard.into_iter().enumerate().filter(|(_, peers)| !peers.is_empty()) {
                    self.pass(
                        shard as u16,
                        Command::SendData {
                            peers,
                            channel,
                            payload: payload.clone(),
                        },
                    );
                }
            }
            Command::Publish { peer, track, .. } => self.settle(track, Some(peer.shard), command),
            Command::AddRemoteTrack { track, .. } => self.settle(track, None, command),
            command => {
                if let Some(shard) = self.destination(&command) {
                    self.pass(shard, command);
                }
            }
        }
    }

    fn destination(&self, command: &Command) -> Option<u16> {
        match command {
            Command::AddPeer { peer, .. } => {
                self.fronts
                    .get(usize::from(peer.shard))?
                    .load
                    .fetch_add(1, Ordering::Relaxed);
                Some(peer.shard)
            }
            Command::RestartIce { peer, .. }
            | Command::RemovePeer { peer }
            | Command::Subscribe { peer, .. }
            | Command::Unsubscribe { peer, .. }
            | Command::SetDemand { peer, .. }
            | Command::HoldData { peer, .. } => Some(peer.shard),
            Command::Unpublish { track } | Command::RemoveTrack { track } => {
                let (home, attached) = {
                    let mut routes = self.routes();
                    (routes.home(*track), routes.clear_home(*track))
                };
                for shard in attached.into_iter().filter(|&s| Some(s) != home) {
                    self.note(
                        shard,
                        Note::Home {
                            track: *track,
                            home: None,
                        },
                    );
                }
                home
            }
            Command::SetMuted { track, .. }
            | Command::RemoteMedia { track, .. }
            | Command::RemoteSenderReport { track, .. }
            | Command::SetAbsent { track, .. }
            | Command::Tap { track, .. }
            | Command::RequestKeyframe { track, .. } => self.routes().home(*track),
            // These have their own ways in `send`.
            Command::SendData { .. } | Command::Publish { .. } | Command::AddRemoteTrack { .. } => None,
        }
    }

    /// Gives the track a home (the least loaded shard if nobody says which), sends the command there, and introduces
    /// the shards that already have subscribers.
    fn settle(&self, track: meridian_sfu::TrackId, home: Option<u16>, command: Command) {
        let mut routes = self.routes();
        let before = routes.home(track);
        let home = home.or(before).unwrap_or_else(|| self.least_loaded());
        let attached = routes.set_home(track, home);
        // Still under the lock: a shard that sees this home and attaches itself must find the track there.
        self.pass(home, command);
        drop(routes);
        if before != Some(home) {
            // A track that moved (its publisher came back as another peer): the old home becomes one of the mirrors.
            if let Some(old) = before.filter(|old| !attached.contains(old)) {
                self.note(
                    old,
                    Note::Home {
                        track,
                        home: Some(home),
                    },
                );
            }
            for shard in attached {
                self.note(home, Note::Attach { track, shard });
                self.note(
                    shard,
                    Note::Home {
                        track,
                        home: Some(home),
                    },
                );
            }
        }
    }

    fn note(&self, shard: u16, note: Note) {
        if let Some(front) = self.fronts.get(usize::from(shard)) {
            front.mailbox.note(note);
        }
    }

    fn pass(&self, shard: u16, command: Command) {
        let Some(front) = self.fronts.get(usize::from(shard)) else {
            return;
        };
        if !front.mailbox.command(command) {
            self.dropped_commands.drop_commands.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn least_loaded(&self) -> u16 {
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let count = self.fronts.len();
        let best = (0..count)
            .map(|i| (start + i) % count)
            .min_by_key(|&i| self.fronts[i].load.load(Ordering::Relaxed))
            .unwrap_or(0);
        best as u16
    }

    /// Counters of all shards together.
    pub fn metrics(&self) -> ShardMetrics {
        let mut sum = ShardMetrics::default();
        self.dropped_commands.add_to(&mut sum);
        for front in &self.fronts {
            front.counters.add_to(&mut sum);
        }
        sum
    }

    /// Whether every media thread runs: one that has ended has a bug, and its people hear and see nothing any more. After
    /// [`Shards::shutdown`] there are none that could have ended.
    pub fn is_whole(&self) -> bool {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        !threads.iter().any(JoinHandle::is_finished)
    }

    /// Closes every transport (clients get a close_notify) and waits for the threads to end, a few milliseconds.
    pub fn shutdown(&self) {
        for front in &self.fronts {
            front.mailbox.note(Note::Shutdown);
        }
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        for front in &self.fronts {
            front.mailbox.note(Note::Shutdown);
        }
    }
}

/// See [`Shards::local_ports`].
struct MediaPorts {
    /// By family (is it IPv4?) and port.
    shard_of: HashMap<(bool, u16), u16>,
    mailboxes: Vec<Mailbox>,
}

impl fmt::Debug for MediaPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MediaPorts").field(&self.shard_of).finish()
    }
}

impl LocalPorts for MediaPorts {
    fn deliver(&self, from: SocketAddr, to: SocketAddr, segment: usize, bytes: &[u8]) -> bool {
        let shard = self.shard_of.get(&(to.is_ipv4(), to.port()));
        let mailbox = shard.and_then(|&shard| self.mailboxes.get(usize::from(shard)));
        mailbox.is_some_and(|mailbox| mailbox.relayed(from, to, segment, bytes))
    }

    fn wake(&self) {
        self.mailboxes.iter().for_each(Mailbox::wake_if_relayed);
    }
}

fn bind(config: &ShardsConfig, index: u16) -> io::Result<Vec<Socket>> {
    let options = SocketOptions {
        recv_buffer_bytes: config.socket_buffer_bytes,
        send_buffer_bytes: config.socket_buffer_bytes,
        ..SocketOptions::default()
    };
    let mut sockets = Vec::with_capacity(config.bind.len());
    for base in &config.bind {
        let port = match base.port() {
            0 => 0,
            port => port.checked_add(index).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{base}: the ports of all shards end at 65535"),
                )
            })?,
        };
        let address = SocketAddr::new(base.ip(), port);
        let socket = Socket::bind(address, &options)
            .map_err(|e| io::Error::new(e.kind(), format!("media address {address}: {e}")))?;
        sockets.push(socket);
    }
    Ok(sockets)
}

/// What clients are told about a socket bound to `local`.
fn advertised(config: &ShardsConfig, local: SocketAddr) -> Vec<SocketAddr> {
    let same_family = |ip: &&IpAddr| ip.is_ipv4() == local.is_ipv4();
    let mut ips: Vec<IpAddr> = config.advertise.iter().filter(same_family).copied().collect();
    if config.advertise.is_empty() {
        ips.push(if local.ip().is_unspecified() {
            outward_address(local.is_ipv4())
        } else {
            local.ip()
        });
    }
    ips.into_iter().map(|ip| SocketAddr::new(ip, local.port())).collect()
}

/// The address this machine would send from to the internet (no packet is sent), else loopback.
fn outward_address(ipv4: bool) -> IpAddr {
    let (any, far, loopback): (IpAddr, IpAddr, IpAddr) = if ipv4 {
        (
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv4Addr::new(192, 0, 2, 1).into(),
            Ipv4Addr::LOCALHOST.into(),
        )
    } else {
        (
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
            Ipv6Addr::LOCALHOST.into(),
        )
    };
    UdpSocket::bind((any, 0))
        .and_then(|socket| socket.connect((far, 9)).and_then(|()| socket.local_addr()))
        .map_or(loopback, |address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_thread_that_ends_is_missed() {
        let identity = Arc::new(DtlsIdentity::generate().unwrap());
        let events = mpsc::channel(1).0;
        let taps = TapSenders {
            mesh: mpsc::channel(1).0,
            recorder: mpsc::channel(1).0,
        };
        let config = ShardsConfig {
            bind: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            shards: 1,
            ..ShardsConfig::default()
        };
        let shards = Shards::start(config, identity, events, taps).unwrap();
        assert!(shards.is_whole());
        // As a panic would end it, which none can be made to do here.
        shards.fronts[0].mailbox.note(Note::Shutdown);
        while shards.is_whole() {
            std::thread::yield_now();
        }
    }
}
