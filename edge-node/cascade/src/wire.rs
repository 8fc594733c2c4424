//! Control messages between edges: protobuf by derive in one versioned [`Envelope`]. Unknown fields and unknown messages are
//! ignored, so that neighbours of different age work together. Media and its feedback ride in datagrams
//! (`crate::link::media`), never here.
//!
//! [`decode`] also checks every length a peer could grow, so the rest of the crate need not.

use bytes::Bytes;
use meridian_room::{RoomDelta, RoomDigest};
use prost::Message as _;

pub const VERSION: u32 = 1;
/// Bytes of an encoded message: a full page of room state and what surrounds it.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Bytes of a node id, room name, sid, region or identity.
pub const ID_BYTES_MAX: usize = 256;
/// Rooms in one announcement.
pub const ANNOUNCED_MAX: usize = 128;
/// Edges in one list: as many as may hold state in one room.
pub const EDGES_MAX: usize = meridian_room::limits::NODES;
/// Edges between a track's origin and anybody who gets it (DESIGN.md §5).
pub const HOPS_MAX: usize = 4;
/// Identities one data packet may be for, and grades in one message.
pub const NAMES_MAX: usize = 4_096;
/// How long, in milliseconds, an announcement may claim to hold.
pub const TTL_MS_MAX: u32 = 600_000;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Envelope {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(oneof = "Body", tags = "3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15")]
    pub body: Option<Body>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Body {
    // 2 was a greeting that nothing depended on: the link's own hello proves the name.
    #[prost(message, tag = "3")]
    Announce(RoomAnnounce),
    #[prost(message, tag = "4")]
    Query(RoomQuery),
    #[prost(message, tag = "5")]
    Peers(RoomPeers),
    #[prost(message, tag = "6")]
    Leave(RoomLeave),
    #[prost(message, tag = "7")]
    Digest(Digest),
    #[prost(message, tag = "8")]
    Delta(RoomDelta),
    #[prost(message, tag = "9")]
    Hears(Hears),
    #[prost(message, tag = "10")]
    Want(TrackWant),
    #[prost(message, tag = "11")]
    Grant(TrackGrant),
    #[prost(message, tag = "12")]
    Gone(TrackGone),
    #[prost(message, tag = "13")]
    Pli(Pli),
    #[prost(message, tag = "14")]
    Cast(RoomCast),
    #[prost(message, tag = "15")]
    Shed(TrackShed),
}

/// "I have people in these rooms", to their home edges.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RoomAnnounce {
    #[prost(message, repeated, tag = "1")]
    pub rooms: Vec<AnnouncedRoom>,
    #[prost(uint32, tag = "2")]
    pub ttl_ms: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct AnnouncedRoom {
    #[prost(string, tag = "1")]
    pub room: String,
    #[prost(string, tag = "2")]
    pub home_region: String,
    /// The sid the room has here; a proposal while `incarnation` is 0.
    #[prost(string, tag = "3")]
    pub sid: String,
    #[prost(uint64, tag = "4")]
    pub incarnation: u64,
    /// Over the edges the sender knows in this room, itself included: the home answers when it knows others.
    #[prost(fixed64, tag = "5")]
    pub edges_hash: u64,
    /// When the room was opened here, in milliseconds since 1970: part of the incarnation, should one be fixed.
    #[prost(int64, tag = "6")]
    pub created_at_ms: i64,
}

/// "Do you know this room?", from one home edge to another before it fixes an incarnation.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RoomQuery {
    #[prost(string, tag = "1")]
    pub room: String,
    #[prost(string, tag = "2")]
    pub home_region: String,
    /// Should the asked edge have to fix one.
    #[prost(string, tag = "3")]
    pub sid: String,
    #[prost(int64, tag = "4")]
    pub created_at_ms: i64,
}

