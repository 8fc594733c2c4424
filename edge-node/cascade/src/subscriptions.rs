//! Which layers of which tracks cross which link. An edge wants a remote track as long as somebody on it, or on an edge
//! behind it, wants it: the union of their layers is asked of one parent, which `tree` chooses. A layer crosses a link only
//! while somebody beyond wants it.
//!
//! No loops: a grant carries the path from the origin, and an edge that finds itself in it does not take the media; a want
//! carries the path behind it, and an edge in that does not serve it. A parent is left for a better one only once the
//! better one has granted the track. One that does not grant it in time is not waited for.
//!
//! A layer that a congested link sheds is still wanted there, and so is the one below it until it crosses again: that one
//! stands in for it. The edge beyond is told which layers are absent, and tells those behind it.

mod route;
mod tree;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use meridian_room::{NodeId, RoomName, TrackSid};
use meridian_sfu::media::{Layer, LayerSet};

use self::route::{Child, Granted, Parent, Route, gone, names, receive};
use crate::mesh::{Context, RoomInput};
use crate::replication::Rooms;
use crate::wire::{Body, HOPS_MAX, Pli, TrackGrant, TrackShed, TrackWant};

/// Tracks this edge can have to do with at once, over all rooms.
const ROUTES_MAX: usize = 100_000;
/// How long an edge that refused a track is not asked for it again.
const REFUSED_FOR: Duration = Duration::from_secs(2);
/// How long a parent may take to grant a track: a few round trips, as many edges up as there may be.
const GRANT_WITHIN: Duration = Duration::from_millis(1_500);
/// How often parents are weighed again by what links have measured.
const REVIEW: Duration = Duration::from_secs(1);
/// To how many edges one track may go from here.
const FAN_OUT: usize = 24;

type Key = (RoomName, TrackSid);

pub(crate) struct Subscriptions {
    routes: BTreeMap<Key, Route>,
    /// What goes to a neighbour under which number.
    numbers: HashMap<u32, Key>,
    last_number: u32,
    fan_out: usize,
    next_review: Option<Instant>,
}

impl Default for Subscriptions {
    fn default() -> Self {
        Subscriptions {
            routes: BTreeMap::new(),
            numbers: HashMap::new(),
            last_number: 0,
            fan_out: FAN_OUT,
            next_review: None,
        }
    }
}

/// What a link reports of one layer.
pub(crate) struct Shedding {
    pub(crate) number: u32,
    pub(crate) layer: Layer,
    pub(crate) shed: bool,
}

/// What one edge wants of a track.
pub(crate) struct Demand {
    pub(crate) key: (RoomName, TrackSid),
    pub(crate) origin: NodeId,
    pub(crate) epoch: u64,
    pub(crate) layers: LayerSet,
}

impl Subscriptions {
    pub(crate) fn set_fan_out(&mut self, edges: usize) {
        self.fan_out = edges.max(1);
    }

    pub(crate) fn want(&mut self, ctx: &mut Context, rooms: &Rooms, demand: Demand) {
        // Without the room there is no way to anybody, and no leaving to forget the demand.
        if rooms.get(&demand.key.0).is_none() {
            return;
        }
        let Some(route) = self.route(&demand) else { return };
        route.local = demand.layers;
        self.settle(ctx, rooms, &demand.key);
    }

