//! One worker thread: waits for its sockets, feeds the protocol, sends what comes out. mio's epoll is edge-triggered, so
//! what was not drained in one turn is remembered in `again`.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use meridian_udp::{Handed, RecvBatch};
use mio::net::TcpListener;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::dtls::DtlsIdentity;
use super::outbound::{Local, Outbound, RelayEnd, relay_slot};
use super::pace::Pace;
use super::splice::Pumped;
use super::stream::Stream;
use super::{Gauges, wall_clock};
use meridian_turn_core::server::{Command, Counters, RelayId, Relayed, Server, Shared};
use meridian_turn_core::{ClientSocket, Transport};

mod dtls;
mod inbox;
mod listening;

pub(crate) use inbox::{Inbox, Newcomer};
pub(crate) use listening::Sockets;

/// Messages per receive call: from clients many share a socket, on a relay socket few arrive at once.
const CLIENT_BUFFERS: usize = 64;
const PEER_BUFFERS: usize = 16;
/// Of several relays, to be worked on in one go.
const PEERS_BUFFERS: usize = 64;
/// Receive calls on one socket before the others have their turn.
const ROUNDS: usize = 4;
const SWEEP: Duration = Duration::from_secs(2);

const WAKER: Token = Token(0);
const KIND_SHIFT: u32 = 40;
const UDP: usize = 1;
const ACCEPT: usize = 2;
const RELAY: usize = 3;
const STREAM: usize = 4;
const PEER: usize = 5;
const DTLS: usize = 6;
/// How long a connection over its quota rests.
const REST: Duration = Duration::from_millis(10);

fn token(kind: usize, index: usize) -> Token {
    Token((kind << KIND_SHIFT) | index)
}

pub(crate) struct Worker {
    number: u8,
    inbox: Arc<Inbox>,
    inboxes: Arc<[Arc<Inbox>]>,
    /// Peers over their quota.
    resting: Vec<usize>,
    shared: Arc<Shared>,
    server: Server<StdRng>,
    poll: Poll,
    waker: Arc<mio::Waker>,
    stop: Arc<AtomicBool>,
    out: Outbound,
    accepting: Vec<(TcpListener, Transport)>,
    tls: Option<Arc<rustls::ServerConfig>>,
    per_source: HashMap<IpAddr, usize>,
    from_clients: RecvBatch,
    from_peers: RecvBatch,
    /// Whose the buffers of `from_peers` are, and where each one's end.
    peers_of: Vec<(RelayId, usize)>,
    handed: Handed,
    again: Vec<Token>,
    /// To be tried again at the next sweep.
    later: Vec<Token>,
    pace: Pace,
    now: Instant,
    next_sweep: Instant,
}

impl Worker {
    pub(crate) fn new(
        number: u8,
        shared: Arc<Shared>,
        sockets: Sockets,
        (tls, dtls): (Option<Arc<rustls::ServerConfig>>, Option<Arc<DtlsIdentity>>),
        gather: Duration,
        stop: Arc<AtomicBool>,
    ) -> io::Result<Worker> {
        let poll = Poll::new()?;
        let registry = poll.registry();
        for (i, socket) in sockets.udp.iter().enumerate() {
            registry.register(&mut SourceFd(&socket.as_raw_fd()), token(UDP, i), Interest::READABLE)?;
        }
        for (i, socket) in (sockets.udp.len()..).zip(&sockets.dtls) {
            registry.register(&mut SourceFd(&socket.as_raw_fd()), token(DTLS, i), Interest::READABLE)?;
        }
        let mut accepting = Vec::new();
        for (i, (socket, transport)) in sockets.streams.into_iter().enumerate() {
            let mut socket = TcpListener::from_std(socket);
            registry.register(&mut socket, token(ACCEPT, i), Interest::READABLE)?;
            accepting.push((socket, transport));
        }
        let waker = Arc::new(mio::Waker::new(registry, WAKER)?);
        let now = Instant::now();
        let datagrams = sockets.udp.into_iter().chain(sockets.dtls).collect();
        let out = Outbound::new(datagrams, dtls, &shared.config().limits, now);
        Ok(Worker {
            number,
            inbox: Arc::new(Inbox::new(waker.clone())),
            inboxes: Arc::from([]),
            resting: Vec::new(),
            server: Server::new(shared.clone(), number, now, StdRng::from_seed(rand::rng().random())),
            shared,
            poll,
            waker,
            stop,
            out,
            accepting,
            tls,
            per_source: HashMap::new(),
            from_clients: RecvBatch::new(CLIENT_BUFFERS),
            from_peers: RecvBatch::new(PEERS_BUFFERS),
            peers_of: Vec::new(),
            handed: Handed::default(),
            again: Vec::new(),
            later: Vec::new(),
            pace: Pace::new(gather, now),
            now,
            next_sweep: now,
        })
    }

