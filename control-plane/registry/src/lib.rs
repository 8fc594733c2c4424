//! Who is alive, who leads, and what policy holds: a small ordered key-value store with leases, and what is built on it.
//!
//! [`Registry`] is the primitive contract, in memory ([`MemoryRegistry`]) and on etcd ([`EtcdRegistry`]); one test suite runs against
//! both. [`Registration`] (a key that lives as long as its process), [`Watch`] (a prefix, through compactions and reconnects) and
//! [`Candidacy`] (leader election) are written once, over the primitives. [`nodes`] is the typed layer for edges.
//!
//! [`srv`] finds servers by DNS: etcd here, and control planes for edges. [`settings`] is what configurations say of all this.
//!
//! It is small and slow on purpose: nothing per room, participant or packet is ever put here, and no join waits for it.
#![forbid(unsafe_code)]

mod election;
mod etcd;
mod members;
mod memory;
pub mod nodes;
mod registration;
pub mod settings;
pub mod srv;
mod watch;

pub use election::{Candidacy, Leadership, campaign};
pub use etcd::{EtcdOptions, EtcdRegistry};
pub use memory::MemoryRegistry;
pub use registration::{Registration, RegistrationState, register};
pub use watch::{Watch, WatchEvent, watch};

use bytes::Bytes;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
pub type Result<T> = std::result::Result<T, RegistryError>;
/// A registry as processes pass it around.
pub type SharedRegistry = Arc<dyn Registry>;

/// A key, its value, and when it was last written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Bytes,
    /// Grows with every write to the store. What [`Expected::Revision`] compares with.
    pub revision: u64,
    /// The lease it disappears with; `None`: it stays.
    pub lease: Option<LeaseId>,
}

/// Names a lease. Only meaningful in the registry that granted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

/// All entries under a prefix at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub revision: u64,
    pub entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Put(Entry),
    Delete { key: String, revision: u64 },
}

impl Change {
    pub fn key(&self) -> &str {
        match self {
            Change::Put(entry) => &entry.key,
            Change::Delete { key, .. } => key,
        }
    }
}

/// Changes that became visible together; `revision` is the store's after them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub revision: u64,
    pub changes: Vec<Change>,
}

/// What a compare-and-set expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Absent,
    Revision(u64),
}

/// How a compare-and-set ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Swap {
    /// Written, at this revision.
    Done { revision: u64 },
    /// Something else was there (`None`: nothing was). Nothing was written.
    Conflict(Option<Entry>),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The store cannot be reached, or has no quorum. Trying again later can help.
    #[error("registry unavailable: {0}")]
    Unavailable(String),
    /// Changes after the asked revision are no longer known: list again.
    #[error("the registry has compacted its history up to revision {0}")]
    Compacted(u64),
    /// The lease expired or was revoked.
    #[error("the lease is gone")]
    LeaseGone,
    /// A mistake of the caller or the configuration. Trying again cannot help.
    #[error("registry: {0}")]
    Invalid(String),
}

impl RegistryError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, RegistryError::Unavailable(_))
    }
}

/// The stream of changes after a revision. It ends with an error, or without one if the connection was lost; both mean: ask again.
pub type Changes = mpsc::Receiver<Result<Batch>>;

/// The primitive contract. Every method may fail with [`RegistryError::Unavailable`] and is safe to repeat.
///
/// Keys are UTF-8 paths like `nodes/fra-1`; an implementation may put them under a prefix of its own.
pub trait Registry: Send + Sync + 'static {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>>>;

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing>>;

    /// Writes and returns the new revision. With a lease that is gone: [`RegistryError::LeaseGone`].
    fn put<'a>(&'a self, key: &'a str, value: Bytes, lease: Option<LeaseId>) -> BoxFuture<'a, Result<u64>>;

    /// Whether there was anything to delete.
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool>>;

    /// Writes `value` (`None` deletes) only if the key is as expected.
    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Expected,
        value: Option<Bytes>,
        lease: Option<LeaseId>,
    ) -> BoxFuture<'a, Result<Swap>>;

    /// A lease that ends `ttl` after its last keep-alive, a second or so late at most, never early. `ttl` is rounded up to what the
    /// store can do (etcd: whole seconds, 2 s at least).
    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId>>;

    /// Renews a lease. [`RegistryError::LeaseGone`] if it has ended.
    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<()>>;

    /// Ends a lease now, with all its keys. A lease that has ended already is no error.
    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<()>>;

    /// Changes under a prefix with a revision greater than `after`. If they are no longer known, [`RegistryError::Compacted`]: at once, or as the stream's first item.
    fn changes<'a>(&'a self, prefix: &'a str, after: u64) -> BoxFuture<'a, Result<Changes>>;
}

/// A pause that grows with each failure up to `max`, with jitter, so that a thousand nodes do not come back in step.
pub(crate) struct Backoff {
    next: Duration,
    min: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Backoff { next: min, min, max }
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.min;
    }

    pub(crate) async fn pause(&mut self) {
        let jittered = self.next.mul_f64(rand::random_range(0.5..1.0));
        self.next = (self.next * 2).min(self.max);
        tokio::time::sleep(jittered).await;
    }
}

/// Bounds a call: a store that does not answer is unavailable.
pub(crate) async fn within<T>(limit: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result,
        Err(_) => Err(RegistryError::Unavailable(format!("no answer within {limit:?}"))),
    }
}
