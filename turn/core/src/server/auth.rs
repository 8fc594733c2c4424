//! Who is asking: long-term credentials (RFC 8489 §9.2.4), nonces, and the brake on answers to strangers.

use std::sync::Arc;

use rand::Rng;

use super::{Server, add};
use crate::credentials::{IntegrityKey, PasswordAlgorithm};
use crate::sockets::ClientSocket;
use crate::stun::{Class, ErrorCode, Integrity, Message, MessageWriter, attribute};

/// PASSWORD-ALGORITHMS as we offer it: SHA-256 preferred, MD5 for everybody else; both without parameters.
const PASSWORD_ALGORITHMS: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];

/// RFC 8489 §14.3 permits 508.
const USERNAME_BYTES_MAX: usize = 508;

/// A request that proved to come from somebody we know.
pub(super) struct Authenticated {
    pub(super) username: Arc<str>,
    pub(super) quota_name: String,
    pub(super) algorithm: PasswordAlgorithm,
    pub(super) key: IntegrityKey,
    /// Answers are protected the same way.
    pub(super) integrity: Integrity,
}

impl<R: Rng> Server<R> {
    pub(super) fn authenticate(
        &mut self,
        client: ClientSocket,
        message: &Message<'_>,
    ) -> Result<Authenticated, ErrorCode> {
        let integrity = message.integrity().ok_or(ErrorCode::Unauthenticated)?;
        let (Some(realm), Some(nonce)) = (message.get(attribute::REALM), message.get(attribute::NONCE)) else {
            return Err(ErrorCode::BadRequest);
        };
        if message.get(attribute::USERNAME).is_none() && message.get(attribute::USERHASH).is_none() {
            return Err(ErrorCode::BadRequest);
        }
        let algorithm = chosen_algorithm(message)?;
        // Cheapest first: without a nonce of ours nobody makes us derive keys.
        let now_s = self.shared.seconds(self.now);
        if !self.shared.nonces.accepts(nonce, client.remote.ip(), now_s) {
            return Err(ErrorCode::StaleNonce);
        }
        let refused = self.check_credentials(client, message, realm, algorithm, integrity);
        if refused.is_none() {
            add(&self.counters.refused_credentials, 1);
        }
        refused.ok_or(ErrorCode::Unauthenticated)
    }

    fn check_credentials(
        &mut self,
        client: ClientSocket,
        message: &Message<'_>,
        realm: &[u8],
        algorithm: PasswordAlgorithm,
        integrity: Integrity,
    ) -> Option<Authenticated> {
        // USERHASH is never offered by us (the nonce says so), so a request needs its username in clear.
        let username = message
            .get_str(attribute::USERNAME)
            .filter(|name| name.len() <= USERNAME_BYTES_MAX)?;
        if realm != self.shared.config.realm.as_bytes() {
            return None;
        }
        let account = self.shared.credentials().find(username)?;
        let own = self
            .find(client)
            .and_then(|id| self.get(id))
            .filter(|a| &*a.username == username);
        if let Some(expires) = account.expires_unix {
            // Calls outlive their credentials: what was allocated in time may be kept up.
            let grace = if own.is_some() {
                self.shared.config.expired_credential_grace.as_secs()
            } else {
                0
            };
            if expires.saturating_add(grace) < self.shared.unix_s(self.now) {
                return None;
            }
        }
        let known = own
            .filter(|a| a.algorithm == algorithm && message.verify(&a.key))
            .map(|a| a.key.clone());
        let key = known.or_else(|| {
            let realm = &self.shared.config.realm;
            let keys = account
                .passwords
                .iter()
                .map(|p| IntegrityKey::long_term(algorithm, username, realm, p));
            keys.into_iter().find(|key| message.verify(key))
        })?;
        Some(Authenticated {
            username: username.into(),
            quota_name: account.quota_name,
            algorithm,
            key,
            integrity,
        })
    }

    /// An error to somebody who has not proved anything: small, and only so many per source prefix.
    pub(super) fn refuse_stranger(&mut self, client: ClientSocket, message: &Message<'_>, code: ErrorCode) {
        if !self.may_answer(client) {
            return;
        }
        let mut writer = MessageWriter::new(Class::Error, message.method, message.transaction).error(code);
        if matches!(code, ErrorCode::Unauthenticated | ErrorCode::StaleNonce) {
            let expires_s = self
                .shared
                .seconds(self.now)
                .saturating_add(self.shared.config.nonce_lifetime.as_secs() as u32);
            let nonce = self.shared.nonces.mint(client.remote.ip(), expires_s);
            writer = writer
                .attribute(attribute::REALM, self.shared.config.realm.as_bytes())
                .attribute(attribute::NONCE, nonce.as_bytes())
                .attribute(attribute::PASSWORD_ALGORITHMS, &PASSWORD_ALGORITHMS);
        }
        self.send(client, writer);
    }

    /// Whether a stranger may have an answer now: there are few of them, so that we do not help to flood somebody else.
    pub fn may_answer(&mut self, client: ClientSocket) -> bool {
        let rate = &self.shared.config.limits.unauthenticated;
        let permitted = self
            .shared
            .prefixes
            .permits(rate, self.shared.nanos(self.now), client.remote.ip());
        let counter = if permitted {
            &self.counters.unauthenticated_answers
        } else {
            &self.counters.unauthenticated_braked
        };
        add(counter, 1);
        permitted
    }
}

/// RFC 8489 §9.2.4: both attributes or neither, the list as we sent it, and a choice from it.
fn chosen_algorithm(message: &Message<'_>) -> Result<PasswordAlgorithm, ErrorCode> {
    match (
        message.get(attribute::PASSWORD_ALGORITHMS),
        message.get(attribute::PASSWORD_ALGORITHM),
    ) {
        (None, None) => Ok(PasswordAlgorithm::Md5),
        (Some(list), Some(&[0, choice, 0, 0])) if list == PASSWORD_ALGORITHMS => match choice {
            1 => Ok(PasswordAlgorithm::Md5),
            2 => Ok(PasswordAlgorithm::Sha256),
            _ => Err(ErrorCode::BadRequest),
        },
        _ => Err(ErrorCode::BadRequest),
    }
}
