//! One media thread: its state, and the loop that waits, receives, forwards and keeps time. The parts of a turn are in
//! the modules below; all of them are `impl Shard`.

mod commands;
mod data;
mod egress;
mod ingress;
mod link;
mod peers;
mod rtcp;
mod slab;
mod subscriptions;
mod tick;
mod tracks;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use meridian_sfu::{PacketPool, Speakers, TrackId};
use meridian_transport::DtlsIdentity;
use meridian_udp::{Handed, LocalPorts, RecvBatch, Socket, wait};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::mpsc;

use crate::config::ShardsConfig;
use crate::events::EventSink;
use crate::inbox::{Inbox, Mailbox, Note, Routes};
use crate::metrics::{Counters, add};
use crate::taps::{TapSenders, TapSink};
use egress::Egress;
use meridian_shard_api::{Event, PeerCloseReason, PeerId};
use peers::Peers;
use slab::Slab;
use subscriptions::Subscription;
use tracks::Track;

/// What a media thread shares with the front and the other threads.
pub(crate) struct Shared {
    pub(crate) index: u16,
    pub(crate) config: ShardsConfig,
    pub(crate) identity: Arc<DtlsIdentity>,
    pub(crate) mailboxes: Vec<Mailbox>,
    pub(crate) routes: Arc<Mutex<Routes>>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) load: Arc<AtomicUsize>,
    /// This process's TURN server, once there is one.
    pub(crate) turn: Arc<OnceLock<Arc<dyn LocalPorts>>>,
}

/// The port of a local address through which a client is reached by way of this process's TURN server: no socket has it.
pub(crate) const IN_PROCESS: u16 = 0;

/// Messages per `recvmmsg`.
const RECV_MESSAGES: usize = 32;
/// Receive calls per socket and turn, so that commands and timers are not starved by a flood.
const RECV_CALLS_MAX: usize = 8;
/// Notes and mirrored packets taken per turn, for the same reason.
const NOTES_MAX: usize = 512;
const MIRRORED_MAX: usize = 1_024;
/// Unused packet buffers kept, about 1.6 KB each.
const IDLE_PACKETS_MAX: usize = 2_048;

pub(crate) struct Shard {
    shared: Shared,
    sockets: Vec<Socket>,
    egress: Egress,
    peers: Peers,
    subscriptions: Slab<Subscription>,
    tracks: HashMap<TrackId, Track>,
    /// Tracks with packets that wait to be forwarded.
    dirty: Vec<TrackId>,
    /// When waiting packets must leave at the latest; `None` = nothing waits.
    flush_at: Option<Instant>,
    /// A frame is complete (or audio came): forward at the end of this receive call.
    flush_now: bool,
    pool: PacketPool,
    speakers: Speakers,
    events: EventSink,
    /// Peers whose reliable data is held back until the events are taken.
    held_back: Vec<PeerId>,
    taps: TapSink,
    /// Shards that were queued something since the last flush, one bit each.
    to_wake: Vec<bool>,
    clock: tick::Clock,
    rng: StdRng,
    scratch: Scratch,
    handed: Handed,
}

/// Buffers that are reused instead of allocated.
#[derive(Default)]
struct Scratch {
    rtcp: Vec<u8>,
    blocks: Vec<meridian_sfu::rtcp::ReportBlock>,
    levels: Vec<(TrackId, f32)>,
    failed: Vec<u32>,
    /// Peers with packets that began to wait.
    held: Vec<u32>,
    streams: Vec<meridian_sfu::allocation::Stream>,
    indices: Vec<u32>,
}

impl Shard {
    pub(crate) fn new(shared: Shared, sockets: Vec<Socket>, events: mpsc::Sender<Event>, taps: TapSenders) -> Shard {
        let counters = shared.counters.clone();
        let now = Instant::now();
        Shard {
            egress: Egress::new(&sockets, shared.turn.clone(), counters.clone(), now),
            sockets,
            peers: Peers::new(),
            subscriptions: Slab::new(),
            tracks: HashMap::new(),
            dirty: Vec::new(),
            flush_at: None,
            flush_now: false,
            pool: PacketPool::new(IDLE_PACKETS_MAX),
            speakers: Speakers::new(),
            events: EventSink::new(events, counters),
            held_back: Vec::new(),
            taps: TapSink::new(taps, shared.counters.clone()),
            to_wake: vec![false; shared.mailboxes.len()],
            clock: tick::Clock::new(now),
            rng: StdRng::from_os_rng(),
            scratch: Scratch::default(),
            handed: Handed::default(),
            shared,
        }
    }

