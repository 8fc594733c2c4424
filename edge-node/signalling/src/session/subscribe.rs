//! What the client receives: which tracks, and the news of the room that decide it.

use std::collections::BTreeMap;

use livekit_protocol as proto;
use meridian_room::{DisconnectReason, Identity, Participant, Room, RoomEvent, TrackSid};
use proto::signal_response::Message;

use super::actions::{Action, LeaveAction, SubscriptionFailure};
use super::{Phase, Session, is_visible};
use crate::convert;

/// Wishes kept for tracks beyond which further ones are refused.
const WISHES_MAX: usize = 4_096;

/// One track of somebody else.
#[derive(Clone, Copy, Debug, Default)]
struct Wish {
    /// What the client said; `None`: as auto-subscribe says.
    explicit: Option<bool>,
    /// The node was told to send it.
    active: bool,
    /// The client was told that it may not.
    denied: bool,
}

pub(super) struct Subscriptions {
    auto: bool,
    wishes: BTreeMap<TrackSid, Wish>,
}

impl Subscriptions {
    pub(super) fn new(auto: bool) -> Self {
        Subscriptions {
            auto,
            wishes: BTreeMap::new(),
        }
    }

    pub(super) fn failed(&mut self, track: &TrackSid) {
        if let Some(wish) = self.wishes.get_mut(track) {
            wish.active = false;
        }
    }

    pub(super) fn end_all(&mut self) -> Vec<Action> {
        let wishes = std::mem::take(&mut self.wishes);
        wishes
            .into_iter()
            .filter(|(_, w)| w.active)
            .map(|(track, _)| Action::Unsubscribe { track })
            .collect()
    }

    pub(super) fn is_active(&self, track: &TrackSid) -> bool {
        self.wishes.get(track).is_some_and(|w| w.active)
    }
}

impl Session {
    /// Tracks the node has been told to send to this client.
    pub fn wanted_tracks(&self) -> impl Iterator<Item = &TrackSid> {
        self.subscriptions
            .wishes
            .iter()
            .filter(|(_, w)| w.active)
            .map(|(track, _)| track)
    }

    /// Tells the client what changed in the room. Before `start` and after a Leave it does nothing.
    pub fn on_room_event(&mut self, room: &Room, event: &RoomEvent) -> Vec<Action> {
        if self.phase != Phase::Open {
            return Vec::new();
        }
        match event {
            RoomEvent::ParticipantJoined(identity) | RoomEvent::ParticipantUpdated(identity) => room
                .participant(identity)
                .map(|p| self.on_participant(room, p))
                .unwrap_or_default(),
            RoomEvent::ParticipantReplaced { previous, seamless } => {
                if previous.identity == self.identity {
                    return Vec::new();
                }
                if !seamless {
                    self.hide(previous, DisconnectReason::DuplicateIdentity);
                }
                room.participant(&previous.identity)
                    .map(|p| self.on_participant(room, p))
                    .unwrap_or_default()
            }
            RoomEvent::ParticipantLeft { participant, reason } => {
                if participant.identity != self.identity {
                    self.hide(participant, *reason);
                }
                Vec::new()
            }
            RoomEvent::TrackPublished { track, .. } | RoomEvent::TrackUpdated { track, .. } => {
                self.settle(room, track).into_iter().collect()
            }
            RoomEvent::TrackUnpublished { track, .. } => {
                let wish = self.subscriptions.wishes.remove(track);
                wish.filter(|w| w.active)
                    .map(|_| Action::Unsubscribe { track: track.clone() })
                    .into_iter()
                    .collect()
            }
            RoomEvent::RoomUpdated => {
                self.room_update(room);
                Vec::new()
            }
            RoomEvent::LocalEvicted { sid, .. } if self.sid.as_ref() == Some(sid) => {
                let reason = DisconnectReason::DuplicateIdentity;
                self.leave(LeaveAction::Disconnect, reason);
                vec![Action::Leave { reason }]
            }
            RoomEvent::LocalEvicted { .. } => Vec::new(),
        }
    }

