//! What an edge answers over HTTP: signalling, the join API (forwarded to the control plane), health and metrics.

mod join;
mod metrics;
mod probe;
mod recording;
pub(crate) mod rtc;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use http::{HeaderMap, StatusCode};
use meridian_access::network::client_address;
use meridian_serving::listener::ClientAddress;
use meridian_wire::join::BODY_BYTES_MAX;

use crate::edge::EdgeState;

pub(crate) use probe::PROBES_PER_MINUTE;

pub(crate) fn router(edge: Arc<EdgeState>) -> Router {
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
        .route("/api/v1/probes", get(probe::targets))
        .route("/probe", get(probe::probe))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::render))
        .with_state(edge)
}

/// Ready = this edge may be given new people.
async fn ready(State(edge): State<Arc<EdgeState>>) -> Response {
    match edge.not_ready() {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// The client's own address: of the connection, or what a trusted proxy says.
fn client_of(edge: &EdgeState, peer: ClientAddress, headers: &HeaderMap) -> IpAddr {
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
