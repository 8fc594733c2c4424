//! What the node has to say to the client beyond what follows from room events.

use std::collections::HashMap;

use livekit_protocol as proto;
use meridian_room::{DisconnectReason, ParticipantSid, Room, TrackSid};
use proto::signal_response::Message;

use super::actions::{LeaveAction, SubscriptionFailure};
use super::{Action, LAST_WITHOUT_OK_RESPONSE, LAST_WITHOUT_ROOM_MOVED, Phase, Session};
use crate::convert;

impl Session {
    /// Answers the offer with this id. `mid_to_track`: which track each section the server sends on carries.
    pub fn send_answer(&mut self, id: u32, sdp: String, mid_to_track: &[(String, String)]) {
        self.push(Message::Answer(proto::SessionDescription {
            r#type: "answer".into(),
            sdp,
            id,
            mid_to_track_id: mid_to_track.iter().cloned().collect(),
        }));
    }

    /// Asks the client to add this many receiving sections and to offer again; 0 and 0 only provokes the offer.
    pub fn sections_required(&mut self, audios: u32, videos: u32) {
        let required = proto::MediaSectionsRequirement {
            num_audios: audios,
            num_videos: videos,
        };
        self.push(Message::MediaSectionsRequirement(required));
    }

    /// Who speaks how loudly (0..=1) now: all who speak, anybody absent has fallen silent. Sends what changed by an eighth.
    pub fn speakers(&mut self, speaking: &[(ParticipantSid, f32)]) {
        let mut now: HashMap<&ParticipantSid, u8> = HashMap::new();
        for (sid, level) in speaking.iter().filter(|(sid, _)| self.is_known(sid)) {
            // At least one eighth, so that active speakers never show as silent.
            let eighths = (level.clamp(0.0, 1.0) * 8.0).ceil() as u8;
            now.insert(sid, eighths.max(1));
        }
        let mut changed = Vec::new();
        for (sid, told) in &mut self.speakers {
            if *told > 0 && !now.contains_key(sid) {
                *told = 0;
                changed.push(speaker(sid, 0));
            }
        }
        for (sid, eighths) in now {
            if self.speakers.get(sid) != Some(&eighths) {
                self.speakers.insert(sid.clone(), eighths);
                changed.push(speaker(sid, eighths));
            }
        }
        if !changed.is_empty() {
            changed.sort_by(|a, b| b.level.total_cmp(&a.level));
            self.push(Message::SpeakersChanged(proto::SpeakersChanged { speakers: changed }));
        }
    }

    /// After a resume: who speaks, and that those who have spoken before do not.
    pub(super) fn repeat_speakers(&mut self) {
        let speakers: Vec<_> = self
            .speakers
            .iter()
            .map(|(sid, eighths)| speaker(sid, *eighths))
            .collect();
        if !speakers.is_empty() {
            self.push(Message::SpeakersChanged(proto::SpeakersChanged { speakers }));
        }
    }

    /// Connection qualities as they stand (score 0..=5); sends those that changed.
    pub fn quality(&mut self, qualities: &[(ParticipantSid, proto::ConnectionQuality, f32)]) {
        let mut updates = Vec::new();
        for (sid, quality, score) in qualities {
            if self.is_known(sid) && self.qualities.get(sid) != Some(quality) {
                self.qualities.insert(sid.clone(), *quality);
                updates.push(proto::ConnectionQualityInfo {
                    participant_sid: sid.as_str().to_owned(),
                    quality: *quality as i32,
                    score: *score,
                });
            }
        }
        if !updates.is_empty() {
            self.push(Message::ConnectionQuality(proto::ConnectionQualityUpdate { updates }));
        }
    }

    /// To a publisher: which layers of which codec (mime type) anybody wants; low, medium, high.
    #[allow(deprecated)] // `subscribed_qualities` is what older clients read
    pub fn subscribed_quality(&mut self, track: &TrackSid, codecs: &[(String, [bool; 3])]) {
        let qualities = |enabled: &[bool; 3]| -> Vec<proto::SubscribedQuality> {
            let each = enabled.iter().zip(0i32..);
            each.map(|(&enabled, quality)| proto::SubscribedQuality { quality, enabled })
                .collect()
        };
        let subscribed_codecs: Vec<_> = codecs
            .iter()
            // Clients match on the bare name.
            .map(|(mime, enabled)| proto::SubscribedCodec {
                codec: mime.rsplit('/').next().unwrap_or_default().to_ascii_lowercase(),
                qualities: qualities(enabled),
            })
            .collect();
        self.push(Message::SubscribedQualityUpdate(proto::SubscribedQualityUpdate {
            track_sid: track.as_str().to_owned(),
            subscribed_qualities: codecs
                .first()
                .map(|(_, enabled)| qualities(enabled))
                .unwrap_or_default(),
            subscribed_codecs,
        }));
    }

    /// To a publisher: somebody receives this track. Only the first call for a track says so.
    pub fn track_subscribed(&mut self, track: &TrackSid) {
        if self.publications.owns(track) && self.first_subscribed.insert(track.clone()) {
            self.push(Message::TrackSubscribed(proto::TrackSubscribed {
                track_sid: track.as_str().to_owned(),
            }));
        }
    }

    /// To a publisher: its track is no longer published (its section went away, or moderation).
    pub fn track_unpublished(&mut self, track: &TrackSid) {
        self.publications.remove(track);
        self.first_subscribed.remove(track);
        let track_sid = track.as_str().to_owned();
        self.push(Message::TrackUnpublished(proto::TrackUnpublishedResponse { track_sid }));
    }

