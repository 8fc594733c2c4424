//! What operators ask, with one of the `operator_tokens` as Bearer token.

use super::{App, ClientIp, bearer, json, refuse};
use crate::database::now_ms;
use crate::fleet::{Ask, NotDone, Pop};
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use meridian_access::limits::Limiter;
use meridian_access::network::limit_key;
use meridian_serving::problem::Problem;
use meridian_wire::join::Refusal;
use serde::Deserialize;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

/// Wrong tokens a minute from one address.
const WRONG_TOKENS_PER_MINUTE: u32 = 20;

/// Version of the answers about PoPs; fields are only ever added.
const VERSION: u32 = 1;
/// How long a drain takes unless it is said, and at most: a working day is longer than any meeting needs.
const DRAIN_S_DEFAULT: u64 = 600;
const DRAIN_S_MAX: u64 = 24 * 3600;

/// Who is an operator.
pub(crate) struct Operators {
    tokens: watch::Receiver<Vec<String>>,
    tries: Limiter<IpAddr>,
}

impl Operators {
    /// No tokens: there are no operators.
    pub(crate) fn new(tokens: watch::Receiver<Vec<String>>) -> Self {
        Operators {
            tokens,
            tries: Limiter::new(WRONG_TOKENS_PER_MINUTE),
        }
    }

    /// `Err`: the answer to give.
    fn admit(&self, headers: &HeaderMap, client: IpAddr) -> Result<(), Box<Response>> {
        if self.tokens.borrow().is_empty() {
            let message =
                "This control plane has no operator_tokens in its configuration: set one to ask it such things.";
            return Err(refused(403, "no_operators", message));
        }
        let key = limit_key(client);
        // Taken first and given back, so that many guesses at once are not all free.
        if let Err(retry_after_s) = self.tries.take(key, Instant::now()) {
            return Err(Box::new(refuse(&Refusal::TooManyTries { retry_after_s })));
        }
        let given = bearer(headers).unwrap_or_default();
        let is_given = |token: &String| {
            aws_lc_rs::constant_time::verify_slices_are_equal(token.as_bytes(), given.as_bytes()).is_ok()
        };
        if !self.tokens.borrow().iter().any(is_given) {
            let message = "Send one of this control plane's operator_tokens, as `Authorization: Bearer …`.";
            return Err(refused(401, "not_operator", message));
        }
        self.tries.give_back(&key);
        Ok(())
    }
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
pub(super) async fn explain(
    State(app): State<Arc<App>>,
    ClientIp(client): ClientIp,
    headers: HeaderMap,
    Query(query): Query<ExplainQuery>,
) -> Response {
    if let Err(response) = app.operators.admit(&headers, client) {
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

/// Every PoP, and how far drains are.
pub(super) async fn pops(State(app): State<Arc<App>>, ClientIp(client): ClientIp, headers: HeaderMap) -> Response {
    if let Err(response) = app.operators.admit(&headers, client) {
        return *response;
    }
    axum::Json(serde_json::json!({ "version": VERSION, "pops": app.joins.fleet.pops(Instant::now(), now_ms()) }))
        .into_response()
}

pub(super) async fn pop(
    State(app): State<Arc<App>>,
    ClientIp(client): ClientIp,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Response {
    if let Err(response) = app.operators.admit(&headers, client) {
        return *response;
    }
    match found(&app, &id) {
        Ok(pop) => axum::Json(pop).into_response(),
        Err(error) => not_done(&error),
    }
}

#[derive(Deserialize)]
#[serde(default)]
struct ActBody {
    /// Seconds until a drain sends whoever is left away at once.
    deadline_s: u64,
    /// Also the last PoP of its region.
    force: bool,
}

impl Default for ActBody {
    fn default() -> Self {
        ActBody {
            deadline_s: DRAIN_S_DEFAULT,
            force: false,
        }
    }
}

/// `cordon`, `uncordon`, `drain`, `undrain`: answers with the PoP as it is then.
pub(super) async fn act(
    State(app): State<Arc<App>>,
    ClientIp(client): ClientIp,
    headers: HeaderMap,
    Path((id, action)): Path<(String, String)>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    if let Err(response) = app.operators.admit(&headers, client) {
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
        "cordon" => Ask::Cordon,
        "uncordon" => Ask::Uncordon,
        "undrain" => Ask::Undrain,
        "drain" if !(1..=DRAIN_S_MAX).contains(&body.deadline_s) => {
            let message = format!("deadline_s: 1 to {DRAIN_S_MAX}.");
            return refuse(&Refusal::BadRequest(message));
        }
        "drain" => Ask::Drain {
            within_s: body.deadline_s,
            force: body.force,
        },
        _ => {
            return *refused(404, "not_found", "The actions are cordon, uncordon, drain and undrain.");
        }
    };
    let row = match app.joins.fleet.asked(&id, ask, Instant::now(), now_ms()) {
        Ok(row) => row,
        Err(error) => return not_done(&error),
    };
    // Saved first: what an operator was told is done outlives this process.
    if let Err(error) = app.database.save_wanted(std::slice::from_ref(&row)).await {
        tracing::error!(%error, "what an operator wants of an edge could not be saved");
        return refuse(&Refusal::Unavailable);
    }
    tracing::info!(pop = id, action, "asked by an operator");
    app.joins.fleet.take_wanted(vec![row], Instant::now(), now_ms());
    match found(&app, &id) {
        Ok(pop) => axum::Json(pop).into_response(),
        Err(error) => not_done(&error),
    }
}

fn found(app: &App, id: &str) -> Result<Pop, NotDone> {
    let mut pops = app.joins.fleet.pops(Instant::now(), now_ms()).into_iter();
    pops.find(|pop| pop.id == id)
        .ok_or_else(|| NotDone::NoSuchPop(id.chars().take(40).collect()))
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
