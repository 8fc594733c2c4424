//! Accounts in SQLite.

use super::{Account, AccountStore, Registered, Rotation, Session};
use crate::database::{Database, Stored, to_i64, to_u64};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

pub(crate) struct SqliteAccounts(pub(crate) Database);

impl AccountStore for SqliteAccounts {
    fn register<'a>(&'a self, account: &'a Account, accounts_max: u32) -> Stored<'a, Registered> {
        let insert = sqlx::query(
            "INSERT INTO accounts (id, email, name, password_hash, created_at_ms) SELECT ?, ?, ?, ?, ? \
             WHERE (SELECT COUNT(*) FROM accounts) < ? ON CONFLICT (email) DO NOTHING",
        )
        .bind(&account.id)
        .bind(&account.email)
        .bind(&account.name)
        .bind(&account.password_hash)
        .bind(to_i64(account.created_at_ms))
        .bind(i64::from(accounts_max));
        Box::pin(async move {
            if insert.execute(self.0.pool()).await?.rows_affected() == 1 {
                return Ok(Registered::Done);
            }
            Ok(match self.by_email(&account.email).await? {
                Some(_) => Registered::EmailTaken,
                None => Registered::Full,
            })
        })
    }

    fn by_email<'a>(&'a self, email: &'a str) -> Stored<'a, Option<Account>> {
        Box::pin(async move {
            let get = sqlx::query("SELECT * FROM accounts WHERE email = ?").bind(email);
            let row = get.fetch_optional(self.0.pool()).await?;
            Ok(row.map(|row| account(&row)).transpose()?)
        })
    }

    fn by_id<'a>(&'a self, id: &'a str) -> Stored<'a, Option<Account>> {
        Box::pin(async move {
            let get = sqlx::query("SELECT * FROM accounts WHERE id = ?").bind(id);
            let row = get.fetch_optional(self.0.pool()).await?;
            Ok(row.map(|row| account(&row)).transpose()?)
        })
    }

    fn begin<'a>(&'a self, session: &'a Session, sessions_max: u32) -> Stored<'a, ()> {
        Box::pin(async move {
            let mut transaction = self.0.pool().begin_with("BEGIN IMMEDIATE").await?;
            sqlx::query(
                "INSERT INTO sessions (id, account, refresh_hash, created_at_ms, expires_at_ms) VALUES (?, ?, ?, ?, ?)",
            )
            .bind(&session.id)
            .bind(&session.account)
            .bind(&session.refresh_hash)
            .bind(to_i64(session.created_at_ms))
            .bind(to_i64(session.expires_at_ms))
            .execute(&mut *transaction)
            .await?;
            sqlx::query(
                "DELETE FROM sessions WHERE account = ?1 AND id NOT IN \
                 (SELECT id FROM sessions WHERE account = ?1 ORDER BY created_at_ms DESC, rowid DESC LIMIT ?2)",
            )
            .bind(&session.account)
            .bind(i64::from(sessions_max))
            .execute(&mut *transaction)
            .await?;
            transaction.commit().await?;
            Ok(())
        })
    }

    fn rotate<'a>(
        &'a self,
        session: &'a str,
        shown: &'a [u8],
        next: &'a [u8],
        now_ms: u64,
        expires_at_ms: u64,
    ) -> Stored<'a, Rotation> {
        Box::pin(async move {
            let rotate = sqlx::query(
                "UPDATE sessions SET refresh_hash = ?, expires_at_ms = ? WHERE id = ? AND refresh_hash = ? AND expires_at_ms > ? \
                 RETURNING account",
            )
            .bind(next)
            .bind(to_i64(expires_at_ms))
            .bind(session)
            .bind(shown)
            .bind(to_i64(now_ms));
            if let Some(row) = rotate.fetch_optional(self.0.pool()).await? {
                let account = row.try_get("account")?;
                return Ok(Rotation::Done { account });
            }
            let end = sqlx::query("DELETE FROM sessions WHERE id = ?").bind(session);
            Ok(match end.execute(self.0.pool()).await?.rows_affected() {
                0 => Rotation::Unknown,
                _ => Rotation::Ended,
            })
        })
    }

    fn end<'a>(&'a self, session: &'a str) -> Stored<'a, ()> {
        Box::pin(async move {
            let end = sqlx::query("DELETE FROM sessions WHERE id = ?").bind(session);
            end.execute(self.0.pool()).await?;
            Ok(())
        })
    }

    fn purge(&self, now_ms: u64) -> Stored<'_, u64> {
        Box::pin(async move {
            let purge = sqlx::query("DELETE FROM sessions WHERE expires_at_ms < ?").bind(to_i64(now_ms));
            Ok(purge.execute(self.0.pool()).await?.rows_affected())
        })
    }
}

fn account(row: &SqliteRow) -> Result<Account, sqlx::Error> {
    Ok(Account {
        id: row.try_get("id")?,
        email: row.try_get("email")?,
        name: row.try_get("name")?,
        password_hash: row.try_get("password_hash")?,
        created_at_ms: to_u64(row.try_get("created_at_ms")?),
    })
}
