//! `POST /api/v1/meetings/{code}/join` on an edge: forwarded to the control plane over the warm gRPC connection, so that a
//! client which reaches any edge can join. Bodies are those of the control plane's own HTTP API (`meridian_api::join`).

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use meridian_api::join::{ErrorReply, JoinBody, JoinReply};
use meridian_api::v1::JoinRefused;
use meridian_api::v1::join_answer::Answer;

use super::ClientAddress;
use super::rtc::with_cors;
use crate::edge::EdgeState;

pub(crate) async fn join(
    State(edge): State<Arc<EdgeState>>,
    ConnectInfo(ClientAddress(address)): ConnectInfo<ClientAddress>,
    Path(code): Path<String>,
    body: Result<Json<JoinBody>, JsonRejection>,
) -> Response {
    let body = match body {
        Ok(Json(body)) => body,
        Err(rejection) => return refused(&refusal(400, "bad_request", &rejection.body_text())),
    };
    let Some(control) = &edge.control else {
        let text = "This edge runs without a control plane, so it knows no meetings. Join with a token instead.";
        return refused(&refusal(501, "no_control_plane", text));
    };
    let request = body.into_request(&code, &address.ip().to_string());
    match control.join(request).await.map(|answer| answer.answer) {
        Ok(Some(Answer::Granted(granted))) => with_cors(Json(JoinReply::from(granted)).into_response()),
        Ok(Some(Answer::Refused(refusal))) => refused(&refusal),
        Ok(None) | Err(_) => {
            let text = "The meeting service can't be reached right now. Meetings under way go on; try again in a few seconds.";
            refused(&JoinRefused { retry_after_s: 3, ..refusal(503, "unavailable", text) })
        }
    }
}

/// Browsers ask before they post JSON across origins.
pub(crate) async fn preflight() -> Response {
    let mut response = with_cors(StatusCode::NO_CONTENT.into_response());
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("content-type"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

fn refusal(status: u32, code: &str, message: &str) -> JoinRefused {
    JoinRefused { status, code: code.to_owned(), message: message.to_owned(), retry_after_s: 0 }
}

fn refused(refusal: &JoinRefused) -> Response {
    let status = u16::try_from(refusal.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let body = Json(ErrorReply::from(refusal));
    with_cors((status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), body).into_response())
}
