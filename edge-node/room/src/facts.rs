//! What is known about a room, its participants and their tracks. Plain data: who may write it, and which of two versions
//! holds, is [`crate::Room`]'s matter. Numbers that only clients interpret (features, capabilities) pass through as they are.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Epoch, Identity, NodeId, ParticipantSid, RoomSid, TrackSid, Version};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum TrackKind {
    Audio = 0,
    Video = 1,
    Data = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum TrackSource {
    Unknown = 0,
    Camera = 1,
    Microphone = 2,
    ScreenShare = 3,
    ScreenShareAudio = 4,
}

/// How far a participant has come. `Active` means that its media transport is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum ParticipantState {
    Joining = 0,
    Joined = 1,
    Active = 2,
    Disconnected = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum ParticipantKind {
    Standard = 0,
    Ingress = 1,
    Egress = 2,
    Sip = 3,
    Agent = 4,
    Connector = 7,
    Bridge = 8,
}

/// Why a stay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum DisconnectReason {
    Unknown = 0,
    ClientInitiated = 1,
    DuplicateIdentity = 2,
    ServerShutdown = 3,
    ParticipantRemoved = 4,
    RoomDeleted = 5,
    StateMismatch = 6,
    JoinFailure = 7,
    Migration = 8,
    SignalClose = 9,
    RoomClosed = 10,
    UserUnavailable = 11,
    UserRejected = 12,
    SipTrunkFailure = 13,
    ConnectionTimeout = 14,
    MediaFailure = 15,
    AgentError = 16,
}

/// What a participant may do; from its token, changed by moderation.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Permission {
    #[prost(bool, tag = "1")]
    pub can_subscribe: bool,
    #[prost(bool, tag = "2")]
    pub can_publish: bool,
    #[prost(bool, tag = "3")]
    pub can_publish_data: bool,
    /// Sources that may be published; empty = all.
    #[prost(enumeration = "TrackSource", repeated, tag = "4")]
    pub can_publish_sources: Vec<i32>,
    /// Nobody else sees this participant.
    #[prost(bool, tag = "5")]
    pub hidden: bool,
    #[prost(bool, tag = "6")]
    pub recorder: bool,
    #[prost(bool, tag = "7")]
    pub can_update_metadata: bool,
    #[prost(bool, tag = "8")]
    pub agent: bool,
    #[prost(bool, tag = "9")]
    pub can_subscribe_metrics: bool,
    #[prost(bool, tag = "10")]
    pub can_manage_agent_session: bool,
}

impl Permission {
    pub fn may_publish(&self, source: TrackSource) -> bool {
        self.can_publish && (self.can_publish_sources.is_empty() || self.can_publish_sources.contains(&(source as i32)))
    }
}

/// Who may subscribe to a participant's tracks. Absent: everybody.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SubscriptionAcl {
    #[prost(message, repeated, tag = "1")]
    pub rules: Vec<AclRule>,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct AclRule {
    #[prost(string, tag = "1")]
    pub identity: String,
    #[prost(bool, tag = "2")]
    pub all_tracks: bool,
    #[prost(string, repeated, tag = "3")]
    pub tracks: Vec<String>,
}

impl SubscriptionAcl {
    pub fn allows(&self, subscriber: &Identity, track: &TrackSid) -> bool {
        let mut rules = self.rules.iter().filter(|rule| rule.identity == subscriber.as_str());
        rules.any(|rule| rule.all_tracks || rule.tracks.iter().any(|t| t == track.as_str()))
    }
}

/// One encoding of a video track.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct VideoLayer {
    /// 0 low, 1 medium, 2 high, 3 off.
    #[prost(int32, tag = "1")]
    pub quality: i32,
    #[prost(uint32, tag = "2")]
    pub width: u32,
    #[prost(uint32, tag = "3")]
    pub height: u32,
    /// Bits per second the publisher aims at.
    #[prost(uint32, tag = "4")]
    pub bitrate: u32,
    #[prost(uint32, tag = "5")]
    pub ssrc: u32,
    #[prost(string, tag = "6")]
    pub rid: String,
    #[prost(int32, tag = "7")]
    pub spatial_layer: i32,
    #[prost(uint32, tag = "8")]
    pub repair_ssrc: u32,
}

/// One codec a track is sent in; more than one when the publisher also sends a backup codec.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct TrackCodec {
    /// `video/VP8`, `audio/opus`, …
    #[prost(string, tag = "1")]
    pub mime: String,
    /// The client's own name of the sender for this codec.
    #[prost(string, tag = "2")]
    pub cid: String,
    #[prost(string, tag = "3")]
    pub mid: String,
    #[prost(message, repeated, tag = "4")]
    pub layers: Vec<VideoLayer>,
    /// Whether layers come as streams of their own or inside one; the client protocol's number.
    #[prost(int32, tag = "5")]
    pub layer_mode: i32,
    /// What the SDP's msid calls it, where that differs from `cid`.
    #[prost(string, tag = "6")]
    pub sdp_cid: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    pub sid: TrackSid,
    pub kind: TrackKind,
    pub source: TrackSource,
    pub name: String,
    pub muted: bool,
    /// Pixels, as the publisher announced them; 0 for audio.
    pub width: u32,
    pub height: u32,
    pub simulcast: bool,
    pub layers: Vec<VideoLayer>,
    pub codecs: Vec<TrackCodec>,
    /// The first codec's mime type.
    pub mime: String,
    pub mid: String,
    /// Tracks of one stream are played in sync.
    pub stream: String,
    pub disable_dtx: bool,
    pub disable_red: bool,
    pub stereo: bool,
    /// 0 none, 1 GCM, 2 custom.
    pub encryption: i32,
    pub audio_features: Vec<i32>,
    pub packet_trailer_features: Vec<i32>,
    pub backup_codec_policy: i32,
    /// Milliseconds since 1970 on the publishing edge; for display only.
    pub published_at_ms: i64,
    pub version: Version,
}

