//! Tracks on this shard: where their packets come from, where their home is, and whom they go to next. Who is subscribed
//! is `subscriptions`' business.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use meridian_sfu::layers;
use meridian_sfu::{
    Codec, Encoding, Layer, LayerSet, MediaKind, Packet, RemoteTrack, SenderReportInfo, Source, SsrcInfo, TrackId,
    Uplink, UplinkMedia,
};
use meridian_transport::sdp::Publication;

use super::Shard;
use crate::inbox::{Mirrored, Note};
use crate::metrics::add;
use crate::taps::Tapping;
use meridian_shard_api::{Event, TapConsumer};

const MESH_REPORT_EVERY: Duration = Duration::from_secs(1);
/// What a publisher reports is passed on so often at most, its latest word: what it sends too often must not fill queues.
const REPORT_GAP: Duration = Duration::from_millis(200);

/// Where a track's packets come from.
pub(crate) enum Origin {
    /// A peer of this shard publishes it.
    Local { peer: u32, uplink: Uplink },
    /// It comes over a link.
    Remote(RemoteTrack),
    /// Another shard is its home, or nobody is yet: then subscriptions wait.
    Mirror { source: Source, home: Option<u16> },
}

impl Origin {
    pub(crate) fn source(&self) -> &Source {
        match self {
            Origin::Local { uplink, .. } => uplink.source(),
            Origin::Remote(remote) => remote.source(),
            Origin::Mirror { source, .. } => source,
        }
    }
}

pub(crate) struct Track {
    pub(crate) origin: Origin,
    /// Indices of subscriptions on this shard.
    pub(crate) subscribers: Vec<u32>,
    /// Packets to be forwarded at the next flush.
    pub(crate) fresh: Vec<Packet>,
    /// Shards that get every packet.
    mirrors: Vec<u16>,
    tap: Tapping,
    /// When the mesh was last told what the publisher's sender reports say.
    told_mesh: Option<Instant>,
    /// Sender reports on their way to mirrors and mesh, by encoding.
    passing: [Passing; Encoding::COUNT],
    started: LayerSet,
    pub(super) muted: bool,
}

/// When an encoding's sender report was passed on last, and which waits.
#[derive(Clone, Copy, Default)]
struct Passing {
    at: Option<Instant>,
    waiting: Option<SenderReportInfo>,
}

impl Passing {
    fn due(&mut self, now: Instant) -> Option<SenderReportInfo> {
        if self.at.is_some_and(|at| now < at + REPORT_GAP) {
            return None;
        }
        let report = self.waiting.take()?;
        self.at = Some(now);
        Some(report)
    }
}

impl Track {
    pub(super) fn new(origin: Origin) -> Track {
        Track {
            origin,
            subscribers: Vec::new(),
            fresh: Vec::new(),
            mirrors: Vec::new(),
            tap: Tapping::default(),
            told_mesh: None,
            passing: [Passing::default(); Encoding::COUNT],
            started: LayerSet::EMPTY,
            muted: false,
        }
    }
}

fn uplink_media(publication: Publication) -> UplinkMedia {
    UplinkMedia {
        mid: publication.mid,
        kind: publication.kind,
        rids: publication.rids,
        ssrcs: publication
            .ssrcs
            .iter()
            .map(|s| SsrcInfo {
                ssrc: s.ssrc,
                rtx: s.rtx,
            })
            .collect(),
        payloads: publication.payloads,
        extensions: publication.extensions,
    }
}

