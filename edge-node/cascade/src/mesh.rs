//! The facade: everything one edge does to share rooms with other edges, as one state machine without IO.
//!
//! The contract: after every call drain [`Mesh::poll_output`], and call [`Mesh::handle_timeout`] once [`Mesh::poll_timeout`]
//! has passed (a spurious call does nothing). Whoever drives it owns links (ordered, reliable control messages while a link
//! is up, nothing after), the rooms' state (`meridian_room::Room`, perhaps in another task: nothing here waits for an
//! answer) and the media (`Receive` and `Forward` say which track has which number in which link's datagrams).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_room::{Epoch, NodeId, RoomDelta, RoomDigest, RoomName, RoomSid, TrackSid};
use meridian_sfu::media::{Layer, LayerSet};
use rand::SeedableRng;
use rand::rngs::SmallRng;

pub use crate::directory::Life;
use crate::directory::{Directory, Proposal};
use crate::measure::Measures;
use crate::replication::{Hearing, Rooms};
use crate::subscriptions::{Demand, Shedding, Subscriptions};
pub use crate::view::Edge;
use crate::wire::{self, Body, Content, WireError};
pub use crate::wire::{ConnectionGrade, Data};

/// How often time-driven work is looked for.
const TICK: Duration = Duration::from_millis(250);
/// How often the links in use are compared with those needed.
const SWEEP: Duration = Duration::from_secs(5);
/// How long an unneeded link is kept.
const LINGER: Duration = Duration::from_secs(30);

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// One control message on the link to `to`.
    Send {
        to: NodeId,
        message: Bytes,
    },
    /// A link is needed until `Disconnect`: dial, or let it dial, again and again.
    ConnectTo(NodeId),
    Disconnect(NodeId),
    Room {
        room: RoomName,
        input: RoomInput,
    },
    /// Media of this track comes from that edge under that number, from now on and until told otherwise; `None`: from nobody.
    Receive {
        room: RoomName,
        track: TrackSid,
        source: Option<(NodeId, u32)>,
    },
    /// These layers of a track that comes from another edge do not come for now; replaces what was said before.
    Absent {
        room: RoomName,
        track: TrackSid,
        layers: LayerSet,
    },
    /// Send these layers of the track to that edge under that number, and while the link sheds some, what stands in for
    /// them. Replaces what was said before; no layers: stop.
    Forward {
        room: RoomName,
        track: TrackSid,
        to: NodeId,
        number: u32,
        layers: LayerSet,
        shed: LayerSet,
    },
}

/// For a room with people on this edge.
#[derive(Clone, Debug, PartialEq)]
pub enum RoomInput {
    /// The home edges fixed which life of the room this is (or, after a partition, that it is another): set it in `RoomInfo`.
    Life(Life),
    /// `Room::apply(now, &from, delta)`, then [`Mesh::relay_delta`] with its news.
    Delta {
        from: NodeId,
        delta: RoomDelta,
    },
    /// `Room::delta_since(&digest)`, each to [`Mesh::answer_digest`].
    Digest {
        from: NodeId,
        digest: RoomDigest,
    },
    /// `Room::digest()` to [`Mesh::send_digest`].
    DigestWanted {
        to: Vec<NodeId>,
    },
    /// `Room::node_heard`
    NodeHeard(NodeId),
    /// `Room::node_silent`
    NodeSilent(NodeId),
    /// Layers of a track published here that other edges want, all together.
    Wanted {
        track: TrackSid,
        layers: LayerSet,
    },
    /// Another edge needs a keyframe of a track published here.
    Keyframe {
        track: TrackSid,
        layer: Layer,
    },
    Data {
        from: NodeId,
        data: Data,
    },
    /// That edge does not take reliable data as fast as it comes: senders should pause for so long. Zero: go on.
    Hold {
        from: NodeId,
        pause: Duration,
    },
    /// How good connections to that edge are.
    Grades {
        from: NodeId,
        grades: Vec<ConnectionGrade>,
    },
}

/// What went wrong, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeshCounters {
    /// Messages that could not be read.
    pub malformed: u64,
    /// Messages of a kind this version does not know.
    pub unknown: u64,
    /// Packets for an edge that neither we nor any edge we hear has a link to.
    pub unreachable: u64,
}

