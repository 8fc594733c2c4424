//! A recording's outputs become files: `ID/PART/TR_x/000001.mkv.part` while it is written, without `.part` once it is complete; the manifest in
//! pieces, `ID/PART/manifest/000000.jsonl`, each complete before it is uploaded. PART is the edge's name and when it began.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_recorder::{Entry, Missing, Output, RecordingId, SegmentEntry, SegmentId};

use crate::status::{Status, Trouble};
use crate::upload::WakeUp;

/// A piece of the manifest is closed after this long, and can be read in the store then.
const MANIFEST_EVERY: Duration = Duration::from_secs(10);
/// After the disk has refused a file, new ones wait this long.
const DISK_PATIENCE: Duration = Duration::from_secs(1);
pub(crate) const PART_SUFFIX: &str = "part";

#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("recording.spool: the folder {0} cannot be made or written: {1}")]
    Folder(PathBuf, io::Error),
}

/// The spool's folder.
pub struct Spool {
    folder: PathBuf,
    bytes_max: u64,
    pub(crate) status: Arc<Status>,
    wake: WakeUp,
}

/// One recording's part at this edge. Methods block for as long as the disk takes; they never fail: what the disk refuses is counted, said in
/// [`Status::trouble`] and noted in the manifest as soon as that can be written.
pub struct RecordingFiles {
    folder: PathBuf,
    bytes_max: u64,
    status: Arc<Status>,
    wake: WakeUp,
    open: HashMap<SegmentId, OpenFile>,
    manifest: ManifestPiece,
    refused_at: Option<Instant>,
}

struct OpenFile {
    file: File,
    path: PathBuf,
    /// A write failed: it is given up, what stands in it stays readable up to there.
    broken: bool,
}

#[derive(Default)]
struct ManifestPiece {
    count: u32,
    file: Option<(File, PathBuf, Instant)>,
    /// Lines that could not be written yet.
    waiting: Vec<u8>,
}

/// Lines that wait for a disk that takes them.
const WAITING_BYTES_MAX: usize = 1 << 20;

impl Spool {
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(folder: &Path, bytes_max: u64, status: Arc<Status>, wake: WakeUp) -> Result<Spool, SpoolError> {
        let failed = |error| SpoolError::Folder(folder.to_owned(), error);
        fs::create_dir_all(folder).map_err(failed)?;
        Ok(Spool {
            folder: folder.to_owned(),
            bytes_max,
            status,
            wake,
        })
    }

    /// Begins this edge's part of a recording. `part` is the edge's name and the time, and never used before.
    pub fn begin(&self, id: &RecordingId, part: &str) -> RecordingFiles {
        RecordingFiles {
            folder: self.folder.join(id.as_str()).join(part),
            bytes_max: self.bytes_max,
            status: self.status.clone(),
            wake: self.wake.clone(),
            open: HashMap::new(),
            manifest: ManifestPiece::default(),
            refused_at: None,
        }
    }
}

impl RecordingFiles {
    /// Does what the recorder says. Requests for keyframes are the caller's.
    pub fn apply(&mut self, now: Instant, output: Output) {
        match output {
            Output::Open { segment, file, header } => self.begin(now, segment, &file, &header),
            Output::Append { segment, bytes } => self.append(now, segment, &bytes),
            Output::Close { segment, entry } => self.complete(now, segment, *entry),
            Output::Line(entry) => self.line(now, &entry),
            Output::KeyframeWanted { .. } => {}
        }
    }

    fn begin(&mut self, now: Instant, segment: SegmentId, file: &str, header: &Bytes) {
        if self.refused_at.is_some_and(|at| now.duration_since(at) < DISK_PATIENCE) {
            return Status::add(&self.status.lost_segments, 1);
        }
        if self.status.spooled() + header.len() as u64 > self.bytes_max {
            self.refused_at = Some(now);
            self.status.set_writing(Some(Trouble::SpoolFull));
            return Status::add(&self.status.lost_segments, 1);
        }
        let path = self.folder.join(format!("{file}.{PART_SUFFIX}"));
        match create(&path).and_then(|mut file| file.write_all(header).map(|()| file)) {
            Ok(file) => {
                self.refused_at = None;
                self.status.set_writing(None);
                Status::add(&self.status.spooled_bytes, header.len() as u64);
                let broken = false;
                self.open.insert(segment, OpenFile { file, path, broken });
            }
            Err(error) => {
                let _ = fs::remove_file(&path);
                Status::add(&self.status.lost_segments, 1);
                self.disk_refused(now, &error);
            }
        }
    }

