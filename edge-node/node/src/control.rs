//! The edge's side of the control plane: one gRPC stream of reports and commands, and joins forwarded over the same
//! warm connection. When the control plane is away, everything that is live goes on; only what is new waits.

mod connection;
mod standing;

use std::sync::Arc;
use std::time::{Duration, Instant};

use meridian_access::token::KeyRing;
use meridian_conference::CloseKind;
use meridian_room::RoomName;
use meridian_wire::OUTBOX_HEADER;
use meridian_wire::v1;
use meridian_wire::v1::edge_command::Command;
use meridian_wire::v1::edge_report::Report;
use rand::Rng;
use tokio::sync::mpsc;

use crate::admission::Admission;
use crate::handles::LiveRooms;
use crate::lifecycle::{Lifecycle, Wish};
use crate::outgoing::Outgoing;
use crate::profile::Profile;
use crate::reports::Reports;
use crate::turn::Turn;

pub(crate) use connection::ControlError;
pub(crate) use connection::ControlPlane;
pub(crate) use standing::Standing;

/// Until the control plane says otherwise.
const LOAD_INTERVAL: Duration = Duration::from_secs(2);
const RECONNECT_MIN: Duration = Duration::from_millis(200);
const RECONNECT_MAX: Duration = Duration::from_secs(10);
/// An edge that has stopped waits this long for its last words to be acknowledged.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the stream uses of the edge.
pub(crate) struct Uses {
    pub(crate) profile: Arc<Profile>,
    pub(crate) lifecycle: Arc<Lifecycle>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) outgoing: Arc<Outgoing>,
    pub(crate) live: Arc<LiveRooms>,
    pub(crate) turn: Arc<Turn>,
    pub(crate) standing: Arc<Standing>,
}

/// Keeps the stream to the control plane for as long as the edge lives.
pub(crate) async fn run(edge: Uses, control: ControlPlane) {
    let mut backoff = RECONNECT_MIN;
    loop {
        let ended = stream(&edge, &control).await;
        edge.outgoing.disconnected();
        match &ended {
            Ok(()) => tracing::info!("the control plane ended the stream"),
            Err(status) => tracing::debug!(%status, "control plane not reached"),
        }
        // Only attempts that got nowhere make the next wait longer, however the stream ended.
        if edge.standing.set_connected(false) {
            backoff = RECONNECT_MIN;
        }
        if control.has_untried() {
            backoff = RECONNECT_MIN;
        }
        // Full jitter: a thousand edges that lost one control plane do not come back in the same second.
        let pause = rand::rng().random_range(backoff / 2..=backoff);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = edge.lifecycle.stopped() => return,
        }
        backoff = (backoff * 2).min(RECONNECT_MAX);
    }
}

async fn stream(edge: &Uses, control: &ControlPlane) -> Result<(), tonic::Status> {
    let (reports, outgoing) = mpsc::channel::<v1::EdgeReport>(16);
    let send = |report: Report| v1::EdgeReport { report: Some(report) };
    // The first report must be there before the call: the server answers only after it has read Hello.
    let _ = reports.try_send(send(Report::Hello(edge.profile.hello())));
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let client = control.next().await;
    let mut client = client.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let answer = client.attach(outgoing).await?;
    let acknowledges = answer.metadata().contains_key(OUTBOX_HEADER);
    let mut commands = answer.into_inner();
    control.answered(&client);
    edge.standing.set_connected(true);
    edge.outgoing.connected();
    let mut load = tokio::time::interval(LOAD_INTERVAL);
    let leaving = edge.lifecycle.leaving();
    let told_all = told_all(edge);
    tokio::pin!(leaving, told_all);
    let mut said_so = false;
    loop {
        tokio::select! {
            command = commands.message() => match command? {
                Some(v1::EdgeCommand { command: Some(command) }) => {
                    if let Some(interval) = obey(edge, command) {
                        load = tokio::time::interval(interval);
                    }
                }
                // A command of a later version: not for us.
                Some(v1::EdgeCommand { command: None }) => {}
                None => return Ok(()),
            },
            _ = load.tick() => {
                let _ = reports.try_send(send(Report::Load(edge.reports.load())));
            }
            // The place first: what is taken out of the outbox is sent at once.
            (place, report) = next(edge, &reports, acknowledges) => place.send(send(report)),
            () = &mut leaving, if !said_so => {
                said_so = true;
                let _ = reports.send(send(Report::Leaving(v1::Leaving {}))).await;
            }
            () = &mut told_all => return Ok(()),
        }
    }
}

/// The next report out of the outbox, and its place in the stream.
async fn next<'a>(
    edge: &Uses,
    reports: &'a mpsc::Sender<v1::EdgeReport>,
    acknowledges: bool,
) -> (mpsc::Permit<'a, v1::EdgeReport>, Report) {
    match reports.reserve().await {
        Ok(place) => (place, edge.outgoing.next(acknowledges).await),
        // The stream has ended: its other half says so.
        Err(_) => std::future::pending().await,
    }
}

/// Once the edge has stopped and nothing it had to tell is left, or time is up.
async fn told_all(edge: &Uses) {
    edge.lifecycle.stopped().await;
    let _ = tokio::time::timeout(LAST_WORDS, edge.outgoing.emptied()).await;
}

/// Carries out a command without waiting for anybody; answers with a new interval of load reports if it asked for one.
fn obey(edge: &Uses, command: Command) -> Option<Duration> {
    match command {
        Command::Policy(policy) => take_policy(edge, policy),
        Command::SetState(state) => {
            set_state(edge, &state);
            None
        }
        Command::CloseRoom(close) => {
            close_room(edge, close);
            None
        }
        Command::LeavingNoted(_) => {
            edge.standing.note_leaving();
            None
        }
        Command::Desired(desired) => {
            if let Some(state) = &desired.state {
                set_state(edge, state);
            }
            for close in desired.closed {
                close_room(edge, close);
            }
            desired.policy.and_then(|policy| take_policy(edge, policy))
        }
        Command::Received(received) => {
            edge.outgoing.received(received.through);
            None
        }
    }
}

fn take_policy(edge: &Uses, policy: v1::Policy) -> Option<Duration> {
    edge.admission.set_policy_keys(KeyRing::from(&policy));
    edge.turn.set_policy(policy.turn.unwrap_or_default());
    edge.admission.policy_known();
    (policy.load_interval_ms > 0).then(|| Duration::from_millis(u64::from(policy.load_interval_ms)))
}

fn set_state(edge: &Uses, state: &v1::SetState) {
    let wish = wish(state);
    if edge.lifecycle.is_as(wish) {
        return;
    }
    tracing::info!(state = ?state.state(), reason = state.reason, "state set by the control plane");
    edge.lifecycle.wish(wish);
}

fn close_room(edge: &Uses, close: v1::CloseRoom) {
    let room = RoomName::new(close.room);
    if edge.live.get(&room).is_some() {
        tracing::info!(%room, reason = close.reason, "room closed by the control plane");
        edge.live.close(&room, CloseKind::RoomClosed);
    }
}

fn wish(state: &v1::SetState) -> Wish {
    match state.state() {
        v1::NodeState::Cordoned => Wish::Cordoned,
        v1::NodeState::Draining => Wish::Draining {
            until: (state.drain_deadline_ms > 0)
                .then(|| Instant::now().checked_add(Duration::from_millis(state.drain_deadline_ms)))
                .flatten(),
        },
        v1::NodeState::Active | v1::NodeState::Unspecified => Wish::Active,
    }
}
