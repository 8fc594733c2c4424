//! People who sign in: accounts with an e-mail address and a password, and the sessions of their devices.
//!
//! A session hands out access tokens of fifteen minutes (JWTs: every replica verifies them without asking anybody) and one refresh
//! token that changes with every use. A refresh token that is shown twice was stolen, or its thief was faster: the session ends.
//! Signing out ends the session at once; an access token that is out lives on until it expires. Addresses are not verified:
//! nothing may be allowed because of one.

pub(crate) mod routes;
mod store;

pub(crate) use store::{AccountStore, SqliteAccounts};

use crate::config::AccountsConfig;
use crate::database::now_ms;
use crate::meetings::join::{clean, sha256, too_many, unavailable};
use crate::passwords::{PASSWORD_BYTES_MAX, Passwords};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meridian_access::limits::Limiter;
use meridian_access::network::limit_key;
use meridian_access::token::{AccountClaims, KeyRing, SigningKey, unix_now_s};
use meridian_wire::join::{NAME_CHARS_MAX, Refusal};
use rand::Rng as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use store::{Account, Registered, Rotation, Session};

const ACCESS_TTL_S: u64 = 15 * 60;
/// A device that nobody uses for so long signs in again.
const REFRESH_TTL_MS: u64 = 30 * 24 * 3600 * 1000;
const SESSIONS_MAX: u32 = 20;
/// Shorter passwords are guessed from their hash too soon.
const PASSWORD_CHARS_MIN: usize = 10;
/// RFC 5321 §4.5.3.1.3, without the angle brackets.
const EMAIL_BYTES_MAX: usize = 254;
/// Sign-ups, sign-ins and refreshes a minute from one client address: an office comes at nine o'clock.
const TRIES_PER_MINUTE_ADDRESS: u32 = 30;
/// Wrong passwords a minute for one account, from wherever they come.
const WRONG_PASSWORDS_PER_MINUTE: u32 = 10;

/// The service. One per process.
pub(crate) struct Accounts {
    store: Arc<dyn AccountStore>,
    config: AccountsConfig,
    signing_key: Arc<SigningKey>,
    keys: KeyRing,
    passwords: Passwords,
    tries: Limiter<IpAddr>,
    wrong_passwords: Limiter<String>,
    /// Verified when there is no such account, so that the answer takes as long. Made at the first need.
    nobodys_hash: tokio::sync::OnceCell<String>,
}

#[derive(Debug, Clone, serde::Deserialize, utoipa::ToSchema)]
pub(crate) struct SignUp {
    email: String,
    #[serde(default)]
    name: String,
    password: String,
}

#[derive(Debug, Clone, serde::Deserialize, utoipa::ToSchema)]
pub(crate) struct SignIn {
    email: String,
    password: String,
}

#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub(crate) struct AccountReply {
    id: String,
    email: String,
    name: String,
    /// Milliseconds since 1970.
    created_at_ms: u64,
}

/// What signing in, up, and refreshing answer.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub(crate) struct SessionReply {
    account: AccountReply,
    /// `Authorization: Bearer …` of what the account may do.
    access_token: String,
    /// Seconds that the access token is good for.
    expires_in_s: u64,
    /// Good once, for the next tokens.
    refresh_token: String,
}

impl Accounts {
    pub(crate) fn new(
        store: Arc<dyn AccountStore>,
        config: AccountsConfig,
        signing_key: Arc<SigningKey>,
        keys: KeyRing,
        passwords: Passwords,
    ) -> Self {
        Accounts {
            store,
            config,
            signing_key,
            keys,
            passwords,
            tries: Limiter::new(TRIES_PER_MINUTE_ADDRESS),
            wrong_passwords: Limiter::new(WRONG_PASSWORDS_PER_MINUTE),
            nobodys_hash: tokio::sync::OnceCell::new(),
        }
    }

