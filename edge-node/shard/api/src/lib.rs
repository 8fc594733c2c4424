//! The words between those who decide (`meridian-conference`, the node's mesh) and the media threads: commands in, events out.
//! Plain data only, so that neither side drags in the other's sockets and threads.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use std::fmt;

use bytes::Bytes;
pub use meridian_sfu::Demand;
use meridian_sfu::{Codec, Encoding, Layer, LayerSet, MediaKind, Packet, SenderReportInfo, TrackId};
use meridian_transport::sdp::{Publication, SubscriptionMedia};
use meridian_transport::{Channel, CloseReason, DtlsRole, Fingerprint, IceCredentials, SrtpProfile};

/// A client's transport: which shard it is pinned to, and its number there. Never reused while the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId {
    pub shard: u16,
    pub index: u32,
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.shard, self.index)
    }
}

/// What the media threads are told. Commands of one sender about one peer or one track are executed in order.
/// Commands about peers, tracks or subscriptions that no longer exist are ignored.
#[derive(Clone, Debug)]
pub enum Command {
    AddPeer {
        peer: PeerId,
        local: IceCredentials,
        remote: IceCredentials,
        remote_fingerprint: Fingerprint,
        /// Ours.
        role: DtlsRole,
    },
    /// New ICE credentials on both sides; the old path keeps serving until the new one is nominated.
    RestartIce {
        peer: PeerId,
        local: IceCredentials,
        remote: IceCredentials,
    },
    /// Says goodbye and forgets the peer with everything it published and subscribed to. No event follows.
    RemovePeer {
        peer: PeerId,
    },
    /// The peer sends this track in that media section. Again whenever the section changes; `active: false` pauses.
    Publish {
        peer: PeerId,
        track: TrackId,
        publication: Publication,
    },
    Unpublish {
        track: TrackId,
    },
    /// Packets of a muted track are dropped at the publisher's shard.
    SetMuted {
        track: TrackId,
        muted: bool,
    },
    /// A track that reaches this edge over a link; fed by [`Command::RemoteMedia`].
    AddRemoteTrack {
        track: TrackId,
        kind: MediaKind,
        codec: Codec,
        layers: u8,
    },
    /// RTP with canonical extension ids ([`meridian_sfu::media::CANONICAL`]) and the publisher's own sequence numbers,
    /// timestamps and SSRC. Dropped and counted when the shard is behind.
    RemoteMedia {
        track: TrackId,
        encoding: Encoding,
        layer: Layer,
        packets: Vec<Bytes>,
    },
    RemoteSenderReport {
        track: TrackId,
        encoding: Encoding,
        report: SenderReportInfo,
    },
    /// These layers of a remote track do not cross its link at present; replaces what was said before. Subscribers get the
    /// best other layer from its next keyframe on, and go back at the first keyframe of a layer that comes again.
    SetAbsent {
        track: TrackId,
        layers: LayerSet,
    },
    RemoveTrack {
        track: TrackId,
    },
    /// Send this track to the peer in that media section. The track may be published later. Again whenever the
    /// section changes; a changed SSRC begins a new stream.
    Subscribe {
        peer: PeerId,
        track: TrackId,
        media: SubscriptionMedia,
    },
    Unsubscribe {
        peer: PeerId,
        track: TrackId,
    },
    SetDemand {
        peer: PeerId,
        track: TrackId,
        demand: Demand,
    },
    /// One message to each of these peers. Dropped and counted for a peer whose channel is not open. A peer whose reliable channel
    /// is full is closed: such a channel skips nothing.
    SendData {
        peers: Vec<PeerId>,
        channel: Channel,
        payload: Bytes,
    },
    /// Stop taking messages of the peer's reliable channel, or go on. What it sends meanwhile waits in its own queue.
    HoldData {
        peer: PeerId,
        held: bool,
    },
    /// Deliver packets of these layers as [`TapBatch`]es to this consumer, and sender reports of them as events; an empty set stops.
    Tap {
        track: TrackId,
        consumer: TapConsumer,
        layers: LayerSet,
    },
    /// Somebody beyond a link needs a keyframe of this layer. Rate-limited on its way to the publisher.
    RequestKeyframe {
        track: TrackId,
        layer: Layer,
    },
}

