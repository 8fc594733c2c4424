//! The load itself. All clients of a server share one wildcard socket, and so do all peers, each with an address of its
//! own: on the wire that is the same as a socket each, and receiving takes little from the server's
//! machine. Nobody sleeps on these sockets: they are looked at every millisecond, so that the servers are not charged
//! with waking this process up.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use meridian_udp::{Batch, RecvBatch, Socket, SocketOptions};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::client::Client;
use super::place::{client as client_ip, peer as peer_ip};

const TO_PEER: u16 = 0x4001;
const TO_PARTNER: u16 = 0x4002;
const LOOK: Duration = Duration::from_millis(1);
/// Nothing more has come for this long: the round is over.
const QUIET: Duration = Duration::from_millis(150);
/// Allocation, round, number.
const MARK_BYTES: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Load {
    Burst,
    Audio,
}

impl Load {
    /// Packets sent back to back.
    fn burst(self) -> usize {
        match self {
            Load::Burst => 8,
            Load::Audio => 1,
        }
    }

    fn payload_bytes(self) -> usize {
        match self {
            Load::Burst => 1_200,
            Load::Audio => 160,
        }
    }

    /// Audio comes as telephones send it (RFC 3551 §4.5.14).
    pub(super) fn paced(self, burst_interval: Duration) -> Paced {
        let interval = match self {
            Load::Burst => burst_interval,
            Load::Audio => Duration::from_millis(20),
        };
        Paced { load: self, interval }
    }
}

/// A load, and how often a sender sends it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paced {
    pub(super) load: Load,
    interval: Duration,
}

impl Paced {
    pub(super) fn packets_per_second(self, allocations: usize) -> f64 {
        (allocations * self.load.burst()) as f64 / self.interval.as_secs_f64()
    }

    pub(super) fn describe(self, allocations: usize) -> String {
        let pps = self.packets_per_second(allocations);
        let payload = self.load.payload_bytes();
        format!(
            "from every sender {} packet(s) of {payload} bytes back to back (one sendmmsg) every {} ms, senders at random phases: \
             {pps:.0} packets/s, {:.0} Mbit/s of payload",
            self.load.burst(),
            self.interval.as_secs_f64() * 1e3,
            pps * payload as f64 * 8e-6,
        )
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Load::Burst => "burst",
            Load::Audio => "audio",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Direction {
    Up,
    Down,
    Pair,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Up => "up",
            Direction::Down => "down",
            Direction::Pair => "pair",
        })
    }
}

/// What became of the packets of one round.
#[derive(Default)]
pub(super) struct Round {
    pub(super) sent: u64,
    pub(super) received: u64,
    /// At the wrong receiver, from the wrong address, of the wrong length, or once more.
    pub(super) wrong: u64,
    pub(super) seconds: f64,
}

impl Round {
    pub(super) fn is_whole(&self) -> bool {
        self.received == self.sent && self.wrong == 0
    }

    pub(super) fn add(&mut self, other: &Round) {
        self.sent += other.sent;
        self.received += other.received;
        self.wrong += other.wrong;
        self.seconds += other.seconds;
    }
}

/// The clients and peers of one server.
pub(super) struct Site {
    server: SocketAddr,
    clients: Vec<Client>,
    relayed: Vec<SocketAddr>,
    client_socket: Socket,
    peer_socket: Socket,
    batch: Batch,
    recv: RecvBatch,
    rng: SmallRng,
    round: u32,
    /// By number: has it come?
    seen: Vec<bool>,
    result: Round,
    last_arrival: Instant,
}

impl Site {
    pub(super) fn new(server: SocketAddr, allocations: usize, gro: bool) -> anyhow::Result<Site> {
        let options = SocketOptions {
            recv_buffer_bytes: 64 << 20,
            gro,
            ..SocketOptions::default()
        };
        let wildcard = SocketAddr::from(([0, 0, 0, 0], 0));
        let clients = (0..allocations).map(|index| Client::new(index, client_ip(index).into(), server));
        Ok(Site {
            server,
            clients: clients.collect::<anyhow::Result<_>>()?,
            relayed: Vec::new(),
            client_socket: Socket::bind(wildcard, &options)?,
            peer_socket: Socket::bind(wildcard, &options)?,
            batch: Batch::without_segmentation(64 * 1024),
            recv: RecvBatch::new(64),
            rng: SmallRng::seed_from_u64(0),
            round: 0,
            seen: Vec::new(),
            result: Round::default(),
            last_arrival: Instant::now(),
        })
    }

    /// Allocations are made in order.
    pub(super) fn allocate(&mut self, index: usize) -> anyhow::Result<()> {
        let relayed = self.clients[index].allocate(&self.client_socket, &mut self.recv)?;
        self.relayed.push(relayed);
        Ok(())
    }

