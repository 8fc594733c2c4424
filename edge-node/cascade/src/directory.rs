//! The room directory: which edges have people in a room, without etcd. Rendezvous hashing over the live edges of the room's
//! home region names two home edges. Edges announce their rooms to both; the homes answer with the other edges and fix the
//! room's incarnation, so that two edges which open a room of one name at once end up in one room.
//!
//! All of it is soft state: announced again every [`REFRESH`] and whenever the view changes, forgotten after [`TTL`].
//! Homes that disagree (a partition, views that differ for a moment) converge on the higher (incarnation, sid), and
//! incarnations are such that the room that was opened earlier has the higher one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use meridian_room::{NodeId, RoomName, RoomSid};
use rand::Rng;

use crate::mesh::Context;
use crate::rendezvous;
use crate::view::{Edge, Homes, View};
use crate::wire::{AnnouncedRoom, Body, EDGES_MAX, RoomEdge, RoomPeers, RoomQuery, TTL_MS_MAX};

/// How often an edge repeats its announcements.
pub const REFRESH: Duration = Duration::from_secs(10);
/// How long an announcement holds.
pub const TTL: Duration = Duration::from_secs(35);
/// How long the first home waits for the second to say whether the room lives already.
const ASK_PATIENCE: Duration = Duration::from_millis(1_000);
/// How long any other edge waits for the first home before it fixes an incarnation itself.
const STAND_IN_PATIENCE: Duration = Duration::from_millis(2_000);
/// Rooms one edge is home to.
const RECORDS_MAX: usize = 200_000;

/// Which life of a room's name: what the home edges fix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life {
    /// Never 0.
    pub incarnation: u64,
    pub sid: RoomSid,
}

impl Life {
    /// Creation times are counted down from here, in the upper bits: the elder outranks the younger. Clocks decide nothing
    /// but which of two rooms keeps its sid when they turn out to be one.
    const EPOCH_END_MS: u64 = 1 << 44;

    pub(crate) fn fix(proposal: &Proposal, rng: &mut impl Rng) -> Life {
        let created = u64::try_from(proposal.created_at_ms)
            .unwrap_or(0)
            .clamp(1, Self::EPOCH_END_MS - 1);
        let incarnation = (Self::EPOCH_END_MS - created) << 16 | u64::from(rng.random::<u16>());
        Life {
            incarnation,
            sid: proposal.sid.clone(),
        }
    }

    /// When the room was opened, in milliseconds since 1970: the same on every edge.
    pub fn created_at_ms(&self) -> i64 {
        (Self::EPOCH_END_MS.saturating_sub(self.incarnation >> 16)) as i64
    }
}

/// What an edge that opens a room would call it.
#[derive(Clone, Debug)]
pub(crate) struct Proposal {
    pub(crate) sid: RoomSid,
    pub(crate) created_at_ms: i64,
}

#[derive(Default)]
pub(crate) struct Directory {
    view: View,
    records: BTreeMap<RoomName, Record>,
}

/// What this edge knows of a room as one of its homes.
struct Record {
    region: String,
    homes: Homes,
    life: Option<Life>,
    edges: BTreeMap<NodeId, Announced>,
    fixing: Option<Fixing>,
}

struct Announced {
    until: Instant,
    /// The home that passed it on; `None`: the edge itself. Only first-hand news goes to other homes, or an edge that left
    /// would live on between them.
    via: Option<NodeId>,
}

struct Fixing {
    /// Of the first edge that announced the room.
    proposal: Proposal,
    until: Instant,
    /// Homes that asked meanwhile.
    askers: BTreeSet<NodeId>,
}

impl Directory {
    pub(crate) fn homes(&self, own: &NodeId, room: &RoomName, region: &str) -> Homes {
        self.view.homes(own, room, region)
    }

