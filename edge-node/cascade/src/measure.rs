//! What is known of the links to other edges, and of where those stand: what a way through them would cost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use meridian_room::NodeId;

use crate::view::Edge;

/// Of so many measurements the middle one holds: an end that waited for its turn looks like a long path for a second or two.
const SAMPLES: usize = 5;

#[derive(Default)]
pub(crate) struct Measures {
    latencies: BTreeMap<NodeId, VecDeque<Duration>>,
    suspects: BTreeSet<NodeId>,
    regions: BTreeMap<NodeId, String>,
}

impl Measures {
    /// A linked edge that the registry forgets still stands where it stood.
    pub(crate) fn set_regions(&mut self, edges: &[Edge], links: &BTreeSet<NodeId>) {
        self.regions.retain(|node, _| links.contains(node));
        let known = edges.iter().filter(|edge| !edge.region.is_empty());
        self.regions
            .extend(known.map(|edge| (edge.node.clone(), edge.region.clone())));
    }

    /// `None` where nobody has said.
    pub(crate) fn region(&self, node: &NodeId) -> Option<&str> {
        self.regions.get(node).map(String::as_str)
    }

    pub(crate) fn measured(&mut self, node: &NodeId, rtt: Duration, loss: f32) {
        // A lost packet comes a round trip late.
        let latency = rtt / 2 + rtt.mul_f32(loss.clamp(0.0, 1.0));
        if rtt.is_zero() {
            return;
        }
        let samples = self.latencies.entry(node.clone()).or_default();
        samples.push_back(latency);
        if samples.len() > SAMPLES {
            samples.pop_front();
        }
    }

    /// One way, what is lost and repeated reckoned in; `None` before it was measured.
    pub(crate) fn latency(&self, node: &NodeId) -> Option<Duration> {
        let mut samples: Vec<Duration> = self.latencies.get(node)?.iter().copied().collect();
        samples.sort_unstable();
        samples.get(samples.len() / 2).copied()
    }

    /// As it travels: microseconds, 0 for unknown.
    pub(crate) fn latency_us(&self, node: &NodeId) -> u32 {
        self.latency(node).map_or(0, micros)
    }

    pub(crate) fn suspect(&mut self, node: &NodeId) -> bool {
        self.suspects.insert(node.clone())
    }

    pub(crate) fn alive(&mut self, node: &NodeId) -> bool {
        self.suspects.remove(node)
    }

    pub(crate) fn is_suspect(&self, node: &NodeId) -> bool {
        self.suspects.contains(node)
    }

    /// The link is gone, and with it what was measured on it.
    pub(crate) fn forget(&mut self, node: &NodeId) {
        self.latencies.remove(node);
        self.suspects.remove(node);
    }
}

/// At least 1, because 0 says that nothing is known.
pub(crate) fn micros(latency: Duration) -> u32 {
    u32::try_from(latency.as_micros()).unwrap_or(u32::MAX).max(1)
}
