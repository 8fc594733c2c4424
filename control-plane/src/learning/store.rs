//! Learned round trips in the database, so that a restart keeps them.

use crate::database::{Database, StoreError};
use meridian_geo::{Observation, Row};
use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use std::collections::BTreeMap;

/// The version of a body that this code writes.
const BODY_VERSION: u32 = 1;

/// A row's sessions by region; each is `[at_s, source, rtt_dms, expected_dms]`.
#[derive(Serialize, Deserialize)]
struct Body {
    v: u32,
    regions: BTreeMap<String, Vec<(u32, u32, u16, u16)>>,
}

impl Database {
    /// Writes rows over what was saved of them.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) async fn save_learned(&self, rows: &[Row], now_s: u32) -> Result<(), StoreError> {
        let mut transaction = self.pool().begin().await?;
        for row in rows {
            let body = serde_json::to_string(&Body::of(row)).unwrap_or_default();
            sqlx::query(
                "INSERT INTO learned (key, body, changed_at) VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET body = excluded.body, \
                 changed_at = excluded.changed_at",
            )
            .bind(row.key.to_string())
            .bind(body)
            .bind(i64::from(now_s))
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// The rows changed last, oldest of them first. A row that cannot be read is left out.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) async fn load_learned(&self, rows_max: u32) -> Result<Vec<Row>, StoreError> {
        let rows = sqlx::query("SELECT key, body FROM learned ORDER BY changed_at DESC LIMIT ?")
            .bind(i64::from(rows_max))
            .fetch_all(self.pool())
            .await?;
        let read = |row: &sqlx::sqlite::SqliteRow| {
            let key = row.try_get::<String, _>("key").ok()?.parse().ok()?;
            let body: Body = serde_json::from_str(&row.try_get::<String, _>("body").ok()?).ok()?;
            Some(body.into_row(key))
        };
        Ok(rows.iter().rev().filter_map(read).collect())
    }

    /// Removes rows unchanged since `before_s`, and all but the `rows_max` changed last.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) async fn purge_learned(&self, before_s: u32, rows_max: u32) -> Result<u64, StoreError> {
        let purge = sqlx::query(
            "DELETE FROM learned WHERE changed_at < ? OR key NOT IN (SELECT key FROM learned ORDER BY changed_at DESC LIMIT ?)",
        );
        let purge = purge.bind(i64::from(before_s)).bind(i64::from(rows_max));
        Ok(purge.execute(self.pool()).await?.rows_affected())
    }
}

impl Body {
    fn of(row: &Row) -> Self {
        let session = |one: &Observation| (one.at_s, one.source, one.rtt_dms, one.expected_dms);
        let regions = row
            .regions
            .iter()
            .map(|(region, sessions)| (region.clone(), sessions.iter().map(session).collect()));
        Body {
            v: BODY_VERSION,
            regions: regions.collect(),
        }
    }

    fn into_row(self, key: meridian_geo::Key) -> Row {
        let session = |(at_s, source, rtt_dms, expected_dms)| Observation {
            at_s,
            source,
            rtt_dms,
            expected_dms,
        };
        let regions = self
            .regions
            .into_iter()
            .map(|(region, sessions)| (region, sessions.into_iter().map(session).collect()));
        Row {
            key,
            regions: regions.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::testing::Scratch;

    fn row(key: &str) -> Row {
        let session = Observation {
            at_s: 9,
            source: u32::MAX,
            rtt_dms: 123,
            expected_dms: 0,
        };
        Row {
            key: key.parse().unwrap(),
            regions: vec![("fra".to_owned(), vec![session])],
        }
    }

    #[tokio::test]
    async fn what_was_learned_comes_back_and_the_oldest_goes_first() {
        let database = Scratch::open().await;
        database.save_learned(&[row("203.0.113.0/24")], 100).await.unwrap();
        let newer = [row("AS64500"), row("2001:db8::/48")];
        database.save_learned(&newer, 200).await.unwrap();
        assert_eq!(database.load_learned(10).await.unwrap().len(), 3);
        assert_eq!(database.load_learned(10).await.unwrap()[0], row("203.0.113.0/24"));
        assert_eq!(database.purge_learned(150, 1).await.unwrap(), 2);
        assert_eq!(database.load_learned(10).await.unwrap().len(), 1);
        database.close().await;
    }
}
