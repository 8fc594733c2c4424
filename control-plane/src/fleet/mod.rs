//! What this control plane knows about the edges right now: the registry's view, their own reports, whom it has just sent where, and
//! what other replicas say of the same. Placing somebody and noting it is one step under one lock.

mod desired;
mod edge;
mod links;
mod peers;
mod roster;
mod wanted;

pub(crate) use links::Link;
pub(crate) use peers::Told;
pub(crate) use wanted::{Ask, NotDone, Pop};

use edge::{DOUBT_FOR, Edge, Stream};
use meridian_geo::{Assignment, Candidate, Choice, Client, Excluded, Location, Policy, Reason};
use meridian_registry::nodes::{NodeRecord, NodeState, NodeWatch, View};
use meridian_wire::v1;
use peers::Peer;
use roster::Roster;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use wanted::Wanted;

/// What was known about an edge that is gone is forgotten after this long.
const FORGET_AFTER: Duration = Duration::from_secs(3600);
/// Ended meetings remembered for replicas that are about to be told.
const CLOSED_MAX: usize = 256;
/// Edges in an answer: the chosen one and two alternates.
const PLACES: usize = 3;

/// All edges.
pub struct Fleet {
    nodes: NodeWatch,
    state: Mutex<State>,
}

struct State {
    edges: HashMap<String, Edge>,
    /// Other replicas.
    peers: HashMap<String, Peer>,
    roster: Roster,
    /// Reports so far, of all edges that speak to this replica.
    reports: u64,
    /// The latest meetings that ended here, numbered.
    closed: VecDeque<(u64, v1::CloseRoom)>,
    closings: u64,
    /// What operators want of edges, and how often that has changed.
    wanted: HashMap<String, Wanted>,
    wants: u64,
    /// The latest meetings that ended anywhere, newest first: what an edge that attaches is told.
    ended: VecDeque<v1::CloseRoom>,
}

/// The end of an edge's stream needs this to detach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    node: String,
    serial: u64,
    incarnation: u64,
}

/// One edge for operators and tests.
#[derive(Debug, Clone, PartialEq, serde::Serialize, utoipa::ToSchema)]
pub struct EdgeSummary {
    pub id: String,
    pub region: String,
    pub url: String,
    #[schema(value_type = String)]
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

/// Whether a placement is noted, and under which condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Note {
    /// Somebody new, if the room has fewer people than this.
    New { people_max: u32 },
    /// Somebody who is in the room's count already, or has just been dropped from it.
    Returning,
}

/// Where somebody is sent.
#[derive(Debug)]
pub(crate) struct Placement {
    /// The chosen edge, then alternates. Empty: there is none.
    pub(crate) edges: Vec<NodeRecord>,
    pub(crate) reasons: Vec<Reason>,
    /// How the first came to be first.
    pub(crate) choice: Choice,
    /// The room has all the people it may have; nothing was noted.
    pub(crate) full: bool,
}

/// Everything that went into a placement, for an operator.
#[derive(Debug)]
pub(crate) struct Reckoning {
    pub(crate) assignment: Assignment,
    pub(crate) excluded: Vec<Excluded>,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) reasons: Vec<Reason>,
}

impl Fleet {
    pub fn new(nodes: NodeWatch, policy: Policy) -> Self {
        Fleet {
            nodes,
            state: Mutex::new(State {
                edges: HashMap::new(),
                peers: HashMap::new(),
                roster: Roster::new(policy),
                reports: 0,
                closed: VecDeque::new(),
                closings: 0,
                wanted: HashMap::new(),
                wants: 0,
                ended: VecDeque::new(),
            }),
        }
    }

    /// The registry's view.
    pub fn view(&self) -> Arc<View> {
        self.nodes.now()
    }

    pub fn nodes(&self) -> &NodeWatch {
        &self.nodes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every statement leaves the state consistent, so a panic under the lock elsewhere spoils nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refreshed(&self, now: Instant) -> MutexGuard<'_, State> {
        let view = self.nodes.now();
        let mut state = self.lock();
        state.refresh(&view, now);
        state
    }

