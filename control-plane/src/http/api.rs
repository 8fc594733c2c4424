//! The handlers of `/api/v1`.

use super::{App, ClientIp, bearer, refuse};
use crate::meetings::join::{Host, MeetingInfo, NewMeeting, RecordingToken};
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use meridian_serving::problem::Problem;
use meridian_wire::join::{JoinBody, JoinReply, Refusal, read_json, unread_body};
use meridian_wire::probes::{CACHE_CONTROL, ProbesQuery, ProbesReply};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use utoipa::ToSchema;

#[derive(Serialize, ToSchema)]
struct Created {
    #[serde(flatten)]
    meeting: MeetingInfo,
    /// The web app's page of this meeting, under this control plane's own address.
    path: String,
    /// Ends the meeting (`DELETE`, as a Bearer token), as its owner's access token does. Shown once.
    host_key: String,
}

/// Makes a meeting. Nobody needs to have signed in; a meeting made with an access token is that account's.
#[utoipa::path(
    post, path = "/meetings", tag = "meetings", request_body = NewMeeting, security((), ("access_token" = [])),
    responses((status = 201, description = "The meeting, and its host key, which is shown once", body = Created)),
)]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    ClientIp(client): ClientIp,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let new: NewMeeting = match json(&headers, body) {
        Ok(new) => new,
        Err(refusal) => return refuse(&refusal),
    };
    // Without a token the meeting is nobody's; a wrong one is told, or its owner would miss the meeting later.
    let owner = match bearer(&headers).map(|token| app.accounts.who(Some(token))).transpose() {
        Ok(owner) => owner,
        Err(refusal) => return refuse(&refusal),
    };
    match app
        .joins
        .create(new, owner.as_ref().map(|who| who.sub.as_str()), client)
        .await
    {
        Ok((meeting, host_key)) => {
            let path = format!("/m/{}", meeting.code);
            (
                StatusCode::CREATED,
                axum::Json(Created {
                    meeting,
                    path,
                    host_key,
                }),
            )
                .into_response()
        }
        Err(refusal) => refuse(&refusal),
    }
}

/// What somebody with a meeting's code may know of it.
#[utoipa::path(
    get, path = "/meetings/{code}", tag = "meetings", params(("code" = String, Path, description = "The meeting's code, with or without its dashes")),
    responses((status = 200, description = "An open meeting", body = MeetingInfo)),
)]
pub(super) async fn info(
    State(app): State<Arc<App>>,
    ClientIp(client): ClientIp,
    Path(code): Path<String>,
) -> Response {
    match app.joins.info(&code, client).await {
        Ok(meeting) => axum::Json(meeting).into_response(),
        Err(refusal) => refuse(&refusal),
    }
}

/// Ends a meeting for everybody.
#[utoipa::path(
    delete, path = "/meetings/{code}", tag = "meetings", params(("code" = String, Path, description = "The meeting's code, with or without its dashes")), security(("host_key" = []), ("access_token" = [])),
    responses((status = 204, description = "It has ended")),
)]
pub(super) async fn end(
    State(app): State<Arc<App>>,
    ClientIp(client): ClientIp,
    headers: HeaderMap,
    Path(code): Path<String>,
) -> Response {
    let ended = async { app.joins.end(&code, host(&app, &headers)?.as_host(), client).await };
    match ended.await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refusal) => refuse(&refusal),
    }
}

/// A token with which the host begins and ends the recording, at the edge that carries them.
#[utoipa::path(
    post, path = "/meetings/{code}/recording-token", tag = "meetings", params(("code" = String, Path, description = "The meeting's code, with or without its dashes")),
    security(("host_key" = []), ("access_token" = [])),
    responses((status = 200, description = "A token for `/api/v1/rooms/{room}/recording` of the edges", body = RecordingToken)),
)]
pub(super) async fn recording_token(
    State(app): State<Arc<App>>,
    ClientIp(client): ClientIp,
    headers: HeaderMap,
    Path(code): Path<String>,
) -> Response {
    let host = match host(&app, &headers) {
        Ok(host) => host,
        Err(refusal) => return refuse(&refusal),
    };
    match app.joins.recording_token(&code, host.as_host(), client).await {
        Ok(token) => axum::Json(token).into_response(),
        Err(refusal) => refuse(&refusal),
    }
}

/// Who says that a meeting is theirs.
enum Shown<'a> {
    Key(&'a str),
    Account(String),
}

