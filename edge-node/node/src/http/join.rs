//! `POST /api/v1/meetings/{code}/join` on an edge: forwarded to the control plane over the warm gRPC connection, so that a
//! client which reaches any edge can join. Answers are the control plane's own, word for word (`meridian_wire::join`).

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{ConnectInfo, Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use meridian_serving::listener::ClientAddress;
use meridian_serving::problem::Problem;
use meridian_wire::join::{JoinBody, JoinReply, Refusal, read_json, unread_body};
use meridian_wire::v1;
use meridian_wire::v1::join_answer::Answer;

use super::rtc::with_cors;
use super::{Parts, client_of};

/// What clients are told to wait while the control plane is away: about as long as the stream needs to be back.
const AWAY_RETRY_S: u32 = 3;

pub(crate) async fn join(
    State(edge): State<Arc<Parts>>,
    ConnectInfo(peer): ConnectInfo<ClientAddress>,
    Path(code): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let body: JoinBody = match body
        .map_err(|rejection| unread_body(rejection.status().as_u16()))
        .and_then(|body| read_json(content_type, &body))
    {
        Ok(body) => body,
        Err(refusal) => return refuse(&refusal.into()),
    };
    let Some(control) = &edge.control else {
        return refuse(&v1::JoinRefused {
            status: 501,
            code: "no_control_plane".to_owned(),
            message: "This edge runs without a control plane, so it knows no meetings. Join with a token instead."
                .to_owned(),
            retry_after_s: 0,
        });
    };
    let client = client_of(&edge, peer, &headers);
    match control
        .join(body.into_request(&code, &client.to_string()))
        .await
        .map(|answer| answer.answer)
    {
        Ok(Some(Answer::Granted(granted))) => finish(Json(JoinReply::from(granted)).into_response()),
        Ok(Some(Answer::Refused(refused))) => refuse(&refused),
        // A later version's answer: this edge cannot give it, another or the control plane itself may.
        Ok(None) => refuse(&Refusal::Unavailable.into()),
        Err(status) => {
            tracing::info!(%status, "a join could not be forwarded");
            refuse(&v1::JoinRefused {
                status: 503,
                code: "control_plane_away".to_owned(),
                message: "The meeting service can't be reached right now. Meetings under way go on; try again in a few seconds."
                    .to_owned(),
                retry_after_s: AWAY_RETRY_S,
            })
        }
    }
}

/// Browsers ask before they post JSON across origins.
pub(crate) async fn preflight() -> Response {
    let mut response = with_cors(StatusCode::NO_CONTENT.into_response());
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("content-type"),
    );
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

fn refuse(refused: &v1::JoinRefused) -> Response {
    // A status that HTTP does not know is a later version's mistake, not the client's.
    let status = u16::try_from(refused.status).unwrap_or(500);
    let problem = Problem::new(status, &refused.code, refused.message.as_str());
    finish(problem.retry_after_s(refused.retry_after_s).into_response())
}

/// Tokens and refusals are one client's, once.
fn finish(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    with_cors(response)
}
