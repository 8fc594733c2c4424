//! A UDP relay on loopback with a [`Path`] in each direction, on a thread of its own.
//!
//! Clients send to [`Relay::addr`]; each client address gets a socket of its own towards the target, so the target sees
//! distinct peers, as behind a NAT.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};

use crate::path::{Impairment, Path, PathCounters};

/// Client addresses at a time.
const CLIENTS_MAX: usize = 64;
const DATAGRAM_MAX: usize = 65_535;
const PENDING_MAX: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("cannot start the relay: {0}")]
    Io(#[from] io::Error),
    #[error("the relay's thread ended at once")]
    Thread,
}

/// Where a datagram that comes out of a path goes.
#[derive(Clone)]
struct Parcel {
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    bytes: Arc<[u8]>,
}

struct Directions {
    to_target: Path<Parcel>,
    from_target: Path<Parcel>,
}

/// A running relay; it stops when dropped.
pub struct Relay {
    addr: SocketAddr,
    directions: Arc<Mutex<Directions>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

fn lock(directions: &Mutex<Directions>) -> MutexGuard<'_, Directions> {
    directions.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Relay {
    /// Relays between whoever sends to it and `target`, a loopback address.
    ///
    /// # Errors
    /// [`RelayError::Io`] when sockets or the thread cannot be had.
    pub fn start(
        target: SocketAddr,
        to_target: Impairment,
        from_target: Impairment,
        seed: u64,
    ) -> Result<Relay, RelayError> {
        let directions = Arc::new(Mutex::new(Directions {
            to_target: Path::new(to_target, seed),
            from_target: Path::new(from_target, seed ^ 0x9e37_79b9_7f4a_7c15),
        }));
        let (stop, stopped) = oneshot::channel();
        let (ready, bound) = std::sync::mpsc::channel();
        let shared = directions.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("netlab-relay".into()).spawn(move || {
            runtime.block_on(async {
                match UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await {
                    Ok(socket) => {
                        let _ = ready.send(socket.local_addr());
                        tokio::select! {
                            () = run(Arc::new(socket), target, &shared) => {}
                            _ = stopped => {}
                        }
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            });
        })?;
        let addr = bound.recv().map_err(|_| RelayError::Thread)??;
        Ok(Relay {
            addr,
            directions,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where clients send to reach the target.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes both directions for datagrams from now on.
    pub fn set(&self, to_target: Impairment, from_target: Impairment) {
        let mut directions = lock(&self.directions);
        directions.to_target.set(to_target);
        directions.from_target.set(from_target);
    }

    /// Cuts both directions, or joins them again.
    pub fn cut(&self, cut: bool) {
        let mut directions = lock(&self.directions);
        let Directions { to_target, from_target } = &mut *directions;
        for path in [to_target, from_target] {
            let impairment = Impairment {
                cut,
                ..path.impairment().clone()
            };
            path.set(impairment);
        }
    }

    /// Counters towards the target, and back.
    pub fn counters(&self) -> (PathCounters, PathCounters) {
        let directions = lock(&self.directions);
        (directions.to_target.counters(), directions.from_target.counters())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Inbound {
    from: SocketAddr,
    /// Which client's socket towards the target it came in on; `None` = the front socket.
    client: Option<SocketAddr>,
    bytes: Arc<[u8]>,
}

async fn run(front: Arc<UdpSocket>, target: SocketAddr, directions: &Mutex<Directions>) {
    let (sender, mut inbound) = mpsc::channel(PENDING_MAX);
    tokio::spawn(receive(front.clone(), None, sender.clone()));
    let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    loop {
        let due = {
            let directions = lock(directions);
            [
                directions.to_target.poll_timeout(),
                directions.from_target.poll_timeout(),
            ]
            .into_iter()
            .flatten()
            .min()
        };
        let due = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            received = inbound.recv() => {
                let mut next = received;
                while let Some(datagram) = next {
                    take(datagram, &front, target, directions, &mut clients, &sender).await;
                    next = inbound.try_recv().ok();
                }
            }
            () = tokio::time::sleep_until(due.into()) => {}
        }
        deliver(directions);
    }
}

async fn take(
    datagram: Inbound,
    front: &Arc<UdpSocket>,
    target: SocketAddr,
    directions: &Mutex<Directions>,
    clients: &mut HashMap<SocketAddr, Arc<UdpSocket>>,
    sender: &mpsc::Sender<Inbound>,
) {
    let Inbound { from, client, bytes } = datagram;
    let len = bytes.len();
    if let Some(client) = client {
        let parcel = Parcel {
            socket: front.clone(),
            to: client,
            bytes,
        };
        lock(directions).from_target.send(Instant::now(), len, parcel);
        return;
    }
    let socket = match clients.get(&from) {
        Some(socket) => socket.clone(),
        None if clients.len() < CLIENTS_MAX => {
            let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.map(Arc::new) else {
                return;
            };
            tokio::spawn(receive(socket.clone(), Some(from), sender.clone()));
            clients.insert(from, socket.clone());
            socket
        }
        None => return,
    };
    lock(directions).to_target.send(
        Instant::now(),
        len,
        Parcel {
            socket,
            to: target,
            bytes,
        },
    );
}

async fn receive(socket: Arc<UdpSocket>, client: Option<SocketAddr>, sender: mpsc::Sender<Inbound>) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        // A loopback socket reports the ICMP errors of earlier sends here: the path goes on.
        let Ok((len, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let bytes = Arc::from(buffer.get(..len).unwrap_or_default());
        if sender.send(Inbound { from, client, bytes }).await.is_err() {
            return;
        }
    }
}

fn deliver(directions: &Mutex<Directions>) {
    let now = Instant::now();
    let mut directions = lock(directions);
    let Directions { to_target, from_target } = &mut *directions;
    for path in [to_target, from_target] {
        while let Some(parcel) = path.poll(now) {
            let _ = parcel.socket.try_send_to(&parcel.bytes, parcel.to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_echo_through_the_relay_takes_the_round_trip_and_a_cut_stops_it() {
        let target = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let delay = Impairment {
            delay: Duration::from_millis(30),
            ..Impairment::default()
        };
        let relay = Relay::start(target.local_addr().unwrap(), delay.clone(), delay, 1).unwrap();
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let began = Instant::now();
        client.send_to(b"hello", relay.addr()).await.unwrap();
        let mut buffer = [0; 64];
        let (len, from) = target.recv_from(&mut buffer).await.unwrap();
        target.send_to(&buffer[..len], from).await.unwrap();
        let (len, _) = client.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..len], b"hello");
        assert!(began.elapsed() >= Duration::from_millis(60), "{:?}", began.elapsed());
        relay.cut(true);
        client.send_to(b"lost", relay.addr()).await.unwrap();
        while relay.counters().0.cut == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(relay.counters().0.delivered, 1);
    }
}