/// See the module.
pub struct Mesh {
    ctx: Context,
    directory: Directory,
    rooms: Rooms,
    subscriptions: Subscriptions,
    next_tick: Option<Instant>,
    next_sweep: Option<Instant>,
    /// Links asked for, and since when they have not been needed.
    idle: BTreeMap<NodeId, Instant>,
}

/// What the parts share.
pub(crate) struct Context {
    pub(crate) node: NodeId,
    pub(crate) links: BTreeSet<NodeId>,
    pub(crate) rng: SmallRng,
    pub(crate) out: VecDeque<Output>,
    pub(crate) counters: MeshCounters,
    pub(crate) measures: Measures,
    /// Of the call that is being handled.
    pub(crate) now: Option<Instant>,
    asked: BTreeSet<NodeId>,
    /// Messages to ourselves: an edge may be its own home.
    loopback: VecDeque<Body>,
}

impl Context {
    pub(crate) fn is_linked(&self, node: &NodeId) -> bool {
        self.links.contains(node)
    }

    /// Nothing is queued for a link that is down: what matters is said again when it comes up.
    pub(crate) fn send(&mut self, to: &NodeId, body: Body) {
        if *to == self.node {
            self.loopback.push_back(body);
        } else if self.links.contains(to) {
            self.out.push_back(Output::Send {
                to: to.clone(),
                message: wire::encode(body),
            });
        }
    }

    pub(crate) fn need(&mut self, node: &NodeId) {
        if *node != self.node && !self.links.contains(node) && self.asked.insert(node.clone()) {
            self.out.push_back(Output::ConnectTo(node.clone()));
        }
    }
}

impl Mesh {
    /// `seed` spreads timers and makes incarnations differ between edges: take it from the operating system.
    pub fn new(node: NodeId, seed: u64) -> Mesh {
        Mesh {
            ctx: Context {
                node,
                links: BTreeSet::new(),
                rng: SmallRng::seed_from_u64(seed),
                out: VecDeque::new(),
                counters: MeshCounters::default(),
                measures: Measures::default(),
                now: None,
                asked: BTreeSet::new(),
                loopback: VecDeque::new(),
            },
            directory: Directory::default(),
            rooms: Rooms::default(),
            subscriptions: Subscriptions::default(),
            next_tick: None,
            next_sweep: None,
            idle: BTreeMap::new(),
        }
    }

    /// The live edges, this one included. To be called once at the start, with an empty list if nobody is known: until then
    /// a room waits 3 s for its life. A lost lease only moves homes: it closes no link and drops no room.
    pub fn view_changed(&mut self, now: Instant, edges: Vec<Edge>) {
        self.ctx.now = Some(now);
        self.ctx.measures.set_regions(&edges, &self.ctx.links);
        if self.directory.set_view(&mut self.ctx, now, edges) {
            self.rooms.view_changed(&mut self.ctx, &self.directory);
            self.subscriptions.review(&mut self.ctx, &self.rooms);
            self.finish(now);
        }
    }

    /// The control connection to `node` is up, both hellos exchanged and its name proven. Calling it for a link that was up
    /// means that the link was replaced.
    pub fn link_up(&mut self, now: Instant, node: NodeId) {
        if self.ctx.links.contains(&node) {
            self.link_down(now, &node);
        }
        self.ctx.now = Some(now);
        self.ctx.links.insert(node.clone());
        self.directory.link_up(&mut self.ctx, now, &node);
        let shared = self.rooms.link_up(&mut self.ctx, &node);
        self.subscriptions.link_up(&mut self.ctx, &self.rooms, &shared);
        self.finish(now);
    }

    /// The link is dead. The need for it remains.
    pub fn link_down(&mut self, now: Instant, node: &NodeId) {
        if !self.ctx.links.remove(node) {
            return;
        }
        self.ctx.now = Some(now);
        self.ctx.measures.forget(node);
        let shared = self.rooms.link_down(&mut self.ctx, now, node);
        self.subscriptions.link_down(&mut self.ctx, &self.rooms, node);
        self.subscriptions.settle_rooms(&mut self.ctx, &self.rooms, &shared);
        self.finish(now);
    }

    /// What the link to `node` measures, about once a second: its round trip, and the share of packets lost before repair.
    /// Tracks follow it slowly: see `subscriptions/tree.rs`.
    pub fn link_measured(&mut self, node: &NodeId, rtt: Duration, loss: f32) {
        if self.ctx.links.contains(node) {
            self.ctx.measures.measured(node, rtt, loss);
        }
    }

