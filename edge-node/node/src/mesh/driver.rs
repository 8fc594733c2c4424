//! The task between rooms and links: sockets, queues and a timer around `meridian_cascade::carriage`, which decides.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meridian_cascade::Edge;
use meridian_cascade::carriage::{Carriage, Setup, Step};
use meridian_conference::{Birth, FromMesh, Input};
use meridian_registry::nodes::{NodeRecord, NodeWatch, View};
use meridian_room::{NodeId, RoomName, RoomSid};
use meridian_shard::{Shards, TapBatch};
use rand::Rng;
use tokio::sync::{mpsc, oneshot};

use super::{MeshHandle, ToMesh};
use crate::clock::unix_now_ms;
use crate::handles::{RoomHandle, ToRoom};
use crate::lifecycle::Lifecycle;
use crate::link::{LinkEndpoint, LinkEvent, PeerAddress};
use crate::profile::Profile;

/// Messages taken from one source before the others get their turn.
const BATCH: usize = 128;
/// Only the edge with the lower NodeId may dial, and cannot know that the other one needs the link: all are linked with all.
const LINKED_ALL_UP_TO: usize = usize::MAX;

pub(crate) struct Inputs {
    pub(crate) endpoint: LinkEndpoint,
    pub(crate) links: mpsc::Receiver<LinkEvent>,
    pub(crate) tapped: mpsc::Receiver<TapBatch>,
    pub(crate) rooms: mpsc::Receiver<ToMesh>,
    pub(crate) nodes: NodeWatch,
}

/// What the mesh uses of the edge.
pub(crate) struct Uses {
    pub(crate) profile: Arc<Profile>,
    pub(crate) lifecycle: Arc<Lifecycle>,
    pub(crate) shards: Arc<Shards>,
    /// What rooms see of it.
    pub(crate) mesh: Arc<MeshHandle>,
}

struct Member {
    handle: RoomHandle,
    /// Answered when the home edges have said which life of the room this is.
    birth: Option<oneshot::Sender<Birth>>,
}

struct Driver {
    edge: Uses,
    endpoint: LinkEndpoint,
    carriage: Carriage,
    rooms: HashMap<RoomName, Member>,
    /// Where the edges of the view take links, and to which of them links are kept.
    addresses: BTreeMap<NodeId, SocketAddr>,
    kept: BTreeSet<NodeId>,
}

pub(crate) async fn run(edge: Uses, inputs: Inputs) {
    let Inputs {
        endpoint,
        mut links,
        mut tapped,
        mut rooms,
        nodes,
    } = inputs;
    let setup = Setup {
        edge: Edge {
            node: edge.profile.node.clone(),
            region: edge.profile.region.clone(),
        },
        seed: rand::rng().random(),
        linked_all_up_to: LINKED_ALL_UP_TO,
    };
    let mut driver = Driver {
        edge,
        endpoint,
        carriage: Carriage::new(setup),
        rooms: HashMap::new(),
        addresses: BTreeMap::new(),
        kept: BTreeSet::new(),
    };
    let mut view = nodes.view();
    driver.view_changed(&nodes.now());
    let lifecycle = driver.edge.lifecycle.clone();
    loop {
        let due = driver
            .carriage
            .poll_timeout()
            .unwrap_or_else(|| Instant::now() + Duration::from_secs(1));
        tokio::select! {
            message = rooms.recv() => match message {
                Some(message) => driver.mesh_message(message),
                None => break,
            },
            event = links.recv() => match event {
                Some(event) => driver.link_event(event),
                None => break,
            },
            batch = tapped.recv() => match batch {
                Some(batch) => driver.send_media(&batch),
                None => break,
            },
            changed = view.changed() => match changed {
                Ok(()) => driver.view_changed(&nodes.now()),
                Err(_) => break,
            },
            () = tokio::time::sleep_until(due.into()) => driver.carriage.handle_timeout(Instant::now()),
            () = lifecycle.stopped() => break,
        }
        for _ in 0..BATCH {
            let Ok(batch) = tapped.try_recv() else { break };
            driver.send_media(&batch);
        }
        for _ in 0..BATCH {
            let Ok(event) = links.try_recv() else { break };
            driver.link_event(event);
        }
        driver.carry_out();
    }
    driver.endpoint.shutdown().await;
}

impl Driver {
    fn view_changed(&mut self, view: &View) {
        let linkable = |record: &NodeRecord| Some((NodeId::new(record.id.clone()), record.link?));
        self.addresses = view.records().filter_map(linkable).collect();
        let edges = view
            .records()
            .filter(|record| record.link.is_some())
            .map(|record| Edge {
                node: NodeId::new(record.id.clone()),
                region: record.region.clone(),
            });
        self.carriage.view_changed(Instant::now(), edges.collect());
        // Addresses may have changed alone.
        self.keep_links();
    }

