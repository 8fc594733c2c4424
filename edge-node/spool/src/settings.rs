//! Where recordings go.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use url::Url;

/// The `[recording]` table of an edge's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct RecordingSettings {
    /// Where recordings end up: `s3://bucket/prefix`, `gs://…`, `az://…`, or `file:///var/lib/meridian/recordings`. Empty = this edge records nothing.
    pub store: String,
    /// What the store needs beyond its URL, as `object_store` names it: `aws_endpoint`, `aws_region`, `aws_access_key_id`, … The usual variables of the
    /// environment (`AWS_ACCESS_KEY_ID`, `GOOGLE_SERVICE_ACCOUNT`, …) count as well, and are the better place for secrets.
    pub store_options: BTreeMap<String, String>,
    /// Where files stand until the store has them.
    pub spool: PathBuf,
    /// Bytes the spool may hold, open files included. What would exceed it is not recorded, and said so.
    pub spool_bytes_max: u64,
}

impl Default for RecordingSettings {
    fn default() -> Self {
        RecordingSettings {
            store: String::new(),
            store_options: BTreeMap::new(),
            spool: PathBuf::from("spool"),
            spool_bytes_max: 20 << 30,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("recording.store is no URL ({0}): write s3://bucket/prefix, gs://…, az://… or file:///an/absolute/path")]
    NoUrl(#[from] url::ParseError),
    #[error("recording.store: {0}; check the URL and recording.store_options")]
    Refused(#[from] object_store::Error),
    #[error("recording.store: the folder {0} cannot be made: {1}")]
    Folder(PathBuf, std::io::Error),
}

impl RecordingSettings {
    pub fn is_on(&self) -> bool {
        !self.store.is_empty()
    }

    /// As [`open_store`].
    ///
    /// # Errors
    /// As there.
    pub fn open_store(&self) -> Result<(Arc<dyn ObjectStore>, Path), StoreError> {
        open_store(&self.store, &self.store_options)
    }
}

/// The store, and the prefix below which everything goes. Does not talk to it yet.
///
/// # Errors
/// When the URL or an option makes no sense, or the folder of a `file:` URL cannot be made.
pub fn open_store(store: &str, options: &BTreeMap<String, String>) -> Result<(Arc<dyn ObjectStore>, Path), StoreError> {
    let url = Url::parse(store)?;
    if let Some(folder) = (url.scheme() == "file").then(|| url.to_file_path().ok()).flatten() {
        std::fs::create_dir_all(&folder).map_err(|error| StoreError::Folder(folder.clone(), error))?;
    }
    // Of the environment only what the stores' own tools read: an unrelated variable must not become an option.
    let ours = |name: &String| {
        ["aws_", "google_", "azure_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?.to_ascii_lowercase(), value.into_string().ok()?)))
        .filter(|(name, _)| ours(name));
    // What arrives damaged is refused by S3 then, and sent again.
    let checked = (url.scheme().starts_with("s3")).then(|| ("aws_checksum_algorithm".to_owned(), "sha256".to_owned()));
    let options = checked.into_iter().chain(environment).chain(options.clone());
    let (store, prefix) = object_store::parse_url_opts(&url, options)?;
    Ok((Arc::from(store), prefix))
}
