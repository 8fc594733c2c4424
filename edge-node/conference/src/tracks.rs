//! The tracks of a room as this edge carries them: where each comes from, who here wants which layer of it, and what that
//! adds up to. The facts of a track (name, source, muted…) are the room's; here is only what media needs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use meridian_room::{Epoch, NodeId, TrackSid};
use meridian_sfu::{Codec, Layer, LayerSet, MediaKind, TrackId};
use meridian_shard_api::Demand;
use meridian_transport::sdp::Publication;

use crate::backup::published;
use crate::io::SessionKey;

/// A layer that a subscriber looks away from goes on this long: it is shown until the other one's keyframe is there, which
/// may be several round trips of the mesh away.
const LINGER: Duration = Duration::from_secs(2);

pub(crate) enum Origin {
    /// Published by a client of this edge.
    Local {
        session: SessionKey,
        mid: String,
        /// The client's own name of it, in SDP.
        cid: String,
        /// As the shard was last told; `None` when its transport was replaced.
        publication: Option<Publication>,
        /// The facts, until media flows.
        unannounced: Option<Box<meridian_room::Track>>,
    },
    /// Published on another edge and fetched over the mesh while somebody here wants it.
    Remote { node: NodeId, epoch: Epoch },
}

pub(crate) struct CarriedTrack {
    pub(crate) id: TrackId,
    pub(crate) sid: TrackSid,
    pub(crate) kind: MediaKind,
    /// What the publisher sends; the first is what it sends now.
    pub(crate) codecs: Vec<Codec>,
    /// Encodings the publisher announced, 1–3.
    pub(crate) layers: u8,
    pub(crate) origin: Origin,
    /// What each subscriber on this edge wants.
    pub(crate) demands: HashMap<SessionKey, Demand>,
    /// Layers that subscribers have just left for another one, and until when they are still wanted. One entry a layer.
    pub(crate) lingering: Vec<(Layer, Instant)>,
    /// What other edges want.
    pub(crate) wanted_by_mesh: LayerSet,
    /// This edge's recorder takes the best layer there is.
    pub(crate) recorded: bool,
    /// The sum as it was last told to the publisher or to the edge it comes from.
    pub(crate) told: Option<LayerSet>,
}

impl CarriedTrack {
    /// A subscriber that already receives wants something else now.
    pub(crate) fn change_demand(&mut self, session: SessionKey, demand: Demand, now: Instant) {
        let Some(held) = self.demands.insert(session, demand) else {
            return;
        };
        let top = self.layers.saturating_sub(1);
        let (old, new) = (held.max_layer.0.min(top), demand.max_layer.0.min(top));
        if held.enabled && demand.enabled && old != new {
            self.lingering.retain(|(layer, _)| layer.0 != old);
            self.lingering.push((Layer(old), now + LINGER));
        }
    }

    /// Whether any did end.
    pub(crate) fn end_lingering(&mut self, now: Instant) -> bool {
        let before = self.lingering.len();
        self.lingering.retain(|(_, until)| now < *until);
        self.lingering.len() < before
    }

    /// The layers that subscribers on this edge want or are just leaving: exactly those, not the ones below.
    pub(crate) fn wanted_here(&self) -> LayerSet {
        let top = self.layers.saturating_sub(1);
        let mut wanted = LayerSet::EMPTY;
        for demand in self.demands.values().filter(|demand| demand.enabled) {
            wanted.insert(Layer(demand.max_layer.0.min(top)));
        }
        if !wanted.is_empty() {
            self.lingering.iter().for_each(|(layer, _)| wanted.insert(*layer));
        }
        wanted
    }

    /// Everything anybody wants, here and beyond our links, and the recorder.
    pub(crate) fn wanted(&self) -> LayerSet {
        let mut wanted = self.wanted_here() | self.wanted_by_mesh;
        if self.recorded {
            wanted.insert(Layer(self.layers.saturating_sub(1)));
        }
        wanted
    }

    pub(crate) fn is_local(&self) -> bool {
        matches!(self.origin, Origin::Local { .. })
    }
}

/// All tracks of one room that this edge carries, by both their names.
#[derive(Default)]
pub(crate) struct Tracks {
    by_sid: BTreeMap<TrackSid, CarriedTrack>,
    sids: HashMap<TrackId, TrackSid>,
    /// The backups that are carried, by the sid that everybody knows.
    backups: HashMap<TrackSid, BTreeSet<TrackSid>>,
    /// What may be wanted of them has changed since [`Tracks::take_touched`].
    touched: BTreeSet<TrackSid>,
}

