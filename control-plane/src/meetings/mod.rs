//! Meetings: what one is, where it is kept ([`store`]), its code and passcode, and [`join::JoinService`], which lets people in. Which
//! edge somebody is sent to is decided in `fleet` and `placement`.

mod codes;
pub mod join;
mod store;

pub(crate) use store::{Meeting, MeetingStore, SqliteMeetings};
