//! DTLS sessions of clients (RFC 8656 §3.1, RFC 7350): who may have one, and datagrams in and out of it. DTLS 1.2 over `dimpl`; sockets
//! are the worker's. A stranger gets a HelloVerifyRequest and is forgotten; memory is spent only on who has returned its cookie.

mod hello;
mod identity;

/// What a stranger's datagram is answered with before anything is remembered of him, and whether the engine would be shown it. For
/// fuzzing; the worker calls the parts.
#[doc(hidden)]
pub fn answer_to_stranger(datagram: &[u8]) -> (Option<Vec<u8>>, bool) {
    let answer = hello::Hello::parse(datagram).map(|hello| hello.answer(&[7; COOKIE_LEN]).to_vec());
    (answer, hello::joiner().take(datagram).is_some())
}

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aws_lc_rs::{constant_time, hmac};
use dimpl::{Dtls, Error, Output};
use meridian_dtls_guard::Joiner;
use rand::Rng;

use super::Gauges;
use hello::Hello;
use identity::HANDSHAKE_MAX;
pub use identity::{DtlsIdentity, DtlsIdentityError};
use meridian_turn_core::ClientSocket;
use meridian_turn_core::limits::{Limits, source_of};

const COOKIE_LEN: usize = 32;
/// A cookie is good in the span it was made in, and in the next.
const COOKIE_SPAN: Duration = Duration::from_secs(30);
/// Handshakes under way at the same time, per worker and per source.
const HANDSHAKES: usize = 512;
const HANDSHAKES_PER_SOURCE: usize = 32;
/// The longest plaintext of a record (RFC 6347 §4.1).
const PLAINTEXT_MAX: usize = 1 << 14;
/// That and what protects it.
const RECORD_MAX: usize = PLAINTEXT_MAX + 256;

struct Session {
    engine: Dtls,
    /// Whose ClientHello it was made for.
    random: [u8; 32],
    cookie: [u8; COOKIE_LEN],
    since: Instant,
    /// When it last had an allocation; for the idle limit.
    useful: Instant,
    timer: Option<Instant>,
    connected: bool,
    /// Until authenticated data has come: plaintext is noise from there on.
    joiner: Option<Joiner>,
    ended: bool,
}

/// Application datagrams of one received datagram.
#[derive(Default)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Frames {
    fn push(&mut self, frame: &[u8]) {
        self.bytes.extend_from_slice(frame);
        self.ends.push(self.bytes.len());
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.bytes[start..end])
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

#[derive(Default)]
struct Share {
    sessions: usize,
    handshakes: usize,
}

/// One worker's. Every engine is drained whenever it was called.
pub(crate) struct Sessions {
    identity: Option<Arc<DtlsIdentity>>,
    secret: hmac::Key,
    beginning: Instant,
    table: HashMap<ClientSocket, Session>,
    /// Those in `table` that are not connected.
    handshakes: HashSet<ClientSocket>,
    /// By IPv4 address or IPv6 /64.
    per_source: HashMap<IpAddr, Share>,
    sessions_max: usize,
    sessions_per_source_max: usize,
    idle: Duration,
    /// No handshake has a timer before it.
    next_timer: Option<Instant>,
    /// What was received last.
    frames: Frames,
    clear: Vec<u8>,
    buffer: Box<[u8]>,
    gauges: Arc<Gauges>,
}

impl Sessions {
    /// Without an identity nobody gets a session.
    pub(crate) fn new(
        identity: Option<Arc<DtlsIdentity>>,
        limits: &Limits,
        now: Instant,
        gauges: Arc<Gauges>,
    ) -> Sessions {
        Sessions {
            buffer: vec![0; if identity.is_some() { RECORD_MAX } else { 0 }].into(),
            identity,
            secret: hmac::Key::new(hmac::HMAC_SHA256, &rand::rng().random::<[u8; 32]>()),
            beginning: now,
            table: HashMap::new(),
            handshakes: HashSet::new(),
            per_source: HashMap::new(),
            sessions_max: limits.connections,
            sessions_per_source_max: limits.connections_per_source,
            idle: limits.stream_idle,
            next_timer: None,
            frames: Frames::default(),
            clear: Vec::new(),
            gauges,
        }
    }

