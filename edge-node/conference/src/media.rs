//! How media and data reach a member: its SDP, its transport on a media thread, and what flows over it.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use meridian_room::{ParticipantSid, TrackSid};
use meridian_sfu::TrackId;
use meridian_shard_api::{Demand, PeerId};
use meridian_transport::IceCredentials;
use meridian_transport::sdp::{Negotiation, SubscriptionMedia};

use crate::io::SessionKey;

/// The transport on a shard.
pub(crate) struct Transport {
    pub(crate) peer: PeerId,
    pub(crate) local: IceCredentials,
    pub(crate) connected: bool,
}

pub(crate) struct Media {
    pub(crate) negotiation: Negotiation,
    pub(crate) transport: Option<Transport>,
    /// When the member closed its transport, if it has no other since.
    pub(crate) closed_at: Option<Instant>,
    /// What flows to the member now, by track.
    pub(crate) subscriptions: HashMap<TrackId, SubscriptionMedia>,
    /// Tracks asked for; some still wait for a media section.
    pub(crate) wanted: HashSet<TrackId>,
    /// What the member said about tracks it receives or will receive.
    pub(crate) demands: HashMap<TrackSid, Demand>,
    /// Something changed that only a new offer of the member can carry.
    pub(crate) needs_offer: bool,
    /// Reliable packets of the room before this serial are not for the member: it was not here yet.
    pub(crate) came_at: u64,
    /// First reliable packet that its data channel was not open for; `None`: it is open.
    pub(crate) unheard_from: Option<u64>,
    /// What it said, resuming, to have received last of each sender, while its data channel was not open.
    pub(crate) received: Option<HashMap<ParticipantSid, u32>>,
}

impl Media {
    /// `serial`: of the room's next reliable packet.
    pub(crate) fn new(key: SessionKey, serial: u64) -> Media {
        Media {
            negotiation: Negotiation::new(key.0 ^ 0x6d65_7269_6469_616e),
            transport: None,
            closed_at: None,
            subscriptions: HashMap::new(),
            wanted: HashSet::new(),
            demands: HashMap::new(),
            needs_offer: false,
            came_at: serial,
            unheard_from: Some(serial),
            received: None,
        }
    }

    pub(crate) fn peer(&self) -> Option<PeerId> {
        self.transport.as_ref().map(|transport| transport.peer)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.transport.as_ref().is_some_and(|transport| transport.connected)
    }

    pub(crate) fn connected(&mut self) {
        self.closed_at = None;
        if let Some(transport) = &mut self.transport {
            transport.connected = true;
        }
    }

    /// What the member said of a track before it got it, or everything, with this priority.
    pub(crate) fn first_demand(&self, track: &TrackSid, priority: u8) -> Demand {
        let everything = Demand {
            priority,
            ..Demand::default()
        };
        self.demands.get(track).copied().unwrap_or(everything)
    }

    /// The member closed its transport in good order.
    pub(crate) fn transport_closed(&mut self, now: Instant) {
        self.transport = None;
        self.subscriptions.clear();
        self.closed_at = Some(now);
    }

    /// The data channel went with the transport: packets from this serial on wait for the next.
    pub(crate) fn channel_lost(&mut self, serial: u64) {
        self.unheard_from.get_or_insert(serial);
    }
}
