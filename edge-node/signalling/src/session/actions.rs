//! What a session asks its node to do.

use livekit_protocol as proto;
use meridian_room::{DisconnectReason, ParticipantSid, ParticipantUpdate, SubscriptionAcl, Track, TrackKind, TrackSid};

/// To be carried out in order. Room changes are the node's to make, because the session only reads the room.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Answer with [`super::Session::send_answer`] and this id.
    Offer {
        id: u32,
        sdp: String,
    },
    /// A track, or another codec of one, was announced and accepted (a new one, or one that came with a session taken over); the client is answered. Its media will come with an offer:
    /// [`super::Session::match_publication`] hands the facts out then.
    AddTrack {
        track: TrackSid,
        kind: TrackKind,
    },
    /// The client muted or unmuted a track of its own that is in the room: `room.update_track`, and stop forwarding.
    Mute {
        track: TrackSid,
        muted: bool,
    },
    /// Send this track to the client from now on.
    Subscribe {
        track: TrackSid,
    },
    Unsubscribe {
        track: TrackSid,
    },
    TrackSetting {
        track: TrackSid,
        setting: TrackSetting,
    },
    /// `room.update_participant`; already within limits and answered.
    UpdateSelf(ParticipantUpdate),
    /// `room.set_acl`.
    SubscriptionPermission(Option<SubscriptionAcl>),
    /// A track of the client's own in the room changed: `room.update_track(.., |t| change.apply(t))`.
    UpdateTrack {
        track: TrackSid,
        change: TrackChange,
    },
    /// What the client said, resuming, to have received: per sender, the number of its last reliable data packet. Later ones are
    /// to be repeated.
    Received(Vec<(ParticipantSid, u32)>),
    /// The session ends: `room.leave` with this reason and forget the session.
    Leave {
        reason: DisconnectReason,
    },
    /// A client's test asks for a failure.
    Simulate(proto::simulate_scenario::Scenario),
}

/// What a subscriber says about one track it receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackSetting {
    /// `false`: send nothing for now (not visible).
    pub enabled: bool,
    /// Highest layer wanted, if the client said one: 0 low, 1 medium, 2 high. Where `width` and `height` are set, they count.
    pub quality: Option<u8>,
    /// Pixels the video is shown at; 0 = not said.
    pub width: u32,
    pub height: u32,
    /// Frames per second wanted at most; 0 = not said.
    pub fps: u32,
    /// 1 is the most important, 0 = not said.
    pub priority: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrackChange {
    AudioFeatures(Vec<i32>),
    /// Pixels.
    Size {
        width: u32,
        height: u32,
    },
}

impl TrackChange {
    pub fn apply(self, track: &mut Track) {
        match self {
            TrackChange::AudioFeatures(features) => {
                track.stereo = features.contains(&(proto::AudioTrackFeature::TfStereo as i32));
                track.audio_features = features;
            }
            TrackChange::Size { width, height } => (track.width, track.height) = (width, height),
        }
    }
}

/// How an SDP section of the client names the track it sends.
#[derive(Clone, Copy, Debug)]
pub struct PublicationKey<'a> {
    /// Track id of the section's msid.
    pub cid: &'a str,
    /// Stream id of the section's msid.
    pub stream_id: &'a str,
    pub mid: &'a str,
    /// The codec the answer chose, as mime type.
    pub mime: &'a str,
    pub kind: TrackKind,
    /// Simulcast layers, low to high; empty without simulcast.
    pub rids: &'a [String],
}

/// An announced track whose SDP section was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Matched {
    /// Complete facts, `mid` and mime type included: for `room.publish_track` when media flows.
    pub track: Track,
    /// This section carries the track's backup codec (index into `track.codecs`): the track itself is already published or
    /// announced.
    pub backup: Option<usize>,
}

/// What a client does on a Leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveAction {
    /// Stay away.
    Disconnect,
    /// Reconnect the socket, keep the session and its media.
    Resume,
    /// Join anew.
    Reconnect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscriptionFailure {
    Unknown,
    CodecUnsupported,
    TrackNotFound,
}