    /// Takes one datagram of a client. What it said is in [`Sessions::take_frames`] then. `may_answer`: whether a stranger gets an answer.
    /// Returns whether a session has ended with it.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        client: ClientSocket,
        datagram: &[u8],
        may_answer: impl FnOnce() -> bool,
        send: &mut impl FnMut(&[u8]),
    ) -> bool {
        let mut ended = false;
        if let Some(hello) = Hello::parse(datagram) {
            let span = now.saturating_duration_since(self.beginning).as_secs() / COOKIE_SPAN.as_secs();
            let cookie = |span| hello::cookie(&self.secret, span, client.remote, &hello.random);
            let good = [Some(span), span.checked_sub(1)]
                .into_iter()
                .flatten()
                .map(cookie)
                .find(|good| constant_time::verify_slices_are_equal(good, hello.cookie).is_ok());
            let Some(good) = good else {
                if hello.message_seq == 0 && may_answer() {
                    send(&hello.answer(&cookie(span)));
                }
                return false;
            };
            if self.table.get(&client).is_none_or(|s| s.random != hello.random) {
                // The client has begun anew, and is there: RFC 6347 §4.2.8.
                ended = self.remove(client);
                if !self.open(now, client, hello.random, good) {
                    self.gauges.streams_refused.fetch_add(1, Ordering::Relaxed);
                    return ended;
                }
            }
        }
        let Some(session) = self.table.get_mut(&client) else {
            return ended;
        };
        session.receive(now, datagram, &mut self.buffer, &mut self.frames, send);
        self.settle(client) || ended
    }

    /// What the last datagram said; to be given back.
    pub(crate) fn take_frames(&mut self) -> Frames {
        std::mem::take(&mut self.frames)
    }

    pub(crate) fn return_frames(&mut self, mut frames: Frames) {
        frames.clear();
        self.frames = frames;
    }

    /// Sends `len` bytes that `write` fills in to a client, as one record. `false`: it has no session, or they are too many.
    pub(crate) fn seal(
        &mut self,
        client: ClientSocket,
        len: usize,
        write: impl FnOnce(&mut [u8]),
        send: &mut impl FnMut(&[u8]),
    ) -> bool {
        let Some(session) = self
            .table
            .get_mut(&client)
            .filter(|s| s.connected && len <= PLAINTEXT_MAX)
        else {
            return false;
        };
        self.clear.resize(len, 0);
        write(&mut self.clear);
        let clear = &self.clear;
        let mut frames = Frames::default();
        session.call(&mut self.buffer, &mut frames, send, |engine| {
            engine.send_application_data(clear).map(drop)
        });
        !session.ended
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.next_timer
    }

    /// Sends again what is due in handshakes, and ends those that take too long.
    pub(crate) fn handle_timeout(&mut self, now: Instant, send: &mut impl FnMut(ClientSocket, &[u8])) {
        if self.next_timer.is_none_or(|at| at > now) {
            return;
        }
        let mut gone = Vec::new();
        for client in &self.handshakes {
            let Some(session) = self.table.get_mut(client) else {
                continue;
            };
            if session.next_timer() <= now {
                let mut send = |packet: &[u8]| send(*client, packet);
                session.call(&mut self.buffer, &mut self.frames, &mut send, |engine| {
                    engine.handle_timeout(now)
                });
                // A timer that is not moved would be tried again at once, for ever.
                session.timer = session.timer.filter(|at| *at > now);
            }
            if session.ended || now >= session.since + HANDSHAKE_MAX {
                gone.push(*client);
            }
        }
        self.frames.clear();
        for client in gone {
            self.remove(client);
        }
        let timers = self.handshakes.iter().filter_map(|client| self.table.get(client));
        self.next_timer = timers.map(Session::next_timer).min();
    }

    /// Ends sessions that have had no allocation for too long.
    pub(crate) fn end_idle(
        &mut self,
        now: Instant,
        busy: impl Fn(ClientSocket) -> bool,
        send: &mut impl FnMut(ClientSocket, &[u8]),
    ) {
        let mut idle = Vec::new();
        for (client, session) in &mut self.table {
            if busy(*client) {
                session.useful = now;
            } else if now.saturating_duration_since(session.useful) > self.idle {
                idle.push(*client);
            }
        }
        for client in idle {
            self.close(client, &mut |packet| send(client, packet));
        }
    }

    /// Says goodbye to everybody.
    pub(crate) fn end_all(&mut self, send: &mut impl FnMut(ClientSocket, &[u8])) {
        let all: Vec<_> = self.table.keys().copied().collect();
        for client in all {
            self.close(client, &mut |packet| send(client, packet));
        }
    }

    fn close(&mut self, client: ClientSocket, send: &mut impl FnMut(&[u8])) {
        if let Some(session) = self.table.get_mut(&client) {
            let mut frames = Frames::default();
            session.call(&mut self.buffer, &mut frames, send, Dtls::close);
        }
        self.remove(client);
    }

    /// A session for whoever has returned a cookie. `false`: there are too many.
    fn open(&mut self, now: Instant, client: ClientSocket, random: [u8; 32], cookie: [u8; COOKIE_LEN]) -> bool {
        let Some(identity) = &self.identity else { return false };
        let source = source_of(client.remote.ip());
        let share = self.per_source.get(&source);
        let (sessions, handshakes) = share.map_or((0, 0), |share| (share.sessions, share.handshakes));
        let full = self.table.len() >= self.sessions_max || self.handshakes.len() >= HANDSHAKES;
        if full || sessions >= self.sessions_per_source_max || handshakes >= HANDSHAKES_PER_SOURCE {
            return false;
        }
        let Some(session) = Session::new(identity, now, random, cookie, &mut self.buffer) else {
            return false;
        };
        let timer = session.next_timer();
        self.next_timer = Some(self.next_timer.map_or(timer, |at| at.min(timer)));
        self.table.insert(client, session);
        self.handshakes.insert(client);
        let share = self.per_source.entry(source).or_default();
        share.sessions += 1;
        share.handshakes += 1;
        self.gauges.dtls_sessions.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Notes what a session has become; `true`: it has ended.
    fn settle(&mut self, client: ClientSocket) -> bool {
        let Some(session) = self.table.get(&client) else {
            return false;
        };
        if session.ended {
            return self.remove(client);
        }
        if !session.connected {
            let timer = session.next_timer();
            self.next_timer = Some(self.next_timer.map_or(timer, |at| at.min(timer)));
        } else if self.handshakes.remove(&client)
            && let Some(share) = self.per_source.get_mut(&source_of(client.remote.ip()))
        {
            share.handshakes -= 1;
        }
        false
    }

    fn remove(&mut self, client: ClientSocket) -> bool {
        if self.table.remove(&client).is_none() {
            return false;
        }
        let source = source_of(client.remote.ip());
        let was_handshake = self.handshakes.remove(&client);
        if let Some(share) = self.per_source.get_mut(&source) {
            share.sessions -= 1;
            share.handshakes -= usize::from(was_handshake);
            if share.sessions == 0 {
                self.per_source.remove(&source);
            }
        }
        self.gauges.dtls_sessions.fetch_sub(1, Ordering::Relaxed);
        true
    }
}

