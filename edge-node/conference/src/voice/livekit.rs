//! LiveKit's client protocol: a WebSocket that may be lost and resumed, tracks that are announced before they are offered.

use std::time::Duration;

use meridian_access::token::Claims;
use meridian_room::{DisconnectReason, NewParticipant, ParticipantSid, Room, RoomEvent, Track, TrackSid};
use meridian_signalling::proto::{self, ConnectionQuality};
use meridian_signalling::{
    Action, ConnectRequest, Frame, LeaveAction, Matched, PublicationKey, Session, SubscriptionFailure, Violation, data,
};

use super::{Belongs, Voice};
use crate::moving::Place;

/// How long a client without a socket is waited for while its media still flows.
const RESUME_PATIENCE: Duration = Duration::from_secs(20);
/// How long a client that joined may take until its media transport stands.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);
/// How long a client that closed its transport is waited for.
const RETURN_PATIENCE: Duration = Duration::from_secs(3);

impl Voice for Session {
    fn belongs(&self) -> Belongs {
        Belongs {
            without_socket: Some(RESUME_PATIENCE),
            without_transport: Some(CONNECT_PATIENCE),
            after_its_goodbye: RETURN_PATIENCE,
        }
    }

    fn introduce(&self, _: &Claims, sid: ParticipantSid, _: &str) -> NewParticipant {
        self.new_participant(sid)
    }

    fn start(&mut self, room: &Room, sid: &ParticipantSid) -> Vec<Action> {
        Session::start(self, room, sid)
    }

    fn can_resume(&self) -> bool {
        true
    }

    fn resume(&mut self, room: &Room, sid: &ParticipantSid, request: ConnectRequest) -> Vec<Action> {
        Session::resume(self, room, sid, request)
    }

    fn handle(&mut self, room: &Room, wall_ms: i64, frame: Frame) -> Result<Vec<Action>, Violation> {
        Session::handle(self, room, wall_ms, frame)
    }

    fn inspect_data(&mut self, room: &Room, reliable: bool, payload: &[u8]) -> Result<Option<data::Relay>, Violation> {
        Session::inspect_data(self, room, reliable, payload)
    }

    fn poll_frame(&mut self) -> Option<Frame> {
        Session::poll_frame(self)
    }

    fn frames_waiting(&self) -> usize {
        Session::frames_waiting(self)
    }

    fn is_overflowed(&self) -> bool {
        Session::is_overflowed(self)
    }

    fn leave(&mut self, action: LeaveAction, reason: DisconnectReason) {
        Session::leave(self, action, reason);
    }

    fn can_move(&self) -> bool {
        true
    }

    fn move_to(&mut self, places: &[Place], reason: DisconnectReason) {
        let regions = places
            .iter()
            .map(|place| proto::RegionInfo {
                region: place.region.clone(),
                url: place.url.clone(),
                ..proto::RegionInfo::default()
            })
            .collect();
        Session::move_to(self, regions, reason);
    }

    fn send_answer(&mut self, id: u32, sdp: String, mid_to_track: &[(String, String)]) {
        Session::send_answer(self, id, sdp, mid_to_track);
    }

    fn sections_required(&mut self, audios: u32, videos: u32) {
        Session::sections_required(self, audios, videos);
    }

    fn match_publication(&mut self, _: &Room, section: PublicationKey<'_>) -> Option<Matched> {
        Session::match_publication(self, section)
    }

    fn announced(&self, track: &TrackSid) -> Option<&Track> {
        self.pending_tracks().find(|pending| pending.sid == *track)
    }

    fn announced_codecs(&self, track: &TrackSid) -> Vec<(String, String)> {
        Session::announced_codecs(self, track)
    }

    fn matched_track(&self, track: &TrackSid) -> Option<&Track> {
        Session::matched_track(self, track)
    }

    fn finds_tracks_by_mid(&self) -> bool {
        Session::finds_tracks_by_mid(self)
    }

    fn on_room_event(&mut self, room: &Room, event: &RoomEvent) -> Vec<Action> {
        Session::on_room_event(self, room, event)
    }

    fn track_subscribed(&mut self, track: &TrackSid) {
        Session::track_subscribed(self, track);
    }

    fn track_unpublished(&mut self, track: &TrackSid) {
        Session::track_unpublished(self, track);
    }

    fn subscribed_quality(&mut self, track: &TrackSid, codecs: &[(String, [bool; 3])]) {
        Session::subscribed_quality(self, track, codecs);
    }

    fn subscription_error(&mut self, track: &TrackSid, failure: SubscriptionFailure) {
        Session::subscription_error(self, track, failure);
    }

    fn stream_state(&mut self, states: &[(ParticipantSid, TrackSid, bool)]) {
        Session::stream_state(self, states);
    }

    fn speakers(&mut self, speaking: &[(ParticipantSid, f32)]) {
        Session::speakers(self, speaking);
    }

    fn room_update(&mut self, room: &Room) {
        Session::room_update(self, room);
    }

    fn quality(&mut self, qualities: &[(ParticipantSid, ConnectionQuality, f32)]) {
        Session::quality(self, qualities);
    }

    fn refresh_token(&mut self, token: String) {
        Session::refresh_token(self, token);
    }
}
