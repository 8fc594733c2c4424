//! Files that the control plane keeps and reads: secrets that only it may read, and the database of places.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use meridian_control_plane::config::GeoConfig;

use super::report::Finding;

/// Address databases are published twice a week to once a month.
const GEOIP_AGE_MAX: Duration = Duration::from_secs(35 * 24 * 3600);
/// Secrets in a data directory, and the database, which has password hashes and refresh tokens' hashes.
const SECRETS: [&str; 3] = ["pki/ca.key", "pki/token.key", "meridian.db"];

pub(super) fn data_directory(directory: &Path) -> Vec<Finding> {
    const CHECK: &str = "data directory";
    let shown = directory.display();
    let Ok(metadata) = std::fs::metadata(directory) else {
        return vec![Finding::warning(
            CHECK,
            format!("data_directory {shown} is not there yet: the first start makes it"),
            "start the control plane once, then look again",
        )];
    };
    let mut found = Vec::from_iter(writable("data_directory", directory));
    let mut open: Vec<String> = Vec::new();
    if metadata.mode() & 0o077 != 0 {
        open.push(format!("chmod 700 {shown}"));
    }
    for name in SECRETS {
        let path = directory.join(name);
        let mode = std::fs::metadata(&path).map(|metadata| metadata.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o077 != 0) {
            open.push(format!("chmod 600 {}", path.display()));
        }
    }
    found.push(if open.is_empty() {
        Finding::good(CHECK, format!("only its owner may read {shown}"))
    } else {
        Finding::problem(
            CHECK,
            format!("others on this machine may read what is secret in {shown}: whoever has ca.key can add edges, whoever has token.key can join anything"),
            format!("{}, and consider what they may have read", open.join(" && ")),
        )
    });
    found
}

/// Nothing if files can be made in `directory`. `key`: its name in the configuration.
pub(super) fn writable(key: &str, directory: &Path) -> Option<Finding> {
    let mut nearest = directory;
    while !nearest.exists() {
        nearest = nearest
            .parent()
            .filter(|parent| *parent != Path::new(""))
            .unwrap_or(Path::new("."));
    }
    let probe = nearest.join(format!(".meridian-doctor-{}", std::process::id()));
    let made = std::fs::File::create_new(&probe);
    let _ = std::fs::remove_file(&probe);
    let error = made.err()?;
    Some(Finding::problem(
        "data directory",
        format!("{key}: no file can be made in {}: {error}", nearest.display()),
        format!(
            "chown it to the user who runs meridian (`install -d -o meridian -m 700 {}`), or free space",
            directory.display()
        ),
    ))
}

pub(super) fn geoip(config: &GeoConfig) -> Vec<Finding> {
    let Some(database) = &config.database else {
        return vec![Finding::warning(
            "GeoIP",
            "geo.database is not set: who has never been here is placed without regard to distance",
            "get a database such as GeoLite2-City and name its file in geo.database",
        )];
    };
    let named = [
        ("geo.database", Some(database)),
        ("geo.asn_database", config.asn_database.as_ref()),
    ];
    let present = named.into_iter().filter_map(|(key, path)| Some((key, path?)));
    present.map(|(key, path)| database_file(key, path)).collect()
}

fn database_file(key: &str, path: &Path) -> Finding {
    const CHECK: &str = "GeoIP";
    let shown = path.display();
    let reader = match maxminddb::Reader::open_readfile(path) {
        Ok(reader) => reader,
        Err(error) => {
            return Finding::problem(
                CHECK,
                format!("{key}: {shown} cannot be used: {error}"),
                "fetch it again (geoipupdate); until then distance plays no part in placement",
            );
        }
    };
    let metadata = reader.metadata();
    let built = SystemTime::UNIX_EPOCH + Duration::from_secs(metadata.build_epoch);
    let age = SystemTime::now().duration_since(built).unwrap_or_default();
    let says = format!(
        "{shown} ({}) was built {} days ago",
        metadata.database_type,
        age.as_secs() / 86_400
    );
    if age <= GEOIP_AGE_MAX {
        return Finding::good(CHECK, says);
    }
    Finding::warning(
        CHECK,
        format!("{says}: addresses have moved since"),
        "fetch a newer one every week (geoipupdate in a timer); it is taken in without a restart",
    )
}