    /// Another edge wants a track, or no longer.
    pub(crate) fn wanted(&mut self, ctx: &mut Context, rooms: &Rooms, from: &NodeId, want: TrackWant) {
        let key = (RoomName::from(want.room.as_str()), TrackSid::from(want.track.as_str()));
        let layers = LayerSet(want.layers as u8 & LayerSet::up_to(Layer::HIGH).0);
        if layers.is_empty() {
            return self.drop_child(ctx, rooms, &key, from);
        }
        let origin = NodeId::from(want.origin.as_str());
        let too_deep = self.routes.get(&key).map_or(1, Route::depth) + want.path.len() > HOPS_MAX;
        let loops = too_deep || want.path.iter().any(|node| node == ctx.node.as_str());
        let held = self.routes.get(&key);
        // Who is fed passes on; who is not, only if it may well be fed by the origin itself: nobody waits for somebody who waits.
        let fed = held.is_some_and(|route| route.origin == origin && route.is_fed());
        let denied = held.is_some_and(|route| route.refused.contains_key(&origin));
        let served = origin == ctx.node || fed || (ctx.is_linked(&origin) && !denied);
        let upstream = held.is_some_and(|route| route.takes_from(from));
        let full = held.is_some_and(|route| route.children.len() >= self.fan_out && !route.children.contains_key(from));
        if full || loops || !served || upstream || rooms.get(&key.0).is_none() || origin == *from {
            ctx.send(from, gone(&key));
            return self.drop_child(ctx, rooms, &key, from);
        }
        let demand = Demand {
            key: key.clone(),
            origin,
            epoch: want.epoch,
            layers,
        };
        if self.route(&demand).is_none() {
            return ctx.send(from, gone(&key));
        }
        self.last_number = self.last_number.wrapping_add(1);
        let number = self.last_number;
        let Some(route) = self.routes.get_mut(&key) else { return };
        match route.children.get_mut(from) {
            Some(held) => (held.layers, held.path) = (layers, want.path),
            None => {
                let child = Child {
                    layers,
                    shed: LayerSet::EMPTY,
                    told_absent: LayerSet::EMPTY,
                    number,
                    path: want.path,
                    granted: false,
                    told_latency: None,
                };
                route.children.insert(from.clone(), child);
                self.numbers.insert(number, key.clone());
            }
        }
        self.settle(ctx, rooms, &key);
        if let Some(route) = self.routes.get_mut(&key) {
            let granted = route.children.get(from).is_some_and(|child| child.granted);
            if granted {
                route.forward(ctx, &key, from);
            } else {
                route.grant_children(ctx, &key);
            }
        }
    }

    pub(crate) fn granted(&mut self, ctx: &mut Context, rooms: &Rooms, now: Instant, from: &NodeId, grant: TrackGrant) {
        let key = (
            RoomName::from(grant.room.as_str()),
            TrackSid::from(grant.track.as_str()),
        );
        let Some(route) = self.routes.get_mut(&key) else { return };
        let is_parent = route.parent.as_ref().is_some_and(|parent| parent.node == *from);
        let is_next = route.next.as_ref().is_some_and(|parent| parent.node == *from);
        if !is_parent && !is_next {
            return;
        }
        let own = ctx.node.as_str();
        let too_far = grant.path.len() >= HOPS_MAX || route.is_too_far(ctx, from, &grant.path);
        if grant.path.is_empty() || too_far || grant.path.iter().any(|node| node == own) {
            ctx.send(from, route.want(&key, &ctx.node, LayerSet::EMPTY));
            return self.refused(ctx, rooms, now, from, &key);
        }
        let of_epoch = grant.epoch == 0 || grant.epoch >= route.epoch;
        if !of_epoch || grant.path.first().map(String::as_str) != Some(route.origin.as_str()) {
            // Said before it knew where the publisher is now: it will say more.
            return;
        }
        if is_next {
            route.leaning = None;
            let old = std::mem::replace(&mut route.parent, route.next.take());
            if let Some(old) = old {
                ctx.send(&old.node, route.want(&key, &ctx.node, LayerSet::EMPTY));
            }
        }
        let latency = (grant.latency_us > 0).then(|| Duration::from_micros(u64::from(grant.latency_us)));
        if let Some(parent) = &mut route.parent {
            if let Some(held) = &mut parent.granted
                && (held.number, &held.path) == (grant.number, &grant.path)
            {
                held.latency = latency;
                return route.tell_latency(ctx, &key);
            }
            if parent.granted.as_ref().is_some_and(|held| held.number != grant.number) {
                parent.absent = LayerSet::EMPTY;
            }
            parent.granted = Some(Granted {
                number: grant.number,
                path: grant.path,
                latency,
            });
        }
        ctx.out.push_back(receive(&key, Some((from.clone(), grant.number))));
        // The path behind us changed with the parent: children check it again.
        route.children.values_mut().for_each(|child| child.granted = false);
        route.grant_children(ctx, &key);
        route.tell_absent(ctx, &key);
    }

