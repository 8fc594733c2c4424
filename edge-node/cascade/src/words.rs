//! What a room and the mesh of its edge say to each other, as plain data.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use meridian_room::{Epoch, NodeId, ParticipantSid, RoomDelta, RoomDigest, RoomSid, TrackSid};
use meridian_sfu::{Layer, LayerSet, MediaKind, TrackId};

/// What other edges send to a room.
#[derive(Debug)]
pub enum FromMesh {
    /// The home edge fixed which life of the room this is.
    Incarnation {
        sid: RoomSid,
        incarnation: u64,
    },
    Delta {
        from: NodeId,
        delta: RoomDelta,
    },
    /// `from` tells what it has; the answer is what it lacks.
    Digest {
        from: NodeId,
        digest: RoomDigest,
    },
    /// Our digest, to these edges.
    DigestWanted {
        to: Vec<NodeId>,
    },
    NodeSilent(NodeId),
    NodeHeard(NodeId),
    /// The layers of one of our tracks that somebody beyond the link to any other edge wants now.
    Wanted {
        track: TrackSid,
        layers: LayerSet,
    },
    Keyframe {
        track: TrackSid,
        layer: Layer,
    },
    /// A track that this edge passes on from one edge to another, whether or not anybody here wants it.
    PassThrough {
        track: TrackSid,
    },
    Data(MeshData),
    /// Senders of reliable data should pause for so long: another edge, or the link to it, does not take it as fast. Zero: go on.
    Hold(Duration),
    /// How good the connections of another edge's people are, 0 to 5.
    Grades(Vec<(ParticipantSid, f32)>),
}

/// A client's data packet on its way between edges: stamped with its sender, opaque otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshData {
    pub packet: Bytes,
    pub reliable: bool,
    /// Identities it is for; `None` = everybody.
    pub destinations: Option<Vec<String>>,
}

/// Which life of a room name this is, as its home edge says.
#[derive(Clone, Debug)]
pub struct Birth {
    pub sid: RoomSid,
    pub incarnation: u64,
    /// The same on every edge. Milliseconds since 1970.
    pub created_at_ms: i64,
    /// Other edges that have people in it: what they know is on its way, as far as they can be heard.
    pub others: BTreeSet<NodeId>,
}

/// What a room asks of other edges.
#[derive(Debug)]
pub enum ToMesh {
    /// To every edge of the room.
    Delta(RoomDelta),
    /// News that came from one edge, for those that do not hear its writers themselves.
    Relay {
        from: NodeId,
        news: RoomDelta,
    },
    Digest {
        to: Vec<NodeId>,
        digest: RoomDigest,
    },
    Answer {
        to: NodeId,
        lacking: Vec<RoomDelta>,
    },
    /// This edge carries the track under this number, whether it is published here or comes from elsewhere.
    Carry {
        track: TrackSid,
        id: TrackId,
        kind: MediaKind,
    },
    Drop {
        track: TrackSid,
    },
    /// These layers of a track published at `origin`, in its publisher's `epoch`, are wanted here now.
    Want {
        track: TrackSid,
        origin: NodeId,
        epoch: Epoch,
        layers: LayerSet,
    },
    Keyframe {
        track: TrackSid,
        layer: Layer,
    },
    Data(MeshData),
    /// Somebody here does not take reliable data as fast as it comes: senders elsewhere should pause for so long. Zero: go on.
    Hold(Duration),
    /// How good the connections of this edge's people are, 0 to 5.
    Grades(Vec<(ParticipantSid, f32)>),
}
