//! The rooms this edge has people in: which other edges share them, and how state moves between those edges.
//!
//! Changes go to every linked edge of the room at once; digests go round once a second and repair whatever was missed. Each
//! edge tells the others whom it hears, so that what A cannot send to C goes through a B that hears both: one broken pair
//! hides nobody. What the state means is `meridian_room::Room`'s business.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use meridian_room::{NodeId, RoomDelta, RoomDigest, RoomName};
use rand::Rng;
use rand::seq::IteratorRandom;

use crate::directory::{self, Directory, Life, Proposal, REFRESH, TTL};
use crate::mesh::{Context, Output, RoomInput};
use crate::rendezvous;
use crate::view::Homes;
use crate::wire::{
    self, ANNOUNCED_MAX, AnnouncedRoom, Body, Content, Digest, EDGES_MAX, Hears, RoomAnnounce, RoomCast, RoomLeave,
    RoomPeers,
};

/// How often a room's digest goes to some of its edges.
const DIGEST_EVERY: Duration = Duration::from_secs(1);
/// To how many of them: a difference between any two edges then lasts a few rounds, whatever the room's size.
const DIGEST_FANOUT: usize = 3;

/// How long an edge waits for the homes before it gives a room its life by itself. Should they fix another meanwhile, the
/// elder will win.
const HOMELESS_PATIENCE: Duration = Duration::from_secs(3);

/// A room with people on this edge.
pub(crate) struct RoomState {
    region: String,
    homes: Homes,
    /// What this edge calls the room until its life is fixed.
    proposal: Proposal,
    life: Option<Life>,
    joined: Instant,
    pub(crate) members: BTreeMap<NodeId, Member>,
    next_announce: Instant,
    next_digest: Instant,
}

/// Another edge of the room.
#[derive(Default)]
pub(crate) struct Member {
    /// Until when the directory's word holds; a link to it outlasts that.
    expires: Option<Instant>,
    /// Whom it has links to, as it last said, and how far away those are.
    pub(crate) hears: Hearing,
}

/// Edges that one edge has links to, with the latency one way where it was measured.
#[derive(Default)]
pub(crate) struct Hearing(BTreeMap<NodeId, Option<Duration>>);

impl Hearing {
    pub(crate) fn of(nodes: &[String], latencies_us: &[u32]) -> Hearing {
        let measured = |us: &u32| (*us > 0).then(|| Duration::from_micros(u64::from(*us)));
        let latencies = latencies_us.iter().map(measured).chain(std::iter::repeat(None));
        let nodes = nodes.iter().map(|node| NodeId::from(node.as_str()));
        Hearing(nodes.zip(latencies).collect())
    }

    pub(crate) fn contains(&self, node: &str) -> bool {
        self.0.contains_key(node)
    }

    pub(crate) fn latency(&self, node: &NodeId) -> Option<Duration> {
        self.0.get(node).copied().flatten()
    }
}

#[derive(Default)]
pub(crate) struct Rooms {
    joined: BTreeMap<RoomName, RoomState>,
}

impl Rooms {
    pub(crate) fn get(&self, room: &RoomName) -> Option<&RoomState> {
        self.joined.get(room)
    }

    pub(crate) fn len(&self) -> usize {
        self.joined.len()
    }

    pub(crate) fn join(
        &mut self,
        ctx: &mut Context,
        directory: &Directory,
        now: Instant,
        room: &RoomName,
        region: &str,
        proposal: Proposal,
    ) {
        if self.joined.contains_key(room) {
            return;
        }
        let spread = DIGEST_EVERY.mul_f64(ctx.rng.random());
        let state = RoomState {
            region: region.to_owned(),
            homes: directory.homes(&ctx.node, room, region),
            proposal,
            life: None,
            joined: now,
            members: BTreeMap::new(),
            next_announce: now + REFRESH.mul_f64(ctx.rng.random_range(0.7..1.0)),
            next_digest: now + spread,
        };
        let said = state.announcement(&ctx.node, room);
        for home in state.homes.iter() {
            ctx.need(home);
            ctx.send(home, announce(vec![said.clone()]));
        }
        self.joined.insert(room.clone(), state);
    }

