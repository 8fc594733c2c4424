//! A world of edges in virtual time: real `Mesh` and `Room` state machines over links that deliver in order while they are
//! up (as QUIC streams do), each with its own delay, and lose what is under way when they break.

mod nonsense;
mod regions;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_cascade::{Life, Mesh, Output, RoomInput};
use meridian_room::*;
use meridian_sfu::media::{Layer, LayerSet};
pub(crate) use nonsense::any_message;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    start: Instant,
    elapsed: Duration,
    rng: SmallRng,
    queue: BinaryHeap<Reverse<(Duration, u64, Happening)>>,
    happenings: u64,
    links: BTreeMap<(usize, usize), Link>,
    broken: BTreeSet<(usize, usize)>,
    regions: regions::Regions,
    /// Control messages put on links.
    pub(crate) sent: u64,
}

#[derive(Default)]
struct Link {
    up: bool,
    dialing: bool,
    generation: u32,
    latency: Duration,
    /// When the last message of each direction arrives: none overtakes another.
    arrivals: [Duration; 2],
}

pub(crate) struct Node {
    pub(crate) mesh: Mesh,
    pub(crate) rooms: BTreeMap<RoomName, Room>,
    pub(crate) lives: BTreeMap<RoomName, Life>,
    /// Times a room was told its life.
    pub(crate) told: usize,
    pub(crate) events: Vec<RoomEvent>,
    pub(crate) data: Vec<(NodeId, String)>,
    pub(crate) keyframes: Vec<(TrackSid, Layer)>,
    pub(crate) sources: BTreeMap<TrackSid, (NodeId, u32)>,
    pub(crate) forwards: BTreeMap<(TrackSid, NodeId), (u32, LayerSet)>,
    absent: BTreeMap<TrackSid, LayerSet>,
    wanted: BTreeMap<TrackSid, LayerSet>,
    dials: BTreeSet<usize>,
    alive: bool,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Message {
        from: usize,
        to: usize,
        generation: u32,
        message: Bytes,
    },
    LinkUp {
        a: usize,
        b: usize,
        generation: u32,
    },
    /// Nothing heard for a while.
    Suspect {
        at: usize,
        of: usize,
    },
    LinkDown {
        at: usize,
        of: usize,
    },
    View {
        at: usize,
        edges: Vec<usize>,
    },
    Step,
}

pub(crate) fn id(i: usize) -> NodeId {
    NodeId::new(format!("edge-{i:02}"))
}

fn index(node: &NodeId) -> usize {
    node.as_str()[5..].parse().expect("edge-NN")
}

