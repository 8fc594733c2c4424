//! Room facts as the client protocol's messages, and a token's claims as room facts. One conversion serves local and remote
//! participants alike: that is what makes them look the same.

use std::collections::BTreeMap;

use livekit_protocol as proto;
use meridian_access::token::{Claims, Grants};
use meridian_room::{
    DisconnectReason, Identity, NewParticipant, Participant, ParticipantKind, ParticipantSid, ParticipantState,
    Permission, Room, Track, TrackCodec, TrackSource, VideoLayer,
};

use crate::connect::ConnectRequest;

/// What the token grants, as permissions in the room.
pub fn permission(grants: &Grants) -> Permission {
    let sources = grants
        .can_publish_sources
        .iter()
        .filter_map(|name| source_by_name(name));
    Permission {
        can_subscribe: grants.may_subscribe(),
        can_publish: grants.may_publish(),
        can_publish_data: grants.may_publish_data(),
        can_publish_sources: sources.map(|source| source as i32).collect(),
        hidden: grants.hidden,
        recorder: grants.recorder,
        can_update_metadata: grants.may_update_own_metadata(),
        agent: grants.agent,
        can_subscribe_metrics: grants.may_subscribe_metrics(),
        can_manage_agent_session: false,
    }
}

fn source_by_name(name: &str) -> Option<TrackSource> {
    match name.to_ascii_lowercase().as_str() {
        "camera" => Some(TrackSource::Camera),
        "microphone" => Some(TrackSource::Microphone),
        "screen_share" => Some(TrackSource::ScreenShare),
        "screen_share_audio" => Some(TrackSource::ScreenShareAudio),
        // A name from the future must not mean "everything": keep the list non-empty.
        _ => Some(TrackSource::Unknown),
    }
}

/// The participant a verified token and a connect request describe. What the client says about itself counts only where the
/// token lets it.
pub fn new_participant(claims: &Claims, request: &ConnectRequest, sid: ParticipantSid, region: &str) -> NewParticipant {
    let grants = claims.video.clone().unwrap_or_default();
    let own = grants.may_update_own_metadata();
    let mut attributes: BTreeMap<String, String> = claims.attributes.clone();
    if own {
        attributes.extend(request.attributes.clone());
    }
    attributes.retain(|_, value| !value.is_empty());
    let kind = match claims.kind.as_str() {
        "ingress" => ParticipantKind::Ingress,
        "egress" => ParticipantKind::Egress,
        "sip" => ParticipantKind::Sip,
        "agent" => ParticipantKind::Agent,
        "connector" => ParticipantKind::Connector,
        "bridge" => ParticipantKind::Bridge,
        _ => ParticipantKind::Standard,
    };
    NewParticipant {
        name: claims.name.clone(),
        metadata: if own && !request.metadata.is_empty() {
            request.metadata.clone()
        } else {
            claims.metadata.clone()
        },
        attributes,
        permission: permission(&grants),
        kind,
        client_protocol: request.client.client_protocol,
        capabilities: request
            .client
            .capabilities
            .iter()
            .copied()
            .take(meridian_room::limits::FEATURES)
            .collect(),
        region: region.to_owned(),
        ..NewParticipant::new(Identity::from(claims.sub.as_str()), sid)
    }
}

#[allow(deprecated)] // older clients read `recorder` and `agent` here
fn permission_info(p: &Permission) -> proto::ParticipantPermission {
    proto::ParticipantPermission {
        can_subscribe: p.can_subscribe,
        can_publish: p.can_publish,
        can_publish_data: p.can_publish_data,
        can_publish_sources: p.can_publish_sources.clone(),
        hidden: p.hidden,
        recorder: p.recorder,
        can_update_metadata: p.can_update_metadata,
        agent: p.agent,
        can_subscribe_metrics: p.can_subscribe_metrics,
        can_manage_agent_session: p.can_manage_agent_session,
    }
}

pub fn participant_info(p: &Participant) -> proto::ParticipantInfo {
    proto::ParticipantInfo {
        sid: p.sid.as_str().to_owned(),
        identity: p.identity.as_str().to_owned(),
        state: p.state as i32,
        tracks: p.tracks.values().map(track_info).collect(),
        metadata: p.metadata.clone(),
        joined_at: p.joined_at_ms / 1000,
        joined_at_ms: p.joined_at_ms,
        name: p.name.clone(),
        version: p.version.0,
        permission: Some(permission_info(&p.permission)),
        region: p.region.clone(),
        is_publisher: p.is_publisher(),
        kind: p.kind as i32,
        attributes: p.attributes.clone().into_iter().collect(),
        disconnect_reason: p.disconnect_reason as i32,
        kind_details: p.kind_details.clone(),
        data_tracks: Vec::new(),
        client_protocol: p.client_protocol,
        capabilities: p.capabilities.clone(),
    }
}

/// The last message about a participant: its facts at departure, without tracks. Carries the sid, which native clients need.
pub fn departure_info(p: &Participant, reason: DisconnectReason) -> proto::ParticipantInfo {
    proto::ParticipantInfo {
        state: ParticipantState::Disconnected as i32,
        tracks: Vec::new(),
        is_publisher: false,
        disconnect_reason: reason as i32,
        ..participant_info(p)
    }
}

