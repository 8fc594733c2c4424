//! Who receives what: subscriptions of this edge's clients, the layers they look at, and what that asks of publishers and
//! of other edges.

use std::collections::BTreeSet;

use meridian_room::{Track, TrackKind, TrackSid, TrackSource};
use meridian_sfu::{Layer, LayerSet, MediaKind, TrackId};
use meridian_shard_api::{Command, Demand, PeerId};
use meridian_signalling::{SubscriptionFailure, TrackSetting};
use meridian_transport::sdp::{AudioPreferences, WantedTrack};

use crate::backup::{backup_codec, backup_layers, has_backup, published};
use crate::conference::Conference;
use crate::io::{SessionKey, ToMesh};
use crate::tracks::{CarriedTrack, Origin, codec_of_mime};

impl Conference {
    pub(crate) fn subscribe(&mut self, key: SessionKey, sid: &TrackSid) {
        let Some((owner, facts)) = self.room.track(sid) else {
            return;
        };
        let (publisher, group) = (owner.sid.clone(), sync_group(facts).map(str::to_owned));
        let Some(kind) = media_kind(facts) else { return };
        let backed = has_backup(facts);
        if self.tracks.get(sid).is_none() && !self.carry_remote(sid) {
            self.refuse_subscription(key, sid, SubscriptionFailure::CodecUnsupported);
            return;
        }
        let (Some(track), Some(member)) = (self.tracks.get(sid), self.members.get_mut(&key)) else {
            return;
        };
        if !member.media.wanted.insert(track.id) {
            return;
        }
        let group = group.filter(|_| member.voice.finds_tracks_by_mid());
        let stream_id = format!("{publisher}|{}", group.as_deref().unwrap_or(sid.as_str()));
        let mut codecs = track.codecs.clone();
        let pinned = backed || member.voice.offers_once();
        if let Some(sent) = track.codecs.first().filter(|_| pinned) {
            // Its publisher may be able to send others in that section; whoever lacks this one is better off with the backup.
            codecs.retain(|codec| codec.to_string() == sent.to_string());
        }
        member.media.negotiation.subscribe(WantedTrack {
            key: track.id.0,
            kind,
            stream_id,
            track_sid: sid.to_string(),
            codecs,
        });
        member.media.needs_offer = true;
        self.dirty.insert(key);
    }

    /// A track goes from one edge to another through this one.
    pub(crate) fn pass_through(&mut self, sid: &TrackSid) {
        if self.tracks.get(sid).is_none() && !self.carry_remote(sid) {
            tracing::debug!(room = %self.name, %sid, "asked to pass on a track that is not known here");
        }
    }

    /// Begins to carry a track of another edge, or a backup of one. Nothing crosses a link for it until somebody receives it.
    pub(crate) fn carry_remote(&mut self, sid: &TrackSid) -> bool {
        let (published, backup) = published(sid);
        let Some((owner, facts)) = self.room.track(&published) else {
            return false;
        };
        let Some(kind) = media_kind(facts) else { return false };
        let (node, epoch) = owner.origin_of(&published);
        if node == self.node {
            return false;
        }
        let codec = match backup {
            Some(name) => backup_codec(facts, name),
            None => codec_of_mime(&facts.mime),
        };
        let Some(codec) = codec else { return false };
        let id = self.plane.allocate_track();
        let layers = backup.map_or_else(|| layer_count(facts), |name| backup_layers(facts, name));
        self.out.media(Command::AddRemoteTrack {
            track: id,
            kind,
            codec,
            layers,
        });
        self.out.mesh(ToMesh::Carry {
            track: sid.clone(),
            id,
            kind,
        });
        self.tracks.insert(CarriedTrack {
            id,
            sid: sid.clone(),
            kind,
            codecs: vec![codec],
            layers,
            origin: Origin::Remote { node, epoch },
            demands: Default::default(),
            lingering: Vec::new(),
            wanted_by_mesh: LayerSet::EMPTY,
            recorded: false,
            told: None,
        });
        true
    }