impl Shown<'_> {
    fn as_host(&self) -> Host<'_> {
        match self {
            Shown::Key(key) => Host::Key(key),
            Shown::Account(account) => Host::Account(account),
        }
    }
}

/// By the Bearer token: the meeting's host key, or the access token of an account.
fn host<'a>(app: &App, headers: &'a HeaderMap) -> Result<Shown<'a>, Refusal> {
    let key = bearer(headers).ok_or(Refusal::NotHost)?;
    // A host key has no dots, a token has two.
    match key.contains('.') {
        true => Ok(Shown::Account(app.accounts.who(Some(key))?.sub)),
        false => Ok(Shown::Key(key)),
    }
}

/// Admits somebody to a meeting: where to connect, with which token, and why there. Every edge answers the same under the same path.
#[utoipa::path(
    post, path = "/meetings/{code}/join", tag = "meetings", params(("code" = String, Path, description = "The meeting's code, with or without its dashes")), request_body = JoinBody,
    responses((status = 200, description = "Where to go, and what to show there", body = JoinReply)),
)]
pub(super) async fn join(
    State(app): State<Arc<App>>,
    ClientIp(client): ClientIp,
    headers: HeaderMap,
    Path(code): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body: JoinBody = match json(&headers, body) {
        Ok(body) => body,
        Err(refusal) => return refuse(&refusal),
    };
    let request = body.into_request(&code, &client.to_string());
    match app.joins.join(request).await {
        Ok(granted) => axum::Json(JoinReply::from(granted)).into_response(),
        Err(refusal) => refuse(&refusal),
    }
}

#[derive(Serialize, ToSchema)]
struct Regions {
    /// Whether a join's `from` is honoured.
    demo: bool,
    regions: Vec<RegionReply>,
}

#[derive(Serialize, ToSchema)]
struct RegionReply {
    name: String,
    city: Option<&'static str>,
    lat: Option<f64>,
    lon: Option<f64>,
    edges: Vec<crate::fleet::EdgeSummary>,
}

/// Regions with their edges: what the web app may probe, and what the demo offers as places.
#[utoipa::path(
    get, path = "/regions", tag = "places",
    responses((status = 200, description = "Every region that has an edge", body = Regions)),
)]
pub(super) async fn regions(State(app): State<Arc<App>>) -> Response {
    let mut by_region: BTreeMap<String, Vec<crate::fleet::EdgeSummary>> = BTreeMap::new();
    for edge in app.joins.fleet.summaries(Instant::now()) {
        by_region.entry(edge.region.clone()).or_default().push(edge);
    }
    let reply = |(name, edges): (String, Vec<crate::fleet::EdgeSummary>)| {
        let location = edges.iter().find_map(|edge| edge.location);
        let city = meridian_geo::regions::find(&name).map(|region| region.city);
        RegionReply {
            name,
            city,
            lat: location.map(|at| at.lat),
            lon: location.map(|at| at.lon),
            edges,
        }
    };
    let regions = by_region.into_iter().map(reply).collect();
    axum::Json(Regions {
        demo: app.joins.is_demo(),
        regions,
    })
    .into_response()
}

/// Which regions the web app may measure while somebody gets ready to join.
#[utoipa::path(
    get, path = "/probes", tag = "places",
    params(("from" = Option<String>, Query, description = "A region that stands in for the client's place; the demo only")),
    responses((status = 200, description = "At most three, the likeliest first", body = ProbesReply)),
)]
pub(super) async fn probes(
    State(app): State<Arc<App>>,
    ClientIp(client): ClientIp,
    Query(query): Query<ProbesQuery>,
) -> Response {
    let answer = app.joins.probes(client, &query.from);
    (
        [(header::CACHE_CONTROL, CACHE_CONTROL)],
        axum::Json(ProbesReply::from(answer)),
    )
        .into_response()
}

pub(super) async fn unknown() -> Problem {
    let detail = "There is no such endpoint. The API lies under /api/v1: meetings, meetings/{code}, meetings/{code}/join, regions, probes, accounts, sessions, account. All of it is described under /api/v1/docs.";
    Problem::new(404, "no_such_endpoint", detail)
}

pub(super) async fn wrong_method() -> Problem {
    Problem::of_status(StatusCode::METHOD_NOT_ALLOWED)
}

pub(crate) fn json<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<T, Refusal> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let body = body.map_err(|rejection| unread_body(rejection.status().as_u16()))?;
    read_json(kind, &body)
}