impl Tracks {
    pub(crate) fn insert(&mut self, track: CarriedTrack) {
        if let (published, Some(_)) = published(&track.sid) {
            self.backups.entry(published).or_default().insert(track.sid.clone());
        }
        self.touched.insert(track.sid.clone());
        self.sids.insert(track.id, track.sid.clone());
        self.by_sid.insert(track.sid.clone(), track);
    }

    pub(crate) fn remove(&mut self, sid: &TrackSid) -> Option<CarriedTrack> {
        let track = self.by_sid.remove(sid)?;
        self.sids.remove(&track.id);
        if let (published, Some(_)) = published(sid)
            && let Some(backups) = self.backups.get_mut(&published)
        {
            backups.remove(sid);
            if backups.is_empty() {
                self.backups.remove(&published);
            }
        }
        Some(track)
    }

    /// The backups of a track that are carried now.
    pub(crate) fn backups_of(&self, sid: &TrackSid) -> Vec<TrackSid> {
        self.backups.get(sid).into_iter().flatten().cloned().collect()
    }

    pub(crate) fn get(&self, sid: &TrackSid) -> Option<&CarriedTrack> {
        self.by_sid.get(sid)
    }

    pub(crate) fn get_mut(&mut self, sid: &TrackSid) -> Option<&mut CarriedTrack> {
        let track = self.by_sid.get_mut(sid)?;
        self.touched.insert(sid.clone());
        Some(track)
    }

    pub(crate) fn by_id(&self, id: TrackId) -> Option<&CarriedTrack> {
        self.by_sid.get(self.sids.get(&id)?)
    }