    fn refuse_subscription(&mut self, key: SessionKey, sid: &TrackSid, failure: SubscriptionFailure) {
        if let Some(member) = self.members.get_mut(&key) {
            member.voice.subscription_error(sid, failure);
            self.dirty.insert(key);
        }
    }

    pub(crate) fn subscription_unsupported(&mut self, key: SessionKey, track: TrackId) {
        let Some(sid) = self.tracks.by_id(track).map(|track| track.sid.clone()) else {
            return;
        };
        if let Some(member) = self.members.get_mut(&key) {
            member.media.wanted.remove(&track);
        }
        let (published, backup) = published(&sid);
        if backup.is_some() || !self.subscribe_to_backup(key, &published) {
            self.refuse_subscription(key, &published, SubscriptionFailure::CodecUnsupported);
        }
    }

    /// Ends a client's subscription to a track, in whichever codec it receives it.
    pub(crate) fn unsubscribe(&mut self, key: SessionKey, sid: &TrackSid) {
        for backup in self.tracks.backups_of(sid) {
            self.unsubscribe_from(key, &backup);
        }
        self.unsubscribe_from(key, sid);
    }

    fn unsubscribe_from(&mut self, key: SessionKey, sid: &TrackSid) {
        let Some(track) = self.tracks.get_mut(sid) else { return };
        let id = track.id;
        track.demands.remove(&key);
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        member.media.wanted.remove(&id);
        member.media.negotiation.unsubscribe(id.0);
        if member.media.subscriptions.remove(&id).is_some() {
            // The client's section goes quiet, and free for another track, with its next offer.
            member.media.needs_offer = true;
            if let Some(peer) = member.media.peer() {
                self.out.media(Command::Unsubscribe { peer, track: id });
            }
        }
        self.dirty.insert(key);
    }

    /// What a client says about a track it receives: whether it is visible, and how large.
    pub(crate) fn set_demand(&mut self, key: SessionKey, sid: &TrackSid, setting: TrackSetting) {
        let Some((_, facts)) = self.room.track(sid) else { return };
        let demand = Demand {
            enabled: setting.enabled,
            max_layer: layer_for(facts, &setting),
            max_fps: u8::try_from(setting.fps).ok().filter(|fps| *fps > 0),
            priority: priority_for(facts, setting.priority),
        };
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        member.media.demands.insert(sid.clone(), demand);
        let Some(peer) = member.media.peer() else { return };
        let mut received = self.tracks.backups_of(sid);
        received.push(sid.clone());
        for sid in received {
            let Some(track) = self.tracks.get_mut(&sid) else {
                continue;
            };
            if track.demands.get(&key).is_some_and(|held| *held != demand) {
                track.change_demand(key, demand, self.now);
                let track = track.id;
                self.out.media(Command::SetDemand { peer, track, demand });
            }
        }
    }

    /// Tells publishers and other edges which layers are wanted now, where that has changed.
    pub(crate) fn tell_demand(&mut self) {
        let mut publications = BTreeSet::new();
        for sid in self.tracks.take_touched() {
            let Some(track) = self.tracks.get_told(&sid) else {
                continue;
            };
            let wanted = track.wanted();
            if track.told == Some(wanted) {
                continue;
            }
            match &track.origin {
                Origin::Local { unannounced: None, .. } => {
                    if track.kind == MediaKind::Video {
                        publications.insert(published(&track.sid).0);
                    }
                }
                Origin::Local { .. } => continue,
                Origin::Remote { node, epoch } => self.out.mesh(ToMesh::Want {
                    track: track.sid.clone(),
                    origin: node.clone(),
                    epoch: *epoch,
                    layers: wanted,
                }),
            }
            track.told = Some(wanted);
        }
        for sid in publications {
            self.tell_publisher(&sid);
        }
    }

