//! RFC 6062's connections to peers: opening, accepting, and passing bytes between a peer and its client's data
//! connection. What the slower side has not taken is not read from the faster one.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use rand::Rng;

use super::outbound::Outbound;
use meridian_turn_core::server::{ConnectionId, Server};

/// Bytes that may wait in one direction.
const WAITING_BYTES_MAX: usize = 64 * 1024;
const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks of one direction before others have their turn.
const ROUNDS: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Connecting,
    /// For the client's ConnectionBind.
    Waiting,
    /// With the client's stream of this index.
    Spliced(usize),
}

struct Peer {
    socket: TcpStream,
    id: ConnectionId,
    state: State,
    output: Vec<u8>,
    ended: bool,
}

/// All connections to peers of one worker.
#[derive(Default)]
pub(crate) struct Peers {
    all: Vec<Option<Peer>>,
    index_of: HashMap<ConnectionId, usize>,
    chunk: Vec<u8>,
}

/// What a turn of pumping left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// An event will tell.
    Idle,
    /// There is more, but others have their turn.
    Again,
    /// Over quota: again in a while.
    Throttled,
}

pub(crate) fn listen_relay(bind: SocketAddr) -> io::Result<TcpListener> {
    let socket = relay_socket(bind)?;
    socket.listen(16)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// The listener and the connections from its port share the address, as RFC 6062 §5.2 wants.
fn relay_socket(bind: SocketAddr) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(bind), socket2::Type::STREAM, None)?;
    if bind.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&bind.into())?;
    Ok(socket)
}

fn connect_from(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = relay_socket(from)?;
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// On Linux, for all architectures we build for.
const EINPROGRESS: i32 = 115;

impl Peers {
    /// `None`: could not even begin.
    pub(crate) fn connect(
        &mut self,
        id: ConnectionId,
        (from, to): (SocketAddr, SocketAddr),
        registry: &Registry,
        token: impl Fn(usize) -> Token,
    ) -> io::Result<()> {
        let socket = connect_from(from, to)?;
        self.add(id, socket, State::Connecting, registry, token)
    }

    pub(crate) fn accepted(
        &mut self,
        id: ConnectionId,
        socket: TcpStream,
        registry: &Registry,
        token: impl Fn(usize) -> Token,
    ) -> io::Result<()> {
        self.add(id, socket, State::Waiting, registry, token)
    }

    fn add(
        &mut self,
        id: ConnectionId,
        mut socket: TcpStream,
        state: State,
        registry: &Registry,
        token: impl Fn(usize) -> Token,
    ) -> io::Result<()> {
        let index = self.all.iter().position(Option::is_none).unwrap_or(self.all.len());
        registry.register(&mut socket, token(index), Interest::READABLE | Interest::WRITABLE)?;
        if index == self.all.len() {
            self.all.push(None);
        }
        self.all[index] = Some(Peer {
            socket,
            id,
            state,
            output: Vec::new(),
            ended: false,
        });
        self.index_of.insert(id, index);
        Ok(())
    }

    /// Drops the connection; the index of the client's stream, if it was spliced to one.
    pub(crate) fn close(&mut self, id: ConnectionId) -> Option<usize> {
        let index = self.index_of.remove(&id)?;
        match self.all.get_mut(index).and_then(Option::take)?.state {
            State::Spliced(stream) => Some(stream),
            State::Connecting | State::Waiting => None,
        }
    }

    /// Returns the peer's index for the stream to remember.
    pub(crate) fn splice(&mut self, id: ConnectionId, stream: usize) -> Option<usize> {
        let index = *self.index_of.get(&id)?;
        self.all[index].as_mut()?.state = State::Spliced(stream);
        Some(index)
    }

    /// If it was still connecting: whether that has succeeded by now.
    pub(crate) fn conclude_connect(&mut self, index: usize) -> Option<(ConnectionId, bool)> {
        let peer = self
            .all
            .get_mut(index)?
            .as_mut()
            .filter(|p| p.state == State::Connecting)?;
        let failed = matches!(peer.socket.take_error(), Err(_) | Ok(Some(_)));
        match peer.socket.peer_addr() {
            Ok(_) if !failed => {
                peer.state = State::Waiting;
                let _ = peer.socket.set_nodelay(true);
                Some((peer.id, true))
            }
            Err(error) if !failed && error.kind() == ErrorKind::NotConnected => None,
            _ => Some((peer.id, false)),
        }
    }
}

impl Outbound {
    /// Moves what can be moved, both ways. Call after every event of either end.
    pub(crate) fn pump<R: Rng>(&mut self, server: &mut Server<R>, now: Instant, index: usize) -> Pumped {
        let Some(Some(peer)) = self.peers.all.get_mut(index) else {
            return Pumped::Idle;
        };
        let State::Spliced(stream_index) = peer.state else {
            return Pumped::Idle;
        };
        let Some(Some(stream)) = self.streams.get_mut(stream_index) else {
            return Pumped::Idle;
        };
        let mut pumped = Pumped::Idle;
        let mut broken = false;
        let mut rounds = 0;
        // Edge-triggered: each direction goes on until one of its ends says "not now".
        while peer.output.len() < WAITING_BYTES_MAX && !stream.ended && !broken {
            if let Some(pause) = pause(server.may_splice(now, peer.id), &mut rounds) {
                pumped = pause;
                break;
            }
            match stream.take_raw(&mut peer.output) {
                Ok(0) => break,
                Ok(n) => server.spliced(now, peer.id, n, true),
                Err(_) => stream.ended = true,
            }
            broken = write_some(peer).is_err();
        }
        broken |= write_some(peer).is_err();
        self.peers.chunk.resize(CHUNK_BYTES, 0);
        rounds = 0;
        while stream.waiting() < WAITING_BYTES_MAX && !peer.ended && !broken {
            if let Some(pause) = pause(server.may_splice(now, peer.id), &mut rounds) {
                pumped = pause;
                break;
            }
            match peer.socket.read(&mut self.peers.chunk) {
                Ok(0) => peer.ended = true,
                Ok(n) => {
                    server.spliced(now, peer.id, n, false);
                    stream.queue_raw(&self.peers.chunk[..n]);
                    broken = stream.flush().is_err();
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => break,
                Err(_) => peer.ended = true,
            }
        }
        broken |= stream.flush().is_err();
        let all_said = (peer.ended && stream.waiting() == 0) || (stream.ended && peer.output.is_empty());
        if broken || all_said {
            let id = peer.id;
            self.peers.close(id);
            server.peer_closed(now, id);
            self.broken.push(stream_index);
        }
        pumped
    }
}

/// Whether to stop for now, and why.
fn pause(within_quota: bool, rounds: &mut usize) -> Option<Pumped> {
    *rounds += 1;
    match (within_quota, *rounds > ROUNDS) {
        (false, _) => Some(Pumped::Throttled),
        (true, true) => Some(Pumped::Again),
        (true, false) => None,
    }
}

fn write_some(peer: &mut Peer) -> io::Result<()> {
    let mut written = 0;
    while written < peer.output.len() {
        match peer.socket.write(&peer.output[written..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => written += n,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => break,
            Err(error) => return Err(error),
        }
    }
    peer.output.drain(..written);
    Ok(())
}