    pub(crate) fn handles(&self) -> (Arc<mio::Waker>, Arc<Counters>, Arc<Gauges>) {
        (
            self.waker.clone(),
            self.server.counters().clone(),
            self.out.gauges.clone(),
        )
    }

    pub(crate) fn inbox(&self) -> Arc<Inbox> {
        self.inbox.clone()
    }

    /// Peers in this process.
    pub(crate) fn neighbour(&mut self, local: Local) {
        self.out.local = Some(local);
    }

    /// All workers' inboxes, by their number.
    pub(crate) fn know(&mut self, inboxes: Arc<[Arc<Inbox>]>) {
        self.inboxes = inboxes;
    }

    /// Until told to stop. Only a failing epoll ends it otherwise.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1_024);
        let mut turn: Vec<Token> = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let timeout = self.timeout();
            let asked = self.rest();
            if let Err(error) = self.poll.poll(&mut events, Some(timeout))
                && error.kind() != io::ErrorKind::Interrupted
            {
                return Err(error);
            }
            self.now = Instant::now();
            self.pace.woken(asked, self.now);
            turn.append(&mut self.again);
            turn.extend(events.iter().map(|event| event.token()));
            for token in turn.drain(..) {
                self.serve(token);
            }
            self.relay_from_peers();
            self.tick();
            self.pump();
            self.out.flush();
            self.bury();
        }
        self.out.end_sessions();
        Ok(())
    }

    /// Leaves packets to gather if they come fast; the time afterwards.
    fn rest(&self) -> Instant {
        let now = Instant::now();
        match self.pace.pause(now).filter(|_| self.again.is_empty()) {
            None => now,
            Some(pause) => {
                std::thread::sleep(pause);
                Instant::now()
            }
        }
    }

    fn timeout(&self) -> Duration {
        if !self.again.is_empty() {
            return Duration::ZERO;
        }
        if !self.resting.is_empty() {
            return REST;
        }
        let timers = [self.server.poll_timeout(), self.out.dtls.poll_timeout()];
        let next = timers.into_iter().flatten().fold(self.next_sweep, Instant::min);
        // Up to the next millisecond: epoll would wake up just before, and again.
        next.saturating_duration_since(Instant::now()) + Duration::from_millis(1)
    }

    fn serve(&mut self, token: Token) {
        let index = token.0 & ((1 << KIND_SHIFT) - 1);
        match token.0 >> KIND_SHIFT {
            UDP => self.receive_from_clients(index),
            DTLS => self.receive_from_dtls(index),
            ACCEPT => self.accept(index),
            RELAY => self.receive_from_peers(index),
            STREAM => self.receive_from_stream(index),
            PEER => self.peer_event(index),
            0 => self.open_inbox(),
            _ => {}
        }
    }

    fn receive_from_clients(&mut self, index: usize) {
        for _ in 0..ROUNDS {
            let Some(listener) = self.out.listeners.get(index) else {
                return;
            };
            let filled = match listener.socket.recv(&mut self.from_clients) {
                Ok(filled) => filled,
                Err(error) => return tracing::warn!(%error, "receiving from TURN clients failed"),
            };
            for datagram in self.from_clients.datagrams() {
                let client = ClientSocket {
                    remote: datagram.from,
                    local: datagram.local,
                    transport: Transport::Udp,
                };
                match self.server.handle_client(self.now, client, datagram.data) {
                    Relayed::ToPeer(packet) => self.out.relay_to_peer(packet),
                    Relayed::ToClient(packet) => self.out.relay_to_client(packet),
                    Relayed::Nothing => execute(&mut self.server, &mut self.out, &self.poll, self.now),
                }
            }
            if filled < CLIENT_BUFFERS {
                return;
            }
        }
        self.again.push(token(UDP, index));
    }

    fn receive_from_peers(&mut self, slot: usize) {
        for _ in 0..ROUNDS {
            let Some(Some(relay)) = self.out.relays.get(slot) else {
                return;
            };
            let id = relay.id;
            let RelayEnd::Udp(socket) = &relay.end else {
                return self.accept_peers(slot);
            };
            if self.from_peers.room() < PEER_BUFFERS {
                self.relay_from_peers();
                continue;
            }
            let filled = match socket.recv_more(&mut self.from_peers, PEER_BUFFERS) {
                Ok(filled) => filled,
                Err(error) => return tracing::debug!(%error, "receiving from peers failed"),
            };
            self.peers_of.push((id, self.from_peers.filled()));
            if filled < PEER_BUFFERS {
                return;
            }
        }
        self.again.push(token(RELAY, slot));
    }

    /// What [`Worker::receive_from_peers`] has collected.
    fn relay_from_peers(&mut self) {
        let mut start = 0;
        for (id, end) in self.peers_of.drain(..) {
            for datagram in self.from_peers.datagrams_in(start..end) {
                if let Some(packet) = self.server.handle_peer(self.now, id, datagram.from, datagram.data) {
                    self.out.relay_to_client(packet);
                }
            }
            start = end;
        }
        self.from_peers.clear();
    }

    fn accept(&mut self, index: usize) {
        loop {
            let (listener, transport) = &self.accepting[index];
            let (transport, accepted) = (*transport, listener.accept());
            match accepted {
                Ok((socket, remote)) => self.welcome(socket, remote, transport, None),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "accepting TURN connections failed");
                    // Out of descriptors: the edge is spent, so look again at the next sweep.
                    return self.later.push(token(ACCEPT, index));
                }
            }
        }
    }

    /// `tls`: its handshake was elsewhere.
    fn welcome(
        &mut self,
        socket: mio::net::TcpStream,
        remote: SocketAddr,
        transport: Transport,
        tls: Option<rustls::ServerConnection>,
    ) {
        if let Err(error) = self.take_in(socket, remote, transport, tls) {
            tracing::debug!(%error, %remote, "a TURN connection was not taken");
            self.out.gauges.streams_refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn take_in(
        &mut self,
        mut socket: mio::net::TcpStream,
        remote: SocketAddr,
        transport: Transport,
        tls: Option<rustls::ServerConnection>,
    ) -> io::Result<()> {
        let limits = &self.shared.config().limits;
        let same = self.per_source.get(&remote.ip()).copied().unwrap_or(0);
        if self.out.stream_of.len() >= limits.connections || same >= limits.connections_per_source {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "too many connections"));
        }
        socket.set_nodelay(true)?;
        let client = ClientSocket {
            remote,
            local: socket.local_addr()?,
            transport,
        };
        let tls = match (&self.tls, transport) {
            _ if tls.is_some() => tls,
            (Some(config), Transport::Tls) => {
                Some(rustls::ServerConnection::new(config.clone()).map_err(io::Error::other)?)
            }
            _ => None,
        };
        let index = self.out.free_stream_slot();
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut socket, token(STREAM, index), interest)?;
        let stream = Stream::new(socket, client, tls, limits.stream_queue_bytes, self.now);
        self.adopt(index, stream);
        Ok(())
    }

    fn adopt(&mut self, index: usize, stream: Stream) {
        self.out.stream_of.insert(stream.client, index);
        *self.per_source.entry(stream.client.remote.ip()).or_default() += 1;
        self.out.gauges.streams.fetch_add(1, Ordering::Relaxed);
        self.out.streams[index] = Some(stream);
    }

    /// Takes a stream out of everything that knows it.
    fn release(&mut self, index: usize) -> Option<Stream> {
        let stream = self.out.streams.get_mut(index)?.take()?;
        self.out.stream_of.remove(&stream.client);
        self.out.gauges.streams.fetch_sub(1, Ordering::Relaxed);
        let ip = stream.client.remote.ip();
        if let Some(count) = self.per_source.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                self.per_source.remove(&ip);
            }
        }
        Some(stream)
    }

    fn receive_from_stream(&mut self, index: usize) {
        // It may have become writable too.
        self.out.mark_dirty(index);
        for _ in 0..ROUNDS {
            let Some(Some(stream)) = self.out.streams.get_mut(index) else {
                return;
            };
            if let Some(peer) = stream.peer {
                return self.out.pumps.push(peer);
            }
            match stream.read() {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::trace!(%error, client = ?stream.client, "a TURN connection ended");
                    return self.out.broken.push(index);
                }
            }
            self.handle_frames(index);
        }
        self.again.push(token(STREAM, index));
    }

    /// Every whole frame that was read, until the stream turns into a data connection.
    fn handle_frames(&mut self, index: usize) {
        let Some(Some(stream)) = self.out.streams.get_mut(index) else {
            return;
        };
        let client = stream.client;
        let mut input = stream.take_input();
        loop {
            match input.next() {
                Ok(Some(frame)) => match self.server.handle_client(self.now, client, frame) {
                    Relayed::ToPeer(packet) => self.out.relay_to_peer(packet),
                    Relayed::ToClient(packet) => self.out.relay_to_client(packet),
                    Relayed::Nothing => execute(&mut self.server, &mut self.out, &self.poll, self.now),
                },
                Ok(None) => break,
                Err(_) => return self.out.broken.push(index),
            }
            if self.out.hand_over.is_some() {
                input.rewind();
                break;
            }
            if self
                .out
                .streams
                .get(index)
                .is_none_or(|s| s.as_ref().is_none_or(|s| s.peer.is_some()))
            {
                break;
            }
        }
        if let Some(Some(stream)) = self.out.streams.get_mut(index) {
            stream.put_input(input);
        }
        if let Some((_, worker)) = self.out.hand_over.take() {
            self.hand_over(index, worker);
        }
    }

    /// Connections to a relayed TCP address (RFC 6062 §5.3).
    fn accept_peers(&mut self, slot: usize) {
        for _ in 0..ROUNDS {
            let Some(Some(relay)) = self.out.relays.get(slot) else {
                return;
            };
            let RelayEnd::Tcp(listener) = &relay.end else { return };
            let (socket, from) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return tracing::debug!(%error, "accepting a peer failed"),
            };
            let Some(id) = self.server.peer_accepted(self.now, relay.id, from) else {
                continue;
            };
            if self
                .out
                .peers
                .accepted(id, socket, self.poll.registry(), peer_token)
                .is_err()
            {
                self.server.peer_closed(self.now, id);
            }
        }
        self.again.push(token(RELAY, slot));
    }

    fn peer_event(&mut self, index: usize) {
        if let Some((id, connected)) = self.out.peers.conclude_connect(index) {
            if !connected {
                self.out.peers.close(id);
            }
            self.server.peer_connected(self.now, id, connected);
            execute(&mut self.server, &mut self.out, &self.poll, self.now);
        }
        self.out.pumps.push(index);
    }

    /// Moves bytes between peers and data connections that had an event.
    fn pump(&mut self) {
        self.out.pumps.append(&mut self.resting);
        while let Some(index) = self.out.pumps.pop() {
            match self.out.pump(&mut self.server, self.now, index) {
                Pumped::Idle => {}
                Pumped::Again => self.again.push(peer_token(index)),
                Pumped::Throttled => self.resting.push(index),
            }
        }
        execute(&mut self.server, &mut self.out, &self.poll, self.now);
    }

    fn tick(&mut self) {
        if self.server.poll_timeout().is_some_and(|at| at <= self.now) {
            self.server.handle_timeout(self.now);
        }
        self.out.dtls_timers(self.now);
        if self.now >= self.next_sweep {
            self.next_sweep = self.now + SWEEP;
            self.again.append(&mut self.later);
            self.server.handle_timeout(self.now);
            let server = &self.server;
            let busy = |client| server.has_allocation(client);
            self.out
                .end_idle(self.now, self.shared.config().limits.stream_idle, busy);
            if self.number == 0 {
                self.shared.set_wall_clock(self.now, wall_clock());
            }
        }
        execute(&mut self.server, &mut self.out, &self.poll, self.now);
    }

    /// Closes streams that ended, broke or were idle; their allocations end with them.
    fn bury(&mut self) {
        while let Some(index) = self.out.broken.pop() {
            let Some(stream) = self.release(index) else { continue };
            self.server.client_gone(self.now, stream.client);
            execute(&mut self.server, &mut self.out, &self.poll, self.now);
        }
        self.out.flush();
    }
}

