//! One client of a room on this edge: its protocol session, its SDP, its transport, its subscriptions.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use meridian_room::{DisconnectReason, Identity, ParticipantSid, TrackSid};
use meridian_sfu::TrackId;
use meridian_shard_api::{Demand, PeerId, PeerStats};
use meridian_signalling::Session;
use meridian_transport::IceCredentials;
use meridian_transport::sdp::{Negotiation, SubscriptionMedia};

use crate::io::{Note, Outbox, Output, SessionKey, SessionReport};
use crate::renewal::ExpiringToken;
use crate::simulate::ResumeFailure;

/// How long a client without a socket is waited for while its media still flows.
pub(crate) const RESUME_PATIENCE: Duration = Duration::from_secs(20);
/// Round trips kept per client: at one every 2 s, the last two minutes.
const RTTS_MAX: usize = 60;
/// How often a session that goes on is reported.
const REPORT_EVERY: Duration = Duration::from_secs(60);
/// How long a client that closed its transport is waited for: on another edge it would be back by then.
const RETURN_PATIENCE: Duration = Duration::from_secs(3);
/// How long a client that joined may take until its media transport stands.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);
/// A client asked to offer again that has not within this time is asked once more.
const OFFER_PATIENCE: Duration = Duration::from_secs(3);

/// RFC 6455 §7.4.1: a message that breaks our rules, not WebSocket's.
pub(crate) const CLOSE_POLICY: u16 = 1008;

/// The client's media transport on a shard.
pub(crate) struct Transport {
    pub(crate) peer: PeerId,
    pub(crate) local: IceCredentials,
    pub(crate) connected: bool,
}

pub(crate) struct Client {
    pub(crate) key: SessionKey,
    pub(crate) identity: Identity,
    pub(crate) sid: ParticipantSid,
    pub(crate) signalling: Session,
    pub(crate) negotiation: Negotiation,
    pub(crate) transport: Option<Transport>,
    /// What flows to the client now, by track.
    pub(crate) subscriptions: HashMap<TrackId, SubscriptionMedia>,
    /// Tracks asked for; some still wait for a media section.
    pub(crate) wanted: HashSet<TrackId>,
    /// What the client said about tracks it receives or will receive.
    pub(crate) demands: HashMap<TrackSid, Demand>,
    /// The client's socket now; `None` between sockets.
    pub(crate) socket: Option<SessionKey>,
    /// The client asked for this to happen when it resumes next.
    pub(crate) resume_failure: Option<ResumeFailure>,
    /// Reliable packets of the room before this serial are not for the client: it was not here yet.
    pub(crate) came_at: u64,
    /// First reliable packet that its data channel was not open for; `None`: it is open.
    pub(crate) unheard_from: Option<u64>,
    /// What it said, resuming, to have received last of each sender, while its data channel was not open.
    pub(crate) received: Option<HashMap<ParticipantSid, u32>>,
    /// The token it would come back with; `None`: it does not expire, or there is no other to be had.
    pub(crate) token: Option<ExpiringToken>,
    /// With which its socket is closed when a reason is given.
    pub(crate) close_code: u16,
    joined_at: Instant,
    /// When a report of this session was last due.
    reported_at: Instant,
    detached_at: Option<Instant>,
    /// When the client closed its transport, if it has no other since.
    closed_at: Option<Instant>,
    /// Something changed that only a new offer of the client can carry.
    pub(crate) needs_offer: bool,
    offer_asked_at: Option<Instant>,
    pub(crate) stats: Option<PeerStats>,
    address: IpAddr,
    /// Round trips measured by this edge, the last ones, milliseconds.
    rtts_ms: VecDeque<f32>,
}

/// The client had more to read than the session may hold back: its socket has been given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooSlow;

impl Client {
    pub(crate) fn new(
        key: SessionKey,
        identity: Identity,
        sid: ParticipantSid,
        address: IpAddr,
        signalling: Session,
        (now, serial): (Instant, u64),
    ) -> Client {
        Client {
            key,
            identity,
            sid,
            signalling,
            negotiation: Negotiation::new(key.0 ^ 0x6d65_7269_6469_616e),
            transport: None,
            subscriptions: HashMap::new(),
            wanted: HashSet::new(),
            demands: HashMap::new(),
            socket: Some(key),
            resume_failure: None,
            came_at: serial,
            unheard_from: Some(serial),
            received: None,
            token: None,
            close_code: CLOSE_POLICY,
            joined_at: now,
            reported_at: now,
            detached_at: None,
            closed_at: None,
            needs_offer: false,
            offer_asked_at: None,
            stats: None,
            address,
            rtts_ms: VecDeque::new(),
        }
    }

    pub(crate) fn peer(&self) -> Option<PeerId> {
        self.transport.as_ref().map(|transport| transport.peer)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.transport.as_ref().is_some_and(|transport| transport.connected)
    }

    pub(crate) fn connected(&mut self) {
        self.closed_at = None;
        if let Some(transport) = &mut self.transport {
            transport.connected = true;
        }
    }

