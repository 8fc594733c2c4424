//! The HTTP routes of accounts, under `/api/v1`.

use crate::http::{App, ClientIp, bearer, json, refuse};
use crate::meetings::join::MeetingInfo;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use meridian_wire::join::Refusal;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/accounts", post(sign_up))
        .route("/sessions", post(sign_in).delete(sign_out))
        .route("/sessions/refresh", post(refresh))
        .route("/account", get(account))
        .route("/account/meetings", get(meetings))
}

#[derive(Deserialize)]
struct Refresh {
    refresh_token: String,
}

#[derive(Serialize)]
struct Meetings {
    /// The latest first.
    meetings: Vec<MeetingInfo>,
}

fn answer<T: Serialize>(status: StatusCode, result: Result<T, Refusal>) -> Response {
    match result {
        Ok(body) => (status, axum::Json(body)).into_response(),
        Err(refusal) => refuse(&refusal),
    }
}

async fn sign_up(
    State(app): State<Arc<App>>,
    ClientIp(client): ClientIp,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let signed_up = async { app.accounts.sign_up(json(&headers, body)?, client).await };
    answer(StatusCode::CREATED, signed_up.await)
}

async fn sign_in(
    State(app): State<Arc<App>>,
    ClientIp(client): ClientIp,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let signed_in = async { app.accounts.sign_in(json(&headers, body)?, client).await };
    answer(StatusCode::CREATED, signed_in.await)
}

async fn refresh(
    State(app): State<Arc<App>>,
    ClientIp(client): ClientIp,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let refreshed = async {
        let body: Refresh = json(&headers, body)?;
        app.accounts.refresh(&body.refresh_token, client).await
    };
    answer(StatusCode::OK, refreshed.await)
}

async fn sign_out(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    match app.accounts.sign_out(bearer(&headers)).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refusal) => refuse(&refusal),
    }
}

async fn account(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    answer(StatusCode::OK, app.accounts.account(bearer(&headers)).await)
}

async fn meetings(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let meetings = async {
        let who = app.accounts.who(bearer(&headers))?;
        let meetings = app.joins.meetings_of(&who.sub).await?;
        Ok(Meetings { meetings })
    };
    answer(StatusCode::OK, meetings.await)
}
