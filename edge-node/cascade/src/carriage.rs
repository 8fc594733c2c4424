//! What an edge decides between its rooms, its media threads and its links: feeds [`Mesh`] with what arrives from any of them,
//! says which links are kept ([`crate::linking`]), and which track has which number on which link. It never waits for a room: one
//! that is behind loses a message ([`Carriage::room_missed`]), and the next digest repairs it.
//!
//! The contract: any number of inputs, then [`Carriage::poll_step`] until it gives `None`; [`Carriage::handle_timeout`] once
//! [`Carriage::poll_timeout`] has passed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_room::{NodeId, ParticipantSid, RoomName, RoomSid, TrackSid};
use meridian_sfu::media::{Encoding, Layer, LayerSet};
use meridian_sfu::{MediaKind, SenderReportInfo, TrackId};
use meridian_shard_api::{Command, TapBatch, TapConsumer};

pub use crate::crossing::Carried;
use crate::crossing::{Crossing, Forward};
use crate::link::{MediaPacket, Received, SenderReport};
use crate::linking::Linking;
use crate::mesh::{ConnectionGrade, Data, Life, Mesh, Output, RoomInput};
use crate::view::Edge;
use crate::wire::WireError;
use crate::words::{Birth, FromMesh, MeshData, ToMesh};

/// Bytes waiting for a link at which the room that adds to them pauses, and for how long: a link of 20 Mb/s carries most of them meanwhile.
const LINK_BACKLOG_HIGH: usize = 1 << 20;
const LINK_PAUSE: Duration = Duration::from_millis(300);

/// What the driver has to do, in this order.
#[derive(Debug)]
pub enum Step {
    /// One control message on the link to `to`; nothing, if that link has just gone down.
    Send { to: NodeId, message: Bytes },
    /// The edges to keep links to, in full: dial them, again and again. Other links stay until they end or [`Step::HangUp`].
    KeepLinks(BTreeSet<NodeId>),
    /// Nobody needs this link.
    HangUp(NodeId),
    /// The edges that can be heard now, and those that were dialled only a moment ago: rooms wait for what those know.
    Audible(BTreeSet<NodeId>),
    /// A room that entered has its life. Once for each entry.
    Born { room: RoomName, birth: Birth },
    /// For a room that was born; call [`Carriage::room_missed`] if it does not take it.
    Room { room: RoomName, message: FromMesh },
    /// For the media threads.
    Media(Command),
    /// A publisher's sender report, on the link to `to`. Unreliable.
    Report { to: NodeId, report: SenderReport },
}

/// How this edge stands in the mesh.
pub struct Setup {
    /// This edge, as the registry shows it to others.
    pub edge: Edge,
    /// From the operating system: see [`Mesh::new`].
    pub seed: u64,
    /// Up to so many edges all are linked with all; in a larger mesh an edge links whom it needs, and a few that hold the mesh together.
    pub linked_all_up_to: usize,
}

/// A room with people on this edge.
#[derive(Default)]
struct Member {
    /// The home edges have said which life of the room this is.
    born: bool,
    tracks: BTreeMap<TrackSid, (TrackId, MediaKind)>,
    /// Something could not be told: all is said again once the room has caught up.
    missed: bool,
    /// Said before the room carried the track: kept until it does.
    waiting: BTreeMap<TrackSid, Waiting>,
}

#[derive(Default)]
struct Waiting {
    source: Option<(NodeId, u32)>,
    forwards: BTreeMap<NodeId, Forward>,
}

/// See the module.
pub struct Carriage {
    own: Edge,
    mesh: Mesh,
    members: BTreeMap<RoomName, Member>,
    crossing: Crossing,
    linking: Linking,
    out: VecDeque<Step>,
    /// Told after everything else: a room that is born asks who can be heard.
    born: VecDeque<Step>,
}

