//! What a crash left in the spool: files that were open, kept as far as they are whole.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use meridian_recorder::{Entry, SegmentEntry, WallMs};

use crate::files::PART_SUFFIX;
use crate::status::Status;

/// Folders below the spool's, and files below each: more is nothing of ours.
const DEPTH_MAX: usize = 4;

/// Every file below the folder; what cannot be read is skipped.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_file() {
                found.push(entry.path());
            } else if kind.is_dir() && depth < DEPTH_MAX {
                folders.push((entry.path(), depth + 1));
            }
        }
    }
    found.sort_unstable();
    found
}

/// Completes what an earlier process left open. Call it before anything is recorded.
pub(crate) fn salvage_all(spool: &Path, status: &Status) {
    let mut interrupted = BTreeSet::new();
    for path in files_below(spool) {
        if path.extension().is_none_or(|suffix| suffix != PART_SUFFIX) {
            continue;
        }
        interrupted.extend(part_of(spool, &path));
        let complete = path.with_extension("");
        let kept = match complete.extension().and_then(|suffix| suffix.to_str()) {
            Some("mkv") => salvage_segment(&path),
            Some("jsonl") => salvage_lines(&path),
            _ => continue,
        };
        match kept {
            Ok(true) => Status::add(&status.salvaged_files, 1),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "a recording's file cannot be salvaged: it stays")
            }
        }
    }
    for part in interrupted {
        if let Err(error) = tell_interruption(&part) {
            tracing::warn!(part = %part.display(), %error, "a recording's manifest cannot be told that this edge died");
        }
    }
}

/// ID/PART of a file below the spool.
fn part_of(spool: &Path, path: &Path) -> Option<PathBuf> {
    let mut below = path.strip_prefix(spool).ok()?.components();
    Some(spool.join(below.next()?).join(below.next()?))
}

fn tell_interruption(part: &Path) -> io::Result<()> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = WallMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    add_piece(part, "interrupted", &Entry::Interrupted { at })
}

/// A piece of the manifest with one line.
fn add_piece(part: &Path, name: &str, entry: &Entry) -> io::Result<()> {
    let manifest = part.join("manifest");
    fs::create_dir_all(&manifest)?;
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    fs::write(manifest.join(format!("{name}.jsonl")), line)
}

fn salvage_segment(path: &Path) -> io::Result<bool> {
    // PART/TR_x/000001.mkv.part
    let Some((part, name)) = (|| {
        let track = path.parent()?;
        let name = Path::new(track.file_name()?).join(path.with_extension("").file_name()?);
        Some((track.parent()?, name.to_str()?.to_owned()))
    })() else {
        return Ok(false);
    };
    let Some(entry) = salvage(path, &name)? else {
        return Ok(false);
    };
    let piece = format!("salvaged-{}", name.replace(['/', '.'], "-"));
    add_piece(part, &piece, &Entry::Segment(entry))?;
    Ok(true)
}

/// Cuts the file behind its last whole cluster and completes it; without one it is removed. `name` is what the manifest calls it.
pub(crate) fn salvage(path: &Path, name: &str) -> io::Result<Option<SegmentEntry>> {
    let data = fs::read(path)?;
    let Some(kept) = meridian_recorder::salvage::salvage(&data, name) else {
        fs::remove_file(path)?;
        return Ok(None);
    };
    File::options().write(true).open(path)?.set_len(kept.len as u64)?;
    fs::rename(path, path.with_extension(""))?;
    Ok(Some(kept.entry))
}

/// A piece of a manifest: whole lines are kept.
fn salvage_lines(path: &Path) -> io::Result<bool> {
    let data = fs::read(path)?;
    let whole = data.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if whole == 0 {
        fs::remove_file(path)?;
        return Ok(false);
    }
    File::options().write(true).open(path)?.set_len(whole as u64)?;
    fs::rename(path, path.with_extension(""))?;
    Ok(true)
}