    /// Makes an account and signs in.
    ///
    /// # Errors
    /// [`Refusal::SignUpClosed`], [`Refusal::EmailTaken`], [`Refusal::BadRequest`], [`Refusal::TooManyTries`], [`Refusal::Unavailable`].
    pub(crate) async fn sign_up(&self, new: SignUp, client: IpAddr) -> Result<SessionReply, Refusal> {
        self.may_try(client)?;
        if !self.config.sign_up {
            return Err(Refusal::SignUpClosed);
        }
        let email = email(&new.email).ok_or_else(|| bad("Enter an e-mail address, such as ana@example.org."))?;
        if new.password.chars().count() < PASSWORD_CHARS_MIN || new.password.len() > PASSWORD_BYTES_MAX {
            return Err(bad(&format!(
                "The password must have at least {PASSWORD_CHARS_MIN} characters and at most {PASSWORD_BYTES_MAX} bytes."
            )));
        }
        let local_part = email.split('@').next().unwrap_or_default();
        let name = clean(&new.name, NAME_CHARS_MAX).unwrap_or_else(|| local_part.to_owned());
        let account = Account {
            id: format!("a-{}", random_id()),
            name,
            password_hash: self.passwords.hash(&new.password).await.map_err(unavailable)?,
            created_at_ms: now_ms(),
            email,
        };
        let registered = self.store.register(&account, self.config.accounts_max).await;
        match registered.map_err(unavailable)? {
            Registered::Done => self.begin(account).await,
            Registered::EmailTaken => Err(Refusal::EmailTaken),
            Registered::Full => {
                tracing::warn!(
                    max = self.config.accounts_max,
                    "accounts.accounts_max is reached: nobody can sign up"
                );
                Err(Refusal::SignUpClosed)
            }
        }
    }

    /// # Errors
    /// [`Refusal::WrongSignIn`], whether it is the address or the password; [`Refusal::TooManyTries`], [`Refusal::Unavailable`].
    pub(crate) async fn sign_in(&self, sign_in: SignIn, client: IpAddr) -> Result<SessionReply, Refusal> {
        self.may_try(client)?;
        let email = email(&sign_in.email).ok_or(Refusal::WrongSignIn)?;
        // Taken first and given back, so that many guesses at once are not all free.
        let guesses = &self.wrong_passwords;
        guesses.take(email.clone(), Instant::now()).map_err(too_many)?;
        let found = self.store.by_email(&email).await.map_err(unavailable)?;
        let hash = match &found {
            Some(account) => &account.password_hash,
            None => self.nobodys_hash().await?,
        };
        let long = sign_in.password.len() > PASSWORD_BYTES_MAX;
        let right = !long
            && self
                .passwords
                .verify(&sign_in.password, hash)
                .await
                .map_err(unavailable)?;
        let account = found.filter(|_| right).ok_or(Refusal::WrongSignIn)?;
        guesses.give_back(&email);
        self.begin(account).await
    }

    /// New tokens for an old refresh token.
    ///
    /// # Errors
    /// [`Refusal::SignedOut`], [`Refusal::TooManyTries`], [`Refusal::Unavailable`].
    pub(crate) async fn refresh(&self, token: &str, client: IpAddr) -> Result<SessionReply, Refusal> {
        self.may_try(client)?;
        let (session, _) = token.split_once('.').ok_or(Refusal::SignedOut)?;
        let next = refresh_token(session);
        let now = now_ms();
        let rotation = self
            .store
            .rotate(session, &sha256(token), &sha256(&next), now, now + REFRESH_TTL_MS)
            .await;
        let account = match rotation.map_err(unavailable)? {
            Rotation::Done { account } => account,
            Rotation::Ended => {
                tracing::warn!(session, %client, "a refresh token was shown that is not good any more: the session has ended");
                return Err(Refusal::SignedOut);
            }
            Rotation::Unknown => return Err(Refusal::SignedOut),
        };
        let account = self.store.by_id(&account).await.map_err(unavailable)?;
        self.reply(account.ok_or(Refusal::SignedOut)?, session, next)
    }

    /// Who shows this access token.
    ///
    /// # Errors
    /// [`Refusal::NotSignedIn`].
    pub(crate) fn who(&self, token: Option<&str>) -> Result<AccountClaims, Refusal> {
        let token = token.ok_or(Refusal::NotSignedIn)?;
        AccountClaims::verify_at(token, &self.keys, unix_now_s()).map_err(|_| Refusal::NotSignedIn)
    }

