//! A stand-in for the media threads of one edge: numbers for transports and tracks, and packets that say where they come from and
//! when they left, so that what arrives can be held against what is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_conference::MediaPlane;
use meridian_room::RoomName;
use meridian_sfu::packet::PacketOrigin;
use meridian_sfu::{Codec, Encoding, Layer, LayerSet, MediaKind, PacketPool, TrackId};
use meridian_shard_api::{Command, Demand, PeerId, TapBatch, TapConsumer, Tapped};

/// Numbers in order, on one shard.
#[derive(Default)]
pub struct Numbers(AtomicU64);

impl MediaPlane for Numbers {
    fn allocate_peer(&self) -> PeerId {
        self.allocate_peer_on(0)
    }

    fn allocate_peer_on(&self, shard: u16) -> PeerId {
        let index = self.0.fetch_add(1, Ordering::Relaxed) as u32;
        PeerId { shard, index }
    }

    fn candidates(&self, _: PeerId) -> Vec<SocketAddr> {
        vec![([192, 0, 2, 1], 7881).into()]
    }

    fn allocate_track(&self) -> TrackId {
        TrackId(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// A track as this edge's media threads know it.
pub struct Carried {
    pub room: RoomName,
    pub kind: MediaKind,
    pub codec: Codec,
    pub layers: u8,
    /// Published here by this transport; else it comes over a link.
    pub publisher: Option<PeerId>,
    /// The publisher's transport stands and the media threads have told that packets come.
    pub started: bool,
    pub tapped: LayerSet,
    pub demands: BTreeMap<PeerId, Demand>,
    /// When each layer last arrived over a link, how long it had been under way, and from which edge.
    pub arrived: BTreeMap<u8, (Duration, Duration, usize)>,
}

impl Carried {
    /// The layers that people on this edge look at.
    pub fn wanted_here(&self) -> BTreeSet<u8> {
        let top = self.layers.saturating_sub(1);
        let enabled = self.demands.values().filter(|demand| demand.enabled);
        enabled.map(|demand| demand.max_layer.0.min(top)).collect()
    }
}

/// What the conference hears of later.
pub enum Later {
    Connected(PeerId),
    Started(TrackId),
}

pub struct Plane {
    pub numbers: Arc<Numbers>,
    pub peers: BTreeMap<PeerId, RoomName>,
    pub tracks: BTreeMap<TrackId, Carried>,
    pool: PacketPool,
    sequence: u16,
}

impl Default for Plane {
    fn default() -> Self {
        Plane {
            numbers: Arc::default(),
            peers: BTreeMap::new(),
            tracks: BTreeMap::new(),
            pool: PacketPool::new(16),
            sequence: 0,
        }
    }
}

impl Plane {
    /// A room's command; what follows from it some time later.
    pub fn obey(&mut self, room: &RoomName, command: Command) -> Option<Later> {
        match command {
            Command::AddPeer { peer, .. } => {
                self.peers.insert(peer, room.clone());
                return Some(Later::Connected(peer));
            }
            Command::RemovePeer { peer } => {
                self.peers.remove(&peer);
                for track in self.tracks.values_mut() {
                    track.demands.remove(&peer);
                }
            }
            Command::Publish {
                peer,
                track,
                publication,
            } if !self.tracks.contains_key(&track) => {
                let codec = publication
                    .payloads
                    .first()
                    .map_or(Codec::Opus, |payload| payload.codec);
                let layers = publication.rids.len().max(1) as u8;
                self.add(room, track, publication.kind, codec, layers);
                if let Some(carried) = self.tracks.get_mut(&track) {
                    carried.publisher = Some(peer);
                }
                return Some(Later::Started(track));
            }
            Command::AddRemoteTrack {
                track,
                kind,
                codec,
                layers,
            } => self.add(room, track, kind, codec, layers),
            Command::Unpublish { track } | Command::RemoveTrack { track } => {
                self.tracks.remove(&track);
            }
            Command::SetDemand { peer, track, demand } => {
                if let Some(carried) = self.tracks.get_mut(&track) {
                    carried.demands.insert(peer, demand);
                }
            }
            Command::Unsubscribe { peer, track } => {
                if let Some(carried) = self.tracks.get_mut(&track) {
                    carried.demands.remove(&peer);
                }
            }
            Command::Tap {
                track,
                consumer: TapConsumer::Mesh,
                layers,
            } => {
                if let Some(carried) = self.tracks.get_mut(&track) {
                    carried.tapped = layers;
                }
            }
            _ => {}
        }
        None
    }

    fn add(&mut self, room: &RoomName, track: TrackId, kind: MediaKind, codec: Codec, layers: u8) {
        let carried = Carried {
            room: room.clone(),
            kind,
            codec,
            layers,
            publisher: None,
            started: false,
            tapped: LayerSet::EMPTY,
            demands: BTreeMap::new(),
            arrived: BTreeMap::new(),
        };
        self.tracks.insert(track, carried);
    }

    /// One packet of each layer of everything that is published here and goes elsewhere.
    pub fn probes(&mut self, now: Instant, elapsed: Duration) -> TapBatch {
        let mut packets = Vec::new();
        self.sequence = self.sequence.wrapping_add(1);
        for (id, track) in &self.tracks {
            if !track.started || track.publisher.is_none() || track.tapped.is_empty() {
                continue;
            }
            let live = LayerSet::up_to(Layer(track.layers - 1));
            for layer in live.iter().filter(|layer| track.tapped.contains(*layer)) {
                let bytes = probe(self.sequence, elapsed);
                packets.extend(tapped(&mut self.pool, now, *id, track, layer, live, &bytes));
            }
        }
        TapBatch { packets }
    }

    /// Packets of a track that came over a link from `from`; those that go on.
    pub fn arrive(
        &mut self,
        now: Instant,
        elapsed: Duration,
        from: usize,
        track: TrackId,
        layer: Layer,
        packets: &[Bytes],
    ) -> Option<TapBatch> {
        let carried = self.tracks.get_mut(&track)?;
        for packet in packets {
            let left = Duration::from_micros(left_at(packet)?);
            carried
                .arrived
                .insert(layer.0, (elapsed, elapsed.saturating_sub(left), from));
        }
        if !carried.tapped.contains(layer) {
            return None;
        }
        let live = LayerSet::up_to(Layer(carried.layers - 1));
        let carried = &self.tracks[&track];
        let on = packets
            .iter()
            .filter_map(|packet| tapped(&mut self.pool, now, track, carried, layer, live, packet));
        let packets: Vec<Tapped> = on.collect();
        Some(TapBatch { packets })
    }
}

/// RTP whose payload says when it left, in microseconds since the world began.
fn probe(sequence: u16, elapsed: Duration) -> Bytes {
    let mut bytes = vec![0x80, 0x60];
    bytes.extend_from_slice(&sequence.to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2]);
    // A VP8 payload descriptor and the first bytes of a keyframe; Opus takes anything.
    bytes.extend_from_slice(&[0x10, 0, 0, 0, 0x9d, 0x01, 0x2a]);
    bytes.extend_from_slice(&(elapsed.as_micros() as u64).to_be_bytes());
    bytes.into()
}

fn left_at(packet: &[u8]) -> Option<u64> {
    let last: [u8; 8] = packet.get(packet.len().checked_sub(8)?..)?.try_into().ok()?;
    Some(u64::from_be_bytes(last))
}

fn tapped(
    pool: &mut PacketPool,
    now: Instant,
    id: TrackId,
    track: &Carried,
    layer: Layer,
    live: LayerSet,
    bytes: &[u8],
) -> Option<Tapped> {
    let origin = PacketOrigin {
        arrival: now,
        encoding: Encoding(layer.0),
        layer,
        codec: track.codec,
    };
    Some(Tapped {
        track: id,
        layer,
        live,
        packet: pool.parse_link(bytes, origin).ok()?,
    })
}