    /// A link of ours sheds a layer, or carries it again.
    pub(crate) fn layer_shed(&mut self, ctx: &mut Context, rooms: &Rooms, to: &NodeId, change: Shedding) {
        let Some(key) = self.numbers.get(&change.number).cloned() else {
            return;
        };
        let child = self.routes.get_mut(&key).and_then(|route| route.children.get_mut(to));
        let Some(child) = child.filter(|child| child.number == change.number) else {
            return;
        };
        if change.shed {
            child.shed.insert(change.layer);
        } else {
            child.shed.remove(change.layer);
        }
        self.settle(ctx, rooms, &key);
        if let Some(route) = self.routes.get(&key) {
            route.forward(ctx, &key, to);
        }
    }

    /// The edge that a track comes from says what does not come for now.
    pub(crate) fn absent(&mut self, ctx: &mut Context, from: &NodeId, shed: TrackShed) {
        let key = (RoomName::from(shed.room.as_str()), TrackSid::from(shed.track.as_str()));
        let Some(route) = self.routes.get_mut(&key) else { return };
        let layers = LayerSet(shed.layers as u8 & LayerSet::up_to(Layer::HIGH).0);
        let said = |parent: &Parent| {
            let granted = parent.granted.as_ref().is_some_and(|held| held.number == shed.number);
            parent.node == *from && granted
        };
        if let Some(parent) = route.parent.as_mut().filter(|parent| said(parent)) {
            parent.absent = layers;
            route.tell_absent(ctx, &key);
        }
    }

    /// What does not come of a track for now, as its parent said.
    pub(crate) fn absent_of(&self, key: &Key) -> LayerSet {
        self.routes.get(key).map_or(LayerSet::EMPTY, |route| route.absent)
    }

    /// The layers that its parent was last asked for.
    pub(crate) fn asked_of(&self, key: &Key) -> LayerSet {
        self.routes.get(key).map_or(LayerSet::EMPTY, Route::asked)
    }

    /// `from` cannot serve the track.
    pub(crate) fn refused(&mut self, ctx: &mut Context, rooms: &Rooms, now: Instant, from: &NodeId, key: &Key) {
        let Some(route) = self.routes.get_mut(key) else { return };
        if route.forget_parent(ctx, key, from) {
            // With many to try, the first has not to be tried again before the last.
            let tried = route.refused.len() as u32;
            route
                .refused
                .insert(from.clone(), now + REFUSED_FOR + REFUSED_FOR / 4 * tried);
            if *from == route.origin && !route.is_fed() {
                self.drop_children(ctx, key);
            }
            self.settle(ctx, rooms, key);
        }
    }

    pub(crate) fn keyframe(&self, ctx: &mut Context, from: Option<&NodeId>, key: &Key, layer: Layer) {
        let Some(route) = self.routes.get(key) else { return };
        if let Some(from) = from {
            // A keyframe of a layer that does not cross cannot get there.
            let cannot = |child: &Child| child.shed.contains(layer);
            if route.children.get(from).is_none_or(cannot) {
                return;
            }
        }
        if route.origin == ctx.node {
            ctx.room(
                &key.0,
                RoomInput::Keyframe {
                    track: key.1.clone(),
                    layer,
                },
            );
        } else if let Some(parent) = &route.parent {
            let (room, track) = names(key);
            ctx.send(
                &parent.node,
                Body::Pli(Pli {
                    room,
                    track,
                    layer: u32::from(layer.0),
                }),
            );
        }
    }

    /// A link came up: ask again what was asked there (the other side has forgotten), and see whether it is a better way.
    pub(crate) fn link_up(&mut self, ctx: &mut Context, rooms: &Rooms, shared: &[RoomName]) {
        self.settle_rooms(ctx, rooms, shared);
    }