impl Session {
    fn new(
        identity: &DtlsIdentity,
        now: Instant,
        random: [u8; 32],
        cookie: [u8; COOKIE_LEN],
        buffer: &mut [u8],
    ) -> Option<Session> {
        let engine = catch_unwind(AssertUnwindSafe(|| identity.engine(now))).ok()?;
        let mut session = Session {
            engine,
            random,
            cookie,
            since: now,
            useful: now,
            timer: None,
            connected: false,
            joiner: Some(hello::joiner()),
            ended: false,
        };
        // The first ClientHello was answered before there was an engine; its answer is swallowed.
        session.call(buffer, &mut Frames::default(), &mut |_| {}, |engine| {
            engine.handle_timeout(now)?;
            engine.handle_packet(&hello::first_hello())
        });
        (!session.ended).then_some(session)
    }

    fn next_timer(&self) -> Instant {
        let end = self.since + HANDSHAKE_MAX;
        self.timer.map_or(end, |at| at.min(end))
    }

    fn receive(
        &mut self,
        now: Instant,
        datagram: &[u8],
        buffer: &mut [u8],
        frames: &mut Frames,
        send: &mut impl FnMut(&[u8]),
    ) {
        let records = match &mut self.joiner {
            Some(joiner) => joiner.take(datagram),
            None => (meridian_dtls_guard::first_epoch(datagram) != Some(0)).then(|| vec![Cow::Borrowed(datagram)]),
        };
        let Some(records) = records else { return };
        self.call(buffer, frames, send, |engine| engine.handle_timeout(now));
        for record in records {
            let cookie = (!self.connected).then_some(self.cookie);
            self.call(buffer, frames, send, |engine| match cookie {
                Some(cookie) => identity::with_cookie(cookie, || engine.handle_packet(&record)),
                None => engine.handle_packet(&record),
            });
        }
    }

    /// Calls the engine and drains it. Its error or panic ends this session, not the thread.
    fn call(
        &mut self,
        buffer: &mut [u8],
        frames: &mut Frames,
        send: &mut impl FnMut(&[u8]),
        call: impl FnOnce(&mut Dtls) -> Result<(), Error>,
    ) {
        if self.ended {
            return;
        }
        let result = catch_unwind(AssertUnwindSafe(|| {
            let result = call(&mut self.engine);
            self.drain(buffer, frames, send);
            result
        }));
        match result {
            // Full: forged fragments met a bounded queue, and nothing has changed.
            Ok(Ok(()) | Err(Error::ReceiveQueueFull)) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "a DTLS session of a TURN client failed");
                self.ended = true;
            }
            Err(_) => {
                tracing::error!("the DTLS engine panicked; its session is closed");
                self.ended = true;
            }
        }
    }

    fn drain(&mut self, buffer: &mut [u8], frames: &mut Frames, send: &mut impl FnMut(&[u8])) {
        loop {
            match self.engine.poll_output(buffer) {
                Output::Packet(packet) if hello::is_hello_verify_request(packet) => {}
                Output::Packet(packet) => send(packet),
                Output::ApplicationData(frame) => {
                    self.joiner = None;
                    frames.push(frame);
                }
                Output::Connected => self.connected = true,
                Output::CloseNotify => self.ended = true,
                Output::BufferTooSmall { needed } => {
                    tracing::debug!(needed, "a DTLS record is too long");
                    self.ended = true;
                    return;
                }
                Output::Timeout(at) => {
                    self.timer = Some(at);
                    return;
                }
                _ => {}
            }
        }
    }
}