/// What a home edge knows of a room. Answers [`RoomAnnounce`] and [`RoomQuery`], and follows every change.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RoomPeers {
    #[prost(string, tag = "1")]
    pub room: String,
    #[prost(string, tag = "2")]
    pub home_region: String,
    #[prost(string, tag = "3")]
    pub sid: String,
    /// 0: not fixed (yet).
    #[prost(uint64, tag = "4")]
    pub incarnation: u64,
    #[prost(message, repeated, tag = "5")]
    pub edges: Vec<RoomEdge>,
    /// From home to home: `edges` are those, and all those, that announced themselves to the sender.
    #[prost(bool, tag = "6")]
    pub to_home: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct RoomEdge {
    #[prost(string, tag = "1")]
    pub node: String,
    /// How long the announcement still holds.
    #[prost(uint32, tag = "2")]
    pub ttl_ms: u32,
}

/// The sender has nobody in this room (any more).
#[derive(Clone, PartialEq, prost::Message)]
pub struct RoomLeave {
    #[prost(string, tag = "1")]
    pub room: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Digest {
    #[prost(message, optional, tag = "1")]
    pub digest: Option<RoomDigest>,
    /// Edges of the room the sender has a link to: what others need not be relayed, and whom it can relay to.
    #[prost(string, repeated, tag = "2")]
    pub hears: Vec<String>,
    /// How far away each of those is, one way, in microseconds; 0, or no such entry: not measured.
    #[prost(uint32, repeated, tag = "3")]
    pub latencies_us: Vec<u32>,
}

/// `Digest::hears` and `latencies_us` alone, when links come and go.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hears {
    #[prost(string, tag = "1")]
    pub room: String,
    #[prost(string, repeated, tag = "2")]
    pub nodes: Vec<String>,
    #[prost(uint32, repeated, tag = "3")]
    pub latencies_us: Vec<u32>,
}

/// Asks for layers of a track; replaces what was asked before. Answered with [`TrackGrant`] or [`TrackGone`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct TrackWant {
    #[prost(string, tag = "1")]
    pub room: String,
    #[prost(string, tag = "2")]
    pub track: String,
    /// The edge its publisher is on, and the epoch of that stay: the higher one is right.
    #[prost(string, tag = "3")]
    pub origin: String,
    #[prost(uint64, tag = "4")]
    pub epoch: u64,
    /// One bit a layer; 0 = nothing any more, unanswered.
    #[prost(uint32, tag = "5")]
    pub layers: u32,
    /// Edges the media would reach through the sender, farthest first, the sender last.
    #[prost(string, repeated, tag = "6")]
    pub path: Vec<String>,
}

/// The media of a track comes, under this number in the link's datagrams.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TrackGrant {
    #[prost(string, tag = "1")]
    pub room: String,
    #[prost(string, tag = "2")]
    pub track: String,
    /// Never used for another track in the life of the sender.
    #[prost(uint32, tag = "3")]
    pub number: u32,
    /// Edges from the origin to the sender, both included. Who finds itself in it must not take the media.
    #[prost(string, repeated, tag = "4")]
    pub path: Vec<String>,
    /// From the origin to the sender, one way, in microseconds, as measured when this was said; 0: not known.
    #[prost(uint32, tag = "5")]
    pub latency_us: u32,
    /// Of the stay that publishes it, as in [`TrackWant`]; 0: not said.
    #[prost(uint64, tag = "6")]
    pub epoch: u64,
}

/// The track cannot be had from the sender (now).
#[derive(Clone, PartialEq, prost::Message)]
pub struct TrackGone {
    #[prost(string, tag = "1")]
    pub room: String,
    #[prost(string, tag = "2")]
    pub track: String,
}

/// Layers of a granted track that do not cross for now, because a link on the way is congested; replaces what was said
/// before. The best layer below each comes instead. Who does not know this message notices by their silence.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TrackShed {
    #[prost(string, tag = "1")]
    pub room: String,
    #[prost(string, tag = "2")]
    pub track: String,
    /// As granted: what is said of an earlier grant holds no more.
    #[prost(uint32, tag = "3")]
    pub number: u32,
    /// One bit a layer; 0 = all cross again.
    #[prost(uint32, tag = "4")]
    pub layers: u32,
}

