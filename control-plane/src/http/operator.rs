//! What operators ask, with one of the `operator_tokens` as Bearer token.

use super::{App, ClientIp, bearer, json, refuse};
use crate::database::now_ms;
use crate::fleet::{Ask, Link, NotDone, Pop};
use crate::operators::{self, Failure, NotOperator};
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use meridian_serving::problem::Problem;
use meridian_wire::join::Refusal;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use utoipa::ToSchema;

/// Version of the answers about PoPs; fields are only ever added.
const VERSION: u32 = 1;

/// `Err`: the answer to give.
fn admit(app: &App, headers: &HeaderMap, client: IpAddr) -> Result<(), Box<Response>> {
    app.operators
        .admit(bearer(headers), client)
        .map_err(|error| match error {
            NotOperator::NoOperators => refused(403, "no_operators", &error.to_string()),
            NotOperator::WrongToken => refused(401, "not_operator", &error.to_string()),
            NotOperator::TooManyTries { retry_after_s } => Box::new(refuse(&Refusal::TooManyTries { retry_after_s })),
        })
}

fn refused(status: u16, code: &str, message: &str) -> Box<Response> {
    Box::new(Problem::new(status, code, message).into_response())
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ExplainQuery {
    /// The client's address.
    address: String,
    /// A meeting's code: its people, and its residency, count.
    meeting: String,
    /// A region to stand in for the client's place.
    from: String,
}

/// Where somebody at an address would be sent, and why.
#[utoipa::path(
    get, path = "/operator/assign", tag = "operators", security(("operator_token" = [])),
    params(
        ("address" = String, Query, description = "The client's IP address"),
        ("meeting" = Option<String>, Query, description = "A meeting's code: its people, and its residency, count"),
        ("from" = Option<String>, Query, description = "A region to stand in for the client's place"),
    ),
    responses((status = 200, description = "Where, and everything that was reckoned with", body = Object)),
)]
pub(super) async fn explain(
    State(app): State<Arc<App>>,
    ClientIp(client): ClientIp,
    headers: HeaderMap,
    Query(query): Query<ExplainQuery>,
) -> Response {
    if let Err(response) = admit(&app, &headers, client) {
        return *response;
    }
    let Ok(address) = query.address.parse::<IpAddr>() else {
        let shown: String = query.address.chars().take(60).collect();
        return refuse(&Refusal::BadRequest(format!("`{shown}` is no IP address.")));
    };
    match app.joins.explain(address, &query.meeting, &query.from).await {
        Ok(explanation) => axum::Json(explanation).into_response(),
        Err(refusal) => refuse(&refusal),
    }
}

#[derive(Serialize, ToSchema)]
struct Pops {
    version: u32,
    pops: Vec<Pop>,
}

/// Every PoP, and how far drains are.
#[utoipa::path(
    get, path = "/operator/pops", tag = "operators", security(("operator_token" = [])),
    responses((status = 200, description = "All of them", body = Pops)),
)]
pub(super) async fn pops(State(app): State<Arc<App>>, ClientIp(client): ClientIp, headers: HeaderMap) -> Response {
    if let Err(response) = admit(&app, &headers, client) {
        return *response;
    }
    axum::Json(Pops {
        version: VERSION,
        pops: app.joins.fleet.pops(Instant::now(), now_ms()),
    })
    .into_response()
}

/// One PoP, and how far its drain is.
#[utoipa::path(
    get, path = "/operator/pops/{id}", tag = "operators", security(("operator_token" = [])), params(("id" = String, Path, description = "A PoP's node id")),
    responses((status = 200, description = "As it is now", body = Pop)),
)]
pub(super) async fn pop(
    State(app): State<Arc<App>>,
    ClientIp(client): ClientIp,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Response {
    if let Err(response) = admit(&app, &headers, client) {
        return *response;
    }
    match operators::pop(&app.joins.fleet, &id) {
        Ok(pop) => axum::Json(pop).into_response(),
        Err(error) => not_done(&error),
    }
}

#[derive(Serialize, ToSchema)]
struct Matrix {
    version: u32,
    links: Vec<Link>,
}

/// Round trips and losses between all pairs of PoPs.
#[utoipa::path(
    get, path = "/operator/mesh/matrix", tag = "operators", security(("operator_token" = [])),
    responses((status = 200, description = "As each PoP measures its links", body = Matrix)),
)]
pub(super) async fn matrix(State(app): State<Arc<App>>, ClientIp(client): ClientIp, headers: HeaderMap) -> Response {
    if let Err(response) = admit(&app, &headers, client) {
        return *response;
    }
    axum::Json(Matrix {
        version: VERSION,
        links: app.joins.fleet.links(),
    })
    .into_response()
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct ActBody {
    /// Seconds until a drain sends whoever is left away at once; 0: the usual ten minutes.
    deadline_s: u64,
    /// Also the last PoP of its region.
    force: bool,
}

/// `cordon`, `uncordon`, `drain`, `undrain`: answers with the PoP as it is then.
#[utoipa::path(
    post, path = "/operator/pops/{id}/{action}", tag = "operators", security(("operator_token" = [])),
    params(("id" = String, Path, description = "A PoP's node id"), ("action" = String, Path, description = "`cordon`, `uncordon`, `drain` or `undrain`")),
    request_body(content = Option<ActBody>, description = "Of a drain only"),
    responses((status = 200, description = "The PoP as it is then", body = Pop)),
)]
pub(super) async fn act(
    State(app): State<Arc<App>>,
    ClientIp(client): ClientIp,
    headers: HeaderMap,
    Path((id, action)): Path<(String, String)>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    if let Err(response) = admit(&app, &headers, client) {
        return *response;
    }
    let body = match body {
        Ok(body) if body.is_empty() => Ok(ActBody::default()),
        body => json::<ActBody>(&headers, body),
    };
    let body = match body {
        Ok(body) => body,
        Err(refusal) => return refuse(&refusal),
    };
    let ask = match action.as_str() {
        "cordon" => Ok(Ask::Cordon),
        "uncordon" => Ok(Ask::Uncordon),
        "undrain" => Ok(Ask::Undrain),
        "drain" => operators::drain(body.deadline_s, body.force),
        _ => {
            return *refused(404, "not_found", "The actions are cordon, uncordon, drain and undrain.");
        }
    };
    let ask = match ask {
        Ok(ask) => ask,
        Err(message) => return refuse(&Refusal::BadRequest(message)),
    };
    match operators::act(&app.joins.fleet, &app.database, &id, ask).await {
        Ok(pop) => axum::Json(pop).into_response(),
        Err(Failure::NotDone(error)) => not_done(&error),
        Err(Failure::Store(_)) => refuse(&Refusal::Unavailable),
    }
}

fn not_done(error: &NotDone) -> Response {
    let (status, code) = match error {
        NotDone::NoSuchPop(_) => (404, "no_such_pop"),
        NotDone::LastOfRegion { .. } => (409, "last_of_region"),
        NotDone::IsDraining(_) => (409, "is_draining"),
        NotDone::IsNotDraining(_) => (409, "is_not_draining"),
        NotDone::TooMany => (409, "too_many"),
    };
    *refused(status, code, &error.to_string())
}
