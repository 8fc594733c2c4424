//! How recording fares: counted by the writer and the uploader, read by anybody.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// What keeps recordings from being whole or from reaching the store, in words for a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The spool holds what it may; new media is not recorded.
    SpoolFull,
    /// The disk refused a write.
    Disk(String),
    /// The store failed or did not answer; files wait.
    Store(String),
    /// The store does not take our credentials; files wait.
    Credentials(String),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::SpoolFull => write!(
                f,
                "the edge's recording spool is full: recording pauses until the store takes files (recording.spool_bytes_max)"
            ),
            Trouble::Disk(error) => write!(f, "the edge's disk refuses recordings: {error}"),
            Trouble::Store(error) => write!(
                f,
                "the recording store does not take files, they wait at the edge: {error}"
            ),
            Trouble::Credentials(error) => write!(
                f,
                "the recording store refuses the edge's credentials, files wait at the edge: set those that may write there in recording.store_options or \
                 in the edge's environment, and start it again: {error}"
            ),
        }
    }
}

#[derive(Debug, Default)]
pub struct Status {
    /// Bytes on disk that the store does not have.
    pub spooled_bytes: AtomicU64,
    pub uploaded_files: AtomicU64,
    pub uploaded_bytes: AtomicU64,
    /// Attempts that failed; each is repeated.
    pub upload_failures: AtomicU64,
    /// Segments that were begun and could not be written, or not begun for want of room.
    pub lost_segments: AtomicU64,
    /// Files found after a crash and kept.
    pub salvaged_files: AtomicU64,
    writing: Mutex<Option<Trouble>>,
    uploading: Mutex<Option<Trouble>>,
}

impl Status {
    /// What is wrong at present; writing first.
    pub fn trouble(&self) -> Option<Trouble> {
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        writing.or_else(|| self.uploading.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    pub(crate) fn set_writing(&self, trouble: Option<Trouble>) {
        replace(&self.writing, trouble);
    }

    pub(crate) fn set_uploading(&self, trouble: Option<Trouble>) {
        replace(&self.uploading, trouble);
    }

    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn spooled(&self) -> u64 {
        self.spooled_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn unspool(&self, bytes: u64) {
        let less = |held: u64| Some(held.saturating_sub(bytes));
        let _ = self
            .spooled_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

fn replace(held: &Mutex<Option<Trouble>>, trouble: Option<Trouble>) {
    let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
    if *held != trouble {
        match &trouble {
            Some(trouble) => tracing::warn!("recording: {trouble}"),
            None => tracing::info!("recording: in order again"),
        }
        *held = trouble;
    }
}