impl Shard {
    pub(super) fn publish(&mut self, slot: u32, id: TrackId, publication: Publication, now: Instant) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let media = uplink_media(publication);
        peer.receiver.publish(id, &media);
        if !peer.published.contains(&id) {
            peer.published.push(id);
        }
        match self.tracks.get_mut(&id) {
            Some(Track {
                origin: Origin::Local { uplink, peer },
                ..
            }) if *peer == slot => uplink.update(media),
            // Somebody else's until now: `settle` takes it from them.
            _ => self.settle(
                id,
                Origin::Local {
                    peer: slot,
                    uplink: Uplink::new(id, media),
                },
                now,
            ),
        }
    }

    pub(super) fn add_remote_track(&mut self, id: TrackId, codec: Codec, now: Instant) {
        if !matches!(
            self.tracks.get(&id),
            Some(Track {
                origin: Origin::Remote(_),
                ..
            })
        ) {
            self.settle(id, Origin::Remote(RemoteTrack::new(id, codec)), now);
        }
    }

    /// The track has its home here from now on; subscriptions that waited for it stay.
    fn settle(&mut self, id: TrackId, origin: Origin, now: Instant) {
        self.take_from_publisher(id);
        match self.tracks.get_mut(&id) {
            Some(track) => {
                track.origin = origin;
                track.started = LayerSet::EMPTY;
                if track.muted
                    && let Origin::Local { uplink, .. } = &mut track.origin
                {
                    uplink.set_muted(true);
                }
            }
            None => {
                self.tracks.insert(id, Track::new(origin));
            }
        }
        self.pull_keyframes(id, now);
    }

    /// A peer of this shard that published the track, if there is one, does so no more.
    fn take_from_publisher(&mut self, id: TrackId) {
        self.speakers.remove(id);
        if let Some(Track {
            origin: Origin::Local { peer, .. },
            ..
        }) = self.tracks.get(&id)
            && let Some(peer) = self.peers.get_mut(*peer)
        {
            peer.receiver.unpublish(id);
            peer.published.retain(|t| *t != id);
        }
    }

    /// Whoever publishes next begins unmuted.
    fn unmute(&mut self, id: TrackId) {
        let Some(track) = self.tracks.get_mut(&id).filter(|t| t.muted) else {
            return;
        };
        track.muted = false;
        for &subscriber in &track.subscribers {
            if let Some(subscription) = self.subscriptions.get_mut(subscriber) {
                subscription.downlink.set_muted(false);
            }
        }
    }

    /// A `Publish` of a peer that is gone: nobody shall look for the track here.
    pub(super) fn refuse_home(&mut self, id: TrackId) {
        if !self.tracks.contains_key(&id) {
            let attached = self
                .shared
                .routes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clear_home_if(id, self.shared.index);
            for shard in attached.into_iter().filter(|&s| s != self.shared.index) {
                self.shared.mailboxes[usize::from(shard)].note(Note::Home { track: id, home: None });
            }
        }
    }

    /// The publisher, or the link, stops. What has subscribers goes on to exist without packets.
    pub(super) fn end_track(&mut self, id: TrackId) {
        self.take_from_publisher(id);
        let Some(track) = self.tracks.get_mut(&id) else { return };
        let kind = track.origin.source().kind();
        track.origin = Origin::Mirror {
            source: Source::new(kind),
            home: None,
        };
        track.fresh.clear();
        track.tap = Tapping::default();
        self.unmute(id);
        let Some(track) = self.tracks.get_mut(&id) else { return };
        // The front has told the mirrors, unless this shard ended the track by itself (its peer is gone).
        let attached = {
            let mut routes = self.shared.routes.lock().unwrap_or_else(PoisonError::into_inner);
            let attached = routes.clear_home_if(id, self.shared.index);
            if !track.subscribers.is_empty() {
                // From now on this shard waits for the track's next home like any other.
                routes.attach(id, self.shared.index);
            }
            attached
        };
        for shard in attached.into_iter().filter(|&s| s != self.shared.index) {
            self.shared.mailboxes[usize::from(shard)].note(Note::Home { track: id, home: None });
        }
        track.mirrors.clear();
        self.remove_if_unused(id);
    }

    pub(super) fn remove_if_unused(&mut self, id: TrackId) {
        let Some(track) = self.tracks.get(&id) else { return };
        if track.subscribers.is_empty()
            && let Origin::Mirror { home, .. } = &track.origin
        {
            let home = home.is_some();
            self.tracks.remove(&id);
            let to = self
                .shared
                .routes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .detach(id, self.shared.index);
            if let Some(to) = to.filter(|_| home) {
                let note = Note::Detach {
                    track: id,
                    shard: self.shared.index,
                };
                self.shared.mailboxes[usize::from(to)].note(note);
            }
        }
    }

    pub(super) fn attach(&mut self, id: TrackId, shard: u16, now: Instant) {
        let Some(track) = self.tracks.get_mut(&id) else { return };
        if shard == self.shared.index || track.mirrors.contains(&shard) {
            return;
        }
        track.mirrors.push(shard);
        let mailbox = &self.shared.mailboxes[usize::from(shard)];
        if track.muted {
            mailbox.note(Note::Muted { track: id, muted: true });
        }
        let absent = track.origin.source().absent();
        if !absent.is_empty() {
            mailbox.note(Note::Absent {
                track: id,
                layers: absent,
            });
        }
        let source = track.origin.source();
        for encoding in source.encodings() {
            if let Some(report) = source.sender_report_now(now, encoding) {
                mailbox.note(Note::SenderReport {
                    track: id,
                    encoding,
                    report,
                });
            }
        }
    }

    pub(super) fn detach(&mut self, id: TrackId, shard: u16) {
        if let Some(track) = self.tracks.get_mut(&id) {
            track.mirrors.retain(|&s| s != shard);
        }
    }

    /// The track lives on another shard from now on, or nowhere.
    pub(super) fn set_home(&mut self, id: TrackId, new_home: Option<u16>, now: Instant) {
        let Some(track) = self.tracks.get(&id) else { return };
        let old = if let Origin::Mirror { home, .. } = &track.origin {
            *home
        } else {
            Some(self.shared.index)
        };
        if old == new_home {
            return;
        }
        self.take_from_publisher(id);
        self.unmute(id);
        let Some(track) = self.tracks.get_mut(&id) else { return };
        let was_home = !matches!(track.origin, Origin::Mirror { .. });
        if old.is_some() {
            // The next publisher numbers from its own start.
            let kind = track.origin.source().kind();
            track.origin = Origin::Mirror {
                source: Source::new(kind),
                home: new_home,
            };
            track.fresh.clear();
            track.mirrors.clear();
            track.tap = Tapping::default();
        } else if let Origin::Mirror { home, .. } = &mut track.origin {
            *home = new_home;
        }
        if was_home && !track.subscribers.is_empty() {
            let to = self
                .shared
                .routes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .attach(id, self.shared.index);
            if let Some(to) = to.filter(|&to| to != self.shared.index) {
                self.shared.mailboxes[usize::from(to)].note(Note::Attach {
                    track: id,
                    shard: self.shared.index,
                });
            }
        }
        self.remove_if_unused(id);
        self.pull_keyframes(id, now);
    }

    pub(super) fn set_muted(&mut self, id: TrackId, muted: bool, now: Instant) {
        let Some(track) = self.tracks.get_mut(&id) else { return };
        track.muted = muted;
        if let Origin::Local { uplink, .. } = &mut track.origin {
            uplink.set_muted(muted);
        }
        if muted {
            self.speakers.remove(id);
        }
        for &subscriber in &track.subscribers {
            if let Some(subscription) = self.subscriptions.get_mut(subscriber) {
                subscription.downlink.set_muted(muted);
            }
        }
        for &shard in &track.mirrors {
            self.shared.mailboxes[usize::from(shard)].note(Note::Muted { track: id, muted });
        }
        self.pull_keyframes(id, now);
    }

    pub(super) fn set_tap(&mut self, id: TrackId, consumer: TapConsumer, layers: LayerSet, now: Instant) {
        let Some(track) = self.tracks.get_mut(&id) else { return };
        let new = track.tap.set(consumer, layers);
        if !new.is_empty() {
            track.told_mesh = None;
        }
        if track.origin.source().kind() == MediaKind::Video {
            let live = track.origin.source().live();
            for layer in new.iter() {
                self.keyframe_wanted(id, layer, now);
                if let Some(stands_in) = live
                    .iter()
                    .filter(|&l| l < layer)
                    .last()
                    .filter(|_| !live.contains(layer))
                {
                    self.keyframe_wanted(id, stands_in, now);
                }
            }
        }
    }

    /// Layers that do not come over the link for now: whoever has them goes to the best other one.
    pub(super) fn set_absent(&mut self, id: TrackId, layers: LayerSet, now: Instant) {
        let Some(track) = self.tracks.get_mut(&id) else { return };
        match &mut track.origin {
            Origin::Local { .. } => return,
            Origin::Remote(remote) => remote.source_mut().set_absent(layers),
            Origin::Mirror { source, .. } => source.set_absent(layers),
        }
        for &shard in &track.mirrors {
            self.shared.mailboxes[usize::from(shard)].note(Note::Absent { track: id, layers });
        }
        self.pull_keyframes(id, now);
    }

    /// Somebody needs a keyframe: to the publisher, the home shard or the mesh, whichever the track comes from. Each of
    /// them limits the rate.
    pub(super) fn keyframe_wanted(&mut self, id: TrackId, layer: Layer, now: Instant) {
        let Some(track) = self.tracks.get_mut(&id) else { return };
        let ask = match &mut track.origin {
            Origin::Local { peer, uplink } => {
                uplink.request_keyframe(now, layer);
                let peer = *peer;
                if self.peers.get(peer).is_some_and(|p| p.connected) {
                    self.poll_feedback(peer, now);
                }
                return;
            }
            Origin::Remote(remote) => remote.source_mut().request_keyframe(now, layer),
            Origin::Mirror { source, home } => home.is_some() && source.request_keyframe(now, layer),
        };
        if ask {
            self.ask_upstream(id, layer);
        }
    }

    /// A packet enters the track at its home: to the subscribers here, to other shards, to the mesh.
    pub(super) fn distribute(&mut self, id: TrackId, packet: Packet, now: Instant) {
        let Some(track) = self.tracks.get_mut(&id) else { return };
        add(&self.shared.counters.media_in, 1);
        if let Some(level) = packet.audio_level {
            self.speakers.observe(now, id, level);
        }
        let layer = packet.layer;
        if !track.started.contains(layer) {
            track.started.insert(layer);
            self.events.send(Event::MediaStarted {
                track: id,
                layer,
                codec: packet.codec,
            });
        }
        for &shard in &track.mirrors {
            if self.shared.mailboxes[usize::from(shard)].media(Mirrored {
                track: id,
                packet: packet.clone(),
            }) {
                self.to_wake[usize::from(shard)] = true;
            } else {
                add(&self.shared.counters.drop_cross_shard, 1);
            }
        }
        for consumer in TapConsumer::ALL {
            let wanted = track.tap.of(consumer);
            if wanted.is_empty() {
                continue;
            }
            let live = live_for(wanted, track.origin.source());
            if !layers::serves(layer, wanted, live, LayerSet::EMPTY) {
                continue;
            }
            self.taps.push(consumer, id, live, &packet);
            self.flush_at.get_or_insert(now + self.shared.config.flush_delay);
            self.flush_now |= packet.marker || packet.codec.kind() == MediaKind::Audio;
        }
        self.enqueue(id, packet, now);
    }

    pub(super) fn take_mirrored(&mut self, mirrored: Mirrored) {
        let Mirrored { track: id, packet } = mirrored;
        let Some(Track {
            origin: Origin::Mirror { source, .. },
            ..
        }) = self.tracks.get_mut(&id)
        else {
            return;
        };
        if source.mirror(&packet) {
            let arrival = packet.arrival;
            self.enqueue(id, packet, arrival);
        }
    }

    fn enqueue(&mut self, id: TrackId, packet: Packet, now: Instant) {
        let Some(track) = self.tracks.get_mut(&id) else { return };
        if track.subscribers.is_empty() {
            return;
        }
        // A frame ends with its marker bit; audio has nothing to wait for.
        self.flush_now |= packet.marker || packet.codec.kind() == MediaKind::Audio;
        self.flush_at.get_or_insert(now + self.shared.config.flush_delay);
        if track.fresh.is_empty() {
            self.dirty.push(id);
        }
        track.fresh.push(packet);
    }

    /// A sender report at the track's home: subscribers, mirrors and the mesh need it.
    pub(super) fn sender_report(&mut self, id: TrackId, encoding: Encoding, report: SenderReportInfo, now: Instant) {
        let Some(track) = self.tracks.get_mut(&id) else { return };
        match &mut track.origin {
            Origin::Local { uplink, .. } => uplink.handle_sender_report(now, encoding, report),
            Origin::Remote(remote) => remote.source_mut().set_sender_report(now, encoding, report),
            Origin::Mirror { source, .. } => source.set_sender_report(now, encoding, report),
        }
        track.passing[encoding.index()].waiting = Some(report);
        self.pass_report(id, encoding, now);
    }

    /// Passes on the latest sender report of an encoding, if it is time.
    fn pass_report(&mut self, id: TrackId, encoding: Encoding, now: Instant) {
        let Some(track) = self.tracks.get_mut(&id) else { return };
        let Some(report) = track.passing[encoding.index()].due(now) else {
            return;
        };
        for &shard in &track.mirrors {
            self.shared.mailboxes[usize::from(shard)].note(Note::SenderReport {
                track: id,
                encoding,
                report,
            });
        }
        if !track.tap.all().is_empty() {
            self.events.send(Event::SenderReport {
                track: id,
                encoding,
                layers: track.origin.source().carried_by(encoding),
                report,
            });
        }
    }
}