    fn append(&mut self, now: Instant, segment: SegmentId, bytes: &Bytes) {
        let Some(open) = self.open.get_mut(&segment).filter(|open| !open.broken) else {
            return;
        };
        let len = bytes.len() as u64;
        let full = self.status.spooled_bytes.load(Ordering::Relaxed) + len > self.bytes_max;
        let written = if full { Ok(()) } else { open.file.write_all(bytes) };
        if full || written.is_err() {
            open.broken = true;
            Status::add(&self.status.lost_segments, 1);
        }
        match written {
            _ if full => self.status.set_writing(Some(Trouble::SpoolFull)),
            Ok(()) => Status::add(&self.status.spooled_bytes, len),
            Err(error) => self.disk_refused(now, &error),
        }
    }

    fn complete(&mut self, now: Instant, segment: SegmentId, entry: SegmentEntry) {
        let missing = Missing {
            track: entry.track.clone(),
            at: entry.at,
            packets: u64::from(entry.frames),
        };
        let Some(open) = self.open.remove(&segment) else {
            return self.line(now, &Entry::Missing(missing));
        };
        let complete = open.path.with_extension("");
        drop(open.file);
        if open.broken {
            // Whole clusters of it are kept, as after a crash.
            match crate::salvage::salvage(&open.path, &entry.file) {
                Ok(Some(kept)) => self.line(now, &Entry::Segment(kept)),
                _ => self.line(now, &Entry::Missing(missing)),
            }
            return self.wake.wake();
        }
        match fs::rename(&open.path, &complete) {
            Ok(()) => self.line(now, &Entry::Segment(entry)),
            Err(error) => self.disk_refused(now, &error),
        }
        self.wake.wake();
    }

    fn line(&mut self, now: Instant, entry: &Entry) {
        let Ok(mut line) = serde_json::to_vec(entry) else {
            return;
        };
        line.push(b'\n');
        if self.manifest.waiting.len() + line.len() <= WAITING_BYTES_MAX {
            self.manifest.waiting.extend_from_slice(&line);
        }
        self.write_lines(now);
        if matches!(entry, Entry::Ended { .. }) {
            self.close_manifest();
        }
    }

    fn write_lines(&mut self, now: Instant) {
        if self.manifest.file.is_none() {
            let name = format!("manifest/{:06}.jsonl.{PART_SUFFIX}", self.manifest.count);
            let path = self.folder.join(name);
            match create(&path) {
                Ok(file) => {
                    self.manifest.count += 1;
                    self.manifest.file = Some((file, path, now));
                }
                Err(error) => return self.disk_refused(now, &error),
            }
        }
        let Some((file, _, begun)) = &mut self.manifest.file else {
            return;
        };
        let age = now.saturating_duration_since(*begun);
        match file.write_all(&self.manifest.waiting) {
            Ok(()) => {
                Status::add(&self.status.spooled_bytes, self.manifest.waiting.len() as u64);
                self.manifest.waiting.clear();
                if age >= MANIFEST_EVERY {
                    self.close_manifest();
                }
            }
            Err(error) => {
                // A line cut in two ends this piece; readers skip it. It is written again, whole, in the next.
                self.close_manifest();
                self.disk_refused(now, &error);
            }
        }
    }

    /// Closes the piece of the manifest if it is old enough. Call it every few seconds.
    pub fn handle_timeout(&mut self, now: Instant) {
        let old = |begun: Instant| now.saturating_duration_since(begun) >= MANIFEST_EVERY;
        if !self.manifest.waiting.is_empty() {
            self.write_lines(now);
        }
        if self.manifest.file.as_ref().is_some_and(|(_, _, begun)| old(*begun)) {
            self.close_manifest();
        }
    }

    fn close_manifest(&mut self) {
        if let Some((file, path, _)) = self.manifest.file.take() {
            drop(file);
            // Should this fail, the next start finds it.
            let _ = fs::rename(&path, path.with_extension(""));
            self.wake.wake();
        }
    }

    fn disk_refused(&mut self, now: Instant, error: &io::Error) {
        self.refused_at = Some(now);
        self.status.set_writing(Some(Trouble::Disk(error.to_string())));
    }
}

fn create(path: &Path) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    File::options().write(true).create_new(true).open(path)
}
