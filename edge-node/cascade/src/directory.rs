//! The room directory: which edges have people in a room, without etcd. Rendezvous hashing over the live edges of the room's
//! home region names two home edges. Edges announce their rooms to both; the homes answer with the other edges and fix the
//! room's incarnation, so that two edges which open a room of one name at once end up in one room.
//!
//! All of it is soft state: announced again every [`REFRESH`] and whenever the view changes, forgotten after [`TTL`].
//! Homes that disagree (a partition, views that differ for a moment) converge on the higher (incarnation, sid).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use meridian_room::{NodeId, RoomName, RoomSid};
use rand::Rng;

use crate::mesh::Context;
use crate::rendezvous;
use crate::wire::{AnnouncedRoom, Body, EDGES_MAX, RoomEdge, RoomPeers, RoomQuery, TTL_MS_MAX};

/// How often an edge repeats its announcements.
pub const REFRESH: Duration = Duration::from_secs(10);
/// How long an announcement holds.
pub const TTL: Duration = Duration::from_secs(35);
/// How long the first home waits for the second to say whether the room lives already.
const ASK_PATIENCE: Duration = Duration::from_millis(500);
/// How long any other edge waits for the first home before it fixes an incarnation itself.
const STAND_IN_PATIENCE: Duration = Duration::from_millis(1_500);
/// Rooms one edge is home to.
const RECORDS_MAX: usize = 200_000;

/// A live edge, as the registry shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    pub node: NodeId,
    pub region: String,
}

/// Which life of a room's name: what the home edges fix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life {
    /// Never 0.
    pub incarnation: u64,
    pub sid: RoomSid,
}

pub(crate) struct Homes {
    pub(crate) first: NodeId,
    pub(crate) second: Option<NodeId>,
}

impl Homes {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &NodeId> {
        std::iter::once(&self.first).chain(&self.second)
    }
}

#[derive(Default)]
pub(crate) struct Directory {
    view: Vec<Edge>,
    viewed_at: Option<Instant>,
    records: BTreeMap<RoomName, Record>,
}

/// What this edge knows of a room as one of its homes.
struct Record {
    region: String,
    life: Option<Life>,
    /// Until when each edge's announcement holds.
    edges: BTreeMap<NodeId, Instant>,
    fixing: Option<Fixing>,
}

struct Fixing {
    /// Sid proposed by the first edge that announced the room.
    sid: RoomSid,
    until: Instant,
    /// Homes that asked meanwhile.
    askers: BTreeSet<NodeId>,
}

impl Directory {
    /// The two home edges of a room: of its region if any edge lives there, else of all. An edge that sees nobody is its own.
    pub(crate) fn homes(&self, own: &NodeId, room: &RoomName, region: &str) -> Homes {
        let regional = !region.is_empty() && self.view.iter().any(|edge| edge.region == region);
        let mut best: Vec<(u64, &NodeId)> = Vec::with_capacity(3);
        for edge in self.view.iter().filter(|edge| !regional || edge.region == region) {
            best.push((rendezvous::weight(room.as_str(), edge.node.as_str()), &edge.node));
            best.sort_unstable_by(|a, b| b.cmp(a));
            best.truncate(2);
        }
        let mut best = best.into_iter().map(|(_, node)| node.clone());
        Homes { first: best.next().unwrap_or_else(|| own.clone()), second: best.next() }
    }

    /// A new view of the live edges: rooms whose homes moved are handed over to the new ones.
    pub(crate) fn set_view(&mut self, ctx: &mut Context, now: Instant, mut edges: Vec<Edge>) {
        edges.sort_unstable();
        edges.dedup_by(|a, b| a.node == b.node);
        edges.truncate(EDGES_MAX);
        if edges == self.view {
            return;
        }
        self.view = edges;
        self.viewed_at = Some(now);
        for (room, record) in self.records.iter().filter(|(_, record)| record.life.is_some()) {
            for home in self.homes(&ctx.node, room, &record.region).iter() {
                if *home != ctx.node {
                    ctx.need(home);
                    ctx.send(home, Body::Peers(record.peers(now, room)));
                }
            }
        }
    }

    /// Neighbours this edge keeps links to as a home: those who announced rooms here, and the other homes of those rooms.
    pub(crate) fn needed(&self, own: &NodeId, needed: &mut BTreeSet<NodeId>) {
        for (room, record) in &self.records {
            needed.extend(record.edges.keys().cloned());
            needed.extend(self.homes(own, room, &record.region).iter().cloned());
        }
    }

