//! One member of a room on this edge: its stay, how media reaches it, how it speaks, and the socket it speaks over.

use std::time::{Duration, Instant};

use meridian_room::DisconnectReason;

use crate::io::{Note, Outbox, Output, SessionKey};
use crate::media::Media;
use crate::moving::Moving;
use crate::renewal::ExpiringToken;
use crate::simulate::ResumeFailure;
use crate::stay::Stay;
use crate::voice::Voice;

/// A member asked to offer again that has not within this time is asked once more.
const OFFER_PATIENCE: Duration = Duration::from_secs(3);

/// RFC 6455 §7.4.1: a message that breaks our rules, not WebSocket's.
pub(crate) const CLOSE_POLICY: u16 = 1008;

pub(crate) struct Member {
    pub(crate) key: SessionKey,
    pub(crate) stay: Stay,
    pub(crate) media: Media,
    pub(crate) voice: Box<dyn Voice>,
    /// The member's socket now; `None` between sockets.
    pub(crate) socket: Option<SessionKey>,
    /// The member asked for this to happen when it resumes next.
    pub(crate) resume_failure: Option<ResumeFailure>,
    /// The token it would come back with; `None`: it does not expire, or there is no other to be had.
    pub(crate) token: Option<ExpiringToken>,
    /// With which its socket is closed when a reason is given.
    pub(crate) close_code: u16,
    /// It is on its way to another edge, or about to be.
    pub(crate) moving: Option<Moving>,
    detached_at: Option<Instant>,
    offer_asked_at: Option<Instant>,
}

/// The member had more to read than its voice may hold back: its socket has been given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooSlow;

impl Member {
    /// A newcomer, on the socket that gives it its key.
    pub(crate) fn new(key: SessionKey, stay: Stay, media: Media, voice: Box<dyn Voice>) -> Member {
        Member {
            key,
            stay,
            media,
            voice,
            socket: Some(key),
            resume_failure: None,
            token: None,
            close_code: CLOSE_POLICY,
            moving: None,
            detached_at: None,
            offer_asked_at: None,
        }
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

    /// The socket is gone; the member may come back and resume.
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
        self.is_attached() && (self.media.needs_offer || self.voice.frames_waiting() > 0 || self.voice.is_overflowed())
    }

    /// Hands what the voice has to say to the socket.
    pub(crate) fn flush(&mut self, now: Instant, out: &mut Outbox) -> Result<(), TooSlow> {
        // Between sockets the voice keeps what it has to say: a resume tells it anew.
        let Some(socket) = self.socket else {
            return Ok(());
        };
        if self.voice.is_overflowed() {
            out.note(Note::SessionOverflow);
            out.put(Output::GiveUp { socket });
            self.detach(now);
            return Err(TooSlow);
        }
        while let Some(frame) = self.voice.poll_frame() {
            out.put(Output::Frame { socket, frame });
        }
        Ok(())
    }

    /// Asks the member for a new offer if one is needed and none is on its way.
    pub(crate) fn ask_for_offer(&mut self, now: Instant) {
        let recently = |asked: Instant| now.saturating_duration_since(asked) < OFFER_PATIENCE;
        if !self.media.needs_offer
            || self.media.transport.is_none()
            || self.socket.is_none()
            || self.offer_asked_at.is_some_and(recently)
        {
            return;
        }
        let required = self.media.negotiation.sections_required();
        self.voice.sections_required(required.audios, required.videos);
        self.offer_asked_at = Some(now);
    }

    pub(crate) fn offer_arrived(&mut self) {
        self.offer_asked_at = None;
        self.media.needs_offer = false;
    }

    /// Why this member is to be given up, if it is.
    pub(crate) fn overdue(&self, now: Instant) -> Option<(DisconnectReason, &'static str)> {
        let longer = |since: Instant, patience: Duration| now.saturating_duration_since(since) > patience;
        if let Some(Moving::Told { until }) = self.moving {
            return (now >= until).then_some((DisconnectReason::ConnectionTimeout, "did not arrive on another edge"));
        }
        let belongs = &self.stay.belongs;
        if self
            .media
            .closed_at
            .is_some_and(|since| longer(since, belongs.after_its_goodbye))
        {
            return Some((DisconnectReason::ClientInitiated, "closed its transport"));
        }
        if let (Some(since), Some(patience)) = (self.detached_at, belongs.without_socket)
            && longer(since, patience)
        {
            return Some((
                DisconnectReason::ConnectionTimeout,
                "did not come back after its socket closed",
            ));
        }
        // Who is between sockets is waited for by that bound alone.
        let waited_for = self.detached_at.is_some() && belongs.without_socket.is_some();
        if let Some(patience) = belongs.without_transport
            && !self.media.is_connected()
            && !waited_for
            && longer(self.stay.joined_at, patience)
        {
            return Some((DisconnectReason::ConnectionTimeout, "its media transport never stood"));
        }
        None
    }
}
