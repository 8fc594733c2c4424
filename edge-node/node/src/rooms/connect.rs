//! Clients at the door of a room: new ones join, those who lost their socket resume.

use std::time::Instant;

use meridian_access::token::Claims;
use meridian_room::{DisconnectReason, ParticipantSid};
use meridian_signalling::proto::IceServer;
use meridian_signalling::{LeaveAction, Session, SessionConfig};
use rand::Rng;
use tokio::sync::oneshot;

use super::client::Client;
use super::counters::FrameLoss;
use super::renewal::ExpiringToken;
use super::simulate::ResumeFailure;
use super::task::RoomTask;
use super::{Connect, Outgoing, SessionKey, ToSocket};
use crate::edge::unix_now_ms;

/// Tells our app which PoP a participant is on: the SDKs do not show `ParticipantInfo.region`.
const POP_ATTRIBUTE: &str = "meridian.pop";

impl RoomTask {
    pub(super) fn connect(&mut self, connect: Connect, joined: oneshot::Sender<Result<SessionKey, Connect>>) {
        let socket = self.edge.rooms.next_session();
        let done = if connect.request.reconnect {
            self.resume(socket, connect)
        } else {
            self.join(socket, connect)
        };
        if done.is_some() {
            // Unanswered means refused: the socket's task then closes after what was queued.
            let _ = joined.send(Ok(socket));
        }
    }

    fn join(&mut self, socket: SessionKey, connect: Connect) -> Option<()> {
        let Connect {
            request,
            claims,
            address,
            socket: to_socket,
        } = connect;
        let now = Instant::now();
        if let Some(max) = claims.meridian.as_ref().and_then(|meridian| meridian.max_participants) {
            let _ = self.room.update_info(|info| info.max_participants = max);
        }
        let through_join_api = claims.meridian.is_some();
        let token = ExpiringToken::new(&request.token, claims.exp);
        let mut signalling = Session::new(self.session_config(&claims), request, claims);
        let mut newcomer = signalling.new_participant(ParticipantSid::generate(&mut rand::rng()));
        if through_join_api {
            newcomer
                .attributes
                .insert(POP_ATTRIBUTE.to_owned(), self.edge.config.node.region.clone());
        }
        let joined = match self.room.join(now, unix_now_ms() as i64, newcomer) {
            Ok(joined) => joined,
            Err(error) => {
                tracing::info!(room = %self.name, identity = %signalling.identity(), %error, "join refused");
                signalling.leave(LeaveAction::Disconnect, DisconnectReason::JoinFailure);
                say_last_words(&mut signalling, &to_socket);
                return None;
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
        let identity = signalling.identity().clone();
        let actions = signalling.start(&self.room, &joined.sid);
        tracing::info!(room = %self.name, %identity, sid = %joined.sid, "joined");
        let came = (now, self.replay.next_serial());
        let mut client = Client::new(socket, identity, joined.sid, address, signalling, to_socket, came);
        client.token = token;
        self.clients.insert(socket, client);
        self.sockets.insert(socket, socket);
        self.dirty.insert(socket);
        self.act(socket, actions);
        Some(())
    }

    fn resume(&mut self, socket: SessionKey, connect: Connect) -> Option<()> {
        let Connect {
            request,
            claims,
            socket: to_socket,
            ..
        } = connect;
        let sid = request.resume_sid.clone();
        let found = self
            .clients
            .values_mut()
            .find(|client| sid.as_ref().is_none_or(|sid| client.sid == *sid) && client.identity.as_str() == claims.sub);
        let Some(client) = found else {
            let mut signalling = Session::new(self.session_config(&claims), request, claims);
            signalling.leave(LeaveAction::Reconnect, DisconnectReason::StateMismatch);
            say_last_words(&mut signalling, &to_socket);
            return None;
        };
        let key = client.key;
        let failure = client.resume_failure.take();
        if failure == Some(ResumeFailure::BeforeMessages) {
            // The client keeps what socket it has, and is owed another attempt.
            return None;
        }
        if let Some(former) = client.socket {
            self.sockets.remove(&former);
        }
        let counters = &self.edge.rooms.counters;
        counters.resumed();
        client.attach(socket, to_socket);
        client.token = ExpiringToken::new(&request.token, claims.exp);
        let unsaid = client.signalling.frames_waiting();
        counters.frames_lost(FrameLoss::Resumed, unsaid);
        let actions = client.signalling.resume(&self.room, &client.sid.clone(), request);
        tracing::info!(room = %self.name, identity = %client.identity, "resumed");
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
            && let Some(client) = self.clients.get_mut(&key)
        {
            let _ = client.flush(Instant::now(), &self.edge.rooms.counters);
            client.detach(Instant::now());
            self.sockets.remove(&socket);
            return None;
        }
        Some(())
    }

    fn session_config(&self, claims: &Claims) -> SessionConfig {
        let region = self.edge.config.node.region.clone();
        let relays = claims.meridian.as_ref().and_then(|meridian| meridian.relays.as_deref());
        let servers = self.edge.turn.ice_servers(&claims.sub, &region, relays).into_iter();
        let mut config = SessionConfig::new(self.edge.node.as_str(), region, rand::rng().random());
        config.ice_servers = servers
            .map(|server| IceServer {
                urls: server.urls,
                username: server.username,
                credential: server.credential,
            })
            .collect();
        config
    }
}

/// Sends what a refused session has to say; the socket closes when `socket` is dropped.
fn say_last_words(signalling: &mut Session, socket: &ToSocket) {
    while let Some(frame) = signalling.poll_frame() {
        let _ = socket.frames.try_send(Outgoing::Frame(frame));
    }
}