/// A keyframe is needed; travels towards the origin.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Pli {
    #[prost(string, tag = "1")]
    pub room: String,
    #[prost(string, tag = "2")]
    pub track: String,
    #[prost(uint32, tag = "3")]
    pub layer: u32,
}

/// Something for everybody, or some, in a room.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RoomCast {
    #[prost(string, tag = "1")]
    pub room: String,
    /// The edge it comes from, if not the sender.
    #[prost(string, tag = "2")]
    pub origin: String,
    /// Edges the origin has no link to: pass it on to these.
    #[prost(string, repeated, tag = "3")]
    pub relay_to: Vec<String>,
    /// Only to be passed on.
    #[prost(bool, tag = "4")]
    pub relay_only: bool,
    #[prost(oneof = "Content", tags = "5, 7, 8")]
    pub content: Option<Content>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Content {
    #[prost(message, tag = "5")]
    Data(Data),
    // 6 was never sent.
    #[prost(message, tag = "7")]
    Grades(Grades),
    #[prost(message, tag = "8")]
    Hold(Hold),
}

/// A client's data packet, stamped with its sender, opaque otherwise.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Data {
    #[prost(bytes = "bytes", tag = "1")]
    pub packet: Bytes,
    #[prost(bool, tag = "2")]
    pub reliable: bool,
    /// Identities it is for; empty = everybody.
    #[prost(string, repeated, tag = "3")]
    pub destinations: Vec<String>,
    // 4 was never filled: the packet itself names its sender.
}

/// Somebody on the sender's edge does not take reliable data as fast as it comes: senders elsewhere should pause. Repeated while it lasts.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hold {
    /// If nothing more is heard; 0: go on.
    #[prost(uint32, tag = "1")]
    pub pause_ms: u32,
}

/// How good the connections of people on the sender's edge are.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Grades {
    #[prost(message, repeated, tag = "1")]
    pub grades: Vec<ConnectionGrade>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ConnectionGrade {
    /// `PA_…`
    #[prost(string, tag = "1")]
    pub participant: String,
    /// 0 (unusable) to 5 (perfect).
    #[prost(float, tag = "2")]
    pub score: f32,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("a message of {0} bytes exceeds {MESSAGE_BYTES_MAX}")]
    TooLong(usize),
    #[error("not readable: {0}")]
    Malformed(String),
    #[error("version 0 does not exist")]
    Version,
    #[error("{0} is longer than any edge sends")]
    TooMany(&'static str),
}

pub fn encode(body: Body) -> Bytes {
    Envelope {
        version: VERSION,
        body: Some(body),
    }
    .encode_to_vec()
    .into()
}

/// Reads one message; `None` if it is of a kind this version does not know.
pub fn decode(bytes: &[u8]) -> Result<Option<Body>, WireError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(WireError::TooLong(bytes.len()));
    }
    let envelope = Envelope::decode(bytes).map_err(|error| WireError::Malformed(error.to_string()))?;
    if envelope.version == 0 {
        return Err(WireError::Version);
    }
    if let Some(body) = &envelope.body {
        check(body)?;
    }
    Ok(envelope.body)
}