    /// A new view of the live edges: rooms whose homes moved are handed over to the new ones. False if it is the old view.
    pub(crate) fn set_view(&mut self, ctx: &mut Context, now: Instant, edges: Vec<Edge>) -> bool {
        if !self.view.replace(now, edges) {
            return false;
        }
        let mut unfixed = Vec::new();
        for (room, record) in &mut self.records {
            let homes = self.view.homes(&ctx.node, room, &record.region);
            let former = std::mem::replace(&mut record.homes, homes);
            if record.fixing.is_some() {
                unfixed.push(room.clone());
            } else {
                let fresh = record
                    .homes
                    .iter()
                    .filter(|home| !former.contains(home) && **home != ctx.node);
                for home in fresh.cloned().collect::<Vec<_>>() {
                    ctx.need(&home);
                    ctx.send(&home, Body::Peers(record.first_hand(now, room)));
                }
            }
        }
        for room in unfixed {
            self.pursue(ctx, now, &room);
        }
        true
    }

    /// Neighbours this edge keeps links to as a home: those who announced rooms here, and the other homes of those rooms.
    pub(crate) fn needed(&self, needed: &mut BTreeSet<NodeId>) {
        for record in self.records.values() {
            needed.extend(record.edges.keys().chain(record.homes.iter()).cloned());
        }
    }

