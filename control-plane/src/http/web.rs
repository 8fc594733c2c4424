//! The built web app: files from a directory; any other path is a page of the app (a meeting's link) and gets its `index.html`.

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use std::path::Path;
use tower_http::services::{ServeDir, ServeFile};

/// Vite puts a hash of the content into these files' names: they never change.
const HASHED: &str = "/assets/";

pub(super) fn router(directory: Option<&Path>) -> Router {
    let Some(directory) = directory else {
        return Router::new().fallback(no_app);
    };
    let index = ServeFile::new(directory.join("index.html"));
    Router::new()
        .nest_service(
            "/assets",
            ServeDir::new(directory.join("assets"))
                .precompressed_br()
                .precompressed_gzip(),
        )
        .fallback_service(ServeDir::new(directory).fallback(index))
        .layer(middleware::from_fn(caching))
}

async fn no_app(request: Request) -> Response {
    if request.uri().path() != "/" {
        return StatusCode::NOT_FOUND.into_response();
    }
    Html("<!doctype html><title>Meridian</title><p>This control plane serves the API only: http.web_directory is not set.").into_response()
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
    response
}
