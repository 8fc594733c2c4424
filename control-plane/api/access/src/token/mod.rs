//! Access tokens: LiveKit's JWT claims, signed either with an API key's secret (HS256, what their SDKs do) or with our own
//! Ed25519 keys (what the join API hands out).
//!
//! The two families never mix: an HS256 token is looked up by its issuer among the API keys, an EdDSA or ES256 token by its `kid`
//! among the public keys. So a public key can never be abused as an HMAC secret.
//!
//! What lives here: the claims, minting, verification. What a grant *means* is decided where it is used (signalling, Twirp).

mod account;
mod claims;
mod keys;

pub use account::AccountClaims;
pub use claims::{Claims, Grants, MeridianClaims};
pub use keys::{KeyRing, PublicKey, PublicKeyAlgorithm, SigningKey};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use std::time::{SystemTime, UNIX_EPOCH};

/// Clocks of clients, application servers and edges may differ by this much (RFC 7519 §4.1.4 allows a small leeway).
pub const LEEWAY_S: u64 = 60;
/// A token longer than this is refused before anything is parsed. Enough for 64 KiB of metadata (`meridian_room::limits`) as JSON within
/// JSON, in base64.
pub const TOKEN_BYTES_MAX: usize = 160 * 1024;
/// API keys sign with HMAC-SHA256: a shorter secret is weaker than the signature (RFC 7518 §3.2).
pub const API_SECRET_BYTES_MIN: usize = 32;
/// How long a token handed out by the join API is valid.
pub const JOIN_TOKEN_TTL_S: u64 = 30 * 60;

/// Why a token was refused. The texts are meant for the developer or operator who reads the answer; none repeats a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the access token is missing: send `Authorization: Bearer <token>` or `?access_token=<token>`")]
    Missing,
    #[error("the access token is {bytes} bytes long, more than {TOKEN_BYTES_MAX} are not accepted")]
    TooLong { bytes: usize },
    #[error("this is not a JWT: {0}")]
    Malformed(String),
    #[error("the token is signed with {0}; accepted are HS256 (API keys), EdDSA and ES256 (tokens of the join API)")]
    Algorithm(String),
    #[error("the API key `{0}` is unknown here: check the `iss` of the token and the keys in the configuration")]
    UnknownApiKey(String),
    #[error("the signing key `{0}` is unknown here: it was retired, or this node has not received it yet")]
    UnknownKeyId(String),
    #[error("the token's signature does not match: the secret is wrong, or the token was changed")]
    BadSignature,
    #[error("the token has no `{0}` claim")]
    MissingClaim(&'static str),
    #[error("the token expired {seconds_ago} s ago (60 s of clock difference are allowed): ask for a new one")]
    Expired { seconds_ago: u64 },
    #[error(
        "the token is not valid for another {seconds} s (60 s of clock difference are allowed): compare the clocks"
    )]
    NotYetValid { seconds: u64 },
    #[error("the token could not be signed: {0}")]
    Signing(String),
}

/// Verifies signature and times with the system's clock. See [`verify_at`].
///
/// # Errors
/// Every way in which a token can be wrong is its own [`TokenError`]; all of them are HTTP 401.
pub fn verify(token: &str, keys: &KeyRing) -> Result<Claims, TokenError> {
    verify_at(token, keys, unix_now_s())
}

/// Verifies signature, `exp` (required) and `nbf` (optional) as of `now_s`, seconds since the Unix epoch.
///
/// It does not check grants: a valid token without `roomJoin` is valid.
pub fn verify_at(token: &str, keys: &KeyRing, now_s: u64) -> Result<Claims, TokenError> {
    let (claims, _) = verified::<Claims>(token, keys)?;
    check_times(&claims, now_s)?;
    Ok(claims)
}

