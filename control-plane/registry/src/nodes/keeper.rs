//! What everybody believes about the nodes, given what the registry says. sans-IO.
//!
//! The registry's word is taken for placement at once: a node whose lease ended gets nobody new. But one failure makes many leases end
//! together, a registry that lost its data or its clock, and then the nodes are most likely fine: so if more than a fifth of them
//! (and at least two) vanish within [`KeeperConfig::window`], all of those are kept, marked as suspects, until they are back or
//! neighbours know that they are dead. A node that says [`NodeState::Leaving`] first is believed. A registry that has gone back in time
//! is not believed about anybody who is missing from it, however few.

use super::{NODES_PREFIX, NodeRecord, NodeState};
use crate::{Change, Entry, WatchEvent};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// The rule's numbers.
#[derive(Debug, Clone)]
pub struct KeeperConfig {
    /// Vanishing within this time counts as vanishing together. At least a lease's length.
    pub window: Duration,
    /// More than this share of the nodes vanishing together is taken for an outage of the registry.
    pub vanish_share_max: f64,
}

impl Default for KeeperConfig {
    fn default() -> Self {
        KeeperConfig {
            window: Duration::from_secs(12),
            vanish_share_max: 0.2,
        }
    }
}

/// All nodes as they are believed to be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    pub nodes: BTreeMap<String, ViewNode>,
    /// Whether the registry has been heard at all.
    pub known: bool,
    /// Grows with every change.
    pub generation: u64,
}

impl View {
    pub fn get(&self, id: &str) -> Option<&NodeRecord> {
        self.nodes.get(id).map(|node| &node.record)
    }