    pub(crate) fn leave(&mut self, ctx: &mut Context, room: &RoomName) {
        let Some(state) = self.joined.remove(room) else { return };
        let mut told: BTreeSet<NodeId> = state.members.into_keys().collect();
        told.extend(state.homes.iter().cloned());
        for node in told {
            ctx.send(&node, leave(room));
        }
    }

    /// The view changed: rooms announce themselves to homes that are new to them.
    pub(crate) fn view_changed(&mut self, ctx: &mut Context, directory: &Directory) {
        let mut batches = Batches::new();
        for (room, state) in &mut self.joined {
            let homes = directory.homes(&ctx.node, room, &state.region);
            let former = std::mem::replace(&mut state.homes, homes);
            for home in state.homes.iter().filter(|home| !former.contains(home)) {
                batches
                    .entry(home.clone())
                    .or_default()
                    .push(state.announcement(&ctx.node, room));
            }
        }
        send_batches(ctx, batches);
    }

    fn refresh(&mut self, ctx: &mut Context, now: Instant) {
        let mut batches = Batches::new();
        for (room, state) in self.joined.iter_mut().filter(|(_, state)| state.next_announce <= now) {
            state.next_announce = now + REFRESH.mul_f64(ctx.rng.random_range(0.7..1.0));
            for home in state.homes.iter() {
                batches
                    .entry(home.clone())
                    .or_default()
                    .push(state.announcement(&ctx.node, room));
            }
        }
        send_batches(ctx, batches);
    }

    /// Returns the rooms the new link concerns.
    pub(crate) fn link_up(&mut self, ctx: &mut Context, node: &NodeId) -> Vec<RoomName> {
        let mut said = Vec::new();
        let mut shared = Vec::new();
        for (room, state) in &mut self.joined {
            if state.homes.contains(node) {
                said.push(state.announcement(&ctx.node, room));
            }
            if state.members.contains_key(node) {
                shared.push(room.clone());
                state.greet(ctx, room, node);
            }
        }
        for rooms in said.chunks(ANNOUNCED_MAX) {
            ctx.send(node, announce(rooms.to_vec()));
        }
        shared
    }

    /// Its people are not gone: others may hear it. Returns the rooms the lost link concerns.
    pub(crate) fn link_down(&mut self, ctx: &mut Context, now: Instant, node: &NodeId) -> Vec<RoomName> {
        let mut shared = Vec::new();
        for (room, state) in &mut self.joined {
            if let Some(member) = state.members.get_mut(node) {
                member.hears = Hearing::default();
                // Heard a moment ago: the directory will say whether it is still there.
                member.expires = Some(member.expires.map_or(now + TTL, |at| at.max(now + TTL)));
                ctx.room(room, RoomInput::NodeSilent(node.clone()));
                state.tell_hears(ctx, room);
                shared.push(room.clone());
            }
        }
        shared
    }

    /// What a home edge says: the room's life and its edges. True if the members changed.
    pub(crate) fn peers(&mut self, ctx: &mut Context, now: Instant, peers: &RoomPeers) -> bool {
        let room = RoomName::from(peers.room.as_str());
        let Some(state) = self.joined.get_mut(&room) else {
            return false;
        };
        let life = directory::life(peers.incarnation, &peers.sid);
        if life > state.life {
            state.life = life.clone();
            if let Some(life) = life {
                ctx.room(&room, RoomInput::Life(life));
            }
        }
        let mut changed = false;
        for edge in &peers.edges {
            let until = now + Duration::from_millis(u64::from(edge.ttl_ms)).min(TTL);
            changed |= state.admit(ctx, &room, &NodeId::from(edge.node.as_str()), Some(until));
        }
        changed
    }

    /// True if it was a member of the room.
    pub(crate) fn left(&mut self, ctx: &mut Context, room: &RoomName, node: &NodeId) -> bool {
        let Some(state) = self.joined.get_mut(room) else {
            return false;
        };
        let was = state.members.remove(node).is_some();
        if was {
            ctx.room(room, RoomInput::NodeSilent(node.clone()));
            state.tell_hears(ctx, room);
        }
        was
    }

