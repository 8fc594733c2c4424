//! What one shard knows of one track that it forwards: the packets of each layer, which layers are alive, and how their
//! RTP time relates to the publisher's clock. Filled by [`crate::Uplink`] on the publisher's shard, by [`RemoteTrack`]
//! for a track from a link, and by [`Source::mirror`] on every other shard.

use crate::media::{Codec, Layer, LayerSet, MediaKind, SenderReportInfo, TrackId};
use crate::packet::{Packet, PacketError, PacketPool};
use crate::ring::LayerRing;
use std::time::Instant;

/// One track on one shard. Downlinks read it.
pub struct Source {
    kind: MediaKind,
}

impl Source {
    pub fn new(kind: MediaKind) -> Self {
        Source { kind }
    }
    pub fn kind(&self) -> MediaKind {
        self.kind
    }
    /// Stores a packet that another shard has numbered. `false`: duplicate or too old, do not forward it.
    pub fn mirror(&mut self, _packet: &Packet) -> bool {
        false
    }
    pub fn ring(&self, _layer: Layer) -> Option<&LayerRing> {
        None
    }
    /// Layers that carry packets now. A layer is silent when it misses several frames that its siblings had.
    pub fn live(&self) -> LayerSet {
        LayerSet::EMPTY
    }
    /// Every layer that ever carried a packet.
    pub fn seen(&self) -> LayerSet {
        LayerSet::EMPTY
    }
    /// The codec of the newest packet.
    pub fn codec(&self) -> Option<Codec> {
        None
    }
    /// Over about the last second.
    pub fn bitrate_bps(&self, _layer: Layer, _now: Instant) -> u32 {
        0
    }
    pub fn set_sender_report(&mut self, _now: Instant, _layer: Layer, _report: SenderReportInfo) {}
    /// The newest report and when it arrived.
    pub fn sender_report(&self, _layer: Layer) -> Option<(SenderReportInfo, Instant)> {
        None
    }
    /// A subscriber needs a keyframe of this layer. `true`: ask the publisher (PLI, or upstream over the link) now.
    /// Otherwise it was asked a moment ago (< 500 ms): [`Source::poll_keyframe_request`] will say when to ask again.
    pub fn request_keyframe(&mut self, _now: Instant, _layer: Layer) -> bool {
        false
    }
    /// A request that was held back and is now due. Call it on every timer tick, until `None`.
    pub fn poll_keyframe_request(&mut self, _now: Instant) -> Option<Layer> {
        None
    }
}

/// A track that comes over a link: numbers and stores its packets.
pub struct RemoteTrack {
    track: TrackId,
    codec: Codec,
    source: Source,
}

impl RemoteTrack {
    pub fn new(track: TrackId, codec: Codec) -> Self {
        RemoteTrack { track, codec, source: Source::new(codec.kind()) }
    }
    pub fn track(&self) -> TrackId {
        self.track
    }
    pub fn source(&self) -> &Source {
        &self.source
    }
    pub fn source_mut(&mut self) -> &mut Source {
        &mut self.source
    }
    /// Takes canonical RTP from the link. `Ok(None)`: a duplicate.
    ///
    /// # Errors
    /// When the bytes are not RTP.
    pub fn handle_link(&mut self, now: Instant, layer: Layer, data: &[u8], pool: &mut PacketPool) -> Result<Option<Packet>, PacketError> {
        let _ = (now, layer, self.codec, data, pool);
        Ok(None)
    }
}
