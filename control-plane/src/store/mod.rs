//! Meetings, and what was learned, in the database. SQLite here; nothing outside of this folder knows SQL.

mod codes;
mod learned;

pub(crate) use codes::{MeetingCode, normalise};

use sqlx::Row as _;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const TOUCH_EVERY_MS: u64 = 3_600_000;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    #[error("database schema: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
}

/// A meeting as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meeting {
    pub(crate) code: String,
    pub(crate) title: String,
    /// PHC string of argon2id.
    pub(crate) passcode_hash: Option<String>,
    /// SHA-256 of the host key.
    pub(crate) host_key_hash: Vec<u8>,
    pub(crate) max_participants: u32,
    pub(crate) created_at_ms: u64,
    pub(crate) ended_at_ms: Option<u64>,
    /// When somebody last joined, within an hour; at first its creation.
    pub(crate) used_at_ms: u64,
    /// Region names and areas; empty: anywhere.
    pub(crate) residency: Vec<String>,
}

/// The database of one control plane.
#[derive(Debug, Clone)]
pub(crate) struct MeetingStore {
    pool: SqlitePool,
}

impl MeetingStore {
    /// Opens, or creates, the database file and brings its schema up to date.
    ///
    /// # Errors
    /// If the file cannot be opened or is of a newer schema.
    pub(crate) async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // With WAL, a crash of the machine may lose the last commits but never corrupts.
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(5));
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(5))
            .connect_with(options);
        let pool = pool.await?;
        sqlx::migrate!("./migrations").run(&pool).await?;
        Ok(MeetingStore { pool })
    }

    /// Stores a new meeting; `false` if the code is taken.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) async fn insert(&self, meeting: &Meeting) -> Result<bool, StoreError> {
        let result = sqlx::query(
            "INSERT INTO meetings (code, title, passcode_hash, host_key_hash, max_participants, created_at_ms, ended_at_ms, \
             used_at_ms, residency) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (code) DO NOTHING",
        )
        .bind(&meeting.code)
        .bind(&meeting.title)
        .bind(&meeting.passcode_hash)
        .bind(&meeting.host_key_hash)
        .bind(i64::from(meeting.max_participants))
        .bind(to_i64(meeting.created_at_ms))
        .bind(meeting.ended_at_ms.map(to_i64))
        .bind(to_i64(meeting.used_at_ms))
        .bind(meeting.residency.join(","))
        .execute(&self.pool)
        .await?;
        Ok(result.rows_affected() == 1)
    }

    /// The meeting of a (normalised) code.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) async fn get(&self, code: &str) -> Result<Option<Meeting>, StoreError> {
        let row = sqlx::query("SELECT * FROM meetings WHERE code = ?")
            .bind(code)
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.map(|row| meeting(&row)).transpose()?)
    }

    /// Ends a meeting; `false` if it had ended already or does not exist.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) async fn end(&self, code: &str) -> Result<bool, StoreError> {
        let result = sqlx::query("UPDATE meetings SET ended_at_ms = ? WHERE code = ? AND ended_at_ms IS NULL")
            .bind(to_i64(now_ms()))
            .bind(code)
            .execute(&self.pool)
            .await?;
        Ok(result.rows_affected() == 1)
    }

    /// Notes that a meeting is used. Written at most once an hour, so that joins mostly read.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) async fn touch(&self, meeting: &Meeting) -> Result<(), StoreError> {
        let now = now_ms();
        if now.saturating_sub(meeting.used_at_ms) >= TOUCH_EVERY_MS {
            let touch = sqlx::query("UPDATE meetings SET used_at_ms = ? WHERE code = ?");
            touch.bind(to_i64(now)).bind(&meeting.code).execute(&self.pool).await?;
        }
        Ok(())
    }

    /// Removes meetings that nobody has used since `before_ms`; returns how many.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) async fn purge(&self, before_ms: u64) -> Result<u64, StoreError> {
        let purge = sqlx::query("DELETE FROM meetings WHERE used_at_ms < ?").bind(to_i64(before_ms));
        Ok(purge.execute(&self.pool).await?.rows_affected())
    }

    /// Whether the database answers.
    pub(crate) async fn is_ready(&self) -> bool {
        sqlx::query("SELECT 1").execute(&self.pool).await.is_ok()
    }

    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

fn meeting(row: &SqliteRow) -> Result<Meeting, sqlx::Error> {
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok(Meeting {
        code: row.try_get("code")?,
        title: row.try_get("title")?,
        passcode_hash: row.try_get("passcode_hash")?,
        host_key_hash: row.try_get("host_key_hash")?,
        max_participants: u32::try_from(row.try_get::<i64, _>("max_participants")?).unwrap_or(u32::MAX),
        created_at_ms: number(row.try_get("created_at_ms")?),
        ended_at_ms: row.try_get::<Option<i64>, _>("ended_at_ms")?.map(number),
        used_at_ms: number(row.try_get("used_at_ms")?),
        residency: row
            .try_get::<String, _>("residency")?
            .split(',')
            .filter(|rule| !rule.is_empty())
            .map(str::to_owned)
            .collect(),
    })
}

fn to_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meeting(code: &str, used_at_ms: u64) -> Meeting {
        Meeting {
            code: code.to_owned(),
            title: "T".to_owned(),
            passcode_hash: None,
            host_key_hash: vec![1, 2],
            max_participants: 7,
            created_at_ms: used_at_ms,
            ended_at_ms: None,
            used_at_ms,
            residency: vec!["eu".to_owned(), "lhr".to_owned()],
        }
    }

    #[tokio::test]
    async fn meetings_are_kept_once_per_code_and_go_when_nobody_uses_them() {
        let path = std::env::temp_dir().join(format!("meridian-store-{}.db", std::process::id()));
        let store = MeetingStore::open(&path).await.unwrap();
        let (old, kept) = (meeting("old", 1_000), meeting("kept", 1_000));
        assert!(store.insert(&old).await.unwrap() && store.insert(&kept).await.unwrap());
        assert!(!store.insert(&old).await.unwrap(), "a code is taken once");
        assert_eq!(store.get("old").await.unwrap().as_ref(), Some(&old));
        store.touch(&kept).await.unwrap();
        assert_eq!(store.purge(2_000).await.unwrap(), 1);
        assert!(store.get("old").await.unwrap().is_none());
        let used = store.get("kept").await.unwrap().unwrap();
        assert!(now_ms() - used.used_at_ms < 60_000);
        assert!(store.end("kept").await.unwrap() && !store.end("kept").await.unwrap());
        let session = meridian_geo::Observation {
            at_s: 9,
            source: u32::MAX,
            rtt_dms: 123,
            expected_dms: 0,
        };
        let row = |key: &str| meridian_geo::Row {
            key: key.parse().unwrap(),
            regions: vec![("fra".to_owned(), vec![session])],
        };
        store.save_learned(&[row("203.0.113.0/24")], 100).await.unwrap();
        let newer = [row("AS64500"), row("2001:db8::/48")];
        store.save_learned(&newer, 200).await.unwrap();
        assert_eq!(store.load_learned(10).await.unwrap().len(), 3);
        assert_eq!(store.load_learned(10).await.unwrap()[0], row("203.0.113.0/24"));
        assert_eq!(store.purge_learned(150, 1).await.unwrap(), 2);
        assert_eq!(store.load_learned(10).await.unwrap().len(), 1);
        store.close().await;
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", path.display()));
        }
    }
}
