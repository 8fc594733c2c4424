//! The API's own description (OpenAPI 3.1): `/api/v1/openapi.json` for programs, `/api/v1/docs` for people. It is made of what stands beside
//! the handlers. The page runs no script and loads nothing.

mod page;

use super::App;
use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;
use meridian_serving::problem::{MEDIA_TYPE, Problem};
use std::sync::Arc;
use utoipa::OpenApi as _;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Components, Content, OpenApi, PathItem, Ref, RefOr, ResponseBuilder, Server};

/// It changes with the process only.
const CACHE: &str = "public, max-age=300";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Meridian",
        description = "Meetings, and the way into them. Every refusal is a problem (RFC 9457) whose `code` is for programs and whose \
                       `detail` says what to do next; `RateLimit-*` and `Retry-After` tell limits; `X-Request-Id` names a request in the \
                       logs of whoever runs this service."
    ),
    components(schemas(Problem)),
    tags(
        (name = "meetings", description = "Making, joining and ending them"),
        (name = "places", description = "Where edges stand"),
        (name = "accounts", description = "Signing in, which joining a meeting does not need"),
        (name = "operators", description = "For whoever runs this service"),
    )
)]
struct About;

/// What the document says before any route is in it.
pub(super) fn about() -> OpenApi {
    let mut document = About::openapi();
    document.servers = Some(vec![Server::new("/api/v1")]);
    let components = document.components.get_or_insert_with(Components::default);
    for (name, description) in [
        ("access_token", "Of an account: signing in gives it."),
        ("host_key", "Of one meeting: making it gives it."),
        ("operator_token", "One of `operator_tokens` in the configuration."),
    ] {
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        scheme.description = Some(description.to_owned());
        components.add_security_scheme(name, SecurityScheme::Http(scheme));
    }
    document
}

pub(super) fn router(mut document: OpenApi) -> Router<Arc<App>> {
    document.paths.paths.values_mut().flat_map(operations).for_each(refuses);
    let page = page::render(&document);
    let policy = page::policy();
    // Names and texts: nothing in it can fail.
    let json = document.to_json().unwrap_or_default();
    let cached = (header::CACHE_CONTROL, HeaderValue::from_static(CACHE));
    let of_json = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        cached.clone(),
    ];
    let of_page = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        ),
        (header::CONTENT_SECURITY_POLICY, policy),
        cached,
    ];
    Router::new()
        .route("/openapi.json", get(async move || (of_json, json).into_response()))
        .route("/docs", get(async move || (of_page, page).into_response()))
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.put, &mut item.delete]
        .into_iter()
        .filter_map(Option::as_mut)
}

/// Every operation may be refused, and always in the same form.
fn refuses(operation: &mut Operation) {
    for (status, description) in [
        ("4XX", "Refused: the problem says why, and what to do next"),
        ("5XX", "It cannot be answered now: the problem says when to try again"),
    ] {
        let problem = Content::new(Some(Ref::from_schema_name("Problem")));
        let response = ResponseBuilder::new()
            .description(description)
            .content(MEDIA_TYPE, problem)
            .build();
        operation
            .responses
            .responses
            .insert(status.to_owned(), RefOr::T(response));
    }
}
