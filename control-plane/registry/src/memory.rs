//! The registry of one machine: everything in one process, gone when it ends. The demo and most tests run on it.

use crate::{
    Batch, BoxFuture, Change, Changes, Entry, Expected, LeaseId, Listing, Registry, RegistryError, Result, Swap,
};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Changes kept for watchers that come back; older ones are compacted away.
const HISTORY_MAX: usize = 4096;
/// A watcher this far behind is cut off; it resumes from its last revision.
const WATCHER_QUEUE: usize = 256;

/// An in-process registry. Clones share the store and the connection to it.
#[derive(Clone, Default)]
pub struct MemoryRegistry {
    inner: Arc<Mutex<Store>>,
    /// Whether this connection is cut (see [`Self::set_down`]).
    down: Arc<AtomicBool>,
}

#[derive(Default)]
struct Store {
    revision: u64,
    entries: BTreeMap<String, Entry>,
    leases: BTreeMap<LeaseId, Lease>,
    lease_next: i64,
    history: VecDeque<Change>,
    /// Revisions up to this one are no longer in `history`.
    compacted: u64,
    watchers: Vec<Watcher>,
}

struct Lease {
    ttl: Duration,
    deadline: Instant,
}

struct Watcher {
    prefix: String,
    queue: mpsc::Sender<Result<Batch>>,
    connection: Arc<AtomicBool>,
}

impl MemoryRegistry {
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the history up to now, as etcd does from time to time. Watchers that are connected keep going.
    pub fn compact(&self) {
        let mut store = self.lock();
        store.compacted = store.revision;
        store.history.clear();
    }

    /// Another connection to the same store, which can be cut by itself.
    pub fn connection(&self) -> Self {
        MemoryRegistry {
            inner: self.inner.clone(),
            down: Arc::default(),
        }
    }

    /// Cuts this connection (`true`): its calls fail and its watchers are cut off, while leases go on ending. `false` mends it.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
        if down {
            self.lock()
                .watchers
                .retain(|watcher| !Arc::ptr_eq(&watcher.connection, &self.down));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        // The store is consistent after every statement, so a panic elsewhere under the lock does not spoil it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn up(&self) -> Result<MutexGuard<'_, Store>> {
        if self.down.load(Ordering::SeqCst) {
            return Err(RegistryError::Unavailable("the connection is cut".to_owned()));
        }
        Ok(self.lock())
    }
}

impl Store {
    fn put(&mut self, key: &str, value: Bytes, lease: Option<LeaseId>) -> Result<u64> {
        if lease.is_some_and(|lease| !self.leases.contains_key(&lease)) {
            return Err(RegistryError::LeaseGone);
        }
        self.revision += 1;
        let entry = Entry {
            key: key.to_owned(),
            value,
            revision: self.revision,
            lease,
        };
        self.entries.insert(key.to_owned(), entry.clone());
        self.publish(vec![Change::Put(entry)]);
        Ok(self.revision)
    }

    fn delete(&mut self, keys: &[String]) -> bool {
        let present: Vec<&String> = keys.iter().filter(|key| self.entries.contains_key(*key)).collect();
        if present.is_empty() {
            return false;
        }
        self.revision += 1;
        let revision = self.revision;
        let changes = present
            .into_iter()
            .map(|key| Change::Delete {
                key: key.clone(),
                revision,
            })
            .collect();
        for key in keys {
            self.entries.remove(key);
        }
        self.publish(changes);
        true
    }

    fn end_lease(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
        let keys: Vec<String> = self
            .entries
            .values()
            .filter(|entry| entry.lease == Some(lease))
            .map(|entry| entry.key.clone())
            .collect();
        self.delete(&keys);
    }

    fn publish(&mut self, changes: Vec<Change>) {
        let revision = self.revision;
        self.watchers.retain(|watcher| {
            let wanted: Vec<Change> = changes
                .iter()
                .filter(|change| change.key().starts_with(&watcher.prefix))
                .cloned()
                .collect();
            if wanted.is_empty() {
                return !watcher.queue.is_closed();
            }
            watcher
                .queue
                .try_send(Ok(Batch {
                    revision,
                    changes: wanted,
                }))
                .is_ok()
        });
        self.history.extend(changes);
        while self.history.len() > HISTORY_MAX {
            if let Some(Change::Put(Entry { revision, .. }) | Change::Delete { revision, .. }) =
                self.history.pop_front()
            {
                self.compacted = revision;
            }
        }
    }
}

