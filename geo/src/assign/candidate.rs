//! An edge as the control plane knows it, and why it may be left out.

use super::policy::FULL_LOAD;
use crate::{Location, regions};
use std::fmt;
use std::time::Duration;

/// [`Candidate::lately`] counts the assignments of this long.
pub const LATELY: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CandidateState {
    #[default]
    Active,
    Cordoned,
    Draining,
}

/// An edge as the control plane knows it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Candidate {
    pub id: String,
    pub region: String,
    /// Absent: the region's, if that is known.
    pub location: Option<Location>,
    pub state: CandidateState,
    /// False while it is suspected to be gone: used only if there is nothing else.
    pub healthy: bool,
    /// Participants it is meant to hold; 0: unknown, then only `cpu` counts.
    pub capacity: u32,
    pub participants: u32,
    /// People sent there, by any replica, who have not arrived yet.
    pub recent: u32,
    /// People sent there by this replica within [`LATELY`], arrived or not: tells a burst, and how it was spread so far.
    pub lately: u32,
    /// 0..=1 of all cores.
    pub cpu: f64,
    /// Its own word: false when it takes nobody.
    pub accepting: bool,
    /// People of this room are there.
    pub has_room: bool,
}

impl Candidate {
    pub(crate) fn location(&self) -> Option<Location> {
        self.location
            .or_else(|| regions::find(&self.region).map(|region| region.location))
    }

    /// The larger of the share of capacity and CPU.
    pub fn load(&self) -> f64 {
        let people = f64::from(self.participants) + f64::from(self.recent);
        let share = if self.capacity == 0 {
            0.0
        } else {
            people / f64::from(self.capacity)
        };
        share.max(if self.cpu.is_finite() { self.cpu } else { 0.0 })
    }

    /// People it could still take; `None` if nobody told its capacity.
    pub(crate) fn room_left(&self) -> Option<u32> {
        let taken = self.participants.saturating_add(self.recent);
        (self.capacity > 0).then(|| self.capacity.saturating_sub(taken))
    }

    /// What rules it out whoever asks. `load` is [`Self::load`].
    pub(crate) fn closed(&self, load: f64) -> Option<Exclusion> {
        match self.state {
            CandidateState::Cordoned => Some(Exclusion::Cordoned),
            CandidateState::Draining => Some(Exclusion::Draining),
            CandidateState::Active if load >= FULL_LOAD => Some(Exclusion::Full),
            CandidateState::Active if !self.accepting => Some(Exclusion::NotAccepting),
            CandidateState::Active => None,
        }
    }
}

/// Why an edge was not considered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exclusion {
    Residency,
    Cordoned,
    Draining,
    Full,
    NotAccepting,
    /// Suspected to be gone, while others are not.
    Unhealthy,
    /// The client could not reach it, and there are others.
    Avoided,
}

impl Exclusion {
    /// For programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Exclusion::Residency => "residency",
            Exclusion::Cordoned => "cordoned",
            Exclusion::Draining => "draining",
            Exclusion::Full => "full",
            Exclusion::NotAccepting => "not_accepting",
            Exclusion::Unhealthy => "unhealthy",
            Exclusion::Avoided => "avoided",
        }
    }
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Exclusion::Residency => "lies outside of where this meeting may be held",
            Exclusion::Cordoned => "is cordoned: takes nobody new",
            Exclusion::Draining => "is being drained",
            Exclusion::Full => "is full",
            Exclusion::NotAccepting => "takes nobody at the moment",
            Exclusion::Unhealthy => "has not been heard of lately",
            Exclusion::Avoided => "was not reachable for this client",
        })
    }
}
