//! What operators ask, with one of the `operator_tokens` as Bearer token.

use super::{App, ClientIp, bearer, refuse};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use meridian_access::limits::Limiter;
use meridian_access::network::limit_key;
use meridian_wire::join::Refusal;
use serde::Deserialize;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

/// Wrong tokens a minute from one address.
const WRONG_TOKENS_PER_MINUTE: u32 = 20;

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
        let refused = |status: StatusCode, code: &str, message: &str| {
            let body = serde_json::json!({ "code": code, "message": message });
            Box::new((status, axum::Json(body)).into_response())
        };
        if self.tokens.borrow().is_empty() {
            let message =
                "This control plane has no operator_tokens in its configuration: set one to ask it such things.";
            return Err(refused(StatusCode::FORBIDDEN, "no_operators", message));
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
            return Err(refused(StatusCode::UNAUTHORIZED, "not_operator", message));
        }
        self.tries.give_back(&key);
        Ok(())
    }
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