    /// # Errors
    /// [`Refusal::NotSignedIn`], [`Refusal::Unavailable`].
    pub(crate) async fn account(&self, token: Option<&str>) -> Result<AccountReply, Refusal> {
        let who = self.who(token)?;
        let account = self.store.by_id(&who.sub).await.map_err(unavailable)?;
        account.map(AccountReply::from).ok_or(Refusal::NotSignedIn)
    }

    /// Signs this device out.
    ///
    /// # Errors
    /// [`Refusal::NotSignedIn`], [`Refusal::Unavailable`].
    pub(crate) async fn sign_out(&self, token: Option<&str>) -> Result<(), Refusal> {
        let who = self.who(token)?;
        self.store.end(&who.sid).await.map_err(unavailable)
    }

    fn may_try(&self, client: IpAddr) -> Result<(), Refusal> {
        self.tries.take(limit_key(client), Instant::now()).map_err(too_many)
    }

    async fn nobodys_hash(&self) -> Result<&String, Refusal> {
        let make = || async { self.passwords.hash(&random_id()).await };
        self.nobodys_hash.get_or_try_init(make).await.map_err(unavailable)
    }

    async fn begin(&self, account: Account) -> Result<SessionReply, Refusal> {
        let id = random_id();
        let token = refresh_token(&id);
        let now = now_ms();
        let session = Session {
            id,
            account: account.id.clone(),
            refresh_hash: sha256(&token),
            created_at_ms: now,
            expires_at_ms: now + REFRESH_TTL_MS,
        };
        self.store.begin(&session, SESSIONS_MAX).await.map_err(unavailable)?;
        self.reply(account, &session.id, token)
    }

    fn reply(&self, account: Account, session: &str, refresh_token: String) -> Result<SessionReply, Refusal> {
        let claims = AccountClaims::new(&account.id, session, unix_now_s(), ACCESS_TTL_S);
        Ok(SessionReply {
            access_token: claims.sign(&self.signing_key).map_err(unavailable)?,
            account: account.into(),
            expires_in_s: ACCESS_TTL_S,
            refresh_token,
        })
    }
}

impl From<Account> for AccountReply {
    fn from(account: Account) -> Self {
        AccountReply {
            id: account.id,
            email: account.email,
            name: account.name,
            created_at_ms: account.created_at_ms,
        }
    }
}

fn bad(why: &str) -> Refusal {
    Refusal::BadRequest(why.to_owned())
}

/// 128 random bits as 22 characters.
fn random_id() -> String {
    URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 16]>())
}

/// `session.secret`; the secret has 256 random bits.
fn refresh_token(session: &str) -> String {
    format!("{session}.{}", URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 32]>()))
}

/// An e-mail address in lower case, if it can be one. Whether it is somebody's only a mail would tell.
fn email(typed: &str) -> Option<String> {
    let email = typed.trim().to_lowercase();
    let (local, domain) = email.rsplit_once('@')?;
    let plain =
        |text: &str| !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '@');
    let dotted = domain.contains('.') && domain.split('.').all(|label| !label.is_empty());
    (email.len() <= EMAIL_BYTES_MAX && plain(local) && plain(domain) && dotted).then_some(email)
}

#[cfg(test)]
mod tests {
    use super::email;

    #[test]
    fn addresses_are_compared_in_lower_case_and_must_look_like_one() {
        assert_eq!(email(" Ana@Example.ORG ").as_deref(), Some("ana@example.org"));
        assert_eq!(email("zoë+x@exämple.org").as_deref(), Some("zoë+x@exämple.org"));
        for wrong in [
            "",
            "ana",
            "@example.org",
            "ana@",
            "ana@example",
            "a b@example.org",
            "a@b@example.org",
            "ana@.org",
        ] {
            assert_eq!(email(wrong), None, "{wrong}");
        }
        assert_eq!(email(&format!("{}@example.org", "a".repeat(250))), None);
    }
}
