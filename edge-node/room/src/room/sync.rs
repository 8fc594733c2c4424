//! Agreement between edges. Each edge sends its own changes ([`Room::poll_delta`]) to the edges of the room it can reach, and
//! exchanges digests with them about once a second; what a digest lacks is answered by [`Room::delta_since`], about any
//! writer, so that edges which cannot reach each other agree through a third. Nothing here depends on order or on
//! messages arriving once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Room, RoomError, RoomEvent, SILENCE};
use crate::ids::{Epoch, NodeId};
use crate::limits;
use crate::replica::{Record, Writer};
use crate::wire::{self, RoomDelta, RoomDigest, WIRE_VERSION, WireInfo, WriterDelta, WriterDigest};

/// How often an edge with people in the room says that it lives.
pub(super) const BEAT: Duration = Duration::from_secs(1);
/// How long departures are remembered, and a dead edge's records kept in case it comes back.
const MEMORY: Duration = Duration::from_secs(600);

/// The outcome of [`Room::apply`].
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// What was new, to be passed on to edges that do not hear its writers themselves (others would only drop it).
    pub news: Option<RoomDelta>,
    /// Records refused because they exceed [`crate::limits`].
    pub rejected: usize,
}

impl Room {
    /// Merges what another edge says. `from` is the edge on the other end of the link, whoever wrote the facts.
    pub fn apply(&mut self, now: Instant, from: &NodeId, delta: RoomDelta) -> Result<Applied, RoomError> {
        self.check_room(&delta.room)?;
        self.node_heard(now, from);
        let mut applied = Applied::default();
        let (mut news, mut complete) = (Vec::new(), Vec::new());
        let mut touched = BTreeSet::new();
        let clock = self.clock;
        if delta.epoch_clock <= clock.saturating_add(limits::EPOCH_LEAP) {
            self.clock = clock.max(delta.epoch_clock);
        }
        for writer in delta.writers {
            let node = NodeId::from(writer.node.as_str());
            if node == self.node {
                self.apply_own_echo(&writer);
                continue;
            }
            if writer.node.len() > limits::ID_BYTES || !self.admit_writer(now, &node, writer.incarnation, &mut touched)
            {
                applied.rejected += writer.records.len();
                continue;
            }
            let copy = writer.clone();
            let key = (node, writer.incarnation);
            let linked = self.linked.contains(&key.0);
            let Some(held) = self.writers.get_mut(&key) else {
                continue;
            };
            if !copy.more {
                complete.push(key.clone());
            }
            let merged = held.merge(&key.0, clock, writer, &mut touched);
            applied.rejected += merged.rejected;
            self.clock = self.clock.max(merged.epoch);
            if merged.evidence && !linked {
                held.deadline = Some(now + SILENCE);
            }
            if merged.evidence && held.dead_since.take().is_some() {
                touched.extend(held.records.keys().cloned());
            }
            if merged.news {
                news.push(copy);
            }
        }
        let info = delta.info.filter(|info| self.apply_info(info.clone()));
        for identity in &touched {
            self.refresh(identity);
        }
        for key in complete {
            if let Some(writer) = self.writers.get_mut(&key) {
                writer.fresh = false;
            }
        }
        if !news.is_empty() || info.is_some() {
            applied.news = Some(self.envelope(news, info));
        }
        Ok(applied)
    }

    /// What this replica has; send it to other edges of the room, on a new link at once and then about once a second.
    pub fn digest(&self) -> RoomDigest {
        let current = self.writers.iter().filter(|(_, w)| !w.superseded);
        RoomDigest {
            version: WIRE_VERSION,
            room: self.name.as_str().to_owned(),
            epoch_clock: self.clock,
            writers: current
                .map(|((node, incarnation), w)| WriterDigest {
                    node: node.as_str().to_owned(),
                    incarnation: *incarnation,
                    stamp: w.known,
                    beat: w.beat,
                })
                .collect(),
            info_incarnation: self.info.incarnation,
            info_version: self.info_version,
            info_writer: self.info_writer.as_str().to_owned(),
        }
    }