    /// Nothing has been heard on the link for a while, though it is up: tracks that come over it are asked for elsewhere.
    pub fn link_suspect(&mut self, now: Instant, node: &NodeId) {
        if self.ctx.links.contains(node) && self.ctx.measures.suspect(node) {
            self.ctx.now = Some(now);
            self.subscriptions.suspect(&mut self.ctx, &self.rooms, node);
            self.finish(now);
        }
    }

    /// It was heard again.
    pub fn link_alive(&mut self, now: Instant, node: &NodeId) {
        if self.ctx.measures.alive(node) {
            self.ctx.now = Some(now);
            self.subscriptions.review(&mut self.ctx, &self.rooms);
            self.finish(now);
        }
    }

    /// To how many edges one track may go from here; at least one. 24 unless told.
    pub fn set_fan_out(&mut self, edges: usize) {
        self.subscriptions.set_fan_out(edges);
    }

    /// A control message from a linked edge. An error is the peer's fault; the link may stay.
    pub fn handle_message(&mut self, now: Instant, from: &NodeId, message: &[u8]) -> Result<(), WireError> {
        self.ctx.now = Some(now);
        match wire::decode(message) {
            Ok(Some(body)) => {
                self.handle(now, from, body);
                self.finish(now);
                Ok(())
            }
            Ok(None) => {
                self.ctx.counters.unknown += 1;
                Ok(())
            }
            Err(error) => {
                self.ctx.counters.malformed += 1;
                Err(error)
            }
        }
    }

    /// This edge has people in `room`. `home_region` must be the same on all edges (from the token; empty = anywhere);
    /// `sid` and `created_at_ms` (since 1970) become the room's if it is new. Answered with [`RoomInput::Life`] once the homes
    /// have spoken: within one round trip to the first, another between them if the view is younger than 35 s, after 3 s
    /// at the latest if they cannot be reached.
    pub fn join_room(&mut self, now: Instant, room: RoomName, home_region: &str, sid: RoomSid, created_at_ms: i64) {
        self.ctx.now = Some(now);
        let proposal = Proposal { sid, created_at_ms };
        self.rooms
            .join(&mut self.ctx, &self.directory, now, &room, home_region, proposal);
        self.finish(now);
    }

    /// The last person here is gone.
    pub fn leave_room(&mut self, now: Instant, room: &RoomName) {
        self.ctx.now = Some(now);
        self.subscriptions.leave(&mut self.ctx, room);
        self.rooms.leave(&mut self.ctx, room);
        self.finish(now);
    }

    /// From `Room::poll_delta`.
    pub fn local_delta(&mut self, room: &RoomName, delta: RoomDelta) {
        self.rooms.send_delta(&mut self.ctx, room, delta);
    }

    /// `Applied::news` of a delta that came from `from`.
    pub fn relay_delta(&mut self, room: &RoomName, from: &NodeId, news: &RoomDelta) {
        self.rooms.relay_delta(&mut self.ctx, room, from, news);
    }

    /// From `Room::delta_since`, for who sent the digest.
    pub fn answer_digest(&mut self, to: &NodeId, delta: RoomDelta) {
        self.ctx.send(to, Body::Delta(delta));
    }

    /// What [`RoomInput::DigestWanted`] asked for.
    pub fn send_digest(&mut self, room: &RoomName, to: &[NodeId], digest: RoomDigest) {
        self.rooms.send_digest(&mut self.ctx, room, to, digest);
    }

    /// What people here want of a track published at `origin` in its publisher's `epoch`: all their layers together; none
    /// when nobody wants it any more. Replaces what was said before. Ignored unless this edge is in the room.
    pub fn want(
        &mut self,
        now: Instant,
        room: RoomName,
        track: TrackSid,
        origin: NodeId,
        epoch: Epoch,
        layers: LayerSet,
    ) {
        self.ctx.now = Some(now);
        let demand = Demand {
            key: (room, track),
            origin,
            epoch: epoch.0,
            layers,
        };
        self.subscriptions.want(&mut self.ctx, &self.rooms, demand);
        self.finish(now);
    }

    /// For a track from another edge. Limit the rate before calling.
    pub fn request_keyframe(&mut self, room: RoomName, track: TrackSid, layer: Layer) {
        self.subscriptions.keyframe(&mut self.ctx, None, &(room, track), layer);
    }

