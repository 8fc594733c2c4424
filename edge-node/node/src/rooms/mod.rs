//! The rooms with people on this edge: one task per room drives the room's `meridian_conference::Conference`, which decides everything.
//!
//! Everything that concerns a room goes through its task's queue as a [`ToRoom`], so nothing in a room needs a lock and a
//! room that misbehaves stops at its own door. A task ends when nobody is left on this edge; the next join starts another.

mod counters;
mod renewal;
mod task;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use meridian_conference::{Input, SessionKey};
use meridian_room::RoomName;
use meridian_signalling::Frame;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, oneshot};

pub(crate) use counters::{FrameLoss, SignalCounters, Slowness};

use crate::edge::EdgeState;

/// Messages that may wait for one room. Sockets wait for room in the queue; media events wait in the router's task.
const QUEUE: usize = 1024;
/// Rooms one edge holds at most.
const ROOMS_MAX: usize = 20_000;

/// A client at the door, and its socket.
pub(crate) struct Connect {
    pub(crate) client: meridian_conference::Connect,
    pub(crate) socket: ToSocket,
}

/// Where a room puts what a client's socket shall send. The socket closes once every clone is dropped and all is written.
#[derive(Clone)]
pub(crate) struct ToSocket {
    pub(crate) frames: mpsc::Sender<Outgoing>,
    /// Told when nothing more is worth writing.
    pub(crate) given_up: Arc<Notify>,
}

/// What a room gives a client's socket to write.
pub(crate) enum Outgoing {
    Frame(Frame),
    /// Close with this reason: the client broke the protocol or is gone for good.
    Close {
        code: u16,
        reason: String,
    },
}

pub(crate) enum ToRoom {
    /// Answered with the session's key; with the client itself when the task is ending; not at all when it was refused.
    Connect {
        connect: Connect,
        joined: oneshot::Sender<Result<SessionKey, Connect>>,
    },
    /// The permit bounds how much of one client's input waits here; it is given back once the frame is handled.
    Frame {
        session: SessionKey,
        frame: Frame,
        permit: OwnedSemaphorePermit,
    },
    SocketClosed {
        session: SessionKey,
    },
    Input(Input),
}

#[derive(Clone)]
pub(crate) struct RoomHandle {
    queue: mpsc::Sender<ToRoom>,
    /// Clients on this edge.
    people: Arc<AtomicU32>,
    /// The id the room is recorded under.
    recording: Arc<Mutex<Option<String>>>,
}

/// The room's task has ended.
#[derive(Debug, thiserror::Error)]
#[error("the room ended")]
pub(crate) struct RoomEnded;

impl RoomHandle {
    pub(crate) async fn send(&self, message: ToRoom) -> Result<(), RoomEnded> {
        self.queue.send(message).await.map_err(|_| RoomEnded)
    }

    /// For callers that must not wait: `false` if the room is behind or ended.
    pub(crate) fn try_send(&self, message: ToRoom) -> bool {
        self.queue.try_send(message).is_ok()
    }

    pub(crate) fn recording(&self) -> Option<String> {
        self.recording
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    fn set_recording(&self, recording: Option<String>) {
        *self.recording.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = recording;
    }

    fn set_people(&self, people: usize) {
        self.people
            .store(u32::try_from(people).unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("this edge holds {ROOMS_MAX} rooms already: join through another edge")]
    TooManyRooms,
    #[error("the session was refused: the client was told why")]
    Refused,
}

pub(crate) struct Rooms {
    live: Mutex<HashMap<RoomName, RoomHandle>>,
    next_session: AtomicU64,
    ended: Notify,
    pub(crate) counters: SignalCounters,
}

impl Rooms {
    pub(crate) fn new() -> Rooms {
        Rooms {
            live: Mutex::new(HashMap::new()),
            next_session: AtomicU64::new(1),
            ended: Notify::new(),
            counters: SignalCounters::default(),
        }
    }

    pub(crate) fn next_session(&self) -> SessionKey {
        SessionKey(self.next_session.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn get(&self, name: &RoomName) -> Option<RoomHandle> {
        self.lock().get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<RoomHandle> {
        self.lock().values().cloned().collect()
    }

    /// Hands a client to its room, which is started if this edge has nobody in it yet.
    ///
    /// # Errors
    /// [`ConnectError::Refused`] if the room turned the client away (it has been sent a Leave with the reason).
    pub(crate) async fn connect(
        &self,
        edge: &Arc<EdgeState>,
        connect: Connect,
    ) -> Result<(SessionKey, RoomHandle), ConnectError> {
        let room = connect
            .client
            .claims
            .video
            .as_ref()
            .map(|grants| grants.room.clone())
            .unwrap_or_default();
        let name = RoomName::new(room);
        let mut connect = connect;
        loop {
            let home = connect
                .client
                .claims
                .meridian
                .as_ref()
                .and_then(|meridian| meridian.home_region.clone());
            let room = self.get_or_start(edge, &name, home)?;
            let (joined, answer) = oneshot::channel();
            match room.queue.send(ToRoom::Connect { connect, joined }).await {
                Ok(()) => match answer.await {
                    Ok(Ok(session)) => return Ok((session, room)),
                    // The task was about to end: start another.
                    Ok(Err(again)) => connect = again,
                    Err(_) => return Err(ConnectError::Refused),
                },
                Err(mpsc::error::SendError(ToRoom::Connect { connect: again, .. })) => connect = again,
                Err(_) => return Err(ConnectError::Refused),
            }
        }
    }

    fn get_or_start(
        &self,
        edge: &Arc<EdgeState>,
        name: &RoomName,
        home_region: Option<String>,
    ) -> Result<RoomHandle, ConnectError> {
        let mut live = self.lock();
        if let Some(room) = live.get(name).filter(|room| !room.queue.is_closed()) {
            return Ok(room.clone());
        }
        if live.len() >= ROOMS_MAX {
            return Err(ConnectError::TooManyRooms);
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        let room = RoomHandle {
            queue: sender,
            people: Arc::default(),
            recording: Arc::default(),
        };
        live.insert(name.clone(), room.clone());
        tokio::spawn(task::run(
            edge.clone(),
            name.clone(),
            room.clone(),
            receiver,
            home_region,
        ));
        Ok(room)
    }

    /// Called by a room's task when it ends, after it closed its queue.
    fn retire(&self, name: &RoomName) {
        let mut live = self.lock();
        if live.get(name).is_some_and(|room| room.queue.is_closed()) {
            live.remove(name);
        }
        self.ended.notify_waiters();
    }

    /// Every room and how many of its people are on this edge.
    pub(crate) fn people(&self) -> Vec<(RoomName, u32)> {
        self.lock()
            .iter()
            .map(|(name, room)| (name.clone(), room.people.load(Ordering::Relaxed)))
            .collect()
    }

    /// Waits until no room is left.
    pub(crate) async fn emptied(&self) {
        loop {
            let ended = self.ended.notified();
            if self.lock().is_empty() {
                return;
            }
            ended.await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<RoomName, RoomHandle>> {
        self.live.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
