//! What every store of accounts must do, run against each.

use super::memory::MemoryAccounts;
use super::{Account, AccountStore, Registered, Rotation, Session, SqliteAccounts};
use crate::database::Database;
use crate::database::testing::Scratch;

fn account(id: &str) -> Account {
    Account {
        id: id.to_owned(),
        email: format!("{id}@example.org"),
        name: "Zoë; DROP TABLE accounts".to_owned(),
        password_hash: "$argon2id$".to_owned(),
        created_at_ms: 1,
    }
}

fn session(id: &str, account: &str, created_at_ms: u64) -> Session {
    Session {
        id: id.to_owned(),
        account: account.to_owned(),
        refresh_hash: vec![1],
        created_at_ms,
        expires_at_ms: 1_000,
    }
}

async fn an_address_has_one_account_and_there_is_a_limit(store: &dyn AccountStore) {
    let ana = account("ana");
    assert_eq!(store.register(&ana, 2).await.unwrap(), Registered::Done);
    let again = Account {
        id: "other".to_owned(),
        ..ana.clone()
    };
    assert_eq!(store.register(&again, 2).await.unwrap(), Registered::EmailTaken);
    assert_eq!(store.by_id("other").await.unwrap(), None);
    assert_eq!(store.register(&account("ben"), 2).await.unwrap(), Registered::Done);
    assert_eq!(store.register(&account("cleo"), 2).await.unwrap(), Registered::Full);
    assert_eq!(store.by_email("ana@example.org").await.unwrap().as_ref(), Some(&ana));
    assert_eq!(store.by_id("ana").await.unwrap(), Some(ana));
    assert_eq!(store.by_email("cleo@example.org").await.unwrap(), None);
}

async fn a_refresh_token_is_good_once_and_its_second_use_ends_the_session(store: &dyn AccountStore) {
    store.begin(&session("s", "ana", 10), 9).await.unwrap();
    let account = "ana".to_owned();
    assert_eq!(
        store.rotate("s", &[1], &[2], 10, 2_000).await.unwrap(),
        Rotation::Done {
            account: account.clone()
        }
    );
    assert_eq!(
        store.rotate("s", &[2], &[3], 1_500, 2_500).await.unwrap(),
        Rotation::Done { account },
        "the end has moved"
    );
    assert_eq!(
        store.rotate("s", &[1], &[9], 1_500, 2_500).await.unwrap(),
        Rotation::Ended
    );
    let good = store.rotate("s", &[3], &[4], 1_500, 2_500).await.unwrap();
    assert_eq!(good, Rotation::Unknown, "also for whoever has the good one");
    store.begin(&session("late", "ana", 10), 9).await.unwrap();
    assert_eq!(
        store.rotate("late", &[1], &[2], 1_000, 2_000).await.unwrap(),
        Rotation::Ended
    );
}

async fn of_two_who_rotate_at_once_one_gets_it(store: &dyn AccountStore) {
    store.begin(&session("race", "ana", 10), 9).await.unwrap();
    let (one, two) = tokio::join!(
        store.rotate("race", &[1], &[2], 10, 2_000),
        store.rotate("race", &[1], &[3], 10, 2_000)
    );
    let both = [one.unwrap(), two.unwrap()];
    assert!(both.contains(&Rotation::Ended), "{both:?}");
    assert!(both.iter().any(|one| matches!(one, Rotation::Done { .. })), "{both:?}");
}

async fn the_oldest_sessions_make_room_and_expired_ones_go(store: &dyn AccountStore) {
    for (id, at) in [("1st", 1), ("2nd", 2), ("3rd", 3)] {
        store.begin(&session(id, "ben", at), 2).await.unwrap();
    }
    assert_eq!(
        store.rotate("1st", &[1], &[2], 5, 900).await.unwrap(),
        Rotation::Unknown
    );
    store.end("2nd").await.unwrap();
    store.end("2nd").await.unwrap();
    assert_eq!(
        store.rotate("2nd", &[1], &[2], 5, 900).await.unwrap(),
        Rotation::Unknown
    );
    assert_eq!(store.purge(1_000).await.unwrap(), 0);
    assert_eq!(store.purge(1_001).await.unwrap(), 1);
    assert_eq!(
        store.rotate("3rd", &[1], &[2], 5, 900).await.unwrap(),
        Rotation::Unknown
    );
}

async fn fulfils_the_contract(store: &dyn AccountStore) {
    an_address_has_one_account_and_there_is_a_limit(store).await;
    a_refresh_token_is_good_once_and_its_second_use_ends_the_session(store).await;
    of_two_who_rotate_at_once_one_gets_it(store).await;
    the_oldest_sessions_make_room_and_expired_ones_go(store).await;
}

#[tokio::test]
async fn memory_fulfils_the_contract() {
    fulfils_the_contract(&MemoryAccounts::default()).await;
}

#[tokio::test]
async fn sqlite_fulfils_the_contract() {
    let database = Scratch::open().await;
    fulfils_the_contract(&SqliteAccounts(Database::clone(&database))).await;
    database.close().await;
}
