//! What a room has no place for in its queue: kept in order until it has, so that nobody who tells it something need wait.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::error::TrySendError;

use super::{RoomHandle, ToRoom};

/// People's data that waits for one room, bytes.
const DATA_MAX: usize = 16 << 20;

/// What is lost with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worth {
    /// A change of state that nothing repeats: always kept. Their number is bounded by what there is to change: peers, tracks, subscriptions.
    State,
    /// Something people send, of this many bytes: kept up to 16 MiB.
    Data(usize),
    /// The next one says as much: not kept.
    Moment,
}

pub(super) struct Backlog {
    waiting: Mutex<Waiting>,
    /// Of all rooms.
    lost: Arc<AtomicU64>,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<(ToRoom, usize)>,
    data: usize,
    /// A task is carrying them over. What comes meanwhile goes behind them.
    carried: bool,
}

impl Backlog {
    pub(super) fn new(lost: Arc<AtomicU64>) -> Backlog {
        Backlog {
            waiting: Mutex::default(),
            lost,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RoomHandle {
    /// Gives the room a message without waiting, behind all that was posted before. What a room that is behind loses is counted.
    pub(crate) fn post(&self, message: ToRoom, worth: Worth) {
        let mut waiting = self.backlog.lock();
        let message = if waiting.carried {
            message
        } else {
            match self.queue.try_send(message) {
                Ok(()) | Err(TrySendError::Closed(_)) => return,
                Err(TrySendError::Full(message)) => message,
            }
        };
        let bytes = match worth {
            Worth::State => 0,
            Worth::Data(bytes) => bytes,
            Worth::Moment => {
                self.backlog.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        if waiting.data + bytes > DATA_MAX {
            self.backlog.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.data += bytes;
        waiting.messages.push_back((message, bytes));
        if !waiting.carried {
            waiting.carried = true;
            tokio::spawn(carry_over(self.clone()));
        }
    }
}

/// Ends when nothing waits any more, or with the room.
async fn carry_over(room: RoomHandle) {
    // The place first: between the two the message would be nowhere.
    while let Ok(place) = room.queue.reserve().await {
        let mut waiting = room.backlog.lock();
        let Some((message, bytes)) = waiting.messages.pop_front() else {
            waiting.carried = false;
            return;
        };
        waiting.data -= bytes;
        place.send(message);
    }
    let mut waiting = room.backlog.lock();
    waiting.messages.clear();
    waiting.data = 0;
}
