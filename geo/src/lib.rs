//! Where things are, how long a packet takes, and which edge a client should use.
//!
//! [`assign`] is the one place where an edge is chosen: a pure function of (client, candidates, policy) that also says why. The join
//! API calls it now; GeoDNS and `meridian assign explain` call the same. Around it: an MMDB reader ([`GeoDatabase`]), a table of
//! [`regions`], and the distance model ([`predicted_rtt_ms`]). It knows no network, no clock and no other crate of ours.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod assign;
mod learn;
mod mmdb;
mod place;
pub mod regions;

pub use assign::{
    Assignment, Candidate, CandidateState, Candidates, Choice, Client, EXACT, Excluded, Exclusion, LATELY, Policy,
    Probe, Ranked, Reason, ReasonKind, RttSource, assign,
};
pub use learn::{
    Belief, BeliefSource, Key, LearnConfig, Learned, Measured, NoKey, Observation, RegionMeasured, Row, Session, Stat,
};
pub use mmdb::{GeoDatabase, Reload};
pub use place::{Location, Place, distance_km, predicted_rtt_ms};
