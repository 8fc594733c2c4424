//! What every request gets on its way to a router, and every answer on its way back: an id, and words.

use super::front::{QUERY_HEADER, Told};
use crate::problem::{MEDIA_TYPE, Problem};
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use std::sync::atomic::Ordering;

/// Names a request in logs and in its answer.
pub const REQUEST_ID: &str = "x-request-id";
const ID_CHARS_MAX: usize = 64;
/// Longest words of a router's own refusal that are kept.
const WORDS_BYTES_MAX: usize = 4 * 1024;

/// The query of a request whose address would have been too long. See [`query`].
#[derive(Clone)]
struct LongQuery(HeaderValue);

/// A request's query, without the question mark; empty if it has none. Longer than a [`axum::http::Uri`] can hold, if need be.
pub fn query(parts: &axum::http::request::Parts) -> &str {
    let long = parts.extensions.get::<LongQuery>();
    long.and_then(|long| long.0.to_str().ok())
        .unwrap_or_else(|| parts.uri.query().unwrap_or_default())
}

/// Takes in what [`super::front`] has done; names the request.
pub(super) fn prepare(request: &mut Request<Body>, told: &Told) -> HeaderValue {
    let long = request.headers_mut().remove(QUERY_HEADER);
    if let Some(query) = long.filter(|_| told.long.swap(false, Ordering::Relaxed)) {
        request.extensions_mut().insert(LongQuery(query));
    }
    // A proxy's or a client's own id is kept, so that their logs and ours can be laid side by side.
    let given = request.headers().get(REQUEST_ID).filter(|id| is_id(id));
    given.cloned().unwrap_or_else(new_id)
}

fn is_id(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=ID_CHARS_MAX).contains(&bytes.len()) && bytes.iter().all(plain)
}

fn new_id() -> HeaderValue {
    let text = format!("{:016x}", rand::random::<u64>());
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("0"))
}

/// Names the answer; a refusal without words of its own, of a router or an extractor, becomes a problem.
pub(super) async fn finish(
    mut response: Response<Body>,
    path_is_api: bool,
    id: HeaderValue,
    told: &Told,
) -> Response<Body> {
    let status = response.status();
    if status.is_client_error() {
        told.refused.store(true, Ordering::Relaxed);
    }
    let kind = response.headers().get(header::CONTENT_TYPE);
    let text = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if (status.is_client_error() || status.is_server_error()) && (kind.is_none() || (text && path_is_api)) {
        response = in_words(response, status).await;
    }
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

async fn in_words(response: Response<Body>, status: StatusCode) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let words = axum::body::to_bytes(body, WORDS_BYTES_MAX).await.unwrap_or_default();
    let mut problem = Problem::of_status(status);
    if let Ok(words) = std::str::from_utf8(&words)
        && !words.trim().is_empty()
    {
        problem = Problem::new(
            status.as_u16(),
            &problem.code,
            format!("{}.", words.trim().trim_end_matches('.')),
        );
    }
    parts.headers.remove(header::CONTENT_LENGTH);
    parts
        .headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    Response::from_parts(parts, Body::from(problem.to_json()))
}
