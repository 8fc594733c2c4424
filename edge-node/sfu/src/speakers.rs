//! Who is speaking: audio levels smoothed, with hysteresis. One per shard (its publishers) or per room, as the caller likes.

use crate::media::TrackId;
use crate::packet::AudioLevel;
use std::time::Instant;

/// Call `observe` for every audio packet, `poll` at least every 100 ms.
#[derive(Default)]
pub struct Speakers {}

impl Speakers {
    pub fn new() -> Self {
        Speakers {}
    }
    pub fn observe(&mut self, _now: Instant, _track: TrackId, _level: AudioLevel) {}
    /// The track ended or was muted.
    pub fn remove(&mut self, _track: TrackId) {}
    /// Every 100 ms: tracks that are speaking with their level (0..1 linear), loudest first, and those that have just
    /// fallen silent with level 0. `false` = not due yet. `out` is cleared first.
    pub fn poll(&mut self, _now: Instant, out: &mut Vec<(TrackId, f32)>) -> bool {
        out.clear();
        false
    }
}
