//! A key that lives as long as its process: leased, kept alive, put back after the lease was lost, gone at once on leaving.

use crate::{Backoff, Entry, LeaseId, RegistryError, SharedRegistry, within};
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Failing for longer than this is told, and then again after [`TELL_EVERY`]: the registry is away, full or refuses us.
const TELL_AFTER: Duration = Duration::from_secs(3);
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Leases remembered: an older one has ended.
const GRANTED_MAX: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistrationState {
    /// Not yet there.
    Starting,
    /// The key stands.
    Registered,
    /// The registry has not confirmed the lease for its whole length: others may no longer see the key. It is being put back.
    Lost,
    /// Another process has registered the same key after us. We stopped: two nodes must not fight for one name.
    Superseded,
}

/// A registered key. Dropping it stops the keep-alive, as a crash would: the key goes when its lease ends. See [`Self::leave`].
pub struct Registration {
    value: watch::Sender<Bytes>,
    state: watch::Receiver<RegistrationState>,
    leave: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

/// Registers `key` with a lease of `ttl`, in the background: it retries until the registry answers.
pub fn register(registry: SharedRegistry, key: impl Into<String>, value: Bytes, ttl: Duration) -> Registration {
    let (value_in, value_out) = watch::channel(value);
    let (state_in, state_out) = watch::channel(RegistrationState::Starting);
    let (leave_in, leave_out) = oneshot::channel();
    let keeper = Keeper {
        registry,
        key: key.into(),
        ttl,
        value: value_out,
        state: state_in,
        granted: VecDeque::new(),
    };
    let task = tokio::spawn(keeper.run(leave_out));
    Registration {
        value: value_in,
        state: state_out,
        leave: Some(leave_in),
        task,
    }
}

impl Registration {
    /// Replaces the value.
    pub fn set(&self, value: Bytes) {
        self.value.send_if_modified(|current| {
            let changed = *current != value;
            *current = value;
            changed
        });
    }

    /// The state and its changes.
    pub fn state(&self) -> watch::Receiver<RegistrationState> {
        self.state.clone()
    }

    /// Waits until the key stands.
    pub async fn registered(&self) {
        let mut state = self.state.clone();
        // An error means that the task has ended, which only the runtime's shutdown or being superseded does.
        let _ = state.wait_for(|state| *state != RegistrationState::Starting).await;
    }

    /// Takes the key away now. Waits for the registry at most `ttl`.
    pub async fn leave(mut self) {
        if let Some(leave) = self.leave.take() {
            let _ = leave.send(());
        }
        let _ = (&mut self.task).await;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if self.leave.is_some() {
            self.task.abort();
        }
    }
}

struct Keeper {
    registry: SharedRegistry,
    key: String,
    ttl: Duration,
    value: watch::Receiver<Bytes>,
    state: watch::Sender<RegistrationState>,
    /// The last leases that a write of ours went under, whether or not its answer came: what they hold is ours.
    granted: VecDeque<LeaseId>,
}

/// Why a lease is no longer kept.
enum End {
    Lost,
    Superseded,
    Left,
}

impl Keeper {
    async fn run(mut self, mut leave: oneshot::Receiver<()>) {
        let mut backoff = Backoff::new(self.ttl / 20, self.ttl / 2);
        let mut first = true;
        let mut tell_at = Instant::now() + TELL_AFTER;
        loop {
            let established = tokio::select! {
                lease = self.establish(first) => lease,
                _ = &mut leave => return,
            };
            let lease = match established {
                Ok(Some(lease)) => lease,
                Ok(None) => return self.superseded(),
                Err(error) => {
                    if Instant::now() >= tell_at {
                        tell_at = Instant::now() + TELL_EVERY;
                        tracing::warn!(key = %self.key, %error, "cannot register: others do not see this process; trying again");
                    } else {
                        tracing::debug!(key = %self.key, %error, "cannot register yet");
                    }
                    tokio::select! {
                        () = backoff.pause() => continue,
                        _ = &mut leave => return,
                    }
                }
            };
            first = false;
            backoff.reset();
            self.set_state(RegistrationState::Registered);
            match self.keep(lease, &mut leave).await {
                End::Lost => {
                    tracing::warn!(key = %self.key, "the registration was lost and is being renewed");
                    self.set_state(RegistrationState::Lost);
                    tell_at = Instant::now() + TELL_AFTER;
                }
                End::Superseded => return self.superseded(),
                End::Left => {
                    if let Err(error) = within(self.ttl, self.registry.revoke(lease)).await {
                        tracing::warn!(key = %self.key, %error, "could not say goodbye; the lease will end by itself");
                    }
                    return;
                }
            }
        }
    }

    fn superseded(&self) {
        tracing::error!(key = %self.key, "another process has registered the same name; this one no longer is");
        self.set_state(RegistrationState::Superseded);
    }

    async fn establish(&mut self, first: bool) -> Result<Option<LeaseId>, RegistryError> {
        let limit = self.ttl / 2;
        // A fresh process takes its name over from the one that crashed. One that was merely cut off must not take it back.
        // A write whose answer was lost may stand all the same: what lies under a lease of ours is nobody else's.
        if !first
            && let Some(entry) = within(limit, self.registry.get(&self.key)).await?
            && !self.is_ours(&entry)
        {
            return Ok(None);
        }
        let lease = within(limit, self.registry.grant(self.ttl)).await?;
        self.granted.truncate(GRANTED_MAX - 1);
        self.granted.push_front(lease);
        let value = self.value.borrow_and_update().clone();
        within(limit, self.registry.put(&self.key, value, Some(lease))).await?;
        Ok(Some(lease))
    }

