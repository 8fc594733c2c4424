//! Reads MaxMind DB files. Whatever is wrong with one, placement goes on without it, and one warning says so.

use crate::{Location, Place};
use maxminddb::Reader;
use serde_json::Value;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// An address database, or the lack of one.
///
/// Understands MaxMind's nested schema (`location.latitude`, `country.iso_code`) and the flat ones of others (`latitude` or `lat`,
/// `loc`, `country_code`), numbers also as text.
#[derive(Default)]
pub struct GeoDatabase {
    reader: Option<Reader<Vec<u8>>>,
    warned_v6: AtomicBool,
    warned_broken: AtomicBool,
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

    /// Opens a file. If that fails, a warning is logged and the result behaves like [`Self::none`].
    pub fn open(path: &Path) -> Self {
        match Reader::open_readfile(path) {
            Ok(reader) => {
                let metadata = reader.metadata();
                tracing::info!(path = %path.display(), kind = %metadata.database_type, "address database opened");
                GeoDatabase {
                    reader: Some(reader),
                    ..Self::default()
                }
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "no address database: distance plays no part in placement");
                Self::default()
            }
        }
    }

    /// The database's own name of its type; `None` without one.
    pub fn kind(&self) -> Option<&str> {
        self.reader
            .as_ref()
            .map(|reader| reader.metadata().database_type.as_str())
    }

    /// What is known about an address. IPv4-mapped IPv6 addresses are looked up as IPv4.
    pub fn lookup(&self, address: IpAddr) -> Option<Place> {
        let reader = self.reader.as_ref()?;
        let address = address.to_canonical();
        if address.is_ipv6() && reader.metadata().ip_version == 4 {
            if !self.warned_v6.swap(true, Ordering::Relaxed) {
                tracing::warn!("the address database knows IPv4 only: clients on IPv6 are placed without it");
            }
            return None;
        }
        match reader.lookup(address).and_then(|found| found.decode::<Value>()) {
            Ok(value) => value
                .map(|value| place(&value))
                .filter(|place| *place != Place::default()),
            Err(error) => {
                if !self.warned_broken.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "the address database is damaged: some clients are placed without it");
                }
                None
            }
        }
    }
}

impl GeoDatabase {
    /// Length, in bits of the address's own family, of the network around it of which the database knows one thing (or nothing):
    /// for which one answer holds. 0 without a database: one answer holds for everybody.
    pub fn network_bits(&self, address: IpAddr) -> u8 {
        let address = address.to_canonical();
        let found = self
            .reader
            .as_ref()
            .and_then(|reader| reader.lookup(address).ok()?.network().ok());
        match found {
            // An IPv6 network around an IPv4 address: all of IPv4 is one entry of such a database.
            Some(network) if network.is_ipv6() == address.is_ipv6() => network.prefix(),
            _ => 0,
        }
    }
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