fn check(body: &Body) -> Result<(), WireError> {
    match body {
        Body::Announce(announce) => {
            at_most("announcement", announce.rooms.len(), ANNOUNCED_MAX)?;
            announce
                .rooms
                .iter()
                .try_for_each(|room| ids([&room.room, &room.home_region, &room.sid]))
        }
        Body::Query(query) => ids([&query.room, &query.home_region, &query.sid]),
        Body::Peers(peers) => {
            at_most("list of edges", peers.edges.len(), EDGES_MAX)?;
            ids([&peers.room, &peers.home_region, &peers.sid])?;
            peers.edges.iter().try_for_each(|edge| ids([&edge.node]))
        }
        Body::Leave(leave) => ids([&leave.room]),
        Body::Digest(digest) => {
            let writers = digest.digest.as_ref().map_or(0, |digest| digest.writers.len());
            // A node may be there with several lives.
            at_most("digest", writers, 2 * EDGES_MAX)?;
            at_most("list of latencies", digest.latencies_us.len(), EDGES_MAX)?;
            names(&digest.hears, EDGES_MAX)
        }
        // The room checks every record it takes.
        Body::Delta(delta) => at_most("delta", delta.writers.len(), 2 * EDGES_MAX),
        Body::Hears(hears) => {
            ids([&hears.room])?;
            at_most("list of latencies", hears.latencies_us.len(), EDGES_MAX)?;
            names(&hears.nodes, EDGES_MAX)
        }
        Body::Want(want) => {
            ids([&want.room, &want.track, &want.origin])?;
            names(&want.path, HOPS_MAX)
        }
        Body::Grant(grant) => {
            ids([&grant.room, &grant.track])?;
            names(&grant.path, HOPS_MAX)
        }
        Body::Gone(gone) => ids([&gone.room, &gone.track]),
        Body::Shed(shed) => ids([&shed.room, &shed.track]),
        Body::Pli(pli) => ids([&pli.room, &pli.track]),
        Body::Cast(cast) => {
            ids([&cast.room, &cast.origin])?;
            names(&cast.relay_to, EDGES_MAX)?;
            match &cast.content {
                Some(Content::Data(data)) => names(&data.destinations, NAMES_MAX),
                Some(Content::Grades(grades)) => {
                    at_most("list of grades", grades.grades.len(), NAMES_MAX)?;
                    grades.grades.iter().try_for_each(|grade| ids([&grade.participant]))
                }
                Some(Content::Hold(_)) | None => Ok(()),
            }
        }
    }
}

fn at_most(what: &'static str, len: usize, max: usize) -> Result<(), WireError> {
    if len <= max {
        Ok(())
    } else {
        Err(WireError::TooMany(what))
    }
}

fn ids<const N: usize>(ids: [&String; N]) -> Result<(), WireError> {
    ids.iter().try_for_each(|id| at_most("an id", id.len(), ID_BYTES_MAX))
}

fn names(names: &[String], max: usize) -> Result<(), WireError> {
    at_most("a list of names", names.len(), max)?;
    names.iter().try_for_each(|name| ids([name]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_of_the_future_is_ignored_and_unknown_fields_are_skipped() {
        // Field 99 of the envelope and nothing we know.
        assert_eq!(decode(&[0x08, 9, 0x9a, 0x06, 1, 0]), Ok(None));
        let mut bytes = encode(Body::Leave(RoomLeave { room: "r".into() })).to_vec();
        bytes.extend([0x9a, 0x06, 1, 0]);
        assert_eq!(decode(&bytes), Ok(Some(Body::Leave(RoomLeave { room: "r".into() }))));
    }

    #[test]
    fn what_a_peer_could_grow_is_refused_beyond_its_limit() {
        let long = "x".repeat(ID_BYTES_MAX + 1);
        let path = vec!["n".to_owned(); HOPS_MAX + 1];
        let want = TrackWant {
            path,
            ..Default::default()
        };
        let rooms = vec![AnnouncedRoom::default(); ANNOUNCED_MAX + 1];
        for body in [
            Body::Leave(RoomLeave { room: long }),
            Body::Want(want),
            Body::Announce(RoomAnnounce { rooms, ttl_ms: 1 }),
        ] {
            assert!(matches!(decode(&encode(body)), Err(WireError::TooMany(_))));
        }
        assert_eq!(
            decode(&vec![0; MESSAGE_BYTES_MAX + 1]),
            Err(WireError::TooLong(MESSAGE_BYTES_MAX + 1))
        );
        assert_eq!(decode(&[]), Err(WireError::Version));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn damaged_messages_never_panic(at in any::<prop::sample::Index>(), with in any::<u8>()) {
            let want = TrackWant {
                room: "room".into(), track: "TR_x".into(), origin: "fra-1".into(), epoch: 9, layers: 7,
                path: vec!["iad-1".into()],
            };
            let mut bytes = encode(Body::Want(want)).to_vec();
            let at = at.index(bytes.len());
            bytes[at] = with;
            let _ = decode(&bytes);
        }
    }
}
