//! What the client says.

use std::collections::BTreeMap;

use livekit_protocol as proto;
use meridian_room::{
    AclRule, DisconnectReason, Identity, ParticipantSid, ParticipantUpdate, Room, SubscriptionAcl, TrackSid, limits,
};
use proto::request_response::{Reason, Request};
use proto::signal_request::Message as Ask;
use proto::signal_response::Message;

use super::actions::{Action, TrackChange, TrackSetting};
use super::{Phase, Session};
use crate::frame::{self, Frame, Violation};

/// Messages a client may send at once, and per second in the long run. A layout change of a large room takes some hundreds.
const BURST: u32 = 2_000;
const PER_SECOND: u32 = 200;
/// Senders of data that a resuming client may name.
const RECEIVED_MAX: usize = limits::PARTICIPANTS_PER_NODE;

/// A token bucket over the time the node passes in.
pub(super) struct Limiter {
    tokens: u32,
    /// Milliseconds since 1970 up to which tokens were given.
    since_ms: i64,
}

impl Default for Limiter {
    fn default() -> Self {
        Limiter {
            tokens: BURST,
            since_ms: 0,
        }
    }
}

impl Limiter {
    fn admit(&mut self, now_ms: i64) -> bool {
        let elapsed = now_ms.saturating_sub(self.since_ms).max(0);
        let earned = elapsed.saturating_mul(i64::from(PER_SECOND)) / 1000;
        if earned > 0 {
            self.tokens = self
                .tokens
                .saturating_add(u32::try_from(earned).unwrap_or(BURST))
                .min(BURST);
            self.since_ms = now_ms;
        }
        let admitted = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        admitted
    }
}

impl Session {
    /// One frame from the client. `now_ms`: milliseconds since 1970.
    ///
    /// # Errors
    /// A [`Violation`] ends this session: the Leave that says so is queued, close the socket with the reason's text.
    pub fn handle(&mut self, room: &Room, now_ms: i64, frame: Frame) -> Result<Vec<Action>, Violation> {
        let outcome = self.handle_frame(room, now_ms, frame);
        if let Err(violation) = &outcome {
            tracing::info!(identity = %self.identity, %violation, "session violates the protocol");
            self.leave(super::LeaveAction::Disconnect, DisconnectReason::StateMismatch);
        }
        outcome
    }

    fn handle_frame(&mut self, room: &Room, now_ms: i64, frame: Frame) -> Result<Vec<Action>, Violation> {
        match self.phase {
            Phase::New => return Err(Violation::new("a message before the session has started")),
            Phase::Left => return Ok(Vec::new()),
            Phase::Open => {}
        }
        if !self.limiter.admit(now_ms) {
            return Err(Violation::new(format!("more than {PER_SECOND} messages a second")));
        }
        let message = frame::decode(&frame)?;
        self.text = matches!(frame, Frame::Text(_));
        let Some(message) = message else { return Ok(Vec::new()) };
        self.dispatch(room, now_ms, message)
    }

    #[allow(deprecated)] // UpdateLayers is matched to be ignored
    fn dispatch(&mut self, room: &Room, now_ms: i64, message: Ask) -> Result<Vec<Action>, Violation> {
        Ok(match message {
            Ask::Offer(offer) => {
                if !matches!(offer.r#type.as_str(), "offer" | "") {
                    return Err(Violation::new("an Offer whose type is not \"offer\""));
                }
                vec![Action::Offer {
                    id: offer.id,
                    sdp: offer.sdp,
                }]
            }
            Ask::Answer(_) => return Err(Violation::new("an Answer, but on /rtc/v1 this server never offers")),
            Ask::AddTrack(request) => self.add_track(room, request),
            Ask::Mute(request) => self.mute(room, &request),
            Ask::Subscription(update) => self.update_subscription(room, update),
            Ask::TrackSetting(settings) => self.track_settings(&settings),
            Ask::Leave(leave) => {
                self.phase = Phase::Left;
                let reason = DisconnectReason::try_from(leave.reason).unwrap_or(DisconnectReason::Unknown);
                let said = reason != DisconnectReason::Unknown;
                vec![Action::Leave {
                    reason: if said {
                        reason
                    } else {
                        DisconnectReason::ClientInitiated
                    },
                }]
            }
            Ask::SubscriptionPermission(permission) => self.subscription_permission(room, permission)?,
            Ask::SyncState(state) => self.sync_state(room, state),
            Ask::Simulate(simulate) => simulate.scenario.map(Action::Simulate).into_iter().collect(),
            Ask::Ping(_) => {
                self.push(Message::Pong(now_ms));
                Vec::new()
            }
            Ask::PingReq(ping) => {
                self.rtt_ms = Some(ping.rtt).filter(|rtt| (1..60_000).contains(rtt)).or(self.rtt_ms);
                let pong = proto::Pong {
                    last_ping_timestamp: ping.timestamp,
                    timestamp: now_ms,
                };
                self.push(Message::PongResp(pong));
                Vec::new()
            }
            Ask::UpdateMetadata(update) => self.update_metadata(room, update),
            Ask::UpdateAudioTrack(update) => {
                let change =
                    TrackChange::AudioFeatures(update.features.iter().copied().take(limits::FEATURES).collect());
                let request = Request::UpdateAudioTrack(update.clone());
                self.update_track(room, &update.track_sid, change, request)
            }
            Ask::UpdateVideoTrack(update) => {
                let change = TrackChange::Size {
                    width: update.width,
                    height: update.height,
                };
                let request = Request::UpdateVideoTrack(update.clone());
                self.update_track(room, &update.track_sid, change, request)
            }
            // ICE-lite with all candidates in the SDP: the client's candidates are learned from its checks.
            Ask::Trickle(_) | Ask::UpdateLayers(_) | Ask::UpdateDataSubscription(_) => Vec::new(),
            unsupported => {
                self.refuse_unsupported(unsupported);
                Vec::new()
            }
        })
    }

