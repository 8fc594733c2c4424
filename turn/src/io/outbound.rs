//! Everything a worker sends through: listening sockets, relay sockets and client streams, with the batches in front of
//! them.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use meridian_udp::{Batch, LocalPorts, Socket, SocketOptions};
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use std::os::fd::AsRawFd;

use super::Gauges;
use super::dtls::{DtlsIdentity, Sessions};
use super::splice::{Peers, listen_relay};
use super::stream::Stream;
use super::to_peers::ToPeers;
use meridian_turn_core::limits::Limits;
use meridian_turn_core::policy::MediaPorts;
use meridian_turn_core::server::{Protocol, RelayId, ToClient, ToPeer};
use meridian_turn_core::{ClientSocket, Family, Transport};

/// 64 messages of eight full packets.
pub(super) const BATCH_BYTES: usize = 640 * 1024;

pub(crate) struct Listener {
    pub(crate) socket: Socket,
    pub(crate) batch: Batch,
}

pub(crate) struct RelaySocket {
    pub(crate) id: RelayId,
    pub(crate) end: RelayEnd,
}

/// What peers speak to.
pub(crate) enum RelayEnd {
    Udp(Socket),
    Tcp(mio::net::TcpListener),
}

pub(crate) struct Outbound {
    /// Of UDP, then of DTLS.
    pub(crate) listeners: Vec<Listener>,
    pub(crate) dtls: Sessions,
    /// By allocation index × 2 + family.
    pub(crate) relays: Vec<Option<RelaySocket>>,
    pub(crate) streams: Vec<Option<Stream>>,
    pub(crate) stream_of: HashMap<ClientSocket, usize>,
    pub(crate) peers: Peers,
    /// Peers that were just spliced, or may move again.
    pub(crate) pumps: Vec<usize>,
    /// The stream to be handed to another worker, with its last frame.
    pub(crate) hand_over: Option<(ClientSocket, u8)>,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) local: Option<Local>,
    to_peers: ToPeers,
    /// Streams with something to write.
    dirty: Vec<usize>,
    /// Streams that broke while being written to.
    pub(crate) broken: Vec<usize>,
}

/// Peers in this process: an edge's media ports.
pub(crate) struct Local {
    ports: Arc<dyn LocalPorts>,
    /// Where they are, as routes name them.
    media: Vec<MediaPorts>,
    delivered: bool,
}

impl Local {
    pub(crate) fn new(ports: Arc<dyn LocalPorts>, media: Vec<MediaPorts>) -> Local {
        Local {
            ports,
            media,
            delivered: false,
        }
    }

    #[inline]
    fn has(&self, to: SocketAddr) -> bool {
        self.media
            .iter()
            .any(|media| media.actual == to.ip() && media.ports.contains(&to.port()))
    }

