//! The rooms with people on this edge: one task per room drives the room's `meridian_conference::Conference`, which decides everything.
//! A task ends when nobody is left on this edge; the next join starts another. How others reach a room is in `handles`.

mod counters;
mod http_sessions;
mod relocation;
mod renewal;
mod task;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use meridian_conference::SessionKey;
use meridian_room::RoomName;
use meridian_transport::Fingerprint;
use tokio::sync::{mpsc, oneshot};

pub(crate) use counters::{FrameLoss, SignalCounters, Slowness};
pub(crate) use http_sessions::{HttpSession, HttpSessions, Offered, Owner, Refusal, Role, gone, newcomer};

use crate::admission::Admission;
use crate::control::ControlPlane;
use crate::handles::{Connect, LiveRooms, RoomHandle, ToRoom, TooManyRooms};
use crate::media::Media;
use crate::mesh::MeshHandle;
use crate::profile::Profile;
use crate::recording::RecorderHandle;
use crate::reports::Reports;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error(transparent)]
    TooManyRooms(#[from] TooManyRooms),
    #[error("the session was refused: the client was told why")]
    Refused,
}

/// What rooms use of the edge.
pub(crate) struct Around {
    pub(crate) profile: Arc<Profile>,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) admission: Arc<Admission>,
    pub(crate) live: Arc<LiveRooms>,
    pub(crate) media: Arc<Media>,
    pub(crate) mesh: Arc<MeshHandle>,
    pub(crate) recorder: Arc<RecorderHandle>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) control: Option<ControlPlane>,
}

pub(crate) struct Rooms {
    around: Around,
    next_session: AtomicU64,
    pub(crate) counters: SignalCounters,
}

impl Rooms {
    pub(crate) fn new(around: Around) -> Rooms {
        Rooms {
            around,
            next_session: AtomicU64::new(1),
            counters: SignalCounters::default(),
        }
    }

    /// Hands a client to its room, which is started if this edge has nobody in it yet.
    ///
    /// # Errors
    /// [`ConnectError::Refused`] if the room turned the client away (it has been sent a Leave with the reason).
    pub(crate) async fn connect(self: &Arc<Rooms>, connect: Connect) -> Result<(SessionKey, RoomHandle), ConnectError> {
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
            let room = self.around.live.get_or_start(&name, |room, queue| {
                tokio::spawn(task::run(self.clone(), name.clone(), room, queue, home));
            })?;
            let (joined, answer) = oneshot::channel();
            match room.give(ToRoom::Connect { connect, joined }).await {
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

    fn next_session(&self) -> SessionKey {
        SessionKey(self.next_session.fetch_add(1, Ordering::Relaxed))
    }
}
