//! Subscriptions on this shard: one track on its way to one peer, from `Subscribe` to `Unsubscribe`, and the keyframes
//! they wait for.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

use meridian_sfu::{Demand, Downlink, DownlinkConfig, MediaKind, Source, TrackId};
use meridian_transport::SrtpStream;
use meridian_transport::sdp::SubscriptionMedia;
use rand::Rng;

use super::Shard;
use super::link::SubscriberLink;
use super::tracks::{Origin, Track};
use crate::inbox::Note;

/// One track on its way to one peer.
pub(crate) struct Subscription {
    pub(crate) peer: u32,
    pub(crate) track: TrackId,
    pub(crate) started: bool,
    pub(crate) downlink: Downlink,
    pub(crate) stream: SrtpStream,
    pub(crate) rtx: SrtpStream,
    /// When our last sender report left, and how many have.
    pub(crate) reported: Option<Instant>,
    pub(crate) reports: u32,
    /// Packets sent when the peer's last receiver report came.
    pub(crate) packets_reported: u64,
}

impl Shard {
    pub(super) fn subscribe(&mut self, slot: u32, id: TrackId, media: SubscriptionMedia, now: Instant) {
        let Some(kind) = media.payloads.first().map(|p| p.codec.kind()) else {
            return;
        };
        let config = DownlinkConfig {
            kind,
            mid: media.mid,
            ssrc: media.ssrc,
            rtx_ssrc: media
                .payloads
                .iter()
                .any(|p| p.rtx_pt.is_some())
                .then_some(media.rtx_ssrc),
            payloads: media.payloads,
            extensions: media.extensions,
            first_sequence: self.rng.random_range(0..1 << 15),
            first_rtx_sequence: self.rng.random_range(0..1 << 15),
        };
        if config.extensions.transport_cc.is_some()
            && let Some(peer) = self.peers.get_mut(slot)
        {
            peer.link.get_or_insert_with(|| Box::new(SubscriberLink::new(now)));
        }
        let existing = self.subscription_of(slot, id);
        if let Some(subscription) = existing.and_then(|i| self.subscriptions.get_mut(i))
            && subscription.downlink.ssrc() == media.ssrc
        {
            subscription.downlink.renegotiate(&config);
            return;
        }
        let mut demand = None;
        if let Some(old) = existing {
            demand = self.subscriptions.get(old).map(|s| s.downlink.demand());
            self.unsubscribe(slot, id);
        }
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let index = self.subscriptions.insert(Subscription {
            peer: slot,
            track: id,
            started: false,
            stream: SrtpStream::new(config.ssrc),
            rtx: SrtpStream::new(media.rtx_ssrc),
            downlink: Downlink::new(config),
            reported: None,
            reports: 0,
            packets_reported: 0,
        });
        peer.subscriptions.push(index);
        self.enter(index, id, kind, now);
        if let Some(demand) = demand {
            self.set_demand(slot, id, demand, now);
        }
        self.count_subscriptions();
        self.allocate(slot, now);
        self.pull_keyframe(index, now);
    }

    /// Puts a subscription into its track, which may be another shard's or not exist yet.
    fn enter(&mut self, index: u32, id: TrackId, kind: MediaKind, now: Instant) {
        if !self.tracks.contains_key(&id) {
            let source = Source::new(kind);
            let home = self
                .shared
                .routes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .attach(id, self.shared.index);
            // A home that is this very shard has its `Publish` still ahead in the queue.
            let home = home.filter(|&h| h != self.shared.index);
            if let Some(home) = home {
                let note = Note::Attach {
                    track: id,
                    shard: self.shared.index,
                };
                self.shared.mailboxes[usize::from(home)].note(note);
            }
            self.tracks.insert(id, Track::new(Origin::Mirror { source, home }));
        }
        let Some(track) = self.tracks.get_mut(&id) else { return };
        track.subscribers.push(index);
        if let Some(subscription) = self.subscriptions.get_mut(index) {
            if track.muted {
                subscription.downlink.set_muted(true);
            }
            let demand = subscription.downlink.demand();
            subscription.downlink.set_demand(demand, track.origin.source());
            subscription.downlink.handle_timeout(now, track.origin.source());
        }
    }

    fn subscription_of(&self, slot: u32, id: TrackId) -> Option<u32> {
        let peer = self.peers.get(slot)?;
        peer.subscriptions
            .iter()
            .copied()
            .find(|&i| self.subscriptions.get(i).is_some_and(|s| s.track == id))
    }

    pub(super) fn unsubscribe(&mut self, slot: u32, id: TrackId) {
        let Some(index) = self.subscription_of(slot, id) else {
            return;
        };
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.subscriptions.retain(|&i| i != index);
        }
        self.drop_subscription(index);
    }

    /// The peer's own list is the caller's business.
    pub(super) fn drop_subscription(&mut self, index: u32) {
        let Some(subscription) = self.subscriptions.remove(index) else {
            return;
        };
        if let Some(track) = self.tracks.get_mut(&subscription.track) {
            track.subscribers.retain(|&i| i != index);
        }
        self.remove_if_unused(subscription.track);
        self.count_subscriptions();
    }

    fn count_subscriptions(&self) {
        self.shared
            .counters
            .subscriptions
            .store(self.subscriptions.len() as u64, Ordering::Relaxed);
    }

    pub(super) fn set_demand(&mut self, slot: u32, id: TrackId, demand: Demand, now: Instant) {
        let Some(index) = self.subscription_of(slot, id) else {
            return;
        };
        let (Some(subscription), Some(track)) = (self.subscriptions.get_mut(index), self.tracks.get(&id)) else {
            return;
        };
        subscription.downlink.set_demand(demand, track.origin.source());
        self.allocate(slot, now);
        self.pull_keyframe(index, now);
    }

    /// Passes on the keyframe this subscription waits for, if it is time to.
    pub(super) fn pull_keyframe(&mut self, index: u32, now: Instant) {
        let Some(subscription) = self.subscriptions.get_mut(index) else {
            return;
        };
        let connected = self.peers.get(subscription.peer).is_some_and(|p| p.connected);
        if !connected {
            // What is sent before DTLS is done is lost: the request comes when it is.
            return;
        }
        if let Some(layer) = subscription.downlink.poll_keyframe_request(now) {
            let track = subscription.track;
            self.keyframe_wanted(track, layer, now);
        }
    }

    pub(super) fn pull_keyframes(&mut self, id: TrackId, now: Instant) {
        let Some(track) = self.tracks.get(&id) else { return };
        for index in track.subscribers.clone() {
            if let (Some(subscription), Some(track)) = (self.subscriptions.get_mut(index), self.tracks.get(&id)) {
                subscription.downlink.handle_timeout(now, track.origin.source());
            }
            self.pull_keyframe(index, now);
        }
    }

    pub(super) fn ask_for_keyframes(&mut self, slot: u32, now: Instant) {
        let Some(peer) = self.peers.get(slot) else { return };
        for index in peer.subscriptions.clone() {
            self.pull_keyframe(index, now);
        }
    }
}
