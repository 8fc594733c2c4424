//! The replica: what local sessions write, what the whole room looks like, and what changed. Agreement with other edges
//! (deltas, digests, silence) is in [`sync`], who
//! holds an identity in [`claims`].

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::facts::{
    DisconnectReason, NewParticipant, Participant, ParticipantKind, ParticipantState, ParticipantUpdate, RoomInfo,
    SubscriptionAcl, Track,
};
use crate::ids::{Epoch, Identity, NodeId, ParticipantSid, RoomName, TrackSid, Version};
use crate::limits;
use crate::replica::{Record, Writer};
use crate::wire::{self, TooLarge};

mod claims;
mod sync;

pub use sync::Applied;

/// How long an edge may be unheard by everybody before its people are shown as gone.
pub const SILENCE: Duration = Duration::from_secs(10);

/// How long the record of an outranked stay is left standing: nobody shows it, but its end must not arrive anywhere before
/// the stay that outranks it.
const OUTRANKED: Duration = Duration::from_secs(1);
/// The same for somebody who was told to move, whose tracks are to be received until the new ones are.
const MOVED: Duration = Duration::from_secs(6);

/// What changed, for the sessions of this edge and for the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoomEvent {
    ParticipantJoined(Identity),
    ParticipantUpdated(Identity),
    /// The same identity is now another stay. `seamless`: it moved to another edge (whose own was lost or left behind), so
    /// nobody is told of a departure.
    ParticipantReplaced {
        previous: Arc<Participant>,
        seamless: bool,
    },
    /// Facts as this edge last knew them; the version counts the departure.
    ParticipantLeft {
        participant: Arc<Participant>,
        reason: DisconnectReason,
    },
    TrackPublished {
        identity: Identity,
        track: TrackSid,
    },
    TrackUpdated {
        identity: Identity,
        track: TrackSid,
    },
    TrackUnpublished {
        identity: Identity,
        track: TrackSid,
    },
    RoomUpdated,
    /// A stay on this edge lost its identity to a later one elsewhere: close the session with DUPLICATE_IDENTITY. Its facts
    /// are already withdrawn.
    LocalEvicted {
        sid: ParticipantSid,
        identity: Identity,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoomError {
    #[error("no participant {0} on this edge")]
    NotHere(ParticipantSid),
    #[error("the room is full: {0} people")]
    Full(u32),
    #[error("no track {0} of this participant")]
    NoTrack(TrackSid),
    #[error("track {0} is already published")]
    DuplicateTrack(TrackSid),
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    #[error("state of room {got:?} was handed to room {room:?}")]
    WrongRoom { room: RoomName, got: String },
}

/// The outcome of [`Room::join`].
#[derive(Clone, Debug)]
pub struct Joined {
    pub sid: ParticipantSid,
    pub epoch: Epoch,
    /// The stay on this same edge that had the identity: close its session with DUPLICATE_IDENTITY. (A stay on another edge
    /// is evicted there, by its own `LocalEvicted`.)
    pub evicted: Option<Arc<Participant>>,
}

/// A writer is one life of one edge's process in this room.
type WriterKey = (NodeId, u64);

pub struct Room {
    name: RoomName,
    node: NodeId,
    incarnation: u64,
    info: RoomInfo,
    info_version: u32,
    info_writer: NodeId,
    info_dirty: bool,
    /// Highest epoch seen from anybody.
    clock: u64,
    writers: BTreeMap<WriterKey, Writer>,
    /// Nodes we hear directly.
    linked: BTreeSet<NodeId>,
    locals: BTreeMap<ParticipantSid, Identity>,
    /// Local joins from before this edge had heard of the room's other edges: their epoch is not final yet.
    provisional: BTreeMap<Identity, Instant>,
    view: BTreeMap<Identity, Arc<Participant>>,
    sids: HashMap<ParticipantSid, Identity>,
    track_owners: HashMap<TrackSid, Identity>,
    events: VecDeque<RoomEvent>,
    /// Local departures to be forgotten, oldest first.
    departures: VecDeque<(Option<Instant>, u64)>,
    /// Stays of this edge that a later one elsewhere outranks, and when their records are withdrawn.
    outranked: VecDeque<(Instant, Identity, ParticipantSid)>,
    /// Own changes up to here were handed out by `poll_delta`.
    polled: u64,
    beat_dirty: bool,
    next_beat: Option<Instant>,
    now: Option<Instant>,
}

impl Room {
    /// `incarnation` tells this life of the edge's room from earlier ones and must be larger than theirs; the wall clock in
    /// milliseconds does. (Should it ever run backwards, the room notices when its own former state comes back to it.)
    pub fn new(name: RoomName, node: NodeId, info: RoomInfo, incarnation: u64) -> Room {
        let writers = BTreeMap::from([((node.clone(), incarnation), Writer::default())]);
        Room {
            name,
            info_writer: node.clone(),
            node,
            incarnation,
            info,
            info_version: 0,
            info_dirty: true,
            clock: 0,
            writers,
            linked: BTreeSet::new(),
            locals: BTreeMap::new(),
            provisional: BTreeMap::new(),
            view: BTreeMap::new(),
            sids: HashMap::new(),
            track_owners: HashMap::new(),
            events: VecDeque::new(),
            departures: VecDeque::new(),
            outranked: VecDeque::new(),
            polled: 0,
            beat_dirty: false,
            next_beat: None,
            now: None,
        }
    }

    pub fn name(&self) -> &RoomName {
        &self.name
    }
    pub fn node(&self) -> &NodeId {
        &self.node
    }
    pub fn info(&self) -> &RoomInfo {
        &self.info
    }

    /// Everybody in the room, hidden ones too; ordered by identity.
    pub fn participants(&self) -> impl Iterator<Item = &Arc<Participant>> {
        self.view.values()
    }
    pub fn participant(&self, identity: &Identity) -> Option<&Arc<Participant>> {
        self.view.get(identity)
    }
    pub fn participant_by_sid(&self, sid: &ParticipantSid) -> Option<&Arc<Participant>> {
        self.sids.get(sid).and_then(|identity| self.view.get(identity))
    }
    /// A track and who publishes it.
    pub fn track(&self, sid: &TrackSid) -> Option<(&Arc<Participant>, &Track)> {
        let owner = self.view.get(self.track_owners.get(sid)?)?;
        Some((owner, owner.tracks.get(sid)?))
    }
    /// People the room shows as its size: everyone but recorders. And those of them with tracks.
    pub fn counts(&self) -> (u32, u32) {
        let people = self
            .view
            .values()
            .filter(|p| !p.permission.recorder && p.kind != ParticipantKind::Egress);
        people.fold((0, 0), |(all, publishers), p| {
            (all + 1, publishers + u32::from(p.is_publisher()))
        })
    }
    /// The stays on this edge.
    pub fn locals(&self) -> impl Iterator<Item = &Arc<Participant>> {
        self.locals.values().filter_map(|identity| self.view.get(identity))
    }
    pub fn is_local(&self, identity: &Identity) -> bool {
        self.view.get(identity).is_some_and(|p| p.node == self.node)
    }
    /// Edges that have people here, this one included.
    pub fn nodes(&self) -> BTreeSet<NodeId> {
        self.view.values().map(|p| p.node.clone()).collect()
    }
    /// Nobody is here, as far as this edge knows.
    pub fn is_empty(&self) -> bool {
        self.view.is_empty()
    }

    /// Next change to tell local sessions; `None` when drained.
    pub fn poll_event(&mut self) -> Option<RoomEvent> {
        self.events.pop_front()
    }

    /// Adds a stay on this edge; it outranks every stay of the identity seen so far. `now_ms`: milliseconds since 1970.
    pub fn join(&mut self, now: Instant, now_ms: i64, new: NewParticipant) -> Result<Joined, RoomError> {
        self.now = Some(now);
        let max = self.info.max_participants;
        if max > 0 && !self.view.contains_key(&new.identity) && self.view.len() >= max as usize {
            return Err(RoomError::Full(max));
        }
        if self.locals.len() >= limits::PARTICIPANTS_PER_NODE {
            return Err(RoomError::Full(limits::PARTICIPANTS_PER_NODE as u32));
        }
        let identity = new.identity.clone();
        let former = self.view.get(&identity).cloned();
        // A taken-over stay keeps its sid: clients must see its version grow.
        let version = former
            .as_ref()
            .filter(|p| p.sid == new.sid)
            .map_or(1, |p| p.version.0.saturating_add(1));
        let facts = Participant {
            sid: new.sid.clone(),
            identity: new.identity,
            name: new.name,
            metadata: new.metadata,
            attributes: new.attributes,
            permission: new.permission,
            kind: new.kind,
            kind_details: new.kind_details,
            state: ParticipantState::Joined,
            joined_at_ms: former
                .as_ref()
                .filter(|p| p.sid == new.sid)
                .map_or(now_ms, |p| p.joined_at_ms),
            client_protocol: new.client_protocol,
            capabilities: new.capabilities,
            region: new.region,
            disconnect_reason: DisconnectReason::Unknown,
            tracks: BTreeMap::new(),
            acl: None,
            node: self.node.clone(),
            epoch: Epoch(self.clock + 1),
            version: Version(version),
            moving: false,
            former: None,
        };
        wire::check(&facts)?;
        self.clock += 1;
        let evicted = former.filter(|p| p.node == self.node && p.sid != new.sid);
        if let Some(evicted) = &evicted {
            self.locals.remove(&evicted.sid);
        }
        if self.linked.is_empty() && self.writers.len() == 1 {
            self.provisional.insert(identity.clone(), now + SILENCE);
        }
        self.locals.insert(new.sid.clone(), identity.clone());
        self.put(facts);
        self.next_beat.get_or_insert(now + sync::BEAT);
        self.refresh(&identity);
        Ok(Joined {
            sid: new.sid,
            epoch: Epoch(self.clock),
            evicted,
        })
    }

    /// How far the participant has come. Leaving is [`Room::leave`], not a state to be set here.
    pub fn set_state(&mut self, sid: &ParticipantSid, state: ParticipantState) -> Result<(), RoomError> {
        self.write(sid, |facts| {
            if state != ParticipantState::Disconnected {
                facts.state = state;
            }
            Ok(())
        })
    }

    /// Changes a participant's own facts, all or none.
    pub fn update_participant(&mut self, sid: &ParticipantSid, update: ParticipantUpdate) -> Result<(), RoomError> {
        self.write(sid, |facts| {
            if let Some(name) = update.name {
                facts.name = name;
            }
            if let Some(metadata) = update.metadata {
                facts.metadata = metadata;
            }
            if let Some(permission) = update.permission {
                facts.permission = permission;
            }
            for (key, value) in update.attributes {
                if value.is_empty() {
                    facts.attributes.remove(&key);
                } else {
                    facts.attributes.insert(key, value);
                }
            }
            Ok(())
        })
    }

    /// Says who may subscribe to the participant's tracks; `None` = everybody.
    pub fn set_acl(&mut self, sid: &ParticipantSid, acl: Option<SubscriptionAcl>) -> Result<(), RoomError> {
        self.write(sid, |facts| {
            facts.acl = acl;
            Ok(())
        })
    }

    /// The participant was told to go to another edge. Once it is there, [`RoomEvent::LocalEvicted`] comes as ever, but what it publishes
    /// here stays part of the room until [`Room::release`], or for six seconds.
    pub fn set_moving(&mut self, sid: &ParticipantSid) -> Result<(), RoomError> {
        self.write(sid, |facts| {
            facts.moving = true;
            Ok(())
        })
    }

    /// Somebody who has moved to another edge sends nothing here any more.
    pub fn release(&mut self, identity: &Identity, sid: &ParticipantSid) {
        self.outranked.retain(|(_, _, outranked)| outranked != sid);
        self.withdraw_outranked_stay(identity, sid);
    }

    /// Shows a track to everyone: to be called when its media is ready.
    pub fn publish_track(&mut self, sid: &ParticipantSid, track: Track) -> Result<(), RoomError> {
        self.write(sid, |facts| {
            if facts.tracks.contains_key(&track.sid) {
                return Err(RoomError::DuplicateTrack(track.sid));
            }
            facts.tracks.insert(track.sid.clone(), track);
            Ok(())
        })
    }

    /// Changes a published track (muted, size, codecs, …). Its sid stays what it is.
    pub fn update_track(
        &mut self,
        sid: &ParticipantSid,
        track: &TrackSid,
        change: impl FnOnce(&mut Track),
    ) -> Result<(), RoomError> {
        self.write(sid, |facts| {
            let held = facts
                .tracks
                .get_mut(track)
                .ok_or_else(|| RoomError::NoTrack(track.clone()))?;
            let before = held.clone();
            change(held);
            held.sid = track.clone();
            if *held != before {
                held.version = Version(before.version.0.saturating_add(1));
            }
            Ok(())
        })
    }

    pub fn unpublish_track(&mut self, sid: &ParticipantSid, track: &TrackSid) -> Result<Track, RoomError> {
        self.write(sid, |facts| {
            facts
                .tracks
                .remove(track)
                .ok_or_else(|| RoomError::NoTrack(track.clone()))
        })
    }

    /// Ends a stay on this edge. An error (harmless) when it was evicted before.
    pub fn leave(&mut self, sid: &ParticipantSid, reason: DisconnectReason) -> Result<(), RoomError> {
        let identity = self.locals.remove(sid).ok_or_else(|| RoomError::NotHere(sid.clone()))?;
        self.provisional.remove(&identity);
        self.withdraw(&identity, reason);
        self.refresh(&identity);
        Ok(())
    }

    /// Changes the room's own facts: for the home edge.
    pub fn update_info(&mut self, change: impl FnOnce(&mut RoomInfo)) -> Result<(), RoomError> {
        let mut info = self.info.clone();
        change(&mut info);
        if info.metadata.len() > limits::METADATA_BYTES {
            return Err(TooLarge {
                what: "room metadata",
                limit: limits::METADATA_BYTES,
            }
            .into());
        }
        if info != self.info {
            let new_life = info.incarnation != self.info.incarnation;
            self.info = info;
            self.info_version = if new_life {
                1
            } else {
                self.info_version.saturating_add(1)
            };
            self.info_writer = self.node.clone();
            self.info_dirty = true;
            self.events.push_back(RoomEvent::RoomUpdated);
        }
        Ok(())
    }

    fn own(&mut self) -> &mut Writer {
        let key = (self.node.clone(), self.incarnation);
        self.writers.entry(key).or_default()
    }

    fn put(&mut self, facts: Participant) {
        let identity = facts.identity.clone();
        let own = self.own();
        own.known += 1;
        own.records.insert(
            identity,
            Record {
                stamp: own.known,
                facts: Arc::new(facts),
            },
        );
    }

    fn write<T>(
        &mut self,
        sid: &ParticipantSid,
        change: impl FnOnce(&mut Participant) -> Result<T, RoomError>,
    ) -> Result<T, RoomError> {
        let not_here = || RoomError::NotHere(sid.clone());
        let identity = self.locals.get(sid).cloned().ok_or_else(not_here)?;
        let record = self.own().records.get(&identity).ok_or_else(not_here)?;
        let before = Arc::clone(&record.facts);
        let mut facts = (*before).clone();
        let out = change(&mut facts)?;
        if facts != *before {
            wire::check(&facts)?;
            facts.version = Version(before.version.0.saturating_add(1));
            self.put(facts);
            self.refresh(&identity);
        }
        Ok(out)
    }

    /// Turns the local record into a departure, which is all that is kept of it.
    fn withdraw(&mut self, identity: &Identity, reason: DisconnectReason) {
        let now = self.now;
        let own = self.own();
        let Some(record) = own.records.get(identity).filter(|r| r.facts.is_live()) else {
            return;
        };
        let mut facts = (*record.facts).clone();
        facts.state = ParticipantState::Disconnected;
        facts.disconnect_reason = reason;
        facts.version = Version(facts.version.0.saturating_add(1));
        facts.tracks.clear();
        facts.attributes.clear();
        facts.metadata.clear();
        facts.acl = None;
        facts.moving = false;
        self.put(facts);
        let stamp = self.own().known;
        self.departures.push_back((now, stamp));
        if self.departures.len() > limits::TOMBSTONES
            && let Some((_, floor)) = self.departures.pop_front()
        {
            self.own().forget(floor);
        }
    }

    /// Recomputes who `identity` is, from all writers, and tells what changed.
    fn refresh(&mut self, identity: &Identity) {
        self.settle_local_claim(identity);
        let winner = self.winner(identity);
        let (after, reason) = match winner {
            Some((_, writer, record)) if writer.is_dead() && record.facts.is_live() => {
                (None, DisconnectReason::ConnectionTimeout)
            }
            Some((_, _, record)) if record.facts.is_live() => {
                (Some(self.with_former(&record.facts)), DisconnectReason::Unknown)
            }
            Some((_, _, record)) => (None, record.facts.disconnect_reason),
            None => (None, DisconnectReason::Unknown),
        };
        // Counts the departure itself: the same on every edge, however many changes each saw on the way.
        let last_version = winner.map(|(_, _, record)| record.facts.version);
        let before = self.view.get(identity).cloned();
        match (before, after) {
            (None, None) => {}
            (None, Some(after)) => {
                self.events.push_back(RoomEvent::ParticipantJoined(identity.clone()));
                self.show(None, after);
            }
            (Some(before), None) => {
                self.view.remove(identity);
                self.sids.remove(&before.sid);
                let mut participant = Arc::clone(&before);
                let counted = Version(before.version.0.saturating_add(1));
                Arc::make_mut(&mut participant).version = last_version.unwrap_or(counted).max(counted);
                for track in before.tracks.keys() {
                    self.track_owners.remove(track);
                    let (identity, track) = (identity.clone(), track.clone());
                    self.events.push_back(RoomEvent::TrackUnpublished { identity, track });
                }
                self.events
                    .push_back(RoomEvent::ParticipantLeft { participant, reason });
            }
            (Some(before), Some(after)) if Arc::ptr_eq(&before, &after) || before == after => {}
            (Some(before), Some(after)) => {
                self.events.push_back(if before.sid == after.sid {
                    RoomEvent::ParticipantUpdated(identity.clone())
                } else {
                    let seamless = before.node != after.node;
                    RoomEvent::ParticipantReplaced {
                        previous: Arc::clone(&before),
                        seamless,
                    }
                });
                self.show(Some(before), after);
            }
        }
    }

    /// Puts `after` into the view and tells which tracks came, changed and went.
    fn show(&mut self, before: Option<Arc<Participant>>, after: Arc<Participant>) {
        let identity = after.identity.clone();
        if let Some(before) = &before {
            if before.sid != after.sid {
                self.sids.remove(&before.sid);
            }
            for track in before.tracks.keys().filter(|t| !after.tracks.contains_key(*t)) {
                self.track_owners.remove(track);
                let event = RoomEvent::TrackUnpublished {
                    identity: identity.clone(),
                    track: track.clone(),
                };
                self.events.push_back(event);
            }
        }
        for (sid, track) in &after.tracks {
            self.track_owners.insert(sid.clone(), identity.clone());
            let (identity, sid) = (identity.clone(), sid.clone());
            match before.as_ref().and_then(|b| b.tracks.get(&sid)) {
                None => self
                    .events
                    .push_back(RoomEvent::TrackPublished { identity, track: sid }),
                Some(held) if held != track => {
                    self.events.push_back(RoomEvent::TrackUpdated { identity, track: sid });
                }
                Some(_) => {}
            }
        }
        self.sids.insert(after.sid.clone(), identity.clone());
        self.view.insert(identity, after);
    }
}
