//! SDP of the single-connection flow (spec/client-protocol.md §4, "v1"): the client always offers, we always answer.
//!
//! Here live a bounded parser of offers, the choice of codecs and header extensions, which media section carries which
//! subscription, and the text of the answer. Not here: ICE, DTLS, RTP, and who may subscribe to what; the node asks for
//! subscriptions, the shard acts on the [`Publication`]s and [`SubscriptionMedia`] of an [`Answer`].
//!
//! Every offer is a stranger's text: at most [`OFFER_BYTES_MAX`] long, [`SECTIONS_MAX`] sections, and every list inside a
//! section is cut at a fixed length. A refused offer leaves the negotiation as it was.

mod codecs;
mod extensions;
mod fragment;
mod layers;
mod negotiation;
mod offer;
mod ssrcs;
mod survey;
mod write;

use std::net::SocketAddr;

use meridian_sfu::media::{Codec, ExtensionMap, MediaKind, PayloadType};

pub use fragment::{FRAGMENT_BYTES_MAX, Fragment, fragment_of_answer, with_credentials};
pub use negotiation::Negotiation;
pub use survey::Survey;

use crate::{DtlsRole, Fingerprint, IceCredentials};

/// A Chromium offer spends 5.3 KB on a video section and 1.1 KB on an audio section: room for 64 sections and more.
pub const OFFER_BYTES_MAX: usize = 512 * 1024;
/// Media sections an offer may have.
pub const SECTIONS_MAX: usize = 256;
/// Media sections up to which [`Negotiation::sections_required`] asks a client for more (spec/client-protocol.md §9).
pub const SECTIONS_WANTED_MAX: usize = 64;
/// The largest data channel message, in bytes, that we accept and announce.
pub const MESSAGE_BYTES_MAX: usize = 64_000;

/// Our side of the transport, as it goes into every answer.
#[derive(Clone, Debug)]
pub struct LocalMedia {
    pub ice: IceCredentials,
    pub fingerprint: Fingerprint,
    /// ICE-lite UDP host candidates, best first. They all go into the answer: there is no trickle.
    pub candidates: Vec<SocketAddr>,
}

/// A track the node wants to send to this client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedTrack {
    /// The node's number of the track (`TrackId`): the handle of this subscription.
    pub key: u64,
    pub kind: MediaKind,
    /// The msid stream: `PA_…` of the publisher, a bar, and the group that lips are synchronised in (or `TR_…` for none).
    pub stream_id: String,
    /// `TR_…`
    pub track_sid: String,
    /// What the publisher sends; empty = anything the client offers.
    pub codecs: Vec<Codec>,
}

/// Sections the client should add before its next offer (`MediaSectionsRequirement`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SectionsRequired {
    pub audios: u32,
    pub videos: u32,
}

/// How a published microphone should be encoded; browsers read it from our answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AudioPreferences {
    /// Discontinuous transmission: nothing is sent in silence.
    pub dtx: bool,
    pub stereo: bool,
}

/// The client's side of the transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteParams {
    pub ice: IceCredentials,
    pub fingerprint: Fingerprint,
    /// Ours: the client's DTLS role leaves us this one. Kept as long as the certificate.
    pub role: DtlsRole,
    /// ICE credentials differ from those of the previous answered offer: an ICE restart (RFC 8839 §4.4.1.1.1).
    pub restarted: bool,
    /// The certificate differs from that of the previous answered offer: new DTLS, SRTP and SCTP.
    pub dtls_changed: bool,
}

/// What a new offer led to.
#[derive(Clone, Debug)]
pub struct Answer {
    pub sdp: String,
    /// mid → `TR_…` of everything we send, for `SessionDescription.mid_to_track_id`.
    pub mid_to_track: Vec<(String, String)>,
    pub remote: RemoteParams,
    /// Every section the client sends on, and once more, `active: false`, each that has just stopped. One that is
    /// missing has stopped too.
    pub publications: Vec<Publication>,
    /// Every section we send on.
    pub subscriptions: Vec<SubscriptionMedia>,
    /// Keys of subscriptions dropped because the client offers no codec of the track.
    pub unsupported: Vec<u64>,
    /// The client offered an SCTP association and it was accepted.
    pub has_data: bool,
}

/// One media section on which the client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    pub mid: String,
    pub kind: MediaKind,
    /// msid stream; `-` when the client names none.
    pub stream_id: String,
    /// msid track: the `cid` of an AddTrackRequest.
    pub cid: String,
    /// Simulcast layers, low to high: by their names where these are LiveKit's, else by the sizes told with
    /// [`Negotiation::prefer_layers`], else as declared. Empty without simulcast, at most three.
    pub rids: Vec<String>,
    /// Declared SSRCs, low to high; empty when the client leaves them to the rid and mid extensions.
    pub ssrcs: Vec<SsrcInfo>,
    /// In the client's order of preference.
    pub payloads: Vec<PayloadType>,
    pub extensions: ExtensionMap,
    /// false: the section has stopped sending.
    pub active: bool,
}

/// A declared stream and the stream that retransmits it (RFC 4588).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SsrcInfo {
    pub ssrc: u32,
    pub rtx: Option<u32>,
}

/// One media section on which we send a subscribed track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionMedia {
    /// [`WantedTrack::key`]
    pub key: u64,
    pub mid: String,
    /// Unique in this connection for its whole life: a section that changes its track changes its SSRCs too.
    pub ssrc: u32,
    pub rtx_ssrc: u32,
    /// One for each codec of the track that the client understands, in the publisher's order.
    pub payloads: Vec<PayloadType>,
    pub extensions: ExtensionMap,
}

/// Why an offer was refused. All of these are the client's fault; another try with the same offer cannot help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    #[error("the offer has {0} bytes, more than {OFFER_BYTES_MAX}")]
    TooLong(usize),
    #[error("the offer has more than {SECTIONS_MAX} media sections")]
    TooManySections,
    #[error("the offer does not start with v=0")]
    NotSdp,
    #[error("line {line}: a malformed {what}")]
    Malformed { line: usize, what: &'static str },
    #[error("two media sections have the mid {0:?}")]
    DuplicateMid(String),
    #[error(
        "the offer bundles no media section that we can accept: bundle all media over one transport (bundlePolicy max-bundle; in GStreamer \
         bundle-policy=max-bundle) and offer a codec that is known here (Opus; VP8, VP9, H264, AV1)"
    )]
    NothingBundled,
    #[error("the offer has no ICE credentials")]
    NoIce,
    #[error("the offer has no SHA-256 certificate fingerprint")]
    NoFingerprint,
    #[error("a=setup of the offer is none of actpass, active and passive")]
    DtlsRole,
}
