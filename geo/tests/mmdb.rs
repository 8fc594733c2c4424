//! The address database: both schemas, written here byte by byte, and everything that can be wrong with a file.

use meridian_geo::{GeoDatabase, Reload};
use std::net::IpAddr;
use std::path::PathBuf;

/// A value of the MaxMind DB format (<https://maxmind.github.io/MaxMind-DB/>).
enum Data<'a> {
    Text(&'a str),
    Double(f64),
    Short(u16),
    Number(u32),
    Long(u64),
    NoTexts,
    Map(Vec<(&'a str, Data<'a>)>),
}
use Data::{Double, Long, Map, NoTexts, Number, Short, Text};

fn control(kind: u8, size: usize, out: &mut Vec<u8>) {
    let (size_bits, extra) = if size < 29 {
        (size as u8, None)
    } else {
        (29, Some((size - 29) as u8))
    };
    out.push(kind << 5 | size_bits);
    out.extend(extra);
}

fn encode(data: &Data<'_>, out: &mut Vec<u8>) {
    match data {
        Text(text) => {
            control(2, text.len(), out);
            out.extend(text.as_bytes());
        }
        Double(value) => {
            control(3, 8, out);
            out.extend(value.to_be_bytes());
        }
        Short(value) => {
            control(5, 2, out);
            out.extend(value.to_be_bytes());
        }
        // Types above 7 are written as type 0 and the rest in the next byte.
        Long(value) => {
            out.extend([8, 9 - 7]);
            out.extend(value.to_be_bytes());
        }
        NoTexts => out.extend([0, 11 - 7]),
        Number(value) => {
            control(6, 4, out);
            out.extend(value.to_be_bytes());
        }
        Map(fields) => {
            control(7, fields.len(), out);
            for (key, value) in fields {
                encode(&Text(key), out);
                encode(value, out);
            }
        }
    }
}

/// A database with one network: `prefix` bits of `address` lead to `record`.
fn database(ip_version: u16, address: &[u8], prefix: usize, record: &Data<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let nodes = prefix as u32;
    for bit in 0..prefix {
        let one = address[bit / 8] >> (7 - bit % 8) & 1 == 1;
        let next = if bit + 1 == prefix { nodes + 16 } else { bit as u32 + 1 };
        let (left, right) = if one { (nodes, next) } else { (next, nodes) };
        for record in [left, right] {
            out.extend(&record.to_be_bytes()[1..]);
        }
    }
    out.extend([0; 16]);
    encode(record, &mut out);
    out.extend(b"\xab\xcd\xefMaxMind.com");
    let metadata = Map(vec![
        ("binary_format_major_version", Short(2)),
        ("binary_format_minor_version", Short(0)),
        ("build_epoch", Long(1_700_000_000)),
        ("database_type", Text("Test-City")),
        ("description", Map(vec![])),
        ("ip_version", Short(ip_version)),
        ("languages", NoTexts),
        ("node_count", Number(nodes)),
        ("record_size", Short(24)),
    ]);
    encode(&metadata, &mut out);
    out
}

struct File(PathBuf);

