//! A room, its sessions, and clients that speak the real wire messages.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::time::Instant;

use livekit_protocol as proto;
use meridian_access::token::Claims;
use meridian_room::*;
use meridian_signalling::*;
use prost::Message;
pub use proto::signal_request::Message as Ask;
pub use proto::signal_response::Message as Say;
use rand::SeedableRng;
use rand::rngs::SmallRng;

pub const NOW_MS: i64 = 1_700_000_000_000;

pub struct Edge {
    pub room: Room,
    pub node: NodeId,
    pub now: Instant,
    pub clients: Vec<Client>,
    rng: SmallRng,
}

pub struct Client {
    pub session: Session,
    pub sid: ParticipantSid,
    pub actions: Vec<Action>,
    pub heard: Vec<Say>,
}

pub fn claims(identity: &str) -> Claims {
    let mut claims = Claims::join(identity, identity.to_uppercase(), "r");
    claims.metadata = "from the token".into();
    claims.attributes.insert("role".into(), "guest".into());
    claims
}

pub fn request() -> ConnectRequest {
    ConnectRequest {
        token: "t".into(),
        auto_subscribe: true,
        client: proto::ClientInfo {
            protocol: 17,
            client_protocol: 2,
            capabilities: vec![1],
            ..Default::default()
        },
        ..Default::default()
    }
}

pub fn camera(cid: &str) -> proto::AddTrackRequest {
    let layer = |quality, width, height| proto::VideoLayer {
        quality,
        width,
        height,
        bitrate: 1000,
        ..Default::default()
    };
    proto::AddTrackRequest {
        cid: cid.into(),
        name: "cam".into(),
        r#type: proto::TrackType::Video as i32,
        source: proto::TrackSource::Camera as i32,
        width: 1280,
        height: 720,
        layers: vec![layer(2, 1280, 720), layer(0, 320, 180), layer(1, 640, 360)],
        simulcast_codecs: vec![proto::SimulcastCodec {
            codec: "vp8".into(),
            cid: cid.into(),
            ..Default::default()
        }],
        encryption: proto::encryption::Type::Gcm as i32,
        packet_trailer_features: vec![proto::PacketTrailerFeature::PtfFrameId as i32],
        stream: "camera".into(),
        ..Default::default()
    }
}

pub fn microphone(cid: &str) -> proto::AddTrackRequest {
    proto::AddTrackRequest {
        cid: cid.into(),
        r#type: proto::TrackType::Audio as i32,
        source: proto::TrackSource::Microphone as i32,
        audio_features: vec![proto::AudioTrackFeature::TfEchoCancellation as i32],
        ..Default::default()
    }
}

impl Edge {
    pub fn new(node: &str) -> Edge {
        let mut info = RoomInfo::new(RoomSid::from("RM_test"), NOW_MS);
        info.metadata = "about".into();
        Edge {
            room: Room::new(RoomName::from("r"), NodeId::from(node), info, 1),
            node: NodeId::from(node),
            now: Instant::now(),
            clients: Vec::new(),
            rng: SmallRng::seed_from_u64(node.len() as u64 + u64::from(node.as_bytes()[0])),
        }
    }

    pub fn connect(&mut self, identity: &str) -> usize {
        self.connect_with(claims(identity), request())
    }

    pub fn connect_with(&mut self, claims: Claims, request: ConnectRequest) -> usize {
        let config = SessionConfig::new(self.node.as_str(), format!("region of {}", self.node), [7; 32]);
        let mut session = Session::new(config, request, claims);
        let sid = ParticipantSid::generate(&mut self.rng);
        self.room
            .join(self.now, NOW_MS, session.new_participant(sid.clone()))
            .expect("room for all");
        let actions = session.start(&self.room, &sid);
        self.clients.push(Client {
            session,
            sid,
            actions,
            heard: Vec::new(),
        });
        self.pump();
        self.clients.len() - 1
    }

    /// Room events to every session, frames to every client.
    pub fn pump(&mut self) {
        while let Some(event) = self.room.poll_event() {
            for client in &mut self.clients {
                client.actions.extend(client.session.on_room_event(&self.room, &event));
            }
        }
        for client in &mut self.clients {
            while let Some(frame) = client.session.poll_frame() {
                let Frame::Binary(bytes) = frame else {
                    panic!("binary was asked for")
                };
                let response = proto::SignalResponse::decode(bytes).expect("our own message");
                client.heard.push(response.message.expect("never empty"));
            }
        }
    }

    pub fn ask(&mut self, client: usize, ask: Ask) -> Vec<Action> {
        let frame = Frame::Binary(proto::SignalRequest { message: Some(ask) }.encode_to_vec().into());
        let actions = self.clients[client]
            .session
            .handle(&self.room, NOW_MS, frame)
            .expect("no violation");
        self.carry_out(client, &actions);
        self.pump();
        actions
    }

    /// What the node does with the actions that concern the room.
    fn carry_out(&mut self, client: usize, actions: &[Action]) {
        let sid = self.clients[client].sid.clone();
        for action in actions.iter().cloned() {
            match action {
                Action::UpdateSelf(update) => self.room.update_participant(&sid, update).expect("checked"),
                Action::Mute { track, muted } => {
                    let _ = self.room.update_track(&sid, &track, |t| t.muted = muted);
                }
                Action::UpdateTrack { track, change } => {
                    self.room
                        .update_track(&sid, &track, |t| change.apply(t))
                        .expect("checked");
                }
                Action::SubscriptionPermission(acl) => self.room.set_acl(&sid, acl).expect("checked"),
                Action::Leave { reason } => {
                    let _ = self.room.leave(&sid, reason);
                }
                _ => {}
            }
        }
        self.clients[client].actions.extend(actions.iter().cloned());
    }

    /// Announce, match, publish: what happens when a client's media starts.
    pub fn publish(&mut self, client: usize, request: proto::AddTrackRequest, mid: &str) -> TrackSid {
        let cid = request.cid.clone();
        let video = request.r#type == proto::TrackType::Video as i32;
        let codec = request.simulcast_codecs.first().map_or("opus", |c| c.codec.as_str());
        let mime = meridian_signalling::convert::mime_of(codec, video);
        let kind = if video { TrackKind::Video } else { TrackKind::Audio };
        self.ask(client, Ask::AddTrack(request));
        let key = PublicationKey {
            cid: &cid,
            stream_id: "s",
            mid,
            mime: &mime,
            kind,
            rids: &[],
        };
        let matched = self.clients[client].session.match_publication(key).expect("announced");
        let sid = self.clients[client].sid.clone();
        let track = matched.track.sid.clone();
        self.room.publish_track(&sid, matched.track).expect("new");
        self.pump();
        track
    }

    /// Everything the other edge lacks, as the mesh would bring it.
    pub fn sync_from(&mut self, other: &Edge) {
        for delta in other.room.delta_since(&self.room.digest()) {
            let delta = RoomDelta::decode(delta.encode_to_vec().as_slice()).expect("our own message");
            self.room.apply(self.now, &other.node, delta).expect("same room");
        }
        self.pump();
    }

    pub fn heard(&mut self, client: usize) -> Vec<Say> {
        std::mem::take(&mut self.clients[client].heard)
    }

    pub fn acted(&mut self, client: usize) -> Vec<Action> {
        std::mem::take(&mut self.clients[client].actions)
    }
}

pub fn updates(heard: &[Say]) -> Vec<&proto::ParticipantInfo> {
    let batches = heard.iter().filter_map(|say| match say {
        Say::Update(update) => Some(&update.participants),
        _ => None,
    });
    batches.flatten().collect()
}
