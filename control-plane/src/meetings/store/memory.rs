//! The contract at its plainest: what SQLite's answers are compared with.

use super::{Meeting, MeetingStore};
use crate::database::Stored;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

#[derive(Default)]
pub(super) struct MemoryMeetings(Mutex<BTreeMap<String, Meeting>>);

impl MemoryMeetings {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Meeting>> {
        self.0.lock().unwrap()
    }
}

impl MeetingStore for MemoryMeetings {
    fn insert<'a>(&'a self, meeting: &'a Meeting) -> Stored<'a, bool> {
        let mut all = self.all();
        let free = !all.contains_key(&meeting.code);
        all.entry(meeting.code.clone()).or_insert_with(|| meeting.clone());
        Box::pin(std::future::ready(Ok(free)))
    }

    fn get<'a>(&'a self, code: &'a str) -> Stored<'a, Option<Meeting>> {
        Box::pin(std::future::ready(Ok(self.all().get(code).cloned())))
    }

    fn owned_by<'a>(&'a self, account: &'a str, meetings_max: u32) -> Stored<'a, Vec<Meeting>> {
        let all = self.all();
        let is_theirs = |one: &&Meeting| one.owner.as_deref() == Some(account) && one.ended_at_ms.is_none();
        let mut owned: Vec<Meeting> = all.values().filter(is_theirs).cloned().collect();
        owned.sort_by_key(|one| std::cmp::Reverse(one.created_at_ms));
        owned.truncate(meetings_max as usize);
        Box::pin(std::future::ready(Ok(owned)))
    }

    fn end<'a>(&'a self, code: &'a str, at_ms: u64) -> Stored<'a, bool> {
        let mut all = self.all();
        let open = all.get_mut(code).filter(|meeting| meeting.ended_at_ms.is_none());
        let ended = open.map(|meeting| meeting.ended_at_ms = Some(at_ms)).is_some();
        Box::pin(std::future::ready(Ok(ended)))
    }

    fn touch<'a>(&'a self, code: &'a str, at_ms: u64) -> Stored<'a, ()> {
        if let Some(meeting) = self.all().get_mut(code) {
            meeting.used_at_ms = at_ms;
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn purge(&self, before_ms: u64) -> Stored<'_, u64> {
        let mut all = self.all();
        let before = all.len();
        all.retain(|_, meeting| meeting.used_at_ms >= before_ms);
        Box::pin(std::future::ready(Ok((before - all.len()) as u64)))
    }
}
