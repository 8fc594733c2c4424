//! Reads MaxMind DB files. Whatever is wrong with one, placement goes on without it, and one warning says so.

use crate::{Location, Place};
use maxminddb::{MaxMindDbError, Reader};
use serde_json::Value;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

/// Decoded records kept: a database has far fewer places than networks, and decoding costs more than finding.
const RECORDS_MAX: usize = 65_536;

/// An address database, or the lack of one.
///
/// Understands MaxMind's nested schema (`location.latitude`, `country.iso_code`) and the flat ones of others (`latitude` or `lat`,
/// `loc`, `country_code`), numbers also as text. A file that is replaced is taken in by [`Self::reload`].
#[derive(Default)]
pub struct GeoDatabase {
    path: Option<PathBuf>,
    current: RwLock<Option<Arc<Opened>>>,
    watched: Mutex<Watched>,
}

/// One version of the file, in memory.
struct Opened {
    reader: Reader<Vec<u8>>,
    records: RwLock<HashMap<usize, Option<Arc<Place>>>>,
    warned_v6: AtomicBool,
    warned_broken: AtomicBool,
}

/// What tells one version of a file from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    inode: u64,
    bytes: u64,
}

#[derive(Default)]
struct Watched {
    /// Of the version that was last taken in, or refused.
    judged: Option<Stamp>,
    /// Of the last look: a file that is still being written differs from one look to the next.
    seen: Option<Stamp>,
    /// Its absence has been told.
    missing: bool,
}

/// What [`GeoDatabase::reload`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    Unchanged,
    /// There is a new version, but it may still be being written: the next look decides.
    Settling,
    Replaced,
    /// The file is broken or gone, which has been logged; the version in memory stays.
    Kept,
}

impl std::fmt::Debug for GeoDatabase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GeoDatabase").field("kind", &self.kind()).finish()
    }
}

impl GeoDatabase {
    /// No database: every lookup is `None`.
    pub fn none() -> Self {
        Self::default()
    }

    /// Opens a file. If that fails, a warning is logged and the result behaves like [`Self::none`] until [`Self::reload`] finds a good
    /// file there.
    pub fn open(path: &Path) -> Self {
        let database = GeoDatabase {
            path: Some(path.to_owned()),
            ..Self::default()
        };
        let stamp = stamp(path).ok();
        match Opened::read(path) {
            Ok(opened) => database.install(path, opened, "address database opened"),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "no address database: distance plays no part in placement");
            }
        }
        let watched = Watched {
            judged: stamp,
            seen: stamp,
            missing: stamp.is_none(),
        };
        *database.watched.lock().unwrap_or_else(PoisonError::into_inner) = watched;
        database
    }

    /// Looks whether the file was replaced, and takes the new one in. Reads the disk: call it every few seconds from where blocking is
    /// allowed. A version is read only when two looks found the same: whoever copies a file over the old one is waited for.
    pub fn reload(&self) -> Reload {
        let Some(path) = &self.path else {
            return Reload::Unchanged;
        };
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match stamp(path) {
            Ok(found) => found,
            Err(_) if watched.missing => return Reload::Unchanged,
            Err(error) => {
                watched.missing = true;
                tracing::warn!(path = %path.display(), %error, "the address database is gone; the one in memory goes on being used");
                return Reload::Kept;
            }
        };
        watched.missing = false;
        if watched.judged == Some(found) {
            return Reload::Unchanged;
        }
        if watched.seen.replace(found) != Some(found) {
            return Reload::Settling;
        }
        watched.judged = Some(found);
        match Opened::read(path) {
            Ok(opened) => {
                self.install(path, opened, "address database replaced");
                Reload::Replaced
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the new address database is broken; the one in memory goes on being used");
                Reload::Kept
            }
        }
    }

    fn install(&self, path: &Path, opened: Opened, what: &str) {
        let metadata = opened.reader.metadata();
        tracing::info!(path = %path.display(), kind = %metadata.database_type, built = metadata.build_epoch, "{what}");
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(opened));
    }

    fn current(&self) -> Option<Arc<Opened>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The database's own name of its type; `None` without one.
    pub fn kind(&self) -> Option<String> {
        Some(self.current()?.reader.metadata().database_type.clone())
    }

    /// What is known about an address. IPv4-mapped IPv6 addresses are looked up as IPv4.
    pub fn lookup(&self, address: IpAddr) -> Option<Arc<Place>> {
        self.current()?.lookup(address)
    }

    /// Length, in bits of the address's own family, of the network around it of which the database knows one thing (or nothing):
    /// for which one answer holds. 0 without a database: one answer holds for everybody.
    pub fn network_bits(&self, address: IpAddr) -> u8 {
        let address = address.to_canonical();
        let current = self.current();
        let found = current.and_then(|current| current.reader.lookup(address).ok()?.network().ok());
        match found {
            // An IPv6 network around an IPv4 address: all of IPv4 is one entry of such a database.
            Some(network) if network.is_ipv6() == address.is_ipv6() => network.prefix(),
            _ => 0,
        }
    }
}