    pub fn records(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values().map(|node| &node.record)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct ViewNode {
    pub record: NodeRecord,
    /// The registry no longer lists it, but so many vanished with it that it is kept.
    pub suspect: bool,
}

/// Turns watch events into views. Call [`Self::poll_view`] after every event.
#[derive(Debug, Default)]
pub struct ViewKeeper {
    config: KeeperConfig,
    view: View,
    changed: bool,
    /// Nodes dropped within the window, with when. What is restored if too many follow.
    vanished: Vec<(Instant, NodeRecord)>,
    /// Until then the registry's losses are not believed at all: it has just lost too many.
    distrust_until: Option<Instant>,
}

impl ViewKeeper {
    pub fn new(config: KeeperConfig) -> Self {
        ViewKeeper {
            config,
            ..Self::default()
        }
    }

    /// The view after the last event, if it changed since the last call.
    pub fn poll_view(&mut self) -> Option<View> {
        std::mem::take(&mut self.changed).then(|| {
            self.view.generation += 1;
            self.view.clone()
        })
    }

    pub fn handle(&mut self, now: Instant, event: WatchEvent) {
        self.vanished
            .retain(|(at, _)| now.duration_since(*at) < self.config.window);
        match event {
            WatchEvent::Snapshot(entries) => self.snapshot(now, entries),
            WatchEvent::Rewound(entries) => {
                tracing::warn!("the registry has forgotten what it knew: whoever is missing from it is kept");
                self.distrust_until = Some(now + self.config.window);
                self.snapshot(now, entries);
            }
            WatchEvent::Changes(changes) => {
                for change in changes {
                    match change {
                        Change::Put(entry) => self.put(&entry),
                        Change::Delete { key, .. } => {
                            if let Some(id) = key.strip_prefix(NODES_PREFIX) {
                                self.gone(now, id);
                            }
                        }
                    }
                }
            }
        }
        self.restore_if_too_many(now);
        if !self.view.known {
            self.view.known = true;
            self.changed = true;
        }
    }

    /// A kept node is dead after all.
    pub fn confirm_dead(&mut self, id: &str) {
        if self.view.nodes.get(id).is_some_and(|node| node.suspect) {
            self.view.nodes.remove(id);
            self.changed = true;
        }
    }

    fn snapshot(&mut self, now: Instant, entries: Vec<Entry>) {
        let listed: BTreeSet<String> = entries
            .iter()
            .filter_map(|entry| entry.key.strip_prefix(NODES_PREFIX))
            .map(str::to_owned)
            .collect();
        for entry in &entries {
            self.put(entry);
        }
        let missing: Vec<String> = self
            .view
            .nodes
            .keys()
            .filter(|id| !listed.contains(*id))
            .cloned()
            .collect();
        for id in missing {
            self.gone(now, &id);
        }
    }

    fn put(&mut self, entry: &Entry) {
        let Some(record) = NodeRecord::from_json(&entry.key, &entry.value) else {
            return;
        };
        self.vanished.retain(|(_, gone)| gone.id != record.id);
        let node = ViewNode { record, suspect: false };
        if self.view.nodes.get(&node.record.id) != Some(&node) {
            self.view.nodes.insert(node.record.id.clone(), node);
            self.changed = true;
        }
    }

    fn gone(&mut self, now: Instant, id: &str) {
        let Some(node) = self.view.nodes.get_mut(id) else {
            return;
        };
        // Who is a suspect already has been counted.
        if node.suspect {
            return;
        }
        if node.record.state != NodeState::Leaving && self.distrust_until.is_some_and(|until| now < until) {
            node.suspect = true;
            self.changed = true;
            return;
        }
        if let Some(node) = self.view.nodes.remove(id) {
            self.changed = true;
            if node.record.state != NodeState::Leaving {
                self.vanished.push((now, node.record));
            }
        }
    }

    fn restore_if_too_many(&mut self, now: Instant) {
        let before = self.view.nodes.len() + self.vanished.len();
        let allowed = (before as f64 * self.config.vanish_share_max).max(1.0);
        if self.vanished.len() as f64 <= allowed {
            return;
        }
        tracing::warn!(
            vanished = self.vanished.len(),
            of = before,
            "many nodes vanished from the registry together: its view is not believed, the last one is kept"
        );
        self.distrust_until = Some(now + self.config.window);
        for (_, record) in self.vanished.drain(..) {
            self.view
                .nodes
                .insert(record.id.clone(), ViewNode { record, suspect: true });
            self.changed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::record;
    use super::*;

    fn entry(id: &str, state: NodeState) -> Entry {
        let record = NodeRecord { state, ..record(id) };
        Entry {
            key: record.key(),
            value: record.to_json(),
            revision: 1,
            lease: None,
        }
    }

    fn snapshot(ids: std::ops::Range<usize>) -> WatchEvent {
        WatchEvent::Snapshot(ids.map(|n| entry(&format!("n{n}"), NodeState::Active)).collect())
    }

    fn delete(id: usize) -> WatchEvent {
        WatchEvent::Changes(vec![Change::Delete {
            key: format!("nodes/n{id}"),
            revision: 2,
        }])
    }

    fn keeper(nodes: usize) -> (ViewKeeper, Instant) {
        let mut keeper = ViewKeeper::new(KeeperConfig::default());
        let now = Instant::now();
        keeper.handle(now, snapshot(0..nodes));
        assert_eq!(keeper.poll_view().unwrap().nodes.len(), nodes);
        assert!(keeper.poll_view().is_none());
        (keeper, now)
    }

    #[test]
    fn a_registry_that_forgot_is_not_believed_about_a_single_node() {
        let (mut keeper, now) = keeper(2);
        let WatchEvent::Snapshot(entries) = snapshot(1..2) else {
            unreachable!()
        };
        keeper.handle(now, WatchEvent::Rewound(entries));
        let view = keeper.poll_view().unwrap();
        assert!(view.nodes["n0"].suspect && !view.nodes["n1"].suspect);
        keeper.handle(now, snapshot(0..2));
        assert_eq!((keeper.view.nodes.len(), suspects(&keeper)), (2, 0), "and it is back");
    }

    fn suspects(keeper: &ViewKeeper) -> usize {
        keeper.view.nodes.values().filter(|node| node.suspect).count()
    }

    #[test]
    fn one_of_three_that_is_killed_is_gone_at_once() {
        let (mut keeper, now) = keeper(3);
        keeper.handle(now, delete(1));
        assert_eq!(keeper.poll_view().unwrap().nodes.len(), 2);
    }

    #[test]
    fn a_fifth_may_go_and_more_together_are_kept_including_the_first_ones() {
        let (mut keeper, now) = keeper(10);
        keeper.handle(now, delete(0));
        keeper.handle(now + Duration::from_secs(3), delete(1));
        assert_eq!(keeper.poll_view().unwrap().nodes.len(), 8);
        keeper.handle(now + Duration::from_secs(6), delete(2));
        assert_eq!((keeper.view.nodes.len(), suspects(&keeper)), (10, 3));
    }

    #[test]
    fn whoever_follows_the_many_is_kept_too_for_a_while() {
        let (mut keeper, now) = keeper(10);
        for node in 0..5 {
            keeper.handle(now, delete(node));
        }
        assert_eq!((keeper.view.nodes.len(), suspects(&keeper)), (10, 5));
        keeper.handle(now + Duration::from_secs(11), delete(5));
        assert_eq!((keeper.view.nodes.len(), suspects(&keeper)), (10, 6));
        keeper.handle(now + Duration::from_secs(13), delete(6));
        assert_eq!((keeper.view.nodes.len(), suspects(&keeper)), (9, 6));
    }

    #[test]
    fn slow_losses_are_believed() {
        let (mut keeper, mut now) = keeper(10);
        for node in 0..6 {
            keeper.handle(now, delete(node));
            now += Duration::from_secs(13);
        }
        assert_eq!((keeper.view.nodes.len(), suspects(&keeper)), (4, 0));
    }

    #[test]
    fn an_emptied_registry_empties_no_view_and_returning_nodes_are_no_longer_suspects() {
        let (mut keeper, now) = keeper(5);
        keeper.handle(now, snapshot(0..0));
        assert_eq!((keeper.view.nodes.len(), suspects(&keeper)), (5, 5));
        keeper.handle(now + Duration::from_secs(1), snapshot(0..0));
        assert_eq!((keeper.view.nodes.len(), suspects(&keeper)), (5, 5));
        keeper.handle(now + Duration::from_secs(60), snapshot(0..3));
        assert_eq!((keeper.view.nodes.len(), suspects(&keeper)), (5, 2));
        keeper.confirm_dead("n4");
        keeper.confirm_dead("n0");
        assert_eq!((keeper.view.nodes.len(), suspects(&keeper)), (4, 1));
    }

    #[test]
    fn nodes_that_say_goodbye_are_believed_however_many() {
        let (mut keeper, now) = keeper(4);
        for id in 0..4 {
            let leaving = entry(&format!("n{id}"), NodeState::Leaving);
            keeper.handle(now, WatchEvent::Changes(vec![Change::Put(leaving)]));
            keeper.handle(now, delete(id));
        }
        assert!(keeper.view.nodes.is_empty());
    }

    #[test]
    fn nonsense_in_the_registry_is_skipped() {
        let (mut keeper, now) = keeper(2);
        let mut wrong = entry("n7", NodeState::Active);
        wrong.key = "nodes/n0".into();
        let junk = Entry {
            key: "nodes/n8".into(),
            value: "{".into(),
            revision: 3,
            lease: None,
        };
        keeper.handle(now, WatchEvent::Changes(vec![Change::Put(wrong), Change::Put(junk)]));
        assert_eq!(keeper.view.nodes.len(), 2);
        assert!(keeper.poll_view().is_none());
    }

    #[test]
    fn records_of_a_newer_version_are_read() {
        let json = br#"{"version":9,"id":"n1","region":"fra","client_url":"wss://x","state":"hibernating","new":1}"#;
        let record = NodeRecord::from_json("nodes/n1", json).unwrap();
        assert_eq!(record.state, NodeState::Unknown);
    }
}