    async fn keep(&mut self, lease: LeaseId, leave: &mut oneshot::Receiver<()>) -> End {
        let mut confirmed = Instant::now();
        let mut renewal = confirmed + self.ttl / 3;
        loop {
            let renew = tokio::select! {
                biased;
                _ = &mut *leave => return End::Left,
                () = tokio::time::sleep_until(renewal) => true,
                changed = self.value.changed() => match changed {
                    Ok(()) => false,
                    Err(_) => return End::Left,
                },
            };
            let asked = Instant::now();
            let result = if renew {
                self.renew(lease).await
            } else {
                self.write(lease).await
            };
            match result {
                Ok(true) => {
                    if renew {
                        confirmed = asked;
                        renewal = asked + self.ttl / 3;
                    }
                    self.set_state(RegistrationState::Registered);
                }
                Ok(false) => return End::Superseded,
                Err(RegistryError::LeaseGone) => return End::Lost,
                Err(error) => {
                    tracing::debug!(key = %self.key, %error, "keep-alive failed");
                    if confirmed.elapsed() > self.ttl {
                        // It may still stand (the store's clock stopped too) or not: only asking again will tell.
                        if *self.state.borrow() != RegistrationState::Lost {
                            tracing::warn!(key = %self.key, %error, "the registration was lost: the registry has not confirmed it for its lease");
                        }
                        self.set_state(RegistrationState::Lost);
                    }
                    renewal = Instant::now() + self.ttl / 10;
                    if !renew {
                        self.value.mark_changed();
                        tokio::time::sleep_until(renewal).await;
                    }
                }
            }
        }
    }

    fn set_state(&self, state: RegistrationState) {
        self.state
            .send_if_modified(|current| std::mem::replace(current, state) != state);
    }

    fn is_ours(&self, entry: &Entry) -> bool {
        entry.lease.is_some_and(|lease| self.granted.contains(&lease))
    }

    /// Renews the lease and looks whether the key is still ours; `false`: somebody else's.
    async fn renew(&mut self, lease: LeaseId) -> Result<bool, RegistryError> {
        within(self.ttl / 3, self.registry.keep_alive(lease)).await?;
        match within(self.ttl / 3, self.registry.get(&self.key)).await? {
            Some(entry) if entry.lease == Some(lease) => Ok(true),
            // Absent, or an older write of ours that arrived late.
            _ => self.write(lease).await,
        }
    }

    async fn write(&mut self, lease: LeaseId) -> Result<bool, RegistryError> {
        let limit = self.ttl / 3;
        if within(limit, self.registry.get(&self.key))
            .await?
            .is_some_and(|entry| !self.is_ours(&entry))
        {
            return Ok(false);
        }
        let value = self.value.borrow_and_update().clone();
        within(limit, self.registry.put(&self.key, value, Some(lease))).await?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BoxFuture, Changes, Expected, Listing, MemoryRegistry, Registry, Result, Swap};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Carries out every call, but loses the answers of the puts numbered in `lost` (a bit each).
    struct Forgetful {
        inner: MemoryRegistry,
        lost: u32,
        puts: AtomicU32,
    }

    impl Registry for Forgetful {
        fn put<'a>(&'a self, key: &'a str, value: Bytes, lease: Option<LeaseId>) -> BoxFuture<'a, Result<u64>> {
            Box::pin(async move {
                let revision = self.inner.put(key, value, lease).await?;
                match self.lost >> self.puts.fetch_add(1, Ordering::SeqCst) & 1 {
                    1 => Err(RegistryError::Unavailable("the answer was lost".to_owned())),
                    _ => Ok(revision),
                }
            })
        }
        fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>>> {
            self.inner.get(key)
        }
        fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing>> {
            self.inner.list(prefix)
        }
        fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool>> {
            self.inner.delete(key)
        }
        fn compare_and_set<'a>(
            &'a self,
            key: &'a str,
            expected: Expected,
            value: Option<Bytes>,
            lease: Option<LeaseId>,
        ) -> BoxFuture<'a, Result<Swap>> {
            self.inner.compare_and_set(key, expected, value, lease)
        }
        fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId>> {
            self.inner.grant(ttl)
        }
        fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<()>> {
            self.inner.keep_alive(lease)
        }
        fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<()>> {
            self.inner.revoke(lease)
        }
        fn changes<'a>(&'a self, prefix: &'a str, after: u64) -> BoxFuture<'a, Result<Changes>> {
            self.inner.changes(prefix, after)
        }
    }

    #[tokio::test]
    async fn a_write_whose_answer_was_lost_is_not_taken_for_another_process() {
        let inner = MemoryRegistry::new();
        // The first put is heard; the first two after the lease was lost are not.
        let forgetful = Forgetful {
            inner: inner.clone(),
            lost: 0b110,
            puts: AtomicU32::new(0),
        };
        let registration = register(
            Arc::new(forgetful),
            "nodes/a",
            Bytes::from_static(b"a"),
            Duration::from_secs(1),
        );
        let mut state = registration.state();
        state
            .wait_for(|state| *state == RegistrationState::Registered)
            .await
            .unwrap();
        let lease = inner.get("nodes/a").await.unwrap().unwrap().lease.unwrap();
        inner.revoke(lease).await.unwrap();
        state.wait_for(|state| *state == RegistrationState::Lost).await.unwrap();
        let next = state
            .wait_for(|state| *state != RegistrationState::Lost)
            .await
            .map(|state| *state);
        assert_eq!(next.unwrap(), RegistrationState::Registered);
        assert!(inner.get("nodes/a").await.unwrap().is_some());
    }
}
