//! An edge that is being emptied moves its people a few at a time. Where somebody is best sent the driver finds out
//! ([`Output::Relocate`]); the client is told by a Leave that says to reconnect, with the edges to go to. Its stay, and what it sends and
//! receives, goes on here until it has arrived elsewhere as the same identity, so that nobody sees it leave.

use std::time::{Duration, Instant};

use meridian_room::{DisconnectReason, Participant, ParticipantSid, ParticipantState};

use crate::conference::Conference;
use crate::io::{Output, SessionKey};

/// How long somebody who was told to go elsewhere is waited for.
pub(crate) const ON_THE_WAY: Duration = Duration::from_secs(15);
/// When nobody else has room, it is asked for again after this.
const RETRY: Duration = Duration::from_secs(2);
/// Whoever comes back to this edge all the same is let be for this long: its name server, say, has not noticed yet.
const CAME_BACK: Duration = Duration::from_secs(30);
/// What somebody who has arrived elsewhere sends and receives here goes on for so long after the new one stands: others have switched by
/// then.
const BOTH: Duration = Duration::from_secs(2);
/// Whoever does not send everything anew within this time will not.
const PUBLISHES_WITHIN: Duration = Duration::from_secs(5);
/// Identities that were told to go, remembered.
const TOLD_MAX: usize = 4_096;

/// An edge to go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub region: String,
    /// What clients connect to.
    pub url: String,
}

/// How far a member's move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moving {
    /// Where to is being found out.
    Asked,
    /// Nobody had room: not to be asked before this.
    NoRoom { until: Instant },
    /// It was told, and is waited for until then.
    Told { until: Instant },
    /// It is on another edge. `whole`: since when everything it sends here is sent from there, too.
    Arrived { at: Instant, whole: Option<Instant> },
}

impl Conference {
    /// People here who have not been told to go elsewhere.
    pub fn staying(&self) -> usize {
        let goes = |moving: Option<Moving>| matches!(moving, Some(Moving::Told { .. } | Moving::Arrived { .. }));
        self.members.values().filter(|member| !goes(member.moving)).count()
    }

    /// Asks for places for so many more people, those first who came first.
    pub(crate) fn move_away(&mut self, people: usize) {
        let now = self.now;
        self.told
            .retain(|(at, _)| now.saturating_duration_since(*at) < CAME_BACK);
        let told = &self.told;
        let movable = self.members.values_mut().filter(|member| {
            let waits = match member.moving {
                None => false,
                Some(Moving::NoRoom { until }) => now < until,
                Some(Moving::Asked | Moving::Told { .. } | Moving::Arrived { .. }) => true,
            };
            let came_back = told.iter().any(|(_, identity)| *identity == member.stay.identity);
            !waits && !came_back && member.is_attached() && member.voice.can_move()
        });
        for member in movable.take(people) {
            member.moving = Some(Moving::Asked);
            self.out.put(Output::Relocate {
                client: member.key,
                address: member.stay.address(),
            });
        }
    }

    /// Where a member is best sent; `None`: nowhere now.
    pub(crate) fn relocated(&mut self, key: SessionKey, places: Option<&[Place]>) {
        let now = self.now;
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        // A drain that was called off meanwhile moves nobody.
        if member.moving != Some(Moving::Asked) {
            return;
        }
        let Some(places) = places else {
            member.moving = Some(Moving::NoRoom { until: now + RETRY });
            return;
        };
        tracing::info!(room = %self.name, identity = %member.stay.identity, to = places.first().map(|place| &place.url), "told to go elsewhere");
        member.voice.move_to(places, DisconnectReason::ServerShutdown);
        member.moving = Some(Moving::Told {
            until: now + ON_THE_WAY,
        });
        if self.told.len() == TOLD_MAX {
            self.told.pop_front();
        }
        self.told.push_back((now, member.stay.identity.clone()));
        let sid = member.stay.sid.clone();
        self.dirty.insert(key);
        // An error says that the stay has been withdrawn meanwhile.
        let _ = self.room.set_moving(&sid);
    }

    /// The drain was called off: whoever has not been told yet stays.
    pub(crate) fn stay(&mut self) {
        for member in self.members.values_mut() {
            if matches!(member.moving, Some(Moving::Asked | Moving::NoRoom { .. })) {
                member.moving = None;
            }
        }
    }

    /// A stay of this edge was outranked: whether that is somebody who was told to go, and has arrived.
    pub(crate) fn has_arrived(&mut self, sid: &ParticipantSid) -> bool {
        let mut told = self.members.values_mut().filter(|member| member.stay.sid == *sid);
        let Some(member) = told.find(|member| matches!(member.moving, Some(Moving::Told { .. }))) else {
            return false;
        };
        member.moving = Some(Moving::Arrived {
            at: self.now,
            whole: None,
        });
        true
    }

    /// Ends the stays of those who have arrived elsewhere with all that they send here.
    pub(crate) fn hand_over(&mut self, now: Instant) {
        let mut done = Vec::new();
        for member in self.members.values_mut() {
            let Some(Moving::Arrived { at, whole }) = &mut member.moving else {
                continue;
            };
            if self
                .room
                .participant(&member.stay.identity)
                .is_none_or(|stay| is_whole(stay))
            {
                whole.get_or_insert(now);
            }
            let long = |since: Instant, time: Duration| now.saturating_duration_since(since) >= time;
            let over = whole.is_some_and(|since| long(since, BOTH)) || long(*at, PUBLISHES_WITHIN);
            if over || member.media.transport.is_none() {
                done.push((member.key, member.stay.identity.clone(), member.stay.sid.clone()));
            }
        }
        for (key, identity, sid) in done {
            self.room.release(&identity, &sid);
            self.remove(key, DisconnectReason::DuplicateIdentity, "");
        }
    }
}

/// Whether somebody who has moved sends from where it is now whatever it sent from where it was.
fn is_whole(stay: &Participant) -> bool {
    let former = stay.former.iter().flat_map(|former| &former.tracks);
    let mut former = former
        .filter_map(|track| stay.tracks.get(track))
        .filter(|track| !track.muted);
    stay.state == ParticipantState::Active
        && former.all(|old| {
            stay.own_tracks()
                .any(|new| new.source == old.source && new.kind == old.kind)
        })
}