/// What a token says, and what it is signed with, once its signature is checked. Times are not.
fn verified<T: serde::de::DeserializeOwned>(token: &str, keys: &KeyRing) -> Result<(T, Algorithm), TokenError> {
    if token.is_empty() {
        return Err(TokenError::Missing);
    }
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::TooLong { bytes: token.len() });
    }
    let header = jsonwebtoken::decode_header(token).map_err(|error| TokenError::Malformed(error.to_string()))?;
    let key = decoding_key(token, &header, keys)?;
    let mut validation = Validation::new(header.alg);
    // Times are checked by the caller, against the caller's clock and with errors that name the difference.
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let claims = jsonwebtoken::decode::<T>(token, &key, &validation)
        .map_err(|error| match error.kind() {
            jsonwebtoken::errors::ErrorKind::InvalidSignature => TokenError::BadSignature,
            _ => TokenError::Malformed(error.to_string()),
        })?
        .claims;
    Ok((claims, header.alg))
}

fn decoding_key(token: &str, header: &Header, keys: &KeyRing) -> Result<DecodingKey, TokenError> {
    match header.alg {
        Algorithm::HS256 => {
            // The issuer is read before the signature is checked, only to find the secret that checks it.
            #[derive(serde::Deserialize)]
            struct Issuer {
                #[serde(default)]
                iss: String,
            }
            let issuer = jsonwebtoken::dangerous::insecure_decode_claims::<Issuer>(token)
                .map_err(|error| TokenError::Malformed(error.to_string()))?
                .iss;
            if issuer.is_empty() {
                return Err(TokenError::MissingClaim("iss"));
            }
            let secret = keys
                .secret(&issuer)
                .ok_or_else(|| TokenError::UnknownApiKey(shorten(&issuer)))?;
            Ok(DecodingKey::from_secret(secret.as_bytes()))
        }
        Algorithm::EdDSA | Algorithm::ES256 => {
            let kid = header.kid.as_deref().ok_or(TokenError::MissingClaim("kid"))?;
            let key = keys
                .public_key(kid)
                .ok_or_else(|| TokenError::UnknownKeyId(shorten(kid)))?;
            if key.algorithm.jwt() != header.alg {
                return Err(TokenError::Algorithm(format!(
                    "{:?}, but key `{}` is {:?}",
                    header.alg,
                    shorten(kid),
                    key.algorithm
                )));
            }
            key.decoding_key()
        }
        other => Err(TokenError::Algorithm(format!("{other:?}"))),
    }
}

fn check_expiry(exp: u64, now_s: u64) -> Result<(), TokenError> {
    match now_s > exp.saturating_add(LEEWAY_S) {
        true => Err(TokenError::Expired {
            seconds_ago: now_s - exp,
        }),
        false => Ok(()),
    }
}

fn check_times(claims: &Claims, now_s: u64) -> Result<(), TokenError> {
    check_expiry(claims.exp.ok_or(TokenError::MissingClaim("exp"))?, now_s)?;
    if let Some(nbf) = claims.nbf
        && nbf > now_s.saturating_add(LEEWAY_S)
    {
        return Err(TokenError::NotYetValid { seconds: nbf - now_s });
    }
    Ok(())
}

/// Signs claims with an API key, as LiveKit's SDKs do. `claims.iss` is set to the key.
///
/// # Errors
/// [`TokenError::Signing`] if the claims do not serialise.
pub fn mint(claims: &Claims, api_key: &str, secret: &str) -> Result<String, TokenError> {
    let mut claims = claims.clone();
    claims.iss = api_key.to_owned();
    jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        &claims,
        &EncodingKey::from_secret(secret.as_bytes()),
    )
    .map_err(|error| TokenError::Signing(error.to_string()))
}

/// Seconds since the Unix epoch.
pub fn unix_now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map(|since| since.as_secs())
        .unwrap_or_default()
}

/// A stranger's text goes into an error message only in part.
fn shorten(text: &str) -> String {
    if text.chars().count() <= 40 {
        text.to_owned()
    } else {
        text.chars().take(40).chain(std::iter::once('…')).collect()
    }
}