    /// `from` speaks of a room: it has people there. False, and answered so, if this edge has not.
    pub(crate) fn heard(&mut self, ctx: &mut Context, room: &RoomName, from: &NodeId) -> bool {
        match self.joined.get_mut(room) {
            Some(state) => {
                state.admit(ctx, room, from, None);
                true
            }
            None => {
                ctx.send(from, leave(room));
                false
            }
        }
    }

    /// True if it changes whom we can reach through `from`.
    pub(crate) fn hears(&mut self, room: &RoomName, from: &NodeId, hears: Hearing) -> bool {
        let Some(member) = self.joined.get_mut(room).and_then(|state| state.members.get_mut(from)) else {
            return false;
        };
        let changed = !member.hears.0.keys().eq(hears.0.keys());
        member.hears = hears;
        changed
    }

    pub(crate) fn repeat(&self, ctx: &mut Context, room: &RoomName) {
        let Some(state) = self.joined.get(room) else { return };
        if let Some(life) = state.life.clone() {
            ctx.room(room, RoomInput::Life(life));
        }
        for member in state.members.keys() {
            let heard = ctx.is_linked(member);
            let input = if heard {
                RoomInput::NodeHeard
            } else {
                RoomInput::NodeSilent
            };
            ctx.room(room, input(member.clone()));
        }
        let to: Vec<NodeId> = state.linked(ctx).cloned().collect();
        if !to.is_empty() {
            ctx.room(room, RoomInput::DigestWanted { to });
        }
    }

    pub(crate) fn send_delta(&self, ctx: &mut Context, room: &RoomName, delta: RoomDelta) {
        let Some(state) = self.joined.get(room) else { return };
        let linked: Vec<NodeId> = state.linked(ctx).cloned().collect();
        ctx.send_many(&linked, Body::Delta(delta));
    }

    /// What `from` told and was new here: to those who do not hear its writers.
    pub(crate) fn relay_delta(&self, ctx: &mut Context, room: &RoomName, from: &NodeId, news: &RoomDelta) {
        let Some(state) = self.joined.get(room) else { return };
        let linked: Vec<NodeId> = state.linked(ctx).filter(|node| *node != from).cloned().collect();
        for node in linked {
            let Some(member) = state.members.get(&node).filter(|member| !member.hears.0.is_empty()) else {
                continue;
            };
            let unheard = |writer: &str| writer != node.as_str() && !member.hears.contains(writer);
            let writers: Vec<_> = news
                .writers
                .iter()
                .filter(|writer| unheard(&writer.node))
                .cloned()
                .collect();
            if !writers.is_empty() || (news.info.is_some() && !member.hears.contains(from.as_str())) {
                ctx.send(
                    &node,
                    Body::Delta(RoomDelta {
                        writers,
                        ..news.clone()
                    }),
                );
            }
        }
    }

    pub(crate) fn send_digest(&self, ctx: &mut Context, room: &RoomName, to: &[NodeId], digest: RoomDigest) {
        let Some(state) = self.joined.get(room) else { return };
        let (hears, latencies_us) = state.hearing(ctx);
        ctx.send_many(
            to,
            Body::Digest(Digest {
                digest: Some(digest),
                hears,
                latencies_us,
            }),
        );
    }

    /// To `targets`, or to every edge of the room. Those without a link get it through one that hears them; what
    /// nobody hears is lost, and counted.
    pub(crate) fn cast(&self, ctx: &mut Context, room: &RoomName, targets: Option<&[NodeId]>, content: Content) {
        let Some(state) = self.joined.get(room) else { return };
        let mut relays: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
        let mut direct: BTreeSet<NodeId> = BTreeSet::new();
        let wanted = |node: &&NodeId| targets.is_none_or(|targets| targets.contains(node));
        for node in state.members.keys().filter(wanted) {
            if ctx.is_linked(node) {
                direct.insert(node.clone());
            } else if let Some(relay) = state.relays_to(ctx, node, room.as_str()).into_iter().next() {
                relays.entry(relay).or_default().push(node.as_str().to_owned());
            } else {
                ctx.counters.unreachable += 1;
            }
        }
        let plain: Vec<NodeId> = direct
            .iter()
            .filter(|node| !relays.contains_key(*node))
            .cloned()
            .collect();
        let cast = RoomCast {
            room: room.as_str().to_owned(),
            content: Some(content),
            ..RoomCast::default()
        };
        for (relay, relay_to) in relays {
            let relay_only = !direct.contains(&relay);
            ctx.send(
                &relay,
                Body::Cast(RoomCast {
                    relay_to,
                    relay_only,
                    ..cast.clone()
                }),
            );
        }
        ctx.send_many(&plain, Body::Cast(cast));
    }

