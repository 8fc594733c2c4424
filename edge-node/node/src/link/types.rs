//! What goes in and out of [`super::LinkEndpoint`].

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use meridian_cascade::link::hello::HelloError;
use meridian_cascade::link::{LinkCounters, Received, SenderReport};
use meridian_pki::{NodeIdentity, PkiError};
use meridian_room::ids::NodeId;
use meridian_sfu::media::Layer;

/// Longest control message, in bytes.
pub const CONTROL_MESSAGE_MAX: usize = 256 * 1024;

/// How this node takes part in the mesh.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Must be the name in `identity`.
    pub node: NodeId,
    /// UDP address all links share; port 0 = any.
    pub bind: SocketAddr,
    /// Our certificate, its key, and the CA that peers must be signed by.
    pub identity: NodeIdentity,
    /// Most that one link sends, in bit/s, when congestion control does not hold it back. 1 Mbit/s to 10 Gbit/s.
    pub ceiling_bps: u64,
}

impl LinkConfig {
    /// With a ceiling of 200 Mbit/s a link.
    pub fn new(node: NodeId, bind: SocketAddr, identity: NodeIdentity) -> LinkConfig {
        LinkConfig {
            node,
            bind,
            identity,
            ceiling_bps: 200_000_000,
        }
    }
}

/// Where another edge takes links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    pub node: NodeId,
    pub addr: SocketAddr,
}

/// What happens on links. For each node the order is `Up`, anything, `Down`; control messages of one link keep their order.
#[derive(Debug)]
pub enum LinkEvent {
    /// Both connections stand and both sides said hello. State must be exchanged anew: control messages queued before are gone.
    Up {
        node: NodeId,
    },
    Down {
        node: NodeId,
        reason: DownReason,
    },
    /// Nothing at all arrived for `silent_for` (usually 175 ms). The link stays until QUIC gives up after 3 s.
    Suspect {
        node: NodeId,
        silent_for: Duration,
    },
    /// A suspected peer was heard again.
    Alive {
        node: NodeId,
    },
    Control {
        node: NodeId,
        message: Bytes,
    },
    /// A batch of media packets in order of arrival: repaired ones come late. Dropped and counted if this channel is full.
    Media {
        node: NodeId,
        packets: Vec<Received>,
    },
    SenderReport {
        node: NodeId,
        report: SenderReport,
    },
    /// Congestion made a layer stop crossing to `node`, or it crosses again, beginning with a keyframe.
    LayerShed {
        node: NodeId,
        track: u32,
        layer: Layer,
        shed: bool,
    },
    /// A layer that was shed crosses to `node` again as soon as a keyframe of it is sent. Said again every second until then.
    KeyframeWanted {
        node: NodeId,
        track: u32,
        layer: Layer,
    },
    /// Every second. Dropped if this channel is full.
    Stats {
        node: NodeId,
        stats: LinkStats,
    },
    /// We dial this peer and could not; tried again after `retry_in`. Dropped if this channel is full.
    DialFailed {
        node: NodeId,
        error: LinkError,
        retry_in: Duration,
    },
    /// Somebody dialled us and was refused. At most ten a second; dropped if this channel is full.
    Refused {
        from: SocketAddr,
        error: LinkError,
    },
}

/// One link's last second.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkStats {
    pub rtt_ms: f32,
    /// 99th percentile of one-way delay variation inbound.
    pub jitter_ms: f32,
    /// Before repair, 0 to 1.
    pub loss_in: f32,
    /// Before repair, as the other side sees it, 0 to 1.
    pub loss_out: f32,
    pub sent_bps: u64,
    pub received_bps: u64,
    /// What congestion control allows.
    pub target_bps: u64,
    /// Queue that congestion control sees on the path.
    pub queue_ms: f32,
    /// How long packets wait here for it.
    pub backlog_ms: f32,
    /// Layers that do not cross at present.
    pub layers_shed: u32,
    /// Largest datagram the path takes now, in bytes.
    pub datagram_max: u32,
    /// Packets lost because the event channel was full.
    pub events_dropped: u64,
    /// Totals since the link came up.
    pub totals: LinkCounters,
}

/// Why a link went down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DownReason {
    #[error("this node closed it")]
    Disconnected,
    #[error("a newer link of the same pair took its place")]
    Replaced,
    #[error("the peer closed it: {0}")]
    PeerClosed(String),
    #[error("nothing heard for 3 s")]
    TimedOut,
    #[error("the peer restarted")]
    PeerRestarted,
    #[error("{0}")]
    Failed(String),
}

/// Why a link did not come up, or the endpoint did not start.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("cannot bind the link socket to {addr}: {source}")]
    Bind { addr: SocketAddr, source: std::io::Error },
    #[error("link certificate: {0}")]
    Identity(#[from] PkiError),
    #[error("the certificate says {certified}, the configuration says {node}")]
    WrongIdentity { node: NodeId, certified: String },
    #[error("TLS settings: {0}")]
    Tls(String),
    /// We did not accept the certificate of the other side: not of our CA, expired, or of another node.
    #[error("the peer's certificate is refused: {0}")]
    PeerCertificate(String),
    /// The other side did not accept ours.
    #[error("the peer refused this node's certificate: {0}")]
    OurCertificate(String),
    #[error("the peer's certificate names no edge of this mesh")]
    NotAnEdge,
    #[error("{dialler} dialled, but of a pair the lower NodeId does")]
    WrongDirection { dialler: NodeId },
    #[error("hello: {0}")]
    Hello(#[from] HelloError),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("the two connections of the link reached different processes")]
    SplitBrain,
    #[error("too many handshakes at once")]
    Busy,
    #[error("{0}")]
    Connection(String),
}

/// Why a control message was not queued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendControlError {
    #[error("no link to that node is up")]
    NotConnected,
    /// The peer does not read fast enough. Close the link or drop what is replaceable.
    #[error("the control queue of that link is full")]
    Full,
    #[error("a control message of {0} bytes exceeds the limit of {CONTROL_MESSAGE_MAX}")]
    TooLarge(usize),
}

/// Why media was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendMediaError {
    #[error("no link to that node is up")]
    NotConnected,
}
