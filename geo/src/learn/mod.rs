//! The map that learns: what edges measured in earlier sessions, and what follows from it about the next one.
//!
//! [`Learned`] is the table (prefix or autonomous system × region → latest sessions), [`Measured`] what it says about one client,
//! [`Belief`] where that puts the client. Only round trips that a server measured come in; clients' own probes are never learned.
//! No clock, no storage, no network here: the control plane feeds, saves and exchanges the rows.

mod belief;
mod measured;
mod prefix;
mod sketch;
mod table;

pub use belief::{Belief, BeliefSource};
pub(crate) use belief::{believe, unit_interval};
pub(crate) use measured::Evidence;
pub use measured::{Measured, RegionMeasured, Stat};
pub use prefix::{Key, NoKey};
pub use sketch::Observation;
pub use table::{LearnConfig, Learned, Row, Session};