    pub(crate) fn announced(&mut self, ctx: &mut Context, now: Instant, from: &NodeId, said: &AnnouncedRoom, ttl: u32) {
        let room = RoomName::from(said.room.as_str());
        let Some(record) = self.record(ctx, &room, &said.home_region) else {
            return;
        };
        if record.edges.len() >= EDGES_MAX && !record.edges.contains_key(from) {
            return;
        }
        let ttl = Duration::from_millis(u64::from(ttl.min(TTL_MS_MAX)));
        let held = record.edges.insert(
            from.clone(),
            Announced {
                until: now + ttl,
                via: None,
            },
        );
        let is_new = held.is_none_or(|held| held.via.is_some());
        let adopted = record.adopt(life(said.incarnation, &said.sid));
        if record.life.is_none() {
            if record.fixing.is_none() {
                let proposal = Proposal {
                    sid: RoomSid::new(&*said.sid),
                    created_at_ms: said.created_at_ms,
                };
                self.start_fixing(ctx, now, &room, proposal, None);
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
        let Some(record) = self.records.get_mut(room) else {
            return;
        };
        if record.edges.remove(from).is_some() {
            self.tell_homes(ctx, now, room);
            if self.records.get(room).is_some_and(|record| record.edges.is_empty()) {
                self.records.remove(room);
            }
        }
    }

    pub(crate) fn asked(&mut self, ctx: &mut Context, now: Instant, from: &NodeId, query: &RoomQuery) {
        let room = RoomName::from(query.room.as_str());
        let homes = self.homes(&ctx.node, &room, &query.home_region);
        let known = self.records.get(&room);
        if let Some(record) = known.filter(|record| record.life.is_some()) {
            return ctx.send(from, Body::Peers(record.first_hand(now, &room)));
        }
        if !homes.is_first(&ctx.node) {
            let nothing = RoomPeers {
                room: query.room.clone(),
                to_home: true,
                ..RoomPeers::default()
            };
            return ctx.send(from, Body::Peers(nothing));
        }
        let Some(record) = self.record(ctx, &room, &query.home_region) else {
            return;
        };
        match &mut record.fixing {
            Some(fixing) => {
                fixing.askers.insert(from.clone());
                // The other home asks too: it knows nothing either.
                if homes.is_second(from) {
                    self.fix(ctx, now, &room);
                }
            }
            None => {
                let proposal = Proposal {
                    sid: RoomSid::new(&*query.sid),
                    created_at_ms: query.created_at_ms,
                };
                self.start_fixing(ctx, now, &room, proposal, Some(from));
            }
        }
    }

    /// Another home's knowledge of a room.
    pub(crate) fn told(&mut self, ctx: &mut Context, now: Instant, from: &NodeId, peers: &RoomPeers) {
        let room = RoomName::from(peers.room.as_str());
        let homes = self.homes(&ctx.node, &room, &peers.home_region);
        let is_home = homes.contains(&ctx.node);
        let worth_a_record = is_home && peers.to_home && !peers.edges.is_empty();
        if !self.records.contains_key(&room) && !worth_a_record {
            return;
        }
        let Some(record) = self.record(ctx, &room, &peers.home_region) else {
            return;
        };
        let adopted = record.adopt(life(peers.incarnation, &peers.sid));
        let news = peers.to_home && record.merge(now, from, peers);
        let asked_in_vain = peers.to_home && homes.is_second(from) && homes.is_first(&ctx.node);
        if record.life.is_none() && record.fixing.is_some() && asked_in_vain {
            return self.fix(ctx, now, &room);
        }
        if record.life.is_some() {
            let askers = record.fixing.take().map(|fixing| fixing.askers).unwrap_or_default();
            for asker in askers {
                ctx.send(&asker, Body::Peers(record.first_hand(now, &room)));
            }
        }
        if news || adopted {
            record.tell_edges(ctx, now, &room);
        }
        if record.edges.is_empty() && record.fixing.is_none() {
            self.records.remove(&room);
        }
    }

    pub(crate) fn tick(&mut self, ctx: &mut Context, now: Instant) {
        let mut due = Vec::new();
        self.records.retain(|room, record| {
            record.edges.retain(|_, announced| announced.until > now);
            if record.fixing.as_ref().is_some_and(|fixing| fixing.until <= now) {
                due.push(room.clone());
            }
            !record.edges.is_empty() || record.fixing.is_some()
        });
        for room in due {
            self.fix(ctx, now, &room);
        }
    }

    fn record(&mut self, ctx: &Context, room: &RoomName, region: &str) -> Option<&mut Record> {
        if self.records.len() >= RECORDS_MAX && !self.records.contains_key(room) {
            return None;
        }
        Some(self.records.entry(room.clone()).or_insert_with(|| Record {
            region: region.to_owned(),
            homes: self.view.homes(&ctx.node, room, region),
            life: None,
            edges: BTreeMap::new(),
            fixing: None,
        }))
    }

    /// An incarnation is due: ask the other home first, unless the view is so old that every living room has announced itself.
    fn start_fixing(
        &mut self,
        ctx: &mut Context,
        now: Instant,
        room: &RoomName,
        proposal: Proposal,
        asker: Option<&NodeId>,
    ) {
        let Some(record) = self.records.get_mut(room) else {
            return;
        };
        record.fixing = Some(Fixing {
            proposal,
            until: now,
            askers: asker.into_iter().cloned().collect(),
        });
        self.pursue(ctx, now, room);
    }

    /// Fixes at once, or asks the other home and gives it time.
    fn pursue(&mut self, ctx: &mut Context, now: Instant, room: &RoomName) {
        let Some(Record {
            homes,
            fixing: Some(fixing),
            ..
        }) = self.records.get(room)
        else {
            return;
        };
        let (homes, askers) = (homes.clone(), fixing.askers.clone());
        let is_first = homes.is_first(&ctx.node);
        let other = if is_first { homes.second } else { homes.first };
        let settled = self.view.since().is_some_and(|at| now.duration_since(at) >= TTL);
        let knows_nothing = other.as_ref().is_none_or(|other| askers.contains(other));
        if is_first && (settled || knows_nothing) {
            return self.fix(ctx, now, room);
        }
        if let Some(Record {
            fixing: Some(fixing), ..
        }) = self.records.get_mut(room)
        {
            let until = now + if is_first { ASK_PATIENCE } else { STAND_IN_PATIENCE };
            // Views that keep changing must not put it off for ever.
            fixing.until = if fixing.until > now {
                until.min(fixing.until)
            } else {
                until
            };
        }
        if let Some(other) = other {
            ctx.need(&other);
            self.ask(ctx, room, &other);
        }
    }

    fn ask(&self, ctx: &mut Context, room: &RoomName, other: &NodeId) {
        let Some(Record {
            region,
            fixing: Some(Fixing { proposal, .. }),
            ..
        }) = self.records.get(room)
        else {
            return;
        };
        let query = RoomQuery {
            room: room.as_str().to_owned(),
            home_region: region.clone(),
            sid: proposal.sid.as_str().to_owned(),
            created_at_ms: proposal.created_at_ms,
        };
        ctx.send(other, Body::Query(query));
    }

    /// What could not be said while the link was down.
    pub(crate) fn link_up(&self, ctx: &mut Context, now: Instant, node: &NodeId) {
        for (room, record) in &self.records {
            if record.homes.contains(node) {
                self.ask(ctx, room, node);
                if record.life.is_some() {
                    ctx.send(node, Body::Peers(record.first_hand(now, room)));
                }
            }
        }
    }

    fn fix(&mut self, ctx: &mut Context, now: Instant, room: &RoomName) {
        let Some(record) = self.records.get_mut(room) else {
            return;
        };
        let Some(fixing) = record.fixing.take() else { return };
        record.adopt(Some(Life::fix(&fixing.proposal, &mut ctx.rng)));
        for asker in &fixing.askers {
            ctx.send(asker, Body::Peers(record.first_hand(now, room)));
        }
        self.tell_all(ctx, now, room);
    }

    /// Every edge with people in the room, and the other home.
    fn tell_all(&mut self, ctx: &mut Context, now: Instant, room: &RoomName) {
        if let Some(record) = self.records.get(room) {
            record.tell_edges(ctx, now, room);
            self.tell_homes(ctx, now, room);
        }
    }

    fn tell_homes(&self, ctx: &mut Context, now: Instant, room: &RoomName) {
        let Some(record) = self.records.get(room) else { return };
        for home in record.homes.iter() {
            if *home != ctx.node {
                ctx.need(home);
                ctx.send(home, Body::Peers(record.first_hand(now, room)));
            }
        }
    }

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

    /// What `from` heard first-hand replaces what it said before; what we heard ourselves stands. True if edges are new.
    fn merge(&mut self, now: Instant, from: &NodeId, peers: &RoomPeers) -> bool {
        let said: BTreeMap<NodeId, Instant> = peers
            .edges
            .iter()
            .map(|edge| {
                let ttl = Duration::from_millis(u64::from(edge.ttl_ms.min(TTL_MS_MAX)));
                (NodeId::from(edge.node.as_str()), now + ttl)
            })
            .collect();
        self.edges
            .retain(|node, held| held.via.as_ref() != Some(from) || said.contains_key(node));
        let mut news = false;
        for (node, until) in said {
            let full = self.edges.len() >= EDGES_MAX;
            match self.edges.get_mut(&node) {
                Some(held) if held.via.as_ref() == Some(from) => held.until = until,
                Some(_) => {}
                None if !full => {
                    self.edges.insert(
                        node,
                        Announced {
                            until,
                            via: Some(from.clone()),
                        },
                    );
                    news = true;
                }
                None => {}
            }
        }
        news
    }

    /// For edges of the room: all we know.
    fn peers(&self, now: Instant, room: &RoomName) -> RoomPeers {
        self.message(now, room, |_| true)
    }

    /// For another home.
    fn first_hand(&self, now: Instant, room: &RoomName) -> RoomPeers {
        RoomPeers {
            to_home: true,
            ..self.message(now, room, |announced| announced.via.is_none())
        }
    }

    fn message(&self, now: Instant, room: &RoomName, which: impl Fn(&Announced) -> bool) -> RoomPeers {
        let ttl_ms =
            |until: Instant| u32::try_from(until.saturating_duration_since(now).as_millis()).unwrap_or(TTL_MS_MAX);
        RoomPeers {
            room: room.as_str().to_owned(),
            home_region: self.region.clone(),
            sid: self
                .life
                .as_ref()
                .map_or(String::new(), |life| life.sid.as_str().to_owned()),
            incarnation: self.life.as_ref().map_or(0, |life| life.incarnation),
            edges: self
                .edges
                .iter()
                .filter(|(_, announced)| which(announced))
                .map(|(node, announced)| RoomEdge {
                    node: node.as_str().to_owned(),
                    ttl_ms: ttl_ms(announced.until),
                })
                .collect(),
            to_home: false,
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
    edges.fold(0, |hash, node| {
        hash ^ rendezvous::weight(0, rendezvous::hash(node.as_str()))
    })
}

pub(crate) fn life(incarnation: u64, sid: &str) -> Option<Life> {
    (incarnation != 0 && !sid.is_empty()).then(|| Life {
        incarnation,
        sid: RoomSid::new(sid),
    })
}
