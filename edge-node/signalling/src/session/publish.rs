//! Tracks the client publishes: announced by AddTrackRequest, matched to an SDP section by cid, then in the room.

use std::collections::BTreeMap;

use livekit_protocol as proto;
use meridian_room::{Room, Track, TrackCodec, TrackKind, TrackSid, TrackSource, VideoLayer, limits};
use proto::request_response::{Reason, Request};
use proto::signal_response::Message;

use super::Session;
use super::actions::{Action, Matched, PublicationKey};
use crate::convert;

#[derive(Default)]
pub(super) struct Publications {
    /// Announced, no section found yet; oldest first.
    pending: Vec<Track>,
    /// Matched to a section: as the session knows them (the room has the current facts).
    matched: BTreeMap<TrackSid, Track>,
    /// Backup codecs announced for a track: no section found yet.
    backups: Vec<(TrackSid, TrackCodec)>,
}

impl Publications {
    pub(super) fn owns(&self, track: &TrackSid) -> bool {
        self.matched.contains_key(track)
    }

    pub(super) fn remove(&mut self, track: &TrackSid) {
        self.pending.retain(|t| t.sid != *track);
        self.matched.remove(track);
        self.backups.retain(|(t, _)| t != track);
    }

    pub(super) fn pending_mut(&mut self, track: &TrackSid) -> Option<&mut Track> {
        self.pending.iter_mut().find(|t| t.sid == *track)
    }

    /// A track that has its section but is not in the room yet.
    pub(super) fn matched_mut(&mut self, track: &TrackSid) -> Option<&mut Track> {
        self.matched.get_mut(track)
    }

    fn len(&self) -> usize {
        self.pending.len() + self.matched.len()
    }
}

impl Session {
    /// Checks an AddTrackRequest and answers it.
    pub(super) fn add_track(&mut self, room: &Room, request: proto::AddTrackRequest) -> Vec<Action> {
        match self.accept_track(room, &request) {
            Ok((track, is_new)) => {
                let action = Action::AddTrack {
                    track: track.sid.clone(),
                    kind: track.kind,
                };
                let info = convert::track_info(&track);
                let response = proto::TrackPublishedResponse {
                    cid: request.cid,
                    track: Some(info),
                };
                self.push(Message::TrackPublished(response));
                if is_new { vec![action] } else { Vec::new() }
            }
            Err((reason, text)) => {
                self.respond(0, reason, text, Some(Request::AddTrack(request)));
                Vec::new()
            }
        }
    }