    /// Other edges want these layers of one of our tracks.
    pub(crate) fn wanted_by_mesh(&mut self, sid: &TrackSid, layers: LayerSet) {
        if self.tracks.get(sid).is_none() && !layers.is_empty() {
            self.carry_own_backup(sid);
        }
        let Some(track) = self.tracks.get_mut(sid).filter(|track| track.is_local()) else {
            return;
        };
        let first = track.wanted_by_mesh.is_empty() && !layers.is_empty();
        track.wanted_by_mesh = layers;
        let id = track.id;
        if first {
            self.subscription_started(id);
        }
    }

    /// The first packet of a subscription has left: the publisher may want to know that somebody watches.
    pub(crate) fn subscription_started(&mut self, track: TrackId) {
        let Some(track) = self.tracks.by_id(track) else { return };
        if let Origin::Local { session, .. } = &track.origin
            && let Some(member) = self.members.get_mut(session)
        {
            member.voice.track_subscribed(&published(&track.sid).0);
            self.dirty.insert(*session);
        }
    }

    /// A client's link has no room for a track any more, or has again.
    pub(crate) fn stream_state(&mut self, peer: PeerId, track: TrackId, paused: bool) {
        let Some(track) = self.tracks.by_id(track) else { return };
        let sid = published(&track.sid).0;
        let Some((owner, _)) = self.room.track(&sid) else {
            return;
        };
        let state = [(owner.sid.clone(), sid, paused)];
        if let Some(&key) = self.peers.get(&peer)
            && let Some(member) = self.members.get_mut(&key)
        {
            member.voice.stream_state(&state);
            self.dirty.insert(key);
        }
    }

    pub(crate) fn keyframe_wanted(&mut self, track: TrackId, layer: Layer) {
        let Some(track) = self.tracks.by_id(track) else { return };
        if !track.is_local() {
            self.out.mesh(ToMesh::Keyframe {
                track: track.sid.clone(),
                layer,
            });
        }
    }

    /// How a track is to be encoded is said in the answer: browsers read it there.
    pub(crate) fn prepare(&mut self, key: SessionKey, sid: &TrackSid, kind: TrackKind) {
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        if kind == TrackKind::Video {
            for (cid, mime) in member.voice.announced_codecs(sid) {
                member.media.negotiation.prefer_video(&cid, &mime);
            }
        }
        let Some(track) = member.voice.announced(sid) else {
            return;
        };
        if kind != TrackKind::Audio {
            for codec in &track.codecs {
                let mut layers: Vec<_> = codec.layers.iter().filter(|layer| !layer.rid.is_empty()).collect();
                layers.sort_by_key(|layer| u64::from(layer.width) * u64::from(layer.height));
                let rids = layers.into_iter().map(|layer| layer.rid.clone()).collect();
                member.media.negotiation.prefer_layers(&codec.cid, rids);
            }
            return;
        }
        let preferences = AudioPreferences {
            dtx: !track.disable_dtx,
            stereo: track.stereo,
        };
        if let Some(cid) = track.codecs.first().map(|codec| codec.cid.clone()) {
            member.media.negotiation.prefer_audio(&cid, preferences);
        }
    }

    pub(crate) fn mute(&mut self, key: SessionKey, sid: &TrackSid, muted: bool) {
        self.write(key, |room, participant| {
            room.update_track(participant, sid, |facts| facts.muted = muted)
        });
        let mut carried = self.tracks.backups_of(sid);
        carried.push(sid.clone());
        for track in carried.iter().filter_map(|sid| self.tracks.get(sid)) {
            self.out.media(Command::SetMuted { track: track.id, muted });
        }
    }

    /// The facts of a track changed.
    pub(crate) fn track_updated(&mut self, sid: &TrackSid) {
        let Some((_, facts)) = self.room.track(sid) else { return };
        if let Some(track) = self.tracks.get_mut(sid)
            && let Origin::Remote { .. } = track.origin
        {
            track.layers = layer_count(facts);
        }
    }

