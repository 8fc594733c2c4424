//! The task of one room: its sockets, its queue and its timer around a [`Conference`], which decides everything.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use meridian_conference::{Conference, Input, Note, Output, Recorded, SessionKey, Setup};
use meridian_room::RoomName;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, oneshot};

use super::relocation::relocate;
use super::renewal::renew;
use super::{FrameLoss, Rooms, Slowness};
use crate::clock::unix_now_ms;
use crate::handles::{Connect, Outgoing, RoomHandle, ToRoom, ToSocket};

/// Messages handled before clients are told; more are told together.
const BATCH: usize = 64;

struct RoomTask {
    rooms: Arc<Rooms>,
    name: RoomName,
    handle: RoomHandle,
    conference: Conference,
    sockets: HashMap<SessionKey, ToSocket>,
    /// Clients at the door, until the conference has let them in or turned them away.
    at_the_door: HashMap<SessionKey, oneshot::Sender<Result<SessionKey, Connect>>>,
}

pub(super) async fn run(
    rooms: Arc<Rooms>,
    name: RoomName,
    handle: RoomHandle,
    mut queue: mpsc::Receiver<ToRoom>,
    home_region: Option<String>,
) {
    let around = &rooms.around;
    let birth = around.mesh.enter(&name, home_region, &handle).await;
    let mut audible = around.mesh.audible();
    let setup = Setup {
        name: name.clone(),
        birth,
        node: around.profile.node.clone(),
        region: around.profile.region.clone(),
        fingerprint: around.fingerprint,
        audible: audible.borrow_and_update().clone(),
        plane: around.media.clone(),
        rng: StdRng::from_rng(&mut rand::rng()),
    };
    let mut task = RoomTask {
        conference: Conference::new(Instant::now(), unix_now_ms(), setup),
        rooms,
        name,
        handle,
        sockets: HashMap::new(),
        at_the_door: HashMap::new(),
    };
    while let Some(due) = task.conference.poll_timeout() {
        tokio::select! {
            message = queue.recv() => match message {
                Some(message) => task.take(message),
                None => break,
            },
            Ok(()) = audible.changed(), if task.conference.is_learning() => {
                task.handle(Input::Audible(audible.borrow_and_update().clone()));
            }
            () = tokio::time::sleep_until(due.into()) => {
                task.conference.handle_timeout(Instant::now(), unix_now_ms());
            }
        }
        for _ in 0..BATCH {
            let Ok(message) = queue.try_recv() else { break };
            task.take(message);
        }
        task.carry_out();
    }
    queue.close();
    while let Some(message) = queue.recv().await {
        if let ToRoom::Connect { connect, joined } = message {
            let _ = joined.send(Err(connect));
        }
    }
    task.rooms.around.mesh.leave(&task.name);
    task.rooms.around.live.retire(&task.name);
}

impl RoomTask {
    fn take(&mut self, message: ToRoom) {
        match message {
            ToRoom::Connect { connect, joined } => {
                let socket = self.rooms.next_session();
                self.sockets.insert(socket, connect.socket);
                self.at_the_door.insert(socket, joined);
                let connect = connect.client;
                self.handle(Input::Connect { socket, connect });
            }
            ToRoom::Frame { session, frame, permit } => {
                self.handle(Input::Frame { socket: session, frame });
                drop(permit);
            }
            ToRoom::SocketClosed { session } => {
                self.sockets.remove(&session);
                self.handle(Input::SocketClosed { socket: session });
            }
            ToRoom::Input(input) => self.handle(input),
        }
    }

    fn handle(&mut self, input: Input) {
        self.conference.handle(Instant::now(), unix_now_ms(), input);
    }

    fn carry_out(&mut self) {
        let rooms = self.rooms.clone();
        let around = &rooms.around;
        while let Some(output) = self.conference.poll_output() {
            match output {
                Output::Admitted { socket } => {
                    if let Some(joined) = self.at_the_door.remove(&socket) {
                        let _ = joined.send(Ok(socket));
                    }
                }
                Output::Refused { socket } => {
                    // Unanswered means refused: the socket's task then closes after what was queued.
                    self.at_the_door.remove(&socket);
                    self.sockets.remove(&socket);
                }
                Output::Frame { socket, frame } => self.write(socket, frame),
                Output::Close { socket, code, reason } => {
                    if let Some(to) = self.sockets.remove(&socket)
                        && !reason.is_empty()
                    {
                        let _ = to.frames.try_send(Outgoing::Close { code, reason });
                    }
                }
                Output::GiveUp { socket } => {
                    if let Some(to) = self.sockets.remove(&socket) {
                        to.given_up.notify_one();
                    }
                }
                Output::Media(command) => around.media.send(&self.handle, &self.name, command),
                Output::Mesh(request) => around.mesh.room(&self.name, request),
                Output::RenewToken { client, token, claims } => {
                    renew(around, &self.handle, client, token, &claims);
                }
                Output::Relocate { client, address } => {
                    relocate(around, &self.handle, &self.name, client, address);
                }
                Output::Recorded(recorded) => self.record(recorded),
                Output::Report(report) => around.reports.session(&self.name, report),
                Output::Note(note) => self.count(note),
                Output::Emptied => around.reports.room_emptied(&self.name),
            }
        }
        self.handle
            .set_people(self.conference.people(), self.conference.staying());
    }

    /// Hands a frame to its socket; one that is gone, or whose client reads too slowly, is given up.
    fn write(&mut self, socket: SessionKey, frame: meridian_signalling::Frame) {
        let Some(to) = self.sockets.get(&socket) else { return };
        let counters = &self.rooms.counters;
        match to.frames.try_send(Outgoing::Frame(frame)) {
            Ok(()) => {
                counters.queued(to.frames.max_capacity() - to.frames.capacity());
                return;
            }
            Err(mpsc::error::TrySendError::Closed(_)) => counters.frames_lost(FrameLoss::SocketClosed, 1),
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::warn!(room = %self.name, ?socket, "client too slow: socket closed");
                counters.frames_lost(FrameLoss::QueueFull, 1);
                counters.socket_dropped(Slowness::QueueFull);
                to.given_up.notify_one();
            }
        }
        self.sockets.remove(&socket);
        self.handle(Input::SocketClosed { socket });
    }

    fn record(&self, recorded: Recorded) {
        let now = match &recorded {
            Recorded::Begin { id } => Some(Some(id.clone())),
            Recorded::End => Some(None),
            _ => None,
        };
        if let Some(now) = now {
            self.handle.set_recording(now.clone());
            self.rooms.around.reports.recording(&self.name, now);
        }
        self.rooms.around.recorder.room(&self.name, recorded);
    }

    fn count(&self, note: Note) {
        let counters = &self.rooms.counters;
        match note {
            Note::SessionOverflow => counters.socket_dropped(Slowness::SessionOverflow),
            Note::Resumed { unsaid } => {
                counters.resumed();
                counters.frames_lost(FrameLoss::Resumed, unsaid);
            }
            Note::Violation => counters.violated(),
            Note::Replayed { packets } => counters.replayed(packets),
            Note::DataNotTaken => counters.data_receiver_dropped(),
        }
    }
}
