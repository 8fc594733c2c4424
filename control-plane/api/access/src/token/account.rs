//! The access tokens of people who have signed in (RFC 9068, with our own key): short-lived, for the HTTP API only. They carry no
//! grants, so no edge lets anybody in with one; and a join token, which has no such audience, signs nobody in.

use super::{KeyRing, SigningKey, TokenError, check_expiry, verified};
use jsonwebtoken::Algorithm;
use serde::{Deserialize, Serialize};

const AUDIENCE: &str = "meridian-account";

/// Who has signed in, and until when. Times are seconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountClaims {
    iss: String,
    aud: String,
    /// The account's id.
    pub sub: String,
    /// The session that the token was made in.
    pub sid: String,
    pub iat: u64,
    pub exp: u64,
}

impl AccountClaims {
    pub fn new(account: &str, session: &str, now_s: u64, ttl_s: u64) -> Self {
        AccountClaims {
            iss: "meridian".to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: account.to_owned(),
            sid: session.to_owned(),
            iat: now_s,
            exp: now_s.saturating_add(ttl_s),
        }
    }

    /// # Errors
    /// [`TokenError::Signing`].
    pub fn sign(&self, key: &SigningKey) -> Result<String, TokenError> {
        key.sign(self, Some("at+jwt"))
    }

    /// Verifies signature, audience and `exp` as of `now_s`.
    ///
    /// # Errors
    /// As [`super::verify_at`]. What an API key signed is refused, and so is any other token of ours.
    pub fn verify_at(token: &str, keys: &KeyRing, now_s: u64) -> Result<Self, TokenError> {
        let (claims, algorithm) = verified::<AccountClaims>(token, keys)?;
        if algorithm == Algorithm::HS256 || claims.aud != AUDIENCE {
            return Err(TokenError::MissingClaim("aud"));
        }
        check_expiry(claims.exp, now_s)?;
        Ok(claims)
    }
}
