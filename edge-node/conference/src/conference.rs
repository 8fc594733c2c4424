//! What arrives (clients, media events, other edges) changes the room; then everybody concerned is told what changed
//! ([`Conference::settle`]).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meridian_room::{
    DisconnectReason, Identity, NodeId, ParticipantSid, ParticipantState, Room, RoomEvent, RoomInfo, RoomName, TrackSid,
};
use meridian_shard_api::{Command, Event, PeerCloseReason, PeerId};
use meridian_signalling::{Action, LeaveAction};
use meridian_transport::{Channel, CloseReason, Fingerprint};
use rand::rngs::StdRng;

use crate::hold::Hold;
use crate::io::{Birth, CloseKind, FromMesh, Input, MediaPlane, Note, Outbox, Output, SessionKey, ToMesh};
use crate::learn::Learning;
use crate::member::Member;
use crate::replay::Replay;
use crate::tracks::Tracks;

/// Speakers, patience and retries are looked at this often.
const TICK: Duration = Duration::from_millis(250);
/// How long a room without people on this edge stays, so that somebody who reloads the page finds it as it was.
const EMPTY_PATIENCE: Duration = Duration::from_secs(2);
/// Replaced stays remembered, so that a device that lost its place is told so when it returns.
const REPLACED_MAX: usize = 1_024;
/// Room size and the like are told this often at most.
pub(crate) const ROOM_UPDATE: Duration = Duration::from_secs(2);
pub(crate) const QUALITY: Duration = Duration::from_secs(5);

/// What a conference is told once, at its start.
pub struct Setup {
    pub name: RoomName,
    pub birth: Birth,
    /// This edge.
    pub node: NodeId,
    pub region: String,
    /// Of the certificate that this edge's media threads show.
    pub fingerprint: Fingerprint,
    /// The edges that can be heard now.
    pub audible: BTreeSet<NodeId>,
    pub plane: Arc<dyn MediaPlane>,
    /// Seeded by the system: sids and ICE passwords come from it.
    pub rng: StdRng,
}

/// One room on one edge. See the crate's contract.
pub struct Conference {
    pub(crate) name: RoomName,
    pub(crate) node: NodeId,
    pub(crate) region: String,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) plane: Arc<dyn MediaPlane>,
    pub(crate) rng: StdRng,
    /// As of the input being handled; the wall clock in milliseconds since 1970.
    pub(crate) now: Instant,
    pub(crate) wall_ms: i64,
    pub(crate) out: Outbox,
    /// Something was handled that nobody has been told of.
    unsettled: bool,
    pub(crate) learning: Option<Learning>,
    pub(crate) room: Room,
    /// In the order they came: a seed must repeat everything.
    pub(crate) members: BTreeMap<SessionKey, Member>,
    /// Which client a socket belongs to; a resumed client has a new socket.
    pub(crate) sockets: HashMap<SessionKey, SessionKey>,
    pub(crate) peers: HashMap<PeerId, SessionKey>,
    pub(crate) tracks: Tracks,
    /// Clients with something to say.
    pub(crate) dirty: HashSet<SessionKey>,
    /// Loudness of those who speak now.
    pub(crate) speaking: BTreeMap<ParticipantSid, f32>,
    pub(crate) speaking_changed: bool,
    /// Who is shown as speaking because it asked for that, and until when.
    pub(crate) simulated_speakers: HashMap<ParticipantSid, Instant>,
    /// Everybody was told to leave: nobody is waited for.
    closed: bool,
    /// This edge stops, and its people are on their way to others.
    edge_leaves: bool,
    /// Reliable data of the last seconds.
    pub(crate) replay: Replay,
    /// Whether those who send reliable data must wait.
    pub(crate) hold: Hold,
    /// What this edge records the room under.
    pub(crate) recording: Option<String>,
    pub(crate) last_room_update: Instant,
    pub(crate) last_quality: Instant,
    next_tick: Instant,
    empty_since: Option<Instant>,
    /// Stays whose identity has come anew, here or elsewhere, the last ones.
    pub(crate) replaced: VecDeque<ParticipantSid>,
    /// Identities that were lately told to go to another edge.
    pub(crate) told: VecDeque<(Instant, Identity)>,
    /// The room existed before the next join, here or elsewhere.
    pub(crate) created: bool,
    /// [`Output::Emptied`] was given.
    over: bool,
}

