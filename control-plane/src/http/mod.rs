//! HTTP: what browsers and scripts talk to. The API under `/api/v1`, the web app everywhere else, and what probes and Prometheus read.

mod api;
mod openapi;
mod operator;
mod policy;
mod rate;
mod web;

pub(crate) use api::json;
pub(crate) use policy::is_edge_origin;
pub(crate) use rate::Rate;

use crate::accounts::{self, Accounts};
use crate::database::Database;
use crate::meetings::join::JoinService;
use crate::operators::Operators;
use axum::Router;
use axum::extract::rejection::ExtensionRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use meridian_access::network::{Network, client_address};
use meridian_geodns::GeoDns;
use meridian_serving::listener::ClientAddress;
use meridian_serving::problem::Problem;
use meridian_wire::join::{BODY_BYTES_MAX, Refusal};
use meridian_wire::v1;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What every handler shares.
pub(crate) struct App {
    pub(crate) joins: Arc<JoinService>,
    pub(crate) database: Database,
    pub(crate) accounts: Accounts,
    pub(crate) dns: Option<Arc<GeoDns>>,
    pub(crate) operators: Arc<Operators>,
    pub(crate) rate: Rate,
    pub(crate) trusted_proxies: Vec<Network>,
    pub(crate) allowed_origins: Vec<String>,
    pub(crate) web_directory: Option<PathBuf>,
    /// Edges that may come while a page is open.
    pub(crate) edge_origins: Vec<String>,
}

/// The client's own address: of the connection, or what a trusted proxy says.
pub(crate) struct ClientIp(pub(crate) IpAddr);

impl FromRequestParts<Arc<App>> for ClientIp {
    type Rejection = ExtensionRejection;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ExtensionRejection> {
        let ConnectInfo(peer) = ConnectInfo::<ClientAddress>::from_request_parts(parts, app).await?;
        let lines = parts.headers.get_all("x-forwarded-for").iter();
        let forwarded: Vec<&str> = lines.filter_map(|value| value.to_str().ok()).collect();
        let address = client_address(peer.0.ip(), forwarded.into_iter(), &app.trusted_proxies);
        Ok(ClientIp(address))
    }
}

/// The token of `Authorization: Bearer …`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ").map(str::trim)
}

pub(crate) fn router(app: Arc<App>) -> Router {
    // A route is made of what describes it: none is missing in the document.
    let described = OpenApiRouter::with_openapi(openapi::about())
        .routes(routes!(api::create))
        .routes(routes!(api::info, api::end))
        .routes(routes!(api::join))
        .routes(routes!(api::recording_token))
        .routes(routes!(api::regions))
        .routes(routes!(api::probes))
        .routes(routes!(operator::explain))
        .routes(routes!(operator::matrix))
        .routes(routes!(operator::pops))
        .routes(routes!(operator::pop))
        .routes(routes!(operator::act))
        .merge(accounts::routes::router());
    let (api, document) = described.split_for_parts();
    let api = api
        .merge(openapi::router(document))
        .fallback(api::unknown)
        .method_not_allowed_fallback(api::wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(app.clone(), rate::limit))
        .layer(middleware::from_fn_with_state(app.clone(), cross_origin))
        .layer(middleware::from_fn(not_cached));
    let web = web::router(&app);
    Router::new()
        .nest("/api/v1", api)
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(app)
        .merge(web)
        .layer(middleware::from_fn(harden))
}

/// Ready to take joins: the database answers and the registry has been heard.
async fn ready(State(app): State<Arc<App>>) -> Response {
    let database = app.database.is_ready().await;
    let view = app.joins.fleet.view();
    let ready = database && view.known;
    let body = serde_json::json!({
        "ready": ready,
        "database": database,
        "registry": view.known,
        "nodes": view.nodes.len(),
        "edges_attached": app.joins.fleet.attached(),
    });
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, axum::Json(body)).into_response()
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let fleet = &app.joins.fleet;
    let mut gauges = vec![
        ("meridian_edges_attached", String::new(), fleet.attached() as f64),
        ("meridian_nodes", String::new(), fleet.view().nodes.len() as f64),
        ("meridian_replicas", String::new(), fleet.replicas() as f64),
        ("meridian_learned_rows", String::new(), app.joins.learning.rows() as f64),
    ];
    let edges = fleet.summaries(Instant::now());
    let label = |id: &str| format!("node=\"{id}\"");
    gauges.extend(edges.iter().map(|edge| {
        (
            "meridian_edge_participants",
            label(&edge.id),
            f64::from(edge.participants),
        )
    }));
    gauges.extend(
        edges
            .iter()
            .map(|edge| ("meridian_edge_load", label(&edge.id), edge.load)),
    );
    gauges.extend(edges.iter().map(|edge| {
        (
            "meridian_edge_healthy",
            label(&edge.id),
            f64::from(u8::from(edge.healthy)),
        )
    }));
    let mut text = app.joins.metrics.render(&gauges);
    if let Some(dns) = &app.dns {
        text.push_str(&dns.render_metrics());
    }
    meridian_process::log::render_metrics(&mut text);
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}

/// A refusal as HTTP.
pub(crate) fn refuse(refusal: &Refusal) -> Response {
    let refused = v1::JoinRefused::from(refusal.clone());
    Problem::new(refusal.status(), refusal.code(), refused.message)
        .retry_after_s(refused.retry_after_s)
        .into_response()
}

/// CORS for the origins that the operator named. No cookies are involved, so credentials are never allowed.
async fn cross_origin(State(app): State<Arc<App>>, request: axum::extract::Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let named = |value: &HeaderValue| {
        app.allowed_origins
            .iter()
            .any(|one| one == "*" || one.as_bytes() == value.as_bytes())
    };
    let allowed = origin.filter(named);
    let preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if preflight {
        StatusCode::NO_CONTENT.into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(
                "retry-after, ratelimit-limit, ratelimit-remaining, ratelimit-reset, x-request-id",
            ),
        );
        if preflight {
            headers.insert(
                header::ACCESS_CONTROL_ALLOW_METHODS,
                HeaderValue::from_static("GET, POST, DELETE"),
            );
            headers.insert(
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                HeaderValue::from_static("content-type, authorization"),
            );
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("3600"));
        }
    }
    response
}

/// Answers are one client's, once, unless they say otherwise.
async fn not_cached(request: axum::extract::Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response
        .headers_mut()
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Headers that every answer carries.
async fn harden(request: axum::extract::Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // A meeting's link is a secret of sorts: it does not travel to other sites as a referrer.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(policy::NO_PAGE));
    response
}