    /// The link to `to` sheds this layer of the track that goes there under `number`, or carries it again from a keyframe on.
    /// Until then the layer below is asked for, too, `to` is told, and its requests for keyframes of this layer end here.
    pub fn layer_shed(&mut self, now: Instant, to: &NodeId, number: u32, layer: Layer, shed: bool) {
        self.ctx.now = Some(now);
        let change = Shedding { number, layer, shed };
        self.subscriptions.layer_shed(&mut self.ctx, &self.rooms, to, change);
        self.finish(now);
    }

    /// What [`Output::Absent`] last said of a track.
    pub fn absent(&self, room: &RoomName, track: &TrackSid) -> LayerSet {
        self.subscriptions.absent_of(&(room.clone(), track.clone()))
    }

    /// The layers of a track that the edge it comes from was asked for.
    pub fn asked(&self, room: &RoomName, track: &TrackSid) -> LayerSet {
        self.subscriptions.asked_of(&(room.clone(), track.clone()))
    }

    /// Says again what a room must know, for a driver that could not hand over some [`RoomInput`]: its life, the edges heard,
    /// what other edges want of its tracks; and has its state compared with theirs.
    pub fn repeat(&mut self, room: &RoomName) {
        self.rooms.repeat(&mut self.ctx, room);
        self.subscriptions.repeat(&mut self.ctx, room);
    }

    /// To these edges of the room, or to all.
    pub fn send_data(&mut self, room: &RoomName, to: Option<&[NodeId]>, data: Data) {
        self.rooms.cast(&mut self.ctx, room, to, Content::Data(data));
    }

    pub fn send_grades(&mut self, room: &RoomName, grades: Vec<ConnectionGrade>) {
        self.rooms
            .cast(&mut self.ctx, room, None, Content::Grades(wire::Grades { grades }));
    }

    /// Asks the room's other edges to hold back reliable data for so long.
    pub fn send_hold(&mut self, room: &RoomName, pause: Duration) {
        let pause_ms = u32::try_from(pause.as_millis()).unwrap_or(u32::MAX);
        self.rooms
            .cast(&mut self.ctx, room, None, Content::Hold(wire::Hold { pause_ms }));
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.ctx.out.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_tick
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_tick.is_none_or(|at| at > now) {
            return;
        }
        self.ctx.now = Some(now);
        self.next_tick = Some(now + TICK);
        self.directory.tick(&mut self.ctx, now);
        let changed = self.rooms.tick(&mut self.ctx, now);
        self.subscriptions.settle_rooms(&mut self.ctx, &self.rooms, &changed);
        self.subscriptions.tick(&mut self.ctx, &self.rooms, now);
        if self.next_sweep.is_none_or(|at| at <= now) {
            self.next_sweep = Some(now + SWEEP);
            self.sweep(now);
        }
        self.finish(now);
    }

    pub fn counters(&self) -> MeshCounters {
        self.ctx.counters
    }

    /// Edges this one has a link to.
    pub fn links(&self) -> impl Iterator<Item = &NodeId> {
        self.ctx.links.iter()
    }

    /// The other edges of a room, as far as this one knows.
    pub fn members(&self, room: &RoomName) -> impl Iterator<Item = &NodeId> {
        self.rooms.get(room).into_iter().flat_map(|state| state.members.keys())
    }

