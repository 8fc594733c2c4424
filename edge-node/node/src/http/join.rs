//! `POST /api/v1/meetings/{code}/join` on an edge: forwarded to the control plane over the warm gRPC connection, so that a
//! client which reaches any edge can join. The answer's JSON is the one the control plane gives over HTTP.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use meridian_api::v1;
use serde::{Deserialize, Serialize};

use super::ClientAddress;
use super::rtc::with_cors;
use crate::edge::EdgeState;

#[derive(Deserialize)]
pub(crate) struct JoinBody {
    #[serde(default)]
    name: String,
    #[serde(default)]
    passcode: String,
    #[serde(default)]
    from: String,
    #[serde(default)]
    probes: Vec<ProbeBody>,
    #[serde(default)]
    avoid: Vec<String>,
    #[serde(default)]
    previous_token: String,
}

#[derive(Deserialize)]
struct ProbeBody {
    region: String,
    rtt_ms: f32,
}

#[derive(Serialize)]
struct Granted {
    edge: EdgeBody,
    alternates: Vec<EdgeBody>,
    ice_servers: Vec<IceServerBody>,
    token: String,
    identity: String,
    room: String,
    title: String,
    reasons: Vec<ReasonBody>,
    expires: u64,
}

#[derive(Serialize)]
struct EdgeBody {
    id: String,
    region: String,
    url: String,
}

#[derive(Serialize)]
struct IceServerBody {
    urls: Vec<String>,
    username: String,
    credential: String,
}

#[derive(Serialize)]
struct ReasonBody {
    edge: String,
    kind: String,
    value: f64,
    text: String,
}

#[derive(Serialize)]
struct Refused {
    code: String,
    message: String,
    #[serde(skip_serializing_if = "is_zero")]
    retry_after_s: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

pub(crate) async fn join(
    State(edge): State<Arc<EdgeState>>,
    ConnectInfo(ClientAddress(address)): ConnectInfo<ClientAddress>,
    Path(code): Path<String>,
    body: Result<Json<JoinBody>, JsonRejection>,
) -> Response {
    let body = match body {
        Ok(Json(body)) => body,
        Err(rejection) => return refused(StatusCode::BAD_REQUEST, "bad_request", &rejection.body_text(), 0),
    };
    let Some(control) = &edge.control else {
        return refused(
            StatusCode::NOT_IMPLEMENTED,
            "no_control_plane",
            "This edge runs without a control plane, so it knows no meetings. Join with a token instead.",
            0,
        );
    };
    let request = v1::JoinRequest {
        code,
        name: body.name,
        passcode: body.passcode,
        client_address: address.ip().to_string(),
        from: body.from,
        probes: body
            .probes
            .into_iter()
            .map(|probe| v1::Probe {
                region: probe.region,
                rtt_ms: probe.rtt_ms,
            })
            .collect(),
        avoid: body.avoid,
        previous_token: body.previous_token,
    };
    match control.join(request).await.map(|answer| answer.answer) {
        Ok(Some(v1::join_answer::Answer::Granted(granted))) => with_cors(Json(Granted::from(granted)).into_response()),
        Ok(Some(v1::join_answer::Answer::Refused(no))) => {
            let status = u16::try_from(no.status)
                .ok()
                .and_then(|status| StatusCode::from_u16(status).ok());
            refused(
                status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                &no.code,
                &no.message,
                no.retry_after_s,
            )
        }
        Ok(None) | Err(_) => refused(
            StatusCode::SERVICE_UNAVAILABLE,
            "control_plane_away",
            "The meeting service can't be reached right now. Meetings under way go on; try again in a few seconds.",
            3,
        ),
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

fn refused(status: StatusCode, code: &str, message: &str, retry_after_s: u32) -> Response {
    let body = Refused {
        code: code.to_owned(),
        message: message.to_owned(),
        retry_after_s,
    };
    with_cors((status, Json(body)).into_response())
}

impl From<v1::JoinGranted> for Granted {
    fn from(granted: v1::JoinGranted) -> Granted {
        let edge = |address: v1::EdgeAddress| EdgeBody {
            id: address.id,
            region: address.region,
            url: address.url,
        };
        let ice = |server: v1::IceServer| IceServerBody {
            urls: server.urls,
            username: server.username,
            credential: server.credential,
        };
        let reason = |reason: v1::Reason| ReasonBody {
            edge: reason.edge,
            kind: reason.kind,
            value: reason.value,
            text: reason.text,
        };
        Granted {
            edge: edge(granted.edge.unwrap_or_default()),
            alternates: granted.alternates.into_iter().map(edge).collect(),
            ice_servers: granted.ice_servers.into_iter().map(ice).collect(),
            token: granted.token,
            identity: granted.identity,
            room: granted.room,
            title: granted.title,
            reasons: granted.reasons.into_iter().map(reason).collect(),
            expires: granted.expires,
        }
    }
}
