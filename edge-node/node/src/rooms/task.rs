//! The room's task: takes what arrives (clients, media events, other edges) one at a time, changes the room, and then tells
//! everybody concerned what changed ([`RoomTask::settle`]).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meridian_room::{
    DisconnectReason, NodeId, ParticipantSid, ParticipantState, Room, RoomEvent, RoomInfo, RoomName, TrackSid,
};
use meridian_shard::{Command, Event, PeerCloseReason, PeerId};
use meridian_signalling::{Action, LeaveAction};
use meridian_transport::{Channel, CloseReason};
use tokio::sync::mpsc;

use super::client::Client;
use super::replay::Replay;
use super::tracks::Tracks;
use super::{CloseKind, FromMesh, RoomHandle, SessionKey, ToRoom};
use crate::edge::{EdgeState, unix_now_ms};

/// Speakers, patience and retries are looked at this often.
const TICK: Duration = Duration::from_millis(250);
/// Messages handled before clients are told; more are told together.
const BATCH: usize = 64;
/// How long a first join waits for what other edges know of the room.
const LEARN_PATIENCE: Duration = Duration::from_millis(500);
/// Joins that wait meanwhile.
const EARLY_MAX: usize = 512;
/// How long a room without people on this edge stays, so that somebody who reloads the page finds it as it was.
const EMPTY_PATIENCE: Duration = Duration::from_secs(2);
/// Room size and the like are told this often at most.
pub(super) const ROOM_UPDATE: Duration = Duration::from_secs(2);
pub(super) const QUALITY: Duration = Duration::from_secs(5);

pub(super) struct RoomTask {
    pub(super) edge: Arc<EdgeState>,
    pub(super) name: RoomName,
    pub(super) handle: RoomHandle,
    pub(super) room: Room,
    pub(super) clients: HashMap<SessionKey, Client>,
    /// Which client a socket belongs to; a resumed client has a new socket.
    pub(super) sockets: HashMap<SessionKey, SessionKey>,
    pub(super) peers: HashMap<PeerId, SessionKey>,
    pub(super) tracks: Tracks,
    /// Clients with something to say.
    pub(super) dirty: HashSet<SessionKey>,
    /// Loudness of those who speak now.
    pub(super) speaking: HashMap<ParticipantSid, f32>,
    pub(super) speaking_changed: bool,
    /// Who is shown as speaking because it asked for that, and until when.
    pub(super) simulated_speakers: HashMap<ParticipantSid, Instant>,
    /// This edge stops, and its people are on their way to others.
    edge_leaves: bool,
    /// Reliable data of the last seconds.
    pub(super) replay: Replay,
    pub(super) last_room_update: Instant,
    pub(super) last_quality: Instant,
    empty_since: Option<Instant>,
}

pub(super) async fn run(
    edge: Arc<EdgeState>,
    name: RoomName,
    handle: RoomHandle,
    mut queue: mpsc::Receiver<ToRoom>,
    home_region: Option<String>,
) {
    let birth = edge.mesh.enter(&name, home_region, &handle).await;
    let others = birth.others.clone();
    let mut task = RoomTask::new(edge, name, handle, birth);
    if !others.is_empty() {
        task.learn(&others, &mut queue).await;
    }
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !task.is_over() {
        tokio::select! {
            message = queue.recv() => match message {
                Some(message) => task.handle(message),
                None => break,
            },
            _ = tick.tick() => task.tick(Instant::now()),
        }
        for _ in 0..BATCH {
            let Ok(message) = queue.try_recv() else { break };
            task.handle(message);
        }
        task.settle(Instant::now());
    }
    queue.close();
    while let Some(message) = queue.recv().await {
        if let ToRoom::Connect { connect, joined } = message {
            let _ = joined.send(Err(connect));
        }
    }
    task.edge.mesh.leave(&task.name);
    task.edge.rooms.retire(&task.name);
}

