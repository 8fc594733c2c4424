//! `/api/v1/rooms/{room}/recording`: whether a room is recorded; PUT begins, DELETE ends. Asked of any edge where somebody of the room is; the room's
//! other edges follow. The bearer's token needs `roomRecord`, and `room` if it is not for all rooms.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use meridian_conference::Input;
use meridian_recorder::RecordingId;
use meridian_room::RoomName;
use meridian_serving::problem::Problem;
use rand::Rng;
use rand::distr::Alphanumeric;
use serde_json::json;

use super::Parts;
use super::rtc::with_cors;
use crate::clock::unix_now_ms;
use crate::handles::{RoomHandle, ToRoom};

pub(crate) async fn preflight() -> Response {
    let mut response = with_cors(StatusCode::NO_CONTENT.into_response());
    let headers = response.headers_mut();
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, PUT, DELETE"),
    );
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("authorization"),
    );
    response
}

pub(crate) async fn show(State(edge): State<Arc<Parts>>, Path(room): Path<String>, headers: HeaderMap) -> Response {
    match admit(&edge, &room, &headers) {
        Ok(handle) => answer(StatusCode::OK, &edge, handle.recording()),
        Err(refusal) => *refusal,
    }
}

/// Begins to record; a room that is recorded already goes on under its id.
pub(crate) async fn start(State(edge): State<Arc<Parts>>, Path(room): Path<String>, headers: HeaderMap) -> Response {
    let handle = match admit(&edge, &room, &headers) {
        Ok(handle) => handle,
        Err(refusal) => return *refusal,
    };
    if !edge.recorder.is_on() {
        return refuse(
            StatusCode::NOT_IMPLEMENTED,
            "this edge records nothing: its operator has to set recording.store",
        );
    }
    if let Some(id) = handle.recording() {
        return answer(StatusCode::OK, &edge, Some(id));
    }
    let id = new_id();
    if handle
        .send(ToRoom::Input(Input::Record(Some(id.clone()))))
        .await
        .is_err()
    {
        return refuse(StatusCode::NOT_FOUND, "the room has just ended");
    }
    answer(StatusCode::ACCEPTED, &edge, Some(id))
}

pub(crate) async fn stop(State(edge): State<Arc<Parts>>, Path(room): Path<String>, headers: HeaderMap) -> Response {
    let handle = match admit(&edge, &room, &headers) {
        Ok(handle) => handle,
        Err(refusal) => return *refusal,
    };
    let id = handle.recording();
    if handle.send(ToRoom::Input(Input::Record(None))).await.is_err() {
        return refuse(StatusCode::NOT_FOUND, "the room has just ended");
    }
    answer(StatusCode::ACCEPTED, &edge, id)
}

fn admit(edge: &Parts, room: &str, headers: &HeaderMap) -> Result<RoomHandle, Box<Response>> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let Some(token) = bearer else {
        return Err(refusal(
            StatusCode::UNAUTHORIZED,
            "send a token as Authorization: Bearer TOKEN",
        ));
    };
    let claims = meridian_access::token::verify(token, &edge.admission.keys())
        .map_err(|error| refusal(StatusCode::UNAUTHORIZED, &format!("invalid token: {error}")))?;
    let may = claims
        .video
        .as_ref()
        .is_some_and(|grants| grants.room_record && (grants.room.is_empty() || grants.room == room));
    if !may {
        return Err(refusal(
            StatusCode::FORBIDDEN,
            "the token does not allow recording this room: it needs roomRecord, and no other room's name",
        ));
    }
    let handle = edge.live.get(&RoomName::new(room)).ok_or_else(|| {
        refusal(
            StatusCode::NOT_FOUND,
            "nobody of this room is on this edge: ask the edge that somebody joined, or join first",
        )
    })?;
    Ok(handle)
}

/// When it began, readable and sorted, and what cannot be guessed.
fn new_id() -> String {
    let random: String = rand::rng().sample_iter(Alphanumeric).take(10).map(char::from).collect();
    let id = format!("rec-{}-{random}", unix_now_ms());
    debug_assert!(RecordingId::new(&id).is_ok());
    id
}

fn answer(status: StatusCode, edge: &Parts, id: Option<String>) -> Response {
    let trouble = edge.recorder.status.trouble().map(|trouble| trouble.to_string());
    let body = axum::Json(json!({ "recording": id, "trouble": trouble }));
    with_cors((status, body).into_response())
}

fn refuse(status: StatusCode, text: &str) -> Response {
    let code = match status {
        StatusCode::FORBIDDEN => "may_not_record",
        StatusCode::NOT_FOUND => "no_such_room",
        StatusCode::NOT_IMPLEMENTED => "records_nothing",
        _ => "not_signed_in",
    };
    with_cors(Problem::new(status.as_u16(), code, text).into_response())
}

fn refusal(status: StatusCode, text: &str) -> Box<Response> {
    Box::new(refuse(status, text))
}
