//! The HTTP routes of accounts, under `/api/v1`.

use super::{AccountReply, SessionReply, SignIn, SignUp};
use crate::http::{App, ClientIp, bearer, json, refuse};
use crate::meetings::join::MeetingInfo;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use meridian_wire::join::Refusal;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(sign_up))
        .routes(routes!(sign_in, sign_out))
        .routes(routes!(refresh))
        .routes(routes!(account))
        .routes(routes!(meetings))
}

#[derive(Deserialize, ToSchema)]
struct Refresh {
    refresh_token: String,
}

#[derive(Serialize, ToSchema)]
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

/// Makes an account and signs in. The address is not verified.
#[utoipa::path(
    post, path = "/accounts", tag = "accounts", request_body = SignUp,
    responses((status = 201, description = "Signed in", body = SessionReply)),
)]
async fn sign_up(
    State(app): State<Arc<App>>,
    ClientIp(client): ClientIp,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let signed_up = async { app.accounts.sign_up(json(&headers, body)?, client).await };
    answer(StatusCode::CREATED, signed_up.await)
}

/// Signs in on one more device.
#[utoipa::path(
    post, path = "/sessions", tag = "accounts", request_body = SignIn,
    responses((status = 201, description = "Signed in", body = SessionReply)),
)]
async fn sign_in(
    State(app): State<Arc<App>>,
    ClientIp(client): ClientIp,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let signed_in = async { app.accounts.sign_in(json(&headers, body)?, client).await };
    answer(StatusCode::CREATED, signed_in.await)
}

/// New tokens for a refresh token, which is good once: one that is shown twice ends its session.
#[utoipa::path(
    post, path = "/sessions/refresh", tag = "accounts", request_body = Refresh,
    responses((status = 200, description = "The next tokens", body = SessionReply)),
)]
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

/// Ends the session of the access token.
#[utoipa::path(
    delete, path = "/sessions", tag = "accounts", security(("access_token" = [])),
    responses((status = 204, description = "Signed out")),
)]
async fn sign_out(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    match app.accounts.sign_out(bearer(&headers)).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refusal) => refuse(&refusal),
    }
}

/// Whose access token this is.
#[utoipa::path(
    get, path = "/account", tag = "accounts", security(("access_token" = [])),
    responses((status = 200, description = "The account", body = AccountReply)),
)]
async fn account(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    answer(StatusCode::OK, app.accounts.account(bearer(&headers)).await)
}

/// The account's open meetings.
#[utoipa::path(
    get, path = "/account/meetings", tag = "accounts", security(("access_token" = [])),
    responses((status = 200, description = "The latest first, at most 200", body = Meetings)),
)]
async fn meetings(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let meetings = async {
        let who = app.accounts.who(bearer(&headers))?;
        let meetings = app.joins.meetings_of(&who.sub).await?;
        Ok(Meetings { meetings })
    };
    answer(StatusCode::OK, meetings.await)
}