impl File {
    fn new(name: &str, content: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("meridian-geo-{}-{name}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn nested() -> Data<'static> {
    Map(vec![
        ("city", Map(vec![("names", Map(vec![("en", Text("Paris"))]))])),
        ("continent", Map(vec![("code", Text("EU"))])),
        ("country", Map(vec![("iso_code", Text("FR"))])),
        (
            "location",
            Map(vec![("latitude", Double(48.85)), ("longitude", Double(2.35))]),
        ),
    ])
}

#[test]
fn maxminds_nested_schema_is_read() {
    let file = File::new("nested", &database(4, &[203, 0, 113, 0], 24, &nested()));
    let database = GeoDatabase::open(&file.0);
    assert_eq!(database.kind().as_deref(), Some("Test-City"));
    let place = database.lookup(ip("203.0.113.9")).unwrap();
    assert_eq!(
        (
            place.country.as_deref(),
            place.continent.as_deref(),
            place.city.as_deref()
        ),
        (Some("FR"), Some("EU"), Some("Paris"))
    );
    assert_eq!(place.location.map(|at| (at.lat, at.lon)), Some((48.85, 2.35)));
    assert_eq!(
        database.lookup(ip("::ffff:203.0.113.9")).as_ref(),
        Some(&place),
        "mapped addresses are IPv4"
    );
    assert_eq!(database.lookup(ip("198.51.100.1")), None);
}

#[test]
fn flat_schemas_are_read() {
    let flat = Map(vec![
        ("asn", Text("AS64500")),
        ("city", Text("Tokyo")),
        ("country_code", Text("jp")),
        ("latitude", Text("35.6")),
        ("longitude", Text("139.7")),
    ]);
    let file = File::new("flat", &database(4, &[203, 0, 113, 0], 24, &flat));
    let place = GeoDatabase::open(&file.0).lookup(ip("203.0.113.1")).unwrap();
    assert_eq!(
        (place.country.as_deref(), place.city.as_deref(), place.asn),
        (Some("JP"), Some("Tokyo"), Some(64500))
    );
    assert_eq!(place.location.map(|at| at.lat), Some(35.6));
    let loc = Map(vec![
        ("country", Text("SG")),
        ("loc", Text("1.35, 103.9")),
        ("asn", Number(7)),
    ]);
    let file = File::new("loc", &database(4, &[203, 0, 113, 0], 24, &loc));
    let place = GeoDatabase::open(&file.0).lookup(ip("203.0.113.1")).unwrap();
    assert_eq!((place.location.map(|at| at.lon), place.asn), (Some(103.9), Some(7)));
}

#[test]
fn an_ipv6_database_answers_both_and_an_ipv4_one_degrades() {
    let v6 = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let file = File::new("v6", &database(6, &v6, 32, &nested()));
    let database6 = GeoDatabase::open(&file.0);
    assert!(database6.lookup(ip("2001:db8::1")).is_some());
    assert_eq!(database6.lookup(ip("203.0.113.9")), None);
    let file = File::new("v4only", &database(4, &[203, 0, 113, 0], 24, &nested()));
    let database4 = GeoDatabase::open(&file.0);
    assert_eq!(database4.lookup(ip("2001:db8::1")), None);
    assert!(database4.lookup(ip("203.0.113.9")).is_some());
}

#[test]
fn missing_empty_and_damaged_files_answer_nothing_and_panic_never() {
    assert_eq!(
        GeoDatabase::open(&PathBuf::from("/nowhere/city.mmdb")).lookup(ip("203.0.113.9")),
        None
    );
    assert_eq!(GeoDatabase::none().lookup(ip("203.0.113.9")), None);
    let good = database(4, &[203, 0, 113, 0], 24, &nested());
    for cut in 0..good.len() {
        let file = File::new("cut", &good[..cut]);
        GeoDatabase::open(&file.0).lookup(ip("203.0.113.9"));
        let mut flipped = good.clone();
        flipped[cut] ^= 0x55;
        let file = File::new("cut", &flipped);
        GeoDatabase::open(&file.0).lookup(ip("203.0.113.9"));
    }
}

#[test]
fn places_without_sense_are_not_believed() {
    for (lat, lon) in [(0.0, 0.0), (123.0, 5.0), (f64::NAN, 1.0)] {
        let data = Map(vec![
            ("country", Text("XX")),
            (
                "location",
                Map(vec![("latitude", Double(lat)), ("longitude", Double(lon))]),
            ),
        ]);
        let file = File::new("odd", &database(4, &[203, 0, 113, 0], 24, &data));
        let place = GeoDatabase::open(&file.0).lookup(ip("203.0.113.1")).unwrap();
        assert_eq!(place.location, None);
    }
}

#[test]
fn a_replaced_file_is_taken_in_and_a_broken_one_is_not() {
    let in_tokyo = Map(vec![
        ("city", Text("Tokyo")),
        ("latitude", Double(35.6)),
        ("longitude", Double(139.7)),
    ]);
    let file = File::new("reload", &database(4, &[203, 0, 113, 0], 24, &nested()));
    let open = GeoDatabase::open(&file.0);
    let city = || open.lookup(ip("203.0.113.9")).and_then(|place| place.city.clone());
    // As installers do it: a new file, renamed over the old one.
    let replace = |content: &[u8]| {
        let new = file.0.with_extension("new");
        std::fs::write(&new, content).unwrap();
        std::fs::rename(&new, &file.0).unwrap();
    };
    assert_eq!((open.reload(), city().as_deref()), (Reload::Unchanged, Some("Paris")));
    replace(&database(4, &[203, 0, 113, 0], 24, &in_tokyo));
    assert_eq!((open.reload(), city().as_deref()), (Reload::Settling, Some("Paris")));
    assert_eq!((open.reload(), city().as_deref()), (Reload::Replaced, Some("Tokyo")));
    replace(b"not a database");
    assert_eq!((open.reload(), open.reload()), (Reload::Settling, Reload::Kept));
    assert_eq!(
        (open.reload(), city().as_deref()),
        (Reload::Unchanged, Some("Tokyo")),
        "said once"
    );
    std::fs::remove_file(&file.0).unwrap();
    assert_eq!((open.reload(), open.reload()), (Reload::Kept, Reload::Unchanged));
    assert_eq!(city().as_deref(), Some("Tokyo"));
    replace(&database(4, &[203, 0, 113, 0], 24, &nested()));
    assert_eq!((open.reload(), open.reload()), (Reload::Settling, Reload::Replaced));
    assert_eq!(city().as_deref(), Some("Paris"));
}

#[test]
fn a_file_that_comes_later_is_taken_in() {
    let file = File::new("later", b"");
    std::fs::remove_file(&file.0).unwrap();
    let open = GeoDatabase::open(&file.0);
    assert_eq!(
        (open.reload(), open.lookup(ip("203.0.113.9"))),
        (Reload::Unchanged, None)
    );
    std::fs::write(&file.0, database(4, &[203, 0, 113, 0], 24, &nested())).unwrap();
    assert_eq!((open.reload(), open.reload()), (Reload::Settling, Reload::Replaced));
    assert!(open.lookup(ip("203.0.113.9")).is_some());
}