impl Carriage {
    pub fn new(setup: Setup) -> Carriage {
        Carriage {
            mesh: Mesh::new(setup.edge.node.clone(), setup.seed),
            linking: Linking::new(setup.edge.clone(), setup.linked_all_up_to),
            own: setup.edge,
            members: BTreeMap::new(),
            crossing: Crossing::default(),
            out: VecDeque::new(),
            born: VecDeque::new(),
        }
    }

    /// The live edges that take links, as the registry shows them.
    pub fn view_changed(&mut self, now: Instant, mut edges: Vec<Edge>) {
        if !edges.iter().any(|edge| edge.node == self.own.node) {
            // The registry may not list us yet, or no longer: we know that we live.
            edges.push(self.own.clone());
        }
        self.linking.view_changed(now, &edges);
        self.mesh.view_changed(now, edges);
    }

    /// The room has people here now. Answered with [`Step::Born`]: see [`Mesh::join_room`] for how soon. `sid` and
    /// `created_at_ms` (since 1970) become the room's if it is new.
    pub fn enter(&mut self, now: Instant, room: RoomName, home_region: &str, sid: RoomSid, created_at_ms: i64) {
        if self.members.contains_key(&room) {
            // Its leaving was lost.
            self.leave(now, &room);
        }
        self.members.insert(room.clone(), Member::default());
        self.mesh.join_room(now, room, home_region, sid, created_at_ms);
    }

    /// The last person here is gone.
    pub fn leave(&mut self, now: Instant, room: &RoomName) {
        self.mesh.leave_room(now, room);
        if let Some(member) = self.members.remove(room) {
            for (track, _) in member.tracks.into_values() {
                self.crossing.drop_track(track);
            }
        }
    }

    /// What a room asks for. `backlog`: bytes of control messages that wait for the slowest link.
    pub fn request(&mut self, now: Instant, room: &RoomName, request: ToMesh, backlog: usize) {
        if let Some(member) = self.members.get_mut(room)
            && std::mem::take(&mut member.missed)
        {
            // It speaks, so it has caught up.
            self.mesh.repeat(room);
        }
        match request {
            ToMesh::Delta(delta) => self.mesh.local_delta(room, delta),
            ToMesh::Relay { from, news } => self.mesh.relay_delta(room, &from, &news),
            ToMesh::Digest { to, digest } => self.mesh.send_digest(room, &to, digest),
            ToMesh::Answer { to, lacking } => lacking
                .into_iter()
                .for_each(|delta| self.mesh.answer_digest(&to, delta)),
            ToMesh::Carry { track, id, kind } => self.carry(room, track, id, kind),
            ToMesh::Drop { track } => {
                let member = self.members.get_mut(room);
                if let Some((id, _)) = member.and_then(|member| member.tracks.remove(&track)) {
                    self.crossing.drop_track(id);
                }
            }
            ToMesh::Want {
                track,
                origin,
                epoch,
                layers,
            } => self.mesh.want(now, room.clone(), track, origin, epoch, layers),
            ToMesh::Keyframe { track, layer } => self.mesh.request_keyframe(room.clone(), track, layer),
            ToMesh::Data(data) => self.send_data(room, data, backlog),
            ToMesh::Hold(pause) => self.mesh.send_hold(room, pause),
            ToMesh::Grades(grades) => {
                let grade = |(participant, score): (ParticipantSid, f32)| ConnectionGrade {
                    participant: participant.to_string(),
                    score,
                };
                self.mesh.send_grades(room, grades.into_iter().map(grade).collect());
            }
        }
    }

    fn send_data(&mut self, room: &RoomName, data: MeshData, backlog: usize) {
        let MeshData {
            packet,
            reliable,
            destinations,
        } = data;
        // Addressed to nobody is not addressed to everybody.
        if destinations.as_ref().is_some_and(Vec::is_empty) {
            return;
        }
        if reliable && backlog > LINK_BACKLOG_HIGH && self.members.contains_key(room) {
            // Said again with the next packet, should it last.
            self.out.push_back(Step::Room {
                room: room.clone(),
                message: FromMesh::Hold(LINK_PAUSE),
            });
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
            let absent = Command::SetAbsent {
                track: id,
                layers: absent,
            };
            self.out.push_back(Step::Media(absent));
        }
        for (node, forward) in waiting.forwards {
            let layers = self.crossing.forward(id, kind, &node, forward);
            self.out.push_back(tap(id, layers));
        }
    }

