//! How many requests of `/api/v1` an address may make, whatever they ask. Single endpoints have limits of their own, by address, meeting
//! or account; who meets one of those is told in the same headers.
//!
//! `RateLimit-Limit`, `-Remaining` and `-Reset` are those of the IETF's draft (draft-ietf-httpapi-ratelimit-headers-05): requests in a
//! minute, requests left, seconds until all of them are there again.

use super::{App, ClientIp, refuse};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use meridian_access::limits::Limiter;
use meridian_access::network::limit_key;
use meridian_wire::join::Refusal;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// The limit of every address.
pub(crate) struct Rate {
    per_minute: u32,
    requests: Limiter<IpAddr>,
}

impl Rate {
    pub(crate) fn new(per_minute: u32) -> Rate {
        Rate {
            per_minute,
            requests: Limiter::new(per_minute),
        }
    }
}

pub(super) async fn limit(
    State(app): State<Arc<App>>,
    ClientIp(client): ClientIp,
    request: Request,
    next: Next,
) -> Response {
    let (key, now) = (limit_key(client), Instant::now());
    let taken = app.rate.requests.take(key, now);
    let left = app.rate.requests.left(&key, now);
    let mut response = match taken {
        Ok(()) => next.run(request).await,
        Err(retry_after_s) => refuse(&Refusal::TooManyTries { retry_after_s }),
    };
    let missing = app.rate.per_minute.saturating_sub(left);
    // Rounded up: at that second they are there.
    let reset_s = (u64::from(missing) * 60).div_ceil(u64::from(app.rate.per_minute.max(1)));
    // Of an endpoint's own limit nothing is left, however much there is of this one.
    let wait = response.headers().get(header::RETRY_AFTER).cloned();
    let wait = wait.filter(|_| response.status() == StatusCode::TOO_MANY_REQUESTS);
    let (left, reset_s) = match wait {
        Some(wait) => (0, wait),
        None => (left, HeaderValue::from(reset_s)),
    };
    let headers = response.headers_mut();
    headers.insert("ratelimit-limit", HeaderValue::from(app.rate.per_minute));
    headers.insert("ratelimit-remaining", HeaderValue::from(left));
    headers.insert("ratelimit-reset", reset_s);
    response
}