    /// An edge has opened its stream.
    pub fn attach(&self, hello: &v1::Hello, commands: mpsc::Sender<v1::EdgeCommand>, now: Instant) -> Attachment {
        let mut state = self.lock();
        state
            .edges
            .retain(|_, edge| edge.stream.is_some() || edge.heard_within(FORGET_AFTER, now));
        let edge = state.edges.entry(hello.node.clone()).or_default();
        edge.serial += 1;
        edge.stream = Some(Stream::new(commands));
        edge.heard = Some(now);
        edge.capacity = hello.capacity;
        edge.refuses = false;
        let attachment = Attachment {
            node: hello.node.clone(),
            serial: edge.serial,
            incarnation: hello.incarnation,
        };
        state.touch(&hello.node, now);
        attachment
    }

    /// A stream has ended.
    pub fn detach(&self, attachment: &Attachment) {
        let mut state = self.lock();
        if let Some(edge) = state.attached(attachment) {
            edge.stream = None;
            edge.empty();
            // Its doubtfulness runs from its last word.
            let heard = edge.heard;
            state.touch(&attachment.node, heard.unwrap_or_else(Instant::now));
        }
    }

    /// An edge has reported its load.
    pub fn report(&self, attachment: &Attachment, load: v1::LoadReport, now: Instant) {
        let mut state = self.lock();
        let number = state.reports + 1;
        let Some(edge) = state.attached(attachment) else { return };
        edge.heard = Some(now);
        edge.reported = number;
        if !load.links.is_empty() {
            edge.links_reported = number;
        }
        edge.take(load, now);
        state.reports = number;
        state.touch(&attachment.node, now);
    }

    /// An edge stops: nobody is sent there any more, whatever the registry's view, which may lag, still says.
    pub fn leaves(&self, attachment: &Attachment, now: Instant) {
        let mut state = self.lock();
        let number = state.reports + 1;
        let Some(edge) = state.attached(attachment) else { return };
        edge.heard = Some(now);
        edge.refuses = true;
        // Other replicas are told as of a load report.
        edge.reported = number;
        state.reports = number;
        state.touch(&attachment.node, now);
    }

    /// People in a room, on all edges, and those on their way.
    pub fn people_in(&self, room: &str, now: Instant) -> u32 {
        let mut state = self.lock();
        state.expire(now);
        state.people_in(room)
    }

    /// Chooses an edge for somebody who joins `room`, and notes it.
    pub(crate) fn place(&self, client: &Client, room: &str, note: Note, now: Instant) -> Placement {
        let mut state = self.refreshed(now);
        let assignment = state.assign(client, room);
        let records = &state.roster.records;
        let ranked = assignment.ranked.iter().take(PLACES);
        let mut placement = Placement {
            edges: ranked.filter_map(|ranked| records.get(ranked.index).cloned()).collect(),
            reasons: assignment.reasons(state.roster.candidates.list()),
            choice: assignment.choice,
            full: false,
        };
        let Some(chosen) = placement.edges.first() else {
            return placement;
        };
        match note {
            Note::New { people_max } if state.people_in(room) >= people_max => placement.full = true,
            Note::New { .. } | Note::Returning => state.expect(&chosen.id, room, note == Note::Returning, now),
        }
        placement
    }

    /// What [`Self::place`] would do, with everything that it reckons with.
    pub(crate) fn explain(&self, client: &Client, room: &str, now: Instant) -> Reckoning {
        let state = self.refreshed(now);
        let assignment = state.assign(client, room);
        let candidates = state.roster.candidates.list().to_vec();
        // Of very many edges the assignment itself lists only the nearest.
        let mut excluded = assignment.excluded.clone();
        let unlisted = state.roster.candidates.excluded(client).into_iter().filter(|one| {
            !assignment.ranked.iter().any(|ranked| ranked.index == one.index)
                && !assignment.excluded.iter().any(|listed| listed.index == one.index)
        });
        excluded.extend(unlisted);
        Reckoning {
            reasons: assignment.reasons(&candidates),
            assignment,
            excluded,
            candidates,
        }
    }