    pub(crate) fn handle_cast(&mut self, ctx: &mut Context, from: &NodeId, mut cast: RoomCast) {
        let room = RoomName::from(cast.room.as_str());
        let Some(state) = self.joined.get(&room) else { return };
        let origin = if cast.origin.is_empty() {
            from.clone()
        } else {
            NodeId::from(cast.origin.as_str())
        };
        let relay_to = std::mem::take(&mut cast.relay_to);
        let deliver = !std::mem::take(&mut cast.relay_only);
        // One hop: what was relayed once is not relayed again.
        if cast.origin.is_empty() {
            let onward: Vec<NodeId> = relay_to
                .iter()
                .map(|node| NodeId::from(node.as_str()))
                .filter(|node| state.members.contains_key(node) && ctx.is_linked(node) && node != from)
                .collect();
            cast.origin = from.as_str().to_owned();
            ctx.send_many(&onward, Body::Cast(cast.clone()));
        }
        match cast.content {
            Some(Content::Data(data)) if deliver => ctx.room(&room, RoomInput::Data { from: origin, data }),
            Some(Content::Hold(hold)) if deliver => {
                let pause = Duration::from_millis(u64::from(hold.pause_ms));
                ctx.room(&room, RoomInput::Hold { from: origin, pause });
            }
            Some(Content::Grades(grades)) if deliver => {
                ctx.room(
                    &room,
                    RoomInput::Grades {
                        from: origin,
                        grades: grades.grades,
                    },
                );
            }
            _ => {}
        }
    }

    /// Digests, refreshed announcements, members that were not heard of again. Returns rooms that lost members.
    pub(crate) fn tick(&mut self, ctx: &mut Context, now: Instant) -> Vec<RoomName> {
        let mut changed = Vec::new();
        for (room, state) in &mut self.joined {
            if state.life.is_none() && now.duration_since(state.joined) >= HOMELESS_PATIENCE {
                let life = Life::fix(&state.proposal, &mut ctx.rng);
                state.life = Some(life.clone());
                state.next_announce = now;
                ctx.room(room, RoomInput::Life(life));
            }
            let before = state.members.len();
            let links = &ctx.links;
            state
                .members
                .retain(|node, member| links.contains(node) || member.expires.is_some_and(|at| at > now));
            if state.members.len() < before {
                changed.push(room.clone());
            }
            if state.next_digest <= now {
                state.next_digest = now + DIGEST_EVERY;
                let linked: Vec<NodeId> = state.linked(ctx).cloned().collect();
                let to = linked.into_iter().choose_multiple(&mut ctx.rng, DIGEST_FANOUT);
                if !to.is_empty() {
                    ctx.room(room, RoomInput::DigestWanted { to });
                }
            }
        }
        self.refresh(ctx, now);
        changed
    }

    pub(crate) fn needed(&self, needed: &mut BTreeSet<NodeId>) {
        for state in self.joined.values() {
            needed.extend(state.members.keys().chain(state.homes.iter()).cloned());
        }
    }
}

impl RoomState {
    pub(crate) fn linked<'a>(&'a self, ctx: &'a Context) -> impl Iterator<Item = &'a NodeId> {
        self.members.keys().filter(|node| ctx.is_linked(node))
    }

    /// The linked edges, and how far away each is.
    fn hearing(&self, ctx: &Context) -> (Vec<String>, Vec<u32>) {
        let told = |node: &NodeId| (node.as_str().to_owned(), ctx.measures.latency_us(node));
        self.linked(ctx).map(told).unzip()
    }

