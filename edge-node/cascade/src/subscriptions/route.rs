//! One track's way through this edge: whom it is asked of, who behind us gets it, and what each of them is told.

use std::collections::BTreeMap;
use std::time::Instant;

use meridian_room::NodeId;
use meridian_sfu::layers::with_stand_ins;
use meridian_sfu::media::LayerSet;

use super::Key;
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
}

impl Child {
    pub(super) fn demand(&self) -> LayerSet {
        with_stand_ins(self.layers, self.shed)
    }
}

pub(super) struct Parent {
    pub(super) node: NodeId,
    pub(super) asked: LayerSet,
    pub(super) granted: Option<(u32, Vec<String>)>,
    /// Layers that do not come for now, as it said.
    pub(super) absent: LayerSet,
}

impl Route {
    pub(super) fn takes_from(&self, node: &NodeId) -> bool {
        [&self.parent, &self.next]
            .into_iter()
            .flatten()
            .any(|parent| parent.node == *node)
    }

    /// The origin where there is a link, else the edge that hears it and that rendezvous hashing prefers.
    fn best_parent(&self, ctx: &Context, room: &RoomState, key: &Key) -> Option<NodeId> {
        if ctx.is_linked(&self.origin) && !self.refused.contains_key(&self.origin) {
            return Some(self.origin.clone());
        }
        room.relays_to(ctx, &self.origin, key.1.as_str())
            .into_iter()
            .find(|node| !self.refused.contains_key(node) && !self.children.contains_key(node))
    }

    pub(super) fn choose_parent(&mut self, ctx: &mut Context, room: &RoomState, key: &Key, demand: LayerSet) {
        let best = self.best_parent(ctx, room, key);
        let current = self.parent.as_ref().map(|parent| parent.node.clone());
        if best.is_none() || best == current {
            if let Some(next) = self.next.take() {
                ctx.send(&next.node, self.want(key, &ctx.node.clone(), LayerSet::EMPTY));
            }
        } else if let Some(best) = best.filter(|best| self.next.as_ref().is_none_or(|next| next.node != *best)) {
            if let Some(next) = self.next.take() {
                ctx.send(&next.node, self.want(key, &ctx.node.clone(), LayerSet::EMPTY));
            }
            let parent = Parent {
                node: best,
                asked: LayerSet::EMPTY,
                granted: None,
                absent: LayerSet::EMPTY,
            };
            match self.parent {
                // Nothing flows yet: no reason to hold on to it.
                Some(Parent { granted: Some(_), .. }) => self.next = Some(parent),
                _ => {
                    if let Some(old) = self.parent.replace(parent) {
                        ctx.send(&old.node, self.want(key, &ctx.node.clone(), LayerSet::EMPTY));
                    }
                }
            }
        }
        let want = self.want(key, &ctx.node.clone(), demand);
        for parent in [&mut self.parent, &mut self.next].into_iter().flatten() {
            if parent.asked != demand {
                parent.asked = demand;
                ctx.send(&parent.node, want.clone());
            }
        }
    }

    pub(super) fn want(&self, key: &Key, own: &NodeId, layers: LayerSet) -> Body {
        let (room, track) = names(key);
        let behind = self
            .children
            .values()
            .map(|child| &child.path)
            .max_by_key(|path| path.len());
        let mut path = behind.cloned().unwrap_or_default();
        path.push(own.as_str().to_owned());
        Body::Want(TrackWant {
            room,
            track,
            origin: self.origin.as_str().to_owned(),
            epoch: self.epoch,
            layers: u32::from(layers.0),
            path,
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
            ctx.send(&parent.node, self.want(key, &ctx.node.clone(), LayerSet::EMPTY));
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

    /// Tells those who wait that the media comes, once it does.
    pub(super) fn grant_children(&mut self, ctx: &mut Context, key: &Key) {
        let mut path = match &self.parent {
            _ if self.origin == ctx.node => Vec::new(),
            Some(Parent {
                granted: Some((_, path)),
                ..
            }) => path.clone(),
            _ => return,
        };
        path.push(ctx.node.as_str().to_owned());
        let (room, track) = names(key);
        for (node, child) in self.children.iter_mut().filter(|(_, child)| !child.granted) {
            child.granted = true;
            let grant = TrackGrant {
                room: room.clone(),
                track: track.clone(),
                number: child.number,
                path: path.clone(),
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
