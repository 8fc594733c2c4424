//! Tasks and threads that a process cannot go on without.

use std::sync::Arc;
use tokio::sync::watch;

/// Notes which vital part has ended although nobody asked it to. Clones share what they note.
#[derive(Clone, Debug)]
pub struct Vital(Arc<watch::Sender<State>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// Parts end now because they are told to.
    Stopping,
    Failed(&'static str),
}

impl Default for Vital {
    fn default() -> Self {
        Vital(Arc::new(watch::Sender::new(State::Running)))
    }
}

impl Vital {
    /// `task`, as a part without which nothing works: its end, be it a panic, is noted. Where it is dropped before it has begun, too.
    pub fn task<F: Future<Output = ()>>(&self, name: &'static str, task: F) -> impl Future<Output = ()> + use<F> {
        let end = End {
            vital: self.clone(),
            name,
        };
        async move {
            let _end = end;
            task.await;
        }
    }

    /// Notes that the part called `name` has ended. For threads, which somebody has to look after.
    pub fn ended(&self, name: &'static str) {
        let first = self.0.send_if_modified(|state| {
            let first = *state == State::Running;
            if first {
                *state = State::Failed(name);
            }
            first
        });
        if first {
            tracing::error!(name, "a vital part has ended");
        }
    }

    /// From now on parts end because they shall.
    pub fn stopping(&self) {
        self.0.send_if_modified(|state| {
            let running = *state == State::Running;
            if running {
                *state = State::Stopping;
            }
            running
        });
    }

    /// The part that ended first, if one did.
    pub fn failed(&self) -> Option<&'static str> {
        match *self.0.borrow() {
            State::Failed(name) => Some(name),
            State::Running | State::Stopping => None,
        }
    }

    /// Waits until a part has ended unasked, and names it.
    pub async fn failure(&self) -> &'static str {
        let mut state = self.0.subscribe();
        loop {
            if let State::Failed(name) = *state.borrow_and_update() {
                return name;
            }
            // The sender is `self`'s: it is there.
            let _ = state.changed().await;
        }
    }
}

struct End {
    vital: Vital,
    name: &'static str,
}

impl Drop for End {
    fn drop(&mut self) {
        self.vital.ended(self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_part_that_ends_or_panics_is_named() {
        for panics in [false, true] {
            let vital = Vital::default();
            let going_on = tokio::spawn(vital.task("the other", std::future::pending()));
            assert_eq!(vital.failed(), None);
            let task = tokio::spawn(vital.task("the one", async move {
                assert!(!panics, "a bug");
            }));
            assert_eq!(vital.failure().await, "the one");
            assert_eq!(task.await.is_err(), panics);
            going_on.abort();
            let _ = going_on.await;
            assert_eq!(vital.failed(), Some("the one"), "the first, not the last");
        }
    }

    #[tokio::test]
    async fn what_ends_while_the_process_stops_has_not_failed() {
        let vital = Vital::default();
        let task = tokio::spawn(vital.task("it", std::future::ready(())));
        vital.stopping();
        let _ = task.await;
        vital.ended("a thread");
        // Either it ended before we stopped, or it did not fail: on this runtime of one thread, the latter.
        assert_eq!(vital.failed(), None);
    }
}
