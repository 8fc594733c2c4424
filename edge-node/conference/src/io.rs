//! What goes into a conference and what comes out of it, as plain data.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use meridian_access::token::Claims;
pub use meridian_cascade::words::{Birth, FromMesh, MeshData, ToMesh};
use meridian_room::{NodeId, ParticipantSid};
use meridian_sfu::TrackId;
use meridian_shard_api::{Command, Event, PeerId};
use meridian_signalling::proto::IceServer;
use meridian_signalling::{ConnectRequest, Frame};

use crate::moving::Place;
use crate::recording::Recorded;
use crate::renewal::Renewed;
use crate::voice::Voice;

/// A socket of a member. The member goes by the key of its first: one that resumes has a new socket, but keeps its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey(pub u64);

/// Somebody at the door: a valid token that allows joining `claims.video.room`.
#[derive(Debug)]
pub struct Connect {
    pub claims: Claims,
    /// As far as this edge and its trusted proxies know.
    pub address: IpAddr,
    pub voice: Newcomer,
}

/// How whoever joins will speak.
pub enum Newcomer {
    /// LiveKit's protocol: joins, or resumes a session.
    LiveKit {
        request: Box<ConnectRequest>,
        /// How the client gets past firewalls.
        ice_servers: Vec<IceServer>,
    },
    Other(Box<dyn Voice>),
}

impl fmt::Debug for Newcomer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Newcomer::LiveKit { request, .. } => f.debug_tuple("LiveKit").field(request).finish(),
            Newcomer::Other(_) => f.write_str("Other"),
        }
    }
}

/// What happens to a conference.
#[derive(Debug)]
pub enum Input {
    /// Answered with [`Output::Admitted`] or [`Output::Refused`]. `socket` was never used before on this edge.
    Connect {
        socket: SessionKey,
        connect: Connect,
    },
    Frame {
        socket: SessionKey,
        frame: Frame,
    },
    /// Its client broke the WebSocket protocol; the status code (RFC 6455 §7.4.1) and the reason that it is to be told.
    Violation {
        socket: SessionKey,
        code: u16,
        reason: String,
    },
    /// It broke, its client closed it, or did not read. No [`Output::Close`] follows.
    SocketClosed {
        socket: SessionKey,
    },
    /// What became of [`Output::RenewToken`].
    Renewed {
        client: SessionKey,
        renewed: Renewed,
    },
    Media(Event),
    Mesh(FromMesh),
    /// The edges that can be heard now. Of use while [`Conference::is_learning`](crate::Conference::is_learning).
    Audible(BTreeSet<NodeId>),
    /// The room shall be recorded under this id on all its edges, or (`None`) no longer.
    Record(Option<String>),
    /// This edge is being emptied: so many more of its people shall go to other edges. [`Output::Relocate`] asks where.
    MoveAway {
        people: usize,
    },
    /// What became of [`Output::Relocate`]; `None`: nobody has room, or nobody answered. Empty: wherever the client finds another edge.
    Relocated {
        client: SessionKey,
        places: Option<Vec<Place>>,
    },
    /// This edge is not emptied any more: whoever has not been told to go stays.
    Stay,
    /// Say goodbye to everybody: this edge is going away, or the room was closed.
    Close(CloseKind),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseKind {
    /// Clients shall come back at once (through the join API or to another edge).
    EdgeLeaves,
    RoomClosed,
}

/// What a conference has its driver do, in this order.
#[derive(Debug)]
pub enum Output {
    /// The client behind this socket is in the room; its frames are awaited.
    Admitted {
        socket: SessionKey,
    },
    /// The client was turned away. The socket closes when everything before this is written.
    Refused {
        socket: SessionKey,
    },
    /// Dropped if there is no such socket any more.
    Frame {
        socket: SessionKey,
        frame: Frame,
    },
    /// The socket closes when everything before this is written. A reason says what the client did wrong, and goes with the status code of RFC
    /// 6455 §7.4.1.
    Close {
        socket: SessionKey,
        code: u16,
        reason: String,
    },
    /// The client reads too slowly: the socket closes, nothing more is worth writing.
    GiveUp {
        socket: SessionKey,
    },
    Media(Command),
    Mesh(ToMesh),
    /// A token like this one, valid for longer, for whoever was let in with `claims`. Answered with [`Input::Renewed`].
    RenewToken {
        client: SessionKey,
        token: String,
        claims: Box<Claims>,
    },
    /// Where this client is best sent: answered with [`Input::Relocated`].
    Relocate {
        client: SessionKey,
        address: IpAddr,
    },
    Report(SessionReport),
    /// For the edge's recorder.
    Recorded(Recorded),
    Note(Note),
    /// Nobody has been here for a while: the conference is over, takes no more inputs and gives no more outputs.
    Emptied,
}

/// What a session was like, once it has ended or while it goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionReport {
    pub participant: ParticipantSid,
    pub address: IpAddr,
    /// The median of the last round trips, milliseconds; 0 without any.
    pub rtt_ms: f32,
    /// Round trips that it is the median of.
    pub samples: u32,
    pub duration: Duration,
    pub ended: bool,
}

/// What an operator may want counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// A session had more to say than it may hold back.
    SessionOverflow,
    /// A session went on over another socket; so many frames had waited for one, and are said anew.
    Resumed { unsaid: usize },
    /// A session ended because the client broke the protocol.
    Violation,
    /// Reliable data packets were sent to a client once more, or late.
    Replayed { packets: usize },
    /// A client was disconnected because it did not take its reliable data, for which everybody else had to wait.
    DataNotTaken,
}

/// What a conference learns from the media threads at once. Everything else goes by [`Command`]s and [`Event`]s.
pub trait MediaPlane: Send + Sync {
    /// A number for a transport, on the shard with the least to do. Never given twice.
    fn allocate_peer(&self) -> PeerId;
    /// Likewise, on this shard.
    fn allocate_peer_on(&self, shard: u16) -> PeerId;
    /// Where a client reaches this transport.
    fn candidates(&self, peer: PeerId) -> Vec<SocketAddr>;
    /// A number for a track. Never given twice.
    fn allocate_track(&self) -> TrackId;
}

/// Outputs that wait to be polled.
#[derive(Debug, Default)]
pub(crate) struct Outbox(VecDeque<Output>);

impl Outbox {
    pub(crate) fn put(&mut self, output: Output) {
        self.0.push_back(output);
    }

    pub(crate) fn media(&mut self, command: Command) {
        self.put(Output::Media(command));
    }

    pub(crate) fn mesh(&mut self, message: ToMesh) {
        self.put(Output::Mesh(message));
    }

    pub(crate) fn note(&mut self, note: Note) {
        self.put(Output::Note(note));
    }

    pub(crate) fn pop(&mut self) -> Option<Output> {
        self.0.pop_front()
    }
}