    /// A room did not take a [`Step::Room`]: it is told all again when it speaks.
    pub fn room_missed(&mut self, room: &RoomName) {
        if let Some(member) = self.members.get_mut(room) {
            member.missed = true;
        }
    }

    /// A link stands, both hellos exchanged. For a link that stood: it was replaced.
    pub fn link_up(&mut self, now: Instant, node: NodeId) {
        self.linking.heard(&node, true);
        self.mesh.link_up(now, node);
    }

    pub fn link_down(&mut self, now: Instant, node: &NodeId) {
        self.linking.heard(node, false);
        self.mesh.link_down(now, node);
    }

    /// Nothing has been heard on the link for a while, though it stands.
    pub fn link_suspect(&mut self, now: Instant, node: &NodeId) {
        self.linking.heard(node, false);
        self.mesh.link_suspect(now, node);
    }

    pub fn link_alive(&mut self, now: Instant, node: &NodeId) {
        self.linking.heard(node, true);
        self.mesh.link_alive(now, node);
    }

    /// Once a second per link: its round trip and the shares of packets lost on the way here and there before repair.
    pub fn link_measured(&mut self, node: &NodeId, rtt: Duration, loss: (f32, f32)) {
        self.mesh.link_measured(node, rtt, loss.0.max(loss.1));
    }

    /// The link to `node` does not carry this layer of the track that goes there under `number`, or carries it again.
    pub fn layer_shed(&mut self, now: Instant, node: &NodeId, number: u32, layer: Layer, shed: bool) {
        self.mesh.layer_shed(now, node, number, layer, shed);
    }

    /// A layer that the link to `node` had shed could cross again.
    pub fn keyframe_wanted(&mut self, node: &NodeId, number: u32, layer: Layer) {
        if let Some(track) = self.crossing.sent_as(node, number) {
            self.out
                .push_back(Step::Media(Command::RequestKeyframe { track, layer }));
        }
    }

    /// # Errors
    /// The message is not to be read: the peer's fault; the link may stay.
    pub fn control(&mut self, now: Instant, from: &NodeId, message: &[u8]) -> Result<(), WireError> {
        self.mesh.handle_message(now, from, message)
    }

    pub fn media(&mut self, from: &NodeId, packets: Vec<Received>) {
        for run in self.crossing.arrived(from, packets) {
            self.out.push_back(Step::Media(Command::RemoteMedia {
                track: run.track,
                encoding: run.encoding,
                layer: run.layer,
                packets: run.packets,
            }));
        }
    }

    pub fn sender_report(&mut self, from: &NodeId, report: SenderReport) {
        if let Some(track) = self.crossing.received_as(from, report.track) {
            self.out.push_back(Step::Media(Command::RemoteSenderReport {
                track,
                encoding: report.encoding,
                report: SenderReportInfo {
                    ntp: report.ntp,
                    rtp_timestamp: report.rtp_timestamp,
                },
            }));
        }
    }

    /// What media threads have tapped, for each link in its order.
    pub fn departing(&self, batch: &TapBatch) -> Vec<(NodeId, Vec<MediaPacket>)> {
        self.crossing.departing(batch)
    }

    /// A publisher's sender report of a track of this edge.
    pub fn report(&mut self, track: TrackId, encoding: Encoding, layers: LayerSet, report: SenderReportInfo) {
        for (node, number) in self.crossing.reported_to(track, layers) {
            let report = SenderReport {
                track: number,
                encoding,
                ntp: report.ntp,
                rtp_timestamp: report.rtp_timestamp,
            };
            self.out.push_back(Step::Report {
                to: node.clone(),
                report,
            });
        }
    }