    fn deliver(&mut self, from: SocketAddr, packet: &ToPeer<'_>, gauges: &Gauges) {
        let payload = packet.payload;
        if self.ports.deliver(from, packet.to, payload.len(), payload) {
            self.delivered = true;
            gauges.local_up.fetch_add(1, Ordering::Relaxed);
        } else {
            gauges.local_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn wake(&mut self) {
        if std::mem::take(&mut self.delivered) {
            self.ports.wake();
        }
    }
}

pub(crate) fn relay_slot(relay: RelayId) -> usize {
    relay.allocation.index as usize * 2 + usize::from(relay.family == Family::V6)
}

impl Outbound {
    pub(crate) fn new(
        sockets: Vec<Socket>,
        identity: Option<Arc<DtlsIdentity>>,
        limits: &Limits,
        now: Instant,
    ) -> Outbound {
        let gauges = Arc::<Gauges>::default();
        let listener = |socket| Listener {
            socket,
            batch: Batch::new(BATCH_BYTES),
        };
        Outbound {
            listeners: sockets.into_iter().map(listener).collect(),
            dtls: Sessions::new(identity, limits, now, gauges.clone()),
            relays: Vec::new(),
            streams: Vec::new(),
            stream_of: HashMap::new(),
            peers: Peers::default(),
            pumps: Vec::new(),
            hand_over: None,
            gauges,
            local: None,
            to_peers: ToPeers::new(),
            dirty: Vec::new(),
            broken: Vec::new(),
        }
    }

    pub(crate) fn open_relay(
        &mut self,
        id: RelayId,
        (bind, protocol): (SocketAddr, Protocol),
        registry: &Registry,
        token: mio::Token,
    ) -> bool {
        let opened = match protocol {
            Protocol::Udp => open_socket(bind).and_then(|socket| {
                registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
                Ok(RelayEnd::Udp(socket))
            }),
            Protocol::Tcp => listen_relay(bind).and_then(|mut listener| {
                registry.register(&mut listener, token, Interest::READABLE)?;
                Ok(RelayEnd::Tcp(listener))
            }),
        };
        match opened {
            Ok(end) => {
                let slot = relay_slot(id);
                if self.relays.len() <= slot {
                    self.relays.resize_with(slot + 1, || None);
                }
                self.relays[slot] = Some(RelaySocket { id, end });
                true
            }
            Err(error) => {
                tracing::debug!(%bind, %error, "a relay port cannot be bound");
                false
            }
        }
    }

    /// What is batched for it still goes out.
    pub(crate) fn close_relay(&mut self, id: RelayId) {
        let slot = relay_slot(id);
        self.flush_relays();
        if let Some(relay) = self.relays.get_mut(slot)
            && relay.as_ref().is_some_and(|r| r.id == id)
        {
            *relay = None;
        }
    }

    #[inline]
    pub(crate) fn relay_to_peer(&mut self, packet: ToPeer<'_>) {
        let slot = relay_slot(packet.relay);
        if let Some(local) = &mut self.local
            && local.has(packet.to)
            && let Some(Some(RelaySocket {
                end: RelayEnd::Udp(socket),
                ..
            })) = self.relays.get(slot)
        {
            return local.deliver(socket.local_addr(), &packet, &self.gauges);
        }
        if !self.to_peers.push(slot, packet.to, packet.payload) {
            self.flush_relays();
            self.to_peers.push(slot, packet.to, packet.payload);
        }
    }

    #[inline]
    pub(crate) fn relay_to_client(&mut self, packet: ToClient<'_>) {
        let (client, len) = (packet.client, packet.encoded_len());
        let encode = |out: &mut [u8]| {
            packet.encode(out);
        };
        if client.transport == Transport::Udp {
            datagram(&mut self.listeners, &self.gauges, client, len, encode);
        } else if client.transport == Transport::Dtls {
            self.seal(client, len, encode);
        } else {
            let Some(index) = self.stream_index(client) else { return };
            let Some(stream) = self.streams[index].as_mut() else {
                return;
            };
            let was_dirty = stream.dirty;
            let queued = stream.queue(len, false, encode);
            if !queued {
                self.gauges.stream_frames_dropped.fetch_add(1, Ordering::Relaxed);
            } else if !was_dirty {
                self.dirty.push(index);
            }
        }
    }

    /// A message of the protocol's own.
    pub(crate) fn answer(&mut self, client: ClientSocket, message: &[u8]) {
        let copy = |out: &mut [u8]| out.copy_from_slice(message);
        match client.transport {
            Transport::Udp => return datagram(&mut self.listeners, &self.gauges, client, message.len(), copy),
            Transport::Dtls => return self.seal(client, message.len(), copy),
            Transport::Tcp | Transport::Tls => {}
        }
        let Some(index) = self.stream_index(client) else { return };
        let Some(stream) = self.streams[index].as_mut() else {
            return;
        };
        if stream.queue(message.len(), true, copy) {
            self.dirty.push(index);
        } else {
            self.broken.push(index);
        }
    }

    pub(crate) fn mark_dirty(&mut self, index: usize) {
        self.dirty.push(index);
    }

    /// Hands everything to the kernel.
    pub(crate) fn flush(&mut self) {
        self.flush_relays();
        if let Some(local) = &mut self.local {
            local.wake();
        }
        for listener in &mut self.listeners {
            if !listener.batch.is_empty() {
                send(&listener.socket, &mut listener.batch, &self.gauges);
            }
        }
        while let Some(index) = self.dirty.pop() {
            if let Some(Some(stream)) = self.streams.get_mut(index)
                && stream.flush().is_err()
            {
                self.broken.push(index);
            }
        }
    }

    /// A slot for a new connection.
    pub(crate) fn free_stream_slot(&mut self) -> usize {
        self.streams.iter().position(Option::is_none).unwrap_or_else(|| {
            self.streams.push(None);
            self.streams.len() - 1
        })
    }

    /// Ends streams and sessions that have been of no use for too long.
    pub(crate) fn end_idle(&mut self, now: Instant, limit: Duration, busy: impl Fn(ClientSocket) -> bool) {
        let (listeners, gauges) = (&mut self.listeners, &self.gauges);
        self.dtls.end_idle(now, &busy, &mut |client, packet| {
            push(listeners, gauges, client, packet)
        });
        for (index, stream) in self.streams.iter_mut().enumerate() {
            let Some(stream) = stream else { continue };
            if busy(stream.client) {
                stream.useful = now;
            } else if now.saturating_duration_since(stream.useful) > limit {
                self.broken.push(index);
            }
        }
    }

    /// One datagram of a DTLS client; see [`Sessions::receive`].
    pub(crate) fn unseal(
        &mut self,
        now: Instant,
        client: ClientSocket,
        received: &[u8],
        may_answer: impl FnOnce() -> bool,
    ) -> bool {
        let (listeners, gauges) = (&mut self.listeners, &self.gauges);
        let mut send = |packet: &[u8]| push(listeners, gauges, client, packet);
        self.dtls.receive(now, client, received, may_answer, &mut send)
    }

    fn seal(&mut self, client: ClientSocket, len: usize, write: impl FnOnce(&mut [u8])) {
        let (listeners, gauges) = (&mut self.listeners, &self.gauges);
        let mut send = |packet: &[u8]| push(listeners, gauges, client, packet);
        if !self.dtls.seal(client, len, write, &mut send) {
            self.gauges.datagrams_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn dtls_timers(&mut self, now: Instant) {
        let (listeners, gauges) = (&mut self.listeners, &self.gauges);
        self.dtls
            .handle_timeout(now, &mut |client, packet| push(listeners, gauges, client, packet));
    }

    /// Tells DTLS clients that nobody listens any more; the kernel tells those of streams.
    pub(crate) fn end_sessions(&mut self) {
        let (listeners, gauges) = (&mut self.listeners, &self.gauges);
        self.dtls
            .end_all(&mut |client, packet| push(listeners, gauges, client, packet));
        self.flush();
    }

    fn stream_index(&self, client: ClientSocket) -> Option<usize> {
        self.stream_of.get(&client).copied()
    }

    fn flush_relays(&mut self) {
        let (relays, gauges) = (&self.relays, &self.gauges);
        self.to_peers.hand_out(|slot, batch, messages| {
            if let Some(Some(RelaySocket {
                end: RelayEnd::Udp(socket),
                ..
            })) = relays.get(slot)
            {
                counting(batch, gauges, |batch| socket.send_part(batch, messages));
            }
        });
    }
}

fn push(listeners: &mut [Listener], gauges: &Gauges, client: ClientSocket, packet: &[u8]) {
    datagram(listeners, gauges, client, packet.len(), |out| {
        out.copy_from_slice(packet)
    });
}

fn datagram(
    listeners: &mut [Listener],
    gauges: &Gauges,
    client: ClientSocket,
    len: usize,
    write: impl FnOnce(&mut [u8]),
) {
    let local = client.local;
    let fits = |at: SocketAddr| {
        at.port() == local.port()
            && (at.ip() == local.ip() || (at.ip().is_unspecified() && at.is_ipv4() == local.is_ipv4()))
    };
    let Some(listener) = listeners.iter_mut().find(|l| fits(l.socket.local_addr())) else {
        return;
    };
    let (to, source) = (client.remote, Some(local.ip()));
    if listener.batch.slot(to, source, len).is_none() {
        send(&listener.socket, &mut listener.batch, gauges);
    }
    if let Some(slot) = listener.batch.slot(to, source, len) {
        write(slot);
        listener.batch.commit(len);
    }
}

fn send(socket: &Socket, batch: &mut Batch, gauges: &Gauges) {
    counting(batch, gauges, |batch| socket.send(batch));
}

/// What a socket did not take is counted.
fn counting(batch: &mut Batch, gauges: &Gauges, send: impl FnOnce(&mut Batch)) {
    let before = batch.stats().dropped();
    send(batch);
    let lost = batch.stats().dropped() - before;
    if lost > 0 {
        gauges.datagrams_dropped.fetch_add(lost, Ordering::Relaxed);
    }
}

fn open_socket(bind: SocketAddr) -> io::Result<Socket> {
    let bytes = 1 << 20;
    let options = SocketOptions {
        reuse_port: false,
        recv_buffer_bytes: bytes,
        send_buffer_bytes: bytes,
        gro: true,
    };
    Socket::bind(bind, &options)
}