impl Track {
    pub fn new(sid: TrackSid, kind: TrackKind, source: TrackSource) -> Self {
        Track {
            sid,
            kind,
            source,
            name: String::new(),
            muted: false,
            width: 0,
            height: 0,
            simulcast: false,
            layers: Vec::new(),
            codecs: Vec::new(),
            mime: String::new(),
            mid: String::new(),
            stream: String::new(),
            disable_dtx: false,
            disable_red: false,
            stereo: false,
            encryption: 0,
            audio_features: Vec::new(),
            packet_trailer_features: Vec::new(),
            backup_codec_policy: 0,
            published_at_ms: 0,
            version: Version(0),
        }
    }
}

/// One stay of one identity. Written only by the edge it is on (`node`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Participant {
    pub sid: ParticipantSid,
    pub identity: Identity,
    pub name: String,
    pub metadata: String,
    pub attributes: BTreeMap<String, String>,
    pub permission: Permission,
    pub kind: ParticipantKind,
    pub kind_details: Vec<i32>,
    pub state: ParticipantState,
    /// Milliseconds since 1970 on the edge joined; for display only, never compared.
    pub joined_at_ms: i64,
    pub client_protocol: i32,
    pub capabilities: Vec<i32>,
    /// Region of the edge the participant is on.
    pub region: String,
    pub disconnect_reason: DisconnectReason,
    pub tracks: BTreeMap<TrackSid, Track>,
    /// Set by the participant: who may subscribe to its tracks.
    pub acl: Option<SubscriptionAcl>,
    pub node: NodeId,
    pub epoch: Epoch,
    pub version: Version,
    /// Its edge told it to go to another: once it is there as a later stay, what this one publishes goes on until this edge withdraws it.
    pub moving: bool,
    /// In [`crate::Room`]'s view: the stay it moved from, whose tracks are still among `tracks`.
    pub former: Option<Former>,
}

/// The stay that somebody has moved from, while both publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Former {
    pub node: NodeId,
    pub epoch: Epoch,
    pub tracks: BTreeSet<TrackSid>,
}

impl Participant {
    /// The edge that a track is published at, and in which stay.
    pub fn origin_of(&self, track: &TrackSid) -> (NodeId, Epoch) {
        match self.former.as_ref().filter(|former| former.tracks.contains(track)) {
            Some(former) => (former.node.clone(), former.epoch),
            None => (self.node.clone(), self.epoch),
        }
    }

    /// Its tracks without those of a stay that it has moved from.
    pub fn own_tracks(&self) -> impl Iterator<Item = &Track> {
        let formers = |track: &TrackSid| self.former.as_ref().is_some_and(|former| former.tracks.contains(track));
        self.tracks.values().filter(move |track| !formers(&track.sid))
    }

    pub fn is_live(&self) -> bool {
        self.state != ParticipantState::Disconnected
    }
    pub fn is_publisher(&self) -> bool {
        !self.tracks.is_empty()
    }
    pub fn allows(&self, subscriber: &Identity, track: &TrackSid) -> bool {
        self.acl.as_ref().is_none_or(|acl| acl.allows(subscriber, track))
    }
}

/// What the edge knows when a participant arrives.
#[derive(Clone, Debug)]
pub struct NewParticipant {
    pub identity: Identity,
    /// A fresh one for a join; the former one when this edge takes a session over that another edge lost.
    pub sid: ParticipantSid,
    pub name: String,
    pub metadata: String,
    pub attributes: BTreeMap<String, String>,
    pub permission: Permission,
    pub kind: ParticipantKind,
    pub kind_details: Vec<i32>,
    pub client_protocol: i32,
    pub capabilities: Vec<i32>,
    pub region: String,
}

impl NewParticipant {
    pub fn new(identity: Identity, sid: ParticipantSid) -> Self {
        NewParticipant {
            identity,
            sid,
            name: String::new(),
            metadata: String::new(),
            attributes: BTreeMap::new(),
            permission: Permission {
                can_subscribe: true,
                can_publish: true,
                can_publish_data: true,
                ..Permission::default()
            },
            kind: ParticipantKind::Standard,
            kind_details: Vec::new(),
            client_protocol: 0,
            capabilities: Vec::new(),
            region: String::new(),
        }
    }
}

/// A change of a participant's own facts; `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParticipantUpdate {
    pub name: Option<String>,
    pub metadata: Option<String>,
    /// Merged into the attributes; an empty value deletes its key.
    pub attributes: BTreeMap<String, String>,
    pub permission: Option<Permission>,
}

/// Facts of the room itself. The last writer by (incarnation, version, node) holds; only a home edge should write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomInfo {
    pub sid: RoomSid,
    /// Which life of the room name this is, fixed by the home edge; 0 = not fixed yet.
    pub incarnation: u64,
    pub metadata: String,
    pub created_at_ms: i64,
    /// Seconds an empty room is kept: before the first join, and after the last departure.
    pub empty_timeout_s: u32,
    pub departure_timeout_s: u32,
    /// 0 = no limit of the room's own.
    pub max_participants: u32,
    /// The id it is recorded under; empty = it is not recorded.
    pub recording: String,
}

impl RoomInfo {
    pub fn new(sid: RoomSid, created_at_ms: i64) -> Self {
        RoomInfo {
            sid,
            incarnation: 0,
            metadata: String::new(),
            created_at_ms,
            empty_timeout_s: 300,
            departure_timeout_s: 20,
            max_participants: 0,
            recording: String::new(),
        }
    }
}
