//! One client's protocol state: what it has been told, what it publishes and wants to receive. Lives as long as the
//! participant: a WebSocket that is lost and resumed meets the same `Session`.

mod actions;
mod inbound;
mod outbound;
mod publish;
mod subscribe;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use livekit_protocol as proto;
use meridian_access::token::Claims;
use meridian_room::{DisconnectReason, Identity, NewParticipant, Participant, ParticipantSid, Room, TrackSid};
use proto::signal_response::Message;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::connect::ConnectRequest;
use crate::convert;
use crate::frame::{self, Frame};

pub use actions::{Action, LeaveAction, Matched, PublicationKey, SubscriptionFailure, TrackChange, TrackSetting};

/// The protocol version answered: 18 would switch clients to negotiated data channel ids.
const PROTOCOL: i32 = 17;
/// Messages that may wait to be written before the session counts as overflowed.
const QUEUE_MAX: usize = 4_096;
/// Participants in one ParticipantUpdate.
const BATCH_MAX: usize = 128;
/// Departures remembered, to be repeated to a client that resumes.
const DEPARTED_MAX: usize = 512;
/// Client protocols up to these lack a message (see spec/client-protocol.md §2).
const LAST_WITHOUT_OK_RESPONSE: i32 = 14;
const LAST_WITHOUT_ROOM_MOVED: i32 = 15;

/// What the edge says about itself to every client.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Clients gate features on it: must look like a server version they know.
    pub version: String,
    pub region: String,
    pub node_id: String,
    pub ice_servers: Vec<proto::IceServer>,
    pub ping_interval_s: i32,
    pub ping_timeout_s: i32,
    /// Mime types that may be published.
    pub enabled_codecs: Vec<String>,
    /// Marks frames a server would inject into encrypted streams. Ours injects none, but clients want to know the mark.
    pub sif_trailer: Vec<u8>,
    /// For track sids; from the system's randomness, another one for each session.
    pub seed: [u8; 32],
}

impl SessionConfig {
    pub fn new(node_id: impl Into<String>, region: impl Into<String>, seed: [u8; 32]) -> Self {
        let codecs = [
            "audio/opus",
            "audio/red",
            "video/VP8",
            "video/VP9",
            "video/H264",
            "video/AV1",
        ];
        SessionConfig {
            version: "1.13.5".into(),
            region: region.into(),
            node_id: node_id.into(),
            ice_servers: Vec::new(),
            ping_interval_s: 5,
            ping_timeout_s: 15,
            enabled_codecs: codecs.map(str::to_owned).to_vec(),
            sif_trailer: b"meridian:server-injected".to_vec(),
            seed,
        }
    }
}

/// What waits to be written. Updates about participants merge while they wait.
enum Out {
    Message(Message),
    Update(Vec<proto::ParticipantInfo>),
}

/// How far the session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Neither `start` nor `resume` was called.
    New,
    Open,
    /// A Leave was sent or received.
    Left,
}

pub struct Session {
    config: SessionConfig,
    request: ConnectRequest,
    claims: Claims,
    identity: Identity,
    sid: Option<ParticipantSid>,
    phase: Phase,
    rng: StdRng,
    /// Answer in protojson: the client's last frame was text.
    text: bool,
    out: VecDeque<Out>,
    overflowed: bool,
    limiter: inbound::Limiter,
    /// The client's round trip to this edge as it measured it, milliseconds.
    rtt_ms: Option<i64>,

    /// The others the client knows, hidden ones excepted.
    shown: BTreeMap<Identity, ParticipantSid>,
    /// The sids in `shown`.
    known: HashSet<ParticipantSid>,
    departed: VecDeque<proto::ParticipantInfo>,
    room_told: Option<proto::Room>,

    publications: publish::Publications,
    subscriptions: subscribe::Subscriptions,
    /// Eighths of full level, as last told.
    speakers: HashMap<ParticipantSid, u8>,
    qualities: HashMap<ParticipantSid, proto::ConnectionQuality>,
    first_subscribed: HashSet<TrackSid>,
    /// Highest sequence number of the client's reliable data packets.
    data_sequence: u32,
}

