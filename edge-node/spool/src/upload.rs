//! Complete files go to the store, oldest names first, and are deleted here once the store says that it has them, whole. Whatever fails is tried again,
//! for as long as it takes.

use std::fs;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use rand::Rng;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use crate::files::PART_SUFFIX;
use crate::salvage::{files_below, salvage_all};
use crate::settings::{RecordingSettings, StoreError};
use crate::status::{Status, Trouble};

/// Files on their way at a time.
const AT_A_TIME: usize = 4;
/// Larger files go in parts.
const SINGLE_BYTES_MAX: u64 = 16 << 20;
/// The folder is looked through this often at most, and at least.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOOK_ANYWAY: Duration = Duration::from_secs(30);
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// One file's attempt.
const PATIENCE: Duration = Duration::from_secs(120);

/// Tells the uploader that a file is complete. Cheap, and many at once are one.
#[derive(Clone, Default)]
pub struct WakeUp(Arc<Notify>);

impl WakeUp {
    pub(crate) fn wake(&self) {
        self.0.notify_one();
    }
}

pub struct Uploader {
    spool: PathBuf,
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    status: Arc<Status>,
    wake: WakeUp,
}

#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error(transparent)]
    Store(#[from] object_store::Error),
    #[error("{0}")]
    File(#[from] std::io::Error),
    #[error("the store has {found} bytes of {expected}")]
    Short { found: u64, expected: u64 },
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Silent,
}

impl UploadError {
    fn trouble(&self) -> Trouble {
        use object_store::Error::{PermissionDenied, Unauthenticated};
        let of_store = match self {
            UploadError::Store(error) => Some(error),
            // Files that go in parts are written, and a writer's errors are wrapped.
            UploadError::File(error) => error.get_ref().and_then(|inner| inner.downcast_ref()),
            _ => None,
        };
        match of_store {
            Some(PermissionDenied { .. } | Unauthenticated { .. }) => Trouble::Credentials(self.to_string()),
            _ => Trouble::Store(self.to_string()),
        }
    }
}

impl Uploader {
    /// Takes stock of the spool, and completes what a crash left open: call it before the first recording begins.
    ///
    /// # Errors
    /// When the settings name no usable store.
    pub fn new(settings: &RecordingSettings, status: Arc<Status>, wake: WakeUp) -> Result<Uploader, StoreError> {
        let (store, prefix) = settings.open_store()?;
        salvage_all(&settings.spool, &status);
        let held: u64 = files_below(&settings.spool).iter().map(|path| length(path)).sum();
        Status::add(&status.spooled_bytes, held);
        Ok(Uploader {
            spool: settings.spool.clone(),
            store,
            prefix,
            status,
            wake,
        })
    }

    /// Runs until it is dropped.
    pub async fn run(&self) {
        let mut backoff = BACKOFF_FIRST;
        loop {
            match self.round().await {
                Ok(()) => {
                    self.status.set_uploading(None);
                    backoff = BACKOFF_FIRST;
                    let _ = tokio::time::timeout(LOOK_ANYWAY, self.wake.0.notified()).await;
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                Err(error) => {
                    self.status.set_uploading(Some(error.trouble()));
                    let jitter = rand::rng().random_range(0.5..1.0);
                    tokio::time::sleep(backoff.mul_f64(jitter)).await;
                    backoff = (2 * backoff).min(BACKOFF_MAX);
                }
            }
        }
    }

    /// Sends what is complete at this moment; [`Uploader::run`] does it again and again.
    ///
    /// # Errors
    /// The first thing that failed; what is here still comes in the next round.
    pub async fn round(&self) -> Result<(), UploadError> {
        let complete = files_below(&self.spool)
            .into_iter()
            .filter(|path| path.extension().is_none_or(|suffix| suffix != PART_SUFFIX));
        let mut uploads = stream::iter(complete)
            .map(|path| async move { self.upload(&path).await })
            .buffer_unordered(AT_A_TIME);
        while let Some(uploaded) = uploads.next().await {
            if let Err(error) = uploaded {
                Status::add(&self.status.upload_failures, 1);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn upload(&self, path: &FilePath) -> Result<(), UploadError> {
        let below = path.strip_prefix(&self.spool).unwrap_or(path);
        let names = below.iter().map(|name| name.to_string_lossy().into_owned());
        let location = names.fold(self.prefix.clone(), |path, name| path.join(name));
        let sent = tokio::time::timeout(PATIENCE, self.put(path, &location)).await;
        let bytes = sent.map_err(|_| UploadError::Silent)??;
        tokio::fs::remove_file(path).await?;
        remove_empty_folders(path, &self.spool);
        self.status.unspool(bytes);
        Status::add(&self.status.uploaded_files, 1);
        Status::add(&self.status.uploaded_bytes, bytes);
        Ok(())
    }

    /// Sends the file and asks the store what it has of it; gives the length.
    async fn put(&self, path: &FilePath, location: &Path) -> Result<u64, UploadError> {
        let mut file = tokio::fs::File::open(path).await?;
        // On the disk before it counts as recorded: the store may be away when the power goes.
        file.sync_data().await?;
        let len = file.metadata().await?.len();
        if len <= SINGLE_BYTES_MAX {
            let data = tokio::fs::read(path).await?;
            self.store.put(location, PutPayload::from(data)).await?;
        } else {
            let mut writer = BufWriter::new(self.store.clone(), location.clone());
            match tokio::io::copy(&mut file, &mut writer).await {
                Ok(_) => writer.shutdown().await?,
                Err(error) => {
                    let _ = writer.abort().await;
                    return Err(error.into());
                }
            }
        }
        let found = self.store.head(location).await?.size;
        if found == len {
            Ok(len)
        } else {
            Err(UploadError::Short { found, expected: len })
        }
    }
}

fn length(path: &FilePath) -> u64 {
    fs::metadata(path).map_or(0, |data| data.len())
}

/// The folders above a file that was the last in them, up to the spool's own.
fn remove_empty_folders(path: &FilePath, spool: &FilePath) {
    for folder in path.ancestors().skip(1).take_while(|folder| *folder != spool) {
        // Fails on one that is not empty, which is what ends it.
        if fs::remove_dir(folder).is_err() {
            break;
        }
    }
}
