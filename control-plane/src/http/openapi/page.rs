//! The description as a page: plain HTML, made once.

use aws_lc_rs::digest;
use axum::http::HeaderValue;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt::Write as _;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::{OpenApi, RefOr};

const STYLE: &str = "body{font:1rem/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}\
code{font-size:.95em}h2{margin-top:2.5rem}h3{margin:1.8rem 0 .2rem}table{border-collapse:collapse}\
td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}";

/// Nothing but the page's own style.
pub(super) fn policy() -> HeaderValue {
    let hash = STANDARD.encode(digest::digest(&digest::SHA256, STYLE.as_bytes()));
    let text = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    );
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(super::super::policy::NO_PAGE))
}

pub(super) fn render(document: &OpenApi) -> String {
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>Meridian's API</title>\
         <style>{STYLE}</style><h1>Meridian's API</h1><p>{}</p><p>For programs: <a href=openapi.json>openapi.json</a> (OpenAPI 3.1). \
         All paths lie under <code>/api/v1</code>.</p>",
        escaped(document.info.description.as_deref().unwrap_or_default())
    );
    for tag in document.tags.iter().flatten() {
        let about = escaped(tag.description.as_deref().unwrap_or_default());
        let _ = write!(page, "<h2>{}</h2><p>{about}.</p>", escaped(&tag.name));
        for (path, item) in &document.paths.paths {
            for (method, operation) in methods(item) {
                if operation.tags.iter().flatten().any(|name| *name == tag.name) {
                    section(&mut page, method, path, operation);
                }
            }
        }
    }
    page.push_str("</html>\n");
    page
}

fn methods(item: &PathItem) -> impl Iterator<Item = (&'static str, &Operation)> {
    [("GET", &item.get), ("POST", &item.post), ("DELETE", &item.delete)]
        .into_iter()
        .filter_map(|(method, operation)| Some((method, operation.as_ref()?)))
}

fn section(page: &mut String, method: &str, path: &str, operation: &Operation) {
    let _ = write!(page, "<h3><code>{method} {}</code></h3>", escaped(path));
    let words = [&operation.summary, &operation.description];
    for text in words.into_iter().flatten() {
        let _ = write!(page, "<p>{}</p>", escaped(text));
    }
    page.push_str("<table>");
    for parameter in operation.parameters.iter().flatten() {
        let RefOr::T(parameter) = parameter else { continue };
        let about = escaped(parameter.description.as_deref().unwrap_or_default());
        let _ = write!(page, "<tr><th><code>{}</code><td>{about}", escaped(&parameter.name));
    }
    for (status, response) in &operation.responses.responses {
        if let RefOr::T(response) = response {
            let _ = write!(
                page,
                "<tr><th>{}<td>{}",
                escaped(status),
                escaped(&response.description)
            );
        }
    }
    page.push_str("</table>");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_words_and_not_markup() {
        assert_eq!(escaped("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
