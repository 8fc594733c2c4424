//! The live edges as the registry shows them, and the home edges that follow from them.

use std::collections::BTreeMap;
use std::time::Instant;

use meridian_room::{NodeId, RoomName};

use crate::rendezvous;
use crate::wire::EDGES_MAX;

/// A live edge, as the registry shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    pub node: NodeId,
    pub region: String,
}

/// The home edges of a room, the first being the one that fixes its incarnation. Nobody, before this edge has a view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Homes {
    pub(crate) first: Option<NodeId>,
    pub(crate) second: Option<NodeId>,
}

impl Homes {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &NodeId> {
        self.first.iter().chain(&self.second)
    }

    pub(crate) fn contains(&self, node: &NodeId) -> bool {
        self.iter().any(|home| home == node)
    }

    pub(crate) fn is_first(&self, node: &NodeId) -> bool {
        self.first.as_ref() == Some(node)
    }

    pub(crate) fn is_second(&self, node: &NodeId) -> bool {
        self.second.as_ref() == Some(node)
    }
}

#[derive(Default)]
pub(crate) struct View {
    edges: Vec<Edge>,
    since: Option<Instant>,
    all: Vec<Candidate>,
    regions: BTreeMap<String, Vec<Candidate>>,
}

/// A node and its hash, taken once: a room is weighed against a thousand edges in a few microseconds.
type Candidate = (u64, NodeId);

impl View {
    /// False if nothing changed.
    pub(crate) fn replace(&mut self, now: Instant, mut edges: Vec<Edge>) -> bool {
        edges.sort_unstable();
        edges.dedup_by(|a, b| a.node == b.node);
        edges.truncate(EDGES_MAX);
        if edges == self.edges && self.since.is_some() {
            return false;
        }
        self.since = Some(now);
        self.regions.clear();
        let candidate = |edge: &Edge| (rendezvous::hash(edge.node.as_str()), edge.node.clone());
        self.all = edges.iter().map(candidate).collect();
        for edge in &edges {
            self.regions
                .entry(edge.region.clone())
                .or_default()
                .push(candidate(edge));
        }
        self.edges = edges;
        true
    }

    /// When it last changed; `None` before the first.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// The two home edges of a room: of its region if any edge lives there, else of all. An edge whose view is empty is its
    /// own home.
    pub(crate) fn homes(&self, own: &NodeId, room: &RoomName, region: &str) -> Homes {
        if self.since.is_none() {
            return Homes::default();
        }
        let candidates = self
            .regions
            .get(region)
            .filter(|_| !region.is_empty())
            .unwrap_or(&self.all);
        let room = rendezvous::hash(room.as_str());
        let mut best: [Option<(u64, &NodeId)>; 2] = [None, None];
        for (hash, node) in candidates {
            let this = Some((rendezvous::weight(room, *hash), node));
            if this > best[0] {
                best = [this, best[0]];
            } else if this > best[1] {
                best[1] = this;
            }
        }
        let [first, second] = best.map(|best| best.map(|(_, node)| node.clone()));
        Homes {
            first: first.or_else(|| Some(own.clone())),
            second,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(of: &[(&str, &str)]) -> Vec<Edge> {
        of.iter()
            .map(|(node, region)| Edge {
                node: NodeId::from(*node),
                region: (*region).to_owned(),
            })
            .collect()
    }

    #[test]
    fn homes_are_of_the_rooms_region_while_an_edge_lives_there() {
        let own = NodeId::from("me");
        let room = RoomName::from("r");
        let mut view = View::default();
        assert_eq!(view.homes(&own, &room, "eu"), Homes::default());
        let now = Instant::now();
        assert!(view.replace(
            now,
            edges(&[("fra-1", "eu"), ("fra-2", "eu"), ("iad-1", "us"), ("sin-1", "asia")])
        ));
        assert!(!view.replace(
            now,
            edges(&[("sin-1", "asia"), ("iad-1", "us"), ("fra-2", "eu"), ("fra-1", "eu")])
        ));
        for name in ["a", "b", "c"] {
            let homes = view.homes(&own, &RoomName::from(name), "eu");
            assert!(homes.iter().all(|home| home.as_str().starts_with("fra")) && homes.second.is_some());
        }
        assert_eq!(view.homes(&own, &room, "us").second, None);
        assert_eq!(view.homes(&own, &room, "mars").iter().count(), 2);
        assert!(view.replace(now, Vec::new()));
        assert!(view.homes(&own, &room, "eu").is_first(&own));
    }

    #[test]
    fn an_edge_that_goes_moves_only_the_rooms_it_was_home_to() {
        let own = NodeId::from("me");
        let all: Vec<Edge> = (0..20)
            .map(|i| Edge {
                node: NodeId::new(format!("e{i}")),
                region: String::new(),
            })
            .collect();
        let (mut before, mut after) = (View::default(), View::default());
        before.replace(Instant::now(), all.clone());
        after.replace(Instant::now(), all[1..].to_vec());
        for i in 0..500 {
            let room = RoomName::new(format!("room-{i}"));
            let (old, new) = (before.homes(&own, &room, ""), after.homes(&own, &room, ""));
            if !old.contains(&all[0].node) {
                assert_eq!(old, new);
            } else if old.is_first(&all[0].node) {
                assert_eq!(old.second, new.first, "the second home takes over");
            }
        }
    }
}