    pub(crate) fn run(mut self, inbox: Inbox) {
        let mut batch = RecvBatch::new(RECV_MESSAGES);
        loop {
            // What a bug in one peer can break is closed with that peer, closer to the bug. This is the last line: a turn
            // that panics is over, the shard and its thousands of other peers are not.
            match catch_unwind(AssertUnwindSafe(|| self.turn(&inbox, &mut batch))) {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => {
                    add(&self.shared.counters.panics, 1);
                    tracing::error!(shard = self.shared.index, "a turn of the media thread panicked");
                }
            }
        }
    }

    /// Waits for work and does it; `false` = shut down.
    fn turn(&mut self, inbox: &Inbox, batch: &mut RecvBatch) -> bool {
        let timeout = self.sleep_time(Instant::now());
        inbox.waker.prepare();
        let queued = self.take_notes(inbox);
        let Some(queued) = queued else {
            self.close_all();
            return false;
        };
        let timeout = if queued { Some(Duration::ZERO) } else { timeout };
        let ready = match wait(&self.sockets, &inbox.waker, timeout) {
            Ok(ready) => ready,
            Err(error) => {
                tracing::error!(shard = self.shared.index, %error, "waiting for packets failed");
                std::thread::sleep(Duration::from_millis(10));
                return true;
            }
        };
        let mut now = Instant::now();
        for socket in 0..self.sockets.len() {
            if ready.contains(socket) {
                now = self.receive(socket, batch, now);
            }
        }
        self.tick(now);
        if self.flush_now || self.flush_at.is_some_and(|at| at <= now) {
            self.flush(now);
        }
        self.egress.send_all(&self.sockets);
        self.wake_others();
        true
    }

    /// Everything the socket holds, up to a limit; forwards after each call that completed a frame.
    fn receive(&mut self, socket: usize, batch: &mut RecvBatch, mut now: Instant) -> Instant {
        for call in 0..RECV_CALLS_MAX {
            if call > 0 {
                now = Instant::now();
            }
            let filled = match self.sockets[socket].recv(batch) {
                Ok(filled) => filled,
                Err(error) => {
                    tracing::warn!(shard = self.shared.index, %error, "receiving failed");
                    0
                }
            };
            if filled == 0 {
                break;
            }
            self.ingest(batch.datagrams(), now);
            if self.flush_now {
                self.flush(now);
            }
            if filled < RECV_MESSAGES {
                break;
            }
        }
        now
    }

    /// Executes what is queued. `Some(true)` = something was, look again soon; `None` = shut down.
    fn take_notes(&mut self, inbox: &Inbox) -> Option<bool> {
        let mut now = None;
        for _ in 0..NOTES_MAX {
            let Some(note) = inbox.next_note() else { break };
            let now = *now.get_or_insert_with(Instant::now);
            if matches!(note, Note::Shutdown) {
                return None;
            }
            self.execute(note, now);
        }
        for _ in 0..MIRRORED_MAX {
            let Ok(mirrored) = inbox.media.try_recv() else { break };
            now.get_or_insert_with(Instant::now);
            self.take_mirrored(mirrored);
        }
        if inbox.relayed.take(&mut self.handed) {
            let now = *now.get_or_insert_with(Instant::now);
            self.take_relayed(now);
        }
        if let Some(now) = now {
            if self.flush_now {
                self.flush(now);
            }
            self.egress.send_all(&self.sockets);
            self.wake_others();
        }
        Some(now.is_some())
    }

    /// Datagrams that came through this process's TURN server. They bear the mark of their way in their local address.
    fn take_relayed(&mut self, now: Instant) {
        let mut handed = std::mem::take(&mut self.handed);
        let marked = handed.datagrams().map(|mut datagram| {
            datagram.local.set_port(IN_PROCESS);
            datagram
        });
        let count = self.ingest(marked, now);
        add(&self.shared.counters.relayed_in, count);
        self.handed = handed;
    }

    /// How long nothing is due.
    fn sleep_time(&self, now: Instant) -> Option<Duration> {
        let mut at = self.clock.next_tick(&self.peers, self.events.has_backlog());
        if let Some(flush) = self.flush_at {
            at = at.min(flush);
        }
        Some(at.saturating_duration_since(now))
    }