    /// Every edge of the view as a candidate for `room`, beside its record.
    pub fn candidates(&self, room: &str, now: Instant) -> (Vec<NodeRecord>, Vec<Candidate>) {
        let state = self.refreshed(now);
        let mut candidates = state.roster.candidates.list().to_vec();
        for at in state.with_room(room) {
            candidates[at].has_room = true;
        }
        (state.roster.records.clone(), candidates)
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

    /// Where the edges of a region are, if anybody says.
    pub(crate) fn place_of(&self, region: &str, now: Instant) -> Option<Location> {
        let state = self.refreshed(now);
        let mut edges = state.roster.candidates.list().iter();
        edges
            .find(|edge| edge.region == region && edge.location.is_some())?
            .location
    }

    /// The region of a node of the view.
    pub(crate) fn region_of(&self, node: &str) -> Option<String> {
        self.nodes.now().get(node).map(|record| record.region.clone())
    }

    /// Sends a command to one edge; `false` if it is not attached here or does not keep up.
    pub fn command(&self, node: &str, command: v1::edge_command::Command) -> bool {
        let state = self.lock();
        let stream = state.edges.get(node).and_then(|edge| edge.stream.as_ref());
        stream.is_some_and(|stream| stream.say(command))
    }

    /// Sends a command to every attached edge; returns to how many.
    pub fn command_all(&self, command: &v1::edge_command::Command) -> usize {
        let state = self.lock();
        let streams = state.edges.values().filter_map(|edge| edge.stream.as_ref());
        streams.filter(|stream| stream.say(command.clone())).count()
    }

    /// A meeting has ended: tells every edge, also those that speak to another replica.
    pub fn close(&self, close: v1::CloseRoom) {
        // First, or an edge that attaches between the two hears of it from neither.
        self.note_closed(close.clone());
        self.command_all(&v1::edge_command::Command::CloseRoom(close));
    }

    fn note_closed(&self, close: v1::CloseRoom) {
        let mut state = self.lock();
        state.closings += 1;
        let number = state.closings;
        state.closed.truncate(CLOSED_MAX - 1);
        state.closed.push_front((number, close.clone()));
        state.note_ended(close);
    }

    /// Edges with an open stream to this replica.
    pub fn attached(&self) -> usize {
        self.lock().edges.values().filter(|edge| edge.stream.is_some()).count()
    }

    /// Other replicas that were heard lately.
    pub fn replicas(&self) -> usize {
        self.lock().peers.len()
    }
}

impl State {
    fn attached(&mut self, attachment: &Attachment) -> Option<&mut Edge> {
        let edge = self.edges.get_mut(&attachment.node);
        edge.filter(|edge| edge.serial == attachment.serial)
    }

    fn assign(&self, client: &Client, room: &str) -> Assignment {
        self.roster.candidates.assign(client, &self.with_room(room))
    }

    /// Edges that have the room, or to which somebody of it is on the way.
    fn with_room(&self, room: &str) -> Vec<usize> {
        if room.is_empty() {
            return Vec::new();
        }
        let has = |id: &str| {
            self.edges.get(id).is_some_and(|edge| edge.has_room(room))
                || self.peers.values().any(|peer| peer.sends_room_to(room, id))
        };
        let records = self.roster.records.iter().enumerate();
        records
            .filter(|(_, record)| has(&record.id))
            .map(|(at, _)| at)
            .collect()
    }

    fn people_in(&self, room: &str) -> u32 {
        let own = self.edges.values().map(|edge| edge.people_in(room));
        let others = self.peers.values().map(|peer| peer.people_in(room));
        own.chain(others).fold(0, u32::saturating_add)
    }

    fn expect(&mut self, node: &str, room: &str, returning: bool, now: Instant) {
        let edge = self.edges.entry(node.to_owned()).or_default();
        edge.expect(room, returning, now);
        self.touch(node, now);
    }

