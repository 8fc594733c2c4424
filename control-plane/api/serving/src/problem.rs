//! Problem details (RFC 9457): the body of every refusal over HTTP, whether a handler refuses, the router, or the listener before either.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

/// RFC 9457 §3.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// `urn:meridian:problem:` and the code: a name, not an address.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in words, the same for every problem of the type.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// For programs: `not_found`, `wrong_passcode`, …
    pub code: String,
    /// For people: what happened, and what to do next.
    pub detail: String,
    /// The same words as `detail`: what clients read before there were problem details.
    pub message: String,
    /// Seconds after which the same request can succeed, as `Retry-After`; left out if time changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u32>,
}

impl Problem {
    pub fn new(status: u16, code: &str, detail: impl Into<String>) -> Problem {
        let detail = detail.into();
        Problem {
            kind: format!("urn:meridian:problem:{code}"),
            title: title(code),
            status,
            code: code.to_owned(),
            message: detail.clone(),
            detail,
            retry_after_s: None,
        }
    }

    /// A status that says everything there is to say.
    pub fn of_status(status: StatusCode) -> Problem {
        let (code, detail) = match status.as_u16() {
            401 => ("not_signed_in", "Send a valid token as `Authorization: Bearer …`."),
            403 => ("forbidden", "This is not allowed here. Ask whoever runs this service."),
            404 => (
                "no_such_endpoint",
                "There is nothing under this address. Compare it with the documentation.",
            ),
            405 => (
                "wrong_method",
                "This endpoint does not take that method. `Allow` names those that it takes.",
            ),
            408 => (
                "too_slow",
                "The request took too long to arrive. Send it again, at once.",
            ),
            413 => ("too_large", "The request's body is too large. Send a smaller one."),
            414 => (
                "address_too_long",
                "The request's address is too long: at most 65,534 bytes. Send what is long as a header or in the body.",
            ),
            415 => (
                "unsupported_media_type",
                "The body's `Content-Type` is not one that this endpoint takes: send application/json.",
            ),
            429 => ("rate_limited", "Too many requests. Wait a minute, then try again."),
            431 => (
                "headers_too_large",
                "The request's headers are too large: at most 100 of them, and 400 KiB in all. Send fewer, or shorter ones.",
            ),
            400..=499 => (
                "bad_request",
                "The request cannot be read. Compare it with the documentation.",
            ),
            501 => (
                "not_implemented",
                "This server does not do that. Compare its version with the documentation's.",
            ),
            _ => (
                "unavailable",
                "The service cannot answer right now. Try again in a few seconds.",
            ),
        };
        Problem::new(status.as_u16(), code, detail)
    }

    /// The same problem, which goes away by itself after so many seconds. 0 changes nothing.
    pub fn retry_after_s(mut self, seconds: u32) -> Problem {
        self.retry_after_s = (seconds > 0).then_some(seconds);
        self
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        // Strings and numbers: nothing in it can fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, self.to_json()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// `wrong_passcode` as `Wrong passcode`.
fn title(code: &str) -> String {
    let words = code.replace('_', " ");
    let mut letters = words.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_the_document_of_the_rfc_and_says_what_to_do() {
        let problem = Problem::new(403, "wrong_passcode", "Check it.").retry_after_s(0);
        let text = String::from_utf8(problem.to_json()).unwrap();
        let expected = r#"{"type":"urn:meridian:problem:wrong_passcode","title":"Wrong passcode","status":403,"code":"wrong_passcode","detail":"Check it.","message":"Check it."}"#;
        assert_eq!(text, expected);
        for status in 400..600 {
            let problem = Problem::of_status(StatusCode::from_u16(status).unwrap());
            assert!(problem.detail.ends_with('.') && problem.status == status, "{problem:?}");
        }
    }

    #[test]
    fn a_wait_is_told_in_the_header_and_in_the_body() {
        let response = Problem::new(429, "rate_limited", "Wait.")
            .retry_after_s(7)
            .into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "7");
        assert_eq!(response.headers()[header::CONTENT_TYPE], MEDIA_TYPE);
    }
}