    /// Everything that came or went over the link is gone.
    pub(crate) fn link_down(&mut self, ctx: &mut Context, rooms: &Rooms, node: &NodeId) {
        let concerned: Vec<Key> = self
            .routes
            .iter()
            .filter(|(_, route)| route.takes_from(node) || route.children.contains_key(node))
            .map(|(key, _)| key.clone())
            .collect();
        for key in concerned {
            if let Some(route) = self.routes.get_mut(&key) {
                route.forget_parent(ctx, &key, node);
            }
            self.remove_child(ctx, &key, node);
            self.settle(ctx, rooms, &key);
        }
    }

    /// Members, or whom they hear, changed.
    pub(crate) fn settle_rooms(&mut self, ctx: &mut Context, rooms: &Rooms, changed: &[RoomName]) {
        for room in changed {
            let keys: Vec<Key> = self.of_room(room).cloned().collect();
            for key in keys {
                self.settle(ctx, rooms, &key);
            }
        }
    }

    /// `node` has nobody in the room any more.
    pub(crate) fn member_left(&mut self, ctx: &mut Context, rooms: &Rooms, room: &RoomName, node: &NodeId) {
        let keys: Vec<Key> = self.of_room(room).cloned().collect();
        for key in keys {
            if let Some(route) = self.routes.get_mut(&key) {
                route.forget_parent(ctx, &key, node);
            }
            self.remove_child(ctx, &key, node);
            self.settle(ctx, rooms, &key);
        }
    }

    /// This edge has nobody in the room any more. Peers learn it from our leaving.
    pub(crate) fn leave(&mut self, ctx: &mut Context, room: &RoomName) {
        let keys: Vec<Key> = self.of_room(room).cloned().collect();
        for key in keys {
            self.drop_children(ctx, &key);
            if let Some(mut route) = self.routes.remove(&key) {
                route.cancel_parents(ctx, &key);
            }
        }
    }

    /// A link is up but silent: what comes over it is asked for elsewhere, too.
    pub(crate) fn suspect(&mut self, ctx: &mut Context, rooms: &Rooms, node: &NodeId) {
        let concerned = |(key, route): (&Key, &Route)| route.takes_from(node).then(|| key.clone());
        let keys: Vec<Key> = self.routes.iter().filter_map(concerned).collect();
        for key in keys {
            self.settle(ctx, rooms, &key);
        }
    }

    /// Weighs the parents of every track again.
    pub(crate) fn review(&mut self, ctx: &mut Context, rooms: &Rooms) {
        let remote = |(key, route): (&Key, &Route)| (route.origin != ctx.node).then(|| key.clone());
        let keys: Vec<Key> = self.routes.iter().filter_map(remote).collect();
        for key in keys {
            self.settle(ctx, rooms, &key);
            if let Some(route) = self.routes.get_mut(&key) {
                route.tell_latency(ctx, &key);
            }
        }
    }

    pub(crate) fn tick(&mut self, ctx: &mut Context, rooms: &Rooms, now: Instant) {
        let mut again = Vec::new();
        let mut late = Vec::new();
        for (key, route) in &mut self.routes {
            let before = route.refused.len();
            route.refused.retain(|_, until| *until > now);
            if route.refused.len() < before {
                again.push(key.clone());
            }
            for parent in [&route.parent, &route.next].into_iter().flatten() {
                let due = parent.asked_at.is_some_and(|at| now.duration_since(at) >= GRANT_WITHIN);
                if due && parent.granted.is_none() {
                    late.push((key.clone(), parent.node.clone()));
                }
            }
        }
        for (key, parent) in late {
            self.given_up(ctx, rooms, now, &parent, &key);
        }
        for key in again {
            self.settle(ctx, rooms, &key);
        }
        if self.next_review.is_none_or(|at| at <= now) {
            self.next_review = Some(now + REVIEW);
            self.review(ctx, rooms);
        }
    }

