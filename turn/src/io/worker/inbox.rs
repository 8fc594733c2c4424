//! What reaches a worker from elsewhere in this process: streams of other workers, connections that another listener accepted, datagrams
//! of peers that live here too.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use meridian_udp::Handover;
use mio::Interest;

use super::{STREAM, Worker, token};
use crate::io::stream::Stream;
use meridian_turn_core::Transport;

/// A TLS connection that somebody else accepted, after its handshake.
pub(crate) struct Newcomer {
    pub(crate) socket: std::net::TcpStream,
    pub(crate) tls: rustls::ServerConnection,
    pub(crate) remote: SocketAddr,
}

/// Newcomers that may wait for a worker's turn.
const NEWCOMERS_MAX: usize = 1_024;

/// One worker's; shared with whoever hands something over.
pub(crate) struct Inbox {
    /// Of other workers, because the connection that they want to bind is ours.
    streams: Mutex<Vec<Stream>>,
    newcomers: Mutex<Vec<Newcomer>>,
    /// From peers in this process.
    local: Handover,
    waker: Arc<mio::Waker>,
}

impl Inbox {
    pub(super) fn new(waker: Arc<mio::Waker>) -> Inbox {
        Inbox {
            streams: Mutex::default(),
            newcomers: Mutex::default(),
            local: Handover::default(),
            waker,
        }
    }

    /// Datagrams of a peer in this process to a relay of this worker. `false`: too many wait.
    pub(crate) fn relay(&self, from: SocketAddr, to: SocketAddr, segment: usize, bytes: &[u8]) -> bool {
        self.local.push(from, to, segment, bytes)
    }

    pub(crate) fn wake_if_relayed(&self) {
        if self.local.take_news()
            && let Err(error) = self.waker.wake()
        {
            tracing::warn!(%error, "cannot wake a TURN worker");
        }
    }

    /// `false`: too many wait already; the connection is dropped.
    pub(crate) fn welcome(&self, newcomer: Newcomer) -> bool {
        let mut newcomers = self.newcomers.lock().unwrap_or_else(PoisonError::into_inner);
        if newcomers.len() >= NEWCOMERS_MAX {
            return false;
        }
        newcomers.push(newcomer);
        drop(newcomers);
        self.waker.wake().is_ok()
    }
}

impl Worker {
    pub(super) fn hand_over(&mut self, index: usize, worker: u8) {
        let Some(inbox) = self.inboxes.get(usize::from(worker)).cloned() else {
            return self.out.broken.push(index);
        };
        let Some(mut stream) = self.release(index) else { return };
        if self.poll.registry().deregister(&mut stream.socket).is_ok() {
            inbox
                .streams
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(stream);
            if let Err(error) = inbox.waker.wake() {
                tracing::warn!(%error, "cannot wake a TURN worker");
            }
        }
    }

    /// Everything that came from elsewhere in this process.
    pub(super) fn open_inbox(&mut self) {
        self.take_streams();
        self.receive_locally();
    }

    fn take_streams(&mut self) {
        let streams = std::mem::take(&mut *self.inbox.streams.lock().unwrap_or_else(PoisonError::into_inner));
        for mut stream in streams {
            let index = self.out.free_stream_slot();
            let interest = Interest::READABLE | Interest::WRITABLE;
            if self
                .poll
                .registry()
                .register(&mut stream.socket, token(STREAM, index), interest)
                .is_ok()
            {
                self.adopt(index, stream);
                self.handle_frames(index);
            }
        }
        let newcomers = std::mem::take(&mut *self.inbox.newcomers.lock().unwrap_or_else(PoisonError::into_inner));
        for Newcomer { socket, tls, remote } in newcomers {
            // What it has sent already is read when it is first found writable, which is at once.
            self.welcome(mio::net::TcpStream::from_std(socket), remote, Transport::Tls, Some(tls));
        }
    }

    /// Datagrams of peers in this process, as if they had come to the relays' sockets.
    fn receive_locally(&mut self) {
        if !self.inbox.local.take(&mut self.handed) {
            return;
        }
        let (mut taken, mut lost) = (0, 0);
        for datagram in self.handed.datagrams() {
            let relay = self.server.relay_at(datagram.local);
            let packet = relay.and_then(|relay| self.server.handle_peer(self.now, relay, datagram.from, datagram.data));
            match packet {
                Some(packet) => {
                    self.out.relay_to_client(packet);
                    taken += 1;
                }
                // A refused one was counted where it was refused.
                None => lost += u64::from(relay.is_none()),
            }
        }
        self.out.gauges.local_down.fetch_add(taken, Ordering::Relaxed);
        self.out.gauges.local_dropped.fetch_add(lost, Ordering::Relaxed);
    }
}
