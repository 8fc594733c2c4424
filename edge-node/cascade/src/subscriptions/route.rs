//! One track's way through this edge: whom it is asked of, who behind us gets it, and what each of them is told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use meridian_room::NodeId;
use meridian_sfu::layers::with_stand_ins;
use meridian_sfu::media::LayerSet;

use super::Key;
use super::tree::STEADY_FOR;
use crate::measure::micros;
use crate::mesh::{Context, Output};
use crate::replication::RoomState;
use crate::wire::{Body, TrackGone, TrackGrant, TrackShed, TrackWant};

pub(super) struct Route {
    pub(super) origin: NodeId,
    pub(super) epoch: u64,
    /// What people on this edge want.
    pub(super) local: LayerSet,
    pub(super) children: BTreeMap<NodeId, Child>,
    pub(super) parent: Option<Parent>,
    /// Takes over from `parent` once it has granted the track.
    pub(super) next: Option<Parent>,
    /// There is a better parent than the one that serves well, since then.
    pub(super) leaning: Option<Instant>,
    pub(super) refused: BTreeMap<NodeId, Instant>,
    /// What the room was last told that other edges want of a local track.
    pub(super) exported: LayerSet,
    /// What this edge was last told that does not come from the parent at present.
    pub(super) absent: LayerSet,
}

pub(super) struct Child {
    pub(super) layers: LayerSet,
    /// Layers that the link to it does not carry for now.
    pub(super) shed: LayerSet,
    /// What it was last told not to expect: those, and what does not reach us.
    pub(super) told_absent: LayerSet,
    pub(super) number: u32,
    pub(super) path: Vec<String>,
    pub(super) granted: bool,
    /// From the origin to here, as it was told with the grant.
    pub(super) told_latency: Option<Duration>,
}

impl Child {
    pub(super) fn demand(&self) -> LayerSet {
        with_stand_ins(self.layers, self.shed)
    }
}

pub(super) struct Parent {
    pub(super) node: NodeId,
    /// The layers it was last asked for, and the path behind us it was told of.
    asked: Option<(LayerSet, Vec<String>)>,
    pub(super) asked_at: Option<Instant>,
    pub(super) granted: Option<Granted>,
    /// Layers that do not come for now, as it said.
    pub(super) absent: LayerSet,
}

pub(super) struct Granted {
    pub(super) number: u32,
    pub(super) path: Vec<String>,
    /// From the origin to the parent.
    pub(super) latency: Option<Duration>,
}

impl Parent {
    fn new(node: NodeId) -> Parent {
        Parent {
            node,
            asked: None,
            asked_at: None,
            granted: None,
            absent: LayerSet::EMPTY,
        }
    }
}

impl Route {
    pub(super) fn new(origin: NodeId, epoch: u64) -> Route {
        Route {
            origin,
            epoch,
            local: LayerSet::EMPTY,
            children: BTreeMap::new(),
            parent: None,
            next: None,
            leaning: None,
            refused: BTreeMap::new(),
            exported: LayerSet::EMPTY,
            absent: LayerSet::EMPTY,
        }
    }

    /// Whether its media comes, as far as this edge knows.
    pub(super) fn is_fed(&self) -> bool {
        self.parent.as_ref().is_some_and(|parent| parent.granted.is_some())
    }

    /// Edges from the origin to this one, both included; 1 while that is not known.
    pub(super) fn depth(&self) -> usize {
        let granted = self.parent.as_ref().and_then(|parent| parent.granted.as_ref());
        granted.map_or(1, |granted| granted.path.len() + 1)
    }

    pub(super) fn asked(&self) -> LayerSet {
        let asked = self.parent.as_ref().and_then(|parent| parent.asked.as_ref());
        asked.map_or(LayerSet::EMPTY, |(layers, _)| *layers)
    }

    pub(super) fn takes_from(&self, node: &NodeId) -> bool {
        [&self.parent, &self.next]
            .into_iter()
            .flatten()
            .any(|parent| parent.node == *node)
    }

