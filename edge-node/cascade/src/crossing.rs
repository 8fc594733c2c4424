//! Media on its way between media threads and links: which of our tracks goes to which edges under which number, and which
//! track a number on a link stands for. Numbers are agreed by [`crate::mesh::Mesh`] over the control stream.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use meridian_room::NodeId;
use meridian_sfu::layers::{serves, with_stand_ins};
use meridian_sfu::{Encoding, Layer, LayerSet, MediaKind, TrackId};
use meridian_shard_api::TapBatch;

use crate::link::{MediaPacket, Priority, Received};

/// What an edge gets of a track.
#[derive(Clone, Copy)]
pub(crate) struct Forward {
    pub(crate) number: u32,
    /// What is wanted there.
    pub(crate) layers: LayerSet,
    /// What the link does not carry for now. It is still given to the link, which measures it; the best layer below goes, too.
    pub(crate) shed: LayerSet,
}

impl Forward {
    fn taken(&self) -> LayerSet {
        with_stand_ins(self.layers, self.shed)
    }
}

/// One edge that gets a track of ours.
struct Destination {
    node: NodeId,
    forward: Forward,
}

struct Outgoing {
    kind: MediaKind,
    destinations: Vec<Destination>,
}

/// Tracks on one link.
#[derive(Clone, Copy, Default)]
pub struct Carried {
    pub tracks_in: usize,
    pub tracks_out: usize,
}

/// Packets from a link, one after the other of one layer.
pub(crate) struct Run {
    pub(crate) track: TrackId,
    pub(crate) encoding: Encoding,
    pub(crate) layer: Layer,
    pub(crate) packets: Vec<Bytes>,
}

#[derive(Default)]
pub(crate) struct Crossing {
    outgoing: HashMap<TrackId, Outgoing>,
    /// Our numbers: none is ever another track's, whatever link it is for.
    numbers: HashMap<u32, TrackId>,
    incoming: HashMap<(NodeId, u32), TrackId>,
}

impl Crossing {
    /// Replaces what is sent of this track to that edge; answers with the layers to be tapped.
    pub(crate) fn forward(&mut self, track: TrackId, kind: MediaKind, node: &NodeId, forward: Forward) -> LayerSet {
        let outgoing = self.outgoing.entry(track).or_insert_with(|| Outgoing {
            kind,
            destinations: Vec::new(),
        });
        outgoing.destinations.retain(|destination| {
            let stays = destination.node != *node;
            if !stays {
                self.numbers.remove(&destination.forward.number);
            }
            stays
        });
        if !forward.layers.is_empty() {
            self.numbers.insert(forward.number, track);
            outgoing.destinations.push(Destination {
                node: node.clone(),
                forward,
            });
        }
        let all = outgoing
            .destinations
            .iter()
            .fold(LayerSet::EMPTY, |all, destination| all | destination.forward.taken());
        if all.is_empty() {
            self.outgoing.remove(&track);
        }
        all
    }

    /// Media of this number on the link from `node` is this track's; `None`: nobody's.
    pub(crate) fn receive(&mut self, track: TrackId, source: Option<(NodeId, u32)>) {
        self.incoming.retain(|_, held| *held != track);
        if let Some(source) = source {
            self.incoming.insert(source, track);
        }
    }

    /// The edge that each track which comes over a link comes from.
    pub(crate) fn sources(&self) -> BTreeMap<TrackId, &NodeId> {
        self.incoming.iter().map(|((node, _), track)| (*track, node)).collect()
    }

    /// How many tracks come from that edge, and how many go to it.
    pub(crate) fn carried(&self, node: &NodeId) -> Carried {
        let is_there = |destination: &Destination| destination.node == *node;
        let goes = |outgoing: &&Outgoing| outgoing.destinations.iter().any(is_there);
        Carried {
            tracks_in: self.incoming.keys().filter(|(from, _)| from == node).count(),
            tracks_out: self.outgoing.values().filter(goes).count(),
        }
    }

    pub(crate) fn drop_track(&mut self, track: TrackId) {
        let outgoing = self.outgoing.remove(&track);
        for destination in outgoing.into_iter().flat_map(|outgoing| outgoing.destinations) {
            self.numbers.remove(&destination.forward.number);
        }
        self.receive(track, None);
    }

