//! How a member of a room speaks with this edge: what it is told, and what it asks for. Who it is and how long it belongs to the room is its
//! stay's affair (`stay.rs`), how media reaches it its transport's (`media.rs`); the room itself treats all members alike.

mod http;
mod livekit;

use std::time::Duration;

pub use http::{HttpAsk, HttpReply, HttpVoice, Purpose};
use meridian_access::token::Claims;
use meridian_room::{DisconnectReason, NewParticipant, ParticipantSid, Room, RoomEvent, Track, TrackSid};
use meridian_signalling::proto::ConnectionQuality;
use meridian_signalling::{
    Action, ConnectRequest, Frame, LeaveAction, Matched, PublicationKey, SubscriptionFailure, Violation, convert, data,
};

use crate::moving::Place;

/// How long a member belongs to the room if it does not leave. A bound that is `None` does not concern it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Belongs {
    /// For so long without a socket.
    pub without_socket: Option<Duration>,
    /// For so long after its join until its media transport stands.
    pub without_transport: Option<Duration>,
    /// For so long after it closed its transport in good order: on another edge it would be back by then.
    pub after_its_goodbye: Duration,
}

/// A member's way of speaking. Everything but its first words has a default: a member that is told nothing and asks for nothing.
///
/// The conference calls [`Voice::start`] once, when the member is in the room, then anything in any order; it carries out the returned
/// actions in their order and writes what [`Voice::poll_frame`] gives to the member's socket, where it has one.
pub trait Voice: Send {
    /// Asked once, before the join.
    fn belongs(&self) -> Belongs;

    /// Asked before the join, with the room as it stands: `false` turns it away, with what [`Voice::poll_frame`] gives as its last words.
    fn may_join(&mut self, _room: &Room) -> bool {
        true
    }

    /// Its facts in the room: what its token says, and what it may say of itself.
    fn introduce(&self, claims: &Claims, sid: ParticipantSid, region: &str) -> NewParticipant {
        convert::new_participant(claims, &ConnectRequest::default(), sid, region)
    }

    /// It is in the room, as `sid`.
    fn start(&mut self, room: &Room, sid: &ParticipantSid) -> Vec<Action>;

    /// Whether it may go on over another socket.
    fn can_resume(&self) -> bool {
        false
    }

    /// It goes on over another socket: what it was told over the last one may never have been read.
    fn resume(&mut self, _room: &Room, _sid: &ParticipantSid, _request: ConnectRequest) -> Vec<Action> {
        Vec::new()
    }

    /// A frame of its socket. `wall_ms`: milliseconds since 1970.
    ///
    /// # Errors
    /// The frame breaks the protocol: the member is out.
    fn handle(&mut self, _room: &Room, _wall_ms: i64, _frame: Frame) -> Result<Vec<Action>, Violation> {
        Ok(Vec::new())
    }

    /// A message of one of its data channels; the packet to pass on, if it is one.
    ///
    /// # Errors
    /// As [`Voice::handle`].
    fn inspect_data(
        &mut self,
        _room: &Room,
        _reliable: bool,
        _payload: &[u8],
    ) -> Result<Option<data::Relay>, Violation> {
        Ok(None)
    }

    /// The next frame for its socket.
    fn poll_frame(&mut self) -> Option<Frame> {
        None
    }

    /// How many frames wait.
    fn frames_waiting(&self) -> usize {
        0
    }

    /// It has more to be told than may wait: its socket is given up.
    fn is_overflowed(&self) -> bool {
        false
    }

    /// Its stay ends from our side. After the first goodbye there is no other.
    fn leave(&mut self, _action: LeaveAction, _reason: DisconnectReason) {}

    /// Whether it can be told to go to another edge, and comes back there as who it is.
    fn can_move(&self) -> bool {
        false
    }

    /// It shall go to one of these edges, the best first, or to any other. This is its goodbye.
    fn move_to(&mut self, _places: &[Place], _reason: DisconnectReason) {}

    /// The answer to the offer with this id, and the track sent in each media section.
    fn send_answer(&mut self, _id: u32, _sdp: String, _mid_to_track: &[(String, String)]) {}

    /// So many media sections more are wanted in an offer that should come now.
    fn sections_required(&mut self, _audios: u32, _videos: u32) {}

    /// Whose track a media section is that it has begun to send on. `None`: it may not, or has not said yet what it sends.
    fn match_publication(&mut self, _room: &Room, _section: PublicationKey<'_>) -> Option<Matched> {
        None
    }

    /// A track of its own that it has announced, while no section has been found for it.
    fn announced(&self, _track: &TrackSid) -> Option<&Track> {
        None
    }

    /// What it will call a track's sections in its offers, and the codec (mime type) it wants to send in each.
    fn announced_codecs(&self, _track: &TrackSid) -> Vec<(String, String)> {
        Vec::new()
    }

    /// The facts of a track whose section was found, as they stand while its media has not started.
    fn matched_track(&self, _track: &TrackSid) -> Option<&Track> {
        None
    }

    /// Its tracks may share msid streams, and with it their clock.
    fn finds_tracks_by_mid(&self) -> bool {
        false
    }

    /// It makes no second offer: what it is sent must be what it can decode of what flows now.
    fn offers_once(&self) -> bool {
        false
    }

    fn on_room_event(&mut self, _room: &Room, _event: &RoomEvent) -> Vec<Action> {
        Vec::new()
    }

    /// Somebody receives its track for the first time.
    fn track_subscribed(&mut self, _track: &TrackSid) {}

    /// Its track is published no longer.
    fn track_unpublished(&mut self, _track: &TrackSid) {}

    /// The qualities (low, medium, high) that are wanted of each codec of its track.
    fn subscribed_quality(&mut self, _track: &TrackSid, _codecs: &[(String, [bool; 3])]) {}

    /// A track that it asked for cannot be sent to it.
    fn subscription_error(&mut self, _track: &TrackSid, _failure: SubscriptionFailure) {}

    /// Streams that its link has no room for (`true`), or has again.
    fn stream_state(&mut self, _states: &[(ParticipantSid, TrackSid, bool)]) {}

    /// Who speaks, and how loudly (0..=1), the loudest first.
    fn speakers(&mut self, _speaking: &[(ParticipantSid, f32)]) {}

    fn room_update(&mut self, _room: &Room) {}

    fn quality(&mut self, _qualities: &[(ParticipantSid, ConnectionQuality, f32)]) {}

    /// What it should come back with from now on.
    fn refresh_token(&mut self, _token: String) {}
}