    pub(super) fn choose_parent(&mut self, ctx: &mut Context, room: &RoomState, key: &Key, demand: LayerSet) {
        let best = self.best_parent(ctx, room, key);
        let current = self.parent.as_ref().map(|parent| parent.node.clone());
        match best {
            Some(best) if Some(&best) != current.as_ref() => self.lean_to(ctx, key, best),
            _ => {
                self.leaning = None;
                self.cancel_next(ctx, key);
            }
        }
        let path = self.path_behind(&ctx.node);
        let want = self.want(key, &ctx.node, demand);
        for parent in [&mut self.parent, &mut self.next].into_iter().flatten() {
            let said = parent.asked.as_ref();
            if said.is_none_or(|(layers, told)| (*layers, told) != (demand, &path)) {
                parent.asked = Some((demand, path.clone()));
                parent.asked_at = parent.asked_at.or(ctx.now);
                ctx.send(&parent.node, want.clone());
            }
        }
    }

    /// A parent that serves well is left only for one that has been better for a while, and only once that one has granted
    /// the track.
    fn lean_to(&mut self, ctx: &mut Context, key: &Key, best: NodeId) {
        if self.next.as_ref().is_some_and(|next| next.node == best) {
            return;
        }
        let serves = self.parent.as_ref().is_some_and(|parent| {
            let of_origin = |granted: &Granted| granted.path.first().map(String::as_str) == Some(self.origin.as_str());
            parent.granted.as_ref().is_some_and(of_origin) && !ctx.measures.is_suspect(&parent.node)
        });
        if serves {
            let (Some(now), since) = (ctx.now, self.leaning) else {
                return;
            };
            let since = since.unwrap_or(now);
            self.leaning = Some(since);
            if now.duration_since(since) < STEADY_FOR {
                return self.cancel_next(ctx, key);
            }
        }
        self.cancel_next(ctx, key);
        let parent = Parent::new(best);
        match self.parent {
            Some(Parent { granted: Some(_), .. }) => self.next = Some(parent),
            // Nothing flows yet: no reason to hold on to it.
            _ => {
                if let Some(old) = self.parent.replace(parent) {
                    ctx.send(&old.node, self.want(key, &ctx.node, LayerSet::EMPTY));
                }
            }
        }
    }

    fn cancel_next(&mut self, ctx: &mut Context, key: &Key) {
        if let Some(next) = self.next.take() {
            ctx.send(&next.node, self.want(key, &ctx.node, LayerSet::EMPTY));
        }
    }

    /// The edges the media would reach through us, we last.
    fn path_behind(&self, own: &NodeId) -> Vec<String> {
        let behind = self
            .children
            .values()
            .map(|child| &child.path)
            .max_by_key(|path| path.len());
        let mut path = behind.cloned().unwrap_or_default();
        path.push(own.as_str().to_owned());
        path
    }

    pub(super) fn want(&self, key: &Key, own: &NodeId, layers: LayerSet) -> Body {
        let (room, track) = names(key);
        Body::Want(TrackWant {
            room,
            track,
            origin: self.origin.as_str().to_owned(),
            epoch: self.epoch,
            layers: u32::from(layers.0),
            path: self.path_behind(own),
        })
    }

    /// True if it was one.
    pub(super) fn forget_parent(&mut self, ctx: &mut Context, key: &Key, node: &NodeId) -> bool {
        if self.next.as_ref().is_some_and(|next| next.node == *node) {
            self.next = None;
            return true;
        }
        let was = self.parent.take_if(|parent| parent.node == *node);
        if was.as_ref().is_some_and(|parent| parent.granted.is_some()) {
            ctx.out.push_back(receive(key, None));
        }
        if was.is_some() {
            self.parent = self.next.take();
        }
        was.is_some()
    }

    pub(super) fn cancel_parents(&mut self, ctx: &mut Context, key: &Key) {
        for parent in [self.next.take(), self.parent.take()].into_iter().flatten() {
            ctx.send(&parent.node, self.want(key, &ctx.node, LayerSet::EMPTY));
            if parent.granted.is_some() {
                ctx.out.push_back(receive(key, None));
            }
        }
    }