    /// The linked edges that hear `target`, in the order that everybody would choose for `key`.
    pub(crate) fn relays_to(&self, ctx: &Context, target: &NodeId, key: &str) -> Vec<NodeId> {
        let key = rendezvous::hash(key);
        let mut relays: Vec<&NodeId> = self
            .members
            .iter()
            .filter(|(node, member)| *node != target && member.hears.contains(target.as_str()) && ctx.is_linked(node))
            .map(|(node, _)| node)
            .collect();
        relays.sort_unstable_by_key(|node| {
            (
                std::cmp::Reverse(rendezvous::weight(key, rendezvous::hash(node.as_str()))),
                *node,
            )
        });
        relays.into_iter().cloned().collect()
    }

    /// True if the edge is new in the room.
    fn admit(&mut self, ctx: &mut Context, room: &RoomName, node: &NodeId, until: Option<Instant>) -> bool {
        if *node == ctx.node {
            return false;
        }
        if let Some(member) = self.members.get_mut(node) {
            member.expires = member.expires.max(until);
            return false;
        }
        if self.members.len() >= EDGES_MAX {
            return false;
        }
        self.members.insert(
            node.clone(),
            Member {
                expires: until,
                hears: Hearing::default(),
            },
        );
        ctx.need(node);
        if ctx.is_linked(node) {
            self.greet(ctx, room, node);
        }
        true
    }

    /// A link to another edge of the room: compare states at once.
    fn greet(&self, ctx: &mut Context, room: &RoomName, node: &NodeId) {
        ctx.room(room, RoomInput::NodeHeard(node.clone()));
        ctx.room(room, RoomInput::DigestWanted { to: vec![node.clone()] });
        self.tell_hears(ctx, room);
    }

    fn tell_hears(&self, ctx: &mut Context, room: &RoomName) {
        let linked: Vec<NodeId> = self.linked(ctx).cloned().collect();
        let (nodes, latencies_us) = self.hearing(ctx);
        ctx.send_many(
            &linked,
            Body::Hears(Hears {
                room: room.as_str().to_owned(),
                nodes,
                latencies_us,
            }),
        );
    }

    fn announcement(&self, own: &NodeId, room: &RoomName) -> AnnouncedRoom {
        let (sid, incarnation) = self
            .life
            .as_ref()
            .map_or((&self.proposal.sid, 0), |life| (&life.sid, life.incarnation));
        AnnouncedRoom {
            room: room.as_str().to_owned(),
            home_region: self.region.clone(),
            sid: sid.as_str().to_owned(),
            incarnation,
            edges_hash: directory::edges_hash(self.members.keys().chain([own])),
            created_at_ms: self.proposal.created_at_ms,
        }
    }
}

/// Announcements by home edge.
type Batches = BTreeMap<NodeId, Vec<AnnouncedRoom>>;

fn send_batches(ctx: &mut Context, batches: Batches) {
    for (home, rooms) in batches {
        ctx.need(&home);
        for rooms in rooms.chunks(ANNOUNCED_MAX) {
            ctx.send(&home, announce(rooms.to_vec()));
        }
    }
}

fn announce(rooms: Vec<AnnouncedRoom>) -> Body {
    Body::Announce(RoomAnnounce {
        rooms,
        ttl_ms: TTL.as_millis() as u32,
    })
}

fn leave(room: &RoomName) -> Body {
    Body::Leave(RoomLeave {
        room: room.as_str().to_owned(),
    })
}

impl Context {
    pub(crate) fn room(&mut self, room: &RoomName, input: RoomInput) {
        self.out.push_back(Output::Room {
            room: room.clone(),
            input,
        });
    }

    /// One encoding for all of them.
    pub(crate) fn send_many(&mut self, to: &[NodeId], body: Body) {
        let Some((last, rest)) = to.split_last() else { return };
        if rest.is_empty() {
            return self.send(last, body);
        }
        let message = wire::encode(body);
        for node in to.iter().filter(|node| self.links.contains(*node)) {
            self.out.push_back(Output::Send {
                to: node.clone(),
                message: message.clone(),
            });
        }
    }
}
