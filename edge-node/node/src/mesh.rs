//! Rooms on one side, links to other edges on the other. This file is the rooms' side: what a room may ask of the mesh.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use meridian_registry::nodes::NodeWatch;
use meridian_room::{NodeId, RoomDelta, RoomDigest, RoomName, RoomSid, TrackSid};
use meridian_sfu::{Layer, LayerSet, SenderReportInfo, TrackId};
use meridian_shard::TapBatch;
use tokio::sync::{mpsc, oneshot};

use crate::edge::{EdgeState, unix_now_ms};
use crate::link::{LinkEndpoint, LinkEvent};
use crate::rooms::{MeshData, RoomHandle};

/// Requests of rooms that may wait. State that is dropped here is repaired by the next digest.
const QUEUE: usize = 16_384;

/// Which life of a room name this is, as its home edge says.
#[derive(Clone, Debug)]
pub(crate) struct Birth {
    pub(crate) sid: RoomSid,
    pub(crate) incarnation: u64,
}

pub(crate) enum ToMesh {
    Enter { room: RoomName, home_region: Option<String>, handle: RoomHandle, birth: oneshot::Sender<Birth> },
    Leave { room: RoomName },
    Delta { room: RoomName, delta: RoomDelta },
    Relay { room: RoomName, from: NodeId, news: RoomDelta },
    Digest { room: RoomName, digest: RoomDigest },
    Answer { room: RoomName, to: NodeId, lacking: Vec<RoomDelta> },
    Want { room: RoomName, node: NodeId, track: TrackSid, id: TrackId, layers: LayerSet },
    Keyframe { room: RoomName, node: NodeId, track: TrackSid, layer: Layer },
    Data { room: RoomName, data: MeshData },
    SenderReport { track: TrackId, layer: Layer, report: SenderReportInfo },
}

pub(crate) struct MeshHandle {
    queue: mpsc::Sender<ToMesh>,
    dropped: AtomicU64,
}

impl MeshHandle {
    pub(crate) fn new() -> (MeshHandle, mpsc::Receiver<ToMesh>) {
        let (queue, requests) = mpsc::channel(QUEUE);
        (MeshHandle { queue, dropped: AtomicU64::new(0) }, requests)
    }

    /// The room has people here now: announces it, and learns which life of the room this is. Waits for the home edge, but
    /// not long: a room can live without it.
    pub(crate) async fn enter(&self, room: &RoomName, home_region: Option<String>, handle: &RoomHandle) -> Birth {
        let (birth, born) = oneshot::channel();
        let enter = ToMesh::Enter { room: room.clone(), home_region, handle: handle.clone(), birth };
        if self.queue.send(enter).await.is_ok()
            && let Ok(birth) = born.await
        {
            return birth;
        }
        Birth { sid: RoomSid::generate(&mut rand::rng()), incarnation: unix_now_ms() }
    }

    pub(crate) fn leave(&self, room: &RoomName) {
        self.send(ToMesh::Leave { room: room.clone() });
    }

    /// To every edge of the room.
    pub(crate) fn delta(&self, room: &RoomName, delta: RoomDelta) {
        self.send(ToMesh::Delta { room: room.clone(), delta });
    }

    /// News that came from one edge, for those that do not hear its writers themselves.
    pub(crate) fn relay(&self, room: &RoomName, from: &NodeId, news: RoomDelta) {
        self.send(ToMesh::Relay { room: room.clone(), from: from.clone(), news });
    }

    pub(crate) fn digest(&self, room: &RoomName, digest: RoomDigest) {
        self.send(ToMesh::Digest { room: room.clone(), digest });
    }

    pub(crate) fn answer(&self, room: &RoomName, to: &NodeId, lacking: Vec<RoomDelta>) {
        if !lacking.is_empty() {
            self.send(ToMesh::Answer { room: room.clone(), to: to.clone(), lacking });
        }
    }

    /// These layers of a track of another edge are wanted here now.
    pub(crate) fn want(&self, room: &RoomName, node: &NodeId, track: &TrackSid, id: TrackId, layers: LayerSet) {
        let (room, node, track) = (room.clone(), node.clone(), track.clone());
        self.send(ToMesh::Want { room, node, track, id, layers });
    }

    pub(crate) fn keyframe(&self, room: &RoomName, node: &NodeId, track: &TrackSid, layer: Layer) {
        self.send(ToMesh::Keyframe { room: room.clone(), node: node.clone(), track: track.clone(), layer });
    }

    pub(crate) fn data(&self, room: &RoomName, data: MeshData) {
        self.send(ToMesh::Data { room: room.clone(), data });
    }

    pub(crate) fn sender_report(&self, track: TrackId, layer: Layer, report: SenderReportInfo) {
        self.send(ToMesh::SenderReport { track, layer, report });
    }

    pub(crate) fn render_metrics(&self, text: &mut String) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        let _ = writeln!(text, "# TYPE meridian_mesh_requests_dropped_total counter");
        let _ = writeln!(text, "meridian_mesh_requests_dropped_total {dropped}");
    }

    fn send(&self, message: ToMesh) {
        if self.queue.try_send(message).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

pub(crate) struct Inputs {
    pub(crate) endpoint: LinkEndpoint,
    pub(crate) links: mpsc::Receiver<LinkEvent>,
    pub(crate) tapped: mpsc::Receiver<TapBatch>,
    pub(crate) rooms: mpsc::Receiver<ToMesh>,
    pub(crate) nodes: NodeWatch,
}

pub(crate) async fn run(edge: Arc<EdgeState>, mut inputs: Inputs) {
    loop {
        tokio::select! {
            message = inputs.rooms.recv() => match message {
                Some(ToMesh::Enter { birth, .. }) => {
                    let _ = birth.send(Birth { sid: RoomSid::generate(&mut rand::rng()), incarnation: unix_now_ms() });
                }
                Some(_) => {}
                None => return,
            },
            _ = inputs.links.recv() => {}
            _ = inputs.tapped.recv() => {}
            () = edge.stopped() => return,
        }
    }
}
