//! The SFU's packet path, sans-IO: what happens to an RTP packet between decryption on the publisher's socket and
//! encryption for each subscriber. No sockets, no clock, no locks, no async, and no allocation per packet in steady
//! state. The shard (`edge-node/shard`) owns the threads, sockets and SRTP, and drives this crate:
//!
//! 1. [`UplinkReceiver`] (one per publishing peer) tells which track and encoding a datagram belongs to, and keeps TWCC.
//! 2. [`Uplink`] (one per published track) restores RTX, drops duplicates, numbers and stores the packet in its
//!    [`Source`], and decides on NACK, PLI and receiver reports. [`RemoteTrack`] is the same for a track from a link.
//! 3. [`Source`] (one per track and shard) holds the [`PacketRing`]s, liveness and sender reports that subscribers need.
//! 4. [`Downlink`] (one per subscription) selects the layer and writes the outgoing packet into the shard's batch.
//! 5. [`bandwidth::Estimator`] (one per subscriber) says how much the subscriber's link carries, and [`allocation`] what each of its
//!    streams gets of it.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod allocation;
pub mod bandwidth;
pub mod codec;
pub mod downlink;
mod extensions;
pub mod layers;
pub mod media;
mod nack;
pub mod packet;
pub mod receiver;
pub mod ring;
pub mod rtcp;
pub mod sequence;
pub mod source;
pub mod speakers;
mod stats;
pub mod twcc;
pub mod uplink;

pub use downlink::{Downlink, DownlinkConfig, DownlinkStats, Forwarded, SendContext};
pub use layers::Demand;
pub use media::{
    Codec, Encoding, ExtensionMap, Layer, LayerSet, MediaKind, PayloadType, SenderReportInfo, SsrcInfo, TrackId,
    UplinkMedia,
};
pub use packet::{Packet, PacketError, PacketPool, RtpPacket};
pub use receiver::{Incoming, UplinkReceiver};
pub use ring::PacketRing;
pub use sequence::{SequenceSpace, SourceSequence};
pub use source::{RemoteTrack, Source};
pub use speakers::Speakers;
pub use twcc::TwccReceiver;
pub use uplink::{Uplink, UplinkStats};
