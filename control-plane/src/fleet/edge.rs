//! What this replica knows of one edge: its own reports, and whom it has just sent there.

use meridian_geo::{Candidate, CandidateState, LATELY, Location};
use meridian_outbox::Inbox;
use meridian_registry::nodes::{NodeRecord, NodeState};
use meridian_wire::v1;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// An assignment counts as load, and as a person in the room, until the edge reports the arrival, or this long: then nobody came.
pub(super) const PENDING_FOR: Duration = Duration::from_secs(15);
/// An edge whose stream is open but silent for this long is doubtful.
pub(super) const SILENT_AFTER: Duration = Duration::from_secs(8);
/// An edge whose stream has ended is doubtful for this long. After that its lease has ended, or it speaks to another replica.
pub(super) const DOUBT_FOR: Duration = Duration::from_secs(15);
/// Assignments remembered per edge.
const PENDING_MAX: usize = 20_000;
/// Rooms remembered per edge; an edge with more reports the rest to nobody.
const ROOMS_MAX: usize = 50_000;
/// Links remembered per edge.
const LINKS_MAX: usize = 1_024;
/// Rooms of people on their way that other replicas are told of, per edge.
const ROOMS_TOLD_MAX: usize = 256;

/// One edge.
#[derive(Default)]
pub(super) struct Edge {
    pub(super) stream: Option<Stream>,
    /// What has come out of its outbox.
    pub(super) inbox: Inbox,
    /// Counts attachments, so that the end of an old stream does not detach the new one.
    pub(super) serial: u64,
    /// By its own stream.
    pub(super) heard: Option<Instant>,
    /// Through another replica.
    pub(super) heard_of: Option<Instant>,
    pub(super) capacity: u32,
    pub(super) participants: u32,
    pub(super) cpu: f32,
    pub(super) refuses: bool,
    pub(super) rooms: HashMap<String, u32>,
    pub(super) traffic: Traffic,
    /// As it measured them last.
    pub(super) links: Vec<v1::LinkReport>,
    /// The number of the report that they came in.
    pub(super) links_reported: u64,
    /// The number of its last report over its own stream, among all edges': what other replicas have not been told yet.
    pub(super) reported: u64,
    /// Oldest first.
    pending: VecDeque<Pending>,
    /// Those of `pending` who are new to their room, by room.
    coming: HashMap<String, u32>,
    /// When this replica sent somebody, oldest first.
    lately: VecDeque<Instant>,
}

/// What an edge sends and receives of media now.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Traffic {
    pub(super) tx_mbps: f32,
    pub(super) rx_mbps: f32,
    pub(super) tx_packets_per_s: u64,
}

pub(super) struct Stream {
    commands: mpsc::Sender<v1::EdgeCommand>,
    /// It has missed a command: it is to come back and be told the whole.
    behind: AtomicBool,
}

impl Stream {
    pub(super) fn new(commands: mpsc::Sender<v1::EdgeCommand>) -> Stream {
        Stream {
            commands,
            behind: AtomicBool::new(false),
        }
    }

    /// Puts a command into the queue to the edge; `false` if there was no place.
    pub(super) fn say(&self, command: v1::edge_command::Command) -> bool {
        let command = v1::EdgeCommand { command: Some(command) };
        let said = self.commands.try_send(command).is_ok();
        if !said {
            self.behind.store(true, Ordering::Relaxed);
        }
        said
    }

    pub(super) fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Relaxed)
    }
}

struct Pending {
    room: String,
    at: Instant,
    /// Counted in the room already, or dropped from it a moment ago.
    returning: bool,
}

impl Edge {
    /// Takes a report in, from whichever way it came.
    pub(super) fn take(&mut self, load: v1::LoadReport, now: Instant) {
        self.participants = load.participants;
        // One busy moment (an edge that starts, a burst of handshakes) is no load: it takes a few reports to fill an edge.
        if load.cpu.is_finite() {
            self.cpu = (self.cpu + load.cpu.clamp(0.0, 1.0)) / 2.0;
        }
        self.refuses = !load.accepting;
        self.traffic = Traffic {
            tx_mbps: load.tx_mbps,
            rx_mbps: load.rx_mbps,
            tx_packets_per_s: load.tx_packets_per_s,
        };
        if !load.links.is_empty() {
            self.links = load.links;
            self.links.truncate(LINKS_MAX);
        }
        let rooms: HashMap<String, u32> = load
            .rooms
            .into_iter()
            .take(ROOMS_MAX)
            .map(|room| (room.room, room.participants))
            .collect();
        // Whoever has arrived is no longer expected.
        let mut arrived: HashMap<&str, u32> = HashMap::new();
        for (room, people) in &rooms {
            let before = self.rooms.get(room).copied().unwrap_or(0);
            arrived.insert(room, people.saturating_sub(before));
        }
        let coming = &mut self.coming;
        self.pending
            .retain(|pending| match arrived.get_mut(pending.room.as_str()) {
                Some(count) if *count > 0 => {
                    *count -= 1;
                    forget(coming, pending);
                    false
                }
                _ => true,
            });
        self.rooms = rooms;
        self.expire(now);
    }

    /// Nobody reports for it any more: its people are somewhere else now, or will be told of again.
    pub(super) fn empty(&mut self) {
        self.rooms.clear();
        self.links.clear();
        self.traffic = Traffic::default();
        self.participants = 0;
    }

