//! What other replicas say: whom they have sent where, and what edges report that speak to them.

use super::{Fleet, State};
use meridian_wire::v1;
use prost::Message as _;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Another replica that has not been heard for this long sends nobody any more, as far as we know.
const PEER_SILENT_AFTER: Duration = Duration::from_secs(2);
/// Other replicas, edges of one message and rooms of one edge that are remembered.
const PEERS_MAX: usize = 64;
const EDGES_MAX: usize = 10_000;
const ROOMS_MAX: usize = 1_000;
/// Loads in one message, bytes: well below what gRPC takes.
const LOADS_BYTES_MAX: usize = 1 << 20;

/// Another replica.
pub(super) struct Peer {
    heard: Instant,
    coming: HashMap<String, Coming>,
}

#[derive(Default)]
struct Coming {
    people: u32,
    rooms: HashMap<String, u32>,
}

impl Peer {
    pub(super) fn people_to(&self, edge: &str) -> u32 {
        self.coming.get(edge).map_or(0, |coming| coming.people)
    }

    pub(super) fn people_in(&self, room: &str) -> u32 {
        let counts = self.coming.values().filter_map(|coming| coming.rooms.get(room));
        counts.copied().fold(0, u32::saturating_add)
    }

    pub(super) fn sends_room_to(&self, room: &str, edge: &str) -> bool {
        self.coming
            .get(edge)
            .is_some_and(|coming| coming.rooms.contains_key(room))
    }

    pub(super) fn is_silent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard) > PEER_SILENT_AFTER
    }
}

/// How far another replica has been told.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Told {
    report: u64,
    closed: u64,
    wanted: u64,
}

impl Fleet {
    /// What another replica has said.
    pub(crate) fn hear(&self, replica: &str, news: v1::ReplicaNews, now: Instant) {
        let mut state = self.refreshed(now);
        if state.peers.len() >= PEERS_MAX && !state.peers.contains_key(replica) {
            return;
        }
        let coming = news.coming.into_iter().take(EDGES_MAX).map(|one| {
            let rooms = one
                .rooms
                .into_iter()
                .take(ROOMS_MAX)
                .map(|room| (room.room, room.participants));
            let coming = Coming {
                people: one.people,
                rooms: rooms.collect(),
            };
            (one.edge, coming)
        });
        let peer = Peer {
            heard: now,
            coming: coming.collect(),
        };
        let mut changed: Vec<String> = peer.coming.keys().cloned().collect();
        let before = state.peers.insert(replica.to_owned(), peer);
        changed.extend(before.into_iter().flat_map(|peer| peer.coming.into_keys()));
        for load in news.loads.into_iter().take(EDGES_MAX) {
            changed.extend(state.hear_of(load, now));
        }
        for edge in changed {
            state.touch(&edge, now);
        }
        for close in &news.closed {
            state.note_ended(close.clone());
        }
        drop(state);
        for close in news.closed {
            self.command_all(&v1::edge_command::Command::CloseRoom(close));
        }
    }

    /// What another replica has not been told yet; `told` is brought up to date.
    pub(crate) fn news(&self, told: &mut Told, now: Instant) -> v1::ReplicaNews {
        let mut state = self.lock();
        state.expire(now);
        let mut unsaid: Vec<(&String, &super::Edge)> = state
            .edges
            .iter()
            .filter(|(_, edge)| edge.stream.is_some() && edge.reported > told.report)
            .collect();
        unsaid.sort_by_key(|(_, edge)| edge.reported);
        let (mut loads, mut bytes) = (Vec::new(), 0);
        let so_far = told.report;
        for (id, edge) in unsaid {
            let load = edge.load(id, so_far);
            bytes += load.encoded_len();
            loads.push(load);
            told.report = edge.reported;
            if bytes > LOADS_BYTES_MAX {
                break;
            }
        }
        let closed = state.closed.iter().filter(|(number, _)| *number > told.closed);
        let closed: Vec<v1::CloseRoom> = closed.map(|(_, close)| close.clone()).collect();
        told.closed = state.closings;
        let wanted;
        (wanted, told.wanted) = state.wanted_since(told.wanted);
        v1::ReplicaNews {
            version: 1,
            coming: state.edges.iter().filter_map(|(id, edge)| edge.coming(id)).collect(),
            loads,
            closed,
            wanted,
            ..v1::ReplicaNews::default()
        }
    }

    /// Where telling a replica begins that has just been reached: all loads and all that is wanted, but no meeting that ended long ago.
    pub(crate) fn told_nothing(&self) -> Told {
        Told {
            report: 0,
            closed: self.lock().closings,
            wanted: 0,
        }
    }
}

impl State {
    /// An edge's report that came to another replica; gives its id if it counts here.
    fn hear_of(&mut self, told: v1::EdgeLoad, now: Instant) -> Option<String> {
        // Only what the registry names: nobody else's word makes an edge.
        self.roster.index_of(&told.edge)?;
        let edge = self.edges.entry(told.edge.clone()).or_default();
        if edge.stream.is_some() {
            return None;
        }
        edge.heard_of = Some(now);
        edge.capacity = told.capacity;
        edge.take(told.load?, now);
        Some(told.edge)
    }
}