    fn keep_links(&self) {
        let address = |node: &NodeId| {
            let addr = *self.addresses.get(node)?;
            Some(PeerAddress {
                node: node.clone(),
                addr,
            })
        };
        self.endpoint.set_peers(self.kept.iter().filter_map(address).collect());
    }

    fn mesh_message(&mut self, message: ToMesh) {
        let now = Instant::now();
        match message {
            ToMesh::Enter {
                room,
                home_region,
                handle,
                birth,
            } => {
                let birth = Some(birth);
                self.rooms.insert(room.clone(), Member { handle, birth });
                let proposal = RoomSid::generate(&mut rand::rng());
                let home_region = home_region.unwrap_or_default();
                self.carriage
                    .enter(now, room, &home_region, proposal, unix_now_ms() as i64);
            }
            ToMesh::Leave { room } => {
                self.carriage.leave(now, &room);
                self.rooms.remove(&room);
            }
            ToMesh::Room { room, request } => {
                let backlog = self.endpoint.control_backlog();
                self.carriage.request(now, &room, request, backlog);
            }
            ToMesh::SenderReport {
                track,
                encoding,
                layers,
                report,
            } => self.carriage.report(track, encoding, layers, report),
        }
    }

    fn link_event(&mut self, event: LinkEvent) {
        let now = Instant::now();
        match event {
            LinkEvent::Up { node } => {
                tracing::info!(peer = %node, "link up");
                self.carriage.link_up(now, node);
            }
            LinkEvent::Down { node, reason } => {
                tracing::warn!(peer = %node, %reason, "link down");
                self.edge.mesh.link_gone(&node);
                self.carriage.link_down(now, &node);
            }
            LinkEvent::Control { node, message } => {
                if let Err(error) = self.carriage.control(now, &node, &message) {
                    tracing::warn!(peer = %node, %error, "message refused");
                }
            }
            LinkEvent::Media { node, packets } => self.carriage.media(&node, packets),
            LinkEvent::SenderReport { node, report } => self.carriage.sender_report(&node, report),
            LinkEvent::LayerShed {
                node,
                track,
                layer,
                shed,
            } => {
                tracing::info!(peer = %node, track, ?layer, shed, "congestion on the link");
                self.carriage.layer_shed(now, &node, track, layer, shed);
            }
            LinkEvent::KeyframeWanted { node, track, layer } => self.carriage.keyframe_wanted(&node, track, layer),
            LinkEvent::Suspect { node, silent_for } => {
                tracing::info!(peer = %node, ?silent_for, "link silent");
                self.carriage.link_suspect(now, &node);
            }
            LinkEvent::Alive { node } => {
                tracing::info!(peer = %node, "link heard again");
                self.carriage.link_alive(now, &node);
            }
            LinkEvent::Stats { node, stats } => {
                let rtt = Duration::from_secs_f32(stats.rtt_ms.max(0.0) / 1_000.0);
                self.carriage.link_measured(&node, rtt, (stats.loss_in, stats.loss_out));
                self.edge.mesh.link_stats(&node, stats, self.carriage.carried(&node));
            }
            LinkEvent::DialFailed { node, error, retry_in } => {
                tracing::info!(peer = %node, %error, ?retry_in, "link not up yet");
            }
            LinkEvent::Refused { from, error } => tracing::warn!(%from, %error, "link refused"),
        }
    }

    fn send_media(&mut self, batch: &TapBatch) {
        for (node, packets) in self.carriage.departing(batch) {
            // A link that has just gone down: the mesh hears of it in its own event.
            let _ = self.endpoint.send_media(&node, packets);
        }
    }

    fn carry_out(&mut self) {
        let now = Instant::now();
        while let Some(step) = self.carriage.poll_step(now) {
            match step {
                Step::Send { to, message } => {
                    if let Err(error) = self.endpoint.send_control(&to, message) {
                        tracing::debug!(peer = %to, %error, "control message not sent");
                    }
                }
                Step::KeepLinks(nodes) => {
                    self.kept = nodes;
                    self.keep_links();
                }
                Step::HangUp(node) => self.endpoint.disconnect(&node),
                Step::Audible(nodes) => self.edge.mesh.set_audible(nodes),
                Step::Born { room, birth } => {
                    if let Some(answer) = self.rooms.get_mut(&room).and_then(|member| member.birth.take()) {
                        let _ = answer.send(birth);
                    }
                }
                Step::Room { room, message } => self.tell_room(&room, message),
                Step::Media(command) => self.edge.shards.send(command),
                Step::Report { to, report } => {
                    let _ = self.endpoint.send_sender_report(&to, report);
                }
            }
        }
    }

    fn tell_room(&mut self, room: &RoomName, message: FromMesh) {
        let Some(member) = self.rooms.get(room) else { return };
        if !member.handle.try_send(ToRoom::Input(Input::Mesh(message))) {
            tracing::debug!(%room, "the room is behind: a message of the mesh was dropped");
            self.carriage.room_missed(room);
        }
    }
}
