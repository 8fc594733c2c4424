//! Edges in regions: how far apart they are, what they measure, and edges of an older build among them.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use meridian_cascade::{Edge, wire};
use meridian_room::NodeId;
use rand::Rng;

use super::{Link, World, id, index, pair};

/// After how long a silence a link is suspected, as the links themselves do.
pub(super) const SUSPICION: Duration = Duration::from_millis(175);

#[derive(Default)]
pub(super) struct Regions {
    /// Of each edge; one region if there is none.
    of: Vec<usize>,
    /// Edges that know nothing of trees.
    old: BTreeSet<usize>,
    /// Of one measurement, as a share of it.
    noise: f64,
    steps: u32,
}

impl Regions {
    /// An older build never looked at regions.
    pub(super) fn view(&self, at: usize, edges: &[usize]) -> Vec<Edge> {
        let region = |i: &usize| match self.of.get(*i) {
            _ if self.old.contains(&at) => String::new(),
            Some(region) => format!("region-{region}"),
            None => "eu".to_owned(),
        };
        let edge = |i: &usize| Edge {
            node: id(*i),
            region: region(i),
        };
        edges.iter().map(edge).collect()
    }

    /// How long both sides of a broken pair take to give it up.
    pub(super) fn detection(&self) -> Duration {
        Duration::from_millis(if self.of.is_empty() { 200 } else { 3_000 })
    }

    /// An older build neither sends nor reads what came later.
    pub(super) fn as_understood(&self, from: usize, to: usize, message: Bytes) -> Bytes {
        if !self.old.contains(&from) && !self.old.contains(&to) {
            return message;
        }
        let Ok(Some(mut body)) = wire::decode(&message) else {
            return message;
        };
        match &mut body {
            wire::Body::Hears(hears) => hears.latencies_us.clear(),
            wire::Body::Digest(digest) => digest.latencies_us.clear(),
            wire::Body::Grant(grant) => (grant.latency_us, grant.epoch) = (0, 0),
            _ => {}
        }
        wire::encode(body)
    }
}

impl World {
    /// So many edges in each region: 1–4 ms within one, 20–120 ms one way between two, a little different for each pair.
    pub(crate) fn of_regions(seed: u64, sizes: &[usize]) -> World {
        let mut world = World::new(seed, sizes.iter().sum());
        world.regions.of = (0..sizes.len())
            .flat_map(|region| std::iter::repeat_n(region, sizes[region]))
            .collect();
        world.regions.noise = 0.05;
        let apart: Vec<Vec<u64>> = (0..sizes.len())
            .map(|_| (0..sizes.len()).map(|_| world.rng.random_range(20..120)).collect())
            .collect();
        let of = world.regions.of.clone();
        for (&(a, b), link) in &mut world.links {
            let ms = if of[a] == of[b] {
                world.rng.random_range(1..4)
            } else {
                apart[of[a].min(of[b])][of[a].max(of[b])] + world.rng.random_range(0..3)
            };
            link.latency = Duration::from_millis(ms);
        }
        world
    }

    /// These know nothing of trees. Call it before the first view.
    pub(crate) fn are_old(&mut self, edges: &[usize]) {
        self.regions.old.extend(edges);
    }

    pub(crate) fn region(&self, edge: usize) -> usize {
        self.regions.of[edge]
    }

    pub(crate) fn latency(&self, a: usize, b: usize) -> Duration {
        self.links[&pair(a, b)].latency
    }

    pub(crate) fn set_latency(&mut self, a: usize, b: usize, latency: Duration) {
        self.links.get_mut(&pair(a, b)).expect("a pair").latency = latency;
    }

    pub(crate) fn is_alive(&self, edge: usize) -> bool {
        self.nodes[edge].alive
    }

    pub(crate) fn heal_all(&mut self) {
        self.broken.clear();
    }

    pub(crate) fn generation(&self, a: usize, b: usize) -> u32 {
        self.links[&pair(a, b)].generation
    }

    /// Who sends a track to this edge.
    pub(crate) fn source(&self, track: &str, edge: usize) -> Option<usize> {
        let (from, _): &(NodeId, u32) = self.nodes[edge].sources.get(track)?;
        Some(index(from))
    }

    /// Every second each link tells its round trip, give or take.
    pub(super) fn measure(&mut self) {
        self.regions.steps += 1;
        if self.regions.of.is_empty() || !self.regions.steps.is_multiple_of(20) {
            return;
        }
        for (&(a, b), Link { up, latency, .. }) in &self.links {
            for (at, of) in [(a, b), (b, a)] {
                let noise = self.regions.noise;
                let measured = (2 * *latency).mul_f64(1.0 + self.rng.random_range(-noise..noise));
                if *up && self.nodes[at].alive {
                    self.nodes[at].mesh.link_measured(&id(of), measured, 0.0);
                }
            }
        }
    }
}
