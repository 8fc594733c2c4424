//! Reliable data skips nothing: while somebody does not take it as fast as it comes, here or on another edge, those who send it are held
//! back, and who has not caught up after [`PATIENCE`] is disconnected.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use meridian_room::DisconnectReason;
use meridian_shard_api::{Command, PeerId};
use meridian_signalling::LeaveAction;

use crate::conference::Conference;
use crate::io::{Note, ToMesh};

/// How long everybody waits for one.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long other edges hold their senders back for us if they hear no more of it. Repeated on every tick of the room.
const ELSEWHERE: Duration = Duration::from_millis(1_000);

/// Of one room on this edge.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    /// Whose queues are full, since when.
    full: HashMap<PeerId, Instant>,
    /// Another edge, or a link, is not ready until then.
    elsewhere: Option<Instant>,
    /// This edge's people are held back.
    pub(crate) held: bool,
}

impl Hold {
    /// Whether it has ended that somebody's queue is full.
    fn note(&mut self, peer: PeerId, full: bool, now: Instant) -> bool {
        if full {
            self.full.entry(peer).or_insert(now);
            return false;
        }
        self.full.remove(&peer).is_some() && self.full.is_empty()
    }

    fn wants(&self, now: Instant) -> bool {
        !self.full.is_empty() || self.elsewhere.is_some_and(|until| now < until)
    }

    fn too_slow(&self, now: Instant) -> Vec<PeerId> {
        let slow = self
            .full
            .iter()
            .filter(|(_, since)| now.duration_since(**since) > PATIENCE);
        slow.map(|(peer, _)| *peer).collect()
    }
}

impl Conference {
    /// A queue to a client of this edge has become full, or short again.
    pub(crate) fn data_queue(&mut self, peer: PeerId, full: bool) {
        let full = full && self.peers.contains_key(&peer);
        let relieved = self.hold.note(peer, full, self.now);
        if full || relieved {
            let pause = if full { ELSEWHERE } else { Duration::ZERO };
            self.out.mesh(ToMesh::Hold(pause));
        }
        self.settle_hold();
    }

    /// Another edge, or the way to it, needs a pause. Zero: it does not any more.
    pub(crate) fn hold_for(&mut self, pause: Duration) {
        self.hold.elsewhere = (!pause.is_zero()).then(|| self.now + pause.min(ELSEWHERE));
        self.settle_hold();
    }

    fn settle_hold(&mut self) {
        let held = self.hold.wants(self.now);
        if held == self.hold.held {
            return;
        }
        self.hold.held = held;
        for &peer in self.peers.keys() {
            self.out.media(Command::HoldData { peer, held });
        }
    }

    /// On every tick.
    pub(crate) fn tend_hold(&mut self) {
        for peer in self.hold.too_slow(self.now) {
            let key = self.peers.get(&peer).copied();
            if let Some((key, member)) = key.and_then(|key| Some((key, self.members.get_mut(&key)?))) {
                tracing::warn!(room = %self.name, identity = %member.stay.identity, "disconnected: did not take its reliable data");
                member
                    .voice
                    .leave(LeaveAction::Reconnect, DisconnectReason::ConnectionTimeout);
                self.out.note(Note::DataNotTaken);
                self.remove(
                    key,
                    DisconnectReason::ConnectionTimeout,
                    "did not take its reliable data",
                );
            }
        }
        if !self.hold.full.is_empty() {
            self.out.mesh(ToMesh::Hold(ELSEWHERE));
        }
        self.settle_hold();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: PeerId = PeerId { shard: 0, index: 1 };
    const OTHER: PeerId = PeerId { shard: 0, index: 2 };

    #[test]
    fn senders_wait_while_anybody_does_not_take_data_and_not_for_ever() {
        let start = Instant::now();
        let mut hold = Hold::default();
        assert!(!hold.wants(start));
        assert!(!hold.note(SLOW, true, start) && !hold.note(OTHER, true, start));
        assert!(!hold.note(OTHER, false, start), "the other is still full");
        assert!(hold.wants(start));
        hold.note(SLOW, true, start + PATIENCE);
        assert!(hold.too_slow(start + PATIENCE).is_empty());
        assert_eq!(hold.too_slow(start + 2 * PATIENCE), [SLOW]);
        assert!(hold.note(SLOW, false, start));
        assert!(!hold.wants(start) && !hold.note(SLOW, false, start));
        hold.elsewhere = Some(start + ELSEWHERE);
        assert!(
            hold.wants(start) && !hold.wants(start + ELSEWHERE),
            "an edge that is gone does not hold anybody back"
        );
    }
}