impl Session {
    /// For verified claims whose `sub` is the identity.
    pub fn new(config: SessionConfig, request: ConnectRequest, claims: Claims) -> Session {
        let rng = StdRng::from_seed(config.seed);
        let auto_subscribe = request.auto_subscribe;
        // Only a session that goes on has a state to bring; nobody is to keep one for the length of a call.
        let request = ConnectRequest {
            sync_state: request.sync_state.filter(|_| request.reconnect),
            ..request
        };
        Session {
            identity: Identity::from(claims.sub.as_str()),
            config,
            request,
            claims,
            sid: None,
            phase: Phase::New,
            rng,
            text: false,
            out: VecDeque::new(),
            overflowed: false,
            limiter: inbound::Limiter::default(),
            rtt_ms: None,
            shown: BTreeMap::new(),
            known: HashSet::new(),
            departed: VecDeque::new(),
            room_told: None,
            publications: publish::Publications::default(),
            subscriptions: subscribe::Subscriptions::new(auto_subscribe),
            speakers: HashMap::new(),
            qualities: HashMap::new(),
            first_subscribed: HashSet::new(),
            data_sequence: 0,
        }
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }
    /// Set by [`Session::start`] and [`Session::resume`].
    pub fn sid(&self) -> Option<&ParticipantSid> {
        self.sid.as_ref()
    }
    pub fn request(&self) -> &ConnectRequest {
        &self.request
    }
    pub fn claims(&self) -> &Claims {
        &self.claims
    }
    pub fn rtt_ms(&self) -> Option<i64> {
        self.rtt_ms
    }
    /// The client reads too slowly for what the room says: close its socket, it may resume.
    pub fn is_overflowed(&self) -> bool {
        self.overflowed
    }
    /// How many frames wait.
    pub fn frames_waiting(&self) -> usize {
        self.out.len()
    }
    /// A Leave was exchanged: nothing more will be written.
    pub fn has_left(&self) -> bool {
        self.phase == Phase::Left
    }

    /// What to hand to [`Room::join`] before [`Session::start`].
    pub fn new_participant(&self, sid: ParticipantSid) -> NewParticipant {
        convert::new_participant(&self.claims, &self.request, sid, &self.config.region)
    }

    /// The first message of a new session. To be called once the participant is in the room. Tracks and the offer that
    /// came with the connect request are in the returned actions.
    pub fn start(&mut self, room: &Room, sid: &ParticipantSid) -> Vec<Action> {
        self.sid = Some(sid.clone());
        self.phase = Phase::Open;
        let others = self.show_everybody(room);
        let room_info = convert::room_info(room, &self.config.enabled_codecs);
        self.room_told = Some(room_info.clone());
        let server_info = self.server_info();
        self.push(Message::Join(proto::JoinResponse {
            room: Some(room_info),
            participant: room.participant(&self.identity).map(|p| convert::participant_info(p)),
            other_participants: others,
            server_version: server_info.version.clone(),
            ice_servers: self.config.ice_servers.clone(),
            subscriber_primary: false,
            alternative_url: String::new(),
            client_configuration: None,
            server_region: self.config.region.clone(),
            ping_timeout: self.config.ping_timeout_s,
            ping_interval: self.config.ping_interval_s,
            server_info: Some(server_info),
            sif_trailer: self.config.sif_trailer.clone(),
            enabled_publish_codecs: convert::codecs(&self.config.enabled_codecs),
            fast_publish: true,
        }));
        let mut actions = self.subscribe_to_everything(room);
        actions.extend(self.first_requests(room));
        actions
    }

    /// The first messages on a new socket of a session that goes on: what was queued for the old socket is dropped, and the
    /// client is told everything anew, itself included. `request` is the new socket's.
    pub fn resume(&mut self, room: &Room, sid: &ParticipantSid, request: ConnectRequest) -> Vec<Action> {
        self.request = request;
        self.sid = Some(sid.clone());
        self.phase = Phase::Open;
        self.text = false;
        self.overflowed = false;
        self.out.clear();
        self.qualities.clear();
        let mut update: Vec<_> = self.departed.drain(..).collect();
        update.retain(|gone| room.participant(&Identity::from(gone.identity.as_str())).is_none());
        update.extend(room.participant(&self.identity).map(|p| convert::participant_info(p)));
        update.extend(self.show_everybody(room));
        self.push(Message::Reconnect(proto::ReconnectResponse {
            ice_servers: self.config.ice_servers.clone(),
            client_configuration: None,
            server_info: Some(self.server_info()),
            last_message_seq: self.data_sequence,
        }));
        // One message: clients may take its absence of somebody as news.
        self.out.push_back(Out::Update(update));
        let room_info = convert::room_info(room, &self.config.enabled_codecs);
        self.room_told = Some(room_info.clone());
        self.push(Message::RoomUpdate(proto::RoomUpdate { room: Some(room_info) }));
        self.repeat_speakers();
        let mut actions = self.subscribe_to_everything(room);
        if let Some(state) = self.request.sync_state.take() {
            actions.extend(self.sync_state(room, state));
        }
        actions.extend(self.first_requests(room));
        actions
    }