    pub(crate) fn by_id_mut(&mut self, id: TrackId) -> Option<&mut CarriedTrack> {
        let sid = self.sids.get(&id)?.clone();
        self.get_mut(&sid)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &CarriedTrack> {
        self.by_sid.values()
    }

    /// Those that were given out to be changed since the last call: in a large room one event must not weigh every track.
    pub(crate) fn take_touched(&mut self) -> BTreeSet<TrackSid> {
        std::mem::take(&mut self.touched)
    }

    /// To note what was told of it: that changes nothing in what is wanted.
    pub(crate) fn get_told(&mut self, sid: &TrackSid) -> Option<&mut CarriedTrack> {
        self.by_sid.get_mut(sid)
    }

    /// This client receives nothing any more.
    pub(crate) fn withdraw(&mut self, session: SessionKey) {
        for (sid, track) in &mut self.by_sid {
            if track.demands.remove(&session).is_some() {
                self.touched.insert(sid.clone());
            }
        }
    }

    pub(crate) fn end_lingering(&mut self, now: Instant) {
        for (sid, track) in &mut self.by_sid {
            if track.end_lingering(now) {
                self.touched.insert(sid.clone());
            }
        }
    }

    /// The track this client sends on that media section.
    pub(crate) fn published_on(&self, session: SessionKey, mid: &str) -> Option<TrackSid> {
        let found = self.iter().find(
            |track| matches!(&track.origin, Origin::Local { session: s, mid: m, .. } if *s == session && m == mid),
        );
        found.map(|track| track.sid.clone())
    }

    /// Tracks this client publishes.
    pub(crate) fn published_by(&self, session: SessionKey) -> Vec<TrackSid> {
        let of_session =
            |track: &&CarriedTrack| matches!(track.origin, Origin::Local { session: s, .. } if s == session);
        self.iter().filter(of_session).map(|track| track.sid.clone()).collect()
    }
}

/// What a track of another edge is sent in, from the mime type its publisher's edge announced.
pub(crate) fn codec_of_mime(mime: &str) -> Option<Codec> {
    // Browsers' baseline H264 (constrained baseline 3.1, single NAL units aggregated): what a mime type alone can promise.
    const H264: Codec = Codec::H264 {
        profile_level_id: 0x42e01f,
        packetization_mode: 1,
    };
    let known = [
        Codec::Opus,
        Codec::Red,
        Codec::Pcmu,
        Codec::Pcma,
        Codec::Vp8,
        Codec::Vp9 { profile: 0 },
        H264,
        Codec::Av1,
    ];
    known
        .into_iter()
        .find(|codec| codec.to_string().eq_ignore_ascii_case(mime))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(layers: u8, demands: &[(u64, bool, u8)]) -> CarriedTrack {
        let demand = |&(session, enabled, layer): &(u64, bool, u8)| {
            (
                SessionKey(session),
                Demand {
                    enabled,
                    max_layer: Layer(layer),
                    max_fps: None,
                    priority: 0,
                },
            )
        };
        CarriedTrack {
            id: TrackId(1),
            sid: TrackSid::new("TR_1"),
            kind: MediaKind::Video,
            codecs: vec![Codec::Vp8],
            layers,
            origin: Origin::Remote {
                node: NodeId::new("sin-1"),
                epoch: Epoch(1),
            },
            demands: demands.iter().map(demand).collect(),
            lingering: Vec::new(),
            wanted_by_mesh: LayerSet::EMPTY,
            recorded: false,
            told: None,
        }
    }

    #[test]
    fn a_layer_lingers_until_the_next_one_can_have_arrived() {
        let (now, session) = (Instant::now(), SessionKey(1));
        let mut track = track(3, &[(1, true, 2)]);
        let demand = |enabled, layer| Demand {
            enabled,
            max_layer: Layer(layer),
            max_fps: None,
            priority: 0,
        };
        track.change_demand(session, demand(true, 0), now);
        assert_eq!(track.wanted(), LayerSet(0b101));
        track.end_lingering(now + LINGER - Duration::from_millis(1));
        assert_eq!(track.wanted(), LayerSet(0b101));
        track.end_lingering(now + LINGER);
        assert_eq!(track.wanted(), LayerSet(0b001));
        track.change_demand(session, demand(true, 2), now);
        track.change_demand(session, demand(false, 2), now);
        assert_eq!(track.wanted(), LayerSet::EMPTY, "nobody looks: nothing lingers");
    }

    #[test]
    fn one_change_in_a_room_of_a_thousand_touches_one_track() {
        let now = Instant::now();
        let mut tracks = Tracks::default();
        for number in 1..=1_000 {
            let mut one = track(3, &[(number, true, 2)]);
            (one.id, one.sid) = (TrackId(number), TrackSid::new(format!("TR_{number}")));
            tracks.insert(one);
        }
        let mut backup = track(1, &[]);
        (backup.id, backup.sid) = (TrackId(5_000), TrackSid::new("TR_7/vp8"));
        tracks.insert(backup);
        assert_eq!(tracks.take_touched().len(), 1_001, "new ones are weighed once");
        let seven = TrackSid::new("TR_7");
        let lower = Demand {
            max_layer: Layer(0),
            ..tracks.get(&seven).unwrap().demands[&SessionKey(7)]
        };
        tracks.get_mut(&seven).unwrap().change_demand(SessionKey(7), lower, now);
        let one = BTreeSet::from([seven.clone()]);
        assert_eq!(tracks.take_touched(), one);
        tracks.end_lingering(now + LINGER - Duration::from_millis(1));
        assert!(tracks.take_touched().is_empty());
        tracks.end_lingering(now + LINGER);
        assert_eq!(tracks.take_touched(), one);
        tracks.withdraw(SessionKey(7));
        assert_eq!(tracks.take_touched(), one);
        assert_eq!(tracks.backups_of(&seven), [TrackSid::new("TR_7/vp8")]);
        tracks.remove(&TrackSid::new("TR_7/vp8"));
        assert!(tracks.backups_of(&seven).is_empty() && tracks.backups.is_empty());
    }

    #[test]
    fn only_layers_somebody_looks_at_are_wanted() {
        assert_eq!(track(3, &[(1, true, 2), (2, true, 0)]).wanted(), LayerSet(0b101));
        assert_eq!(track(3, &[(1, false, 2), (2, true, 0)]).wanted(), LayerSet(0b001));
        assert_eq!(track(3, &[]).wanted(), LayerSet::EMPTY);
    }

    #[test]
    fn a_demand_above_the_top_layer_wants_the_top_layer() {
        assert_eq!(track(1, &[(1, true, 2)]).wanted(), LayerSet(0b001));
        assert_eq!(track(2, &[(1, true, 2)]).wanted(), LayerSet(0b010));
    }

    #[test]
    fn a_codec_is_known_by_its_mime_type() {
        assert_eq!(codec_of_mime("video/vp8"), Some(Codec::Vp8));
        assert_eq!(codec_of_mime("AUDIO/OPUS"), Some(Codec::Opus));
        assert_eq!(codec_of_mime("video/h265"), None);
    }
}
