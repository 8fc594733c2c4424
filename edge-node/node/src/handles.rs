//! How everybody else reaches a room: its handle, what may be sent to it, and the table of those that are here. The tasks are in `rooms`.
//!
//! Everything that concerns a room goes through its task's queue as a [`ToRoom`], so nothing in a room needs a lock and a room that
//! misbehaves stops at its own door.

mod backlog;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use meridian_conference::{CloseKind, Input, SessionKey};
use meridian_room::RoomName;
use meridian_signalling::Frame;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, oneshot};

use backlog::Backlog;
pub(crate) use backlog::Worth;

/// Messages that may wait for one room. Sockets wait for room in the queue; media events and commands in the room's backlog.
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
    /// Those of them who have not been told to go elsewhere.
    staying: Arc<AtomicU32>,
    /// The id the room is recorded under.
    recording: Arc<Mutex<Option<String>>>,
    backlog: Arc<Backlog>,
}

/// The room's task has ended.
#[derive(Debug, thiserror::Error)]
#[error("the room ended")]
pub(crate) struct RoomEnded;

impl RoomHandle {
    pub(crate) async fn send(&self, message: ToRoom) -> Result<(), RoomEnded> {
        self.queue.send(message).await.map_err(|_| RoomEnded)
    }

    /// [`RoomHandle::send`] for what is wanted back if the room has ended.
    pub(crate) async fn give(&self, message: ToRoom) -> Result<(), mpsc::error::SendError<ToRoom>> {
        self.queue.send(message).await
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

    pub(crate) fn set_recording(&self, recording: Option<String>) {
        *self.recording.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = recording;
    }

    pub(crate) fn set_people(&self, people: usize, staying: usize) {
        for (count, of) in [(people, &self.people), (staying, &self.staying)] {
            of.store(u32::try_from(count).unwrap_or(u32::MAX), Ordering::Relaxed);
        }
    }

    /// People here who have not been told to go elsewhere.
    pub(crate) fn staying(&self) -> usize {
        self.staying.load(Ordering::Relaxed) as usize
    }
}

/// The rooms with people on this edge.
#[derive(Default)]
pub(crate) struct LiveRooms {
    live: Mutex<HashMap<RoomName, RoomHandle>>,
    ended: Notify,
    /// What rooms that were behind have lost of [`RoomHandle::post`].
    lost: Arc<AtomicU64>,
}

/// This edge holds as many rooms as it may.
#[derive(Debug, thiserror::Error)]
#[error("this edge holds {ROOMS_MAX} rooms already: join through another edge")]
pub(crate) struct TooManyRooms;

impl LiveRooms {
    pub(crate) fn get(&self, name: &RoomName) -> Option<RoomHandle> {
        self.lock().get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<RoomHandle> {
        self.lock().values().cloned().collect()
    }

    /// The room of this name; if it has nobody here yet, `start` is given what a task needs to be it.
    pub(crate) fn get_or_start(
        &self,
        name: &RoomName,
        start: impl FnOnce(RoomHandle, mpsc::Receiver<ToRoom>),
    ) -> Result<RoomHandle, TooManyRooms> {
        let mut live = self.lock();
        if let Some(room) = live.get(name).filter(|room| !room.queue.is_closed()) {
            return Ok(room.clone());
        }
        if live.len() >= ROOMS_MAX {
            return Err(TooManyRooms);
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        let room = RoomHandle {
            queue: sender,
            people: Arc::default(),
            staying: Arc::default(),
            recording: Arc::default(),
            backlog: Arc::new(Backlog::new(self.lost.clone())),
        };
        live.insert(name.clone(), room.clone());
        start(room.clone(), receiver);
        Ok(room)
    }

    /// Called by a room's task when it ends, after it closed its queue.
    pub(crate) fn retire(&self, name: &RoomName) {
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

    /// Tells everybody of one room, if it is here, to go.
    pub(crate) fn close(&self, name: &RoomName, kind: CloseKind) {
        if let Some(room) = self.get(name) {
            room.post(ToRoom::Input(Input::Close(kind)), Worth::State);
        }
    }

    /// Tells everybody to come back elsewhere.
    pub(crate) fn send_away(&self) {
        self.tell_all(|| Input::Close(CloseKind::EdgeLeaves));
    }

    /// Tells every room.
    pub(crate) fn tell_all(&self, what: impl Fn() -> Input) {
        for room in self.all() {
            room.post(ToRoom::Input(what()), Worth::State);
        }
    }

    /// What rooms that were behind have lost since the edge started.
    pub(crate) fn events_lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
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
