//! The publisher and the viewers in one process: eight wildcard sockets, on which every client has an address of its own
//! in 127.0.0.0/8. Draining them is cheap (`recvmmsg`, UDP_GRO), so that the receivers leave the SFU its core.

use std::collections::VecDeque;
use std::io::{BufRead, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use meridian_sfu::packet::RtpHeader;
use meridian_sfu::rtcp::{Rtcp, parse};
use meridian_transport::client::{Client, ClientConfig};
use meridian_transport::{DatagramKind, DtlsIdentity, Fingerprint, Output, Received, SrtpStream, kind};
use meridian_udp::{Batch, RecvBatch, Socket, SocketOptions, Waker, wait};
use serde_json::{Value, json};

use super::ClientOptions;
use super::media::{self, PACKETS_PER_FRAME, VIEWER_SSRC};

const SOCKETS: usize = 8;
/// Joins under way at a time: more would only make each other's datagrams wait.
const JOINING_MAX: usize = 64;
/// Of so many packets one is decrypted and compared.
const CHECK_EVERY: u64 = 100;
/// Nothing more has come for this long: the run is over.
const QUIET: Duration = Duration::from_millis(300);

/// Client `index` (0 is the publisher): its IP, and which socket's port it has.
fn place(index: usize) -> (Ipv4Addr, usize) {
    let i = index as u32;
    (
        Ipv4Addr::new(127, 16 + (i / 62_500) as u8, (i / 250 % 250) as u8, (1 + i % 250) as u8),
        index % SOCKETS,
    )
}

/// The client an address belongs to: `place` backwards.
fn index_of(local: SocketAddr) -> Option<usize> {
    let IpAddr::V4(ip) = local.ip() else { return None };
    let [127, b, c, d] = ip.octets() else { return None };
    Some(usize::from(b.checked_sub(16)?) * 62_500 + usize::from(c) * 250 + usize::from(d.checked_sub(1)?))
}

/// Where viewer `viewer` receives, from what the clients' process said about itself.
pub(crate) fn viewer_address(hello: &Value, viewer: usize) -> anyhow::Result<SocketAddr> {
    let (ip, socket) = place(viewer + 1);
    let port = hello["ports"][socket].as_u64().context("ports")?;
    Ok((ip, port as u16).into())
}

struct Viewer {
    client: Client,
    server: SocketAddr,
    received: u64,
}

struct World {
    options: ClientOptionsParsed,
    sockets: Vec<Socket>,
    batches: Vec<Batch>,
    clients: Vec<Viewer>,
    joined: usize,
    stream: SrtpStream,
    sequence: u16,
    transport_sequence: u16,
    frame: u32,
    keyframe_wanted: bool,
    timers: VecDeque<usize>,
    received: u64,
    checked: u64,
    wrong: u64,
    last_media: Instant,
    scratch: Vec<u8>,
}

struct ClientOptionsParsed {
    viewers: usize,
    seed: u64,
    servers: Vec<SocketAddr>,
    fingerprint: Fingerprint,
}

/// Joins, publishes and receives on the orders that come in on standard input.
pub(crate) fn run_clients(options: &ClientOptions) -> anyhow::Result<()> {
    let options = ClientOptionsParsed {
        viewers: options.viewers,
        seed: options.seed,
        servers: options.servers.clone(),
        fingerprint: options.fingerprint.parse()?,
    };
    if options.servers.is_empty() {
        bail!("no server");
    }
    let identity = Arc::new(DtlsIdentity::generate()?);
    let socket_options = SocketOptions {
        recv_buffer_bytes: 256 << 20,
        send_buffer_bytes: 16 << 20,
        ..SocketOptions::default()
    };
    let sockets = (0..SOCKETS)
        .map(|_| Socket::bind(([0, 0, 0, 0], 0).into(), &socket_options))
        .collect::<std::io::Result<Vec<_>>>()?;
    let ports: Vec<u16> = sockets.iter().map(|s| s.local_addr().port()).collect();
    say(&json!({ "fingerprint": identity.fingerprint().to_string(), "ports": ports }));
    let orders = read_orders();
    let mut world = World {
        options,
        batches: (0..SOCKETS).map(|_| Batch::new(64 * 1024)).collect(),
        sockets,
        clients: Vec::new(),
        joined: 0,
        stream: SrtpStream::new(media::PUBLISHER_SSRC),
        sequence: 1,
        transport_sequence: 1,
        frame: 0,
        keyframe_wanted: true,
        timers: VecDeque::new(),
        received: 0,
        checked: 0,
        wrong: 0,
        last_media: Instant::now(),
        scratch: Vec::new(),
    };
    let waker = Waker::new()?;
    let mut recv = RecvBatch::new(64);
    loop {
        match orders.try_recv() {
            Ok(order) => world.obey(&order, &identity, &waker, &mut recv)?,
            Err(TryRecvError::Empty) => world.turn(&waker, &mut recv, Duration::from_millis(2))?,
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
    }
}

fn read_orders() -> Receiver<String> {
    let (tx, rx) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if tx.send(line).is_err() {
                return;
            }
        }
    });
    rx
}