    pub(crate) fn announced(&mut self, ctx: &mut Context, now: Instant, from: &NodeId, said: &AnnouncedRoom, ttl: u32) {
        let room = RoomName::from(said.room.as_str());
        let Some(record) = self.record(&room, &said.home_region) else { return };
        if record.edges.len() >= EDGES_MAX && !record.edges.contains_key(from) {
            return;
        }
        let ttl = Duration::from_millis(u64::from(ttl.min(TTL_MS_MAX)));
        let is_new = record.edges.insert(from.clone(), now + ttl).is_none();
        let adopted = record.adopt(life(said.incarnation, &said.sid));
        if record.life.is_none() {
            if record.fixing.is_none() {
                self.start_fixing(ctx, now, &room, &said.sid, None);
            }
            if let Some(record) = self.records.get(&room).filter(|record| record.life.is_none()) {
                record.tell_edges(ctx, now, &room);
            }
        } else if is_new || adopted {
            self.tell_all(ctx, now, &room);
        } else if record.life.as_ref().map(|life| life.incarnation) != Some(said.incarnation)
            || record.edges_hash() != said.edges_hash
        {
            let peers = record.peers(now, &room);
            ctx.send(from, Body::Peers(peers));
        }
    }

    pub(crate) fn left(&mut self, ctx: &mut Context, now: Instant, from: &NodeId, room: &RoomName) {
        let Some(record) = self.records.get_mut(room) else { return };
        if record.edges.remove(from).is_some() {
            if record.edges.is_empty() {
                self.records.remove(room);
            } else {
                record.tell_edges(ctx, now, room);
            }
        }
    }

    pub(crate) fn asked(&mut self, ctx: &mut Context, now: Instant, from: &NodeId, query: &RoomQuery) {
        let room = RoomName::from(query.room.as_str());
        let homes = self.homes(&ctx.node, &room, &query.home_region);
        let known = self.records.get(&room);
        if let Some(record) = known.filter(|record| record.life.is_some()) {
            return ctx.send(from, Body::Peers(record.peers(now, &room)));
        }
        if homes.first != ctx.node {
            let nothing = RoomPeers { room: query.room.clone(), ..RoomPeers::default() };
            return ctx.send(from, Body::Peers(nothing));
        }
        let Some(record) = self.record(&room, &query.home_region) else { return };
        match &mut record.fixing {
            Some(fixing) => {
                fixing.askers.insert(from.clone());
                // The other home asks too: it knows nothing either.
                if homes.second.as_ref() == Some(from) {
                    self.fix(ctx, now, &room);
                }
            }
            None => self.start_fixing(ctx, now, &room, &query.sid, Some(from)),
        }
    }

    /// Another home's knowledge of a room.
    pub(crate) fn told(&mut self, ctx: &mut Context, now: Instant, from: &NodeId, peers: &RoomPeers) {
        let room = RoomName::from(peers.room.as_str());
        let homes = self.homes(&ctx.node, &room, &peers.home_region);
        let is_home = homes.iter().any(|home| *home == ctx.node);
        if !self.records.contains_key(&room) && (!is_home || peers.edges.is_empty()) {
            return;
        }
        let Some(record) = self.record(&room, &peers.home_region) else { return };
        let mut news = record.adopt(life(peers.incarnation, &peers.sid));
        for edge in &peers.edges {
            let node = NodeId::from(edge.node.as_str());
            let until = now + Duration::from_millis(u64::from(edge.ttl_ms.min(TTL_MS_MAX)));
            let full = record.edges.len() >= EDGES_MAX;
            match record.edges.get_mut(&node) {
                Some(held) => *held = until.max(*held),
                None if !full => {
                    record.edges.insert(node, until);
                    news = true;
                }
                None => {}
            }
        }
        let asked_in_vain = peers.incarnation == 0 && homes.second.as_ref() == Some(from) && homes.first == ctx.node;
        if record.life.is_none() && record.fixing.is_some() && asked_in_vain {
            return self.fix(ctx, now, &room);
        }
        if record.life.is_some() {
            let askers = record.fixing.take().map(|fixing| fixing.askers).unwrap_or_default();
            for asker in askers {
                ctx.send(&asker, Body::Peers(record.peers(now, &room)));
            }
        }
        // Homes do not pass on what homes said, or they would never stop.
        if news {
            record.tell_edges(ctx, now, &room);
        }
    }

    pub(crate) fn tick(&mut self, ctx: &mut Context, now: Instant) {
        let mut due = Vec::new();
        self.records.retain(|room, record| {
            let before = record.edges.len();
            record.edges.retain(|_, until| *until > now);
            match &record.fixing {
                Some(fixing) if fixing.until <= now => due.push(room.clone()),
                _ => {}
            }
            if record.edges.len() < before && !record.edges.is_empty() {
                record.tell_edges(ctx, now, room);
            }
            !record.edges.is_empty() || record.fixing.is_some()
        });
        for room in due {
            self.fix(ctx, now, &room);
        }
    }

