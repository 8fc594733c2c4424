//! What edges say to each other about a room. Protobuf by derive: unknown fields are ignored, `version` says which
//! reading is meant. Conversions check [`crate::limits`], so that no edge can make another hold more than it would itself.

use std::collections::BTreeMap;

use crate::facts::{
    DisconnectReason, Participant, ParticipantKind, ParticipantState, Permission, RoomInfo, SubscriptionAcl, Track,
    TrackCodec, TrackKind, TrackSource, VideoLayer,
};
use crate::ids::{Epoch, Identity, NodeId, ParticipantSid, RoomSid, TrackSid, Version};
use crate::limits;

pub const WIRE_VERSION: u32 = 1;

/// What a replica has: answered with [`RoomDelta`]s that hold what it lacks.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RoomDigest {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(string, tag = "2")]
    pub room: String,
    #[prost(uint64, tag = "3")]
    pub epoch_clock: u64,
    #[prost(message, repeated, tag = "4")]
    pub writers: Vec<WriterDigest>,
    #[prost(uint64, tag = "5")]
    pub info_incarnation: u64,
    #[prost(uint32, tag = "6")]
    pub info_version: u32,
    #[prost(string, tag = "7")]
    pub info_writer: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct WriterDigest {
    #[prost(string, tag = "1")]
    pub node: String,
    #[prost(uint64, tag = "2")]
    pub incarnation: u64,
    /// Every change up to this stamp is held.
    #[prost(uint64, tag = "3")]
    pub stamp: u64,
    #[prost(uint64, tag = "4")]
    pub beat: u64,
}

/// Some writers' changes. Safe to apply in any order, twice, or through others.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RoomDelta {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(string, tag = "2")]
    pub room: String,
    /// The highest epoch the sender has seen in this room.
    #[prost(uint64, tag = "3")]
    pub epoch_clock: u64,
    #[prost(message, repeated, tag = "4")]
    pub writers: Vec<WriterDelta>,
    #[prost(message, optional, tag = "5")]
    pub info: Option<WireInfo>,
}

