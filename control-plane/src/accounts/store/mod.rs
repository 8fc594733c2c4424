//! Where accounts and their sessions are kept: one contract, SQLite in production and memory in tests, one suite for both.

#[cfg(test)]
mod contract;
#[cfg(test)]
mod memory;
mod sqlite;

pub(crate) use sqlite::SqliteAccounts;

use crate::database::Stored;

/// Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) id: String,
    /// In lower case.
    pub(crate) email: String,
    pub(crate) name: String,
    /// PHC string of argon2id.
    pub(crate) password_hash: String,
    pub(crate) created_at_ms: u64,
}

/// A device on which somebody has signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) account: String,
    /// SHA-256 of the one refresh token that is good.
    pub(crate) refresh_hash: Vec<u8>,
    pub(crate) created_at_ms: u64,
    pub(crate) expires_at_ms: u64,
}

/// What came of a new account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registered {
    Done,
    EmailTaken,
    /// There are as many accounts as there may be.
    Full,
}

/// What came of a refresh token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rotation {
    /// It was the good one; the next one is in its place. This account's.
    Done { account: String },
    /// It was not, or not any more: the session has ended for whoever holds any of its tokens (RFC 9700 §4.14.2).
    Ended,
    /// There is no such session.
    Unknown,
}

/// Every method may fail with `StoreError::Database`.
pub(crate) trait AccountStore: Send + Sync + 'static {
    /// Stores a new account, if its e-mail address is free and there are fewer than `accounts_max`.
    fn register<'a>(&'a self, account: &'a Account, accounts_max: u32) -> Stored<'a, Registered>;

    fn by_email<'a>(&'a self, email: &'a str) -> Stored<'a, Option<Account>>;

    fn by_id<'a>(&'a self, id: &'a str) -> Stored<'a, Option<Account>>;

    /// Begins a session. An account has at most `sessions_max`: the oldest end.
    fn begin<'a>(&'a self, session: &'a Session, sessions_max: u32) -> Stored<'a, ()>;

    /// Puts `next` in the place of the refresh token `shown` and moves the session's end; of two at once, one gets it.
    fn rotate<'a>(
        &'a self,
        session: &'a str,
        shown: &'a [u8],
        next: &'a [u8],
        now_ms: u64,
        expires_at_ms: u64,
    ) -> Stored<'a, Rotation>;

    /// Ends a session. One that has ended already is no error.
    fn end<'a>(&'a self, session: &'a str) -> Stored<'a, ()>;

    /// Removes sessions that expired before `now_ms`; returns how many.
    fn purge(&self, now_ms: u64) -> Stored<'_, u64>;
}
