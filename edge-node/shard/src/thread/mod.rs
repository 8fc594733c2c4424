//! One media thread.
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use meridian_transport::DtlsIdentity;
use meridian_udp::Socket;
use tokio::sync::mpsc;

use crate::api::{Event, ShardsConfig, TapBatch};
use crate::inbox::{Inbox, Mailbox, Note, Routes};
use crate::metrics::Counters;

/// What a media thread shares with the front and the other threads.
pub(crate) struct Shared {
    pub(crate) index: u16,
    pub(crate) config: ShardsConfig,
    pub(crate) identity: Arc<DtlsIdentity>,
    pub(crate) mailboxes: Vec<Mailbox>,
    pub(crate) routes: Arc<Mutex<Routes>>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) load: Arc<AtomicUsize>,
}

pub(crate) struct Shard {}

impl Shard {
    pub(crate) fn new(_shared: Shared, _sockets: Vec<Socket>, _events: mpsc::Sender<Event>, _taps: mpsc::Sender<TapBatch>) -> Shard {
        Shard {}
    }
    pub(crate) fn run(self, inbox: Inbox) {
        loop {
            if let Ok(Note::Shutdown) = inbox.notes.recv() {
                return;
            }
        }
    }
}