    /// What the client said of a track before it got it, or everything, with this priority.
    pub(crate) fn first_demand(&self, track: &TrackSid, priority: u8) -> Demand {
        let everything = Demand {
            priority,
            ..Demand::default()
        };
        self.demands.get(track).copied().unwrap_or(everything)
    }

    /// Writes what is left to say and closes the socket, with the reason where there is one.
    pub(crate) fn close(&mut self, now: Instant, reason: &str, out: &mut Outbox) {
        let _ = self.flush(now, out);
        if let Some(socket) = self.socket.take() {
            let (code, reason) = (self.close_code, reason.to_owned());
            out.put(Output::Close { socket, code, reason });
        }
    }

    pub(crate) fn is_attached(&self) -> bool {
        self.socket.is_some()
    }

    /// The socket is gone; the client may come back and resume.
    pub(crate) fn detach(&mut self, now: Instant) {
        self.socket = None;
        self.detached_at = Some(now);
        // Whatever was asked of the old socket may never have been read.
        self.offer_asked_at = None;
    }

    pub(crate) fn attach(&mut self, socket: SessionKey) {
        self.socket = Some(socket);
        self.detached_at = None;
    }

    /// Something waits to be said, or to be asked for again.
    pub(crate) fn has_pending(&self) -> bool {
        self.is_attached() && (self.needs_offer || self.signalling.has_frames() || self.signalling.is_overflowed())
    }

    /// Hands what the session has to say to the socket.
    pub(crate) fn flush(&mut self, now: Instant, out: &mut Outbox) -> Result<(), TooSlow> {
        // Between sockets the session keeps what it has to say: a resume tells it anew.
        let Some(socket) = self.socket else {
            return Ok(());
        };
        if self.signalling.is_overflowed() {
            out.note(Note::SessionOverflow);
            out.put(Output::GiveUp { socket });
            self.detach(now);
            return Err(TooSlow);
        }
        while let Some(frame) = self.signalling.poll_frame() {
            out.put(Output::Frame { socket, frame });
        }
        Ok(())
    }

    /// Asks the client for a new offer if one is needed and none is on its way.
    pub(crate) fn ask_for_offer(&mut self, now: Instant) {
        let recently = |asked: Instant| now.saturating_duration_since(asked) < OFFER_PATIENCE;
        if !self.needs_offer
            || self.transport.is_none()
            || self.socket.is_none()
            || self.offer_asked_at.is_some_and(recently)
        {
            return;
        }
        let required = self.negotiation.sections_required();
        self.signalling.sections_required(required.audios, required.videos);
        self.offer_asked_at = Some(now);
    }

    pub(crate) fn offer_arrived(&mut self) {
        self.offer_asked_at = None;
        self.needs_offer = false;
    }

    /// Takes measurements in; whether it is time to report a session that goes on.
    pub(crate) fn observe(&mut self, stats: PeerStats, now: Instant) -> bool {
        if let Some(rtt_ms) = stats.rtt_ms {
            if self.rtts_ms.len() == RTTS_MAX {
                self.rtts_ms.pop_front();
            }
            self.rtts_ms.push_back(rtt_ms);
        }
        self.stats = Some(stats);
        let due = now.saturating_duration_since(self.reported_at) >= REPORT_EVERY;
        if due {
            self.reported_at = now;
        }
        due
    }

    /// What assignment learns from, when the session ends and while a long one lasts.
    pub(crate) fn session_report(&self, ended: bool, now: Instant) -> SessionReport {
        let mut rtts_ms: Vec<f32> = self.rtts_ms.iter().copied().collect();
        rtts_ms.sort_by(f32::total_cmp);
        SessionReport {
            participant: self.sid.clone(),
            address: self.address,
            rtt_ms: rtts_ms.get(rtts_ms.len() / 2).copied().unwrap_or(0.0),
            samples: rtts_ms.len() as u32,
            duration: now.saturating_duration_since(self.joined_at),
            ended,
        }
    }

    /// The client closed its transport in good order.
    pub(crate) fn transport_closed(&mut self, now: Instant) {
        self.transport = None;
        self.subscriptions.clear();
        self.closed_at = Some(now);
    }

    /// The data channel went with the transport: packets from this serial on wait for the next.
    pub(crate) fn channel_lost(&mut self, serial: u64) {
        self.unheard_from.get_or_insert(serial);
    }

    /// Why this client is to be given up, if it is.
    pub(crate) fn overdue(&self, now: Instant) -> Option<(DisconnectReason, &'static str)> {
        let longer = |since: Instant, patience: Duration| now.saturating_duration_since(since) > patience;
        if self.closed_at.is_some_and(|since| longer(since, RETURN_PATIENCE)) {
            return Some((DisconnectReason::ClientInitiated, "closed its transport"));
        }
        if self.detached_at.is_some_and(|since| longer(since, RESUME_PATIENCE)) {
            return Some((
                DisconnectReason::ConnectionTimeout,
                "did not come back after its socket closed",
            ));
        }
        if !self.is_connected() && self.detached_at.is_none() && longer(self.joined_at, CONNECT_PATIENCE) {
            return Some((DisconnectReason::ConnectionTimeout, "its media transport never stood"));
        }
        None
    }
}