    /// Notes that this replica has sent somebody there.
    pub(super) fn expect(&mut self, room: &str, returning: bool, now: Instant) {
        self.expire(now);
        if self.pending.len() >= PENDING_MAX {
            return;
        }
        self.lately.push_back(now);
        if !returning {
            *self.coming.entry(room.to_owned()).or_default() += 1;
        }
        self.pending.push_back(Pending {
            room: room.to_owned(),
            at: now,
            returning,
        });
    }

    /// Forgets whom it waited for too long, and what is no longer recent.
    pub(super) fn expire(&mut self, now: Instant) {
        let older = |at: Instant, than: Duration| now.saturating_duration_since(at) >= than;
        while let Some(first) = self.pending.pop_front_if(|first| older(first.at, PENDING_FOR)) {
            forget(&mut self.coming, &first);
        }
        while self.lately.pop_front_if(|at| older(*at, LATELY)).is_some() {}
    }

    /// People of a room there, and those whom this replica has sent to it there.
    pub(super) fn people_in(&self, room: &str) -> u32 {
        let there = self.rooms.get(room).copied().unwrap_or(0);
        there.saturating_add(self.coming.get(room).copied().unwrap_or(0))
    }

    pub(super) fn has_room(&self, room: &str) -> bool {
        self.rooms.contains_key(room) || self.coming.contains_key(room)
    }

    /// For other replicas; `None` if this replica has sent nobody there lately.
    pub(super) fn coming(&self, id: &str) -> Option<v1::EdgeComing> {
        if self.pending.is_empty() {
            return None;
        }
        let rooms = self
            .coming
            .iter()
            .take(ROOMS_TOLD_MAX)
            .map(|(room, people)| v1::RoomLoad {
                room: room.clone(),
                participants: *people,
            });
        Some(v1::EdgeComing {
            edge: id.to_owned(),
            people: u32::try_from(self.pending.len()).unwrap_or(u32::MAX),
            rooms: rooms.collect(),
        })
    }

    /// Its last report, for a replica that was told of all up to `told`.
    pub(super) fn load(&self, id: &str, told: u64) -> v1::EdgeLoad {
        let rooms = self.rooms.iter().map(|(room, people)| v1::RoomLoad {
            room: room.clone(),
            participants: *people,
        });
        v1::EdgeLoad {
            edge: id.to_owned(),
            capacity: self.capacity,
            load: Some(v1::LoadReport {
                participants: self.participants,
                cpu: self.cpu,
                accepting: !self.refuses,
                rooms: rooms.collect(),
                tx_mbps: self.traffic.tx_mbps,
                rx_mbps: self.traffic.rx_mbps,
                tx_packets_per_s: self.traffic.tx_packets_per_s,
                links: match self.links_reported > told {
                    true => self.links.clone(),
                    false => Vec::new(),
                },
            }),
        }
    }

    /// Who never spoke to any replica may well be new: then the registry's word is all there is. Who did and stopped is doubtful before
    /// its lease ends.
    pub(super) fn is_doubtful(&self, now: Instant) -> bool {
        let since = |at: Instant| now.saturating_duration_since(at);
        let of = self.heard_of.map(since);
        match (&self.stream, self.heard.map(since)) {
            (Some(_), Some(heard)) => heard > SILENT_AFTER,
            _ if of.is_some_and(|of| of <= SILENT_AFTER) => false,
            (None, Some(heard)) if heard < DOUBT_FOR => true,
            _ => of.is_some_and(|of| of < DOUBT_FOR),
        }
    }

    /// Whether anything was heard of it, by any way, since `age` ago.
    pub(super) fn heard_within(&self, age: Duration, now: Instant) -> bool {
        let latest = self.heard.max(self.heard_of);
        latest.is_none_or(|at| now.saturating_duration_since(at) < age)
    }

    /// Writes what changes from moment to moment into its candidate. `others`: people whom other replicas have sent there.
    pub(super) fn write(
        &self,
        candidate: &mut Candidate,
        record_capacity: u32,
        others: u32,
        suspect: bool,
        now: Instant,
    ) {
        candidate.healthy = !suspect && !self.is_doubtful(now);
        candidate.capacity = if record_capacity > 0 {
            record_capacity
        } else {
            self.capacity
        };
        candidate.participants = self.participants;
        candidate.recent = u32::try_from(self.pending.len())
            .unwrap_or(u32::MAX)
            .saturating_add(others);
        candidate.lately = u32::try_from(self.lately.len()).unwrap_or(u32::MAX);
        candidate.cpu = f64::from(self.cpu);
        candidate.accepting = !self.refuses;
    }
}

fn forget(coming: &mut HashMap<String, u32>, pending: &Pending) {
    if pending.returning {
        return;
    }
    if let Some(count) = coming.get_mut(&pending.room) {
        *count -= 1;
        if *count == 0 {
            coming.remove(&pending.room);
        }
    }
}

/// The stage that an edge says it is at.
pub(super) fn state_of(record: &NodeRecord) -> CandidateState {
    match record.state {
        NodeState::Active => CandidateState::Active,
        NodeState::Draining | NodeState::Leaving => CandidateState::Draining,
        NodeState::Cordoned | NodeState::Unknown => CandidateState::Cordoned,
    }
}

/// What the registry says of an edge, as a candidate.
pub(super) fn candidate(record: &NodeRecord, suspect: bool) -> Candidate {
    let location = record
        .lat
        .zip(record.lon)
        .and_then(|(lat, lon)| Location::new(lat, lon));
    Candidate {
        id: record.id.clone(),
        region: record.region.clone(),
        location: location.or_else(|| meridian_geo::regions::find(&record.region).map(|region| region.location)),
        state: state_of(record),
        healthy: !suspect,
        capacity: record.capacity,
        accepting: true,
        ..Candidate::default()
    }
}