    fn record(&mut self, room: &RoomName, region: &str) -> Option<&mut Record> {
        if self.records.len() >= RECORDS_MAX && !self.records.contains_key(room) {
            return None;
        }
        Some(self.records.entry(room.clone()).or_insert_with(|| Record {
            region: region.to_owned(),
            life: None,
            edges: BTreeMap::new(),
            fixing: None,
        }))
    }

    /// An incarnation is due: ask the other home first, unless the view is so old that every living room has announced itself.
    fn start_fixing(&mut self, ctx: &mut Context, now: Instant, room: &RoomName, sid: &str, asker: Option<&NodeId>) {
        let Some(record) = self.records.get_mut(room) else { return };
        let region = record.region.clone();
        let sid = RoomSid::new(sid);
        record.fixing = Some(Fixing { sid: sid.clone(), until: now, askers: asker.into_iter().cloned().collect() });
        let homes = self.homes(&ctx.node, room, &region);
        let (other, patience) = match homes.second {
            Some(second) if homes.first == ctx.node => (second, ASK_PATIENCE),
            None if homes.first == ctx.node => return self.fix(ctx, now, room),
            _ => (homes.first, STAND_IN_PATIENCE),
        };
        let is_first = patience == ASK_PATIENCE;
        let settled = self.viewed_at.is_none_or(|at| now.duration_since(at) >= TTL);
        if is_first && (settled || asker == Some(&other)) {
            return self.fix(ctx, now, room);
        }
        if let Some(Record { fixing: Some(fixing), .. }) = self.records.get_mut(room) {
            fixing.until = now + patience;
        }
        ctx.need(&other);
        let query = RoomQuery { room: room.as_str().to_owned(), home_region: region, sid: sid.as_str().to_owned() };
        ctx.send(&other, Body::Query(query));
    }

    fn fix(&mut self, ctx: &mut Context, now: Instant, room: &RoomName) {
        let Some(record) = self.records.get_mut(room) else { return };
        let Some(fixing) = record.fixing.take() else { return };
        // Random low bits: two homes that cannot hear each other fix different numbers, and the higher one will win.
        let incarnation = (1 << 32) | u64::from(ctx.rng.random::<u32>());
        record.adopt(Some(Life { incarnation, sid: fixing.sid }));
        for asker in &fixing.askers {
            ctx.send(asker, Body::Peers(record.peers(now, room)));
        }
        self.tell_all(ctx, now, room);
    }

    /// Every edge with people in the room, and the other home.
    fn tell_all(&mut self, ctx: &mut Context, now: Instant, room: &RoomName) {
        let Some(record) = self.records.get(room) else { return };
        record.tell_edges(ctx, now, room);
        for home in self.homes(&ctx.node, room, &record.region).iter() {
            if *home != ctx.node && !record.edges.contains_key(home) {
                ctx.need(home);
                ctx.send(home, Body::Peers(record.peers(now, room)));
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }
}

impl Record {
    /// Takes over a life that outranks the one held; true if it did.
    fn adopt(&mut self, life: Option<Life>) -> bool {
        let outranks = life > self.life;
        if outranks {
            self.life = life;
        }
        outranks
    }

    fn peers(&self, now: Instant, room: &RoomName) -> RoomPeers {
        let ttl_ms = |until: Instant| u32::try_from(until.saturating_duration_since(now).as_millis()).unwrap_or(TTL_MS_MAX);
        RoomPeers {
            room: room.as_str().to_owned(),
            home_region: self.region.clone(),
            sid: self.life.as_ref().map_or(String::new(), |life| life.sid.as_str().to_owned()),
            incarnation: self.life.as_ref().map_or(0, |life| life.incarnation),
            edges: self
                .edges
                .iter()
                .map(|(node, until)| RoomEdge { node: node.as_str().to_owned(), ttl_ms: ttl_ms(*until) })
                .collect(),
        }
    }

    fn tell_edges(&self, ctx: &mut Context, now: Instant, room: &RoomName) {
        let message = Body::Peers(self.peers(now, room));
        for edge in self.edges.keys() {
            ctx.send(edge, message.clone());
        }
    }

    fn edges_hash(&self) -> u64 {
        edges_hash(self.edges.keys())
    }
}

/// Does not depend on order, so both sides may hold their sets as they like.
pub(crate) fn edges_hash<'a>(edges: impl Iterator<Item = &'a NodeId>) -> u64 {
    edges.fold(0, |hash, node| hash ^ rendezvous::weight("", node.as_str()))
}

pub(crate) fn life(incarnation: u64, sid: &str) -> Option<Life> {
    (incarnation != 0 && !sid.is_empty()).then(|| Life { incarnation, sid: RoomSid::new(sid) })
}
