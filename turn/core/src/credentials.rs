//! Long-term credentials (RFC 8489 §9.2), and who may allocate: fixed users, and whoever shows a time-limited credential of
//! `meridian-turn-credentials`. Pure functions of their inputs; nonces and challenges live in `nonce` and `server`.

use std::collections::HashMap;
use std::fmt;

use aws_lc_rs::{digest, hmac};
use md5::{Digest, Md5};
use meridian_turn_credentials::time_limited_password;

use crate::stun::Integrity;

/// How the key is derived from the password (RFC 8489 §18.5). The numbers are the registry's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordAlgorithm {
    Md5 = 1,
    Sha256 = 2,
}

/// The key of a message's integrity: H(username ":" realm ":" password).
#[derive(Clone)]
pub struct IntegrityKey {
    sha1: hmac::Key,
    sha256: hmac::Key,
}

impl fmt::Debug for IntegrityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IntegrityKey(…)")
    }
}

impl IntegrityKey {
    /// Username and password as they are after OpaqueString preparation (RFC 8265); ASCII needs none.
    pub fn long_term(algorithm: PasswordAlgorithm, username: &str, realm: &str, password: &str) -> IntegrityKey {
        let text = [username, realm, password].join(":");
        match algorithm {
            PasswordAlgorithm::Md5 => IntegrityKey::raw(&Md5::digest(text.as_bytes())),
            PasswordAlgorithm::Sha256 => IntegrityKey::raw(digest::digest(&digest::SHA256, text.as_bytes()).as_ref()),
        }
    }

    /// A short-term key (RFC 8489 §9.1): the password's own bytes.
    pub fn raw(key: &[u8]) -> IntegrityKey {
        IntegrityKey {
            sha1: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key),
            sha256: hmac::Key::new(hmac::HMAC_SHA256, key),
        }
    }

    pub(crate) fn sign(&self, kind: Integrity, bytes: &[u8]) -> hmac::Tag {
        hmac::sign(self.of(kind), bytes)
    }

    /// In constant time. `tag` may be truncated to what RFC 8489 §14.6 permits; the parser has checked its length.
    pub(crate) fn verify(&self, kind: Integrity, parts: &[&[u8]], tag: &[u8]) -> bool {
        let mut context = hmac::Context::with_key(self.of(kind));
        parts.iter().for_each(|part| context.update(part));
        let right = context.sign();
        tag.len() >= 16
            && right
                .as_ref()
                .get(..tag.len())
                .is_some_and(|r| aws_lc_rs::constant_time::verify_slices_are_equal(r, tag).is_ok())
    }

    fn of(&self, kind: Integrity) -> &hmac::Key {
        match kind {
            Integrity::Sha1 => &self.sha1,
            Integrity::Sha256 => &self.sha256,
        }
    }
}

/// Who may allocate. Empty = nobody.
#[derive(Clone, Default)]
pub struct Credentials {
    users: HashMap<String, String>,
    secrets: Vec<Vec<u8>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Credentials({} users, {} secrets)",
            self.users.len(),
            self.secrets.len()
        )
    }
}

/// What a username can be.
#[derive(Debug, PartialEq, Eq)]
pub struct Account {
    /// Passwords to try: one, or one per shared secret while secrets are rotated.
    pub passwords: Vec<String>,
    /// Unix seconds; `None` for a fixed user.
    pub expires_unix: Option<u64>,
    /// What quotas are kept under: a renewed time-limited credential is the same user.
    pub quota_name: String,
}

impl Credentials {
    /// A fixed user with its password.
    pub fn with_user(mut self, username: impl Into<String>, password: impl Into<String>) -> Credentials {
        self.users.insert(username.into(), password.into());
        self
    }

    /// A secret shared with whoever mints time-limited credentials. Several may be valid while they are rotated.
    pub fn with_secret(mut self, secret: impl Into<Vec<u8>>) -> Credentials {
        self.secrets.push(secret.into());
        self
    }

    /// `None`: no such user. Whether it has expired is for the caller to judge.
    pub fn find(&self, username: &str) -> Option<Account> {
        if let Some(password) = self.users.get(username) {
            return Some(Account {
                passwords: vec![password.clone()],
                expires_unix: None,
                quota_name: username.to_owned(),
            });
        }
        let (expiry, id) = username.split_once(':').unwrap_or((username, ""));
        let expires_unix = expiry.parse().ok()?;
        if self.secrets.is_empty() {
            return None;
        }
        let passwords = self
            .secrets
            .iter()
            .map(|secret| time_limited_password(secret, username))
            .collect();
        let quota_name = if id.is_empty() { username } else { id }.to_owned();
        Some(Account {
            passwords,
            expires_unix: Some(expires_unix),
            quota_name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_turn_credentials::time_limited_credential;

    #[test]
    fn secrets_that_are_rotated_are_tried_one_after_the_other() {
        let (username, password) = time_limited_credential(b"north", "anna", 1_700_000_000);
        let account = Credentials::default()
            .with_secret("old")
            .with_secret("north")
            .find(&username)
            .unwrap();
        assert_eq!(account.passwords[1], password);
        assert_eq!(
            (account.expires_unix, account.quota_name.as_str()),
            (Some(1_700_000_000), "anna")
        );
    }

    #[test]
    fn nobody_is_found_without_users_or_secrets() {
        assert_eq!(Credentials::default().find("1700000000:anna"), None);
        assert_eq!(Credentials::default().with_secret("s").find("anna"), None);
        assert!(Credentials::default().with_user("anna", "pw").find("anna").is_some());
    }
}
