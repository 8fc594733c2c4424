//! The contract at its plainest: what SQLite's answers are compared with.

use super::{Account, AccountStore, Registered, Rotation, Session};
use crate::database::Stored;
use std::sync::Mutex;

#[derive(Default)]
pub(super) struct MemoryAccounts {
    accounts: Mutex<Vec<Account>>,
    /// In the order in which they began.
    sessions: Mutex<Vec<Session>>,
}

fn done<'a, T: Send + 'a>(value: T) -> Stored<'a, T> {
    Box::pin(std::future::ready(Ok(value)))
}

impl AccountStore for MemoryAccounts {
    fn register<'a>(&'a self, account: &'a Account, accounts_max: u32) -> Stored<'a, Registered> {
        let mut accounts = self.accounts.lock().unwrap();
        if accounts.iter().any(|one| one.email == account.email) {
            return done(Registered::EmailTaken);
        }
        if accounts.len() >= accounts_max as usize {
            return done(Registered::Full);
        }
        accounts.push(account.clone());
        done(Registered::Done)
    }

    fn by_email<'a>(&'a self, email: &'a str) -> Stored<'a, Option<Account>> {
        let accounts = self.accounts.lock().unwrap();
        done(accounts.iter().find(|one| one.email == email).cloned())
    }

    fn by_id<'a>(&'a self, id: &'a str) -> Stored<'a, Option<Account>> {
        let accounts = self.accounts.lock().unwrap();
        done(accounts.iter().find(|one| one.id == id).cloned())
    }

    fn begin<'a>(&'a self, session: &'a Session, sessions_max: u32) -> Stored<'a, ()> {
        let mut sessions = self.sessions.lock().unwrap();
        sessions.push(session.clone());
        while sessions.iter().filter(|one| one.account == session.account).count() > sessions_max as usize {
            let oldest = sessions.iter().position(|one| one.account == session.account).unwrap();
            sessions.remove(oldest);
        }
        done(())
    }

    fn rotate<'a>(
        &'a self,
        session: &'a str,
        shown: &'a [u8],
        next: &'a [u8],
        now_ms: u64,
        expires_at_ms: u64,
    ) -> Stored<'a, Rotation> {
        let mut sessions = self.sessions.lock().unwrap();
        let Some(at) = sessions.iter().position(|one| one.id == session) else {
            return done(Rotation::Unknown);
        };
        let found = &mut sessions[at];
        if found.refresh_hash != shown || found.expires_at_ms <= now_ms {
            sessions.remove(at);
            return done(Rotation::Ended);
        }
        found.refresh_hash = next.to_vec();
        found.expires_at_ms = expires_at_ms;
        done(Rotation::Done {
            account: found.account.clone(),
        })
    }

    fn end<'a>(&'a self, session: &'a str) -> Stored<'a, ()> {
        self.sessions.lock().unwrap().retain(|one| one.id != session);
        done(())
    }

    fn purge(&self, now_ms: u64) -> Stored<'_, u64> {
        let mut sessions = self.sessions.lock().unwrap();
        let before = sessions.len();
        sessions.retain(|one| one.expires_at_ms >= now_ms);
        done((before - sessions.len()) as u64)
    }
}
