//! Backup codecs: a second encoding of a camera for those who cannot decode the first.
//!
//! Towards clients a track is one, whatever codec they get it in. Between media threads and between edges each codec is a track of
//! its own, the backup under a sid that clients never see: `TR_x/vp8`. It exists once somebody needs it; the publisher then finds
//! the codec among those wanted (SubscribedQualityUpdate) and begins to send it.

use meridian_room::{Track, TrackSid};
use meridian_sfu::{Codec, Layer, MediaKind};
use meridian_shard_api::Command;
use meridian_transport::sdp::{Publication, WantedTrack};

use crate::conference::Conference;
use crate::io::{SessionKey, ToMesh};
use crate::subscribe::{layer_count, quality_wanted, sync_group};
use crate::tracks::{CarriedTrack, Origin, codec_of_mime};

/// Parts a track's sid from the name of the backup codec.
const MARK: char = '/';

/// The sid that everybody knows, and the name of the backup codec if this is one.
pub(crate) fn published(sid: &TrackSid) -> (TrackSid, Option<&str>) {
    match sid.as_str().split_once(MARK) {
        Some((published, codec)) => (TrackSid::from(published), Some(codec)),
        None => (sid.clone(), None),
    }
}

fn backup_sid(track: &TrackSid, codec: Codec) -> TrackSid {
    let mime = codec.to_string().to_ascii_lowercase();
    TrackSid::new(format!("{track}{MARK}{}", mime.rsplit('/').next().unwrap_or_default()))
}

/// Codecs the publisher offered beside the one it sends, as far as we know them.
fn backups(facts: &Track) -> impl Iterator<Item = Codec> {
    let others = facts
        .codecs
        .iter()
        .filter(|codec| !codec.mime.eq_ignore_ascii_case(&facts.mime));
    others.filter_map(|codec| codec_of_mime(&codec.mime))
}

pub(crate) fn has_backup(facts: &Track) -> bool {
    backups(facts).next().is_some()
}

/// That of them with this name.
pub(crate) fn backup_codec(facts: &Track, name: &str) -> Option<Codec> {
    backups(facts).find(|codec| is_named(&codec.to_string(), name))
}

fn is_named(mime: &str, name: &str) -> bool {
    mime.rsplit('/')
        .next()
        .is_some_and(|codec| codec.eq_ignore_ascii_case(name))
}

/// Encodings to expect of it: backups are sent as simulcast whenever there are layers.
pub(crate) fn backup_layers(facts: &Track, name: &str) -> u8 {
    let codec = facts.codecs.iter().find(|codec| is_named(&codec.mime, name));
    let layers = codec.map_or(facts.layers.len(), |codec| codec.layers.len());
    (layers.clamp(1, Layer::COUNT) as u8).max(layer_count(facts))
}

impl Conference {
    /// The client cannot decode what the publisher sends: it shall get the backup. `false`: there is none.
    pub(crate) fn subscribe_to_backup(&mut self, key: SessionKey, track: &TrackSid) -> bool {
        let Some((owner, facts)) = self.room.track(track) else {
            return false;
        };
        let Some(codec) = backups(facts).next() else {
            return false;
        };
        let (publisher, group) = (owner.sid.clone(), sync_group(facts).map(str::to_owned));
        let sid = backup_sid(track, codec);
        if self.tracks.get(&sid).is_none() && !self.carry_own_backup(&sid) && !self.carry_remote(&sid) {
            return false;
        }
        let (Some(carried), Some(member)) = (self.tracks.get(&sid), self.members.get_mut(&key)) else {
            return false;
        };
        if member.media.wanted.insert(carried.id) {
            tracing::debug!(room = %self.name, identity = %member.stay.identity, %sid, "subscribed to a backup codec");
            let group = group.filter(|_| member.voice.finds_tracks_by_mid());
            member.media.negotiation.subscribe(WantedTrack {
                key: carried.id.0,
                kind: carried.kind,
                stream_id: format!("{publisher}|{}", group.as_deref().unwrap_or(track.as_str())),
                track_sid: track.to_string(),
                codecs: carried.codecs.clone(),
            });
            member.media.needs_offer = true;
            self.dirty.insert(key);
        }
        true
    }

    /// Makes room for a backup of a track that is published here, before its publisher sends it. `false`: it offered none.
    pub(crate) fn carry_own_backup(&mut self, sid: &TrackSid) -> bool {
        let (track, Some(name)) = published(sid) else {
            return false;
        };
        let Some(Origin::Local { session, .. }) = self.tracks.get(&track).map(|carried| &carried.origin) else {
            return false;
        };
        let Some((_, facts)) = self.room.track(&track) else {
            return false;
        };
        let Some(codec) = backup_codec(facts, name) else {
            return false;
        };
        let (session, layers) = (*session, backup_layers(facts, name));
        let id = self.plane.allocate_track();
        self.tracks.insert(CarriedTrack {
            id,
            sid: sid.clone(),
            kind: MediaKind::Video,
            codecs: vec![codec],
            layers,
            origin: Origin::Local {
                session,
                mid: String::new(),
                cid: String::new(),
                publication: None,
                unannounced: None,
            },
            demands: Default::default(),
            lingering: Vec::new(),
            wanted_by_mesh: Default::default(),
            recorded: false,
            told: None,
        });
        true
    }