impl Shard {
    /// Sender reports of what crosses links, again and again: publishers send one in five seconds for audio, an edge that has just
    /// subscribed must not wait for that, and a report may be lost on the way.
    pub(super) fn tell_mesh_reports(&mut self, now: Instant) {
        self.pass_waiting_reports(now);
        for (&id, track) in &mut self.tracks {
            let told = track.told_mesh.is_some_and(|at| now < at + MESH_REPORT_EVERY);
            if track.tap.all().is_empty() || told {
                continue;
            }
            let source = track.origin.source();
            for encoding in source.encodings() {
                let layers = source.carried_by(encoding);
                let report = source.sender_report_now(now, encoding);
                let Some(report) = report.filter(|_| layers.intersects(track.tap.all())) else {
                    continue;
                };
                track.told_mesh = Some(now);
                self.events.send(Event::SenderReport {
                    track: id,
                    encoding,
                    layers,
                    report,
                });
            }
        }
    }
}

impl Shard {
    fn pass_waiting_reports(&mut self, now: Instant) {
        let waits = |track: &Track| track.passing.iter().any(|passing| passing.waiting.is_some());
        let waiting: Vec<TrackId> = self
            .tracks
            .iter()
            .filter(|(_, track)| waits(track))
            .map(|(&id, _)| id)
            .collect();
        for id in waiting {
            for encoding in (0..Encoding::COUNT as u8).map(Encoding) {
                self.pass_report(id, encoding, now);
            }
        }
    }
}

/// The layers that are sent now, where that makes a difference for what is tapped: audio and lowest layers have nothing that
/// could stand in for them.
fn live_for(tap: LayerSet, source: &Source) -> LayerSet {
    if tap.0 >> 1 == 0 { tap } else { source.live() }
}