#[allow(deprecated)] // older clients read `simulcast`, `layers`, `stereo`
pub fn track_info(t: &Track) -> proto::TrackInfo {
    let codecs = t.codecs.iter().map(|c| proto::SimulcastCodecInfo {
        mime_type: c.mime.clone(),
        mid: c.mid.clone(),
        cid: c.cid.clone(),
        layers: c.layers.iter().map(layer_info).collect(),
        video_layer_mode: c.layer_mode,
        sdp_cid: c.sdp_cid.clone(),
    });
    proto::TrackInfo {
        sid: t.sid.as_str().to_owned(),
        r#type: t.kind as i32,
        name: t.name.clone(),
        muted: t.muted,
        width: t.width,
        height: t.height,
        simulcast: t.simulcast,
        disable_dtx: t.disable_dtx,
        source: t.source as i32,
        layers: t.layers.iter().map(layer_info).collect(),
        mime_type: t.mime.clone(),
        mid: t.mid.clone(),
        codecs: codecs.collect(),
        stereo: t.stereo,
        disable_red: t.disable_red,
        encryption: t.encryption,
        stream: t.stream.clone(),
        version: Some(proto::TimedVersion {
            unix_micro: t.published_at_ms.saturating_mul(1000),
            ticks: i32::try_from(t.version.0).unwrap_or(i32::MAX),
        }),
        audio_features: t.audio_features.clone(),
        backup_codec_policy: t.backup_codec_policy,
        packet_trailer_features: t.packet_trailer_features.clone(),
    }
}

fn layer_info(l: &VideoLayer) -> proto::VideoLayer {
    proto::VideoLayer {
        quality: l.quality,
        width: l.width,
        height: l.height,
        bitrate: l.bitrate,
        ssrc: l.ssrc,
        spatial_layer: l.spatial_layer,
        rid: l.rid.clone(),
        repair_ssrc: l.repair_ssrc,
    }
}

fn layer_fact(l: proto::VideoLayer) -> VideoLayer {
    VideoLayer {
        quality: l.quality,
        width: l.width,
        height: l.height,
        bitrate: l.bitrate,
        ssrc: l.ssrc,
        rid: l.rid,
        spatial_layer: l.spatial_layer,
        repair_ssrc: l.repair_ssrc,
    }
}

pub fn room_info(room: &Room, enabled_codecs: &[String]) -> proto::Room {
    let info = room.info();
    let (num_participants, num_publishers) = room.counts();
    proto::Room {
        sid: info.sid.as_str().to_owned(),
        name: room.name().as_str().to_owned(),
        empty_timeout: info.empty_timeout_s,
        departure_timeout: info.departure_timeout_s,
        max_participants: info.max_participants,
        creation_time: info.created_at_ms / 1000,
        creation_time_ms: info.created_at_ms,
        turn_password: String::new(),
        enabled_codecs: codecs(enabled_codecs),
        metadata: info.metadata.clone(),
        num_participants,
        num_publishers,
        active_recording: !info.recording.is_empty(),
        version: None,
    }
}

pub(crate) fn codecs(mimes: &[String]) -> Vec<proto::Codec> {
    mimes
        .iter()
        .map(|mime| proto::Codec {
            mime: mime.clone(),
            fmtp_line: String::new(),
        })
        .collect()
}

/// `vp8`, `VP8` and `video/vp8` all mean `video/VP8`.
pub fn mime_of(codec: &str, video: bool) -> String {
    let name = codec.rsplit('/').next().unwrap_or(codec).to_ascii_lowercase();
    let known = [
        "video/VP8",
        "video/VP9",
        "video/H264",
        "video/H265",
        "video/AV1",
        "audio/opus",
        "audio/red",
    ];
    let known = known.into_iter().chain(["audio/PCMU", "audio/PCMA"]);
    let mut matching = known.filter(|mime| mime.rsplit('/').next().is_some_and(|n| n.eq_ignore_ascii_case(&name)));
    match matching.next() {
        Some(mime) => mime.to_owned(),
        None if name.is_empty() => String::new(),
        None => format!("{}/{name}", if video { "video" } else { "audio" }),
    }
}

/// Layers as other clients shall see them: ordered from low to high, with the rid the publisher will use.
pub(crate) fn layers(from: Vec<proto::VideoLayer>, mode: i32) -> Vec<VideoLayer> {
    let mut layers: Vec<VideoLayer> = from.into_iter().map(layer_fact).collect();
    layers.sort_by_key(|layer| layer.quality);
    let svc = mode == proto::video_layer::Mode::MultipleSpatialLayersPerStream as i32;
    let simulcast = layers.len() > 1 && !svc;
    for (index, layer) in layers.iter_mut().enumerate() {
        if layer.spatial_layer == 0 {
            layer.spatial_layer = i32::try_from(index).unwrap_or(0);
        }
        if layer.rid.is_empty() && simulcast {
            layer.rid = ["q", "h", "f"].get(index).copied().unwrap_or_default().to_owned();
        }
    }
    layers
}

pub(crate) fn codec_fact(codec: proto::SimulcastCodec, video: bool) -> TrackCodec {
    TrackCodec {
        mime: mime_of(&codec.codec, video),
        cid: codec.cid,
        mid: String::new(),
        layers: layers(codec.layers, codec.video_layer_mode),
        layer_mode: codec.video_layer_mode,
        sdp_cid: String::new(),
    }
}
