//! How this edge stands with the control plane at the moment.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

#[derive(Default)]
pub(crate) struct Standing {
    connected: AtomicBool,
    /// The control plane has said that it sends nobody here any more.
    leaving_noted: watch::Sender<bool>,
}

impl Standing {
    /// Notes whether the stream stands; returns whether it did before.
    pub(super) fn set_connected(&self, connected: bool) -> bool {
        let before = self.connected.swap(connected, Ordering::Relaxed);
        if before != connected {
            tracing::info!(connected, "control plane");
        }
        before
    }

    pub(super) fn note_leaving(&self) {
        self.leaving_noted.send_replace(true);
    }

    /// Once the control plane sends nobody here any more. It does not wait for one that is away.
    pub(crate) async fn lets_go(&self) {
        if self.connected.load(Ordering::Relaxed) {
            let _ = self.leaving_noted.subscribe().wait_for(|noted| *noted).await;
        }
    }
}
