//! What this control plane knows about the edges right now: the registry's view, their own reports, and whom it has just sent where.

use meridian_api::v1;
use meridian_geo::{Candidate, CandidateState, Location};
use meridian_registry::nodes::{NodeRecord, NodeState, NodeWatch, View};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// An assignment counts as load, and as a person in the room, until the edge reports the arrival, or this long: then nobody came.
const PENDING_FOR: Duration = Duration::from_secs(15);
/// An edge whose stream is open but silent for this long is doubtful.
const SILENT_AFTER: Duration = Duration::from_secs(8);
/// An edge whose stream has ended is doubtful for this long. After that its lease has ended, or it speaks to another replica.
const DOUBT_FOR: Duration = Duration::from_secs(15);
/// What was known about an edge that is gone is forgotten after this long.
const FORGET_AFTER: Duration = Duration::from_secs(3600);
/// Assignments remembered per edge.
const PENDING_MAX: usize = 20_000;
/// Rooms remembered per edge; an edge with more reports the rest to nobody.
const ROOMS_MAX: usize = 50_000;

/// All edges.
pub struct Fleet {
    nodes: NodeWatch,
    edges: Mutex<HashMap<String, Edge>>,
}

/// What one edge said over its stream to this replica.
#[derive(Default)]
struct Edge {
    stream: Option<Stream>,
    /// Counts attachments, so that the end of an old stream does not detach the new one.
    serial: u64,
    heard: Option<Instant>,
    capacity: u32,
    participants: u32,
    cpu: f32,
    refuses: bool,
    rooms: HashMap<String, u32>,
    pending: Vec<Pending>,
}

struct Stream {
    commands: mpsc::Sender<v1::EdgeCommand>,
}

struct Pending {
    room: String,
    at: Instant,
}

/// The end of an edge's stream needs this to detach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    node: String,
    serial: u64,
}

/// One edge for operators and tests.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct EdgeSummary {
    pub id: String,
    pub region: String,
    pub url: String,
    pub state: NodeState,
    /// In the registry and heard of lately.
    pub healthy: bool,
    pub participants: u32,
    pub capacity: u32,
    /// 0..: share of capacity, or CPU if that is higher.
    pub load: f64,
    #[serde(skip)]
    pub location: Option<Location>,
}

impl Fleet {
    pub fn new(nodes: NodeWatch) -> Self {
        Fleet {
            nodes,
            edges: Mutex::default(),
        }
    }

    /// The registry's view.
    pub fn view(&self) -> Arc<View> {
        self.nodes.now()
    }

