//! One conference in virtual time: what clients hear is decoded, everything else it has done is kept in order.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use meridian_access::token::Claims;
use meridian_conference::{
    Birth, Conference, Connect, FromMesh, HttpReply, Input, MediaPlane, Newcomer, Note, Output, Recorded, Renewed,
    SessionKey, SessionReport, Setup, ToMesh, Voice,
};
use meridian_room::{
    Identity, NewParticipant, NodeId, ParticipantSid, Room, RoomInfo, RoomName, RoomSid, Track, TrackKind, TrackSid,
    TrackSource,
};
use meridian_sfu::TrackId;
use meridian_shard_api::{Command, Event, PeerId};
use meridian_signalling::proto::{self, SignalRequest, SignalResponse};
use meridian_signalling::{ConnectRequest, Frame};
use meridian_transport::{Fingerprint, SrtpProfile};
use prost::Message;
pub use proto::signal_request::Message as Ask;
pub use proto::signal_response::Message as Say;
use rand::SeedableRng;
use rand::rngs::StdRng;

/// What Chromium offers when it joins.
pub const OFFER: &str = include_str!("../../../transport/tests/fixtures/chromium-156-join.sdp");
pub const WALL_MS: u64 = 1_700_000_000_000;

/// Numbers in order, on one shard.
#[derive(Default)]
struct Plane {
    next: AtomicU64,
}

impl MediaPlane for Plane {
    fn allocate_peer(&self) -> PeerId {
        self.allocate_peer_on(0)
    }

    fn allocate_peer_on(&self, shard: u16) -> PeerId {
        let index = self.next.fetch_add(1, Ordering::Relaxed) as u32;
        PeerId { shard, index }
    }

    fn candidates(&self, _: PeerId) -> Vec<SocketAddr> {
        vec![([192, 0, 2, 1], 7881).into()]
    }