    fn wake_others(&mut self) {
        for (wake, mailbox) in self.to_wake.iter_mut().zip(&self.shared.mailboxes) {
            if std::mem::take(wake) {
                mailbox.wake();
            }
        }
    }

    /// Runs `work` for a peer; if it panics, that peer is closed and everybody else goes on.
    fn contained<T>(&mut self, peer: u32, work: impl FnOnce(&mut Shard) -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(|| work(self))) {
            Ok(value) => Some(value),
            Err(_) => {
                self.peer_panicked(peer);
                None
            }
        }
    }

    fn peer_panicked(&mut self, peer: u32) {
        add(&self.shared.counters.panics, 1);
        if let Some(slot) = self.peers.get(peer) {
            tracing::error!(peer = %slot.id, "handling this peer panicked; it is closed");
        }
        // The transport may be what is broken: not a word more to it.
        self.remove_peer(peer, Some(PeerCloseReason::Panic));
    }

    fn close_all(&mut self) {
        let now = Instant::now();
        let all: Vec<u32> = self.peers.indices().collect();
        for peer in all {
            self.contained(peer, |shard| shard.say_goodbye(peer, now));
        }
        self.egress.send_all(&self.sockets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::inbox;
    use meridian_shard_api::PeerId;
    use meridian_transport::{DtlsRole, Fingerprint, IceCredentials, PeerConfig};
    use meridian_udp::SocketOptions;

    /// A shard that does not run: its turns are the test's.
    fn shard() -> (Shard, mpsc::Receiver<Event>) {
        let (events, events_rx) = mpsc::channel(16);
        let (mesh, _) = mpsc::channel(1);
        let (recorder, _) = mpsc::channel(1);
        let taps = TapSenders { mesh, recorder };
        let (mailbox, _inbox) = inbox().expect("eventfd");
        let shared = Shared {
            index: 0,
            config: ShardsConfig::default(),
            identity: Arc::new(DtlsIdentity::generate().expect("certificate")),
            mailboxes: vec![mailbox],
            routes: Arc::default(),
            counters: Arc::default(),
            load: Arc::new(AtomicUsize::new(2)),
            turn: Arc::default(),
        };
        let socket = Socket::bind(([127, 0, 0, 1], 0).into(), &SocketOptions::default()).expect("bind");
        (Shard::new(shared, vec![socket], events, taps), events_rx)
    }

    fn config(shard: &Shard, credentials: IceCredentials) -> PeerConfig {
        PeerConfig {
            identity: shard.shared.identity.clone(),
            local: credentials.clone(),
            remote: credentials,
            remote_fingerprint: Fingerprint([0; 32]),
            role: DtlsRole::Server,
            seed: [0; 32],
        }
    }

    fn add(shard: &mut Shard, index: u32) -> u32 {
        let id = PeerId { shard: 0, index };
        let config = config(
            shard,
            IceCredentials::generate(&mut StdRng::seed_from_u64(index.into())),
        );
        shard.add_peer(id, config, Instant::now());
        shard.peers.find(id).expect("added")
    }

    #[test]
    fn a_panic_closes_the_peer_it_happened_to_and_no_other() {
        let (mut shard, mut events) = shard();
        let (broken, healthy) = (add(&mut shard, 1), add(&mut shard, 2));
        assert!(
            shard
                .contained::<()>(broken, |_| panic!("a bug in handling this peer"))
                .is_none()
        );
        assert!(shard.peers.get(broken).is_none() && shard.peers.get(healthy).is_some());
        let Ok(Event::PeerClosed { peer, reason }) = events.try_recv() else {
            panic!("the node must be told")
        };
        assert_eq!((peer.index, reason), (1, PeerCloseReason::Panic));
        assert_eq!(
            shard.shared.counters.panics.load(std::sync::atomic::Ordering::Relaxed),
            1
        );
    }

    #[test]
    fn peers_beyond_the_limit_and_ufrags_in_use_are_refused() {
        let (mut shard, mut events) = shard();
        shard.shared.config.peers_max = 1;
        add(&mut shard, 1);
        let credentials = IceCredentials::generate(&mut shard.rng);
        let id = PeerId { shard: 0, index: 2 };
        let config = config(&shard, credentials);
        shard.add_peer(id, config, Instant::now());
        let Ok(Event::PeerClosed { peer, reason }) = events.try_recv() else {
            panic!("the node must be told")
        };
        assert_eq!((peer, reason), (id, PeerCloseReason::Refused));
    }
}