    /// The publisher begins to send the backup.
    pub(crate) fn publish_backup(&mut self, key: SessionKey, facts: &Track, index: usize, publication: &Publication) {
        let Some(codec) = facts.codecs.get(index).and_then(|codec| codec_of_mime(&codec.mime)) else {
            return;
        };
        let sid = backup_sid(&facts.sid, codec);
        if self.tracks.get(&sid).is_none() && !self.carry_own_backup(&sid) {
            tracing::debug!(room = %self.name, %sid, "a backup codec that nobody can have");
            return;
        }
        let Some(peer) = self.members.get(&key).and_then(|member| member.media.peer()) else {
            return;
        };
        let Some(carried) = self.tracks.get_mut(&sid) else {
            return;
        };
        let Origin::Local {
            mid,
            cid,
            publication: held,
            ..
        } = &mut carried.origin
        else {
            return;
        };
        (*mid, *cid) = (publication.mid.clone(), publication.cid.clone());
        *held = Some(publication.clone());
        carried.layers = publication.rids.len().clamp(1, Layer::COUNT) as u8;
        let track = carried.id;
        self.out.media(Command::Publish {
            peer,
            track,
            publication: publication.clone(),
        });
        // Not before: media threads tap only what they know. What other edges want of it waits in the mesh until then.
        self.out.mesh(ToMesh::Carry {
            track: sid,
            id: track,
            kind: MediaKind::Video,
        });
        let codecs = facts.codecs.clone();
        let muted = self.room.track(&facts.sid).is_some_and(|(_, held)| held.muted);
        self.out.media(Command::SetMuted { track, muted });
        self.write(key, |room, participant| {
            room.update_track(participant, &facts.sid, |held| held.codecs = codecs)
        });
    }

    /// The publisher has stopped sending the backup, but not the track: whoever still needs it asks anew.
    pub(crate) fn end_backup(&mut self, track: &TrackSid, backup: &TrackSid) {
        let Some(id) = self.tracks.get(backup).map(|carried| carried.id) else {
            return;
        };
        let subscribers = self.members.values().filter(|member| member.media.wanted.contains(&id));
        let subscribers: Vec<SessionKey> = subscribers.map(|member| member.key).collect();
        self.drop_track(backup);
        for key in subscribers {
            self.subscribe(key, track);
        }
    }

    /// Tells the publisher of a video which layers are wanted of each codec, the one it sends first.
    pub(crate) fn tell_publisher(&mut self, sid: &TrackSid) {
        let mut codecs = Vec::new();
        for sid in std::iter::once(sid.clone()).chain(self.tracks.backups_of(sid)) {
            let Some(track) = self.tracks.get(&sid) else { continue };
            let mime = track.codecs.first().map(Codec::to_string).unwrap_or_default();
            let wanted = track.wanted();
            codecs.push((
                mime,
                [0, 1, 2].map(|quality| quality_wanted(wanted, track.layers, quality)),
            ));
        }
        let Some(Origin::Local { session, .. }) = self.tracks.get(sid).map(|track| &track.origin) else {
            return;
        };
        let session = *session;
        if let Some(member) = self.members.get_mut(&session) {
            member.voice.subscribed_quality(sid, &codecs);
            self.dirty.insert(session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_room::{TrackCodec, TrackKind, TrackSource};

    fn camera() -> Track {
        let mut track = Track::new(TrackSid::from("TR_1"), TrackKind::Video, TrackSource::Camera);
        let codec = |mime: &str| TrackCodec {
            mime: mime.into(),
            ..TrackCodec::default()
        };
        track.mime = "video/VP9".into();
        track.codecs = vec![codec("video/VP9"), codec("video/VP8"), codec("video/H265")];
        track
    }

    #[test]
    fn a_backup_has_a_sid_of_its_own_that_names_track_and_codec() {
        let sid = backup_sid(&TrackSid::from("TR_1"), Codec::Vp8);
        assert_eq!(sid.as_str(), "TR_1/vp8");
        assert_eq!(published(&sid), (TrackSid::from("TR_1"), Some("vp8")));
        assert_eq!(published(&TrackSid::from("TR_1")), (TrackSid::from("TR_1"), None));
    }

    #[test]
    fn only_codecs_the_publisher_offered_beside_its_own_and_that_we_know_are_backups() {
        let named = |name| backup_codec(&camera(), name);
        assert_eq!(named("vp8"), Some(Codec::Vp8));
        assert_eq!(named("vp9"), None, "that is what it sends");
        assert_eq!((named("h264"), named("h265")), (None, None));
    }
}
