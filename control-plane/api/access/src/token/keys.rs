//! Keys: API keys with their secrets, our own signing key, and the public keys by which edges verify what it signed.

use super::{Claims, TokenError};
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Everything a process verifies tokens with. Replaced as a whole when the policy changes.
#[derive(Clone, Default)]
pub struct KeyRing {
    api_keys: BTreeMap<String, String>,
    public_keys: BTreeMap<String, PublicKey>,
}

impl KeyRing {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn with_api_key(mut self, key: impl Into<String>, secret: impl Into<String>) -> Self {
        self.add_api_key(key, secret);
        self
    }

    pub fn with_public_key(mut self, key: PublicKey) -> Self {
        self.add_public_key(key);
        self
    }

    pub fn add_api_key(&mut self, key: impl Into<String>, secret: impl Into<String>) {
        self.api_keys.insert(key.into(), secret.into());
    }

    pub fn add_public_key(&mut self, key: PublicKey) {
        self.public_keys.insert(key.kid.clone(), key);
    }

    /// The secret of an API key.
    pub fn secret(&self, api_key: &str) -> Option<&str> {
        self.api_keys.get(api_key).map(String::as_str)
    }

    pub fn public_key(&self, kid: &str) -> Option<&PublicKey> {
        self.public_keys.get(kid)
    }

    pub fn api_keys(&self) -> impl Iterator<Item = (&str, &str)> {
        self.api_keys
            .iter()
            .map(|(key, secret)| (key.as_str(), secret.as_str()))
    }

    pub fn public_keys(&self) -> impl Iterator<Item = &PublicKey> {
        self.public_keys.values()
    }

    pub fn is_empty(&self) -> bool {
        self.api_keys.is_empty() && self.public_keys.is_empty()
    }
}

impl fmt::Debug for KeyRing {
    /// Names only: a key ring may end up in a log line, a secret may not.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("api_keys", &self.api_keys.keys().collect::<Vec<_>>())
            .field("public_keys", &self.public_keys.keys().collect::<Vec<_>>())
            .finish()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PublicKeyAlgorithm {
    /// Ed25519 (RFC 8037).
    EdDSA,
    /// ECDSA P-256 (RFC 7518 §3.4).
    ES256,
}

impl PublicKeyAlgorithm {
    pub(super) fn jwt(self) -> Algorithm {
        match self {
            PublicKeyAlgorithm::EdDSA => Algorithm::EdDSA,
            PublicKeyAlgorithm::ES256 => Algorithm::ES256,
        }
    }
}

/// The public half of a [`SigningKey`], as it travels to edges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey {
    /// First 16 base64url characters of the key's SHA-256.
    pub kid: String,
    pub algorithm: PublicKeyAlgorithm,
    /// base64url without padding of the raw key: 32 bytes (EdDSA), or 65 bytes 0x04‖x‖y (ES256).
    pub key: String,
}

impl PublicKey {
    fn from_raw(algorithm: PublicKeyAlgorithm, raw: &[u8]) -> Self {
        let hash = digest::digest(&digest::SHA256, raw);
        let mut kid = URL_SAFE_NO_PAD.encode(hash.as_ref());
        kid.truncate(16);
        PublicKey {
            kid,
            algorithm,
            key: URL_SAFE_NO_PAD.encode(raw),
        }
    }

    pub(super) fn decoding_key(&self) -> Result<DecodingKey, TokenError> {
        let bad = |why: String| TokenError::Malformed(format!("public key `{}`: {why}", self.kid));
        match self.algorithm {
            PublicKeyAlgorithm::EdDSA => {
                DecodingKey::from_ed_components(&self.key).map_err(|error| bad(error.to_string()))
            }
            PublicKeyAlgorithm::ES256 => {
                let raw = URL_SAFE_NO_PAD
                    .decode(&self.key)
                    .map_err(|error| bad(error.to_string()))?;
                if raw.len() != 65 || raw[0] != 4 {
                    return Err(bad("an ES256 key is 65 bytes, uncompressed".to_owned()));
                }
                let (x, y) = raw[1..].split_at(32);
                DecodingKey::from_ec_components(&URL_SAFE_NO_PAD.encode(x), &URL_SAFE_NO_PAD.encode(y))
                    .map_err(|error| bad(error.to_string()))
            }
        }
    }
}

/// Signs our own tokens. One per control plane, kept as a PEM file; edges get only [`SigningKey::public_key`].
pub struct SigningKey {
    pair: rcgen::KeyPair,
    encoding: EncodingKey,
    public: PublicKey,
}

impl SigningKey {
    /// A fresh Ed25519 key.
    ///
    /// # Errors
    /// [`TokenError::Signing`] if the system gives no randomness.
    pub fn generate() -> Result<Self, TokenError> {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)
            .map_err(|error| TokenError::Signing(error.to_string()))?;
        Self::from_pair(pair)
    }

    /// Reads a PKCS#8 PEM with an Ed25519 or P-256 key.
    ///
    /// # Errors
    /// [`TokenError::Malformed`] for anything else.
    pub fn from_pem(pem: &str) -> Result<Self, TokenError> {
        Self::from_pair(rcgen::KeyPair::from_pem(pem).map_err(|error| TokenError::Malformed(error.to_string()))?)
    }

    fn from_pair(pair: rcgen::KeyPair) -> Result<Self, TokenError> {
        let (algorithm, encoding) = if pair.is_compatible(&rcgen::PKCS_ED25519) {
            (
                PublicKeyAlgorithm::EdDSA,
                EncodingKey::from_ed_der(pair.serialized_der()),
            )
        } else if pair.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256) {
            (
                PublicKeyAlgorithm::ES256,
                EncodingKey::from_ec_der(pair.serialized_der()),
            )
        } else {
            return Err(TokenError::Malformed(
                "the signing key must be Ed25519 or ECDSA P-256".to_owned(),
            ));
        };
        let public = PublicKey::from_raw(algorithm, pair.public_key_raw());
        Ok(SigningKey { pair, encoding, public })
    }

    /// PKCS#8 PEM: a secret, to be written with mode 0600 (`meridian_pki::write_secret`).
    pub fn to_pem(&self) -> String {
        self.pair.serialize_pem()
    }

    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    pub fn kid(&self) -> &str {
        &self.public.kid
    }

    /// Signs the claims; `iss` becomes `meridian` if it is empty.
    ///
    /// # Errors
    /// [`TokenError::Signing`].
    pub fn mint(&self, claims: &Claims) -> Result<String, TokenError> {
        let mut claims = claims.clone();
        if claims.iss.is_empty() {
            claims.iss = "meridian".to_owned();
        }
        self.sign(&claims, None)
    }

    /// Signs any claims. `kind` is the header's `typ`, if it is not `JWT`.
    pub(super) fn sign<T: Serialize>(&self, claims: &T, kind: Option<&str>) -> Result<String, TokenError> {
        let mut header = Header::new(self.public.algorithm.jwt());
        header.kid = Some(self.public.kid.clone());
        if let Some(kind) = kind {
            header.typ = Some(kind.to_owned());
        }
        jsonwebtoken::encode(&header, claims, &self.encoding).map_err(|error| TokenError::Signing(error.to_string()))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}