    /// Forgets what time has made untrue.
    fn expire(&mut self, now: Instant) {
        self.peers.retain(|_, peer| !peer.is_silent(now));
        for edge in self.edges.values_mut() {
            edge.expire(now);
            let stale = edge
                .heard_of
                .is_some_and(|at| now.saturating_duration_since(at) > DOUBT_FOR);
            if stale && edge.stream.is_none() {
                edge.heard_of = None;
                edge.empty();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::edge::{PENDING_FOR, SILENT_AFTER};
    use super::*;
    use meridian_registry::MemoryRegistry;
    use meridian_registry::nodes::KeeperConfig;

    fn fleet() -> Fleet {
        let nodes = NodeWatch::start(Arc::new(MemoryRegistry::new()), KeeperConfig::default());
        Fleet::new(nodes, Policy::default())
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

    /// Sends somebody new to room `r` there, unless it has `people_max`.
    fn send(fleet: &Fleet, node: &str, people_max: u32, now: Instant) -> bool {
        let mut state = fleet.lock();
        state.expire(now);
        let free = state.people_in("r") < people_max;
        if free {
            state.expect(node, "r", false, now);
        }
        free
    }

    #[tokio::test]
    async fn people_on_their_way_count_once_until_they_arrive_or_do_not() {
        let (fleet, now) = (fleet(), Instant::now());
        let fra = attach(&fleet, "fra", now);
        assert!(send(&fleet, "fra", 2, now));
        assert_eq!(fleet.people_in("r", now), 1);
        fleet.report(&fra, load("r", 1), now);
        assert_eq!(fleet.people_in("r", now), 1, "arrived: counted once");
        assert!(send(&fleet, "fra", 2, now));
        assert!(!send(&fleet, "iad", 2, now), "full, wherever they go");
        assert_eq!(fleet.people_in("r", now + PENDING_FOR), 1, "the second one never came");
        assert!(send(&fleet, "fra", 2, now + PENDING_FOR));
    }

    #[tokio::test]
    async fn somebody_who_returns_is_load_but_no_second_person() {
        let (fleet, now) = (fleet(), Instant::now());
        let fra = attach(&fleet, "fra", now);
        fleet.report(&fra, load("r", 1), now);
        fleet.lock().expect("iad", "r", true, now);
        assert_eq!(fleet.people_in("r", now), 1);
        assert_eq!(fleet.news(&mut Told::default(), now).coming[0].people, 1);
    }

    #[tokio::test]
    async fn an_edge_that_left_this_replica_is_doubted_only_for_a_while() {
        let (fleet, now) = (fleet(), Instant::now());
        let healthy = |at| !fleet.lock().edges.entry("fra".into()).or_default().is_doubtful(at);
        assert!(healthy(now), "never heard here: the registry's word counts");
        let fra = attach(&fleet, "fra", now);
        assert!(healthy(now) && !healthy(now + SILENT_AFTER * 2), "attached but silent");
        fleet.detach(&fra);
        assert!(
            !healthy(now) && healthy(now + DOUBT_FOR),
            "it may speak to another replica"
        );
        fleet.lock().edges.get_mut("fra").unwrap().heard_of = Some(now);
        assert!(healthy(now), "it does speak to another replica");
        assert!(!healthy(now + SILENT_AFTER * 3 / 2) && healthy(now + DOUBT_FOR));
    }

    #[tokio::test]
    async fn what_another_replica_sends_counts_until_it_falls_silent() {
        let (fleet, now) = (fleet(), Instant::now());
        let coming = v1::EdgeComing {
            edge: "fra".into(),
            people: 7,
            rooms: load("r", 5).rooms,
        };
        let news = v1::ReplicaNews {
            coming: vec![coming],
            ..v1::ReplicaNews::default()
        };
        fleet.hear("control-2", news.clone(), now);
        fleet.hear("control-2", news, now);
        assert_eq!(
            (fleet.people_in("r", now), fleet.replicas()),
            (5, 1),
            "said twice, counted once"
        );
        assert_eq!(fleet.lock().peers["control-2"].people_to("fra"), 7);
        let later = now + Duration::from_secs(3);
        assert_eq!((fleet.people_in("r", later), fleet.replicas()), (0, 0));
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