    fn refuse_unsupported(&mut self, message: Ask) {
        let (request_id, request) = match message {
            Ask::PublishDataTrackRequest(request) => (0, Some(Request::PublishDataTrack(request))),
            Ask::UnpublishDataTrackRequest(request) => (0, Some(Request::UnpublishDataTrack(request))),
            Ask::StoreDataBlobRequest(request) => (request.request_id, None),
            Ask::GetDataBlobRequest(request) => (request.request_id, None),
            _ => return,
        };
        self.respond(
            request_id,
            Reason::UnsupportedType,
            "not supported by this server",
            request,
        );
    }

    fn mute(&mut self, room: &Room, request: &proto::MuteTrackRequest) -> Vec<Action> {
        let track = TrackSid::from(request.sid.as_str());
        let muted = request.muted;
        if let Some(pending) = self.publications.pending_mut(&track) {
            pending.muted = muted;
            return Vec::new();
        }
        match room.track(&track) {
            Some((owner, held)) if owner.identity == self.identity => {
                if held.muted == muted {
                    Vec::new()
                } else {
                    vec![Action::Mute { track, muted }]
                }
            }
            Some(_) => {
                let request = Some(Request::Mute(request.clone()));
                self.respond(0, Reason::NotAllowed, "the track is somebody else's", request);
                Vec::new()
            }
            None => match self.publications.matched_mut(&track) {
                Some(matched) => {
                    matched.muted = muted;
                    vec![Action::Mute { track, muted }]
                }
                // It may just have been unpublished.
                None => Vec::new(),
            },
        }
    }

    fn track_settings(&mut self, settings: &proto::UpdateTrackSettings) -> Vec<Action> {
        let quality = match settings.quality() {
            proto::VideoQuality::Low => Some(0),
            proto::VideoQuality::Medium => Some(1),
            proto::VideoQuality::High => Some(2),
            proto::VideoQuality::Off => None,
        };
        let setting = TrackSetting {
            enabled: !settings.disabled && quality.is_some(),
            quality,
            width: settings.width,
            height: settings.height,
            fps: settings.fps,
            priority: settings.priority,
        };
        let tracks = settings.track_sids.iter().map(|sid| TrackSid::from(sid.as_str()));
        let received = tracks.filter(|track| self.subscriptions.is_active(track));
        received.map(|track| Action::TrackSetting { track, setting }).collect()
    }

    fn subscription_permission(
        &mut self,
        room: &Room,
        permission: proto::SubscriptionPermission,
    ) -> Result<Vec<Action>, Violation> {
        let acl = if permission.all_participants {
            None
        } else {
            let tracks: usize = permission.track_permissions.iter().map(|p| p.track_sids.len()).sum();
            if permission.track_permissions.len() > limits::ACL_RULES || tracks > limits::ACL_TRACKS {
                return Err(Violation::new(
                    "subscriptionPermission names too many participants or tracks",
                ));
            }
            let rules = permission.track_permissions.into_iter().filter_map(|p| {
                let identity = if p.participant_identity.is_empty() {
                    room.participant_by_sid(&ParticipantSid::from(p.participant_sid))?
                        .identity
                        .as_str()
                        .to_owned()
                } else {
                    p.participant_identity
                };
                let fits = |text: &String| text.len() <= limits::ID_BYTES;
                let tracks = p.track_sids.into_iter().filter(fits).collect();
                Some(AclRule {
                    identity,
                    all_tracks: p.all_tracks,
                    tracks,
                })
                .filter(|rule| fits(&rule.identity))
            });
            Some(SubscriptionAcl { rules: rules.collect() })
        };
        let held = room.participant(&self.identity).and_then(|me| me.acl.clone());
        Ok(if held == acl {
            Vec::new()
        } else {
            vec![Action::SubscriptionPermission(acl)]
        })
    }