    /// How many tracks come from that edge, and how many go to it.
    pub fn carried(&self, node: &NodeId) -> Carried {
        self.crossing.carried(node)
    }

    /// Every track that rooms of this edge carry, and the edge it comes from, if it comes over a link.
    pub fn tracks(&self) -> Vec<(&RoomName, &TrackSid, TrackId, Option<&NodeId>)> {
        let sources = self.crossing.sources();
        let mut all = Vec::new();
        for (room, member) in &self.members {
            for (track, (id, _)) in &member.tracks {
                all.push((room, track, *id, sources.get(id).copied()));
            }
        }
        all
    }

    /// The state machine below, for whoever watches.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.mesh.poll_timeout()
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.mesh.handle_timeout(now);
        self.linking.handle_timeout(now);
    }

    /// `now`: as of the input that was handled last.
    pub fn poll_step(&mut self, now: Instant) -> Option<Step> {
        loop {
            if let Some(step) = self.out.pop_front().or_else(|| self.linking.poll_step(now)) {
                return Some(step);
            }
            let Some(output) = self.mesh.poll_output() else {
                return self.born.pop_front();
            };
            self.carry_out(now, output);
        }
    }

    fn carry_out(&mut self, now: Instant, output: Output) {
        match output {
            Output::Send { to, message } => self.out.push_back(Step::Send { to, message }),
            Output::ConnectTo(node) => self.linking.need(now, node),
            Output::Disconnect(node) => self.linking.release(&node),
            Output::Room { room, input } => self.tell_room(room, input),
            Output::Receive { room, track, source } => self.receive(&room, track, source),
            Output::Absent { room, track, layers } => {
                // Otherwise `carry` asks.
                let held = self.members.get(&room).and_then(|member| member.tracks.get(&track));
                if let Some(&(track, _)) = held {
                    self.out.push_back(Step::Media(Command::SetAbsent { track, layers }));
                }
            }
            Output::Forward {
                room,
                track,
                to,
                number,
                layers,
                shed,
            } => self.forward(room, track, to, Forward { number, layers, shed }),
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
                self.out
                    .push_back(Step::Media(Command::RequestKeyframe { track: id, layer }));
            }
        }
    }

    fn forward(&mut self, room: RoomName, track: TrackSid, to: NodeId, forward: Forward) {
        let Some(member) = self.members.get_mut(&room) else {
            return;
        };
        if let Some(&(id, kind)) = member.tracks.get(&track) {
            let layers = self.crossing.forward(id, kind, &to, forward);
            self.out.push_back(tap(id, layers));
            return;
        }
        let waiting = member.waiting.entry(track.clone()).or_default();
        if forward.layers.is_empty() {
            waiting.forwards.remove(&to);
        } else {
            waiting.forwards.insert(to, forward);
            // A track that only passes through: nobody here has asked for it yet.
            let message = FromMesh::PassThrough { track };
            self.out.push_back(Step::Room { room, message });
        }
    }

    fn tell_room(&mut self, room: RoomName, input: RoomInput) {
        let Some(member) = self.members.get_mut(&room) else {
            return;
        };
        if let RoomInput::Life(life) = &input
            && !std::mem::replace(&mut member.born, true)
        {
            let birth = Birth {
                created_at_ms: life.created_at_ms(),
                sid: life.sid.clone(),
                incarnation: life.incarnation,
                others: self.mesh.members(&room).cloned().collect(),
            };
            self.born.push_back(Step::Born { room, birth });
            return;
        }
        let message = message(input);
        self.out.push_back(Step::Room { room, message });
    }
}

fn tap(track: TrackId, layers: LayerSet) -> Step {
    Step::Media(Command::Tap {
        track,
        consumer: TapConsumer::Mesh,
        layers,
    })
}

fn message(input: RoomInput) -> FromMesh {
    match input {
        RoomInput::Life(Life { sid, incarnation }) => FromMesh::Incarnation { sid, incarnation },
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
    }
}
