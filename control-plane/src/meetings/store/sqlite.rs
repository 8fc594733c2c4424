//! Meetings in SQLite.

use super::{Meeting, MeetingStore};
use crate::database::{Database, Stored, to_i64, to_u64};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

pub(crate) struct SqliteMeetings(pub(crate) Database);

impl MeetingStore for SqliteMeetings {
    fn insert<'a>(&'a self, meeting: &'a Meeting) -> Stored<'a, bool> {
        let insert = sqlx::query(
            "INSERT INTO meetings (code, title, passcode_hash, host_key_hash, max_participants, created_at_ms, ended_at_ms, \
             used_at_ms, residency, owner) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (code) DO NOTHING",
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
        .bind(&meeting.owner);
        Box::pin(async move { Ok(insert.execute(self.0.pool()).await?.rows_affected() == 1) })
    }

    fn get<'a>(&'a self, code: &'a str) -> Stored<'a, Option<Meeting>> {
        Box::pin(async move {
            let get = sqlx::query("SELECT * FROM meetings WHERE code = ?").bind(code);
            let row = get.fetch_optional(self.0.pool()).await?;
            Ok(row.map(|row| meeting(&row)).transpose()?)
        })
    }

    fn owned_by<'a>(&'a self, account: &'a str, meetings_max: u32) -> Stored<'a, Vec<Meeting>> {
        Box::pin(async move {
            let owned = sqlx::query(
                "SELECT * FROM meetings WHERE owner = ? AND ended_at_ms IS NULL ORDER BY created_at_ms DESC LIMIT ?",
            );
            let rows = owned
                .bind(account)
                .bind(i64::from(meetings_max))
                .fetch_all(self.0.pool())
                .await?;
            Ok(rows.iter().map(meeting).collect::<Result<_, _>>()?)
        })
    }

    fn end<'a>(&'a self, code: &'a str, at_ms: u64) -> Stored<'a, bool> {
        Box::pin(async move {
            let end = sqlx::query("UPDATE meetings SET ended_at_ms = ? WHERE code = ? AND ended_at_ms IS NULL");
            let result = end.bind(to_i64(at_ms)).bind(code).execute(self.0.pool()).await?;
            Ok(result.rows_affected() == 1)
        })
    }

    fn touch<'a>(&'a self, code: &'a str, at_ms: u64) -> Stored<'a, ()> {
        Box::pin(async move {
            let touch = sqlx::query("UPDATE meetings SET used_at_ms = ? WHERE code = ?");
            touch.bind(to_i64(at_ms)).bind(code).execute(self.0.pool()).await?;
            Ok(())
        })
    }

    fn purge(&self, before_ms: u64) -> Stored<'_, u64> {
        Box::pin(async move {
            let purge = sqlx::query("DELETE FROM meetings WHERE used_at_ms < ?").bind(to_i64(before_ms));
            Ok(purge.execute(self.0.pool()).await?.rows_affected())
        })
    }
}

fn meeting(row: &SqliteRow) -> Result<Meeting, sqlx::Error> {
    Ok(Meeting {
        code: row.try_get("code")?,
        title: row.try_get("title")?,
        passcode_hash: row.try_get("passcode_hash")?,
        host_key_hash: row.try_get("host_key_hash")?,
        max_participants: u32::try_from(row.try_get::<i64, _>("max_participants")?).unwrap_or(u32::MAX),
        created_at_ms: to_u64(row.try_get("created_at_ms")?),
        ended_at_ms: row.try_get::<Option<i64>, _>("ended_at_ms")?.map(to_u64),
        used_at_ms: to_u64(row.try_get("used_at_ms")?),
        residency: row
            .try_get::<String, _>("residency")?
            .split(',')
            .filter(|rule| !rule.is_empty())
            .map(str::to_owned)
            .collect(),
        owner: row.try_get("owner")?,
    })
}
