//! What clients time before they join: `GET /probe`, and the list of regions that are worth it, `GET /api/v1/probes`, which the control
//! plane makes and this edge forwards.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{ConnectInfo, Query, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use meridian_access::network::limit_key;
use meridian_serving::listener::ClientAddress;
use meridian_wire::probes::{CACHE_CONTROL, ProbesQuery, ProbesReply};
use meridian_wire::v1;

use super::rtc::with_cors;
use super::{Parts, client_of};

/// Probes a minute from one address (an IPv6 /64 counts as one): a client sends a handful, but an office has many clients.
pub(super) const PROBES_PER_MINUTE: u32 = 1_200;

/// The smallest possible answer: clients time it to learn how far this PoP is. Over the limit it is as small, and tells as much.
pub(crate) async fn probe(
    State(edge): State<Arc<Parts>>,
    ConnectInfo(peer): ConnectInfo<ClientAddress>,
    headers: HeaderMap,
) -> Response {
    let client = limit_key(client_of(&edge, peer, &headers));
    let status = match edge.probes.take(client, Instant::now()) {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::TOO_MANY_REQUESTS,
    };
    let mut response = with_cors(status.into_response());
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Without it a page of another origin sees no timings of the request's parts.
    headers.insert("timing-allow-origin", HeaderValue::from_static("*"));
    response
}

/// Regions near the client. An edge that cannot ask answers with none: joining needs no measurements.
pub(crate) async fn targets(
    State(edge): State<Arc<Parts>>,
    ConnectInfo(peer): ConnectInfo<ClientAddress>,
    Query(query): Query<ProbesQuery>,
    headers: HeaderMap,
) -> Response {
    let request = v1::ProbesRequest {
        client_address: client_of(&edge, peer, &headers).to_string(),
        from: query.from,
    };
    let answer = match &edge.control {
        Some(control) => control.probes(request).await,
        None => Ok(v1::ProbesAnswer::default()),
    };
    let (reply, cache) = match answer {
        Ok(answer) => (ProbesReply::from(answer), CACHE_CONTROL),
        Err(status) => {
            tracing::debug!(%status, "the list of regions to probe could not be had");
            (ProbesReply::default(), "no-store")
        }
    };
    with_cors(([(header::CACHE_CONTROL, cache)], Json(reply)).into_response())
}