    /// What the sender of `digest` lacks, in messages of limited size; empty when it lacks nothing.
    pub fn delta_since(&self, digest: &RoomDigest) -> Vec<RoomDelta> {
        if digest.room != self.name.as_str() {
            return Vec::new();
        }
        let mut messages = Vec::new();
        for ((node, incarnation), writer) in self.writers.iter().filter(|(_, w)| !w.superseded) {
            let theirs = digest.writers.iter().find(|w| w.node == node.as_str());
            let base = match theirs {
                Some(theirs) if theirs.incarnation > *incarnation => continue,
                Some(theirs) if theirs.incarnation == *incarnation => {
                    // A dead writer's beat says nothing any more.
                    if theirs.stamp >= writer.known && (theirs.beat >= writer.beat || writer.is_dead()) {
                        continue;
                    }
                    theirs.stamp.min(writer.known)
                }
                _ => 0,
            };
            for page in writer.pages_since(node, *incarnation, base) {
                push_page(&mut messages, page, || self.envelope(Vec::new(), None));
            }
        }
        let theirs = (
            digest.info_incarnation,
            digest.info_version,
            digest.info_writer.as_str(),
        );
        if theirs < self.info_rank() {
            match messages.last_mut() {
                Some(last) => last.info = Some(self.wire_info()),
                None => messages.push(self.envelope(Vec::new(), Some(self.wire_info()))),
            }
        }
        messages
    }

    /// This edge's own changes since the last call, and its heartbeat: for every edge of the room within reach.
    pub fn poll_delta(&mut self) -> Option<RoomDelta> {
        let key = (self.node.clone(), self.incarnation);
        let own = self.writers.get(&key)?;
        if own.known == self.polled && !self.beat_dirty && !self.info_dirty {
            return None;
        }
        let mut pages = own.pages_since(&key.0, key.1, self.polled);
        // The rest follows with the next call.
        pages.truncate(1);
        let reached = pages.first().map_or(self.polled, |p| p.stamp);
        let info = std::mem::take(&mut self.info_dirty).then(|| self.wire_info());
        self.beat_dirty = false;
        self.polled = reached;
        Some(self.envelope(pages, info))
    }

    /// The link to `node` is up, or something was heard on it: its people are not in question.
    pub fn node_heard(&mut self, now: Instant, node: &NodeId) {
        self.now = Some(now);
        self.linked.insert(node.clone());
        let mut back = Vec::new();
        for (_, writer) in self.writers.iter_mut().filter(|((n, _), w)| n == node && !w.superseded) {
            writer.deadline = None;
            if writer.dead_since.take().is_some() {
                back.extend(writer.records.keys().cloned());
            }
        }
        for identity in back {
            self.refresh(&identity);
        }
    }

    /// The link to `node` is silent. Its people stay for [`SILENCE`], and as long as other edges show that they hear it.
    pub fn node_silent(&mut self, now: Instant, node: &NodeId) {
        self.now = Some(now);
        self.linked.remove(node);
        for (_, writer) in self.writers.iter_mut().filter(|((n, _), _)| n == node) {
            writer.deadline.get_or_insert(now + SILENCE);
        }
    }