/// What the media threads tell the node.
#[derive(Clone, Debug)]
pub enum Event {
    PeerConnected {
        peer: PeerId,
        profile: SrtpProfile,
    },
    /// The peer is gone with its tracks and subscriptions.
    PeerClosed {
        peer: PeerId,
        reason: PeerCloseReason,
    },
    ChannelOpen {
        peer: PeerId,
        channel: Channel,
    },
    /// One message from the peer. Those of other channels than the reliable one are dropped and counted while the node does not take events.
    Data {
        peer: PeerId,
        channel: Channel,
        payload: Bytes,
        binary: bool,
    },
    /// Much reliable data waits for the peer, or (`full: false`) little again: whoever sends it should wait.
    DataQueue {
        peer: PeerId,
        full: bool,
    },
    /// First packet of a layer, of the publisher's or of a remote track.
    MediaStarted {
        track: TrackId,
        layer: Layer,
        codec: Codec,
    },
    /// A subscriber of a remote track needs a keyframe; rate-limited per layer.
    KeyframeWanted {
        track: TrackId,
        layer: Layer,
    },
    /// Of a tapped track, as it arrived from the publisher.
    SenderReport {
        track: TrackId,
        encoding: Encoding,
        /// What the encoding carries: who gets one of these layers gets the report.
        layers: LayerSet,
        report: SenderReportInfo,
    },
    /// Every 100 ms: linear loudness 0..1 of tracks that are audible, and 0.0 once for those fallen silent. May be dropped.
    AudioLevels(Vec<(TrackId, f32)>),
    /// Every 2 s per peer. May be dropped.
    PeerStats {
        peer: PeerId,
        stats: PeerStats,
    },
    /// The peer's link has no room for this stream any more, or has again.
    StreamState {
        peer: PeerId,
        track: TrackId,
        paused: bool,
    },
    /// The first packet of this subscription has left.
    SubscriptionStarted {
        peer: PeerId,
        track: TrackId,
    },
}

/// Why a peer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerCloseReason {
    Transport(CloseReason),
    /// The shard has `peers_max` peers, or the transport could not be set up.
    Refused,
    /// It did not take its reliable data.
    DataQueueFull,
    /// A bug in handling this peer was contained to it.
    Panic,
}

/// How a peer fared over the last interval, all over the peer's streams together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PeerStats {
    /// Round trip as measured from the client's receiver reports, milliseconds; `None` before the first.
    pub rtt_ms: Option<f32>,
    /// Fraction 0..1 of the client's packets that did not reach us.
    pub loss_up: f32,
    /// Fraction 0..1 of our packets that did not reach the client.
    pub loss_down: f32,
    pub bitrate_up_bps: u64,
    pub bitrate_down_bps: u64,
    /// Interarrival jitter (RFC 3550 §6.4.1), the worst of the client's and our own, milliseconds.
    pub jitter_ms: f32,
}

/// Who gets packets of tracks as they pass through a media thread, besides subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TapConsumer {
    /// Links to other edges.
    Mesh,
    Recorder,
}

impl TapConsumer {
    pub const ALL: [TapConsumer; 2] = [TapConsumer::Mesh, TapConsumer::Recorder];
}

/// Packets of tapped layers in order of arrival, for one consumer.
#[derive(Clone)]
pub struct TapBatch {
    pub packets: Vec<Tapped>,
}

/// One packet of a tapped track.
#[derive(Clone, Debug)]
pub struct Tapped {
    pub track: TrackId,
    pub layer: Layer,
    /// The layers of its track that are sent at present: decides whose takers get it ([`meridian_sfu::layers::serves`]).
    pub live: LayerSet,
    pub packet: Packet,
}