impl RoomTask {
    fn new(edge: Arc<EdgeState>, name: RoomName, handle: RoomHandle, birth: crate::mesh::Birth) -> RoomTask {
        let now_ms = unix_now_ms();
        let mut info = RoomInfo::new(birth.sid, birth.created_at_ms);
        info.incarnation = birth.incarnation;
        let now = Instant::now();
        RoomTask {
            room: Room::new(name.clone(), edge.node.clone(), info, now_ms),
            edge,
            name,
            handle,
            clients: HashMap::new(),
            sockets: HashMap::new(),
            peers: HashMap::new(),
            tracks: Tracks::default(),
            dirty: HashSet::new(),
            speaking: HashMap::new(),
            speaking_changed: false,
            simulated_speakers: HashMap::new(),
            edge_leaves: false,
            replay: Replay::default(),
            last_room_update: now,
            last_quality: now,
            empty_since: Some(now),
        }
    }

    /// Takes in what the room's other edges know before anybody joins here: an identity that is there already must be outranked,
    /// and the first JoinResponse should show everybody. Does not wait long, and not for an edge that has fallen silent: people
    /// come here because it did. A room can live with less.
    async fn learn(&mut self, others: &BTreeSet<NodeId>, queue: &mut mpsc::Receiver<ToRoom>) {
        let mut early = Vec::new();
        let mut heard = BTreeSet::new();
        let mut audible = self.edge.mesh.audible();
        let learning = async {
            while (others - &heard)
                .iter()
                .any(|node| audible.borrow_and_update().contains(node))
            {
                let message = tokio::select! {
                    message = queue.recv() => message,
                    _ = audible.changed() => continue,
                };
                let Some(message) = message else { return };
                if let ToRoom::Mesh(FromMesh::Delta { from, .. }) = &message {
                    heard.insert(from.clone());
                }
                match message {
                    ToRoom::Mesh(_) => self.handle(message),
                    _ if early.len() < EARLY_MAX => early.push(message),
                    _ => {}
                }
            }
        };
        if tokio::time::timeout(LEARN_PATIENCE, learning).await.is_err() {
            tracing::warn!(room = %self.name, "the room's other edges have not told what they know: going on without");
        }
        for message in early {
            self.handle(message);
        }
        self.settle(Instant::now());
    }

    /// Nobody is here any more, and has not been for a while.
    fn is_over(&self) -> bool {
        self.empty_since.is_some_and(|since| since.elapsed() > EMPTY_PATIENCE)
    }

    fn handle(&mut self, message: ToRoom) {
        match message {
            ToRoom::Connect { connect, joined } => self.connect(connect, joined),
            ToRoom::Frame { session, frame, permit } => {
                self.frame(session, frame);
                drop(permit);
            }
            ToRoom::SocketClosed { session } => {
                let key = self.sockets.remove(&session);
                if let Some(client) = key.and_then(|key| self.clients.get_mut(&key))
                    && client.socket == Some(session)
                {
                    client.detach(Instant::now());
                }
            }
            ToRoom::Renewed { client, renewed } => self.renewed(unix_now_ms() / 1000, client, renewed),
            ToRoom::Media(event) => self.media(event),
            ToRoom::Mesh(message) => self.mesh(message),
            ToRoom::Close(kind) => self.close(kind),
        }
    }

    fn frame(&mut self, socket: SessionKey, frame: meridian_signalling::Frame) {
        let Some(&key) = self.sockets.get(&socket) else { return };
        let Some(client) = self.clients.get_mut(&key) else {
            return;
        };
        if client.socket != Some(socket) {
            return;
        }
        self.dirty.insert(key);
        match client.signalling.handle(&self.room, unix_now_ms() as i64, frame) {
            Ok(actions) => self.act(key, actions),
            Err(violation) => self.violation(key, &violation.to_string()),
        }
    }

    /// The client broke the protocol: its session ends, and it is told why.
    pub(super) fn violation(&mut self, key: SessionKey, reason: &str) {
        let Some(client) = self.clients.get_mut(&key) else {
            return;
        };
        tracing::info!(room = %self.name, identity = %client.identity, reason, "session ended: protocol violation");
        client
            .signalling
            .leave(LeaveAction::Disconnect, DisconnectReason::StateMismatch);
        self.edge.rooms.counters.violated();
        self.remove(key, DisconnectReason::StateMismatch, reason);
    }

