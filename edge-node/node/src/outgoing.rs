//! What this edge has to tell the control plane for good: an outbox ([`meridian_outbox`]) that rooms put facts into and the stream empties.

use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use meridian_outbox::{Limits, Outbox, Worth};
use meridian_serving::metrics::head;
use meridian_wire::v1;
use meridian_wire::v1::edge_report::Report;
use meridian_wire::v1::entry::Kind;
use tokio::sync::Notify;

pub(crate) struct Outgoing {
    outbox: Mutex<Outbox<Kind>>,
    /// There may be something to send.
    more: Notify,
    /// Something was acknowledged.
    fewer: Notify,
}

impl Default for Outgoing {
    fn default() -> Outgoing {
        Outgoing {
            outbox: Mutex::new(Outbox::new(Limits::default())),
            more: Notify::new(),
            fewer: Notify::new(),
        }
    }
}

impl Outgoing {
    pub(crate) fn push(&self, kind: Kind, worth: Worth) {
        let bytes = kind.encoded_len();
        self.lock().push(kind, bytes, worth);
        self.more.notify_one();
    }

    /// A stream stands, over which nothing has been sent yet.
    pub(crate) fn connected(&self) {
        self.lock().connected(Instant::now());
        self.more.notify_one();
    }

    pub(crate) fn disconnected(&self) {
        self.lock().disconnected();
    }

    pub(crate) fn received(&self, through: u64) {
        self.lock().received(through);
        self.more.notify_one();
        self.fewer.notify_waiters();
    }

    /// Waits for the next report to send. A control plane without `acknowledges` knows ends of sessions only, and once said is all it gets.
    /// May be dropped while it waits: nothing is taken out before there is something to give.
    pub(crate) async fn next(&self, acknowledges: bool) -> Report {
        loop {
            let (next, due) = {
                let mut outbox = self.lock();
                (outbox.poll(Instant::now()), outbox.poll_timeout())
            };
            match next {
                Some((number, kind)) if acknowledges => {
                    let kind = Some(kind);
                    return Report::Entry(v1::Entry { number, kind });
                }
                Some((number, kind)) => {
                    self.received(number);
                    if let Kind::Session(session) = kind {
                        return Report::Session(session);
                    }
                }
                None => {
                    let paced = async {
                        match due {
                            Some(due) => tokio::time::sleep_until(due.into()).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        () = self.more.notified() => {}
                        () = paced => {}
                    }
                }
            }
        }
    }

    /// Once everything is acknowledged.
    pub(crate) async fn emptied(&self) {
        loop {
            let fewer = self.fewer.notified();
            if self.lock().is_empty() {
                return;
            }
            fewer.await;
        }
    }

    pub(crate) fn render_metrics(&self, text: &mut String) {
        let counters = self.lock().counters();
        for (name, kind, help, value) in [
            (
                "meridian_outbox_entries",
                "gauge",
                "Entries that the control plane has not acknowledged yet.",
                counters.depth as u64,
            ),
            (
                "meridian_outbox_dropped_total",
                "counter",
                "Entries given up because the outbox was full: the control plane was away for long.",
                counters.dropped,
            ),
            (
                "meridian_outbox_resent_total",
                "counter",
                "Entries sent again over another connection.",
                counters.resent,
            ),
        ] {
            head(text, name, kind, help);
            let _ = writeln!(text, "{name} {value}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Outbox<Kind>> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