impl Opened {
    /// Reads a file and tries it out.
    fn read(path: &Path) -> Result<Self, MaxMindDbError> {
        let reader = Reader::open_readfile(path)?;
        let ipv4_only = reader.metadata().ip_version == 4;
        // The metadata stands at the end of a file: a good end says nothing about the middle.
        for block in 0..=255u8 {
            let v4 = IpAddr::from([block, 1, 1, 1]);
            reader.lookup(v4)?.decode::<Value>()?;
            if !ipv4_only {
                let v6 = IpAddr::from([0x2000 + u16::from(block) * 16, 0xdb8, 0, 0, 0, 0, 0, 1]);
                reader.lookup(v6)?.decode::<Value>()?;
            }
        }
        Ok(Opened {
            reader,
            records: RwLock::default(),
            warned_v6: AtomicBool::new(false),
            warned_broken: AtomicBool::new(false),
        })
    }

    fn lookup(&self, address: IpAddr) -> Option<Arc<Place>> {
        let address = address.to_canonical();
        if address.is_ipv6() && self.reader.metadata().ip_version == 4 {
            if !self.warned_v6.swap(true, Ordering::Relaxed) {
                tracing::warn!("the address database knows IPv4 only: clients on IPv6 are placed without it");
            }
            return None;
        }
        self.find(address).unwrap_or_else(|error| {
            if !self.warned_broken.swap(true, Ordering::Relaxed) {
                tracing::warn!(%error, "the address database is damaged: some clients are placed without it");
            }
            None
        })
    }

    fn find(&self, address: IpAddr) -> Result<Option<Arc<Place>>, MaxMindDbError> {
        let found = self.reader.lookup(address)?;
        let Some(offset) = found.offset() else { return Ok(None) };
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = records.get(&offset) {
            return Ok(known.clone());
        }
        drop(records);
        let place = found.decode::<Value>()?.map(|value| place(&value));
        let place = place.filter(|place| *place != Place::default()).map(Arc::new);
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        if records.len() >= RECORDS_MAX {
            records.clear();
        }
        records.insert(offset, place.clone());
        Ok(place)
    }
}

fn stamp(path: &Path) -> std::io::Result<Stamp> {
    let metadata = std::fs::metadata(path)?;
    Ok(Stamp {
        modified: metadata.modified().ok(),
        inode: std::os::unix::fs::MetadataExt::ino(&metadata),
        bytes: metadata.len(),
    })
}

fn place(value: &Value) -> Place {
    let nested = value.get("location");
    let coordinate = |names: &[&str]| {
        let found = nested
            .and_then(|inside| first(inside, names))
            .or_else(|| first(value, names));
        found.and_then(number)
    };
    let pair = coordinate(&["latitude", "lat"]).zip(coordinate(&["longitude", "lon", "lng"]));
    let location = pair
        .or_else(|| loc(value))
        .and_then(|(lat, lon)| Location::new(lat, lon));
    Place {
        // 0,0 is how some databases write "unknown"; nobody lives there.
        location: location.filter(|at| at.lat != 0.0 || at.lon != 0.0),
        country: code(value, "country", "iso_code", &["country_code", "country"]),
        continent: code(value, "continent", "code", &["continent_code", "continent"]),
        city: city(value),
        asn: asn(value),
    }
}

fn first<'a>(value: &'a Value, names: &[&str]) -> Option<&'a Value> {
    names.iter().find_map(|name| value.get(name))
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// `"loc": "48.85,2.35"`.
fn loc(value: &Value) -> Option<(f64, f64)> {
    let (lat, lon) = value.get("loc")?.as_str()?.split_once(',')?;
    Some((lat.trim().parse().ok()?, lon.trim().parse().ok()?))
}

/// A two-letter code, nested (`country.iso_code`) or flat.
fn code(value: &Value, table: &str, key: &str, flat: &[&str]) -> Option<String> {
    let nested = value.get(table).and_then(|inside| inside.get(key));
    let found = nested
        .and_then(Value::as_str)
        .or_else(|| flat.iter().find_map(|name| value.get(name)?.as_str()));
    found
        .filter(|code| code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_alphabetic()))
        .map(str::to_ascii_uppercase)
}

fn city(value: &Value) -> Option<String> {
    let city = value.get("city")?;
    let name = city.as_str().or_else(|| city.get("names")?.get("en")?.as_str())?;
    (!name.is_empty()).then(|| name.chars().take(80).collect())
}

fn asn(value: &Value) -> Option<u32> {
    let found = first(value, &["autonomous_system_number", "asn", "as_number"])?;
    match found {
        Value::String(text) => text.trim_start_matches("AS").parse().ok(),
        other => other.as_u64().and_then(|number| u32::try_from(number).ok()),
    }
}