    /// A parent does not grant the track in time: another one is asked, if there is any.
    fn given_up(&mut self, ctx: &mut Context, rooms: &Rooms, now: Instant, parent: &NodeId, key: &Key) {
        let Some(route) = self.routes.get_mut(key) else { return };
        route.refused.insert(parent.clone(), now + REFUSED_FOR);
        let other = rooms.get(&key.0).and_then(|room| route.best_parent(ctx, room, key));
        route.refused.remove(parent);
        if other.is_some() {
            ctx.send(parent, route.want(key, &ctx.node, LayerSet::EMPTY));
            self.refused(ctx, rooms, now, parent, key);
        }
    }

    pub(crate) fn repeat(&self, ctx: &mut Context, room: &RoomName) {
        for key in self.of_room(room) {
            if let Some(route) = self.routes.get(key).filter(|route| !route.exported.is_empty()) {
                let (track, layers) = (key.1.clone(), route.exported);
                ctx.room(room, RoomInput::Wanted { track, layers });
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.routes.len()
    }

    fn of_room<'a>(&'a self, room: &'a RoomName) -> impl Iterator<Item = &'a Key> {
        let first = (room.clone(), TrackSid::from(""));
        self.routes
            .range(first..)
            .map(|(key, _)| key)
            .take_while(move |key| key.0 == *room)
    }

    fn drop_child(&mut self, ctx: &mut Context, rooms: &Rooms, key: &Key, from: &NodeId) {
        if self.routes.contains_key(key) {
            self.remove_child(ctx, key, from);
            self.settle(ctx, rooms, key);
        }
    }

    /// They may find another way; through us there is none.
    fn drop_children(&mut self, ctx: &mut Context, key: &Key) {
        let Some(route) = self.routes.get_mut(key) else { return };
        let children: Vec<NodeId> = route.children.keys().cloned().collect();
        for child in children {
            ctx.send(&child, gone(key));
            if let Some(number) = route.remove_child(ctx, key, &child) {
                self.numbers.remove(&number);
            }
        }
    }

    fn remove_child(&mut self, ctx: &mut Context, key: &Key, node: &NodeId) {
        let removed = self
            .routes
            .get_mut(key)
            .and_then(|route| route.remove_child(ctx, key, node));
        if let Some(number) = removed {
            self.numbers.remove(&number);
        }
    }

    /// The route of a track, made if there is demand for it; it follows the highest epoch.
    fn route(&mut self, demand: &Demand) -> Option<&mut Route> {
        let full = self.routes.len() >= ROUTES_MAX || demand.layers.is_empty();
        if full && !self.routes.contains_key(&demand.key) {
            return None;
        }
        let new = || Route::new(demand.origin.clone(), demand.epoch);
        let route = self.routes.entry(demand.key.clone()).or_insert_with(new);
        if demand.epoch > route.epoch {
            route.epoch = demand.epoch;
            route.origin = demand.origin.clone();
            route.refused.clear();
        }
        Some(route)
    }

    /// Brings a route to where its demand, its parents and the links say it should be.
    fn settle(&mut self, ctx: &mut Context, rooms: &Rooms, key: &Key) {
        let Some(route) = self.routes.get_mut(key) else { return };
        let local_track = route.origin == ctx.node;
        let remote_demand = route
            .children
            .values()
            .fold(LayerSet::EMPTY, |all, child| all | child.demand());
        let exported = if local_track { remote_demand } else { LayerSet::EMPTY };
        if exported != route.exported {
            route.exported = exported;
            ctx.room(
                &key.0,
                RoomInput::Wanted {
                    track: key.1.clone(),
                    layers: exported,
                },
            );
        }
        let demand = route.local | remote_demand;
        if local_track || demand.is_empty() {
            route.cancel_parents(ctx, key);
        } else if let Some(room) = rooms.get(&key.0) {
            route.choose_parent(ctx, room, key, demand);
        }
        let stranded = !local_track && route.parent.is_none() && route.next.is_none();
        if stranded {
            self.drop_children(ctx, key);
        }
        let Some(route) = self.routes.get_mut(key) else { return };
        route.tell_absent(ctx, key);
        if route.local.is_empty() && route.children.is_empty() {
            route.cancel_parents(ctx, key);
            route.tell_absent(ctx, key);
            self.routes.remove(key);
        }
    }
}