pub(crate) fn room(name: &str) -> RoomName {
    RoomName::from(name)
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl Node {
    pub(crate) fn wanted(&self, track: &str) -> LayerSet {
        self.wanted.get(track).copied().unwrap_or_default()
    }

    /// What this edge knows not to expect.
    pub(crate) fn absent(&self, track: &str) -> LayerSet {
        self.absent.get(track).copied().unwrap_or_default()
    }

    pub(crate) fn sent(&self, track: &str, to: usize) -> LayerSet {
        self.forwards
            .get(&(TrackSid::from(track), id(to)))
            .map_or(LayerSet::EMPTY, |(_, layers)| *layers)
    }
}

impl World {
    pub(crate) fn new(seed: u64, edges: usize) -> World {
        let node = |i: usize| Node {
            mesh: Mesh::new(id(i), seed * 1_000 + i as u64),
            rooms: BTreeMap::new(),
            lives: BTreeMap::new(),
            told: 0,
            events: Vec::new(),
            data: Vec::new(),
            keyframes: Vec::new(),
            sources: BTreeMap::new(),
            forwards: BTreeMap::new(),
            absent: BTreeMap::new(),
            wanted: BTreeMap::new(),
            dials: BTreeSet::new(),
            alive: true,
        };
        let mut world = World {
            nodes: (0..edges).map(node).collect(),
            start: Instant::now(),
            elapsed: Duration::ZERO,
            rng: SmallRng::seed_from_u64(seed),
            queue: BinaryHeap::new(),
            happenings: 0,
            links: BTreeMap::new(),
            broken: BTreeSet::new(),
            regions: regions::Regions::default(),
            sent: 0,
        };
        for b in 0..edges {
            for a in 0..b {
                let latency = Duration::from_millis(world.rng.random_range(2..90));
                world.links.insert(
                    (a, b),
                    Link {
                        latency,
                        ..Link::default()
                    },
                );
            }
        }
        world.after(Duration::from_millis(50), Happening::Step);
        world
    }

    pub(crate) fn now(&self) -> Instant {
        self.start + self.elapsed
    }

    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.elapsed + time;
        while self.queue.peek().is_some_and(|Reverse((at, ..))| *at <= end) {
            let Some(Reverse((at, _, happening))) = self.queue.pop() else {
                break;
            };
            self.elapsed = at;
            self.happen(happening);
        }
        self.elapsed = end;
    }

    pub(crate) fn join(&mut self, edge: usize, name: &str, identity: &str) {
        let now = self.now();
        let (name, sid) = (room(name), ParticipantSid::generate(&mut self.rng));
        let room_sid = RoomSid::generate(&mut self.rng);
        let incarnation = self.elapsed.as_millis() as u64 + 1;
        let node = &mut self.nodes[edge];
        let info = RoomInfo::new(room_sid.clone(), 0);
        let state = node
            .rooms
            .entry(name.clone())
            .or_insert_with(|| Room::new(name.clone(), id(edge), info, incarnation));
        state
            .join(now, 0, NewParticipant::new(Identity::from(identity), sid))
            .expect("room for all");
        node.mesh.join_room(
            now,
            name,
            "",
            room_sid,
            1_790_000_000_000 + self.elapsed.as_millis() as i64,
        );
        self.pump(edge);
    }

    pub(crate) fn leave(&mut self, edge: usize, name: &str, identity: &str) {
        let (now, name) = (self.now(), room(name));
        let node = &mut self.nodes[edge];
        let Some(state) = node.rooms.get_mut(&name) else { return };
        let sid = state
            .participant(&Identity::from(identity))
            .map(|person| person.sid.clone());
        state
            .leave(&sid.expect("is here"), DisconnectReason::ClientInitiated)
            .expect("is here");
        self.pump(edge);
        let node = &mut self.nodes[edge];
        if node.rooms[&name].locals().next().is_none() {
            node.rooms.remove(&name);
            node.lives.remove(&name);
            node.mesh.leave_room(now, &name);
        }
        self.pump(edge);
    }

    pub(crate) fn want(&mut self, edge: usize, name: &str, track: &str, origin: usize, layers: LayerSet) {
        let now = self.now();
        let track = TrackSid::from(track);
        self.nodes[edge]
            .mesh
            .want(now, room(name), track, id(origin), Epoch(1), layers);
        self.pump(edge);
    }

    /// The link from one edge to another stops carrying a layer of a track, or carries it again.
    pub(crate) fn shed(&mut self, from: usize, to: usize, track: &str, layer: u8, shed: bool) {
        let (number, _) = self.nodes[from].forwards[&(TrackSid::from(track), id(to))];
        self.shed_number(from, to, number, layer, shed);
    }

    pub(crate) fn shed_number(&mut self, from: usize, to: usize, number: u32, layer: u8, shed: bool) {
        let now = self.now();
        self.nodes[from]
            .mesh
            .layer_shed(now, &id(to), number, Layer(layer), shed);
        self.pump(from);
    }

    pub(crate) fn request_keyframe(&mut self, edge: usize, name: &str, track: &str, layer: u8) {
        let track = TrackSid::from(track);
        self.nodes[edge].mesh.request_keyframe(room(name), track, Layer(layer));
        self.pump(edge);
    }

    /// Everybody alive sees everybody alive, each at a moment of its own.
    pub(crate) fn view_all(&mut self) {
        let edges: Vec<usize> = (0..self.nodes.len()).filter(|&i| self.nodes[i].alive).collect();
        self.view_only(&edges);
    }

    pub(crate) fn view_only(&mut self, edges: &[usize]) {
        for at in 0..self.nodes.len() {
            let delay = Duration::from_millis(self.rng.random_range(0..300));
            self.after(
                delay,
                Happening::View {
                    at,
                    edges: edges.to_vec(),
                },
            );
        }
    }

    pub(crate) fn break_pair(&mut self, a: usize, b: usize) {
        if a != b && self.broken.insert(pair(a, b)) {
            self.cut(a, b);
        }
    }

    pub(crate) fn kill(&mut self, edge: usize) {
        self.nodes[edge].alive = false;
        self.nodes[edge].rooms.clear();
        for other in (0..self.nodes.len()).filter(|other| *other != edge) {
            self.cut(edge, other);
        }
    }

    pub(crate) fn forget_events(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.events.clear());
    }

    pub(crate) fn is_linked(&self, a: usize, b: usize) -> bool {
        a != b && self.links[&pair(a, b)].up
    }

    pub(crate) fn links(&self) -> Vec<(usize, usize)> {
        self.links
            .iter()
            .filter(|(_, link)| link.up)
            .map(|(pair, _)| *pair)
            .collect()
    }

    /// The way a track takes from its origin, if it gets there: every hop sends what the next one expects.
    pub(crate) fn flow(&self, track: &str, origin: usize, to: usize) -> Option<Vec<usize>> {
        let track = TrackSid::from(track);
        let mut way = vec![to];
        while *way.last()? != origin {
            let at = *way.last()?;
            let (from, number) = self.nodes[at].sources.get(&track)?;
            let (sent, layers) = self.nodes[index(from)].forwards.get(&(track.clone(), id(at)))?;
            if sent != number || layers.is_empty() || way.len() > 5 {
                return None;
            }
            way.push(index(from));
        }
        way.reverse();
        Some(way)
    }

    pub(crate) fn assert_agreed(&self, name: &str, people: &[&str]) {
        let edges: Vec<usize> = (0..self.nodes.len())
            .filter(|&i| self.nodes[i].rooms.contains_key(name))
            .collect();
        self.assert_agreed_among(&edges, name, people);
    }

    pub(crate) fn assert_agreed_among(&self, edges: &[usize], name: &str, people: &[&str]) {
        let mut lives = BTreeSet::new();
        let mut facts = BTreeSet::new();
        for &edge in edges {
            let state = &self.nodes[edge].rooms[name];
            let seen: Vec<&str> = state.participants().map(|person| person.identity.as_str()).collect();
            assert_eq!(seen, people, "as seen by edge {edge} at {:?}", self.elapsed);
            let sids: Vec<String> = state
                .participants()
                .map(|person| format!("{} {}", person.sid, person.node))
                .collect();
            facts.insert(sids);
            lives.insert(self.nodes[edge].lives.get(name).cloned());
            assert_eq!(
                Some(&state.info().sid),
                self.nodes[edge].lives.get(name).map(|life| &life.sid)
            );
        }
        assert!(facts.len() <= 1, "facts differ: {facts:?}");
        assert!(lives.len() <= 1 && !lives.contains(&None), "lives differ: {lives:?}");
    }

    fn after(&mut self, delay: Duration, happening: Happening) {
        self.happenings += 1;
        self.queue
            .push(Reverse((self.elapsed + delay, self.happenings, happening)));
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.now();
        match happening {
            Happening::Message {
                from,
                to,
                generation,
                message,
            } => {
                let link = &self.links[&pair(from, to)];
                if link.up && link.generation == generation && self.nodes[to].alive {
                    self.nodes[to]
                        .mesh
                        .handle_message(now, &id(from), &message)
                        .expect("our own message");
                    self.pump(to);
                }
            }
            Happening::LinkUp { a, b, generation } => {
                let fit = !self.broken.contains(&(a, b)) && self.nodes[a].alive && self.nodes[b].alive;
                let link = self.links.get_mut(&(a, b)).expect("a pair");
                link.dialing = false;
                if fit && link.generation == generation {
                    link.up = true;
                    self.nodes[a].mesh.link_up(now, id(b));
                    self.nodes[b].mesh.link_up(now, id(a));
                    self.pump(a);
                    self.pump(b);
                }
            }
            Happening::LinkDown { at, of } => {
                if self.nodes[at].alive && !self.is_linked(at, of) {
                    self.nodes[at].mesh.link_down(now, &id(of));
                    self.pump(at);
                }
            }
            Happening::Suspect { at, of } => {
                if self.nodes[at].alive && !self.is_linked(at, of) {
                    self.nodes[at].mesh.link_suspect(now, &id(of));
                    self.pump(at);
                }
            }
            Happening::View { at, edges } => {
                let edges = self.regions.view(at, &edges);
                if self.nodes[at].alive {
                    self.nodes[at].mesh.view_changed(now, edges);
                    self.pump(at);
                }
            }
            Happening::Step => {
                self.step(now);
                self.measure();
                self.after(Duration::from_millis(50), Happening::Step);
            }
        }
    }

    fn step(&mut self, now: Instant) {
        for i in 0..self.nodes.len() {
            if !self.nodes[i].alive {
                continue;
            }
            let node = &mut self.nodes[i];
            if node.mesh.poll_timeout().is_some_and(|at| at <= now) {
                node.mesh.handle_timeout(now);
            }
            for state in node
                .rooms
                .values_mut()
                .filter(|state| state.poll_timeout().is_some_and(|at| at <= now))
            {
                state.handle_timeout(now);
            }
            self.pump(i);
            for other in self.nodes[i].dials.clone() {
                self.dial(i, other);
            }
        }
    }

    fn dial(&mut self, a: usize, b: usize) {
        let (a, b) = pair(a, b);
        let fit = !self.broken.contains(&(a, b)) && self.nodes[a].alive && self.nodes[b].alive;
        let link = self.links.get_mut(&(a, b)).expect("a pair");
        if fit && !link.up && !link.dialing {
            link.dialing = true;
            link.generation += 1;
            let (delay, generation) = (3 * link.latency, link.generation);
            self.after(delay, Happening::LinkUp { a, b, generation });
        }
    }

    fn cut(&mut self, a: usize, b: usize) {
        let link = self.links.get_mut(&pair(a, b)).expect("a pair");
        if std::mem::replace(&mut link.up, false) {
            // Not before both have noticed may it come back.
            link.dialing = true;
            link.generation += 1;
            let generation = link.generation;
            let detection = self.regions.detection();
            for (at, of) in [(a, b), (b, a)] {
                self.after(regions::SUSPICION, Happening::Suspect { at, of });
                self.after(detection, Happening::LinkDown { at, of });
            }
            let (a, b) = pair(a, b);
            self.after(
                detection + Duration::from_millis(50),
                Happening::LinkUp {
                    a,
                    b,
                    generation: generation + 1_000_000,
                },
            );
        }
    }

    /// Carries out what a node's state machines ask for until they are quiet.
    pub(crate) fn pump(&mut self, i: usize) {
        loop {
            let node = &mut self.nodes[i];
            for (name, state) in &mut node.rooms {
                node.events.extend(std::iter::from_fn(|| state.poll_event()));
                while let Some(delta) = state.poll_delta() {
                    node.mesh.local_delta(name, delta);
                }
            }
            let Some(output) = node.mesh.poll_output() else { break };
            self.carry_out(i, output);
        }
    }

    fn carry_out(&mut self, i: usize, output: Output) {
        match output {
            Output::Send { to, message } => self.send(i, index(&to), message),
            Output::ConnectTo(node) => {
                self.nodes[i].dials.insert(index(&node));
                self.dial(i, index(&node));
            }
            Output::Disconnect(node) => {
                self.nodes[i].dials.remove(&index(&node));
                self.cut(i, index(&node));
            }
            Output::Room { room, input } => self.room_input(i, &room, input),
            Output::Receive { track, source, .. } => {
                let node = &mut self.nodes[i];
                match source {
                    Some(source) => drop(node.sources.insert(track, source)),
                    None => drop(node.sources.remove(&track)),
                }
            }
            Output::Absent { track, layers, .. } => drop(self.nodes[i].absent.insert(track, layers)),
            Output::Forward {
                track,
                to,
                number,
                layers,
                ..
            } => {
                let forwards = &mut self.nodes[i].forwards;
                if layers.is_empty() {
                    forwards.remove(&(track, to));
                } else {
                    forwards.insert((track, to), (number, layers));
                }
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, message: Bytes) {
        let message = self.regions.as_understood(from, to, message);
        self.sent += 1;
        // A lost datagram holds the stream up for a round trip and more.
        let lost = self.rng.random_bool(0.03);
        let jitter = Duration::from_millis(self.rng.random_range(0..5));
        let link = self.links.get_mut(&pair(from, to)).expect("a pair");
        if !link.up {
            return;
        }
        let direction = usize::from(from > to);
        let held_up = if lost {
            2 * link.latency + Duration::from_millis(30)
        } else {
            Duration::ZERO
        };
        let arrival = (self.elapsed + link.latency + jitter + held_up).max(link.arrivals[direction]);
        link.arrivals[direction] = arrival;
        let generation = link.generation;
        self.after(
            arrival - self.elapsed,
            Happening::Message {
                from,
                to,
                generation,
                message,
            },
        );
    }

    fn room_input(&mut self, i: usize, name: &RoomName, input: RoomInput) {
        let now = self.now();
        let node = &mut self.nodes[i];
        let Some(state) = node.rooms.get_mut(name) else { return };
        match input {
            RoomInput::Life(life) => {
                state
                    .update_info(|info| {
                        info.sid = life.sid.clone();
                        info.incarnation = life.incarnation;
                    })
                    .expect("small");
                node.lives.insert(name.clone(), life);
                node.told += 1;
            }
            RoomInput::Delta { from, delta } => {
                let applied = state.apply(now, &from, delta).expect("this room");
                if let Some(news) = applied.news {
                    node.mesh.relay_delta(name, &from, &news);
                }
            }
            RoomInput::Digest { from, digest } => {
                for delta in state.delta_since(&digest) {
                    node.mesh.answer_digest(&from, delta);
                }
            }
            RoomInput::DigestWanted { to } => {
                let digest = state.digest();
                node.mesh.send_digest(name, &to, digest);
            }
            RoomInput::NodeHeard(other) => state.node_heard(now, &other),
            RoomInput::NodeSilent(other) => state.node_silent(now, &other),
            RoomInput::Wanted { track, layers } => drop(node.wanted.insert(track, layers)),
            RoomInput::Keyframe { track, layer } => node.keyframes.push((track, layer)),
            RoomInput::Data { from, data } => {
                node.data
                    .push((from, String::from_utf8_lossy(&data.packet).into_owned()));
            }
            RoomInput::Grades { .. } | RoomInput::Hold { .. } => {}
        }
    }
}
