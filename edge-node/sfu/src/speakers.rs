//! Who is speaking: audio levels (RFC 6464) smoothed, with hysteresis. One per shard (its publishers) or per room, as the
//! caller likes.

use crate::media::TrackId;
use crate::packet::AudioLevel;
use std::time::{Duration, Instant};

/// Time between two lists.
pub const INTERVAL: Duration = Duration::from_millis(100);
/// Somebody starts to count as speaking at this smoothed level, and stops below the other (−dBov, smaller is louder).
const START_MINUS_DBOV: u8 = 35;
const STOP_MINUS_DBOV: u8 = 45;
/// Silence between words does not end a turn.
const HOLD: Duration = Duration::from_millis(300);
/// Weight of a new interval against the past, going up and going down.
const ATTACK: f32 = 0.6;
const RELEASE: f32 = 0.25;
/// Tracks followed at once: a stranger's tracks beyond are ignored.
const TRACKS_MAX: usize = 4_096;

/// Call `observe` for every audio packet, `poll` at least every 100 ms.
#[derive(Default)]
pub struct Speakers {
    tracks: Vec<Voice>,
    due: Option<Instant>,
}

#[derive(Debug)]
struct Voice {
    track: TrackId,
    /// Loudest and count in this interval.
    sum: f32,
    packets: u32,
    level: f32,
    speaking: bool,
    loud_until: Instant,
}

impl Speakers {
    pub fn new() -> Self {
        Speakers::default()
    }

    /// An audio packet with a level arrived.
    pub fn observe(&mut self, now: Instant, track: TrackId, level: AudioLevel) {
        self.due.get_or_insert(now + INTERVAL);
        let index = match self.tracks.binary_search_by_key(&track, |voice| voice.track) {
            Ok(index) => index,
            Err(_) if self.tracks.len() >= TRACKS_MAX => return,
            Err(index) => {
                let voice = Voice {
                    track,
                    sum: 0.0,
                    packets: 0,
                    level: 0.0,
                    speaking: false,
                    loud_until: now,
                };
                self.tracks.insert(index, voice);
                index
            }
        };
        let voice = &mut self.tracks[index];
        voice.sum += linear(level.minus_dbov);
        voice.packets += 1;
    }

    /// The track ended or was muted. If it was speaking, the next list says that it fell silent.
    pub fn remove(&mut self, track: TrackId) {
        if let Ok(index) = self.tracks.binary_search_by_key(&track, |voice| voice.track) {
            let voice = &mut self.tracks[index];
            if voice.speaking {
                (voice.level, voice.sum, voice.packets) = (0.0, 0.0, 0);
                voice.loud_until -= HOLD;
            } else {
                self.tracks.remove(index);
            }
        }
    }

    /// Every 100 ms: tracks that are speaking with their level (0..1 linear), loudest first, and those that have just
    /// fallen silent with level 0. `false` = not due yet. `out` is cleared first.
    pub fn poll(&mut self, now: Instant, out: &mut Vec<(TrackId, f32)>) -> bool {
        out.clear();
        if self.due.is_none_or(|due| now < due) {
            return false;
        }
        self.due = Some(now + INTERVAL);
        for voice in &mut self.tracks {
            let was_speaking = voice.speaking;
            voice.update(now);
            if voice.speaking || was_speaking {
                out.push((voice.track, if voice.speaking { voice.level } else { 0.0 }));
            }
        }
        // Who neither speaks nor is heard any more costs nothing.
        self.tracks.retain(|voice| voice.speaking || voice.level > linear(100));
        if self.tracks.is_empty() {
            self.due = None;
        }
        out.sort_by(|a, b| b.1.total_cmp(&a.1));
        true
    }
}

impl Voice {
    fn update(&mut self, now: Instant) {
        // DTX sends nothing in silence.
        let heard = if self.packets == 0 {
            0.0
        } else {
            self.sum / self.packets as f32
        };
        (self.sum, self.packets) = (0.0, 0);
        let weight = if heard > self.level { ATTACK } else { RELEASE };
        self.level += (heard - self.level) * weight;
        if self.level >= linear(STOP_MINUS_DBOV) {
            self.loud_until = now + HOLD;
        }
        self.speaking = if self.speaking {
            now < self.loud_until
        } else {
            self.level >= linear(START_MINUS_DBOV)
        };
    }
}

/// 0 dBov = 1.
fn linear(minus_dbov: u8) -> f32 {
    if minus_dbov >= 127 {
        0.0
    } else {
        10f32.powf(-f32::from(minus_dbov) / 20.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 20 ms packets at constant levels for `ms`, polling; returns every list.
    fn run(speakers: &mut Speakers, now: &mut Instant, ms: u64, levels: &[(u64, u8)]) -> Vec<Vec<(u64, f32)>> {
        let (mut lists, mut out) = (Vec::new(), Vec::new());
        for _ in 0..ms / 20 {
            for &(track, minus_dbov) in levels {
                speakers.observe(
                    *now,
                    TrackId(track),
                    AudioLevel {
                        minus_dbov,
                        voice: true,
                    },
                );
            }
            *now += Duration::from_millis(20);
            if speakers.poll(*now, &mut out) {
                lists.push(out.iter().map(|(track, level)| (track.0, *level)).collect());
            }
        }
        lists
    }

    #[test]
    fn a_voice_is_heard_within_200_ms_and_its_end_is_told_once() {
        let (mut speakers, mut now) = (Speakers::new(), Instant::now());
        let lists = run(&mut speakers, &mut now, 1_000, &[(1, 20), (2, 90)]);
        assert!(
            lists
                .iter()
                .take(2)
                .any(|list| list.iter().any(|(track, _)| *track == 1))
        );
        assert!(
            lists.iter().flatten().all(|(track, _)| *track == 1),
            "background noise is nobody"
        );
        let last = lists.last().and_then(|list| list.first()).unwrap().1;
        assert!((last - 0.1).abs() < 0.01, "−20 dBov is 0.1, got {last}");
        let lists = run(&mut speakers, &mut now, 3_000, &[(2, 90)]);
        let ends = lists
            .iter()
            .flatten()
            .filter(|(track, level)| *track == 1 && *level == 0.0)
            .count();
        assert_eq!(ends, 1);
        assert!(lists.last().unwrap().is_empty());
    }

    #[test]
    fn a_pause_between_words_does_not_end_the_turn() {
        let (mut speakers, mut now) = (Speakers::new(), Instant::now());
        run(&mut speakers, &mut now, 600, &[(1, 25)]);
        for _ in 0..5 {
            let lists = run(&mut speakers, &mut now, 200, &[(1, 80)]);
            assert!(lists.iter().all(|list| list[0].0 == 1 && list[0].1 > 0.0));
            run(&mut speakers, &mut now, 400, &[(1, 25)]);
        }
    }

    #[test]
    fn the_loudest_comes_first_and_a_removed_track_falls_silent() {
        let (mut speakers, mut now) = (Speakers::new(), Instant::now());
        let lists = run(&mut speakers, &mut now, 1_000, &[(1, 30), (2, 10), (3, 20)]);
        let order: Vec<_> = lists.last().unwrap().iter().map(|(track, _)| *track).collect();
        assert_eq!(order, [2, 3, 1]);
        speakers.remove(TrackId(2));
        let lists = run(&mut speakers, &mut now, 600, &[(1, 30), (3, 20)]);
        assert_eq!(
            lists
                .iter()
                .flatten()
                .filter(|(track, level)| *track == 2 && *level == 0.0)
                .count(),
            1
        );
    }
}
