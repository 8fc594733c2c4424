//! What an edge answers over HTTP: signalling, the join API (forwarded to the control plane), health and metrics.

mod join;
mod metrics;
mod probe;
mod recording;
pub(crate) mod rtc;
mod whip;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use http::{HeaderMap, StatusCode};
use meridian_access::limits::Limiter;
use meridian_access::network::{Network, client_address};
use meridian_serving::listener::ClientAddress;
use meridian_serving::problem::Problem;
use meridian_shard::Shards;
use meridian_wire::join::BODY_BYTES_MAX;

use crate::admission::Admission;
use crate::control::ControlPlane;
use crate::handles::LiveRooms;
use crate::lifecycle::Lifecycle;
use crate::mesh::MeshHandle;
use crate::outgoing::Outgoing;
use crate::recording::RecorderHandle;
use crate::rooms::{HttpSessions, Rooms};
use crate::turn::Turn;

use probe::PROBES_PER_MINUTE;

/// What HTTP uses of the edge.
pub(crate) struct Parts {
    pub(crate) lifecycle: Arc<Lifecycle>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) live: Arc<LiveRooms>,
    pub(crate) outgoing: Arc<Outgoing>,
    pub(crate) rooms: Arc<Rooms>,
    pub(crate) http_sessions: Arc<HttpSessions>,
    pub(crate) shards: Arc<Shards>,
    pub(crate) mesh: Arc<MeshHandle>,
    pub(crate) recorder: Arc<RecorderHandle>,
    pub(crate) turn: Arc<Turn>,
    pub(crate) control: Option<ControlPlane>,
    pub(crate) region: String,
    /// Reverse proxies whose `X-Forwarded-For` is believed.
    pub(crate) trusted_proxies: Vec<Network>,
    /// How often an address may ask `/probe`.
    pub(crate) probes: Limiter<IpAddr>,
}

/// [`Parts::probes`].
pub(crate) fn probe_limiter() -> Limiter<IpAddr> {
    Limiter::new(PROBES_PER_MINUTE)
}

pub(crate) fn router(edge: Arc<Parts>) -> Router {
    Router::new()
        .route("/rtc/v1", get(rtc::connect))
        .route("/rtc/v1/validate", get(rtc::validate))
        .route("/rtc", any(rtc::unsupported))
        .route("/rtc/{*rest}", any(rtc::unsupported))
        .route(
            "/api/v1/meetings/{code}/join",
            post(join::join)
                .options(join::preflight)
                .layer(DefaultBodyLimit::max(BODY_BYTES_MAX)),
        )
        .route(
            "/api/v1/rooms/{room}/recording",
            get(recording::show)
                .put(recording::start)
                .delete(recording::stop)
                .options(recording::preflight),
        )
        .merge(whip::routes())
        .route("/api/v1/probes", get(probe::targets))
        .route("/probe", get(probe::probe))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::render))
        .fallback(async || rtc::with_cors(Problem::of_status(StatusCode::NOT_FOUND).into_response()))
        .method_not_allowed_fallback(async || {
            rtc::with_cors(Problem::of_status(StatusCode::METHOD_NOT_ALLOWED).into_response())
        })
        .with_state(edge)
}

/// Ready = this edge may be given new people.
async fn ready(State(edge): State<Arc<Parts>>) -> Response {
    match edge.admission.not_ready() {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// The client's own address: of the connection, or what a trusted proxy says.
fn client_of(edge: &Parts, peer: ClientAddress, headers: &HeaderMap) -> IpAddr {
    let lines = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok());
    client_address(
        peer.0.ip(),
        lines.collect::<Vec<_>>().into_iter(),
        &edge.trusted_proxies,
    )
}
