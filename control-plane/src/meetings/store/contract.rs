//! What every store of meetings must do, run against each.

use super::memory::MemoryMeetings;
use super::{Meeting, MeetingStore, SqliteMeetings};
use crate::database::Database;
use crate::database::testing::Scratch;

fn meeting(code: &str, used_at_ms: u64) -> Meeting {
    Meeting {
        code: code.to_owned(),
        title: "Zoë's; DROP TABLE meetings".to_owned(),
        passcode_hash: Some("$argon2id$".to_owned()),
        host_key_hash: vec![0, 255],
        max_participants: 7,
        created_at_ms: used_at_ms,
        ended_at_ms: None,
        used_at_ms,
        residency: vec!["eu".to_owned(), "lhr".to_owned()],
        owner: None,
    }
}

async fn a_code_is_taken_once_and_its_meeting_comes_back_whole(store: &dyn MeetingStore) {
    let first = meeting("once", 1_000);
    assert_eq!(store.get("once").await.unwrap(), None);
    assert!(store.insert(&first).await.unwrap());
    assert_eq!(store.get("once").await.unwrap().as_ref(), Some(&first));
    let plain = Meeting {
        passcode_hash: None,
        residency: Vec::new(),
        ..meeting("plain", 1_000)
    };
    assert!(store.insert(&plain).await.unwrap());
    assert_eq!(store.get("plain").await.unwrap(), Some(plain));
    let other = Meeting {
        title: "Another".to_owned(),
        ..first.clone()
    };
    assert!(!store.insert(&other).await.unwrap());
    assert_eq!(store.get("once").await.unwrap(), Some(first), "the first stays");
}

async fn of_two_who_insert_a_code_at_once_one_gets_it(store: &dyn MeetingStore) {
    let (one, two) = (meeting("race", 1_000), meeting("race", 2_000));
    let (a, b) = tokio::join!(store.insert(&one), store.insert(&two));
    let kept = if a.unwrap() {
        (&one, b.unwrap())
    } else {
        (&two, !b.unwrap())
    };
    assert!(!kept.1);
    assert_eq!(store.get("race").await.unwrap().as_ref(), Some(kept.0));
}

async fn a_meeting_ends_once(store: &dyn MeetingStore) {
    store.insert(&meeting("ends", 1_000)).await.unwrap();
    assert!(store.end("ends", 5_000).await.unwrap());
    assert!(!store.end("ends", 6_000).await.unwrap());
    assert_eq!(store.get("ends").await.unwrap().unwrap().ended_at_ms, Some(5_000));
    assert!(!store.end("nobody's", 5_000).await.unwrap());
}

async fn an_account_finds_its_open_meetings_the_latest_first(store: &dyn MeetingStore) {
    for (code, at_ms, owner) in [
        ("o1", 1, "ana"),
        ("o2", 2, "ana"),
        ("o3", 3, "ben"),
        ("o4", 4, "ana"),
        ("o5", 5, "ana"),
    ] {
        let owned = Meeting {
            owner: Some(owner.to_owned()),
            ..meeting(code, at_ms)
        };
        store.insert(&owned).await.unwrap();
    }
    store.end("o4", 9).await.unwrap();
    let codes = async |max| -> Vec<String> {
        let owned = store.owned_by("ana", max).await.unwrap();
        owned.into_iter().map(|one| one.code).collect()
    };
    assert_eq!(codes(9).await, ["o5", "o2", "o1"]);
    assert_eq!(codes(1).await, ["o5"]);
    assert!(store.owned_by("nobody", 9).await.unwrap().is_empty());
}

async fn meetings_go_when_nobody_uses_them(store: &dyn MeetingStore) {
    store.purge(u64::MAX).await.unwrap();
    for (code, used_at_ms) in [("old", 1_999), ("edge", 2_000), ("kept", 1_000)] {
        store.insert(&meeting(code, used_at_ms)).await.unwrap();
    }
    store.touch("kept", 3_000).await.unwrap();
    store.touch("nobody's", 3_000).await.unwrap();
    assert_eq!(store.purge(2_000).await.unwrap(), 1);
    assert_eq!(store.get("old").await.unwrap(), None);
    assert!(store.get("edge").await.unwrap().is_some());
    assert_eq!(store.get("kept").await.unwrap().unwrap().used_at_ms, 3_000);
    assert_eq!(store.get("nobody's").await.unwrap(), None);
}

async fn fulfils_the_contract(store: &dyn MeetingStore) {
    a_code_is_taken_once_and_its_meeting_comes_back_whole(store).await;
    of_two_who_insert_a_code_at_once_one_gets_it(store).await;
    a_meeting_ends_once(store).await;
    an_account_finds_its_open_meetings_the_latest_first(store).await;
    meetings_go_when_nobody_uses_them(store).await;
}

#[tokio::test]
async fn memory_fulfils_the_contract() {
    fulfils_the_contract(&MemoryMeetings::default()).await;
}

#[tokio::test]
async fn sqlite_fulfils_the_contract() {
    let database = Scratch::open().await;
    fulfils_the_contract(&SqliteMeetings(Database::clone(&database))).await;
    database.close().await;
}
