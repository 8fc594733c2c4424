//! Clients at the door of a room: new ones join, those who lost their socket resume.

use std::net::IpAddr;

use meridian_access::token::Claims;
use meridian_room::{DisconnectReason, Identity, ParticipantSid};
use meridian_signalling::proto::IceServer;
use meridian_signalling::{ConnectRequest, LeaveAction, Session, SessionConfig};
use rand::Rng;

use crate::conference::Conference;
use crate::io::{Connect, Newcomer, Note, Output, SessionKey};
use crate::media::Media;
use crate::member::{CLOSE_POLICY, Member};
use crate::renewal::ExpiringToken;
use crate::simulate::ResumeFailure;
use crate::stay::Stay;
use crate::voice::Voice;

/// Tells our app which PoP a participant is on: the SDKs do not show `ParticipantInfo.region`.
const POP_ATTRIBUTE: &str = "meridian.pop";

impl Conference {
    pub(crate) fn connect(&mut self, socket: SessionKey, connect: Connect) {
        let Connect { claims, address, voice } = connect;
        let admitted = match voice {
            Newcomer::LiveKit { request, ice_servers } if request.reconnect => {
                self.resume(socket, *request, ice_servers, claims)
            }
            Newcomer::LiveKit { request, ice_servers } => {
                let token = ExpiringToken::new(&request.token, claims.exp);
                let session = Session::new(self.session_config(ice_servers), *request, claims.clone());
                self.join(socket, Box::new(session), claims, address, token)
            }
            Newcomer::Other(voice) => self.join(socket, voice, claims, address, None),
        };
        self.out.put(match admitted {
            true => Output::Admitted { socket },
            false => Output::Refused { socket },
        });
    }

    fn join(
        &mut self,
        socket: SessionKey,
        mut voice: Box<dyn Voice>,
        claims: Claims,
        address: IpAddr,
        token: Option<ExpiringToken>,
    ) -> bool {
        if !voice.may_join(&self.room) {
            self.say_last_words(socket, &mut *voice);
            return false;
        }
        if !std::mem::replace(&mut self.created, true) {
            self.configure(&claims);
        }
        if let Some(max) = claims.meridian.as_ref().and_then(|meridian| meridian.max_participants) {
            let _ = self.room.update_info(|info| info.max_participants = max);
        }
        let mut newcomer = voice.introduce(&claims, ParticipantSid::generate(&mut self.rng), &self.region);
        if claims.meridian.is_some() {
            newcomer
                .attributes
                .insert(POP_ATTRIBUTE.to_owned(), self.region.clone());
        }
        let joined = match self.room.join(self.now, self.wall_ms, newcomer) {
            Ok(joined) => joined,
            Err(error) => {
                tracing::info!(room = %self.name, identity = claims.sub, %error, "join refused");
                voice.leave(LeaveAction::Disconnect, DisconnectReason::JoinFailure);
                self.say_last_words(socket, &mut *voice);
                return false;
            }
        };
        if let Some(evicted) = &joined.evicted {
            self.say_goodbye(
                &evicted.sid,
                LeaveAction::Disconnect,
                DisconnectReason::DuplicateIdentity,
            );
        }
        // The others hear of the newcomer first; its own first message is the JoinResponse.
        self.drain_room_events();
        let actions = voice.start(&self.room, &joined.sid);
        tracing::info!(room = %self.name, identity = claims.sub, sid = %joined.sid, "joined");
        let stay = Stay::new(joined.sid, claims, address, voice.belongs(), self.now);
        let media = Media::new(socket, self.replay.next_serial());
        let mut member = Member::new(socket, stay, media, voice);
        member.token = token;
        self.members.insert(socket, member);
        self.sockets.insert(socket, socket);
        self.dirty.insert(socket);
        self.act(socket, actions);
        true
    }