fn execute(server: &mut Server<StdRng>, out: &mut Outbound, poll: &Poll, now: Instant) {
    while let Some(command) = server.poll_command() {
        match command {
            Command::Send { client, message } => out.answer(client, &message),
            Command::OpenRelay { relay, bind, protocol } => {
                let opened = out.open_relay(relay, (bind, protocol), poll.registry(), relay_token(relay));
                server.relay_opened(now, relay, opened);
            }
            Command::CloseRelay { relay } => out.close_relay(relay),
            Command::ConnectPeer { connection, from, to } => {
                if out
                    .peers
                    .connect(connection, (from, to), poll.registry(), peer_token)
                    .is_err()
                {
                    server.peer_connected(now, connection, false);
                }
            }
            Command::ClosePeer { connection } => {
                if let Some(stream) = out.peers.close(connection) {
                    out.broken.push(stream);
                }
            }
            Command::Splice { connection, client } => {
                let stream = out.stream_of.get(&client).copied();
                let peer = stream.and_then(|stream| out.peers.splice(connection, stream));
                if let Some(stream) = stream.and_then(|stream| out.streams[stream].as_mut()) {
                    stream.peer = peer;
                }
                match peer {
                    Some(peer) => out.pumps.push(peer),
                    None => out.broken.extend(stream),
                }
            }
            Command::HandOver { client, worker } => out.hand_over = Some((client, worker)),
        }
    }
}

fn relay_token(relay: RelayId) -> Token {
    token(RELAY, relay_slot(relay))
}

fn peer_token(index: usize) -> Token {
    token(PEER, index)
}
