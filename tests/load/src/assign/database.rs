//! A made-up MMDB file: every IPv4 /16 is somewhere, so that a lookup costs what it costs with a real one.

use super::anywhere;
use meridian_geo::GeoDatabase;
use rand::Rng as _;
use rand::rngs::SmallRng;

/// Bits of the prefixes, and different places among them.
const BITS: u32 = 16;
const PLACES: usize = 4_000;

/// Writes it to a temporary file and opens that.
pub(super) fn made_up(rng: &mut SmallRng) -> anyhow::Result<GeoDatabase> {
    let path = std::env::temp_dir().join(format!("meridian-assign-{}.mmdb", std::process::id()));
    std::fs::write(&path, file(rng))?;
    let database = GeoDatabase::open(&path);
    std::fs::remove_file(&path)?;
    anyhow::ensure!(database.kind().is_some(), "the made-up database does not open");
    Ok(database)
}

/// <https://maxmind.github.io/MaxMind-DB/>: a full binary tree of 24-bit records, sixteen zeros, places, metadata.
fn file(rng: &mut SmallRng) -> Vec<u8> {
    let nodes = (1u32 << BITS) - 1;
    let mut data = Vec::new();
    let offsets: Vec<u32> = (0..PLACES)
        .map(|_| {
            let at = data.len() as u32;
            let place = anywhere(rng);
            map(&mut data, 2);
            text(&mut data, "country");
            map(&mut data, 1);
            text(&mut data, "iso_code");
            text(&mut data, "XX");
            text(&mut data, "location");
            map(&mut data, 2);
            text(&mut data, "latitude");
            double(&mut data, place.lat);
            text(&mut data, "longitude");
            double(&mut data, place.lon);
            at
        })
        .collect();
    let mut out = Vec::new();
    for node in 0..nodes {
        for side in 1..=2 {
            let child = node * 2 + side;
            let record = if child < nodes {
                child
            } else {
                nodes + 16 + offsets[rng.random_range(0..PLACES)]
            };
            out.extend(&record.to_be_bytes()[1..]);
        }
    }
    out.extend([0; 16]);
    out.append(&mut data);
    out.extend(b"\xab\xcd\xefMaxMind.com");
    map(&mut out, 9);
    for (key, value) in [
        ("binary_format_major_version", 2u16),
        ("binary_format_minor_version", 0),
        ("ip_version", 4),
        ("record_size", 24),
    ] {
        text(&mut out, key);
        out.push(5 << 5 | 2);
        out.extend(value.to_be_bytes());
    }
    text(&mut out, "node_count");
    out.push(6 << 5 | 4);
    out.extend(nodes.to_be_bytes());
    text(&mut out, "build_epoch");
    // Types above 7 are written as 0 and the rest in the next byte: an unsigned 64-bit number.
    out.extend([8, 9 - 7]);
    out.extend(1_700_000_000u64.to_be_bytes());
    text(&mut out, "database_type");
    text(&mut out, "Made-up-City");
    text(&mut out, "description");
    map(&mut out, 0);
    text(&mut out, "languages");
    out.extend([0, 11 - 7]);
    out
}

fn map(out: &mut Vec<u8>, fields: u8) {
    out.push(7 << 5 | fields);
}

fn text(out: &mut Vec<u8>, text: &str) {
    // All texts here are shorter than 29 bytes.
    out.push(2 << 5 | text.len() as u8);
    out.extend(text.as_bytes());
}

fn double(out: &mut Vec<u8>, value: f64) {
    out.push(3 << 5 | 8);
    out.extend(value.to_be_bytes());
}
