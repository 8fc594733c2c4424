//! Which edges this one keeps links to. In a small mesh all of them, so that a room meets over links that stand. In a large one those
//! that rooms and the directory need ([`crate::mesh::Output::ConnectTo`]), and some that hold the mesh together, the same seen from
//! either end: a few neighbours within the region, and for each two regions one edge of either, its portal.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use meridian_room::NodeId;

use crate::carriage::Step;
use crate::rendezvous;
use crate::view::Edge;

/// How long a link that no longer holds the mesh together is kept: views differ for a moment.
const LINGER: Duration = Duration::from_secs(30);
/// How long a link that was asked for may take: dialling is three round trips.
const DIALLED_WITHIN: Duration = Duration::from_millis(1_000);

pub(crate) struct Linking {
    own: Edge,
    all_up_to: usize,
    view: BTreeSet<NodeId>,
    standing: BTreeSet<NodeId>,
    /// By rooms and the directory, and since when.
    needed: BTreeMap<NodeId, Instant>,
    /// No longer standing, until when they are kept.
    lingering: BTreeMap<NodeId, Instant>,
    heard: BTreeSet<NodeId>,
    /// What was said last.
    told: BTreeSet<NodeId>,
    told_audible: BTreeSet<NodeId>,
    changed: bool,
    out: VecDeque<Step>,
}

impl Linking {
    pub(crate) fn new(own: Edge, all_up_to: usize) -> Linking {
        Linking {
            own,
            all_up_to,
            view: BTreeSet::new(),
            standing: BTreeSet::new(),
            needed: BTreeMap::new(),
            lingering: BTreeMap::new(),
            heard: BTreeSet::new(),
            told: BTreeSet::new(),
            told_audible: BTreeSet::new(),
            changed: false,
            out: VecDeque::new(),
        }
    }

    pub(crate) fn view_changed(&mut self, now: Instant, edges: &[Edge]) {
        self.view = edges.iter().map(|edge| edge.node.clone()).collect();
        self.view.remove(&self.own.node);
        let standing = if self.view.len() < self.all_up_to {
            self.view.clone()
        } else {
            standing(&self.own, edges)
        };
        let former = std::mem::replace(&mut self.standing, standing);
        // An edge that the registry does not show is not hung up on: its silence is no death.
        for node in former
            .difference(&self.standing)
            .filter(|node| self.view.contains(*node))
        {
            self.lingering.insert(node.clone(), now + LINGER);
        }
        self.changed = true;
    }

    pub(crate) fn need(&mut self, now: Instant, node: NodeId) {
        self.needed.entry(node).or_insert(now);
        self.changed = true;
    }

    pub(crate) fn release(&mut self, node: &NodeId) {
        self.needed.remove(node);
        self.changed = true;
        self.hang_up(node);
    }

    fn hang_up(&mut self, node: &NodeId) {
        if !self.standing.contains(node) && !self.needed.contains_key(node) && !self.lingering.contains_key(node) {
            self.out.push_back(Step::HangUp(node.clone()));
        }
    }

    pub(crate) fn heard(&mut self, node: &NodeId, is_heard: bool) {
        if is_heard {
            self.heard.insert(node.clone());
        } else {
            self.heard.remove(node);
        }
        self.changed = true;
    }

    /// The edges that can be heard, and those that were dialled only a moment ago.
    fn audible(&self, now: Instant) -> BTreeSet<NodeId> {
        let dialled = |(node, since): (&NodeId, &Instant)| {
            // One that should stand without being needed, and does not, was dialled in vain.
            let lately = now.saturating_duration_since(*since) < DIALLED_WITHIN && !self.standing.contains(node);
            lately.then(|| node.clone())
        };
        let dialled = self.needed.iter().filter_map(dialled);
        self.heard.iter().cloned().chain(dialled).collect()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let over: Vec<NodeId> = self
            .lingering
            .extract_if(.., |_, until| *until <= now)
            .map(|(node, _)| node)
            .collect();
        for node in over {
            self.hang_up(&node);
        }
        self.changed = true;
    }

    pub(crate) fn poll_step(&mut self, now: Instant) -> Option<Step> {
        if std::mem::take(&mut self.changed) {
            let all = self.standing.iter().chain(self.needed.keys());
            let kept: BTreeSet<NodeId> = all
                .chain(self.lingering.keys())
                .filter(|node| self.view.contains(*node))
                .cloned()
                .collect();
            if kept != self.told {
                self.told.clone_from(&kept);
                self.out.push_front(Step::KeepLinks(kept));
            }
            let audible = self.audible(now);
            if audible != self.told_audible {
                self.told_audible.clone_from(&audible);
                self.out.push_back(Step::Audible(audible));
            }
        }
        self.out.pop_front()
    }
}

