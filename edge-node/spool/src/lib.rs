//! What the recorder writes, on disk and on its way to the object store.
//!
//! `files` puts a recording's outputs into files below the spool's folder; a file that is complete is renamed and belongs to `upload` from then on, which
//! sends it to the store, checks that it is there, and only then deletes it here. `salvage` finds what a crash left behind. `status` is what hosts and
//! `/metrics` are told.
//!
//! What does not live here: what is recorded (`meridian-recorder`), and when (the room).
#![forbid(unsafe_code)]

mod files;
mod salvage;
mod settings;
mod status;
mod upload;

pub use files::{RecordingFiles, Spool, SpoolError};
pub use settings::{RecordingSettings, StoreError, open_store};
pub use status::{Status, Trouble};
pub use upload::{UploadError, Uploader, WakeUp};
