//! The claims as they stand in the JWT: LiveKit's names (camelCase inside `video`), absent fields left out.

use super::{JOIN_TOKEN_TTL_S, TokenError, unix_now_s};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// The payload of an access token. Unknown claims are ignored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    /// The API key, or `meridian` for our own tokens.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub iss: String,
    /// The participant's identity.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub sub: String,
    /// Expiry, seconds since the Unix epoch. Required by [`super::verify`].
    #[serde(default, deserialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    pub exp: Option<u64>,
    /// Not valid before, seconds since the Unix epoch.
    #[serde(default, deserialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub name: String,
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub metadata: String,
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub attributes: BTreeMap<String, String>,
    /// `standard` (or empty), `ingress`, `egress`, `sip`, `agent`.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<Grants>,
    /// Base64 SHA-256 of a webhook's body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Settings for a room that this join creates, as LiveKit's RoomConfiguration in protojson.
    #[serde(default, rename = "roomConfig", skip_serializing_if = "Option::is_none")]
    pub room_config: Option<serde_json::Value>,
    /// What only our own tokens carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meridian: Option<MeridianClaims>,
}

/// What the join API tells the edges about the room, beyond LiveKit's claims.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeridianClaims {
    /// Region whose edges keep the room's directory entry; absent: all edges are candidates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home_region: Option<String>,
    /// Most participants the room takes at once; absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_participants: Option<u32>,
    /// Regions of whose configured TURN servers the person may be told; absent: of all servers, also those without a region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relays: Option<Vec<String>>,
}

/// The `video` grant. `Option` fields distinguish "not said" from "no": see the methods for what absence means.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Grants {
    #[serde(skip_serializing_if = "is_false", deserialize_with = "null_is_default")]
    pub room_create: bool,
    #[serde(skip_serializing_if = "is_false", deserialize_with = "null_is_default")]
    pub room_list: bool,
    #[serde(skip_serializing_if = "is_false", deserialize_with = "null_is_default")]
    pub room_record: bool,
    #[serde(skip_serializing_if = "is_false", deserialize_with = "null_is_default")]
    pub room_admin: bool,
    #[serde(skip_serializing_if = "is_false", deserialize_with = "null_is_default")]
    pub room_join: bool,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub room: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_publish: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_subscribe: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_publish_data: Option<bool>,
    /// `camera`, `microphone`, `screen_share`, `screen_share_audio`. Empty: all sources.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub can_publish_sources: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_update_own_metadata: Option<bool>,
    #[serde(skip_serializing_if = "is_false", deserialize_with = "null_is_default")]
    pub hidden: bool,
    #[serde(skip_serializing_if = "is_false", deserialize_with = "null_is_default")]
    pub recorder: bool,
    #[serde(skip_serializing_if = "is_false", deserialize_with = "null_is_default")]
    pub agent: bool,
    #[serde(skip_serializing_if = "is_false", deserialize_with = "null_is_default")]
    pub ingress_admin: bool,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub destination_room: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_subscribe_metrics: Option<bool>,
}

impl Grants {
    /// Absent means yes.
    pub fn may_publish(&self) -> bool {
        self.can_publish.unwrap_or(true)
    }

    /// `source` in snake case, as in [`Grants::can_publish_sources`].
    pub fn may_publish_source(&self, source: &str) -> bool {
        self.may_publish()
            && (self.can_publish_sources.is_empty()
                || self
                    .can_publish_sources
                    .iter()
                    .any(|one| one.eq_ignore_ascii_case(source)))
    }

    /// Absent means yes.
    pub fn may_subscribe(&self) -> bool {
        self.can_subscribe.unwrap_or(true)
    }

    /// Absent means: as for publishing media.
    pub fn may_publish_data(&self) -> bool {
        self.can_publish_data.unwrap_or_else(|| self.may_publish())
    }

    /// Absent means no.
    pub fn may_update_own_metadata(&self) -> bool {
        self.can_update_own_metadata.unwrap_or(false)
    }

    /// Absent means no.
    pub fn may_subscribe_metrics(&self) -> bool {
        self.can_subscribe_metrics.unwrap_or(false)
    }
}

impl Claims {
    /// A token to join `room` as `identity`, valid from now for [`JOIN_TOKEN_TTL_S`], with every ordinary right.
    pub fn join(identity: impl Into<String>, name: impl Into<String>, room: impl Into<String>) -> Self {
        let now_s = unix_now_s();
        Claims {
            sub: identity.into(),
            name: name.into(),
            nbf: Some(now_s),
            exp: Some(now_s + JOIN_TOKEN_TTL_S),
            video: Some(Grants {
                room_join: true,
                room: room.into(),
                can_update_own_metadata: Some(true),
                ..Grants::default()
            }),
            ..Claims::default()
        }
    }

    /// The participant's identity (`sub`).
    pub fn identity(&self) -> &str {
        &self.sub
    }

    /// What a client needs to enter a room: identity, `roomJoin` and a room's name.
    ///
    /// # Errors
    /// [`TokenError::MissingClaim`] naming what is missing; HTTP 401 for `sub`, else 403.
    pub fn join_grants(&self) -> Result<&Grants, TokenError> {
        let video = self.video.as_ref().ok_or(TokenError::MissingClaim("video"))?;
        if !video.room_join {
            return Err(TokenError::MissingClaim("video.roomJoin"));
        }
        if video.room.is_empty() {
            return Err(TokenError::MissingClaim("video.room"));
        }
        if self.sub.is_empty() {
            return Err(TokenError::MissingClaim("sub"));
        }
        Ok(video)
    }
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// SDKs in other languages write `null` for "not set".
fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// NumericDate (RFC 7519 §2) may carry a fraction.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Some(value) = Option::<serde_json::Number>::deserialize(deserializer)? else {
        return Ok(None);
    };
    if let Some(whole) = value.as_u64() {
        return Ok(Some(whole));
    }
    match value.as_f64() {
        Some(fraction) if fraction.is_finite() && (0.0..=1e15).contains(&fraction) => Ok(Some(fraction as u64)),
        _ => Err(serde::de::Error::custom("a time must be seconds since 1970")),
    }
}