impl Conference {
    /// `wall_ms`: milliseconds since 1970, here and wherever it is asked for.
    pub fn new(now: Instant, wall_ms: u64, setup: Setup) -> Conference {
        let Birth {
            sid,
            incarnation,
            created_at_ms,
            others,
        } = setup.birth;
        let mut info = RoomInfo::new(sid, created_at_ms);
        info.incarnation = incarnation;
        Conference {
            room: Room::new(setup.name.clone(), setup.node.clone(), info, wall_ms),
            name: setup.name,
            node: setup.node,
            region: setup.region,
            fingerprint: setup.fingerprint,
            plane: setup.plane,
            rng: setup.rng,
            now,
            wall_ms: wall_ms as i64,
            out: Outbox::default(),
            unsettled: false,
            replaced: VecDeque::new(),
            told: VecDeque::new(),
            created: !others.is_empty(),
            learning: Learning::new(now, others, setup.audible),
            members: BTreeMap::new(),
            sockets: HashMap::new(),
            peers: HashMap::new(),
            tracks: Tracks::default(),
            dirty: HashSet::new(),
            speaking: BTreeMap::new(),
            speaking_changed: false,
            simulated_speakers: HashMap::new(),
            closed: false,
            edge_leaves: false,
            replay: Replay::default(),
            hold: Hold::default(),
            recording: None,
            last_room_update: now,
            last_quality: now,
            next_tick: now + TICK,
            empty_since: Some(now),
            over: false,
        }
    }

    pub fn handle(&mut self, now: Instant, wall_ms: u64, input: Input) {
        if self.over {
            return;
        }
        (self.now, self.wall_ms, self.unsettled) = (now, wall_ms as i64, true);
        if let Some(input) = self.while_learning(input) {
            self.apply(input);
        }
    }