    fn resume(
        &mut self,
        socket: SessionKey,
        request: ConnectRequest,
        ice_servers: Vec<IceServer>,
        claims: Claims,
    ) -> bool {
        let sid = request.resume_sid.clone();
        let is_it =
            |stay: &Stay| stay.identity.as_str() == claims.sub && sid.as_ref().is_none_or(|sid| stay.sid == *sid);
        let found = self
            .members
            .values_mut()
            .find(|member| is_it(&member.stay) && member.voice.can_resume());
        let Some(member) = found else {
            // Another device has taken the place of a stay that is over: were it told to join anew, it would throw that one out.
            let held = self.room.participant(&Identity::from(claims.sub.as_str()));
            let (action, reason) = match (sid, held) {
                (Some(sid), Some(held)) if held.sid != sid && self.replaced.contains(&sid) => {
                    (LeaveAction::Disconnect, DisconnectReason::DuplicateIdentity)
                }
                _ => (LeaveAction::Reconnect, DisconnectReason::StateMismatch),
            };
            let mut signalling = Session::new(self.session_config(ice_servers), request, claims);
            signalling.leave(action, reason);
            self.say_last_words(socket, &mut signalling);
            return false;
        };
        let key = member.key;
        let failure = member.resume_failure.take();
        if failure == Some(ResumeFailure::BeforeMessages) {
            // The client keeps what socket it has, and is owed another attempt.
            return false;
        }
        let former = member.socket;
        member.attach(socket);
        member.token = ExpiringToken::new(&request.token, claims.exp);
        let unsaid = member.voice.frames_waiting();
        self.out.note(Note::Resumed { unsaid });
        let actions = member.voice.resume(&self.room, &member.stay.sid.clone(), request);
        tracing::info!(room = %self.name, identity = %member.stay.identity, "resumed");
        if let Some(former) = former {
            self.close_socket(former);
        }
        self.sockets.insert(socket, key);
        self.dirty.insert(key);
        // What the old socket was given last may never have been read: which layers to send is told again.
        for sid in self.tracks.published_by(key) {
            if let Some(track) = self.tracks.get_mut(&sid) {
                track.told = None;
            }
        }
        self.act(key, actions);
        if failure == Some(ResumeFailure::AfterMessages)
            && let Some(member) = self.members.get_mut(&key)
        {
            let _ = member.flush(self.now, &mut self.out);
            member.detach(self.now);
            self.sockets.remove(&socket);
            return false;
        }
        true
    }

    /// The join that creates a room may bring the room's settings (`roomConfig`, LiveKit's RoomConfiguration in protojson).
    fn configure(&mut self, claims: &Claims) {
        let Some(config) = &claims.room_config else { return };
        let field = |camel: &str, snake: &str| config.get(camel).or_else(|| config.get(snake));
        let number = |camel, snake| {
            field(camel, snake)?
                .as_u64()
                .and_then(|number| u32::try_from(number).ok())
        };
        let applied = self.room.update_info(|info| {
            if let Some(seconds) = number("emptyTimeout", "empty_timeout") {
                info.empty_timeout_s = seconds;
            }
            if let Some(seconds) = number("departureTimeout", "departure_timeout") {
                info.departure_timeout_s = seconds;
            }
            if let Some(people) = number("maxParticipants", "max_participants") {
                info.max_participants = people;
            }
            if let Some(metadata) = field("metadata", "metadata").and_then(|text| text.as_str()) {
                info.metadata = metadata.to_owned();
            }
        });
        if let Err(error) = applied {
            tracing::warn!(room = %self.name, identity = claims.sub, %error, "roomConfig not applied");
        }
    }

    fn session_config(&mut self, ice_servers: Vec<IceServer>) -> SessionConfig {
        let mut config = SessionConfig::new(self.node.as_str(), self.region.clone(), self.rng.random());
        config.ice_servers = ice_servers;
        config
    }

    /// Another socket has taken this one's place.
    fn close_socket(&mut self, socket: SessionKey) {
        self.sockets.remove(&socket);
        self.out.put(Output::Close {
            socket,
            code: CLOSE_POLICY,
            reason: String::new(),
        });
    }

    /// What a refused session has to say.
    fn say_last_words(&mut self, socket: SessionKey, voice: &mut dyn Voice) {
        while let Some(frame) = voice.poll_frame() {
            self.out.put(Output::Frame { socket, frame });
        }
    }
}