    /// What the client believes after a resume: wishes are taken over, and on an edge that takes the session over its tracks
    /// are announced again under their sids.
    pub(super) fn sync_state(&mut self, room: &Room, state: proto::SyncState) -> Vec<Action> {
        let mut actions = Vec::new();
        for published in state.publish_tracks.iter().take(limits::TRACKS) {
            actions.extend(self.restore_track(room, published));
        }
        if let Some(subscription) = state.subscription {
            actions.extend(self.update_subscription(room, subscription));
        }
        actions.extend(self.track_settings(&proto::UpdateTrackSettings {
            track_sids: state.track_sids_disabled,
            disabled: true,
            ..Default::default()
        }));
        let received: Vec<_> = state
            .datachannel_receive_states
            .into_iter()
            .take(RECEIVED_MAX)
            .map(|r| (ParticipantSid::from(r.publisher_sid), r.last_seq))
            .collect();
        if !received.is_empty() {
            actions.push(Action::Received(received));
        }
        actions
    }

    /// Empty name and metadata mean "as it is", as clients send them; an attribute's empty value deletes it.
    fn update_metadata(&mut self, room: &Room, update: proto::UpdateParticipantMetadata) -> Vec<Action> {
        let id = update.request_id;
        match self.check_metadata(room, &update) {
            Ok(change) => {
                self.respond(id, Reason::Ok, "", Some(Request::UpdateMetadata(update)));
                if change == ParticipantUpdate::default() {
                    Vec::new()
                } else {
                    vec![Action::UpdateSelf(change)]
                }
            }
            Err((reason, text)) => {
                // The answer repeats the request, which may be what is too large about it.
                let echo = (reason != Reason::LimitExceeded).then_some(Request::UpdateMetadata(update));
                self.respond(id, reason, text, echo);
                Vec::new()
            }
        }
    }

    fn check_metadata(
        &self,
        room: &Room,
        update: &proto::UpdateParticipantMetadata,
    ) -> Result<ParticipantUpdate, (Reason, String)> {
        let me = room
            .participant(&self.identity)
            .ok_or((Reason::NotFound, "not in the room".to_owned()))?;
        if !me.permission.can_update_metadata {
            return Err((
                Reason::NotAllowed,
                "the token does not allow changing one's own metadata".into(),
            ));
        }
        let too_large = |what: &str, limit: usize| (Reason::LimitExceeded, format!("{what} exceeds {limit} bytes"));
        if update.name.len() > limits::NAME_BYTES {
            return Err(too_large("name", limits::NAME_BYTES));
        }
        if update.metadata.len() > limits::METADATA_BYTES {
            return Err(too_large("metadata", limits::METADATA_BYTES));
        }
        let mut attributes: BTreeMap<&str, &str> =
            me.attributes.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        attributes.extend(update.attributes.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        let total: usize = attributes
            .iter()
            .filter(|(_, v)| !v.is_empty())
            .map(|(k, v)| k.len() + v.len())
            .sum();
        if total > limits::ATTRIBUTES_BYTES {
            return Err(too_large("attributes", limits::ATTRIBUTES_BYTES));
        }
        Ok(ParticipantUpdate {
            name: Some(update.name.clone()).filter(|name| !name.is_empty()),
            metadata: Some(update.metadata.clone()).filter(|metadata| !metadata.is_empty()),
            attributes: update.attributes.clone().into_iter().collect(),
            permission: None,
        })
    }

    fn update_track(&mut self, room: &Room, sid: &str, change: TrackChange, request: Request) -> Vec<Action> {
        let track = TrackSid::from(sid);
        if let Some(pending) = self.publications.pending_mut(&track) {
            change.apply(pending);
            return Vec::new();
        }
        if room
            .track(&track)
            .is_some_and(|(owner, _)| owner.identity == self.identity)
        {
            return vec![Action::UpdateTrack { track, change }];
        }
        if let Some(matched) = self.publications.matched_mut(&track) {
            change.apply(matched);
            return Vec::new();
        }
        self.respond(0, Reason::NotFound, "no such track of yours", Some(request));
        Vec::new()
    }

    /// The identity a session speaks for, for the data module.
    pub(crate) fn sender(&self) -> Option<(&Identity, &ParticipantSid)> {
        Some((&self.identity, self.sid.as_ref()?))
    }
}
