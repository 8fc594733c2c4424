//! Feeds the map that learns (`meridian_geo::Learned`): with what edges measured, with what was saved, with what other replicas know;
//! and keeps the address databases up to date with their files.

mod store;

use crate::database::Database;
use aws_lc_rs::hmac;
use meridian_access::network::limit_key;
use meridian_geo::{GeoDatabase, LearnConfig, Learned, Location, Measured, Row, Session, predicted_rtt_ms};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// How often what changed is saved.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// Rows of one transaction.
const SAVE_ROWS: usize = 500;
/// How often the files of the address databases are looked at.
const RELOAD_EVERY: Duration = Duration::from_secs(2);
/// Saved rows that did not change for so many half-lives say nothing any more.
const FORGET_HALF_LIVES: f64 = 8.0;

/// What is known about addresses: databases and experience.
pub(crate) struct Learning {
    places: Arc<GeoDatabase>,
    systems: Arc<GeoDatabase>,
    table: Mutex<Learned>,
    /// Tags addresses, so that users of one prefix are told apart and no address is kept. Replicas share it.
    tags: hmac::Key,
    config: LearnConfig,
}

/// One address as [`Learning`] knows it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    pub(crate) place: Option<Arc<meridian_geo::Place>>,
    pub(crate) asn: Option<u32>,
    pub(crate) measured: Measured,
}

impl Known {
    pub(crate) fn location(&self) -> Option<Location> {
        self.place.as_ref()?.location
    }
}

impl Learning {
    /// `secret` must be the same for all replicas of a mesh.
    pub(crate) fn new(places: GeoDatabase, systems: GeoDatabase, config: LearnConfig, secret: &[u8]) -> Self {
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"meridian learned sources");
        Learning {
            places: Arc::new(places),
            systems: Arc::new(systems),
            table: Mutex::new(Learned::new(&config)),
            tags: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()),
            config,
        }
    }

    fn table(&self) -> MutexGuard<'_, Learned> {
        // Every call leaves the table consistent.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything about an address.
    pub(crate) fn know(&self, address: IpAddr) -> Known {
        let place = self.places.lookup(address);
        let asn = self.asn_of(address, place.as_deref());
        let measured = self.table().measured(address, Some(self.tag(address)), asn, now_s());
        Known { place, asn, measured }
    }

    fn asn_of(&self, address: IpAddr, place: Option<&meridian_geo::Place>) -> Option<u32> {
        let system = self.systems.lookup(address).and_then(|found| found.asn);
        system.or_else(|| place?.asn)
    }

    /// Learns from a session that an edge in `region`, which is at `there`, has measured.
    pub(crate) fn observe(&self, address: IpAddr, region: &str, there: Option<Location>, rtt_ms: f64) -> bool {
        let place = self.places.lookup(address);
        let here = place.as_ref().and_then(|place| place.location);
        let session = Session {
            address,
            source: self.tag(address),
            asn: self.asn_of(address, place.as_deref()),
            region,
            rtt_ms,
            expected_ms: here.zip(there).map(|(here, there)| predicted_rtt_ms(here, there)),
        };
        self.table().record(&session, now_s())
    }

    /// An IPv6 /64 is one user, as in the limits.
    fn tag(&self, address: IpAddr) -> u32 {
        let user = limit_key(address).to_string();
        let tag = hmac::sign(&self.tags, user.as_bytes());
        tag.as_ref()
            .first_chunk()
            .map_or(0, |first: &[u8; 4]| u32::from_be_bytes(*first))
    }

    pub(crate) fn network_bits(&self, address: IpAddr) -> u8 {
        self.places.network_bits(address)
    }

    pub(crate) fn merge(&self, rows: &[Row]) {
        let now = now_s();
        let mut table = self.table();
        for row in rows {
            table.merge(row, now);
        }
    }

    pub(crate) fn changes_since(&self, cursor: u64, rows_max: usize) -> (Vec<Row>, u64) {
        self.table().changes_since(cursor, rows_max)
    }

    pub(crate) fn rows(&self) -> usize {
        self.table().len()
    }

    /// Loads what was saved, then saves what changes and reloads the databases' files, until the process stops.
    pub(crate) async fn run(self: Arc<Self>, database: Database, mut saved: u64, mut stopped: watch::Receiver<bool>) {
        let mut saves = tokio::time::interval(SAVE_EVERY);
        let mut looks = tokio::time::interval(RELOAD_EVERY);
        saves.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = saves.tick() => saved = self.save(&database, saved).await,
                _ = looks.tick() => self.reload().await,
                _ = stopped.changed() => break,
            }
        }
        self.save(&database, saved).await;
    }

    /// Takes in what earlier runs saved; gives the cursor from which on there is something to save.
    pub(crate) async fn load(&self, database: &Database) -> u64 {
        let rows_max = self.config.rows_max;
        let oldest = now_s().saturating_sub((self.config.half_life_h * 3600.0 * FORGET_HALF_LIVES) as u32);
        if let Err(error) = database.purge_learned(oldest, rows_max).await {
            tracing::warn!(%error, "old learned round trips could not be removed");
        }
        match database.load_learned(rows_max).await {
            Ok(rows) => {
                self.merge(&rows);
                tracing::info!(rows = rows.len(), "learned round trips loaded");
            }
            Err(error) => tracing::warn!(%error, "learned round trips could not be loaded: learning starts anew"),
        }
        self.changes_since(0, usize::MAX).1
    }

    async fn save(&self, database: &Database, mut saved: u64) -> u64 {
        loop {
            let (rows, next) = self.changes_since(saved, SAVE_ROWS);
            if rows.is_empty() {
                return saved;
            }
            if let Err(error) = database.save_learned(&rows, now_s()).await {
                tracing::warn!(%error, "learned round trips could not be saved; they will be tried again");
                return saved;
            }
            saved = next;
        }
    }

    async fn reload(&self) {
        let databases = [self.places.clone(), self.systems.clone()];
        // Reading a database may take a second; what it has to say it logs itself.
        let reload = tokio::task::spawn_blocking(move || {
            for database in databases {
                database.reload();
            }
        });
        let _ = reload.await;
    }
}

/// Seconds since 1970.
fn now_s() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}