    pub(super) fn act(&mut self, key: SessionKey, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Offer { id, sdp } => {
                    if let Err(error) = self.offer(key, id, &sdp) {
                        self.violation(key, &error.to_string());
                    }
                }
                Action::AddTrack { track, kind } => self.prepare(key, &track, kind),
                Action::Mute { track, muted } => self.mute(key, &track, muted),
                Action::Subscribe { track } => self.subscribe(key, &track),
                Action::Unsubscribe { track } => self.unsubscribe(key, &track),
                Action::TrackSetting { track, setting } => self.set_demand(key, &track, setting),
                Action::UpdateSelf(update) => self.write(key, |room, sid| room.update_participant(sid, update)),
                Action::UpdateTrack { track, change } => {
                    self.write(key, |room, sid| {
                        room.update_track(sid, &track, |facts| change.apply(facts))
                    });
                }
                Action::SubscriptionPermission(acl) => self.write(key, |room, sid| room.set_acl(sid, acl)),
                Action::Received(received) => self.replay_after(key, received),
                Action::Leave { reason } => self.remove(key, reason, ""),
                Action::Simulate(scenario) => self.simulate(key, scenario),
            }
        }
    }

    pub(super) fn write(
        &mut self,
        key: SessionKey,
        change: impl FnOnce(&mut Room, &ParticipantSid) -> Result<(), meridian_room::RoomError>,
    ) {
        let Some(client) = self.clients.get(&key) else { return };
        if let Err(error) = change(&mut self.room, &client.sid) {
            tracing::debug!(room = %self.name, identity = %client.identity, %error, "change refused");
        }
    }

    fn media(&mut self, event: Event) {
        match event {
            Event::PeerConnected { peer, profile } => {
                let Some(client) = self.peers.get(&peer).and_then(|key| self.clients.get_mut(key)) else {
                    return;
                };
                client.connected();
                tracing::debug!(room = %self.name, identity = %client.identity, ?profile, "media transport stands");
                let _ = self.room.set_state(&client.sid, ParticipantState::Active);
            }
            Event::PeerClosed { peer, reason } => self.peer_closed(peer, reason),
            Event::Data {
                peer, channel, payload, ..
            } => self.data(peer, channel, &payload),
            Event::MediaStarted { track, codec, .. } => self.announce(track, Some(codec)),
            Event::KeyframeWanted { track, layer } => self.keyframe_wanted(track, layer),
            Event::AudioLevels(levels) => self.audio_levels(&levels),
            Event::PeerStats { peer, stats } => {
                let now = Instant::now();
                if let Some(client) = self.peers.get(&peer).and_then(|key| self.clients.get_mut(key))
                    && client.observe(stats, now)
                {
                    self.edge.report_session(client.session_report(&self.name, false, now));
                }
            }
            Event::SubscriptionStarted { track, .. } => self.subscription_started(track),
            Event::ChannelOpen {
                peer,
                channel: Channel::Reliable,
            } => self.channel_open(peer),
            Event::ChannelOpen { .. } | Event::SenderReport { .. } => {}
        }
    }

    fn peer_closed(&mut self, peer: PeerId, reason: PeerCloseReason) {
        let Some(&key) = self.peers.get(&peer) else { return };
        let Some(client) = self.clients.get_mut(&key) else {
            return;
        };
        if reason == PeerCloseReason::Transport(CloseReason::ClosedByPeer) {
            // The page is closing, or on its way to another edge: its Leave, or its next join, tells which.
            client.transport_closed(Instant::now());
            client.channel_lost(self.replay.next_serial());
            // Not `Active` any more: should it turn up on another edge, nobody is shown a departure.
            let _ = self.room.set_state(&client.sid, ParticipantState::Joined);
            self.forget_peer(peer);
            return;
        }
        tracing::info!(room = %self.name, identity = %client.identity, ?reason, "media transport closed");
        if client.is_attached() {
            client
                .signalling
                .leave(LeaveAction::Reconnect, DisconnectReason::ConnectionTimeout);
        }
        self.remove(key, DisconnectReason::ConnectionTimeout, "media transport closed");
    }

    fn mesh(&mut self, message: FromMesh) {
        let now = Instant::now();
        match message {
            FromMesh::Incarnation { sid, incarnation } => {
                if incarnation > self.room.info().incarnation {
                    let _ = self
                        .room
                        .update_info(|info| (info.sid, info.incarnation) = (sid, incarnation));
                }
            }
            FromMesh::Delta { from, delta } => match self.room.apply(now, &from, delta) {
                Ok(applied) => {
                    if let Some(news) = applied.news {
                        self.edge.mesh.relay(&self.name, &from, news);
                    }
                }
                Err(error) => tracing::warn!(room = %self.name, %from, %error, "delta refused"),
            },
            FromMesh::Digest { from, digest } => {
                let lacking = self.room.delta_since(&digest);
                self.edge.mesh.answer(&from, lacking);
            }
            FromMesh::NodeSilent(node) => self.room.node_silent(now, &node),
            FromMesh::DigestWanted { to } => self.edge.mesh.digest(&self.name, to, self.room.digest()),
            FromMesh::NodeHeard(node) => self.room.node_heard(now, &node),
            FromMesh::Wanted { track, layers } => self.wanted_by_mesh(&track, layers),
            FromMesh::Keyframe { track, layer } => {
                if let Some(track) = self.tracks.get(&track).filter(|track| track.is_local()) {
                    self.edge
                        .shards
                        .send(Command::RequestKeyframe { track: track.id, layer });
                }
            }
            FromMesh::PassThrough { track } => self.pass_through(&track),
            FromMesh::Data(data) => self.deliver(&data, None),
            FromMesh::Grades(grades) => self.tell_grades(&grades),
        }
    }

    /// Ends the session of a stay that the room has already withdrawn or is about to.
    pub(super) fn say_goodbye(&mut self, sid: &ParticipantSid, action: LeaveAction, reason: DisconnectReason) {
        let Some(client) = self.clients.values_mut().find(|client| client.sid == *sid) else {
            return;
        };
        if !client.signalling.has_left() {
            client.signalling.leave(action, reason);
        }
        let key = client.key;
        self.remove(key, reason, "");
    }

    fn close(&mut self, kind: CloseKind) {
        self.edge_leaves = matches!(kind, CloseKind::EdgeLeaves);
        let (action, reason) = match kind {
            CloseKind::EdgeLeaves => (LeaveAction::Reconnect, DisconnectReason::ServerShutdown),
            CloseKind::RoomClosed => (LeaveAction::Disconnect, DisconnectReason::RoomClosed),
        };
        let sids: Vec<_> = self.clients.values().map(|client| client.sid.clone()).collect();
        for sid in sids {
            self.say_goodbye(&sid, action, reason);
        }
        self.empty_since = Instant::now().checked_sub(2 * EMPTY_PATIENCE);
    }

    /// The client is out: everything it published and received ends.
    pub(super) fn remove(&mut self, key: SessionKey, reason: DisconnectReason, close_reason: &str) {
        let Some(mut client) = self.clients.remove(&key) else {
            return;
        };
        client.close(close_reason, &self.edge.rooms.counters);
        if let Some(socket) = client.socket {
            self.sockets.remove(&socket);
        }
        if let Some(peer) = client.peer() {
            self.forget_peer(peer);
        }
        for sid in self.tracks.published_by(key) {
            self.drop_track(&sid);
        }
        for track in self.tracks.iter_mut() {
            track.demands.remove(&key);
        }
        self.speaking_changed |= self.speaking.remove(&client.sid).is_some();
        self.edge
            .report_session(client.session_report(&self.name, true, Instant::now()));
        // Whoever an edge that goes away sends elsewhere is not shown leaving: other edges keep the stay until it is outranked by the
        // next one, or until this edge has been silent for long.
        if !self.edge_leaves {
            // An error only says that the room withdrew this stay before (eviction).
            let _ = self.room.leave(&client.sid, reason);
        }
        tracing::info!(room = %self.name, identity = %client.identity, ?reason, "left");
    }

    pub(super) fn forget_peer(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
        self.edge.router.forget_peer(peer);
        self.edge.shards.send(Command::RemovePeer { peer });
    }

    fn tick(&mut self, now: Instant) {
        if self.room.poll_timeout().is_some_and(|due| due <= now) {
            self.room.handle_timeout(now);
        }
        let overdue: Vec<_> = self
            .clients
            .values()
            .filter_map(|client| client.overdue(now).map(|(reason, why)| (client.key, reason, why)))
            .collect();
        for (key, reason, why) in overdue {
            if let Some(client) = self.clients.get_mut(&key)
                && client.is_attached()
            {
                client
                    .signalling
                    .leave(LeaveAction::Reconnect, DisconnectReason::ConnectionTimeout);
            }
            self.remove(key, reason, why);
        }
        self.tracks.iter_mut().for_each(|track| track.end_lingering(now));
        self.renew_tokens(unix_now_ms() / 1000);
        self.end_simulations(now);
        self.replay.expire(now);
        self.tell_periodically(now);
        let pending = self.clients.values().filter(|client| client.has_pending());
        self.dirty.extend(pending.map(|client| client.key));
    }

    /// Tells everybody concerned what the messages handled since the last call have changed.
    fn settle(&mut self, now: Instant) {
        self.drain_room_events();
        while let Some(delta) = self.room.poll_delta() {
            self.edge.mesh.delta(&self.name, delta);
        }
        self.tell_demand();
        let dirty: BTreeSet<SessionKey> = self.dirty.drain().collect();
        for key in dirty {
            let Some(client) = self.clients.get_mut(&key) else {
                continue;
            };
            client.ask_for_offer(now);
            if client.flush(now, &self.edge.rooms.counters).is_err() {
                tracing::warn!(room = %self.name, identity = %client.identity, "client too slow: socket closed");
            }
        }
        self.handle.set_people(self.clients.len());
        match (self.clients.is_empty(), self.empty_since) {
            (true, None) => self.empty_since = Some(now),
            (false, Some(_)) => self.empty_since = None,
            _ => {}
        }
    }

    pub(super) fn drain_room_events(&mut self) {
        while let Some(event) = self.room.poll_event() {
            self.before_telling(&event);
            let keys: Vec<SessionKey> = self.clients.keys().copied().collect();
            for key in keys {
                let Some(client) = self.clients.get_mut(&key) else {
                    continue;
                };
                let actions = client.signalling.on_room_event(&self.room, &event);
                self.dirty.insert(key);
                self.act(key, actions);
            }
            self.after_telling(&event);
        }
    }

    fn before_telling(&mut self, event: &RoomEvent) {
        if let RoomEvent::TrackUpdated { track, .. } = event {
            self.track_updated(track);
        }
    }

    /// Tracks that are gone are dropped once every session has ended its subscription to them.
    fn after_telling(&mut self, event: &RoomEvent) {
        match event {
            RoomEvent::TrackUnpublished { track, .. } => self.drop_track(track),
            RoomEvent::ParticipantLeft { participant, .. }
            | RoomEvent::ParticipantReplaced {
                previous: participant, ..
            } => {
                let gone: Vec<TrackSid> = participant.tracks.keys().cloned().collect();
                for track in gone {
                    self.drop_track(&track);
                }
                self.speaking_changed |= self.speaking.remove(&participant.sid).is_some();
            }
            RoomEvent::LocalEvicted { sid, .. } => {
                self.say_goodbye(sid, LeaveAction::Disconnect, DisconnectReason::DuplicateIdentity);
            }
            _ => {}
        }
    }
}
