//! Who holds an identity when several edges say that it is theirs: the highest epoch, everywhere alike.

use std::sync::Arc;
use std::time::Instant;

use super::{MOVED, OUTRANKED, Room, RoomEvent, WriterKey};
use crate::facts::{DisconnectReason, Former, Participant};
use crate::ids::{Epoch, Identity, ParticipantSid, Version};
use crate::replica::{Record, Writer};

impl Room {
    /// The latest stay. What an edge that died has said comes after everything that living ones say: an edge that came later may never
    /// have heard of it, and would give lower epochs without knowing.
    pub(super) fn winner(&self, identity: &Identity) -> Option<(&WriterKey, &Writer, &Record)> {
        self.writers
            .iter()
            .filter_map(|(key, writer)| Some((key, writer, writer.records.get(identity)?)))
            .max_by_key(|&(key, writer, record)| (!writer.is_dead(), record.facts.epoch, key))
    }

    /// A local stay that another edge's outranks ends, unless it was made before this edge could know of the other: then it
    /// claims the identity once more, with an epoch that counts.
    pub(super) fn settle_local_claim(&mut self, identity: &Identity) {
        let own_key = (self.node.clone(), self.incarnation);
        let Some((key, writer, winner)) = self.winner(identity) else {
            return;
        };
        let (theirs, fresh) = (winner.facts.epoch, writer.fresh);
        if *key == own_key {
            return;
        }
        let Some(own) = self.writers.get(&own_key).and_then(|w| w.records.get(identity)) else {
            return;
        };
        if !own.facts.is_live() || !self.locals.contains_key(&own.facts.sid) {
            return;
        }
        let mut facts = (*own.facts).clone();
        let provisional = self.provisional.remove(identity);
        // A stay that was told to go elsewhere waits for just that.
        if fresh && !facts.moving && provisional.is_some_and(|until| self.now.is_some_and(|now| now < until)) {
            self.clock = self.clock.max(theirs.0) + 1;
            facts.epoch = Epoch(self.clock);
            facts.version = Version(facts.version.0.saturating_add(1));
            self.put(facts);
        } else {
            self.locals.remove(&facts.sid);
            let lasts = if facts.moving { MOVED } else { OUTRANKED };
            match self.now {
                Some(now) => self
                    .outranked
                    .push_back((now + lasts, identity.clone(), facts.sid.clone())),
                None => self.withdraw(identity, DisconnectReason::DuplicateIdentity),
            }
            self.events.push_back(RoomEvent::LocalEvicted {
                sid: facts.sid,
                identity: identity.clone(),
            });
        }
    }

    /// Withdraws the records of stays that others outrank, once everybody has had time to hear of the later stay. Withdrawn at
    /// once, the news of the end could overtake the news of the move on its way to a third edge.
    pub(super) fn withdraw_outranked(&mut self, now: Instant) {
        let all = std::mem::take(&mut self.outranked).into_iter();
        let (due, later): (Vec<_>, Vec<_>) = all.partition(|(at, _, _)| *at <= now);
        self.outranked = later.into();
        for (_, identity, sid) in due {
            self.withdraw_outranked_stay(&identity, &sid);
        }
    }

    pub(super) fn withdraw_outranked_stay(&mut self, identity: &Identity, sid: &ParticipantSid) {
        let own = self.own().records.get(identity);
        if own.is_some_and(|record| record.facts.sid == *sid) && !self.locals.contains_key(sid) {
            self.withdraw(identity, DisconnectReason::DuplicateIdentity);
            self.refresh(identity);
        }
    }

    /// The holder of an identity, with the tracks of the stay it has moved from while that edge lets them go on.
    pub(super) fn with_former(&self, facts: &Arc<Participant>) -> Arc<Participant> {
        let stays = self.writers.values().filter(|writer| !writer.is_dead());
        let former = stays
            .filter_map(|writer| Some(&writer.records.get(&facts.identity)?.facts))
            .filter(|former| former.moving && former.is_live() && !former.tracks.is_empty())
            .filter(|former| former.epoch < facts.epoch && former.node != facts.node)
            .max_by_key(|former| former.epoch);
        let Some(former) = former else {
            return Arc::clone(facts);
        };
        let mut both = Participant::clone(facts);
        let mut theirs = former.tracks.clone();
        theirs.retain(|sid, _| !facts.tracks.contains_key(sid));
        both.former = Some(Former {
            node: former.node.clone(),
            epoch: former.epoch,
            tracks: theirs.keys().cloned().collect(),
        });
        both.tracks.extend(theirs);
        Arc::new(both)
    }
}