    /// The packets of a batch for each edge, in their order. Each is copied once, however many edges get it: the link keeps it
    /// for a second in case it has to be repeated, and the media thread wants its pooled buffer back before that.
    pub(crate) fn departing(&self, batch: &TapBatch) -> Vec<(NodeId, Vec<MediaPacket>)> {
        // A handful of edges: looking through them costs less than hashing their names.
        let mut by_node: Vec<(NodeId, Vec<MediaPacket>)> = Vec::new();
        for tapped in &batch.packets {
            let Some(outgoing) = self.outgoing.get(&tapped.track) else {
                continue;
            };
            let takes = |destination: &&Destination| {
                let Forward { layers, shed, .. } = destination.forward;
                serves(tapped.layer, layers, tapped.live, shed)
            };
            let mut payload: Option<Bytes> = None;
            for destination in outgoing.destinations.iter().filter(takes) {
                let payload = payload
                    .get_or_insert_with(|| Bytes::copy_from_slice(tapped.packet.link_bytes()))
                    .clone();
                let packet = MediaPacket {
                    track: destination.forward.number,
                    encoding: tapped.packet.encoding,
                    layer: tapped.layer,
                    priority: priority(outgoing.kind, tapped.layer),
                    keyframe: tapped.packet.frame.keyframe,
                    payload,
                };
                match by_node.iter_mut().find(|(node, _)| *node == destination.node) {
                    Some((_, packets)) => packets.push(packet),
                    None => by_node.push((destination.node.clone(), vec![packet])),
                }
            }
        }
        by_node
    }

    /// Who gets one of these layers, and with it the sender reports of their encoding; under which number.
    pub(crate) fn reported_to(&self, track: TrackId, layers: LayerSet) -> impl Iterator<Item = (&NodeId, u32)> {
        let destinations = self
            .outgoing
            .get(&track)
            .map_or(&[][..], |outgoing| &outgoing.destinations);
        let wanting = destinations
            .iter()
            .filter(move |destination| destination.forward.taken().intersects(layers));
        wanting.map(|destination| (&destination.node, destination.forward.number))
    }

    /// Which of our tracks that edge knows under this number.
    pub(crate) fn sent_as(&self, node: &NodeId, number: u32) -> Option<TrackId> {
        let track = *self.numbers.get(&number)?;
        let destinations = &self.outgoing.get(&track)?.destinations;
        let sent = destinations
            .iter()
            .any(|d| d.node == *node && d.forward.number == number);
        sent.then_some(track)
    }

    pub(crate) fn received_as(&self, node: &NodeId, number: u32) -> Option<TrackId> {
        self.incoming.get(&(node.clone(), number)).copied()
    }

    /// Consecutive packets of one layer together, in their order. Packets of unknown numbers are left out: a track that has
    /// just ended.
    pub(crate) fn arrived(&self, node: &NodeId, packets: Vec<Received>) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let mut last: Option<(u32, Option<TrackId>)> = None;
        for packet in packets {
            let track = match last {
                Some((number, track)) if number == packet.track => track,
                _ => self.received_as(node, packet.track),
            };
            last = Some((packet.track, track));
            let Some(track) = track else { continue };
            match runs.last_mut() {
                Some(run) if (run.track, run.encoding, run.layer) == (track, packet.encoding, packet.layer) => {
                    run.packets.push(packet.payload)
                }
                _ => runs.push(Run {
                    track,
                    encoding: packet.encoding,
                    layer: packet.layer,
                    packets: vec![packet.payload],
                }),
            }
        }
        runs
    }
}