    /// When [`Room::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let beat = self.next_beat.filter(|_| !self.locals.is_empty());
        let departure = self.departures.front().and_then(|(at, _)| Some((*at)? + MEMORY));
        let writers = self.writers.values().filter_map(|w| match w.dead_since {
            Some(since) => Some(since + MEMORY),
            None => w.deadline,
        });
        let outranked = self.outranked.iter().map(|(at, _, _)| *at).min();
        writers.chain(beat).chain(departure).chain(outranked).min()
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = Some(now);
        if self.next_beat.is_some_and(|at| at <= now) && !self.locals.is_empty() {
            self.next_beat = Some(now + BEAT);
            self.own().beat += 1;
            self.beat_dirty = true;
        }
        self.withdraw_outranked(now);
        while let Some((at, stamp)) = self.departures.front().copied() {
            if at.is_some_and(|at| at + MEMORY > now) {
                break;
            }
            self.departures.pop_front();
            self.own().forget(stamp);
        }
        let mut touched = BTreeSet::new();
        for writer in self.writers.values_mut() {
            if writer.dead_since.is_none() && writer.deadline.is_some_and(|at| at <= now) {
                writer.dead_since = Some(now);
                touched.extend(writer.records.keys().cloned());
            }
        }
        self.writers
            .retain(|_, writer| writer.dead_since.is_none_or(|since| since + MEMORY > now));
        for identity in &touched {
            self.refresh(identity);
        }
    }

    fn check_room(&self, room: &str) -> Result<(), RoomError> {
        if room == self.name.as_str() {
            return Ok(());
        }
        Err(RoomError::WrongRoom {
            room: self.name.clone(),
            got: room.chars().take(limits::ID_BYTES).collect(),
        })
    }

    /// Makes place for a writer, and ends its node's earlier lives: their people have [`SILENCE`] to come back.
    fn admit_writer(
        &mut self,
        now: Instant,
        node: &NodeId,
        incarnation: u64,
        touched: &mut BTreeSet<crate::ids::Identity>,
    ) -> bool {
        let lives = || {
            self.writers
                .range((node.clone(), 0)..=(node.clone(), u64::MAX))
                .map(|(k, _)| k.1)
        };
        if lives().any(|held| held > incarnation) {
            return false;
        }
        if lives().any(|held| held == incarnation) {
            return true;
        }
        if self.writers.len() >= limits::NODES {
            return false;
        }
        for (_, earlier) in self.writers.range_mut((node.clone(), 0)..(node.clone(), incarnation)) {
            earlier.superseded = true;
            earlier.deadline.get_or_insert(now + SILENCE);
            touched.extend(earlier.records.keys().cloned());
        }
        let deadline = (!self.linked.contains(node)).then(|| now + SILENCE);
        self.writers.insert(
            (node.clone(), incarnation),
            Writer {
                deadline,
                fresh: true,
                ..Writer::default()
            },
        );
        true
    }

    /// Somebody remembers this edge with changes this life never made: its clock ran backwards, or another process has its
    /// name. Start over above it, so that what we say is believed.
    fn apply_own_echo(&mut self, echo: &WriterDelta) {
        let ahead = echo.incarnation == self.incarnation && echo.stamp > self.own().known;
        if echo.incarnation < self.incarnation || (echo.incarnation == self.incarnation && !ahead) {
            return;
        }
        let Some(old) = self.writers.remove(&(self.node.clone(), self.incarnation)) else {
            return;
        };
        tracing::warn!(room = %self.name, node = %self.node, "this edge's former state came back to it; starting over above it");
        self.incarnation = echo.incarnation.saturating_add(1);
        let mut fresh = Writer {
            beat: old.beat,
            ..Writer::default()
        };
        for (identity, record) in old.records.into_iter().filter(|(_, r)| r.facts.is_live()) {
            fresh.known += 1;
            fresh.records.insert(
                identity,
                Record {
                    stamp: fresh.known,
                    facts: record.facts,
                },
            );
        }
        self.departures.clear();
        self.polled = 0;
        self.writers.insert((self.node.clone(), self.incarnation), fresh);
    }

    fn apply_info(&mut self, wire: WireInfo) -> bool {
        if (wire.incarnation, wire.version, wire.writer.as_str()) <= self.info_rank() {
            return false;
        }
        let (version, writer) = (wire.version, NodeId::from(wire.writer.as_str()));
        let Ok(info) = wire::info_from_wire(wire) else {
            return false;
        };
        self.info_version = version;
        self.info_writer = writer;
        self.info_dirty = false;
        if info != self.info {
            self.info = info;
            self.events.push_back(RoomEvent::RoomUpdated);
        }
        true
    }

    fn info_rank(&self) -> (u64, u32, &str) {
        (self.info.incarnation, self.info_version, self.info_writer.as_str())
    }

    fn wire_info(&self) -> WireInfo {
        wire::info_to_wire(&self.info, self.info_version, &self.info_writer)
    }

    fn envelope(&self, writers: Vec<WriterDelta>, info: Option<WireInfo>) -> RoomDelta {
        RoomDelta {
            version: WIRE_VERSION,
            room: self.name.as_str().to_owned(),
            epoch_clock: self.clock,
            writers,
            info,
        }
    }

    /// The highest epoch seen; a new edge of the room may be told it before its first join.
    pub fn epoch_clock(&self) -> Epoch {
        Epoch(self.clock)
    }

    /// Epochs up to this one are taken (from the room directory, say): the next join is above it.
    pub fn observe_epoch(&mut self, epoch: Epoch) {
        if epoch.0 <= self.clock.saturating_add(limits::EPOCH_LEAP) {
            self.clock = self.clock.max(epoch.0);
        }
    }

    /// Everyone's facts as this replica holds them: for tests that compare replicas.
    pub fn snapshot(&self) -> Vec<Arc<crate::Participant>> {
        self.participants().cloned().collect()
    }
}

/// Small pages of many writers share a message; a full page travels alone.
fn push_page(messages: &mut Vec<RoomDelta>, page: WriterDelta, envelope: impl Fn() -> RoomDelta) {
    use prost::Message;
    let size = page.encoded_len();
    match messages.last_mut() {
        Some(last) if last.encoded_len() + size <= limits::DELTA_BYTES => last.writers.push(page),
        _ => {
            let mut message = envelope();
            message.writers.push(page);
            messages.push(message);
        }
    }
}