    fn on_participant(&mut self, room: &Room, participant: &Participant) -> Vec<Action> {
        if participant.identity == self.identity {
            if self.sid.as_ref() != Some(&participant.sid) {
                return Vec::new(); // another stay of this identity: an eviction follows
            }
            self.push_update(convert::participant_info(participant));
            // The right to subscribe may have come or gone.
            return self.subscribe_to_everything(room);
        }
        if is_visible(participant) {
            self.show(participant);
            self.push_update(convert::participant_info(participant));
        } else {
            self.hide(participant, DisconnectReason::Unknown);
        }
        // Its list of subscribers, or its being hidden, may have changed.
        participant
            .tracks
            .keys()
            .filter_map(|track| self.settle(room, track))
            .collect()
    }

    /// Settles every track of everybody else.
    pub(super) fn subscribe_to_everything(&mut self, room: &Room) -> Vec<Action> {
        let others = room.participants().filter(|p| p.identity != self.identity);
        let tracks: Vec<TrackSid> = others.flat_map(|p| p.tracks.keys().cloned()).collect();
        tracks.iter().filter_map(|track| self.settle(room, track)).collect()
    }

    /// Brings one track's subscription to what wish and permissions say.
    fn settle(&mut self, room: &Room, track: &TrackSid) -> Option<Action> {
        let (owner, _) = room.track(track).filter(|(owner, _)| owner.identity != self.identity)?;
        let wish = self.subscriptions.wishes.get(track).copied().unwrap_or_default();
        let visible = is_visible(owner);
        let allowed = visible && may_subscribe(room, &self.identity) && owner.allows(&self.identity, track);
        let wanted = wish.explicit.unwrap_or(self.subscriptions.auto);
        if visible && wish.denied == allowed {
            self.push(Message::SubscriptionPermissionUpdate(
                proto::SubscriptionPermissionUpdate {
                    participant_sid: owner.sid.as_str().to_owned(),
                    track_sid: track.as_str().to_owned(),
                    allowed,
                },
            ));
        }
        let active = wanted && allowed;
        let after = Wish {
            active,
            denied: visible && !allowed,
            ..wish
        };
        if self.subscriptions.wishes.len() < WISHES_MAX || self.subscriptions.wishes.contains_key(track) {
            self.subscriptions.wishes.insert(track.clone(), after);
        } else {
            return None;
        }
        match (wish.active, active) {
            (false, true) => Some(Action::Subscribe { track: track.clone() }),
            (true, false) => Some(Action::Unsubscribe { track: track.clone() }),
            _ => None,
        }
    }

    /// The client's explicit wish for some tracks.
    pub(super) fn update_subscription(&mut self, room: &Room, update: proto::UpdateSubscription) -> Vec<Action> {
        let sids = update
            .track_sids
            .into_iter()
            .chain(update.participant_tracks.into_iter().flat_map(|p| p.track_sids));
        let mut actions = Vec::new();
        for sid in sids.take(WISHES_MAX) {
            let track = TrackSid::from(sid);
            let known = room
                .track(&track)
                .is_some_and(|(owner, _)| self.shown.contains_key(&owner.identity));
            if !known {
                if update.subscribe {
                    self.subscription_error(&track, SubscriptionFailure::TrackNotFound);
                }
                continue;
            }
            if self.subscriptions.wishes.len() < WISHES_MAX || self.subscriptions.wishes.contains_key(&track) {
                let wish = self.subscriptions.wishes.entry(track.clone()).or_default();
                wish.explicit = Some(update.subscribe);
            }
            actions.extend(self.settle(room, &track));
        }
        actions
    }
}

fn may_subscribe(room: &Room, identity: &Identity) -> bool {
    room.participant(identity).is_some_and(|me| me.permission.can_subscribe)
}
