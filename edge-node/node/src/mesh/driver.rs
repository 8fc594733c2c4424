//! The task between rooms and links: feeds `meridian_cascade::Mesh` with what arrives from either side and carries out what
//! it says. It never waits for a room: a room that is behind loses a message here, and the next digest repairs it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meridian_cascade::{ConnectionGrade, Data, Edge, Mesh, Output, RoomInput};
use meridian_conference::{Birth, FromMesh, Input, MeshData, ToMesh as Request};
use meridian_registry::nodes::{NodeWatch, View};
use meridian_room::{NodeId, ParticipantSid, RoomName, RoomSid, TrackSid};
use meridian_sfu::{Encoding, LayerSet, MediaKind, SenderReportInfo, TrackId};
use meridian_shard::{Command, Shards, TapBatch, TapConsumer};
use rand::Rng;
use tokio::sync::{mpsc, oneshot};

use super::crossing::{Crossing, Forward};
use super::{MeshHandle, ToMesh};
use crate::clock::unix_now_ms;
use crate::handles::{RoomHandle, ToRoom};
use crate::lifecycle::Lifecycle;
use crate::link::{LinkEndpoint, LinkEvent, PeerAddress, SenderReport};
use crate::profile::Profile;

/// Messages taken from one source before the others get their turn.
const BATCH: usize = 128;
/// Bytes waiting for a link at which the room that adds to them pauses, and for how long: a link of 20 Mb/s carries most of them meanwhile.
const LINK_BACKLOG_HIGH: usize = 1 << 20;
const LINK_PAUSE: Duration = Duration::from_millis(300);

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
    tracks: HashMap<TrackSid, (TrackId, MediaKind)>,
    /// Something could not be told: all is said again once the room has caught up.
    missed: bool,
    /// Said before the room carried the track: kept until it does.
    waiting: HashMap<TrackSid, Waiting>,
}

#[derive(Default)]
struct Waiting {
    source: Option<(NodeId, u32)>,
    forwards: HashMap<NodeId, Forward>,
}

struct Driver {
    edge: Uses,
    endpoint: LinkEndpoint,
    mesh: Mesh,
    members: HashMap<RoomName, Member>,
    crossing: Crossing,
}