/// The neighbours of an edge in a large mesh.
fn standing(own: &Edge, edges: &[Edge]) -> BTreeSet<NodeId> {
    let mut regions: BTreeMap<&str, Vec<(u64, &NodeId)>> = BTreeMap::new();
    for edge in edges {
        let place = (rendezvous::hash(edge.node.as_str()), &edge.node);
        regions.entry(&edge.region).or_default().push(place);
    }
    let mut standing = BTreeSet::new();
    let Some(mut ring) = regions.remove(own.region.as_str()) else {
        return standing;
    };
    for (region, others) in &regions {
        let (low, high) = (own.region.as_str().min(region), own.region.as_str().max(region));
        let pair = rendezvous::hash(low) ^ rendezvous::hash(high).rotate_left(1);
        let portal = |edges: &[(u64, &NodeId)]| {
            let weigh = |(hash, node): &(u64, &NodeId)| (rendezvous::weight(pair, *hash), (*node).clone());
            edges.iter().map(weigh).max().map(|(_, node)| node)
        };
        if portal(&ring).as_ref() == Some(&own.node) {
            standing.extend(portal(others));
        }
    }
    ring.sort_unstable();
    let at = ring.iter().position(|(_, node)| **node == own.node).unwrap_or(0);
    let mut distance = 1;
    while distance <= ring.len() / 2 {
        for other in [at + distance, at + ring.len() - distance] {
            standing.insert(ring[other % ring.len()].1.clone());
        }
        distance *= 2;
    }
    standing.remove(&own.node);
    standing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(sizes: &[usize]) -> Vec<Edge> {
        let of = |(region, size): (usize, &usize)| {
            let edge = move |i| Edge {
                node: NodeId::new(format!("r{region}-{i}")),
                region: format!("region-{region}"),
            };
            (0..*size).map(edge).collect::<Vec<_>>()
        };
        sizes.iter().enumerate().flat_map(of).collect()
    }

    /// What it says of links, and whom else it hangs up on.
    fn says(linking: &mut Linking, now: Instant) -> (Option<BTreeSet<NodeId>>, Vec<NodeId>) {
        let (mut kept, mut hung_up) = (None, Vec::new());
        while let Some(step) = linking.poll_step(now) {
            match step {
                Step::KeepLinks(nodes) => kept = Some(nodes),
                Step::HangUp(node) => hung_up.push(node),
                _ => {}
            }
        }
        (kept, hung_up)
    }

    fn keeps(linking: &mut Linking, now: Instant) -> BTreeSet<NodeId> {
        says(linking, now).0.expect("something changed")
    }

    #[test]
    fn what_holds_a_large_mesh_together_is_sparse_connected_and_the_same_from_either_end() {
        let edges = edges(&[40, 1, 2, 60, 17]);
        let of: BTreeMap<NodeId, BTreeSet<NodeId>> = edges
            .iter()
            .map(|edge| (edge.node.clone(), standing(edge, &edges)))
            .collect();
        for (node, neighbours) in &of {
            assert!(neighbours.len() <= 20, "{node}: {}", neighbours.len());
            assert!(neighbours.iter().all(|other| of[other].contains(node)), "{node}");
        }
        let mut reached = BTreeSet::from([edges[0].node.clone()]);
        for _ in 0..8 {
            let next: Vec<NodeId> = reached.iter().flat_map(|node| of[node].iter().cloned()).collect();
            reached.extend(next);
        }
        assert_eq!(reached.len(), edges.len());
    }

    #[test]
    fn a_small_mesh_is_linked_whole_and_a_large_one_where_it_is_needed() {
        let now = Instant::now();
        let all = edges(&[20, 20]);
        let mut linking = Linking::new(all[0].clone(), 64);
        linking.view_changed(now, &all);
        assert_eq!(keeps(&mut linking, now).len(), 39);
        linking.need(now, all[30].node.clone());
        assert_eq!(says(&mut linking, now), (None, vec![]), "it stands already");
        linking.release(&all[30].node);
        assert_eq!(says(&mut linking, now), (None, vec![]), "and goes on standing");

        let mut linking = Linking::new(all[0].clone(), 8);
        linking.view_changed(now, &all);
        let standing = keeps(&mut linking, now);
        let other = all
            .iter()
            .find(|edge| !standing.contains(&edge.node) && edge.node != all[0].node);
        let other = other.expect("not all").node.clone();
        linking.need(now, other.clone());
        assert!(keeps(&mut linking, now).contains(&other));
        assert!(linking.audible(now).contains(&other), "it is on its way");
        assert!(!linking.audible(now + DIALLED_WITHIN).contains(&other));
        linking.heard(&other, true);
        assert!(linking.audible(now + DIALLED_WITHIN).contains(&other));
        linking.release(&other);
        assert_eq!(says(&mut linking, now), (Some(standing), vec![other]));
    }

    #[test]
    fn an_edge_that_leaves_the_view_is_dialled_no_more_but_not_hung_up_on() {
        let now = Instant::now();
        let all = edges(&[3]);
        let mut linking = Linking::new(all[0].clone(), 64);
        linking.view_changed(now, &all);
        keeps(&mut linking, now);
        linking.view_changed(now, &all[..2]);
        assert_eq!(keeps(&mut linking, now).len(), 1);
        linking.handle_timeout(now + 2 * LINGER);
        assert_eq!(says(&mut linking, now), (None, vec![]));
    }
}