    /// The client withdrew a track of its own.
    pub(crate) fn unpublish(&mut self, key: SessionKey, sid: &TrackSid) {
        if let Some(member) = self.members.get_mut(&key) {
            member.voice.track_unpublished(sid);
            let participant = member.stay.sid.clone();
            // An error only says that it was never shown.
            let _ = self.room.unpublish_track(&participant, sid);
            self.dirty.insert(key);
        }
        self.drop_track(sid);
    }

    /// Stops carrying a track: nobody receives it any more.
    pub(crate) fn drop_track(&mut self, sid: &TrackSid) {
        for backup in self.tracks.backups_of(sid) {
            self.drop_track(&backup);
        }
        let subscribers: Vec<SessionKey> = match self.tracks.get(sid) {
            Some(track) => self
                .members
                .values()
                .filter(|c| c.media.wanted.contains(&track.id))
                .map(|c| c.key)
                .collect(),
            None => return,
        };
        for key in subscribers {
            self.unsubscribe(key, sid);
        }
        let Some(track) = self.tracks.remove(sid) else { return };
        for member in self.members.values_mut() {
            member.media.demands.remove(sid);
        }
        self.out.mesh(ToMesh::Drop { track: sid.clone() });
        match track.origin {
            Origin::Local { .. } => self.out.media(Command::Unpublish { track: track.id }),
            Origin::Remote { node, epoch } => {
                self.out.mesh(ToMesh::Want {
                    track: sid.clone(),
                    origin: node,
                    epoch,
                    layers: LayerSet::EMPTY,
                });
                self.out.media(Command::RemoveTrack { track: track.id });
            }
        }
    }
}

pub(crate) fn media_kind(facts: &Track) -> Option<MediaKind> {
    match facts.kind {
        TrackKind::Audio => Some(MediaKind::Audio),
        TrackKind::Video => Some(MediaKind::Video),
        TrackKind::Data => None,
    }
}