    /// No-op when nothing is due.
    pub fn handle_timeout(&mut self, now: Instant, wall_ms: u64) {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return;
        }
        (self.now, self.wall_ms, self.unsettled) = (now, wall_ms as i64, true);
        if self.learning.is_some() {
            self.give_up_learning();
        } else {
            self.next_tick = now + TICK;
            self.tick(now);
        }
    }

    /// When to call [`Conference::handle_timeout`]; `None`: never again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = self.learning.as_ref().map_or(self.next_tick, |learning| learning.until);
        (!self.over).then_some(due)
    }

    /// What is to be done. After the last of them, everybody has been told everything.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.out.pop() {
            return Some(output);
        }
        if std::mem::take(&mut self.unsettled) {
            self.settle(self.now);
        }
        self.out.pop()
    }

    /// People on this edge.
    pub fn people(&self) -> usize {
        self.members.len()
    }

    /// Whether people wait at the door for what other edges know: [`Input::Audible`] may end that.
    pub fn is_learning(&self) -> bool {
        self.learning.is_some()
    }

    pub(crate) fn wall_s(&self) -> u64 {
        self.wall_ms as u64 / 1000
    }

    /// Nobody is here any more, and has not been for a while.
    fn has_emptied(&self) -> bool {
        let long = |since: Instant| self.closed || self.now.saturating_duration_since(since) > EMPTY_PATIENCE;
        self.empty_since.is_some_and(long)
    }

    pub(crate) fn apply(&mut self, input: Input) {
        match input {
            Input::Connect { socket, connect } => self.connect(socket, connect),
            Input::Frame { socket, frame } => self.frame(socket, frame),
            Input::Violation { socket, code, reason } => self.socket_violation(socket, code, &reason),
            Input::SocketClosed { socket } => self.socket_closed(socket),
            Input::Renewed { client, renewed } => self.renewed(client, renewed),
            Input::Media(event) => self.media(event),
            Input::Mesh(message) => self.mesh(message),
            Input::Audible(_) => {}
            Input::Record(id) => self.set_recording(id),
            Input::Close(kind) => self.close(kind),
            Input::MoveAway { people } => self.move_away(people),
            Input::Relocated { client, places } => self.relocated(client, places.as_deref()),
            Input::Stay => self.stay(),
        }
    }

    fn socket_closed(&mut self, socket: SessionKey) {
        let key = self.sockets.remove(&socket);
        if let Some(member) = key.and_then(|key| self.members.get_mut(&key))
            && member.socket == Some(socket)
        {
            member.detach(self.now);
        }
    }

    fn frame(&mut self, socket: SessionKey, frame: meridian_signalling::Frame) {
        let Some(&key) = self.sockets.get(&socket) else { return };
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        if member.socket != Some(socket) {
            return;
        }
        self.dirty.insert(key);
        match member.voice.handle(&self.room, self.wall_ms, frame) {
            Ok(actions) => self.act(key, actions),
            Err(violation) => self.violation(key, &violation.to_string()),
        }
    }

    fn socket_violation(&mut self, socket: SessionKey, code: u16, reason: &str) {
        let Some(&key) = self.sockets.get(&socket) else { return };
        if let Some(member) = self
            .members
            .get_mut(&key)
            .filter(|member| member.socket == Some(socket))
        {
            member.close_code = code;
            self.violation(key, reason);
        }
    }

    /// The client broke the protocol: its session ends, and it is told why.
    pub(crate) fn violation(&mut self, key: SessionKey, reason: &str) {
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        tracing::info!(room = %self.name, identity = %member.stay.identity, reason, "session ended: protocol violation");
        member
            .voice
            .leave(LeaveAction::Disconnect, DisconnectReason::StateMismatch);
        self.out.note(Note::Violation);
        self.remove(key, DisconnectReason::StateMismatch, reason);
    }

    pub(crate) fn act(&mut self, key: SessionKey, actions: Vec<Action>) {
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

    pub(crate) fn write(
        &mut self,
        key: SessionKey,
        change: impl FnOnce(&mut Room, &ParticipantSid) -> Result<(), meridian_room::RoomError>,
    ) {
        let Some(member) = self.members.get(&key) else { return };
        if let Err(error) = change(&mut self.room, &member.stay.sid) {
            tracing::debug!(room = %self.name, identity = %member.stay.identity, %error, "change refused");
        }
    }

    fn media(&mut self, event: Event) {
        match event {
            Event::PeerConnected { peer, profile } => {
                let Some(member) = self.peers.get(&peer).and_then(|key| self.members.get_mut(key)) else {
                    return;
                };
                member.media.connected();
                if self.hold.held {
                    self.out.media(Command::HoldData { peer, held: true });
                }
                tracing::debug!(room = %self.name, identity = %member.stay.identity, ?profile, "media transport stands");
                let _ = self.room.set_state(&member.stay.sid, ParticipantState::Active);
            }
            Event::PeerClosed { peer, reason } => self.peer_closed(peer, reason),
            Event::Data {
                peer, channel, payload, ..
            } => self.data(peer, channel, &payload),
            Event::DataQueue { peer, full } => self.data_queue(peer, full),
            Event::MediaStarted { track, codec, .. } => self.announce(track, Some(codec)),
            Event::KeyframeWanted { track, layer } => self.keyframe_wanted(track, layer),
            Event::AudioLevels(levels) => self.audio_levels(&levels),
            Event::PeerStats { peer, stats } => {
                let now = self.now;
                if let Some(member) = self.peers.get(&peer).and_then(|key| self.members.get_mut(key))
                    && member.stay.observe(stats, now)
                {
                    self.out.put(Output::Report(member.stay.session_report(false, now)));
                }
            }
            Event::StreamState { peer, track, paused } => self.stream_state(peer, track, paused),
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
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        if reason == PeerCloseReason::Transport(CloseReason::ClosedByPeer) {
            // The page is closing, or on its way to another edge: its Leave, or its next join, tells which.
            member.media.transport_closed(self.now);
            member.media.channel_lost(self.replay.next_serial());
            // Not `Active` any more: should it turn up on another edge, nobody is shown a departure.
            let _ = self.room.set_state(&member.stay.sid, ParticipantState::Joined);
            self.forget_peer(peer);
            return;
        }
        tracing::info!(room = %self.name, identity = %member.stay.identity, ?reason, "media transport closed");
        if member.is_attached() {
            member
                .voice
                .leave(LeaveAction::Reconnect, DisconnectReason::ConnectionTimeout);
        }
        self.remove(key, DisconnectReason::ConnectionTimeout, "media transport closed");
    }

    fn mesh(&mut self, message: FromMesh) {
        let now = self.now;
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
                        self.out.mesh(ToMesh::Relay { from, news });
                    }
                }
                Err(error) => tracing::warn!(room = %self.name, %from, %error, "delta refused"),
            },
            FromMesh::Digest { from, digest } => {
                let lacking = self.room.delta_since(&digest);
                if !lacking.is_empty() {
                    self.out.mesh(ToMesh::Answer { to: from, lacking });
                }
            }
            FromMesh::NodeSilent(node) => self.room.node_silent(now, &node),
            FromMesh::DigestWanted { to } => {
                let digest = self.room.digest();
                self.out.mesh(ToMesh::Digest { to, digest });
            }
            FromMesh::NodeHeard(node) => self.room.node_heard(now, &node),
            FromMesh::Wanted { track, layers } => self.wanted_by_mesh(&track, layers),
            FromMesh::Keyframe { track, layer } => {
                if let Some(track) = self.tracks.get(&track).filter(|track| track.is_local()) {
                    self.out.media(Command::RequestKeyframe { track: track.id, layer });
                }
            }
            FromMesh::PassThrough { track } => self.pass_through(&track),
            FromMesh::Data(data) => self.deliver(&data, None),
            FromMesh::Hold(pause) => self.hold_for(pause),
            FromMesh::Grades(grades) => self.tell_grades(&grades),
        }
    }

    /// Ends the session of a stay that the room has already withdrawn or is about to.
    pub(crate) fn say_goodbye(&mut self, sid: &ParticipantSid, action: LeaveAction, reason: DisconnectReason) {
        let Some(member) = self.members.values_mut().find(|member| member.stay.sid == *sid) else {
            return;
        };
        member.voice.leave(action, reason);
        let key = member.key;
        self.remove(key, reason, "");
    }

    fn close(&mut self, kind: CloseKind) {
        self.edge_leaves = matches!(kind, CloseKind::EdgeLeaves);
        let (action, reason) = match kind {
            CloseKind::EdgeLeaves => (LeaveAction::Reconnect, DisconnectReason::ServerShutdown),
            CloseKind::RoomClosed => (LeaveAction::Disconnect, DisconnectReason::RoomClosed),
        };
        let sids: Vec<_> = self.members.values().map(|member| member.stay.sid.clone()).collect();
        for sid in sids {
            self.say_goodbye(&sid, action, reason);
        }
        self.closed = true;
    }

    /// The client is out: everything it published and received ends.
    pub(crate) fn remove(&mut self, key: SessionKey, reason: DisconnectReason, close_reason: &str) {
        let Some(mut member) = self.members.remove(&key) else {
            return;
        };
        if let Some(socket) = member.socket {
            self.sockets.remove(&socket);
        }
        member.close(self.now, close_reason, &mut self.out);
        if let Some(peer) = member.media.peer() {
            self.forget_peer(peer);
        }
        for sid in self.tracks.published_by(key) {
            self.drop_track(&sid);
        }
        self.tracks.withdraw(key);
        self.speaking_changed |= self.speaking.remove(&member.stay.sid).is_some();
        self.out.put(Output::Report(member.stay.session_report(true, self.now)));
        // Whoever an edge that goes away sends elsewhere is not shown leaving: other edges keep the stay until it is outranked by the
        // next one, or until this edge has been silent for long.
        if !self.edge_leaves {
            // An error only says that the room withdrew this stay before (eviction).
            let _ = self.room.leave(&member.stay.sid, reason);
        }
        tracing::info!(room = %self.name, identity = %member.stay.identity, ?reason, "left");
    }

    pub(crate) fn forget_peer(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
        self.data_queue(peer, false);
        self.out.media(Command::RemovePeer { peer });
    }

    fn tick(&mut self, now: Instant) {
        if self.room.poll_timeout().is_some_and(|due| due <= now) {
            self.room.handle_timeout(now);
        }
        let overdue: Vec<_> = self
            .members
            .values()
            .filter_map(|member| member.overdue(now).map(|(reason, why)| (member.key, reason, why)))
            .collect();
        for (key, reason, why) in overdue {
            if let Some(member) = self.members.get_mut(&key)
                && member.is_attached()
            {
                member
                    .voice
                    .leave(LeaveAction::Reconnect, DisconnectReason::ConnectionTimeout);
            }
            self.remove(key, reason, why);
        }
        self.hand_over(now);
        self.tracks.end_lingering(now);
        self.renew_tokens();
        self.end_simulations(now);
        self.replay.expire(now);
        self.tend_hold();
        self.tell_periodically(now);
        let pending = self.members.values().filter(|member| member.has_pending());
        self.dirty.extend(pending.map(|member| member.key));
    }

    /// Tells everybody concerned what the messages handled since the last call have changed.
    fn settle(&mut self, now: Instant) {
        self.drain_room_events();
        while let Some(delta) = self.room.poll_delta() {
            self.out.mesh(ToMesh::Delta(delta));
        }
        self.tell_demand();
        let dirty: BTreeSet<SessionKey> = self.dirty.drain().collect();
        for key in dirty {
            let Some(member) = self.members.get_mut(&key) else {
                continue;
            };
            member.ask_for_offer(now);
            if member.flush(now, &mut self.out).is_err() {
                tracing::warn!(room = %self.name, identity = %member.stay.identity, "client too slow: socket closed");
            }
        }
        match (self.members.is_empty(), self.empty_since) {
            (true, None) => self.empty_since = Some(now),
            (false, Some(_)) => (self.empty_since, self.closed) = (None, false),
            _ => {}
        }
        if self.has_emptied() {
            self.end();
        }
    }

    /// Nobody is here: what came from other edges for them, or passed through, ends too.
    fn end(&mut self) {
        let carried: Vec<TrackSid> = self.tracks.iter().map(|track| track.sid.clone()).collect();
        for sid in carried {
            self.drop_track(&sid);
        }
        self.end_recording();
        self.over = true;
        self.out.put(Output::Emptied);
    }

    pub(crate) fn drain_room_events(&mut self) {
        while let Some(event) = self.room.poll_event() {
            self.before_telling(&event);
            let keys: Vec<SessionKey> = self.members.keys().copied().collect();
            for key in keys {
                let Some(member) = self.members.get_mut(&key) else {
                    continue;
                };
                let actions = member.voice.on_room_event(&self.room, &event);
                self.dirty.insert(key);
                self.act(key, actions);
            }
            self.after_telling(&event);
        }
    }

    fn before_telling(&mut self, event: &RoomEvent) {
        match event {
            RoomEvent::TrackUpdated { track, .. } => self.track_updated(track),
            RoomEvent::ParticipantReplaced { previous, .. } => {
                if self.replaced.len() == REPLACED_MAX {
                    self.replaced.pop_front();
                }
                self.replaced.push_back(previous.sid.clone());
            }
            _ => {}
        }
    }

    /// Tracks that are gone are dropped once every session has ended its subscription to them.
    fn after_telling(&mut self, event: &RoomEvent) {
        self.record_event(event);
        match event {
            RoomEvent::TrackUnpublished { track, .. } => self.drop_track(track),
            RoomEvent::ParticipantLeft { participant, .. }
            | RoomEvent::ParticipantReplaced {
                previous: participant, ..
            } => {
                // What somebody who moves to another edge still sends from the one before is not gone.
                let gone = participant
                    .tracks
                    .keys()
                    .filter(|track| self.room.track(track).is_none());
                let gone: Vec<TrackSid> = gone.cloned().collect();
                for track in gone {
                    self.drop_track(&track);
                }
                self.speaking_changed |= self.speaking.remove(&participant.sid).is_some();
            }
            RoomEvent::LocalEvicted { sid, .. } if self.has_arrived(sid) => {}
            RoomEvent::LocalEvicted { sid, .. } => {
                self.say_goodbye(sid, LeaveAction::Disconnect, DisconnectReason::DuplicateIdentity);
            }
            _ => {}
        }
    }
}