    /// The announced track, and whether it (or a codec of it) was unknown before.
    fn accept_track(
        &mut self,
        room: &Room,
        request: &proto::AddTrackRequest,
    ) -> Result<(Track, bool), (Reason, String)> {
        let me = room
            .participant(&self.identity)
            .ok_or((Reason::NotAllowed, "not in the room".to_owned()))?;
        let kind = match request.r#type() {
            proto::TrackType::Audio => TrackKind::Audio,
            proto::TrackType::Video => TrackKind::Video,
            proto::TrackType::Data => {
                return Err((Reason::UnsupportedType, "data tracks are not supported here".into()));
            }
        };
        let source = TrackSource::try_from(request.source).unwrap_or(TrackSource::Unknown);
        if !me.permission.may_publish(source) {
            return Err((
                Reason::NotAllowed,
                format!("not permitted to publish {}", request.source().as_str_name()),
            ));
        }
        check_sizes(request)?;
        if !request.sid.is_empty() {
            return self.accept_backup(room, request, kind).map(|track| (track, true));
        }
        // A repeated request gets the same answer.
        if let Some(known) = self
            .publications
            .pending
            .iter()
            .find(|t| t.codecs.iter().any(|c| c.cid == request.cid))
        {
            return Ok((known.clone(), false));
        }
        if self.publications.len() >= limits::TRACKS {
            return Err((Reason::LimitExceeded, format!("at most {} tracks", limits::TRACKS)));
        }
        let sid = TrackSid::generate(kind, source, &mut self.rng);
        let track = track_fact(sid, kind, source, request);
        self.publications.pending.push(track.clone());
        Ok((track, true))
    }

    /// A track the client published through another edge: announced here under the sid everybody knows. Nothing happens for
    /// tracks this session has.
    #[allow(deprecated)] // `layers`, `stereo` and `disable_dtx` are what clients repeat
    pub(super) fn restore_track(&mut self, room: &Room, published: &proto::TrackPublishedResponse) -> Option<Action> {
        let info = published.track.as_ref()?;
        let sid = TrackSid::from(info.sid.as_str());
        let publications = &mut self.publications;
        let known = publications.owns(&sid) || publications.pending_mut(&sid).is_some() || room.track(&sid).is_some();
        let well_formed = info.sid.starts_with("TR_") && !info.sid.contains('/');
        if known || !well_formed || publications.len() >= limits::TRACKS {
            return None;
        }
        let codecs = info.codecs.iter().map(|c| proto::SimulcastCodec {
            codec: c.mime_type.clone(),
            cid: c.cid.clone(),
            layers: c.layers.clone(),
            video_layer_mode: c.video_layer_mode,
        });
        let request = proto::AddTrackRequest {
            cid: published.cid.clone(),
            name: info.name.clone(),
            r#type: info.r#type,
            source: info.source,
            width: info.width,
            height: info.height,
            muted: info.muted,
            disable_dtx: info.disable_dtx,
            layers: info.layers.clone(),
            simulcast_codecs: codecs.collect(),
            sid: info.sid.clone(),
            stereo: info.stereo,
            disable_red: info.disable_red,
            encryption: info.encryption,
            stream: info.stream.clone(),
            backup_codec_policy: info.backup_codec_policy,
            audio_features: info.audio_features.clone(),
            packet_trailer_features: info.packet_trailer_features.clone(),
        };
        let kind = match request.r#type() {
            proto::TrackType::Audio => TrackKind::Audio,
            proto::TrackType::Video => TrackKind::Video,
            proto::TrackType::Data => return None,
        };
        let source = TrackSource::try_from(info.source).unwrap_or(TrackSource::Unknown);
        check_sizes(&request).ok()?;
        let permitted = room
            .participant(&self.identity)
            .is_some_and(|me| me.permission.may_publish(source));
        if !permitted {
            return None;
        }
        self.publications
            .pending
            .push(track_fact(sid.clone(), kind, source, &request));
        Some(Action::AddTrack { track: sid, kind })
    }

    /// A second codec for a track that exists.
    fn accept_backup(
        &mut self,
        room: &Room,
        request: &proto::AddTrackRequest,
        kind: TrackKind,
    ) -> Result<Track, (Reason, String)> {
        let sid = TrackSid::from(request.sid.as_str());
        let in_room = room
            .track(&sid)
            .filter(|(owner, _)| owner.identity == self.identity)
            .map(|(_, t)| t.clone());
        let known = in_room.or_else(|| self.publications.matched.get(&sid).cloned());
        let mut track = known
            .or_else(|| self.publications.pending_mut(&sid).cloned())
            .ok_or_else(|| (Reason::NotFound, format!("no track {sid} of yours")))?;
        if track.kind != kind || kind != TrackKind::Video {
            return Err((Reason::InvalidRequest, "a backup codec is for a video track".into()));
        }
        for codec in &request.simulcast_codecs {
            let codec = convert::codec_fact(codec.clone(), true);
            let cid = if codec.cid.is_empty() {
                request.cid.clone()
            } else {
                codec.cid.clone()
            };
            let codec = TrackCodec { cid, ..codec };
            match track.codecs.iter().position(|held| held.mime == codec.mime) {
                Some(index) => {
                    let held = &mut track.codecs[index];
                    held.cid = codec.cid.clone();
                    if !codec.layers.is_empty() {
                        held.layers = codec.layers.clone();
                    }
                }
                None if track.codecs.len() < limits::CODECS => track.codecs.push(codec.clone()),
                None => return Err((Reason::LimitExceeded, format!("at most {} codecs", limits::CODECS))),
            }
            self.publications
                .backups
                .retain(|(t, c)| *t != sid || c.mime != codec.mime);
            self.publications.backups.push((sid.clone(), codec));
        }
        if let Some(matched) = self.publications.matched.get_mut(&sid) {
            matched.codecs = track.codecs.clone();
        }
        Ok(track)
    }

    /// Finds the announced track that an SDP section carries: by the cid, else by the stream's id, else the oldest one of the
    /// kind (Firefox and some native clients rename tracks in the SDP). The track stays the session's to answer for until
    /// [`Session::track_unpublished`]. `None`: nothing is announced for this section (yet); ask again when it is.
    pub fn match_publication(&mut self, key: PublicationKey<'_>) -> Option<Matched> {
        if let Some(matched) = self.match_backup(key) {
            return Some(matched);
        }
        let pending = &self.publications.pending;
        let named = |id: &str| {
            let holds = |t: &Track| t.kind == key.kind && t.codecs.iter().any(|c| c.cid == id);
            pending.iter().position(|t| !id.is_empty() && holds(t))
        };
        let index = named(key.cid)
            .or_else(|| named(key.stream_id))
            .or_else(|| pending.iter().position(|t| t.kind == key.kind))?;
        let mut track = self.publications.pending.remove(index);
        track.mid = key.mid.to_owned();
        if let Some(primary) = track.codecs.first_mut() {
            primary.mid = key.mid.to_owned();
            if !key.mime.is_empty() {
                primary.mime = key.mime.to_owned();
            }
            if primary.cid != key.cid {
                primary.sdp_cid = key.cid.to_owned();
            }
            track.mime = primary.mime.clone();
        }
        self.publications.matched.insert(track.sid.clone(), track.clone());
        Some(Matched { track, backup: None })
    }

    fn match_backup(&mut self, key: PublicationKey<'_>) -> Option<Matched> {
        let backups = &mut self.publications.backups;
        let position = backups
            .iter()
            .position(|(_, c)| !c.cid.is_empty() && c.cid == key.cid)?;
        let (sid, codec) = backups.remove(position);
        let track = self.publications.matched.get_mut(&sid)?;
        let index = track.codecs.iter().position(|c| c.cid == codec.cid)?;
        track.codecs[index].mid = key.mid.to_owned();
        Some(Matched {
            track: track.clone(),
            backup: Some(index),
        })
    }

    /// What the client will call a track's sections in its offers, and the codec (mime type) it wants to send in each.
    pub fn announced_codecs(&self, track: &TrackSid) -> Vec<(String, String)> {
        let publications = &self.publications;
        let pending = publications.pending.iter().find(|t| t.sid == *track);
        let known = pending.or_else(|| publications.matched.get(track));
        let own = known.into_iter().flat_map(|t| &t.codecs);
        let backups = publications.backups.iter().filter(|(t, _)| t == track).map(|(_, c)| c);
        own.chain(backups)
            .filter(|c| !c.cid.is_empty() && !c.mime.is_empty())
            .map(|c| (c.cid.clone(), c.mime.clone()))
            .collect()
    }

    /// Tracks that were announced and matched to no section yet.
    pub fn pending_tracks(&self) -> impl Iterator<Item = &Track> {
        self.publications.pending.iter()
    }

    /// The facts of a matched track as they stand while its media has not started (a Mute may have changed them).
    pub fn matched_track(&self, track: &TrackSid) -> Option<&Track> {
        self.publications.matched.get(track)
    }
}

