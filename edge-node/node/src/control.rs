//! The edge's side of the control plane: one gRPC stream of reports and commands, and joins forwarded over the same
//! warm connection. When the control plane is away, everything that is live goes on; only what is new waits.

use std::sync::Arc;
use std::time::Duration;

use meridian_api::pki::NodeIdentity;
use meridian_api::token::KeyRing;
use meridian_api::v1;
use meridian_api::v1::edge_command::Command;
use meridian_api::v1::edge_control_client::EdgeControlClient;
use meridian_api::v1::edge_report::Report;
use rand::Rng;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};

use crate::edge::EdgeState;

/// Until the control plane says otherwise.
const LOAD_INTERVAL: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A forwarded join is a person waiting: past this another edge or an error serves them better.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Nobody waits for probes: a late list is no use.
const PROBES_TIMEOUT: Duration = Duration::from_secs(1);
const RECONNECT_MIN: Duration = Duration::from_millis(200);
const RECONNECT_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("control_plane.url: {0}")]
    Url(tonic::transport::Error),
}

/// The connection. Cheap to clone; connects when first used and again whenever it was lost.
#[derive(Clone)]
pub(crate) struct ControlPlane(EdgeControlClient<Channel>);

impl ControlPlane {
    pub(crate) fn new(url: &str, identity: &NodeIdentity) -> Result<ControlPlane, ControlError> {
        let endpoint = Endpoint::from_shared(url.to_owned())
            .and_then(|endpoint| endpoint.tls_config(identity.tonic_client()))
            .map_err(ControlError::Url)?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true);
        Ok(ControlPlane(EdgeControlClient::new(endpoint.connect_lazy())))
    }

    /// Asks which regions a client may measure.
    pub(crate) async fn probes(&self, request: v1::ProbesRequest) -> Result<v1::ProbesAnswer, tonic::Status> {
        let mut request = tonic::Request::new(request);
        request.set_timeout(PROBES_TIMEOUT);
        Ok(self.0.clone().probes(request).await?.into_inner())
    }

    /// Forwards a client's join.
    pub(crate) async fn join(&self, request: v1::JoinRequest) -> Result<v1::JoinAnswer, tonic::Status> {
        let mut request = tonic::Request::new(request);
        request.set_timeout(JOIN_TIMEOUT);
        Ok(self.0.clone().join(request).await?.into_inner())
    }
}

/// Keeps the stream to the control plane for as long as the edge lives.
pub(crate) async fn run(edge: Arc<EdgeState>, control: ControlPlane, mut sessions: mpsc::Receiver<v1::SessionReport>) {
    let mut backoff = RECONNECT_MIN;
    loop {
        let ended = stream(&edge, &control, &mut sessions).await;
        match &ended {
            Ok(()) => tracing::info!("the control plane ended the stream"),
            Err(status) => tracing::debug!(%status, "control plane not reached"),
        }
        // Only attempts that got nowhere make the next wait longer, however the stream ended.
        if edge.control_connected(false) {
            backoff = RECONNECT_MIN;
        }
        // Full jitter: a thousand edges that lost one control plane do not come back in the same second.
        let pause = rand::rng().random_range(backoff / 2..=backoff);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = edge.stopped() => return,
        }
        backoff = (backoff * 2).min(RECONNECT_MAX);
    }
}

async fn stream(
    edge: &Arc<EdgeState>,
    control: &ControlPlane,
    sessions: &mut mpsc::Receiver<v1::SessionReport>,
) -> Result<(), tonic::Status> {
    let (reports, outgoing) = mpsc::channel::<v1::EdgeReport>(16);
    let send = |report: Report| v1::EdgeReport { report: Some(report) };
    // The first report must be there before the call: the server answers only after it has read Hello.
    let _ = reports.try_send(send(Report::Hello(edge.hello())));
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut commands = control.0.clone().attach(outgoing).await?.into_inner();
    edge.control_connected(true);
    let mut load = tokio::time::interval(LOAD_INTERVAL);
    loop {
        tokio::select! {
            command = commands.message() => match command? {
                Some(v1::EdgeCommand { command: Some(command) }) => {
                    if let Some(interval) = obey(edge, command).await {
                        load = tokio::time::interval(interval);
                    }
                }
                // A command of a later version: not for us.
                Some(v1::EdgeCommand { command: None }) => {}
                None => return Ok(()),
            },
            _ = load.tick() => {
                let _ = reports.try_send(send(Report::Load(edge.load())));
            }
            Some(session) = sessions.recv() => {
                let _ = reports.send(send(Report::Session(session))).await;
            }
            () = edge.stopped() => return Ok(()),
        }
    }
}

/// Carries out a command; answers with a new interval of load reports if it asked for one.
async fn obey(edge: &Arc<EdgeState>, command: Command) -> Option<Duration> {
    match command {
        Command::Policy(policy) => {
            edge.set_keys(KeyRing::from(&policy));
            edge.turn.set_policy(policy.turn.unwrap_or_default(), &edge.config);
            (policy.load_interval_ms > 0).then(|| Duration::from_millis(u64::from(policy.load_interval_ms)))
        }
        Command::SetState(state) => {
            tracing::info!(state = ?state.state(), reason = state.reason, "state set by the control plane");
            edge.set_state(state.state());
            None
        }
        Command::CloseRoom(close) => {
            tracing::info!(
                room = close.room,
                reason = close.reason,
                "room closed by the control plane"
            );
            edge.close_room(&close.room).await;
            None
        }
    }
}
