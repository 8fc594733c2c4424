//! What edges should be, as a whole: said when one attaches, so that a command that was lost with its stream is not lost for good.
//! And the other direction: each entry of an edge's outbox once.

use super::edge::Stream;
use super::{Attachment, CLOSED_MAX, Fleet, State};
use meridian_outbox::Taken;
use meridian_wire::v1;

impl Fleet {
    /// All that an edge is told when it attaches. Without an operator's word it stays as it is.
    pub(crate) fn desired(&self, node: &str, policy: v1::Policy, now_ms: u64) -> v1::Desired {
        let state = self.lock();
        v1::Desired {
            policy: Some(policy),
            state: state.wanted.get(node).map(|wanted| wanted.command(now_ms)),
            closed: state.ended.iter().cloned().collect(),
        }
    }

    /// Whether an edge has missed a command because it does not read them: its stream is of no use any more.
    pub(crate) fn is_behind(&self, attachment: &Attachment) -> bool {
        let mut state = self.lock();
        let edge = state.attached(attachment);
        edge.is_some_and(|edge| edge.stream.as_ref().is_some_and(Stream::is_behind))
    }

    /// An entry of an edge's outbox has come.
    pub(crate) fn take_entry(&self, attachment: &Attachment, number: u64) -> Taken {
        let mut state = self.lock();
        // Also over a stream that another has replaced.
        let edge = state.edges.entry(attachment.node.clone()).or_default();
        edge.inbox.take(attachment.incarnation, number)
    }

    /// Through which number an edge's entries have come.
    pub(crate) fn entries_through(&self, attachment: &Attachment) -> u64 {
        let state = self.lock();
        let edge = state.edges.get(&attachment.node);
        edge.map_or(0, |edge| edge.inbox.through(attachment.incarnation))
    }
}

impl State {
    /// A meeting has ended, here or at another replica.
    pub(super) fn note_ended(&mut self, close: v1::CloseRoom) {
        self.ended.retain(|known| known.room != close.room);
        self.ended.truncate(CLOSED_MAX - 1);
        self.ended.push_front(close);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_geo::Policy;
    use meridian_registry::MemoryRegistry;
    use meridian_registry::nodes::{KeeperConfig, NodeWatch};
    use std::sync::Arc;
    use std::time::Instant;

    fn fleet() -> Fleet {
        let nodes = NodeWatch::start(Arc::new(MemoryRegistry::new()), KeeperConfig::default());
        Fleet::new(nodes, Policy::default())
    }

    #[tokio::test]
    async fn what_an_operator_wants_of_an_edge_is_told_with_the_rest_and_a_drain_does_not_begin_anew() {
        let (fleet, now) = (fleet(), Instant::now());
        let state = |now_ms| fleet.desired("fra-1", v1::Policy::default(), now_ms).state;
        assert_eq!(state(1_000), None, "no wish is no wish to be active");
        let row = v1::WantedStage {
            edge: "fra-1".into(),
            stage: v1::NodeState::Draining.into(),
            until_ms: 61_000,
            changed_ms: 1_000,
            people: 0,
        };
        assert_eq!(fleet.take_wanted(vec![row], now, 1_000).len(), 1);
        for (now_ms, left) in [(1_000, 60_000), (21_000, 40_000), (91_000, 1)] {
            let told = state(now_ms).unwrap();
            assert_eq!((told.state(), told.drain_deadline_ms), (v1::NodeState::Draining, left));
        }
    }

    #[tokio::test]
    async fn an_edge_that_missed_a_command_is_behind_until_it_attaches_again() {
        let fleet = fleet();
        let attach = || {
            let (commands, queue) = tokio::sync::mpsc::channel(1);
            let hello = v1::Hello {
                node: "fra-1".into(),
                ..v1::Hello::default()
            };
            (fleet.attach(&hello, commands, Instant::now()), queue)
        };
        let close = || {
            fleet.close(v1::CloseRoom {
                room: "r".into(),
                reason: "ended".into(),
            });
        };
        let (first, _unread) = attach();
        close();
        assert!(!fleet.is_behind(&first));
        close();
        assert!(fleet.is_behind(&first));
        let (second, _unread) = attach();
        assert!(!fleet.is_behind(&second) && !fleet.is_behind(&first));
    }

    #[tokio::test]
    async fn the_latest_ended_meetings_are_told_each_once() {
        let fleet = fleet();
        for number in 0..CLOSED_MAX + 10 {
            for _ in 0..2 {
                fleet.close(v1::CloseRoom {
                    room: format!("room-{number}"),
                    reason: "ended".into(),
                });
            }
        }
        let told = fleet.desired("fra-1", v1::Policy::default(), 0).closed;
        assert_eq!(told.len(), CLOSED_MAX);
        assert_eq!(told[0].room, format!("room-{}", CLOSED_MAX + 9));
    }
}