    fn handle(&mut self, now: Instant, from: &NodeId, body: Body) {
        let ctx = &mut self.ctx;
        match body {
            Body::Announce(announce) => {
                for room in &announce.rooms {
                    self.directory.announced(ctx, now, from, room, announce.ttl_ms);
                }
            }
            Body::Query(query) => self.directory.asked(ctx, now, from, &query),
            Body::Peers(peers) => {
                if *from != ctx.node {
                    self.directory.told(ctx, now, from, &peers);
                }
                let room = RoomName::from(peers.room.as_str());
                if self.rooms.get(&room).is_none() {
                    // What is still said of us there is old.
                    if peers.edges.iter().any(|edge| edge.node == ctx.node.as_str()) {
                        ctx.send(from, Body::Leave(wire::RoomLeave { room: peers.room }));
                    }
                } else if self.rooms.peers(ctx, now, &peers) {
                    self.subscriptions.settle_rooms(ctx, &self.rooms, &[room]);
                }
            }
            Body::Leave(leave) => {
                let room = RoomName::from(leave.room);
                self.directory.left(ctx, now, from, &room);
                if self.rooms.left(ctx, &room, from) {
                    self.subscriptions.member_left(ctx, &self.rooms, &room, from);
                }
            }
            Body::Digest(message) => {
                let Some(digest) = message.digest else { return };
                let room = RoomName::from(digest.room.as_str());
                let hears = Hearing::of(&message.hears, &message.latencies_us);
                if self.speaks_of(&room, from, Some(hears)) {
                    self.ctx.room(
                        &room,
                        RoomInput::Digest {
                            from: from.clone(),
                            digest,
                        },
                    );
                }
            }
            Body::Delta(delta) => {
                let room = RoomName::from(delta.room.as_str());
                if self.speaks_of(&room, from, None) {
                    self.ctx.room(
                        &room,
                        RoomInput::Delta {
                            from: from.clone(),
                            delta,
                        },
                    );
                }
            }
            Body::Hears(hears) => {
                let room = RoomName::from(hears.room.as_str());
                self.speaks_of(&room, from, Some(Hearing::of(&hears.nodes, &hears.latencies_us)));
            }
            Body::Cast(cast) => self.rooms.handle_cast(ctx, from, cast),
            Body::Want(_) | Body::Grant(_) | Body::Gone(_) | Body::Shed(_) | Body::Pli(_) => {
                self.handle_track(now, from, body)
            }
        }
    }

    fn handle_track(&mut self, now: Instant, from: &NodeId, body: Body) {
        let (ctx, subscriptions) = (&mut self.ctx, &mut self.subscriptions);
        let key = |room: String, track: String| (RoomName::from(room), TrackSid::from(track));
        match body {
            Body::Want(want) => subscriptions.wanted(ctx, &self.rooms, from, want),
            Body::Grant(grant) => subscriptions.granted(ctx, &self.rooms, now, from, grant),
            Body::Gone(gone) => subscriptions.refused(ctx, &self.rooms, now, from, &key(gone.room, gone.track)),
            Body::Shed(shed) => subscriptions.absent(ctx, from, shed),
            Body::Pli(pli) => {
                let layer = Layer(u8::try_from(pli.layer).unwrap_or(u8::MAX).min(Layer::HIGH.0));
                subscriptions.keyframe(ctx, Some(from), &key(pli.room, pli.track), layer);
            }
            _ => {}
        }
    }

    /// `from` has people in the room; true if this edge has too.
    fn speaks_of(&mut self, room: &RoomName, from: &NodeId, hears: Option<Hearing>) -> bool {
        if !self.rooms.heard(&mut self.ctx, room, from) {
            return false;
        }
        if hears.is_some_and(|hears| self.rooms.hears(room, from, hears)) {
            self.subscriptions
                .settle_rooms(&mut self.ctx, &self.rooms, std::slice::from_ref(room));
        }
        true
    }

    /// Dials what is needed and lets go of what has not been needed for a while.
    fn sweep(&mut self, now: Instant) {
        let mut needed = BTreeSet::new();
        self.rooms.needed(&mut needed);
        self.directory.needed(&mut needed);
        for node in &needed {
            self.ctx.need(node);
        }
        let unneeded: Vec<NodeId> = self.ctx.asked.difference(&needed).cloned().collect();
        self.idle.retain(|node, _| unneeded.contains(node));
        for node in unneeded {
            let since = *self.idle.entry(node.clone()).or_insert(now);
            if now.duration_since(since) >= LINGER {
                self.idle.remove(&node);
                self.ctx.asked.remove(&node);
                self.ctx.out.push_back(Output::Disconnect(node));
            }
        }
    }

    /// After every input: messages to ourselves, and the clock.
    fn finish(&mut self, now: Instant) {
        let own = self.ctx.node.clone();
        while let Some(body) = self.ctx.loopback.pop_front() {
            self.handle(now, &own, body);
        }
        self.next_tick.get_or_insert(now + TICK);
    }

    /// Rooms this edge is home to, rooms it is in, and tracks it has to do with: what its memory grows with.
    pub fn held(&self) -> (usize, usize, usize) {
        (self.directory.len(), self.rooms.len(), self.subscriptions.len())
    }
}
