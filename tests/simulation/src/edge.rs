//! One edge: the real [`Carriage`] and the real [`Conference`]s, and what stands in for sockets and media threads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use meridian_cascade::carriage::{self, Carriage};
use meridian_conference::{Conference, Input, Setup};
use meridian_room::{NodeId, RoomName};
use meridian_transport::Fingerprint;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::plane::Plane;

/// When the world begins, in milliseconds since 1970.
pub const WALL_MS: u64 = 1_790_000_000_000;

/// A room on an edge.
pub enum Seat {
    /// Its life is awaited, and so are those who come meanwhile.
    Unborn(Vec<Input>),
    Open(Box<Conference>),
}

pub struct Edge {
    pub node: NodeId,
    pub region: String,
    /// Of its wall clock, milliseconds.
    pub skew_ms: i64,
    pub is_alive: bool,
    /// Counts its lives.
    pub life: u32,
    pub carriage: Carriage,
    pub seats: BTreeMap<RoomName, Seat>,
    /// Rooms with something to say.
    pub stirred: BTreeSet<RoomName>,
    pub plane: Plane,
    /// Edges it keeps links to.
    pub kept: BTreeSet<usize>,
    pub audible: BTreeSet<NodeId>,
    /// When it is next due, as it was put down in the world's diary.
    pub due: Option<Duration>,
    pub sockets: u64,
}

impl Edge {
    pub fn new(node: NodeId, region: String, seed: u64, linked_all_up_to: usize) -> Edge {
        let edge = meridian_cascade::Edge {
            node: node.clone(),
            region: region.clone(),
        };
        Edge {
            carriage: Carriage::new(carriage::Setup {
                edge,
                seed,
                linked_all_up_to,
            }),
            node,
            region,
            skew_ms: 0,
            is_alive: true,
            life: 0,
            seats: BTreeMap::new(),
            stirred: BTreeSet::new(),
            plane: Plane::default(),
            kept: BTreeSet::new(),
            audible: BTreeSet::new(),
            due: None,
            sockets: 0,
        }
    }

    pub fn wall_ms(&self, elapsed: Duration) -> u64 {
        (WALL_MS + elapsed.as_millis() as u64).saturating_add_signed(self.skew_ms)
    }

    pub fn conference(&self, room: &RoomName) -> Option<&Conference> {
        match self.seats.get(room)? {
            Seat::Open(conference) => Some(conference),
            Seat::Unborn(_) => None,
        }
    }

    /// A room hears of something, or will.
    pub fn hand(&mut self, now: Instant, elapsed: Duration, room: &RoomName, input: Input) {
        let wall_ms = self.wall_ms(elapsed);
        match self.seats.get_mut(room) {
            Some(Seat::Open(conference)) => {
                conference.handle(now, wall_ms, input);
                self.stirred.insert(room.clone());
            }
            Some(Seat::Unborn(waiting)) => waiting.push(input),
            None => {}
        }
    }

    pub fn open(
        &mut self,
        now: Instant,
        elapsed: Duration,
        room: &RoomName,
        birth: meridian_conference::Birth,
        seed: u64,
    ) {
        let Some(Seat::Unborn(waiting)) = self.seats.remove(room) else {
            return;
        };
        let setup = Setup {
            name: room.clone(),
            birth,
            node: self.node.clone(),
            region: self.region.clone(),
            fingerprint: Fingerprint([7; 32]),
            audible: self.audible.clone(),
            plane: self.plane.numbers.clone(),
            rng: StdRng::seed_from_u64(seed),
        };
        let conference = Conference::new(now, self.wall_ms(elapsed), setup);
        self.seats.insert(room.clone(), Seat::Open(Box::new(conference)));
        for input in waiting {
            self.hand(now, elapsed, room, input);
        }
    }

    /// When something of it is due.
    pub fn next_due(&self) -> Option<Instant> {
        let rooms = self.seats.values().filter_map(|seat| match seat {
            Seat::Open(conference) => conference.poll_timeout(),
            Seat::Unborn(_) => None,
        });
        rooms.chain(self.carriage.poll_timeout()).min()
    }

    pub fn handle_timeouts(&mut self, now: Instant, elapsed: Duration) {
        let wall_ms = self.wall_ms(elapsed);
        if self.carriage.poll_timeout().is_some_and(|due| due <= now) {
            self.carriage.handle_timeout(now);
        }
        for (room, seat) in &mut self.seats {
            if let Seat::Open(conference) = seat
                && conference.poll_timeout().is_some_and(|due| due <= now)
            {
                conference.handle_timeout(now, wall_ms);
                self.stirred.insert(room.clone());
            }
        }
    }
}