fn say(value: &Value) {
    println!("{value}");
    let _ = std::io::stdout().flush();
}

impl World {
    fn obey(
        &mut self,
        order: &str,
        identity: &Arc<DtlsIdentity>,
        waker: &Waker,
        recv: &mut RecvBatch,
    ) -> anyhow::Result<()> {
        let words: Vec<&str> = order.split_whitespace().collect();
        match words[..] {
            ["join"] => {
                self.join(identity, waker, recv)?;
                say(&json!({ "joined": self.joined }));
            }
            ["send", frames, interval_us] => {
                let interval = Duration::from_micros(interval_us.parse()?);
                let told = self.send_frames(frames.parse()?, interval, waker, recv)?;
                say(&told);
            }
            _ => bail!("unknown order {order:?}"),
        }
        Ok(())
    }

    fn join(&mut self, identity: &Arc<DtlsIdentity>, waker: &Waker, recv: &mut RecvBatch) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let all = self.options.viewers + 1;
        while self.joined < all {
            while self.clients.len() < all && self.clients.len() - self.joined < JOINING_MAX {
                self.begin(identity)?;
            }
            self.turn(waker, recv, Duration::from_millis(1))?;
            self.joined = self.clients.iter().filter(|c| c.client.is_connected()).count();
            if Instant::now() > deadline {
                bail!("only {} of {all} clients are connected", self.joined);
            }
        }
        Ok(())
    }

    fn begin(&mut self, identity: &Arc<DtlsIdentity>) -> anyhow::Result<()> {
        let index = self.clients.len();
        let (theirs, ours) = media::credentials(self.options.seed, index);
        let (ip, socket) = place(index);
        let local = SocketAddr::new(ip.into(), self.sockets[socket].local_addr().port());
        let server = self.options.servers[index % self.options.servers.len()];
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&(index as u64).to_le_bytes());
        let config = ClientConfig {
            identity: identity.clone(),
            local: ours,
            remote: theirs,
            remote_fingerprint: self.options.fingerprint,
            channels: Vec::new(),
            seed,
        };
        let client = Client::new(config, local, server, Instant::now())?;
        self.clients.push(Viewer {
            client,
            server,
            received: 0,
        });
        self.timers.push_back(index);
        self.drain(index);
        Ok(())
    }

    /// Takes what has arrived (waiting for it at most so long), and runs timers that are due.
    fn turn(&mut self, waker: &Waker, recv: &mut RecvBatch, timeout: Duration) -> anyhow::Result<()> {
        let ready = wait(&self.sockets, waker, Some(timeout))?;
        for socket in 0..SOCKETS {
            if !ready.contains(socket) {
                continue;
            }
            for _ in 0..16 {
                if self.sockets[socket].recv(recv)? == 0 {
                    break;
                }
                self.take(recv);
            }
        }
        // A few clients' timers per turn: consent checks need no better.
        let now = Instant::now();
        for _ in 0..self.timers.len().min(256) {
            let Some(index) = self.timers.pop_front() else { break };
            self.timers.push_back(index);
            let client = &mut self.clients[index].client;
            if client.poll_timeout().is_some_and(|at| at <= now) {
                client.handle_timeout(now);
                self.drain(index);
            }
        }
        for (socket, batch) in self.sockets.iter().zip(&mut self.batches) {
            socket.send(batch);
        }
        Ok(())
    }

    fn take(&mut self, recv: &mut RecvBatch) {
        let now = Instant::now();
        for datagram in recv.datagrams() {
            let Some(index) = index_of(datagram.local).filter(|&i| i < self.clients.len()) else {
                continue;
            };
            let viewer = &mut self.clients[index];
            if datagram.from != viewer.server {
                // The floor's.
                continue;
            }
            let what = kind(datagram.data);
            if what == DatagramKind::Rtp {
                viewer.received += 1;
                self.received += 1;
                self.last_media = now;
                // Another hundredth of the packets for every viewer.
                if !(viewer.received + index as u64).is_multiple_of(CHECK_EVERY) {
                    continue;
                }
            }
            match viewer
                .client
                .handle_datagram(now, datagram.from, datagram.local, datagram.data)
            {
                Received::Rtp { len } => {
                    self.checked += 1;
                    if !is_right(self.options.seed, &datagram.data[..len], &mut self.scratch) {
                        self.wrong += 1;
                    }
                }
                Received::Rtcp { len } => {
                    self.keyframe_wanted |= parse(&datagram.data[..len]).any(|p| matches!(p, Rtcp::Pli { .. }));
                }
                Received::Nothing if what == DatagramKind::Rtp => {
                    // It did not decrypt.
                    self.checked += 1;
                    self.wrong += 1;
                }
                Received::Nothing => drain(
                    viewer,
                    &mut self.batches[index % SOCKETS],
                    &self.sockets[index % SOCKETS],
                ),
            }
        }
    }

    fn drain(&mut self, index: usize) {
        let socket = index % SOCKETS;
        drain(
            &mut self.clients[index],
            &mut self.batches[socket],
            &self.sockets[socket],
        );
    }

    /// Sends frames at a pace while receiving, and counts until all has come or nothing comes any more.
    fn send_frames(
        &mut self,
        frames: u32,
        interval: Duration,
        waker: &Waker,
        recv: &mut RecvBatch,
    ) -> anyhow::Result<Value> {
        let (received, checked, wrong) = (self.received, self.checked, self.wrong);
        let per_frame = (PACKETS_PER_FRAME * self.options.viewers) as u64;
        let expected = received + u64::from(frames) * per_frame;
        let start = Instant::now();
        let mut spreads = Vec::with_capacity(frames as usize);
        for n in 0..frames {
            let due = start + interval * n;
            while let Some(early) = due.checked_duration_since(Instant::now()) {
                self.turn(waker, recv, early.min(Duration::from_millis(5)))?;
            }
            let before = self.received;
            self.send_frame()?;
            let sent = Instant::now();
            // While a frame is still on its way, the next one is not yet due: measure how long it takes.
            while self.received < before + per_frame && sent.elapsed() < interval {
                self.turn(waker, recv, Duration::from_millis(1))?;
            }
            spreads.push(self.last_media.saturating_duration_since(sent));
        }
        self.last_media = Instant::now();
        while self.received < expected && self.last_media.elapsed() < QUIET {
            self.turn(waker, recv, Duration::from_millis(5))?;
        }
        // Of four frames three took no longer than this: one busy moment of the machine does not set the pace.
        spreads.sort_unstable();
        let usual = spreads.get(spreads.len() * 3 / 4).copied().unwrap_or_default();
        Ok(json!({
            "received": self.received - received,
            "checked": self.checked - checked,
            "wrong": self.wrong - wrong,
            "frame_us": usual.as_micros() as u64,
        }))
    }

    fn send_frame(&mut self) -> anyhow::Result<()> {
        let keyframe = std::mem::take(&mut self.keyframe_wanted);
        let (_, socket) = place(0);
        let mut payload = std::mem::take(&mut self.scratch);
        for index in 0..PACKETS_PER_FRAME {
            media::payload(self.options.seed, self.frame, index, keyframe, &mut payload);
            let marker = index == PACKETS_PER_FRAME - 1;
            let mut packet = rtp_header(self.sequence, self.frame, marker, self.transport_sequence);
            let header_len = packet.len();
            packet.extend_from_slice(&payload);
            let len = packet.len();
            packet.resize(len + 16, 0);
            let publisher = &mut self.clients[0];
            let srtp = publisher.client.srtp().context("the publisher is connected")?;
            let len = srtp.protect_rtp(&mut self.stream, &mut packet, header_len, len)?;
            let path = publisher.client.path();
            if !self.batches[socket].push(path.remote, Some(path.local.ip()), &packet[..len]) {
                bail!("a frame fits into a batch");
            }
            self.sequence = self.sequence.wrapping_add(1);
            self.transport_sequence = self.transport_sequence.wrapping_add(1);
        }
        self.scratch = payload;
        self.sockets[socket].send(&mut self.batches[socket]);
        self.frame += 1;
        Ok(())
    }
}