    /// To a publisher: mute this track (moderation). The client echoes it as a Mute of its own.
    pub fn mute_track(&mut self, track: &TrackSid, muted: bool) {
        self.push(Message::Mute(proto::MuteTrackRequest {
            sid: track.as_str().to_owned(),
            muted,
        }));
    }

    /// Which of its received tracks were paused or go on because of congestion.
    pub fn stream_state(&mut self, states: &[(ParticipantSid, TrackSid, bool /* paused */)]) {
        let state = |paused| {
            if paused {
                proto::StreamState::Paused
            } else {
                proto::StreamState::Active
            }
        };
        let stream_states = states
            .iter()
            .map(|(publisher, track, paused)| proto::StreamStateInfo {
                participant_sid: publisher.as_str().to_owned(),
                track_sid: track.as_str().to_owned(),
                state: state(*paused) as i32,
            })
            .collect();
        self.push(Message::StreamStateUpdate(proto::StreamStateUpdate { stream_states }));
    }

    /// A subscription could not be served.
    pub fn subscription_error(&mut self, track: &TrackSid, failure: SubscriptionFailure) {
        self.subscriptions.failed(track);
        let err = match failure {
            SubscriptionFailure::Unknown => proto::SubscriptionError::SeUnknown,
            SubscriptionFailure::CodecUnsupported => proto::SubscriptionError::SeCodecUnsupported,
            SubscriptionFailure::TrackNotFound => proto::SubscriptionError::SeTrackNotfound,
        };
        let track_sid = track.as_str().to_owned();
        self.push(Message::SubscriptionResponse(proto::SubscriptionResponse {
            track_sid,
            err: err as i32,
        }));
    }

    /// A fresh token for reconnects: every 5 minutes, valid for at least 10.
    pub fn refresh_token(&mut self, token: String) {
        self.push(Message::RefreshToken(token));
    }

    /// Tells the room's facts and size if they changed since last told. To be called every few seconds, not for each join.
    pub fn room_update(&mut self, room: &Room) {
        let info = convert::room_info(room, &self.config.enabled_codecs);
        if self.room_told.as_ref() != Some(&info) {
            self.room_told = Some(info.clone());
            self.push(Message::RoomUpdate(proto::RoomUpdate { room: Some(info) }));
        }
    }

    /// Moves the client into another room (breakout, admission) where it has joined as `sid`; socket and transport stay. The
    /// actions end the old subscriptions and make the new ones. `None`: the client is too old for it; use
    /// [`Session::leave`] with `Reconnect`.
    pub fn room_moved(&mut self, room: &Room, sid: &ParticipantSid, token: String) -> Option<Vec<Action>> {
        if self.protocol() <= LAST_WITHOUT_ROOM_MOVED || self.phase != Phase::Open {
            return None;
        }
        self.sid = Some(sid.clone());
        self.speakers.clear();
        self.qualities.clear();
        self.departed.clear();
        let mut actions = self.subscriptions.end_all();
        let others = self.show_everybody(room);
        let info = convert::room_info(room, &self.config.enabled_codecs);
        self.room_told = Some(info.clone());
        self.push(Message::RoomMoved(proto::RoomMovedResponse {
            room: Some(info),
            token,
            participant: room.participant(&self.identity).map(|p| convert::participant_info(p)),
            other_participants: others,
        }));
        actions.extend(self.subscribe_to_everything(room));
        Some(actions)
    }

    /// Ends the session from our side (as the very first message: refuses the join); the socket is to be closed once this is written.
    pub fn leave(&mut self, action: LeaveAction, reason: DisconnectReason) {
        self.say_leave(action, reason, None);
    }

    /// [`Session::leave`] with `Reconnect`, and the edges to go to, the best first. SDKs that heed none come back through their own URL.
    pub fn move_to(&mut self, regions: Vec<proto::RegionInfo>, reason: DisconnectReason) {
        let regions = (!regions.is_empty()).then_some(proto::RegionSettings { regions });
        self.say_leave(LeaveAction::Reconnect, reason, regions);
    }

    fn say_leave(&mut self, action: LeaveAction, reason: DisconnectReason, regions: Option<proto::RegionSettings>) {
        let action = match action {
            LeaveAction::Disconnect => proto::leave_request::Action::Disconnect,
            LeaveAction::Resume => proto::leave_request::Action::Resume,
            LeaveAction::Reconnect => proto::leave_request::Action::Reconnect,
        };
        if self.phase == Phase::Left {
            return;
        }
        // As the first message it means a failed join.
        self.phase = Phase::Open;
        self.push(Message::Leave(proto::LeaveRequest {
            // What clients older than `action` read.
            can_reconnect: action != proto::leave_request::Action::Disconnect,
            reason: reason as i32,
            action: action as i32,
            regions,
        }));
        self.phase = Phase::Left;
    }

    /// Clients that are too old for an OK are told errors only.
    pub(super) fn respond(
        &mut self,
        request_id: u32,
        reason: proto::request_response::Reason,
        message: impl Into<String>,
        request: Option<proto::request_response::Request>,
    ) {
        let ok = reason == proto::request_response::Reason::Ok;
        if ok && self.protocol() <= LAST_WITHOUT_OK_RESPONSE {
            return;
        }
        self.push(Message::RequestResponse(proto::RequestResponse {
            request_id,
            reason: reason as i32,
            message: message.into(),
            request,
        }));
    }

    fn is_known(&self, sid: &ParticipantSid) -> bool {
        self.sid.as_ref() == Some(sid) || self.known.contains(sid)
    }
}

fn speaker(sid: &ParticipantSid, eighths: u8) -> proto::SpeakerInfo {
    proto::SpeakerInfo {
        sid: sid.as_str().to_owned(),
        level: f32::from(eighths) / 8.0,
        active: eighths > 0,
    }
}
