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
    let mut seen: Option<u64> = None;
    loop {
        match follow(&registry, &prefix, &queue, &mut seen, &mut backoff).await {
            Ok(()) => return,
            Err(RegistryError::Compacted(_)) => seen = None,
            Err(error) => tracing::debug!(%prefix, %error, "the watch was interrupted and resumes"),
        }
        backoff.pause().await;
    }
}

/// Follows the prefix until something fails (`Err`) or nobody listens any more (`Ok`).
async fn follow(
    registry: &SharedRegistry,
    prefix: &str,
    queue: &mpsc::Sender<WatchEvent>,
    seen: &mut Option<u64>,
    backoff: &mut Backoff,
) -> Result<()> {
    let after = match *seen {
        Some(revision) => revision,
        None => {
            let listing = registry.list(prefix).await?;
            if queue.send(WatchEvent::Snapshot(listing.entries)).await.is_err() {
                return Ok(());
            }
            *seen = Some(listing.revision);
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
        *seen = Some(batch.revision);
    }
    Err(RegistryError::Unavailable("the stream of changes ended".to_owned()))
}