/// The tracks of a publisher that are played in sync: those it names so, else camera with microphone and screen with its
/// sound. `None`: the name would not do in an msid, or looks like a track's id.
pub(crate) fn sync_group(facts: &Track) -> Option<&str> {
    let default = match facts.source {
        TrackSource::Camera | TrackSource::Microphone => "camera",
        TrackSource::ScreenShare | TrackSource::ScreenShareAudio => "screen_share",
        TrackSource::Unknown => "",
    };
    let group = if facts.stream.is_empty() {
        default
    } else {
        facts.stream.as_str()
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (!group.is_empty() && group.len() <= 32 && group.chars().all(plain) && !group.starts_with("TR")).then_some(group)
}

/// Encodings of a track: what simulcast publishers announce, else one.
pub(crate) fn layer_count(facts: &Track) -> u8 {
    if facts.kind == TrackKind::Video && facts.simulcast {
        facts.layers.len().clamp(1, Layer::COUNT) as u8
    } else {
        1
    }
}

/// A publisher with fewer encodings than three calls its best one HIGH, whatever our index of it.
pub(crate) fn quality_wanted(wanted: LayerSet, layers: u8, quality: u8) -> bool {
    let top = layers.saturating_sub(1);
    wanted.contains(Layer(quality)) || (quality > top && wanted.contains(Layer(top)))
}

/// What comes first where a link has no room for everything. The protocol's 1 is the most important and 0 is unset; then a shared
/// screen comes before cameras.
pub(crate) fn priority_for(facts: &Track, said: u32) -> u8 {
    const UNSET: u8 = 100;
    const SCREEN: u8 = 150;
    match said {
        0 if facts.source == TrackSource::ScreenShare => SCREEN,
        0 => UNSET,
        said => u8::MAX - u8::try_from(said).unwrap_or(u8::MAX - SCREEN).min(u8::MAX - SCREEN) + 1,
    }
}

/// The lowest layer that fills what the client shows, or the one it names.
fn layer_for(facts: &Track, setting: &TrackSetting) -> Layer {
    let top = Layer(layer_count(facts) - 1);
    if setting.width > 0 && setting.height > 0 {
        let mut layers: Vec<_> = facts.layers.iter().collect();
        layers.sort_by_key(|layer| layer.width * layer.height);
        // Turned phones swap the sides: the shorter side decides.
        let shown = setting.width.min(setting.height);
        let fits = layers.iter().position(|layer| layer.width.min(layer.height) >= shown);
        return fits
            .and_then(|index| u8::try_from(index).ok())
            .map_or(top, |index| Layer(index.min(top.0)));
    }
    setting.quality.map_or(top, |quality| Layer(quality.min(top.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_room::VideoLayer;

    fn camera() -> Track {
        let mut track = Track::new(TrackSid::new("TR_1"), TrackKind::Video, TrackSource::Camera);
        let layer = |quality, width, height| VideoLayer {
            quality,
            width,
            height,
            ..VideoLayer::default()
        };
        track.simulcast = true;
        track.layers = vec![layer(0, 320, 180), layer(1, 640, 360), layer(2, 1280, 720)];
        track
    }

    fn shown(width: u32, height: u32) -> TrackSetting {
        TrackSetting {
            enabled: true,
            quality: None,
            width,
            height,
            fps: 0,
            priority: 0,
        }
    }

    #[test]
    fn a_tile_gets_the_smallest_layer_that_fills_it() {
        assert_eq!(layer_for(&camera(), &shown(160, 90)), Layer(0));
        assert_eq!(layer_for(&camera(), &shown(640, 360)), Layer(1));
        assert_eq!(layer_for(&camera(), &shown(641, 361)), Layer(2));
        assert_eq!(layer_for(&camera(), &shown(3840, 2160)), Layer(2));
    }

    #[test]
    fn a_track_without_simulcast_has_one_layer_whatever_is_asked() {
        let mut screen = camera();
        screen.simulcast = false;
        assert_eq!(layer_for(&screen, &shown(3840, 2160)), Layer(0));
        assert_eq!(
            layer_for(
                &screen,
                &TrackSetting {
                    quality: Some(2),
                    ..shown(0, 0)
                }
            ),
            Layer(0)
        );
    }

    #[test]
    fn a_screen_comes_before_cameras_and_what_the_client_names_before_both() {
        let (camera, mut screen) = (camera(), camera());
        screen.source = TrackSource::ScreenShare;
        let order = [
            (&camera, 1),
            (&camera, 2),
            (&camera, u32::MAX),
            (&screen, 0),
            (&camera, 0),
        ];
        let priorities = order.map(|(facts, said)| priority_for(facts, said));
        assert!(priorities.is_sorted_by(|a, b| a > b), "{priorities:?}");
    }

    #[test]
    fn a_camera_is_in_sync_with_its_microphone_and_no_name_breaks_the_sdp() {
        let mut track = camera();
        assert_eq!(sync_group(&track), Some("camera"));
        track.source = TrackSource::Microphone;
        assert_eq!(sync_group(&track), Some("camera"));
        track.source = TrackSource::ScreenShareAudio;
        assert_eq!(sync_group(&track), Some("screen_share"));
        for (name, group) in [
            ("stage", Some("stage")),
            ("TR_1", None),
            ("a b", None),
            ("a\r\na=x", None),
        ] {
            track.stream = name.to_owned();
            assert_eq!(sync_group(&track), group, "{name:?}");
        }
    }

    #[test]
    fn a_publisher_with_two_encodings_keeps_its_best_one_while_somebody_wants_it() {
        let wanted = LayerSet(0b010);
        assert_eq!(
            [0, 1, 2].map(|quality| quality_wanted(wanted, 2, quality)),
            [false, true, true]
        );
        assert_eq!(
            [0, 1, 2].map(|quality| quality_wanted(LayerSet(0b001), 3, quality)),
            [true, false, false]
        );
    }
}