    /// Gives the number that is free now.
    pub(super) fn remove_child(&mut self, ctx: &mut Context, key: &Key, node: &NodeId) -> Option<u32> {
        let mut child = self.children.remove(node)?;
        (child.layers, child.shed) = (LayerSet::EMPTY, LayerSet::EMPTY);
        ctx.out.push_back(forward(key, node, &child));
        Some(child.number)
    }

    /// Tells this edge what does not come from the parent, and each child what it must not expect from us.
    pub(super) fn tell_absent(&mut self, ctx: &mut Context, key: &Key) {
        let absent = self.parent.as_ref().map_or(LayerSet::EMPTY, |parent| parent.absent);
        if absent != self.absent {
            self.absent = absent;
            ctx.out.push_back(Output::Absent {
                room: key.0.clone(),
                track: key.1.clone(),
                layers: absent,
            });
        }
        for (node, child) in self.children.iter_mut().filter(|(_, child)| child.granted) {
            let all = absent | child.shed;
            if all != child.told_absent {
                child.told_absent = all;
                let (room, track) = names(key);
                let shed = TrackShed {
                    room,
                    track,
                    number: child.number,
                    layers: u32::from(all.0),
                };
                ctx.send(node, Body::Shed(shed));
            }
        }
    }

    /// From the origin to here, as far as it is measured.
    fn latency(&self, ctx: &Context) -> Option<Duration> {
        if self.origin == ctx.node {
            return Some(Duration::ZERO);
        }
        let parent = self.parent.as_ref()?;
        Some(ctx.measures.latency(&parent.node)? + parent.granted.as_ref()?.latency?)
    }

    /// Grants children the track again if they would choose by a latency that is no longer true.
    pub(super) fn tell_latency(&mut self, ctx: &mut Context, key: &Key) {
        let Some(latency) = self.latency(ctx) else { return };
        for child in self.children.values_mut() {
            let told = child.told_latency.unwrap_or_default();
            if latency.abs_diff(told) > (told / 10).max(Duration::from_millis(5)) {
                child.granted = false;
            }
        }
        self.grant_children(ctx, key);
    }

    /// Tells those who wait that the media comes, once it does.
    pub(super) fn grant_children(&mut self, ctx: &mut Context, key: &Key) {
        let mut path = match &self.parent {
            _ if self.origin == ctx.node => Vec::new(),
            Some(Parent {
                granted: Some(granted), ..
            }) => granted.path.clone(),
            _ => return,
        };
        let latency = self.latency(ctx);
        path.push(ctx.node.as_str().to_owned());
        let latency_us = latency.map_or(0, micros);
        let (room, track) = names(key);
        for (node, child) in self.children.iter_mut().filter(|(_, child)| !child.granted) {
            (child.granted, child.told_latency) = (true, latency);
            let grant = TrackGrant {
                room: room.clone(),
                track: track.clone(),
                number: child.number,
                path: path.clone(),
                latency_us,
                epoch: self.epoch,
            };
            ctx.send(node, Body::Grant(grant));
            ctx.out.push_back(forward(key, node, child));
        }
    }

    pub(super) fn forward(&self, ctx: &mut Context, key: &Key, node: &NodeId) {
        if let Some(child) = self.children.get(node) {
            ctx.out.push_back(forward(key, node, child));
        }
    }
}

pub(super) fn names(key: &Key) -> (String, String) {
    (key.0.as_str().to_owned(), key.1.as_str().to_owned())
}

pub(super) fn gone(key: &Key) -> Body {
    let (room, track) = names(key);
    Body::Gone(TrackGone { room, track })
}

pub(super) fn receive(key: &Key, source: Option<(NodeId, u32)>) -> Output {
    Output::Receive {
        room: key.0.clone(),
        track: key.1.clone(),
        source,
    }
}

fn forward(key: &Key, to: &NodeId, child: &Child) -> Output {
    Output::Forward {
        room: key.0.clone(),
        track: key.1.clone(),
        to: to.clone(),
        number: child.number,
        layers: child.layers,
        shed: child.shed,
    }
}