pub(crate) async fn run(edge: Uses, inputs: Inputs) {
    let Inputs {
        endpoint,
        mut links,
        mut tapped,
        mut rooms,
        nodes,
    } = inputs;
    let mesh = Mesh::new(edge.profile.node.clone(), rand::rng().random());
    let mut driver = Driver {
        edge,
        endpoint,
        mesh,
        members: HashMap::new(),
        crossing: Crossing::default(),
    };
    let mut view = nodes.view();
    driver.view_changed(&nodes.now());
    let lifecycle = driver.edge.lifecycle.clone();
    loop {
        let due = driver
            .mesh
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
            () = tokio::time::sleep_until(due.into()) => driver.mesh.handle_timeout(Instant::now()),
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
        let own = self.edge.profile.node.as_str();
        let peers = view.records().filter(|record| record.id != own).filter_map(|record| {
            Some(PeerAddress {
                node: NodeId::new(record.id.clone()),
                addr: record.link?,
            })
        });
        self.endpoint.set_peers(peers.collect());
        let mut edges: Vec<Edge> = view
            .records()
            .filter(|record| record.link.is_some())
            .map(|record| Edge {
                node: NodeId::new(record.id.clone()),
                region: record.region.clone(),
            })
            .collect();
        if !edges.iter().any(|edge| edge.node.as_str() == own) {
            // The registry may not list us yet, or no longer: we know that we live.
            edges.push(Edge {
                node: self.edge.profile.node.clone(),
                region: self.edge.profile.region.clone(),
            });
        }
        self.mesh.view_changed(Instant::now(), edges);
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
                let member = Member {
                    handle,
                    birth: Some(birth),
                    tracks: HashMap::new(),
                    missed: false,
                    waiting: HashMap::new(),
                };
                self.members.insert(room.clone(), member);
                let proposal = RoomSid::generate(&mut rand::rng());
                self.mesh.join_room(
                    now,
                    room,
                    home_region.as_deref().unwrap_or(""),
                    proposal,
                    unix_now_ms() as i64,
                );
            }
            ToMesh::Leave { room } => {
                self.mesh.leave_room(now, &room);
                if let Some(member) = self.members.remove(&room) {
                    for (track, _) in member.tracks.into_values() {
                        self.crossing.drop_track(track);
                    }
                }
            }
            ToMesh::Room { room, request } => self.room_request(now, room, request),
            ToMesh::SenderReport {
                track,
                encoding,
                layers,
                report,
            } => self.send_report(track, encoding, layers, report),
        }
    }

    fn room_request(&mut self, now: Instant, room: RoomName, request: Request) {
        if let Some(member) = self.members.get_mut(&room)
            && std::mem::take(&mut member.missed)
        {
            // It speaks, so it has caught up.
            self.mesh.repeat(&room);
        }
        match request {
            Request::Delta(delta) => self.mesh.local_delta(&room, delta),
            Request::Relay { from, news } => self.mesh.relay_delta(&room, &from, &news),
            Request::Digest { to, digest } => self.mesh.send_digest(&room, &to, digest),
            Request::Answer { to, lacking } => lacking
                .into_iter()
                .for_each(|delta| self.mesh.answer_digest(&to, delta)),
            Request::Carry { track, id, kind } => self.carry(&room, track, id, kind),
            Request::Drop { track } => {
                let member = self.members.get_mut(&room);
                if let Some((id, _)) = member.and_then(|member| member.tracks.remove(&track)) {
                    self.crossing.drop_track(id);
                }
            }
            Request::Want {
                track,
                origin,
                epoch,
                layers,
            } => self.mesh.want(now, room, track, origin, epoch, layers),
            Request::Keyframe { track, layer } => self.mesh.request_keyframe(room, track, layer),
            Request::Data(data) => self.send_data(&room, data),
            Request::Hold(pause) => self.mesh.send_hold(&room, pause),
            Request::Grades(grades) => {
                let grade = |(participant, score): (ParticipantSid, f32)| ConnectionGrade {
                    participant: participant.to_string(),
                    score,
                };
                self.mesh.send_grades(&room, grades.into_iter().map(grade).collect());
            }
        }
    }

    fn send_data(&mut self, room: &RoomName, data: MeshData) {
        let MeshData {
            packet,
            reliable,
            destinations,
        } = data;
        // Addressed to nobody is not addressed to everybody.
        if destinations.as_ref().is_some_and(Vec::is_empty) {
            return;
        }
        if reliable
            && self.endpoint.control_backlog() > LINK_BACKLOG_HIGH
            && let Some(member) = self.members.get(room)
        {
            // Said again with the next packet, should it last.
            let pause = Input::Mesh(FromMesh::Hold(LINK_PAUSE));
            member.handle.try_send(ToRoom::Input(pause));
        }
        let data = Data {
            packet,
            reliable,
            destinations: destinations.unwrap_or_default(),
        };
        self.mesh.send_data(room, None, data);
    }

    fn carry(&mut self, room: &RoomName, track: TrackSid, id: TrackId, kind: MediaKind) {
        let Some(member) = self.members.get_mut(room) else {
            return;
        };
        let waiting = member.waiting.remove(&track).unwrap_or_default();
        let absent = self.mesh.absent(room, &track);
        member.tracks.insert(track, (id, kind));
        if waiting.source.is_some() {
            self.crossing.receive(id, waiting.source);
        }
        if !absent.is_empty() {
            self.edge.shards.send(Command::SetAbsent {
                track: id,
                layers: absent,
            });
        }
        for (node, forward) in waiting.forwards {
            let layers = self.crossing.forward(id, kind, &node, forward);
            self.edge.shards.send(Command::Tap {
                track: id,
                consumer: TapConsumer::Mesh,
                layers,
            });
        }
    }

    fn link_event(&mut self, event: LinkEvent) {
        let now = Instant::now();
        match event {
            LinkEvent::Up { node } => {
                tracing::info!(peer = %node, "link up");
                self.edge.mesh.set_audible(&node, true);
                self.mesh.link_up(now, node);
            }
            LinkEvent::Down { node, reason } => {
                tracing::warn!(peer = %node, %reason, "link down");
                self.edge.mesh.set_audible(&node, false);
                self.edge.mesh.link_gone(&node);
                self.mesh.link_down(now, &node);
            }
            LinkEvent::Control { node, message } => {
                if let Err(error) = self.mesh.handle_message(now, &node, &message) {
                    tracing::warn!(peer = %node, %error, "message refused");
                }
            }
            LinkEvent::Media { node, packets } => {
                for run in self.crossing.arrived(&node, packets) {
                    self.edge.shards.send(Command::RemoteMedia {
                        track: run.track,
                        encoding: run.encoding,
                        layer: run.layer,
                        packets: run.packets,
                    });
                }
            }
            LinkEvent::SenderReport { node, report } => {
                if let Some(track) = self.crossing.received_as(&node, report.track) {
                    let info = SenderReportInfo {
                        ntp: report.ntp,
                        rtp_timestamp: report.rtp_timestamp,
                    };
                    self.edge.shards.send(Command::RemoteSenderReport {
                        track,
                        encoding: report.encoding,
                        report: info,
                    });
                }
            }
            LinkEvent::LayerShed {
                node,
                track,
                layer,
                shed,
            } => {
                tracing::info!(peer = %node, track, ?layer, shed, "congestion on the link");
                self.mesh.layer_shed(now, &node, track, layer, shed);
            }
            LinkEvent::KeyframeWanted { node, track, layer } => {
                if let Some(track) = self.crossing.sent_as(&node, track) {
                    self.edge.shards.send(Command::RequestKeyframe { track, layer });
                }
            }
            LinkEvent::Suspect { node, silent_for } => {
                tracing::info!(peer = %node, ?silent_for, "link silent");
                self.edge.mesh.set_audible(&node, false);
                self.mesh.link_suspect(now, &node);
            }
            LinkEvent::Alive { node } => {
                tracing::info!(peer = %node, "link heard again");
                self.edge.mesh.set_audible(&node, true);
                self.mesh.link_alive(now, &node);
            }
            LinkEvent::Stats { node, stats } => {
                let rtt = Duration::from_secs_f32(stats.rtt_ms.max(0.0) / 1_000.0);
                self.mesh.link_measured(&node, rtt, stats.loss_in.max(stats.loss_out));
                self.edge.mesh.link_stats(&node, stats, self.crossing.carried(&node));
            }
            LinkEvent::DialFailed { node, error, retry_in } => {
                tracing::info!(peer = %node, %error, ?retry_in, "link not up yet");
            }
            LinkEvent::Refused { from, error } => tracing::warn!(%from, %error, "link refused"),
        }
    }

    fn send_media(&mut self, batch: &TapBatch) {
        for (node, packets) in self.crossing.departing(batch) {
            // A link that has just gone down: the mesh hears of it in its own event.
            let _ = self.endpoint.send_media(&node, packets);
        }
    }

    fn send_report(&mut self, track: TrackId, encoding: Encoding, layers: LayerSet, report: SenderReportInfo) {
        for (node, number) in self.crossing.reported_to(track, layers) {
            let report = SenderReport {
                track: number,
                encoding,
                ntp: report.ntp,
                rtp_timestamp: report.rtp_timestamp,
            };
            let _ = self.endpoint.send_sender_report(node, report);
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.mesh.poll_output() {
            match output {
                Output::Send { to, message } => {
                    if let Err(error) = self.endpoint.send_control(&to, message) {
                        tracing::debug!(peer = %to, %error, "control message not sent");
                    }
                }
                // Links stand between all edges of the view ([`Driver::view_changed`]): none is dialled for one room.
                Output::ConnectTo(_) | Output::Disconnect(_) => {}
                Output::Room { room, input } => self.tell_room(&room, input),
                Output::Receive { room, track, source } => {
                    self.receive(&room, track, source);
                }
                Output::Absent { room, track, layers } => {
                    let Some(member) = self.members.get(&room) else {
                        continue;
                    };
                    // Otherwise `carry` asks.
                    if let Some(&(track, _)) = member.tracks.get(&track) {
                        self.edge.shards.send(Command::SetAbsent { track, layers });
                    }
                }
                Output::Forward {
                    room,
                    track,
                    to,
                    number,
                    layers,
                    shed,
                } => self.forward(&room, track, to, Forward { number, layers, shed }),
            }
        }
    }

    /// What was under way on the old way is lost: pictures go on at a keyframe, and nobody should wait until decoders ask for it.
    fn receive(&mut self, room: &RoomName, track: TrackSid, source: Option<(NodeId, u32)>) {
        let Some(member) = self.members.get_mut(room) else {
            return;
        };
        let Some(&(id, kind)) = member.tracks.get(&track) else {
            member.waiting.entry(track).or_default().source = source;
            return;
        };
        let comes = source.is_some();
        self.crossing.receive(id, source);
        if comes && kind == MediaKind::Video {
            for layer in self.mesh.asked(room, &track).iter() {
                self.edge.shards.send(Command::RequestKeyframe { track: id, layer });
            }
        }
    }

    fn forward(&mut self, room: &RoomName, track: TrackSid, to: NodeId, forward: Forward) {
        let Some(member) = self.members.get_mut(room) else {
            return;
        };
        if let Some(&(id, kind)) = member.tracks.get(&track) {
            let layers = self.crossing.forward(id, kind, &to, forward);
            self.edge.shards.send(Command::Tap {
                track: id,
                consumer: TapConsumer::Mesh,
                layers,
            });
            return;
        }
        let waiting = member.waiting.entry(track.clone()).or_default();
        if forward.layers.is_empty() {
            waiting.forwards.remove(&to);
        } else {
            waiting.forwards.insert(to, forward);
            // A track that only passes through: nobody here has asked for it yet.
            member
                .handle
                .try_send(ToRoom::Input(Input::Mesh(FromMesh::PassThrough { track })));
        }
    }

    fn tell_room(&mut self, room: &RoomName, input: RoomInput) {
        let Some(member) = self.members.get_mut(room) else {
            return;
        };
        let message = match input {
            RoomInput::Life(life) => match member.birth.take() {
                Some(birth) => {
                    let _ = birth.send(Birth {
                        created_at_ms: life.created_at_ms(),
                        sid: life.sid,
                        incarnation: life.incarnation,
                        others: self.mesh.members(room).cloned().collect(),
                    });
                    return;
                }
                None => FromMesh::Incarnation {
                    sid: life.sid,
                    incarnation: life.incarnation,
                },
            },
            RoomInput::Delta { from, delta } => FromMesh::Delta { from, delta },
            RoomInput::Digest { from, digest } => FromMesh::Digest { from, digest },
            RoomInput::DigestWanted { to } => FromMesh::DigestWanted { to },
            RoomInput::NodeHeard(node) => FromMesh::NodeHeard(node),
            RoomInput::NodeSilent(node) => FromMesh::NodeSilent(node),
            RoomInput::Wanted { track, layers } => FromMesh::Wanted { track, layers },
            RoomInput::Keyframe { track, layer } => FromMesh::Keyframe { track, layer },
            RoomInput::Data { data, .. } => FromMesh::Data(MeshData {
                packet: data.packet,
                reliable: data.reliable,
                destinations: Some(data.destinations).filter(|list| !list.is_empty()),
            }),
            RoomInput::Hold { pause, .. } => FromMesh::Hold(pause),
            RoomInput::Grades { grades, .. } => FromMesh::Grades(
                grades
                    .into_iter()
                    .map(|grade| (ParticipantSid::from(grade.participant), grade.score))
                    .collect(),
            ),
        };
        if !member.handle.try_send(ToRoom::Input(Input::Mesh(message))) {
            tracing::debug!(%room, "the room is behind: a message of the mesh was dropped");
            member.missed = true;
        }
    }
}
