//! The join API as JSON, the same on the control plane and on every edge, and its translation to and from the gRPC messages.
//!
//! Both serve `POST /api/v1/meetings/{code}/join`; an edge forwards it as [`v1::JoinRequest`] over its stream's connection.

use crate::v1;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Largest body of a request.
pub const BODY_BYTES_MAX: usize = 16 * 1024;
/// Longest display name, in characters.
pub const NAME_CHARS_MAX: usize = 64;
/// Most probes that are read of one request.
pub const PROBES_MAX: usize = 8;
/// Most edges that a client can ask to avoid.
pub const AVOID_MAX: usize = 8;

/// The body of a join request. Unknown fields are ignored.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct JoinBody {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passcode: Option<String>,
    /// A region that stands in for the client's place; the demo only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Round trips that the client measured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeBody>,
    /// Ids of edges it has just failed to reach.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub avoid: Vec<String>,
    /// Rejoining: the last token, which keeps the identity and stands for the passcode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_token: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProbeBody {
    pub region: String,
    pub rtt_ms: f32,
}

/// Reads the JSON body of an API request. The content type is required: a page of another site cannot send it without asking
/// (CORS preflight).
///
/// # Errors
/// [`Refusal::NotJson`], [`Refusal::BadRequest`].
pub fn read_json<T: serde::de::DeserializeOwned>(content_type: Option<&str>, body: &[u8]) -> Result<T, Refusal> {
    if !content_type.is_some_and(|kind| kind.to_ascii_lowercase().starts_with("application/json")) {
        return Err(Refusal::NotJson);
    }
    serde_json::from_slice(body)
        .map_err(|error| Refusal::BadRequest(format!("The body is not what this endpoint takes: {error}.")))
}

/// Why a body could not be taken in, by the status that the one who read it would answer with.
pub fn unread_body(status: u16) -> Refusal {
    match status {
        413 => Refusal::TooLarge,
        // The listener gives up on a body that is late; one that was broken off has nobody left to tell.
        _ => Refusal::TooSlow,
    }
}

impl JoinBody {
    /// The request to forward. `client_address` is the client's IP address as this process knows it.
    pub fn into_request(self, code: &str, client_address: &str) -> v1::JoinRequest {
        let probes = self.probes.into_iter().take(PROBES_MAX);
        v1::JoinRequest {
            code: code.to_owned(),
            name: self.name,
            passcode: self.passcode.unwrap_or_default(),
            client_address: client_address.to_owned(),
            from: self.from.unwrap_or_default(),
            probes: probes
                .map(|probe| v1::Probe {
                    region: probe.region,
                    rtt_ms: probe.rtt_ms,
                })
                .collect(),
            avoid: self.avoid.into_iter().take(AVOID_MAX).collect(),
            previous_token: self.previous_token.unwrap_or_default(),
        }
    }
}

