//! Leader election: whoever puts the key first leads, as long as its lease lasts.

use crate::{
    Backoff, Change, Expected, LeaseId, RegistryError, Result, SharedRegistry, Swap, WatchEvent, watch, within,
};
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::{oneshot, watch as watch_channel};
use tokio::task::JoinHandle;
use tokio::time::Instant;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leadership {
    /// Somebody else leads (`None`: nobody yet, or not known).
    Follower { leader: Option<String> },
    /// We lead. `term` grows with every change of leader: put it into what must not be overwritten by an earlier leader.
    Leader { term: u64 },
}

impl Leadership {
    pub fn is_leader(&self) -> bool {
        matches!(self, Leadership::Leader { .. })
    }
}

/// A candidacy that runs until it is dropped (as a crash: others take over when the lease ends) or resigned.
pub struct Candidacy {
    state: watch_channel::Receiver<Leadership>,
    resign: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Candidacy {
    /// Who leads, and changes of it.
    ///
    /// It says `Follower` before the lease can end for others, by this process's own clock, even if the registry cannot be reached.
    pub fn state(&self) -> watch_channel::Receiver<Leadership> {
        self.state.clone()
    }

    pub fn is_leader(&self) -> bool {
        self.state.borrow().is_leader()
    }

    /// Stops leading and standing, at once.
    pub async fn resign(mut self) {
        if let Some(resign) = self.resign.take() {
            let _ = resign.send(());
        }
        let _ = (&mut self.task).await;
    }
}

impl Drop for Candidacy {
    fn drop(&mut self) {
        if self.resign.is_some() {
            self.task.abort();
        }
    }
}

/// Stands for the leadership called `name` as `candidate`.
pub fn campaign(registry: SharedRegistry, name: &str, candidate: &str, ttl: Duration) -> Candidacy {
    let (state_in, state) = watch_channel::channel(Leadership::Follower { leader: None });
    let (resign, resigned) = oneshot::channel();
    let runner = Runner {
        registry,
        key: format!("leaders/{name}"),
        candidate: candidate.to_owned(),
        ttl,
        state: state_in,
    };
    let task = tokio::spawn(runner.run(resigned));
    Candidacy {
        state,
        resign: Some(resign),
        task,
    }
}

struct Runner {
    registry: SharedRegistry,
    key: String,
    candidate: String,
    ttl: Duration,
    state: watch_channel::Sender<Leadership>,
}

impl Runner {
    async fn run(self, mut resigned: oneshot::Receiver<()>) {
        let mut backoff = Backoff::new(self.ttl / 20, self.ttl / 2);
        loop {
            let lease = tokio::select! {
                won = self.win(&mut backoff) => won,
                _ = &mut resigned => return,
            };
            backoff.reset();
            tokio::select! {
                () = self.lead(lease) => self.set(Leadership::Follower { leader: None }),
                _ = &mut resigned => {
                    self.set(Leadership::Follower { leader: None });
                    if let Err(error) = within(self.ttl, self.registry.revoke(lease)).await {
                        tracing::warn!(key = %self.key, %error, "could not resign; the lease will end by itself");
                    }
                    return;
                }
            }
        }
    }

    /// Waits until the key is free and ours.
    async fn win(&self, backoff: &mut Backoff) -> LeaseId {
        let mut watch = watch(self.registry.clone(), self.key.clone());
        let mut taken = true;
        loop {
            if taken {
                match watch.next().await {
                    Some(event) => taken = self.observe(event),
                    None => std::future::pending().await,
                }
                continue;
            }
            match self.try_once().await {
                Ok(Some(lease)) => return lease,
                Ok(None) => taken = true,
                Err(error) => {
                    tracing::debug!(key = %self.key, %error, "the candidacy waits");
                    backoff.pause().await;
                }
            }
        }
    }

    /// Whether somebody leads after this event.
    fn observe(&self, event: WatchEvent) -> bool {
        let leader = match event {
            WatchEvent::Snapshot(entries) | WatchEvent::Rewound(entries) => {
                entries.into_iter().find(|entry| entry.key == self.key)
            }
            WatchEvent::Changes(changes) => match changes.into_iter().rfind(|change| change.key() == self.key) {
                Some(Change::Put(entry)) => Some(entry),
                _ => None,
            },
        };
        let leader = leader.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
        let taken = leader.is_some();
        self.set(Leadership::Follower { leader });
        taken
    }

    async fn try_once(&self) -> Result<Option<LeaseId>> {
        let limit = self.ttl / 3;
        let asked = Instant::now();
        let lease = within(limit, self.registry.grant(self.ttl)).await?;
        let value = Bytes::from(self.candidate.clone());
        let swap = within(
            limit,
            self.registry
                .compare_and_set(&self.key, Expected::Absent, Some(value), Some(lease)),
        )
        .await;
        match swap {
            Ok(Swap::Done { revision }) if asked.elapsed() < self.ttl / 2 => {
                self.set(Leadership::Leader { term: revision });
                Ok(Some(lease))
            }
            outcome => {
                // Whatever happened, a lease that we do not use must not hold the key.
                let _ = within(limit, self.registry.revoke(lease)).await;
                outcome.map(|_| None)
            }
        }
    }

    /// Keeps the lease until it is lost, or may be.
    async fn lead(&self, lease: LeaseId) {
        let mut confirmed = Instant::now();
        // A fifth of the lease is the margin by which we stop before anybody else can start.
        let safe = self.ttl * 4 / 5;
        loop {
            let wait = if confirmed.elapsed() > self.ttl / 2 {
                self.ttl / 20
            } else {
                self.ttl / 4
            };
            tokio::time::sleep(wait).await;
            let asked = Instant::now();
            let left = safe.saturating_sub(confirmed.elapsed());
            match within(left.min(self.ttl / 3), self.registry.keep_alive(lease)).await {
                Ok(()) => confirmed = asked,
                Err(RegistryError::LeaseGone) => return,
                Err(error) => tracing::debug!(key = %self.key, %error, "the leader cannot renew"),
            }
            if confirmed.elapsed() >= safe {
                return;
            }
        }
    }

    fn set(&self, state: Leadership) {
        self.state.send_if_modified(|current| {
            let changed = *current != state;
            *current = state;
            changed
        });
    }
}