fn check_sizes(request: &proto::AddTrackRequest) -> Result<(), (Reason, String)> {
    let too_long = |text: &String| text.len() > limits::ID_BYTES;
    let names = [&request.cid, &request.name, &request.stream, &request.sid];
    let codec_names = request.simulcast_codecs.iter().flat_map(|c| [&c.codec, &c.cid]);
    let all_layers = || {
        request
            .layers
            .iter()
            .chain(request.simulcast_codecs.iter().flat_map(|c| &c.layers))
    };
    let counts_fit = request.simulcast_codecs.len() <= limits::CODECS
        && request.layers.len() <= limits::LAYERS
        && request
            .simulcast_codecs
            .iter()
            .all(|c| c.layers.len() <= limits::LAYERS)
        && request.audio_features.len() <= limits::FEATURES
        && request.packet_trailer_features.len() <= limits::FEATURES;
    if request.cid.is_empty() {
        return Err((Reason::InvalidRequest, "cid is empty".into()));
    }
    if !counts_fit || names.into_iter().chain(codec_names).any(too_long) || all_layers().any(|l| too_long(&l.rid)) {
        return Err((
            Reason::InvalidRequest,
            "a name is too long, or there are too many layers or codecs".into(),
        ));
    }
    Ok(())
}

#[allow(deprecated)] // `stereo` and `disable_dtx` still come from older clients
fn track_fact(sid: TrackSid, kind: TrackKind, source: TrackSource, request: &proto::AddTrackRequest) -> Track {
    let video = kind == TrackKind::Video;
    let mut codecs: Vec<TrackCodec> = request
        .simulcast_codecs
        .iter()
        .map(|c| convert::codec_fact(c.clone(), video))
        .collect();
    if codecs.is_empty() {
        codecs.push(TrackCodec::default());
    }
    let mode = codecs[0].layer_mode;
    let mut layers = convert::layers(request.layers.clone(), mode);
    if layers.is_empty() && video {
        let (width, height) = (request.width, request.height);
        layers.push(VideoLayer {
            quality: proto::VideoQuality::High as i32,
            width,
            height,
            ..VideoLayer::default()
        });
    }
    for codec in &mut codecs {
        if codec.layers.is_empty() {
            codec.layers.clone_from(&layers);
        }
    }
    if codecs[0].cid.is_empty() {
        codecs[0].cid = request.cid.clone();
    }
    let stereo = proto::AudioTrackFeature::TfStereo as i32;
    let no_dtx = proto::AudioTrackFeature::TfNoDtx as i32;
    Track {
        name: request.name.clone(),
        muted: request.muted,
        width: request.width,
        height: request.height,
        simulcast: layers.len() > 1,
        layers,
        mime: codecs[0].mime.clone(),
        codecs,
        stream: request.stream.clone(),
        disable_dtx: request.disable_dtx || request.audio_features.contains(&no_dtx),
        disable_red: request.disable_red,
        stereo: request.stereo || request.audio_features.contains(&stereo),
        encryption: request.encryption,
        audio_features: request.audio_features.clone(),
        packet_trailer_features: request.packet_trailer_features.clone(),
        backup_codec_policy: request.backup_codec_policy,
        ..Track::new(sid, kind, source)
    }
}
