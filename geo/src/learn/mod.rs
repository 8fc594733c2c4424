//! The map that learns: what edges measured in earlier sessions, and what follows from it about the next one.

mod belief;
mod measured;

pub use belief::{Belief, BeliefSource};
pub(crate) use belief::{believe, unit_interval};
pub(crate) use measured::Evidence;
pub use measured::{Measured, RegionMeasured, Stat};
