//! Where meetings are kept: one contract, which SQLite fulfils in production and a map in memory in tests. Both pass one suite.

#[cfg(test)]
mod contract;
#[cfg(test)]
mod memory;
mod sqlite;

pub(crate) use sqlite::SqliteMeetings;

use crate::database::Stored;

/// A meeting as it is stored. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meeting {
    pub(crate) code: String,
    pub(crate) title: String,
    /// PHC string of argon2id.
    pub(crate) passcode_hash: Option<String>,
    /// SHA-256 of the host key.
    pub(crate) host_key_hash: Vec<u8>,
    pub(crate) max_participants: u32,
    pub(crate) created_at_ms: u64,
    pub(crate) ended_at_ms: Option<u64>,
    /// When somebody last joined, within an hour; at first its creation.
    pub(crate) used_at_ms: u64,
    /// Region names and areas; empty: anywhere.
    pub(crate) residency: Vec<String>,
    /// The account of whoever made it, if they had signed in.
    pub(crate) owner: Option<String>,
}

/// Codes are in their written form. Every method may fail with `StoreError::Database` and is safe to repeat.
pub(crate) trait MeetingStore: Send + Sync + 'static {
    /// Stores a new meeting; `false` if the code is taken: then nothing changes.
    fn insert<'a>(&'a self, meeting: &'a Meeting) -> Stored<'a, bool>;

    fn get<'a>(&'a self, code: &'a str) -> Stored<'a, Option<Meeting>>;

    /// An account's meetings that have not ended, the latest first.
    fn owned_by<'a>(&'a self, account: &'a str, meetings_max: u32) -> Stored<'a, Vec<Meeting>>;

    /// Ends a meeting; `false` if it had ended already or does not exist. The first end stays.
    fn end<'a>(&'a self, code: &'a str, at_ms: u64) -> Stored<'a, bool>;

    /// Notes that a meeting is used. One that does not exist is no error.
    fn touch<'a>(&'a self, code: &'a str, at_ms: u64) -> Stored<'a, ()>;

    /// Removes meetings that nobody has used since `before_ms`; returns how many.
    fn purge(&self, before_ms: u64) -> Stored<'_, u64>;
}