    pub(super) fn bind_channels(&mut self) -> anyhow::Result<()> {
        let port = self.peer_socket.local_addr().port();
        for (index, client) in self.clients.iter_mut().enumerate() {
            let peer = SocketAddr::from((peer_ip(index), port));
            client.bind(&self.client_socket, &mut self.recv, TO_PEER, peer)?;
            client.bind(&self.client_socket, &mut self.recv, TO_PARTNER, self.relayed[index ^ 1])?;
        }
        Ok(())
    }

    pub(super) fn seed(&mut self, seed: u64) {
        self.rng = SmallRng::seed_from_u64(seed);
    }

    /// Makes the load for about so long, and waits until everything has come or nothing comes any more.
    pub(super) fn run(&mut self, paced: Paced, direction: Direction, seconds: f64) -> anyhow::Result<Round> {
        let Paced { load, interval } = paced;
        let periods = (seconds / interval.as_secs_f64()).round().max(1.0) as u32;
        let mut phases: Vec<(Duration, usize)> = (0..self.clients.len())
            .map(|index| (interval.mul_f64(self.rng.random()), index))
            .collect();
        phases.sort_unstable();
        self.round += 1;
        self.seen.clear();
        self.result = Round::default();
        let start = Instant::now();
        let mut looked = start;
        for period in 0..periods {
            for &(phase, index) in &phases {
                let due = start + interval * period + phase;
                while let Some(early) = due.checked_duration_since(Instant::now()) {
                    looked = self.look(load, direction, looked)?;
                    std::thread::sleep(early.min(LOOK));
                }
                looked = self.look(load, direction, looked)?;
                self.send_burst(load, direction, index);
            }
        }
        self.result.seconds = start.elapsed().as_secs_f64();
        self.last_arrival = Instant::now();
        while self.result.received < self.result.sent && self.last_arrival.elapsed() < QUIET {
            std::thread::sleep(LOOK);
            self.receive(load, direction)?;
        }
        Ok(std::mem::take(&mut self.result))
    }

    fn look(&mut self, load: Load, direction: Direction, last: Instant) -> anyhow::Result<Instant> {
        if last.elapsed() < LOOK {
            return Ok(last);
        }
        self.receive(load, direction)?;
        Ok(Instant::now())
    }

    fn send_burst(&mut self, load: Load, direction: Direction, index: usize) {
        let mut packet = [0x5A; 4 + 1_200];
        let header = if direction == Direction::Down { 0 } else { 4 };
        let payload = load.payload_bytes();
        let channel = if direction == Direction::Pair {
            TO_PARTNER
        } else {
            TO_PEER
        };
        packet[..2].copy_from_slice(&channel.to_be_bytes());
        packet[2..4].copy_from_slice(&(payload as u16).to_be_bytes());
        let (socket, from, to) = match direction {
            Direction::Down => (&self.peer_socket, peer_ip(index), self.relayed[index]),
            Direction::Up | Direction::Pair => (&self.client_socket, client_ip(index), self.server),
        };
        for _ in 0..load.burst() {
            let mark = &mut packet[header..header + MARK_BYTES];
            mark[..4].copy_from_slice(&(index as u32).to_be_bytes());
            mark[4..8].copy_from_slice(&self.round.to_be_bytes());
            mark[8..].copy_from_slice(&(self.seen.len() as u32).to_be_bytes());
            self.seen.push(false);
            self.result.sent += 1;
            self.batch.push(to, Some(IpAddr::V4(from)), &packet[..header + payload]);
        }
        socket.send(&mut self.batch);
    }

    fn receive(&mut self, load: Load, direction: Direction) -> anyhow::Result<()> {
        let socket = match direction {
            Direction::Up => &self.peer_socket,
            Direction::Down | Direction::Pair => &self.client_socket,
        };
        loop {
            let filled = socket.recv(&mut self.recv)?;
            for datagram in self.recv.datagrams() {
                let data: &[u8] = datagram.data;
                let header = if direction == Direction::Up { 0 } else { 4 };
                let (Some(mark), true) = (
                    data.get(header..header + MARK_BYTES),
                    data.len() == header + load.payload_bytes(),
                ) else {
                    self.result.wrong += 1;
                    continue;
                };
                let number = |at: usize| u32::from_be_bytes([mark[at], mark[at + 1], mark[at + 2], mark[at + 3]]);
                if number(4) != self.round {
                    // A straggler of an earlier round, already counted as lost there.
                    continue;
                }
                let sender = number(0) as usize;
                let expected = match direction {
                    Direction::Up => (self.relayed.get(sender).copied(), peer_ip(sender)),
                    Direction::Down => (Some(self.server), client_ip(sender)),
                    Direction::Pair => (Some(self.server), client_ip(sender ^ 1)),
                };
                let fits = (Some(datagram.from), datagram.local.ip()) == (expected.0, IpAddr::V4(expected.1));
                match self.seen.get_mut(number(8) as usize) {
                    Some(seen) if fits && !*seen => {
                        *seen = true;
                        self.result.received += 1;
                        self.last_arrival = Instant::now();
                    }
                    _ => self.result.wrong += 1,
                }
            }
            if filled < 64 {
                return Ok(());
            }
        }
    }
}