    /// Tracks and the offer that came with the connect request.
    fn first_requests(&mut self, room: &Room) -> Vec<Action> {
        let mut actions = Vec::new();
        for request in std::mem::take(&mut self.request.add_tracks) {
            actions.extend(self.add_track(room, request));
        }
        if let Some(offer) = self.request.offer.take() {
            actions.push(Action::Offer {
                id: offer.id,
                sdp: offer.sdp,
            });
        }
        actions
    }

    /// The next frame to write; `None` when drained. Participant updates that wait together leave as one message, so a
    /// node that drains less often (250 ms in large rooms) sends fewer.
    pub fn poll_frame(&mut self) -> Option<Frame> {
        let message = match self.out.pop_front()? {
            Out::Message(message) => message,
            Out::Update(participants) => Message::Update(proto::ParticipantUpdate { participants }),
        };
        Some(frame::encode(message, self.text))
    }

    fn server_info(&self) -> proto::ServerInfo {
        proto::ServerInfo {
            edition: proto::server_info::Edition::Standard as i32,
            version: self.config.version.clone(),
            protocol: PROTOCOL,
            region: self.config.region.clone(),
            node_id: self.config.node_id.clone(),
            debug_info: String::new(),
            agent_protocol: 0,
        }
    }

    /// `false`: a packet with this or a later number was seen.
    pub(crate) fn advance_data_sequence(&mut self, sequence: u32) -> bool {
        let later = sequence > self.data_sequence;
        self.data_sequence = self.data_sequence.max(sequence);
        later
    }

    /// The client tells its received tracks apart by `mid_to_track_id`, so that tracks can share an msid stream and with it
    /// their clock. Firefox and the native SDKs want the track's own id there.
    pub fn finds_tracks_by_mid(&self) -> bool {
        let client = &self.request.client;
        client.sdk == proto::client_info::Sdk::Js as i32 && !client.browser.to_ascii_lowercase().contains("firefox")
    }

    fn protocol(&self) -> i32 {
        self.request.client.protocol
    }

    fn push(&mut self, message: Message) {
        if self.phase != Phase::Open {
            return;
        }
        if self.out.len() >= QUEUE_MAX {
            self.overflowed = true;
            return;
        }
        self.out.push_back(Out::Message(message));
    }

    /// Queues news about a participant, in place of older news that still wait.
    fn push_update(&mut self, info: proto::ParticipantInfo) {
        if self.phase != Phase::Open {
            return;
        }
        match self.out.back_mut() {
            Some(Out::Update(batch)) => {
                if let Some(waiting) = batch.iter_mut().find(|waiting| waiting.sid == info.sid) {
                    *waiting = info;
                    return;
                }
                if batch.len() < BATCH_MAX {
                    batch.push(info);
                    return;
                }
            }
            Some(Out::Message(_)) | None => {}
        }
        if self.out.len() >= QUEUE_MAX {
            self.overflowed = true;
            return;
        }
        self.out.push_back(Out::Update(vec![info]));
    }

    /// Everyone else the client may see, as messages; from now on it knows them.
    fn show_everybody(&mut self, room: &Room) -> Vec<proto::ParticipantInfo> {
        self.shown.clear();
        self.known.clear();
        let mut infos = Vec::new();
        for p in room.participants() {
            if is_visible(p) && p.identity != self.identity {
                self.show(p);
                infos.push(convert::participant_info(p));
            }
        }
        infos
    }

    fn show(&mut self, participant: &Participant) {
        let former = self.shown.insert(participant.identity.clone(), participant.sid.clone());
        if let Some(former) = former.filter(|former| *former != participant.sid) {
            self.forget_sid(&former);
        }
        self.known.insert(participant.sid.clone());
    }

    fn forget_sid(&mut self, sid: &ParticipantSid) {
        self.known.remove(sid);
        self.speakers.remove(sid);
        self.qualities.remove(sid);
    }

    fn hide(&mut self, participant: &Participant, reason: DisconnectReason) {
        if self.shown.get(&participant.identity) != Some(&participant.sid) {
            return;
        }
        self.shown.remove(&participant.identity);
        self.forget_sid(&participant.sid);
        let info = convert::departure_info(participant, reason);
        if self.departed.len() >= DEPARTED_MAX {
            self.departed.pop_front();
        }
        self.departed.push_back(proto::ParticipantInfo {
            metadata: String::new(),
            ..info.clone()
        });
        self.push_update(info);
    }
}

fn is_visible(participant: &Participant) -> bool {
    !participant.permission.hidden
}
