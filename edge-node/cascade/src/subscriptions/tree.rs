//! Which edge a track is asked of, so that all who take it form a tree.
//!
//! - An edge of the origin's region takes it from the origin.
//! - Elsewhere the edges of one region weigh each other by rendezvous hashing, per track: everybody asks one that weighs more
//!   than itself, the heaviest first, and only the heaviest, the *gateway*, asks the origin. So one copy enters a region, and
//!   no two edges of it can ever wait for each other, whatever each of them believes.
//! - Nobody bears a way through a gateway that costs more than [`tolerable`].
//! - Where the origin is not linked, or another edge's way is [`better`] than the direct one, that edge relays.
//!
//! Who is suspected, has refused lately, or takes the track from us is not asked. What a way costs is known before it is asked
//! for: edges of a room tell each other how far away whom they hear is ([`crate::wire::Hears`]).

use std::time::Duration;

use meridian_room::NodeId;

use super::Key;
use super::route::Route;
use crate::mesh::Context;
use crate::rendezvous;
use crate::replication::RoomState;
use crate::wire::HOPS_MAX;

/// How long another parent must have been the better one (DESIGN.md §5).
pub(super) const STEADY_FOR: Duration = Duration::from_secs(10);
/// Less than anybody hears, and more than measurements of a short path vary by.
const UNHEARD: Duration = Duration::from_millis(10);

/// Whether what a copy between regions saves is worth the longer way.
fn tolerable(way: Duration, direct: Duration) -> bool {
    way <= direct.mul_f64(1.3).max(direct + UNHEARD)
}

/// Whether it is worth leaving another way for: by a fifth, and by 10 ms.
fn better(way: Duration, than: Duration) -> bool {
    way <= than.mul_f64(0.8) && way + UNHEARD <= than
}

impl Route {
    pub(super) fn best_parent(&self, ctx: &Context, room: &RoomState, key: &Key) -> Option<NodeId> {
        let direct = self.is_usable(ctx, &self.origin).then_some(&self.origin);
        if let Some(gateway) = self.gateway(ctx, room, key, direct) {
            return Some(gateway);
        }
        let Some(relay) = self.relay(ctx, room, key, direct.is_some()) else {
            return direct.cloned();
        };
        let Some(direct) = direct else { return Some(relay) };
        let ways = self.cost(ctx, room, &relay).zip(ctx.measures.latency(direct));
        let takes = |(way, direct): (Duration, Duration)| match &self.parent {
            // No longer enough to leave the direct way for it, but enough to stay.
            Some(parent) if parent.node == relay && parent.granted.is_some() => way < direct,
            _ => better(way, direct),
        };
        Some(if ways.is_some_and(takes) { relay } else { direct.clone() })
    }

    fn is_usable(&self, ctx: &Context, node: &NodeId) -> bool {
        ctx.is_linked(node)
            && !ctx.measures.is_suspect(node)
            && !self.refused.contains_key(node)
            && !self.children.contains_key(node)
    }

    /// The heaviest edge of this region that is heavier than this one and can have the track. `None`: this edge is the gateway, or
    /// needs none.
    fn gateway(&self, ctx: &Context, room: &RoomState, key: &Key, direct: Option<&NodeId>) -> Option<NodeId> {
        let region = ctx.measures.region(&ctx.node)?;
        if ctx.measures.region(&self.origin)? == region {
            return None;
        }
        let track = rendezvous::hash(key.1.as_str());
        let weight = |node: &NodeId| rendezvous::weight(track, rendezvous::hash(node.as_str()));
        let own = weight(&ctx.node);
        let direct = direct.and_then(|direct| ctx.measures.latency(direct));
        let fits = |node: &NodeId| match self.cost(ctx, room, node).zip(direct) {
            Some((way, direct)) => tolerable(way, direct),
            None => true,
        };
        room.members
            .iter()
            .filter(|(node, member)| {
                ctx.measures.region(node) == Some(region) && member.hears.contains(self.origin.as_str())
            })
            .map(|(node, _)| (weight(node), node))
            .filter(|(weight, node)| *weight > own && self.is_usable(ctx, node) && fits(node))
            .max()
            .map(|(_, node)| node.clone())
    }

    /// The cheapest way through another edge that hears the origin; of those that cost the same, the one everybody would choose.
    /// While there is a direct way, only through who needs no relay itself: the origin's region and the gateways of others.
    fn relay(&self, ctx: &Context, room: &RoomState, key: &Key, has_direct: bool) -> Option<NodeId> {
        let region = |node: &NodeId| ctx.measures.region(node);
        let relays = room.relays_to(ctx, &self.origin, key.1.as_str());
        // They are in the order of their weights: the first of a region is its gateway.
        let is_gateway = |rank: usize| {
            let of = region(&relays[rank]);
            of == region(&self.origin) || !relays[..rank].iter().any(|heavier| region(heavier) == of)
        };
        let fits = |rank: usize| {
            let of = region(&relays[rank]);
            !has_direct || (of.is_some() && of != region(&ctx.node) && is_gateway(rank))
        };
        let usable = (0..relays.len()).filter(|rank| self.is_usable(ctx, &relays[*rank]) && fits(*rank));
        let cost = |rank: usize| self.cost(ctx, room, &relays[rank]).unwrap_or(Duration::MAX);
        usable
            .min_by_key(|rank| (cost(*rank), *rank))
            .map(|rank| relays[rank].clone())
    }

    /// Whether a parent of that path leaves no room for the region behind this edge, which could do without that parent.
    pub(super) fn is_too_far(&self, ctx: &Context, from: &NodeId, path: &[String]) -> bool {
        let region = |node: &NodeId| ctx.measures.region(node);
        let foreign = region(from) != region(&ctx.node);
        foreign && path.len() + 2 > HOPS_MAX && *from != self.origin && self.is_usable(ctx, &self.origin)
    }

    /// From the origin through `node` to this edge, one way; `None` while a part of it is not measured.
    fn cost(&self, ctx: &Context, room: &RoomState, node: &NodeId) -> Option<Duration> {
        let last = ctx.measures.latency(node)?;
        let granted = self.parent.as_ref().filter(|parent| parent.node == *node);
        let before = match granted.and_then(|parent| parent.granted.as_ref()) {
            // What the parent measures now says more than what was granted then, unless it is itself fed by a relay.
            Some(granted) if granted.path.len() > 2 => granted.latency?,
            _ => room.members.get(node)?.hears.latency(&self.origin)?,
        };
        Some(last + before)
    }
}
