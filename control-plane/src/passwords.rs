//! Passcodes of meetings and passwords of accounts: argon2id, never more than a few at a time, never on an async thread.

use argon2::Argon2;
use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// One hash takes 19 MiB and a core for some 20 ms: strangers must not be able to start many.
const AT_ONCE: usize = 2;
/// Waiting beyond that many is refused: their people would have given up before their turn.
const WAITING_MAX: usize = 64;
/// Longest passcode or password, bytes.
pub(crate) const PASSWORD_BYTES_MAX: usize = 128;

#[derive(Debug, thiserror::Error)]
#[error("password hashing: {0}")]
pub(crate) struct PasswordError(String);

/// Hashes and verifies; clones share their places.
#[derive(Clone)]
pub(crate) struct Passwords {
    slots: Arc<Semaphore>,
    queue: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Self {
        Passwords {
            slots: Arc::new(Semaphore::new(AT_ONCE)),
            queue: Arc::new(Semaphore::new(WAITING_MAX)),
        }
    }
}

impl Passwords {
    /// A PHC string to store.
    ///
    /// # Errors
    /// If the system gives no randomness or memory.
    pub(crate) async fn hash(&self, password: &str) -> Result<String, PasswordError> {
        let password = password.to_owned();
        self.run(move || {
            let salt = SaltString::generate(&mut OsRng);
            Argon2::default()
                .hash_password(password.as_bytes(), &salt)
                .map(|hash| hash.to_string())
                .map_err(|error| PasswordError(error.to_string()))
        })
        .await?
    }

    /// Whether the password is the one that was hashed.
    ///
    /// # Errors
    /// If the stored hash cannot be read.
    pub(crate) async fn verify(&self, password: &str, hash: &str) -> Result<bool, PasswordError> {
        let (password, hash) = (password.to_owned(), hash.to_owned());
        self.run(move || {
            let parsed = PasswordHash::new(&hash).map_err(|error| PasswordError(error.to_string()))?;
            Ok(Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok())
        })
        .await?
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, PasswordError> {
        let failed = |error: &dyn std::fmt::Display| PasswordError(error.to_string());
        let _place = self.queue.try_acquire().map_err(|_| failed(&"too many are waiting"))?;
        let _slot = self.slots.acquire().await.map_err(|error| failed(&error))?;
        tokio::task::spawn_blocking(work).await.map_err(|error| failed(&error))
    }
}