fn priority(kind: MediaKind, layer: Layer) -> Priority {
    match kind {
        MediaKind::Audio => Priority::Audio,
        MediaKind::Video => Priority::of_video(layer),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use meridian_sfu::packet::PacketOrigin;
    use meridian_sfu::{Codec, PacketPool};
    use meridian_shard_api::Tapped;

    use super::*;

    fn received(track: u32, layer: u8, byte: u8) -> Received {
        Received {
            track,
            encoding: Encoding(layer),
            layer: Layer(layer),
            payload: Bytes::from(vec![byte]),
        }
    }

    #[test]
    fn the_layers_tapped_are_those_that_any_edge_gets() {
        let mut crossing = Crossing::default();
        let (fra, sin) = (NodeId::from("fra"), NodeId::from("sin"));
        let mut forward = |node: &NodeId, number, layers, shed| {
            let (layers, shed) = (LayerSet(layers), LayerSet(shed));
            let forward = Forward { number, layers, shed };
            crossing.forward(TrackId(1), MediaKind::Video, node, forward).0
        };
        assert_eq!(forward(&fra, 7, 0b100, 0), 0b100);
        assert_eq!(forward(&sin, 8, 0b001, 0), 0b101);
        assert_eq!(forward(&fra, 7, 0b100, 0b100), 0b111, "the middle one stands in");
        assert_eq!(forward(&fra, 7, 0b100, 0), 0b101);
        assert_eq!(forward(&fra, 7, 0, 0), 0b001);
        assert_eq!(crossing.sent_as(&sin, 8), Some(TrackId(1)));
        assert_eq!(crossing.sent_as(&fra, 8), None);
        assert_eq!(crossing.sent_as(&fra, 7), None, "it gets nothing any more");
        let nothing = Forward {
            number: 8,
            layers: LayerSet::EMPTY,
            shed: LayerSet::EMPTY,
        };
        assert_eq!(
            crossing.forward(TrackId(1), MediaKind::Video, &sin, nothing),
            LayerSet::EMPTY
        );
        assert!(crossing.numbers.is_empty() && crossing.outgoing.is_empty());
    }

    /// A frame of all three layers on its way out, and which layers each edge gets of it.
    fn sent(crossing: &Crossing, live: u8) -> Vec<(String, Vec<(u8, bool)>)> {
        // A VP8 keyframe's first packet.
        let rtp = [
            0x80, 0x60, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0x10, 0, 0, 0, 0x9d, 0x01, 0x2a,
        ];
        let mut pool = PacketPool::new(4);
        let mut tapped = |layer: Layer| {
            let origin = PacketOrigin {
                arrival: Instant::now(),
                encoding: Encoding(layer.0),
                layer,
                codec: Codec::Vp8,
            };
            Tapped {
                track: TrackId(1),
                layer,
                live: LayerSet(live),
                packet: pool.parse_link(&rtp, origin).expect("RTP"),
            }
        };
        let packets = LayerSet(live).iter().map(&mut tapped).collect();
        let of_edge = |(node, packets): (NodeId, Vec<MediaPacket>)| {
            let layers = packets.iter().map(|packet| (packet.layer.0, packet.keyframe)).collect();
            (node.to_string(), layers)
        };
        crossing
            .departing(&TapBatch { packets })
            .into_iter()
            .map(of_edge)
            .collect()
    }

    #[test]
    fn only_the_link_that_sheds_a_layer_gets_what_stands_in_for_it() {
        let mut crossing = Crossing::default();
        for (node, number, shed) in [("fra", 7, 0b100), ("sin", 8, 0)] {
            let (layers, shed) = (LayerSet(0b100), LayerSet(shed));
            let forward = Forward { number, layers, shed };
            crossing.forward(TrackId(1), MediaKind::Video, &NodeId::from(node), forward);
        }
        let (low, mid, top) = ((0, true), (1, true), (2, true));
        let gets = |live, fra: &[(u8, bool)], sin: &[(u8, bool)]| {
            let mut sent = sent(&crossing, live);
            sent.sort();
            assert_eq!(
                sent,
                [("fra".to_owned(), fra.to_vec()), ("sin".to_owned(), sin.to_vec())]
            );
        };
        gets(0b111, &[mid, top], &[top]);
        gets(0b101, &[low, top], &[top]);
        gets(0b011, &[mid], &[mid]);
    }

    #[test]
    fn packets_keep_their_order_and_unknown_numbers_are_left_out() {
        let mut crossing = Crossing::default();
        let fra = NodeId::from("fra");
        crossing.receive(TrackId(1), Some((fra.clone(), 4)));
        crossing.receive(TrackId(2), Some((fra.clone(), 5)));
        let batch = vec![
            received(4, 0, 1),
            received(4, 0, 2),
            received(9, 0, 3),
            received(5, 2, 4),
            received(4, 0, 5),
        ];
        let runs = crossing.arrived(&fra, batch);
        let flat: Vec<_> = runs
            .iter()
            .map(|run| (run.track.0, run.layer.0, run.packets.len()))
            .collect();
        assert_eq!(flat, [(1, 0, 2), (2, 2, 1), (1, 0, 1)]);
    }

    #[test]
    fn a_track_comes_from_one_edge_at_a_time() {
        let mut crossing = Crossing::default();
        let (fra, sin) = (NodeId::from("fra"), NodeId::from("sin"));
        crossing.receive(TrackId(1), Some((fra.clone(), 4)));
        crossing.receive(TrackId(1), Some((sin.clone(), 6)));
        assert_eq!(crossing.received_as(&fra, 4), None);
        assert_eq!(crossing.received_as(&sin, 6), Some(TrackId(1)));
        crossing.drop_track(TrackId(1));
        assert_eq!(crossing.received_as(&sin, 6), None);
    }
}
