//! The built web app: files from a directory; any other path is a page of the app (a meeting's link) and gets its `index.html`.

use super::{App, policy};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use std::sync::Arc;
use tower_http::services::{ServeDir, ServeFile};

/// Vite puts a hash of the content into these files' names: they never change.
const HASHED: &str = "/assets/";

pub(super) fn router(app: &Arc<App>) -> Router {
    let Some(directory) = &app.web_directory else {
        return Router::new().fallback(no_app);
    };
    // The build leaves a `.br` and a `.gz` beside each file that gains by it.
    let index = ServeFile::new(directory.join("index.html"))
        .precompressed_br()
        .precompressed_gzip();
    let files = ServeDir::new(directory)
        .precompressed_br()
        .precompressed_gzip()
        .fallback(index);
    Router::new()
        .nest_service(
            "/assets",
            ServeDir::new(directory.join("assets"))
                .precompressed_br()
                .precompressed_gzip(),
        )
        .fallback_service(files)
        .layer(middleware::from_fn_with_state(app.clone(), page))
        .layer(middleware::from_fn(caching))
}

async fn no_app(request: Request) -> Response {
    if request.uri().path() != "/" {
        return StatusCode::NOT_FOUND.into_response();
    }
    Html("<!doctype html><title>Meridian</title><p>This control plane serves the API only: http.web_directory is not set.").into_response()
}

/// Pages say what they may do.
async fn page(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let hashed = request.uri().path().starts_with(HASHED);
    let mut response = next.run(request).await;
    // "Not modified" names no type, and its headers take the place of those that the browser has kept.
    let kept = response.status() == StatusCode::NOT_MODIFIED && !hashed;
    let headers = response.headers_mut();
    let is_page = |kind: &HeaderValue| kind.as_bytes().starts_with(b"text/html");
    if kept || headers.get(header::CONTENT_TYPE).is_some_and(is_page) {
        let view = app.joins.fleet.view();
        let known = view.nodes.values().map(|node| node.record.client_url.as_str());
        let edges = app.edge_origins.iter().map(String::as_str).chain(known);
        headers.insert(header::CONTENT_SECURITY_POLICY, policy::of_page(edges));
        headers.insert("permissions-policy", HeaderValue::from_static(policy::PERMISSIONS));
    }
    response
}

async fn caching(request: Request, next: Next) -> Response {
    let hashed = request.uri().path().starts_with(HASHED);
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let mut response = next.run(request).await;
    let value = match response.status() {
        status if !reads || !(status.is_success() || status == StatusCode::NOT_MODIFIED) => "no-store",
        _ if hashed => "public, max-age=31536000, immutable",
        // Everything else is asked for again each time (If-Modified-Since), so that an upgrade is seen at once.
        _ => "no-cache",
    };
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static(value));
    // A cache in between keeps what is compressed apart from what is not.
    response
        .headers_mut()
        .insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}