fn revision_of(change: &Change) -> u64 {
    match change {
        Change::Put(entry) => entry.revision,
        Change::Delete { revision, .. } => *revision,
    }
}

/// Ends a lease once nobody renews it any more. Dies with the store.
async fn expire(store: Weak<Mutex<Store>>, lease: LeaseId) {
    loop {
        let deadline = {
            let Some(store) = store.upgrade() else { return };
            let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
            match store.leases.get(&lease).map(|lease| lease.deadline) {
                None => return,
                Some(deadline) if deadline <= Instant::now() => {
                    store.end_lease(lease);
                    return;
                }
                Some(deadline) => deadline,
            }
        };
        tokio::time::sleep_until(deadline).await;
    }
}

fn ready<'a, T: Send + 'a>(result: Result<T>) -> BoxFuture<'a, Result<T>> {
    Box::pin(std::future::ready(result))
}

impl Registry for MemoryRegistry {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>>> {
        ready(self.up().map(|store| store.entries.get(key).cloned()))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing>> {
        ready(self.up().map(|store| {
            Listing {
                revision: store.revision,
                entries: store
                    .entries
                    .range(prefix.to_owned()..)
                    .take_while(|(key, _)| key.starts_with(prefix))
                    .map(|(_, entry)| entry.clone())
                    .collect(),
            }
        }))
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes, lease: Option<LeaseId>) -> BoxFuture<'a, Result<u64>> {
        ready(self.up().and_then(|mut store| store.put(key, value, lease)))
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool>> {
        ready(self.up().map(|mut store| store.delete(&[key.to_owned()])))
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Expected,
        value: Option<Bytes>,
        lease: Option<LeaseId>,
    ) -> BoxFuture<'a, Result<Swap>> {
        ready(self.up().and_then(|mut store| {
            let found = store.entries.get(key).cloned();
            let holds = match (expected, &found) {
                (Expected::Absent, None) => true,
                (Expected::Revision(revision), Some(entry)) => entry.revision == revision,
                _ => false,
            };
            if !holds {
                return Ok(Swap::Conflict(found));
            }
            match value {
                Some(value) => store.put(key, value, lease).map(|revision| Swap::Done { revision }),
                None => {
                    store.delete(&[key.to_owned()]);
                    Ok(Swap::Done {
                        revision: store.revision,
                    })
                }
            }
        }))
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId>> {
        Box::pin(async move {
            let lease = {
                let mut store = self.up()?;
                store.lease_next += 1;
                let lease = LeaseId(store.lease_next);
                store.leases.insert(
                    lease,
                    Lease {
                        ttl,
                        deadline: Instant::now() + ttl,
                    },
                );
                lease
            };
            tokio::spawn(expire(Arc::downgrade(&self.inner), lease));
            Ok(lease)
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<()>> {
        ready(self.up().and_then(|mut store| {
            let lease = store.leases.get_mut(&lease).ok_or(RegistryError::LeaseGone)?;
            lease.deadline = Instant::now() + lease.ttl;
            Ok(())
        }))
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<()>> {
        ready(self.up().map(|mut store| store.end_lease(lease)))
    }

    fn changes<'a>(&'a self, prefix: &'a str, after: u64) -> BoxFuture<'a, Result<Changes>> {
        ready(self.up().and_then(|mut store| {
            if after < store.compacted || after > store.revision {
                return Err(RegistryError::Compacted(store.compacted));
            }
            let missed: Vec<Change> = store
                .history
                .iter()
                .filter(|change| revision_of(change) > after && change.key().starts_with(prefix))
                .cloned()
                .collect();
            let (queue, changes) = mpsc::channel(WATCHER_QUEUE);
            if !missed.is_empty() {
                let batch = Batch {
                    revision: store.revision,
                    changes: missed,
                };
                queue
                    .try_send(Ok(batch))
                    .map_err(|_| RegistryError::Unavailable("watch queue".to_owned()))?;
            }
            store.watchers.push(Watcher {
                prefix: prefix.to_owned(),
                queue,
                connection: self.down.clone(),
            });
            Ok(changes)
        }))
    }
}