fn drain(viewer: &mut Viewer, batch: &mut Batch, socket: &Socket) {
    while let Some(output) = viewer.client.poll_output() {
        if let Output::Transmit { from, to, payload } = output
            && !batch.push(to, Some(from.ip()), &payload)
        {
            socket.send(batch);
            batch.push(to, Some(from.ip()), &payload);
        }
    }
}

fn is_right(seed: u64, packet: &[u8], scratch: &mut Vec<u8>) -> bool {
    let Ok(header) = RtpHeader::parse(packet) else {
        return false;
    };
    header.ssrc == VIEWER_SSRC && media::matches(seed, &packet[header.payload.clone()], scratch)
}

/// RTP header with mid and transport-wide sequence number, as a browser sends it.
fn rtp_header(sequence: u16, frame: u32, marker: bool, transport_sequence: u16) -> Vec<u8> {
    let mut out = vec![0x90, u8::from(marker) << 7 | 96];
    out.extend_from_slice(&sequence.to_be_bytes());
    out.extend_from_slice(&(frame.wrapping_mul(3_000)).to_be_bytes());
    out.extend_from_slice(&media::PUBLISHER_SSRC.to_be_bytes());
    out.extend_from_slice(&[0xbe, 0xde, 0, 2]);
    let [high, low] = transport_sequence.to_be_bytes();
    out.extend_from_slice(&[4 << 4, b'0', 3 << 4 | 1, high, low, 0, 0, 0]);
    out
}
