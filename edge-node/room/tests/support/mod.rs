//! Edges of one room, and what passes between them.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::time::Instant;

use meridian_room::*;
use prost::Message;
use rand::rngs::SmallRng;

pub struct Edge {
    pub room: Room,
    pub node: NodeId,
    pub sids: Vec<(ParticipantSid, Identity)>,
}

pub fn node(i: usize) -> NodeId {
    NodeId::new(format!("edge-{i}"))
}

pub fn edge(i: usize, incarnation: u64) -> Edge {
    let info = RoomInfo::new(RoomSid::new(format!("RM_{i}")), 0);
    Edge {
        room: Room::new(RoomName::from("r"), node(i), info, incarnation),
        node: node(i),
        sids: Vec::new(),
    }
}

pub fn person(identity: &str, rng: &mut SmallRng) -> NewParticipant {
    let mut new = NewParticipant::new(Identity::from(identity), ParticipantSid::generate(rng));
    new.name = identity.to_uppercase();
    new
}

/// What clients would see: everything but which edge wrote it is compared.
pub fn view(room: &Room) -> Vec<Participant> {
    room.participants().map(|p| (**p).clone()).collect()
}

pub fn events(room: &mut Room) -> Vec<RoomEvent> {
    std::iter::from_fn(|| room.poll_event()).collect()
}

/// Digest exchange over every pair until nobody lacks anything.
pub fn settle(edges: &mut [Edge], now: Instant) {
    for _ in 0..edges.len() + 2 {
        for a in 0..edges.len() {
            for b in 0..edges.len() {
                if a != b {
                    pull(edges, a, b, now);
                }
            }
        }
    }
}

/// `a` asks `b` for what it lacks.
pub fn pull(edges: &mut [Edge], a: usize, b: usize, now: Instant) {
    let digest = RoomDigest::decode(edges[a].room.digest().encode_to_vec().as_slice()).expect("digest");
    for delta in edges[b].room.delta_since(&digest) {
        let delta = RoomDelta::decode(delta.encode_to_vec().as_slice()).expect("delta");
        let from = edges[b].node.clone();
        edges[a].room.apply(now, &from, delta).expect("same room");
    }
}