    fn allocate_track(&self) -> TrackId {
        TrackId(self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// A token that the conference wants replaced.
pub struct Renewal {
    pub client: SessionKey,
    pub token: String,
    pub at: Duration,
}

pub struct Desk {
    pub conference: Conference,
    pub now: Instant,
    start: Instant,
    next_socket: u64,
    heard: BTreeMap<SessionKey, Vec<Say>>,
    /// What members that came by HTTP were answered.
    pub replies: BTreeMap<SessionKey, Vec<HttpReply>>,
    /// Sockets that the conference closed, with the reason.
    pub closed: BTreeMap<SessionKey, String>,
    pub given_up: BTreeSet<SessionKey>,
    pub admitted: BTreeSet<SessionKey>,
    pub refused: BTreeSet<SessionKey>,
    pub commands: Vec<Command>,
    pub mesh: Vec<ToMesh>,
    pub renewals: Vec<Renewal>,
    /// Clients for whom another edge is looked for.
    pub relocations: Vec<SessionKey>,
    pub reports: Vec<SessionReport>,
    pub notes: Vec<Note>,
    pub recorded: Vec<Recorded>,
    pub emptied: Option<Duration>,
}

impl Desk {
    pub fn open(seed: u64) -> Desk {
        Desk::with_others(seed, &[], &[])
    }

    /// A room that has people on `others`, of which those in `audible` can be heard.
    pub fn with_others(seed: u64, others: &[&str], audible: &[&str]) -> Desk {
        let nodes = |names: &[&str]| names.iter().map(|name| NodeId::new(*name)).collect::<BTreeSet<_>>();
        let now = Instant::now();
        let setup = Setup {
            name: RoomName::from("room"),
            birth: Birth {
                sid: RoomSid::new("RM_1"),
                incarnation: WALL_MS,
                created_at_ms: WALL_MS as i64,
                others: nodes(others),
            },
            node: NodeId::new("fra-1"),
            region: "fra".to_owned(),
            fingerprint: Fingerprint([7; 32]),
            audible: nodes(audible),
            plane: Arc::new(Plane::default()),
            rng: StdRng::seed_from_u64(seed),
        };
        Desk {
            conference: Conference::new(now, WALL_MS, setup),
            now,
            start: now,
            next_socket: 1,
            heard: BTreeMap::new(),
            replies: BTreeMap::new(),
            closed: BTreeMap::new(),
            given_up: BTreeSet::new(),
            admitted: BTreeSet::new(),
            refused: BTreeSet::new(),
            commands: Vec::new(),
            mesh: Vec::new(),
            renewals: Vec::new(),
            relocations: Vec::new(),
            reports: Vec::new(),
            notes: Vec::new(),
            recorded: Vec::new(),
            emptied: None,
        }
    }

    /// Since the conference began.
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    pub fn wall_ms(&self) -> u64 {
        WALL_MS + self.elapsed().as_millis() as u64
    }

    /// Without looking at what comes of it.
    pub fn hand(&mut self, input: Input) {
        self.conference.handle(self.now, self.wall_ms(), input);
    }

    pub fn handle(&mut self, input: Input) {
        self.hand(input);
        self.drain();
    }

    /// Lets so much time pass.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(due) = self.conference.poll_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.conference.handle_timeout(self.now, self.wall_ms());
            self.drain();
        }
        self.now = until;
    }

    pub fn drain(&mut self) {
        while let Some(output) = self.conference.poll_output() {
            assert!(self.emptied.is_none(), "{output:?} after Emptied");
            match output {
                Output::Admitted { socket } => {
                    self.admitted.insert(socket);
                }
                Output::Refused { socket } => {
                    self.refused.insert(socket);
                }
                Output::Frame { socket, frame } => {
                    assert!(
                        !self.closed.contains_key(&socket),
                        "a frame for a socket that was closed"
                    );
                    let bytes = match frame {
                        Frame::Binary(bytes) => bytes,
                        frame => {
                            let reply = HttpReply::from_frame(&frame).expect("text was not asked for");
                            self.replies.entry(socket).or_default().push(reply);
                            continue;
                        }
                    };
                    let said = SignalResponse::decode(bytes).unwrap().message.unwrap();
                    self.heard.entry(socket).or_default().push(said);
                }
                Output::Close { socket, reason, .. } => {
                    self.closed.insert(socket, reason);
                }
                Output::GiveUp { socket } => {
                    self.given_up.insert(socket);
                }
                Output::Media(command) => self.commands.push(command),
                Output::Mesh(message) => self.mesh.push(message),
                Output::RenewToken { client, token, .. } => self.renewals.push(Renewal {
                    client,
                    token,
                    at: self.elapsed(),
                }),
                Output::Relocate { client, .. } => self.relocations.push(client),
                Output::Report(report) => self.reports.push(report),
                Output::Note(note) => self.notes.push(note),
                Output::Recorded(recorded) => self.recorded.push(recorded),
                Output::Emptied => self.emptied = Some(self.elapsed()),
            }
        }
    }

    pub fn connect(&mut self, claims: Claims, request: ConnectRequest) -> SessionKey {
        let socket = SessionKey(self.next_socket);
        self.next_socket += 1;
        let voice = Newcomer::LiveKit {
            request: Box::new(request),
            ice_servers: Vec::new(),
        };
        self.connect_as(socket, claims, voice);
        socket
    }

    fn connect_as(&mut self, socket: SessionKey, claims: Claims, voice: Newcomer) {
        let connect = Connect {
            claims,
            address: [192, 0, 2, 9].into(),
            voice,
        };
        self.handle(Input::Connect { socket, connect });
    }

    /// Somebody who does not speak LiveKit's protocol.
    pub fn connect_with(&mut self, claims: Claims, voice: Box<dyn Voice>) -> SessionKey {
        let socket = SessionKey(self.next_socket);
        self.next_socket += 1;
        self.connect_as(socket, claims, Newcomer::Other(voice));
        socket
    }

    /// Joins and is let in.
    pub fn join(&mut self, identity: &str) -> SessionKey {
        let socket = self.connect(claims(identity), request());
        assert!(self.admitted.contains(&socket), "{identity} was let in");
        socket
    }

    /// Joins with the offer that came with the request, and connects its transport.
    pub fn join_with_media(&mut self, identity: &str) -> (SessionKey, PeerId) {
        self.join_with_media_as(claims(identity))
    }

    pub fn join_with_media_as(&mut self, claims: Claims) -> (SessionKey, PeerId) {
        let mut request = request();
        request.offer = Some(proto::SessionDescription {
            r#type: "offer".into(),
            sdp: OFFER.into(),
            id: 1,
            ..Default::default()
        });
        let socket = self.connect(claims, request);
        let peer = self.commands.iter().rev().find_map(|command| match command {
            Command::AddPeer { peer, .. } => Some(*peer),
            _ => None,
        });
        let peer = peer.expect("the offer was answered with a transport");
        let profile = SrtpProfile::AeadAes256Gcm;
        self.handle(Input::Media(Event::PeerConnected { peer, profile }));
        (socket, peer)
    }

    pub fn resume(&mut self, identity: &str, sid: &str) -> SessionKey {
        let mut request = request();
        request.reconnect = true;
        request.resume_sid = Some(ParticipantSid::from(sid));
        self.connect(claims(identity), request)
    }

    pub fn frame(&self, ask: Ask) -> Frame {
        Frame::Binary(SignalRequest { message: Some(ask) }.encode_to_vec().into())
    }

    pub fn say(&mut self, socket: SessionKey, ask: Ask) {
        let frame = self.frame(ask);
        self.handle(Input::Frame { socket, frame });
    }

    pub fn renewed(&mut self, client: SessionKey, renewed: Renewed) {
        self.handle(Input::Renewed { client, renewed });
    }

    /// What the client has been told since it was last asked.
    pub fn hear(&mut self, socket: SessionKey) -> Vec<Say> {
        self.heard.remove(&socket).unwrap_or_default()
    }

    /// The sid in the JoinResponse just heard.
    pub fn sid(&mut self, socket: SessionKey) -> String {
        let said = self.hear(socket);
        let Some(Say::Join(join)) = said.into_iter().next() else {
            panic!("no JoinResponse first")
        };
        join.participant.unwrap().sid
    }

    /// Takes in what another edge knows.
    pub fn learn(&mut self, other: &mut OtherEdge) {
        while let Some(delta) = other.room.poll_delta() {
            let from = other.node.clone();
            self.handle(Input::Mesh(FromMesh::Delta { from, delta }));
        }
    }
}

/// How the reason of a Leave that was heard reads, if one was.
pub fn farewell(said: &[Say]) -> Option<(proto::leave_request::Action, proto::DisconnectReason)> {
    said.iter().find_map(|say| match say {
        Say::Leave(leave) => Some((leave.action(), leave.reason())),
        _ => None,
    })
}

/// The last state in which somebody was shown.
pub fn shown(said: &[Say], identity: &str) -> Option<proto::participant_info::State> {
    let updates = said.iter().filter_map(|say| match say {
        Say::Update(update) => Some(&update.participants),
        _ => None,
    });
    updates.flatten().rfind(|p| p.identity == identity).map(|p| p.state())
}

pub fn claims(identity: &str) -> Claims {
    Claims {
        exp: None,
        ..Claims::join(identity, identity, "room")
    }
}

pub fn request() -> ConnectRequest {
    ConnectRequest {
        token: "token".to_owned(),
        auto_subscribe: true,
        client: proto::ClientInfo {
            protocol: 17,
            ..Default::default()
        },
        ..Default::default()
    }
}

pub fn metadata(text: &str) -> Ask {
    Ask::UpdateMetadata(proto::UpdateParticipantMetadata {
        metadata: text.to_owned(),
        ..Default::default()
    })
}

/// Another edge with people in the same room.
pub struct OtherEdge {
    pub room: Room,
    pub node: NodeId,
    rng: StdRng,
}

impl OtherEdge {
    pub fn new(name: &str) -> OtherEdge {
        let node = NodeId::new(name);
        let info = RoomInfo::new(RoomSid::new("RM_1"), WALL_MS as i64);
        OtherEdge {
            room: Room::new(RoomName::from("room"), node.clone(), info, WALL_MS),
            node,
            rng: StdRng::seed_from_u64(99),
        }
    }

    pub fn join(&mut self, now: Instant, identity: &str) -> ParticipantSid {
        let sid = ParticipantSid::generate(&mut self.rng);
        let mut new = NewParticipant::new(Identity::from(identity), sid.clone());
        new.permission.can_publish = true;
        self.room.join(now, WALL_MS as i64, new).unwrap();
        sid
    }

    pub fn publish(&mut self, sid: &ParticipantSid, track: &str) {
        let mut facts = Track::new(TrackSid::new(track), TrackKind::Video, TrackSource::Camera);
        facts.mime = "video/VP8".to_owned();
        self.room.publish_track(sid, facts).unwrap();
    }
}