/// One writer's changes with stamps in `(base, stamp]`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WriterDelta {
    #[prost(string, tag = "1")]
    pub node: String,
    /// Which life of the writing process.
    #[prost(uint64, tag = "2")]
    pub incarnation: u64,
    #[prost(uint64, tag = "3")]
    pub base: u64,
    #[prost(uint64, tag = "4")]
    pub stamp: u64,
    /// Departures up to this stamp are forgotten.
    #[prost(uint64, tag = "5")]
    pub floor: u64,
    /// Grows while the writer lives: evidence that somebody hears it.
    #[prost(uint64, tag = "6")]
    pub beat: u64,
    #[prost(message, repeated, tag = "7")]
    pub records: Vec<WireParticipant>,
    /// Present when `base < floor`: everyone alive on the writer. Whoever is missing has left.
    #[prost(message, optional, tag = "8")]
    pub roster: Option<Roster>,
    /// Another page of the same answer follows.
    #[prost(bool, tag = "9")]
    pub more: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Roster {
    #[prost(string, repeated, tag = "1")]
    pub identities: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct WireInfo {
    #[prost(string, tag = "1")]
    pub sid: String,
    #[prost(uint64, tag = "2")]
    pub incarnation: u64,
    #[prost(uint32, tag = "3")]
    pub version: u32,
    #[prost(string, tag = "4")]
    pub writer: String,
    #[prost(string, tag = "5")]
    pub metadata: String,
    #[prost(int64, tag = "6")]
    pub created_at_ms: i64,
    #[prost(uint32, tag = "7")]
    pub empty_timeout_s: u32,
    #[prost(uint32, tag = "8")]
    pub departure_timeout_s: u32,
    #[prost(uint32, tag = "9")]
    pub max_participants: u32,
    #[prost(bool, tag = "10")]
    pub active_recording: bool,
    #[prost(string, tag = "11")]
    pub recording: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct WireParticipant {
    /// The writer's count of changes when this record last changed.
    #[prost(uint64, tag = "1")]
    pub stamp: u64,
    #[prost(string, tag = "2")]
    pub sid: String,
    #[prost(string, tag = "3")]
    pub identity: String,
    #[prost(uint64, tag = "4")]
    pub epoch: u64,
    #[prost(uint32, tag = "5")]
    pub version: u32,
    #[prost(string, tag = "6")]
    pub name: String,
    #[prost(string, tag = "7")]
    pub metadata: String,
    #[prost(btree_map = "string, string", tag = "8")]
    pub attributes: BTreeMap<String, String>,
    #[prost(message, optional, tag = "9")]
    pub permission: Option<Permission>,
    #[prost(enumeration = "ParticipantKind", tag = "10")]
    pub kind: i32,
    #[prost(int32, repeated, tag = "11")]
    pub kind_details: Vec<i32>,
    #[prost(enumeration = "ParticipantState", tag = "12")]
    pub state: i32,
    #[prost(int64, tag = "13")]
    pub joined_at_ms: i64,
    #[prost(int32, tag = "14")]
    pub client_protocol: i32,
    #[prost(int32, repeated, tag = "15")]
    pub capabilities: Vec<i32>,
    #[prost(string, tag = "16")]
    pub region: String,
    #[prost(enumeration = "DisconnectReason", tag = "17")]
    pub disconnect_reason: i32,
    #[prost(message, repeated, tag = "18")]
    pub tracks: Vec<WireTrack>,
    #[prost(message, optional, tag = "19")]
    pub acl: Option<SubscriptionAcl>,
    #[prost(bool, tag = "20")]
    pub moving: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct WireTrack {
    #[prost(string, tag = "1")]
    pub sid: String,
    #[prost(enumeration = "TrackKind", tag = "2")]
    pub kind: i32,
    #[prost(enumeration = "TrackSource", tag = "3")]
    pub source: i32,
    #[prost(string, tag = "4")]
    pub name: String,
    #[prost(bool, tag = "5")]
    pub muted: bool,
    #[prost(uint32, tag = "6")]
    pub width: u32,
    #[prost(uint32, tag = "7")]
    pub height: u32,
    #[prost(bool, tag = "8")]
    pub simulcast: bool,
    #[prost(message, repeated, tag = "9")]
    pub layers: Vec<VideoLayer>,
    #[prost(message, repeated, tag = "10")]
    pub codecs: Vec<TrackCodec>,
    #[prost(string, tag = "11")]
    pub mime: String,
    #[prost(string, tag = "12")]
    pub mid: String,
    #[prost(string, tag = "13")]
    pub stream: String,
    #[prost(bool, tag = "14")]
    pub disable_dtx: bool,
    #[prost(bool, tag = "15")]
    pub disable_red: bool,
    #[prost(bool, tag = "16")]
    pub stereo: bool,
    #[prost(int32, tag = "17")]
    pub encryption: i32,
    #[prost(int32, repeated, tag = "18")]
    pub audio_features: Vec<i32>,
    #[prost(int32, repeated, tag = "19")]
    pub packet_trailer_features: Vec<i32>,
    #[prost(int32, tag = "20")]
    pub backup_codec_policy: i32,
    #[prost(int64, tag = "21")]
    pub published_at_ms: i64,
    #[prost(uint32, tag = "22")]
    pub version: u32,
}

/// A fact that is larger than any edge accepts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} exceeds its limit of {limit}")]
pub struct TooLarge {
    pub what: &'static str,
    pub limit: usize,
}

fn within(what: &'static str, size: usize, limit: usize) -> Result<(), TooLarge> {
    if size <= limit {
        Ok(())
    } else {
        Err(TooLarge { what, limit })
    }
}

/// Checks everything about a participant that a stranger could grow.
pub(crate) fn check(participant: &Participant) -> Result<(), TooLarge> {
    within("identity", participant.identity.as_str().len(), limits::ID_BYTES)?;
    within("sid", participant.sid.as_str().len(), limits::ID_BYTES)?;
    within("region", participant.region.len(), limits::ID_BYTES)?;
    within("name", participant.name.len(), limits::NAME_BYTES)?;
    within("metadata", participant.metadata.len(), limits::METADATA_BYTES)?;
    let attributes = participant.attributes.iter().map(|(k, v)| k.len() + v.len()).sum();
    within("attributes", attributes, limits::ATTRIBUTES_BYTES)?;
    within(
        "publish sources",
        participant.permission.can_publish_sources.len(),
        limits::FEATURES,
    )?;
    within("kind details", participant.kind_details.len(), limits::FEATURES)?;
    within("capabilities", participant.capabilities.len(), limits::FEATURES)?;
    within("tracks", participant.tracks.len(), limits::TRACKS)?;
    if let Some(acl) = &participant.acl {
        within("subscription rules", acl.rules.len(), limits::ACL_RULES)?;
        within(
            "subscription rules",
            acl.rules.iter().map(|r| r.tracks.len()).sum(),
            limits::ACL_TRACKS,
        )?;
        for text in acl.rules.iter().flat_map(|r| r.tracks.iter().chain([&r.identity])) {
            within("identity", text.len(), limits::ID_BYTES)?;
        }
    }
    participant.tracks.values().try_for_each(check_track)
}

pub(crate) fn check_track(track: &Track) -> Result<(), TooLarge> {
    within("track sid", track.sid.as_str().len(), limits::ID_BYTES)?;
    within("track name", track.name.len(), limits::ID_BYTES)?;
    within("track stream", track.stream.len(), limits::ID_BYTES)?;
    within("track mime", track.mime.len(), limits::ID_BYTES)?;
    within("track mid", track.mid.len(), limits::ID_BYTES)?;
    within("track layers", track.layers.len(), limits::LAYERS)?;
    within("track codecs", track.codecs.len(), limits::CODECS)?;
    within("audio features", track.audio_features.len(), limits::FEATURES)?;
    within(
        "packet trailer features",
        track.packet_trailer_features.len(),
        limits::FEATURES,
    )?;
    for layer in track.layers.iter().chain(track.codecs.iter().flat_map(|c| &c.layers)) {
        within("rid", layer.rid.len(), limits::ID_BYTES)?;
    }
    for codec in &track.codecs {
        within("codec layers", codec.layers.len(), limits::LAYERS)?;
        for text in [&codec.mime, &codec.cid, &codec.mid, &codec.sdp_cid] {
            within("codec name", text.len(), limits::ID_BYTES)?;
        }
    }
    Ok(())
}

pub(crate) fn participant_to_wire(p: &Participant, stamp: u64) -> WireParticipant {
    WireParticipant {
        stamp,
        sid: p.sid.as_str().to_owned(),
        identity: p.identity.as_str().to_owned(),
        epoch: p.epoch.0,
        version: p.version.0,
        name: p.name.clone(),
        metadata: p.metadata.clone(),
        attributes: p.attributes.clone(),
        permission: Some(p.permission.clone()),
        kind: p.kind as i32,
        kind_details: p.kind_details.clone(),
        state: p.state as i32,
        joined_at_ms: p.joined_at_ms,
        client_protocol: p.client_protocol,
        capabilities: p.capabilities.clone(),
        region: p.region.clone(),
        disconnect_reason: p.disconnect_reason as i32,
        tracks: p.tracks.values().map(track_to_wire).collect(),
        acl: p.acl.clone(),
        moving: p.moving,
    }
}

pub(crate) fn participant_from_wire(node: &NodeId, w: WireParticipant) -> Result<Participant, TooLarge> {
    within("tracks", w.tracks.len(), limits::TRACKS)?;
    let (state, kind, reason) = (w.state(), w.kind(), w.disconnect_reason());
    let participant = Participant {
        sid: ParticipantSid::new(w.sid),
        identity: Identity::new(w.identity),
        name: w.name,
        metadata: w.metadata,
        attributes: w.attributes,
        permission: w.permission.unwrap_or_default(),
        kind,
        kind_details: w.kind_details,
        state,
        joined_at_ms: w.joined_at_ms,
        client_protocol: w.client_protocol,
        capabilities: w.capabilities,
        region: w.region,
        disconnect_reason: reason,
        tracks: w
            .tracks
            .into_iter()
            .map(track_from_wire)
            .map(|t| (t.sid.clone(), t))
            .collect(),
        acl: w.acl,
        node: node.clone(),
        epoch: Epoch(w.epoch),
        version: Version(w.version),
        moving: w.moving,
        former: None,
    };
    check(&participant)?;
    Ok(participant)
}

fn track_to_wire(t: &Track) -> WireTrack {
    WireTrack {
        sid: t.sid.as_str().to_owned(),
        kind: t.kind as i32,
        source: t.source as i32,
        name: t.name.clone(),
        muted: t.muted,
        width: t.width,
        height: t.height,
        simulcast: t.simulcast,
        layers: t.layers.clone(),
        codecs: t.codecs.clone(),
        mime: t.mime.clone(),
        mid: t.mid.clone(),
        stream: t.stream.clone(),
        disable_dtx: t.disable_dtx,
        disable_red: t.disable_red,
        stereo: t.stereo,
        encryption: t.encryption,
        audio_features: t.audio_features.clone(),
        packet_trailer_features: t.packet_trailer_features.clone(),
        backup_codec_policy: t.backup_codec_policy,
        published_at_ms: t.published_at_ms,
        version: t.version.0,
    }
}

fn track_from_wire(w: WireTrack) -> Track {
    let (kind, source) = (w.kind(), w.source());
    Track {
        sid: TrackSid::new(w.sid),
        kind,
        source,
        name: w.name,
        muted: w.muted,
        width: w.width,
        height: w.height,
        simulcast: w.simulcast,
        layers: w.layers,
        codecs: w.codecs,
        mime: w.mime,
        mid: w.mid,
        stream: w.stream,
        disable_dtx: w.disable_dtx,
        disable_red: w.disable_red,
        stereo: w.stereo,
        encryption: w.encryption,
        audio_features: w.audio_features,
        packet_trailer_features: w.packet_trailer_features,
        backup_codec_policy: w.backup_codec_policy,
        published_at_ms: w.published_at_ms,
        version: Version(w.version),
    }
}

pub(crate) fn info_to_wire(info: &RoomInfo, version: u32, writer: &NodeId) -> WireInfo {
    WireInfo {
        sid: info.sid.as_str().to_owned(),
        incarnation: info.incarnation,
        version,
        writer: writer.as_str().to_owned(),
        metadata: info.metadata.clone(),
        created_at_ms: info.created_at_ms,
        empty_timeout_s: info.empty_timeout_s,
        departure_timeout_s: info.departure_timeout_s,
        max_participants: info.max_participants,
        active_recording: !info.recording.is_empty(),
        recording: info.recording.clone(),
    }
}

pub(crate) fn info_from_wire(w: WireInfo) -> Result<RoomInfo, TooLarge> {
    within("room sid", w.sid.len(), limits::ID_BYTES)?;
    within("recording", w.recording.len(), limits::ID_BYTES)?;
    within("room metadata", w.metadata.len(), limits::METADATA_BYTES)?;
    Ok(RoomInfo {
        sid: RoomSid::new(w.sid),
        incarnation: w.incarnation,
        metadata: w.metadata,
        created_at_ms: w.created_at_ms,
        empty_timeout_s: w.empty_timeout_s,
        departure_timeout_s: w.departure_timeout_s,
        max_participants: w.max_participants,
        recording: w.recording,
    })
}