/// The answer to a join that was granted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JoinReply {
    pub edge: EdgeReply,
    /// Next best edges, at most two, on other edges than the first.
    pub alternates: Vec<EdgeReply>,
    pub ice_servers: Vec<IceServerReply>,
    pub token: String,
    pub identity: String,
    pub room: String,
    pub title: String,
    /// The whole reckoning behind the choice.
    pub reasons: Vec<ReasonReply>,
    /// When the token ends, seconds since 1970.
    pub expires: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EdgeReply {
    pub id: String,
    pub region: String,
    /// `wss://…` or, on loopback, `ws://…`.
    pub url: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct IceServerReply {
    pub urls: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub username: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub credential: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReasonReply {
    pub edge: String,
    pub kind: String,
    pub value: f64,
    pub text: String,
}

impl From<v1::JoinGranted> for JoinReply {
    fn from(granted: v1::JoinGranted) -> Self {
        let edge = |one: v1::EdgeAddress| EdgeReply {
            id: one.id,
            region: one.region,
            url: one.url,
        };
        let ice = |one: v1::IceServer| IceServerReply {
            urls: one.urls,
            username: one.username,
            credential: one.credential,
        };
        let reason = |one: v1::Reason| ReasonReply {
            edge: one.edge,
            kind: one.kind,
            value: one.value,
            text: one.text,
        };
        JoinReply {
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

/// Why a join, or another call about a meeting, is refused. One place for status, code and words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    BadRequest(String),
    /// The body is not said to be JSON.
    NotJson,
    /// The body is longer than [`BODY_BYTES_MAX`].
    TooLarge,
    /// The body did not arrive in time.
    TooSlow,
    /// No such meeting.
    NotFound,
    PasscodeRequired,
    WrongPasscode,
    /// The host key is missing or wrong.
    NotHost,
    /// The access token is missing, wrong or expired.
    NotSignedIn,
    /// No such account, or not its password: which of them is not told.
    WrongSignIn,
    /// The session has ended: its refresh token expired, or was shown twice.
    SignedOut,
    EmailTaken,
    /// Nobody, or nobody more, may make an account here.
    SignUpClosed,
    Full {
        people_max: u32,
    },
    Ended,
    TooManyTries {
        retry_after_s: u32,
    },
    /// No edge can take the client now.
    NoEdge,
    /// The database or another part does not answer.
    Unavailable,
}

impl Refusal {
    /// HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Refusal::BadRequest(_) => 400,
            Refusal::NotJson => 415,
            Refusal::TooLarge => 413,
            Refusal::TooSlow => 408,
            Refusal::NotFound => 404,
            Refusal::NotSignedIn | Refusal::WrongSignIn | Refusal::SignedOut => 401,
            Refusal::PasscodeRequired | Refusal::WrongPasscode | Refusal::NotHost | Refusal::SignUpClosed => 403,
            Refusal::Full { .. } | Refusal::EmailTaken => 409,
            Refusal::Ended => 410,
            Refusal::TooManyTries { .. } => 429,
            Refusal::NoEdge | Refusal::Unavailable => 503,
        }
    }

    /// For programs.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::BadRequest(_) => "bad_request",
            Refusal::NotJson => "unsupported_media_type",
            Refusal::TooLarge => "too_large",
            Refusal::TooSlow => "too_slow",
            Refusal::NotFound => "not_found",
            Refusal::PasscodeRequired => "passcode_required",
            Refusal::WrongPasscode => "wrong_passcode",
            Refusal::NotHost => "not_host",
            Refusal::NotSignedIn => "not_signed_in",
            Refusal::WrongSignIn => "wrong_sign_in",
            Refusal::SignedOut => "signed_out",
            Refusal::EmailTaken => "email_taken",
            Refusal::SignUpClosed => "sign_up_closed",
            Refusal::Full { .. } => "full",
            Refusal::Ended => "ended",
            Refusal::TooManyTries { .. } => "rate_limited",
            Refusal::NoEdge => "no_edge",
            Refusal::Unavailable => "unavailable",
        }
    }

    fn retry_after_s(&self) -> u32 {
        match self {
            Refusal::TooManyTries { retry_after_s } => (*retry_after_s).max(1),
            Refusal::NoEdge | Refusal::Unavailable => 5,
            _ => 0,
        }
    }

    fn message(&self) -> String {
        match self {
            Refusal::BadRequest(why) => why.clone(),
            Refusal::NotJson => "Send JSON, with the header `Content-Type: application/json`.".to_owned(),
            Refusal::TooLarge => format!("The body is too large: at most {} KiB.", BODY_BYTES_MAX / 1024),
            Refusal::TooSlow => "The body took too long to arrive. Send it again, at once.".to_owned(),
            Refusal::NotFound => {
                "There is no meeting with this code. Check the link or ask whoever invited you for a new one."
                    .to_owned()
            }
            Refusal::PasscodeRequired => "This meeting has a passcode. Enter it to join.".to_owned(),
            Refusal::WrongPasscode => "The passcode is not right. Check it and try again.".to_owned(),
            Refusal::NotHost => {
                "Only the meeting's host can do this: sign in as its owner, or send the host key that its creation returned.".to_owned()
            }
            Refusal::NotSignedIn => {
                "Sign in first: send a valid access token as `Authorization: Bearer …`.".to_owned()
            }
            Refusal::WrongSignIn => "The e-mail address or the password is not right. Check both and try again.".to_owned(),
            Refusal::SignedOut => "You have been signed out. Sign in again.".to_owned(),
            Refusal::EmailTaken => {
                "There is an account with this e-mail address. Sign in, or use another address.".to_owned()
            }
            Refusal::SignUpClosed => {
                "New accounts cannot be made here. Ask whoever runs this service; joining needs no account.".to_owned()
            }
            Refusal::Full { people_max } => {
                format!("The meeting is full: it takes {people_max} people. Try again when somebody has left.")
            }
            Refusal::Ended => "This meeting has ended. Start a new one, or ask the host for a new link.".to_owned(),
            Refusal::TooManyTries { .. } => {
                format!("Too many tries. Wait {} seconds, then try again.", self.retry_after_s())
            }
            Refusal::NoEdge => "No server can take you right now. Try again in a few seconds.".to_owned(),
            Refusal::Unavailable => "The service cannot answer right now. Try again in a few seconds.".to_owned(),
        }
    }
}

impl From<Refusal> for v1::JoinRefused {
    fn from(refusal: Refusal) -> Self {
        v1::JoinRefused {
            status: u32::from(refusal.status()),
            code: refusal.code().to_owned(),
            message: refusal.message(),
            retry_after_s: refusal.retry_after_s(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_own_status_or_code_and_says_what_to_do() {
        let all = [
            Refusal::NotJson,
            Refusal::TooLarge,
            Refusal::TooSlow,
            Refusal::NotFound,
            Refusal::PasscodeRequired,
            Refusal::WrongPasscode,
            Refusal::NotHost,
            Refusal::NotSignedIn,
            Refusal::WrongSignIn,
            Refusal::SignedOut,
            Refusal::EmailTaken,
            Refusal::SignUpClosed,
            Refusal::Full { people_max: 2 },
            Refusal::Ended,
            Refusal::TooManyTries { retry_after_s: 7 },
            Refusal::NoEdge,
            Refusal::Unavailable,
        ];
        let codes: std::collections::BTreeSet<_> = all.iter().map(Refusal::code).collect();
        assert_eq!(codes.len(), all.len());
        for refusal in &all {
            let refused = v1::JoinRefused::from(refusal.clone());
            assert_eq!(refused.status, u32::from(refusal.status()));
            assert!(refused.message.ends_with('.'), "{}", refused.message);
        }
        assert_eq!(
            v1::JoinRefused::from(Refusal::TooManyTries { retry_after_s: 7 }).retry_after_s,
            7
        );
    }

    #[test]
    fn a_request_is_bounded_before_it_travels() {
        let probe = ProbeBody {
            region: "fra".into(),
            rtt_ms: 1.0,
        };
        let body = JoinBody {
            probes: vec![probe; 100],
            avoid: vec!["x".into(); 100],
            ..JoinBody::default()
        };
        let request = body.into_request("abc", "127.0.0.1");
        assert_eq!((request.probes.len(), request.avoid.len()), (PROBES_MAX, AVOID_MAX));
    }
}