    pub fn nodes(&self) -> &NodeWatch {
        &self.nodes
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Edge>> {
        // Every statement leaves the map consistent, so a panic under the lock elsewhere spoils nothing.
        self.edges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An edge has opened its stream.
    pub fn attach(&self, hello: &v1::Hello, commands: mpsc::Sender<v1::EdgeCommand>, now: Instant) -> Attachment {
        let mut edges = self.lock();
        edges.retain(|_, edge| {
            edge.stream.is_some()
                || edge
                    .heard
                    .is_none_or(|heard| now.saturating_duration_since(heard) < FORGET_AFTER)
        });
        let edge = edges.entry(hello.node.clone()).or_default();
        edge.serial += 1;
        edge.stream = Some(Stream { commands });
        edge.heard = Some(now);
        edge.capacity = hello.capacity;
        edge.refuses = false;
        Attachment {
            node: hello.node.clone(),
            serial: edge.serial,
        }
    }

    /// A stream has ended.
    pub fn detach(&self, attachment: &Attachment) {
        if let Some(edge) = self
            .lock()
            .get_mut(&attachment.node)
            .filter(|edge| edge.serial == attachment.serial)
        {
            edge.stream = None;
            // Its people are somewhere else now, or will say so again when it is back.
            edge.rooms.clear();
            edge.participants = 0;
        }
    }

    /// An edge has reported its load.
    pub fn report(&self, attachment: &Attachment, load: v1::LoadReport, now: Instant) {
        let mut edges = self.lock();
        let Some(edge) = edges
            .get_mut(&attachment.node)
            .filter(|edge| edge.serial == attachment.serial)
        else {
            return;
        };
        edge.heard = Some(now);
        edge.participants = load.participants;
        edge.cpu = load.cpu;
        edge.refuses = !load.accepting;
        let rooms: HashMap<String, u32> = load
            .rooms
            .into_iter()
            .take(ROOMS_MAX)
            .map(|room| (room.room, room.participants))
            .collect();
        // Whoever has arrived is no longer expected.
        let mut arrived: HashMap<&str, u32> = HashMap::new();
        for (room, people) in &rooms {
            let before = edge.rooms.get(room).copied().unwrap_or(0);
            arrived.insert(room, people.saturating_sub(before));
        }
        edge.pending
            .retain(|pending| match arrived.get_mut(pending.room.as_str()) {
                Some(count) if *count > 0 => {
                    *count -= 1;
                    false
                }
                _ => now.saturating_duration_since(pending.at) < PENDING_FOR,
            });
        edge.rooms = rooms;
    }

    /// People in a room, on all edges, and those on their way.
    pub fn people_in(&self, room: &str, now: Instant) -> u32 {
        people_in(&self.lock(), room, now)
    }

    /// Notes that somebody is on the way to `room` on `node`, unless the room already has `people_max`.
    pub fn reserve(&self, node: &str, room: &str, people_max: u32, now: Instant) -> bool {
        let mut edges = self.lock();
        if people_in(&edges, room, now) >= people_max {
            return false;
        }
        let edge = edges.entry(node.to_owned()).or_default();
        if edge.pending.len() >= PENDING_MAX {
            edge.pending
                .retain(|pending| now.saturating_duration_since(pending.at) < PENDING_FOR);
        }
        if edge.pending.len() < PENDING_MAX {
            edge.pending.push(Pending {
                room: room.to_owned(),
                at: now,
            });
        }
        true
    }

    /// Every edge of the view as a candidate for `room`, beside its record.
    pub fn candidates(&self, room: &str, now: Instant) -> (Vec<NodeRecord>, Vec<Candidate>) {
        let view = self.nodes.now();
        let edges = self.lock();
        let nodes = view
            .nodes
            .values()
            .filter(|node| node.record.state != NodeState::Leaving);
        nodes
            .map(|node| {
                (
                    node.record.clone(),
                    candidate(&node.record, node.suspect, edges.get(&node.record.id), room, now),
                )
            })
            .unzip()
    }

    /// All edges of the view.
    pub fn summaries(&self, now: Instant) -> Vec<EdgeSummary> {
        let (records, candidates) = self.candidates("", now);
        let pairs = records.into_iter().zip(candidates);
        pairs
            .map(|(record, candidate)| EdgeSummary {
                load: candidate.load(),
                id: record.id,
                region: record.region,
                url: record.client_url,
                state: record.state,
                healthy: candidate.healthy,
                participants: candidate.participants,
                capacity: candidate.capacity,
                location: candidate.location,
            })
            .collect()
    }

    /// Sends a command to one edge; `false` if it is not attached here or does not keep up.
    pub fn command(&self, node: &str, command: v1::edge_command::Command) -> bool {
        let edges = self.lock();
        let stream = edges.get(node).and_then(|edge| edge.stream.as_ref());
        stream.is_some_and(|stream| {
            stream
                .commands
                .try_send(v1::EdgeCommand { command: Some(command) })
                .is_ok()
        })
    }

    /// Sends a command to every attached edge; returns to how many.
    pub fn broadcast(&self, command: &v1::edge_command::Command) -> usize {
        let edges = self.lock();
        let streams = edges.values().filter_map(|edge| edge.stream.as_ref());
        streams
            .filter(|stream| {
                stream
                    .commands
                    .try_send(v1::EdgeCommand {
                        command: Some(command.clone()),
                    })
                    .is_ok()
            })
            .count()
    }

    /// Edges with an open stream to this replica.
    pub fn attached(&self) -> usize {
        self.lock().values().filter(|edge| edge.stream.is_some()).count()
    }
}

fn people_in(edges: &HashMap<String, Edge>, room: &str, now: Instant) -> u32 {
    let count = |edge: &Edge| {
        let coming = edge
            .pending
            .iter()
            .filter(|one| one.room == room && now.saturating_duration_since(one.at) < PENDING_FOR)
            .count();
        edge.rooms
            .get(room)
            .copied()
            .unwrap_or(0)
            .saturating_add(u32::try_from(coming).unwrap_or(u32::MAX))
    };
    edges.values().map(count).fold(0, u32::saturating_add)
}

fn candidate(record: &NodeRecord, suspect: bool, edge: Option<&Edge>, room: &str, now: Instant) -> Candidate {
    let recent = edge.map_or(0, |edge| {
        edge.pending
            .iter()
            .filter(|pending| now.saturating_duration_since(pending.at) < PENDING_FOR)
            .count()
    });
    // Who never spoke to this replica may well speak to another: then the registry's word is all there is. Who did and stopped is
    // doubtful before its lease ends.
    let doubtful = edge.is_some_and(|edge| match (&edge.stream, edge.heard) {
        (_, None) => false,
        (None, Some(heard)) => now.saturating_duration_since(heard) < DOUBT_FOR,
        (Some(_), Some(heard)) => now.saturating_duration_since(heard) > SILENT_AFTER,
    });
    let location = record
        .lat
        .zip(record.lon)
        .and_then(|(lat, lon)| Location::new(lat, lon));
    Candidate {
        id: record.id.clone(),
        region: record.region.clone(),
        location: location.or_else(|| meridian_geo::regions::find(&record.region).map(|region| region.location)),
        state: match record.state {
            NodeState::Active => CandidateState::Active,
            NodeState::Draining | NodeState::Leaving => CandidateState::Draining,
            NodeState::Cordoned | NodeState::Unknown => CandidateState::Cordoned,
        },
        healthy: !suspect && !doubtful,
        capacity: if record.capacity > 0 {
            record.capacity
        } else {
            edge.map_or(0, |edge| edge.capacity)
        },
        participants: edge.map_or(0, |edge| edge.participants),
        recent: u32::try_from(recent).unwrap_or(u32::MAX),
        lately: 0,
        cpu: edge.map_or(0.0, |edge| f64::from(edge.cpu)),
        accepting: edge.is_none_or(|edge| !edge.refuses),
        has_room: edge
            .is_some_and(|edge| edge.rooms.contains_key(room) || edge.pending.iter().any(|one| one.room == room)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_registry::MemoryRegistry;
    use meridian_registry::nodes::KeeperConfig;

    fn fleet() -> Fleet {
        Fleet::new(NodeWatch::start(
            Arc::new(MemoryRegistry::new()),
            KeeperConfig::default(),
        ))
    }

    fn attach(fleet: &Fleet, node: &str, now: Instant) -> Attachment {
        let (commands, _) = mpsc::channel(1);
        fleet.attach(
            &v1::Hello {
                node: node.into(),
                ..v1::Hello::default()
            },
            commands,
            now,
        )
    }

    fn load(room: &str, participants: u32) -> v1::LoadReport {
        let rooms = vec![v1::RoomLoad {
            room: room.into(),
            participants,
        }];
        v1::LoadReport {
            participants,
            rooms,
            accepting: true,
            ..v1::LoadReport::default()
        }
    }

    #[tokio::test]
    async fn people_on_their_way_count_once_until_they_arrive_or_do_not() {
        let (fleet, now) = (fleet(), Instant::now());
        let fra = attach(&fleet, "fra", now);
        assert!(fleet.reserve("fra", "r", 2, now));
        assert_eq!(fleet.people_in("r", now), 1);
        fleet.report(&fra, load("r", 1), now);
        assert_eq!(fleet.people_in("r", now), 1, "arrived: counted once");
        assert!(fleet.reserve("fra", "r", 2, now));
        assert!(!fleet.reserve("iad", "r", 2, now), "full, wherever they go");
        assert_eq!(fleet.people_in("r", now + PENDING_FOR), 1, "the second one never came");
        assert!(fleet.reserve("fra", "r", 2, now + PENDING_FOR));
    }

    #[tokio::test]
    async fn an_edge_that_left_this_replica_is_doubted_only_for_a_while() {
        let (fleet, now) = (fleet(), Instant::now());
        let record = NodeRecord::from_json(
            "nodes/fra",
            br#"{"version":1,"id":"fra","region":"fra","client_url":"ws://x","capacity":10}"#,
        );
        let record = record.unwrap();
        let healthy = |at| candidate(&record, false, fleet.lock().get("fra"), "r", at).healthy;
        assert!(healthy(now), "never heard here: the registry's word counts");
        let fra = attach(&fleet, "fra", now);
        assert!(healthy(now) && !healthy(now + SILENT_AFTER * 2), "attached but silent");
        fleet.detach(&fra);
        assert!(
            !healthy(now) && healthy(now + DOUBT_FOR),
            "it may speak to another replica"
        );
    }

    #[tokio::test]
    async fn an_old_stream_neither_reports_for_nor_detaches_the_new_one() {
        let (fleet, now) = (fleet(), Instant::now());
        let old = attach(&fleet, "fra", now);
        let new = attach(&fleet, "fra", now);
        fleet.report(&new, load("r", 3), now);
        fleet.report(&old, load("r", 9), now);
        fleet.detach(&old);
        assert_eq!((fleet.people_in("r", now), fleet.attached()), (3, 1));
        fleet.detach(&new);
        assert_eq!((fleet.people_in("r", now), fleet.attached()), (0, 0));
    }
}
