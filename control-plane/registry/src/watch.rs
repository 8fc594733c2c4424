//! Watching a prefix for as long as the process lives: a snapshot, then changes; after a gap that cannot be filled, a snapshot again.

use crate::{Backoff, Change, Entry, RegistryError, Result, SharedRegistry};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const QUEUE: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// Everything under the prefix as it is now. Replaces whatever was known before.
    Snapshot(Vec<Entry>),
    /// The same, of a registry that has gone back in time: it lost its data, or was restored from a backup. Whoever is missing may
    /// only not have come back yet.
    Rewound(Vec<Entry>),
    /// What changed since, in order.
    Changes(Vec<Change>),
}

/// A running watch. Ends when dropped.
pub struct Watch {
    events: mpsc::Receiver<WatchEvent>,
    task: JoinHandle<()>,
}

impl Watch {
    /// The next event; waits through outages. The first is always a snapshot. `None` only if the runtime shuts down.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        self.events.recv().await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts watching a prefix. Lost connections are resumed from the last revision seen, compacted ones by a new snapshot.
pub fn watch(registry: SharedRegistry, prefix: impl Into<String>) -> Watch {
    let (queue, events) = mpsc::channel(QUEUE);
    let task = tokio::spawn(run(registry, prefix.into(), queue));
    Watch { events, task }
}

async fn run(registry: SharedRegistry, prefix: String, queue: mpsc::Sender<WatchEvent>) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    let mut seen = Seen::default();
    loop {
        match follow(&registry, &prefix, &queue, &mut seen, &mut backoff).await {
            Ok(()) => return,
            Err(RegistryError::Compacted(_)) => seen.gap = true,
            Err(error) => tracing::debug!(%prefix, %error, "the watch was interrupted and resumes"),
        }
        backoff.pause().await;
    }
}

/// How far the registry has been followed.
#[derive(Default)]
struct Seen {
    revision: Option<u64>,
    /// What came after it cannot be had any more.
    gap: bool,
}

/// Follows the prefix until something fails (`Err`) or nobody listens any more (`Ok`).
async fn follow(
    registry: &SharedRegistry,
    prefix: &str,
    queue: &mpsc::Sender<WatchEvent>,
    seen: &mut Seen,
    backoff: &mut Backoff,
) -> Result<()> {
    let after = match *seen {
        Seen {
            revision: Some(revision),
            gap: false,
        } => revision,
        Seen { revision: before, .. } => {
            let listing = registry.list(prefix).await?;
            let event = match before {
                Some(before) if listing.revision < before => WatchEvent::Rewound(listing.entries),
                _ => WatchEvent::Snapshot(listing.entries),
            };
            if queue.send(event).await.is_err() {
                return Ok(());
            }
            *seen = Seen {
                revision: Some(listing.revision),
                gap: false,
            };
            listing.revision
        }
    };
    let mut changes = registry.changes(prefix, after).await?;
    backoff.reset();
    while let Some(batch) = changes.recv().await {
        let batch = batch?;
        if queue.send(WatchEvent::Changes(batch.changes)).await.is_err() {
            return Ok(());
        }
        seen.revision = Some(batch.revision);
    }
    Err(RegistryError::Unavailable("the stream of changes ended".to_owned()))
}
