//! Life of the other side: a heartbeat every 50 ms, suspicion when nothing at all arrived for too long, and what heartbeats
//! measure on the way (round trip, jitter, inbound loss), which QUIC's own statistics lack.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::extend;
use super::media::Heartbeat;

pub const INTERVAL: Duration = Duration::from_millis(50);
/// Silence that never counts as suspicious.
pub const SILENCE_MIN: Duration = Duration::from_millis(150);
/// A path may be jittery, but detection must stay useful.
pub const SILENCE_MAX: Duration = Duration::from_secs(1);
/// 3.5 intervals: 3.0 gave false alarms at 5 % loss (spec/links.md, fact 6).
const SILENT_INTERVALS: f64 = 3.5;
const JITTER_FACTOR: u32 = 4;
/// About 13 s of heartbeats.
const SAMPLES: usize = 256;

/// A change of opinion about the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifeChange {
    Suspect { silent_for: Duration },
    Alive,
}

/// Sends heartbeats and watches those of the other side.
#[derive(Debug)]
pub struct Life {
    origin: Instant,
    next_beat: Instant,
    sequence: u32,
    last_heard: Instant,
    last_looked: Instant,
    suspect: bool,
    /// Newest heartbeat received: its `sent_us` and when it came.
    newest: Option<(u64, u64, Instant)>,
    rtt: Option<Duration>,
    /// Transit times (arrival − sent, with an unknown constant offset) in µs.
    transits: VecDeque<i64>,
    jitter_p99: Duration,
    /// Loss the other side reports on what we send, in 1/10,000.
    pub outbound_loss: u16,
}

impl Life {
    pub fn new(now: Instant) -> Life {
        Life {
            origin: now,
            next_beat: now,
            sequence: 0,
            last_heard: now,
            last_looked: now,
            suspect: false,
            newest: None,
            rtt: None,
            transits: VecDeque::with_capacity(SAMPLES),
            jitter_p99: Duration::ZERO,
            outbound_loss: 0,
        }
    }

    /// The heartbeat that is due at `now`, if any. `next` is the next media sequence, `loss` what we see inbound.
    pub fn poll_beat(&mut self, now: Instant, next: u64, loss: u16) -> Option<Heartbeat> {
        if now < self.next_beat {
            return None;
        }
        // A late wake-up is not made good by a burst.
        self.next_beat = (self.next_beat + INTERVAL).max(now + INTERVAL / 2);
        let (echo_us, hold_us) = match self.newest {
            Some((_, sent_us, arrived)) => (
                sent_us,
                now.saturating_duration_since(arrived)
                    .as_micros()
                    .min(u128::from(u32::MAX)) as u32,
            ),
            None => (0, 0),
        };
        let beat = Heartbeat {
            sequence: self.sequence,
            sent_us: self.clock(now),
            echo_us,
            hold_us,
            next: next as u32,
            loss,
        };
        self.sequence = self.sequence.wrapping_add(1);
        Some(beat)
    }

    /// Any authenticated packet of the other side counts as life.
    pub fn heard(&mut self, now: Instant) -> Option<LifeChange> {
        self.last_heard = self.last_heard.max(now);
        std::mem::take(&mut self.suspect).then_some(LifeChange::Alive)
    }

    /// Takes a received heartbeat; also call [`Life::heard`]. Late and duplicate ones only refresh nothing.
    pub fn on_heartbeat(&mut self, now: Instant, beat: &Heartbeat) {
        let sequence = extend(
            self.newest.map_or(u64::from(beat.sequence), |(newest, ..)| newest),
            beat.sequence,
        );
        if self.newest.is_some_and(|(newest, ..)| sequence <= newest) {
            return;
        }
        self.newest = Some((sequence, beat.sent_us, now));
        self.outbound_loss = beat.loss;
        if beat.echo_us != 0 {
            let elapsed = self
                .clock(now)
                .checked_sub(beat.echo_us)
                .and_then(|us| us.checked_sub(u64::from(beat.hold_us)));
            // An echo of the future or of a minute ago is a lie or a bug, not a round trip.
            if let Some(rtt) = elapsed
                .map(Duration::from_micros)
                .filter(|rtt| *rtt < Duration::from_secs(60))
            {
                self.rtt = Some(self.rtt.map_or(rtt, |smooth| (smooth * 7 + rtt) / 8));
            }
        }
        if self.transits.len() == SAMPLES {
            self.transits.pop_front();
        }
        self.transits
            .push_back((self.clock(now) as i64).wrapping_sub(beat.sent_us as i64));
        self.jitter_p99 = jitter_p99(&self.transits);
    }

    /// Suspicion, once, when the silence has lasted too long. To be called at least with every heartbeat: when it was not, it
    /// is we who were stalled, and what came meanwhile may still wait in the socket.
    pub fn poll_silence(&mut self, now: Instant) -> Option<LifeChange> {
        let looked_after = now.saturating_duration_since(std::mem::replace(&mut self.last_looked, now));
        if looked_after > INTERVAL * 2 {
            self.last_heard += looked_after - INTERVAL;
        }
        if self.suspect || now < self.last_heard + self.silence_allowed() {
            return None;
        }
        self.suspect = true;
        Some(LifeChange::Suspect {
            silent_for: now.saturating_duration_since(self.last_heard),
        })
    }

    pub fn poll_timeout(&self) -> Instant {
        if self.suspect {
            self.next_beat
        } else {
            self.next_beat.min(self.last_heard + self.silence_allowed())
        }
    }

    /// max(150 ms, 3.5 intervals, 4 × jitter p99), at most a second.
    pub fn silence_allowed(&self) -> Duration {
        SILENCE_MIN
            .max(INTERVAL.mul_f64(SILENT_INTERVALS))
            .max(self.jitter_p99 * JITTER_FACTOR)
            .min(SILENCE_MAX)
    }

    pub fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// Smoothed round trip, without the other side's holding time.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// 99th percentile of one-way delay above the shortest of the last 13 s.
    pub fn jitter_p99(&self) -> Duration {
        self.jitter_p99
    }

    /// Own clock in µs, never 0 (0 means "no echo").
    fn clock(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.origin).as_micros() as u64 + 1
    }
}

fn jitter_p99(transits: &VecDeque<i64>) -> Duration {
    let Some(&shortest) = transits.iter().min() else {
        return Duration::ZERO;
    };
    // Of fewer than 100 samples the largest is no percentile yet: drop 1 %, but at least one outlier.
    let mut above: Vec<u64> = transits
        .iter()
        .map(|t| t.saturating_sub(shortest).unsigned_abs())
        .collect();
    let rank = (above.len() - 1).saturating_sub((above.len() / 100).max(1));
    let (_, p99, _) = above.select_nth_unstable(rank);
    Duration::from_micros(*p99)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beats(life: &mut Life, peer: &mut Life, from: Instant, count: u32, delay: Duration) -> Instant {
        let mut at = from;
        for _ in 0..count {
            let beat = peer.poll_beat(at, 0, 0).expect("due every 50 ms");
            let answer = life.poll_beat(at, 0, 0).expect("due every 50 ms");
            life.heard(at + delay);
            life.poll_silence(at + delay);
            life.on_heartbeat(at + delay, &beat);
            peer.on_heartbeat(at + delay, &answer);
            at += INTERVAL;
        }
        at
    }

    #[test]
    fn silence_of_three_and_a_half_intervals_is_suspicious_and_any_packet_ends_it() {
        let start = Instant::now();
        let (mut life, mut peer) = (Life::new(start), Life::new(start));
        let end = beats(&mut life, &mut peer, start, 20, Duration::from_millis(45));
        let last = end - INTERVAL + Duration::from_millis(45);
        for ms in (0..=174).step_by(29) {
            assert_eq!(life.poll_silence(last + Duration::from_millis(ms)), None);
        }
        let suspect = life.poll_silence(last + Duration::from_millis(175));
        assert_eq!(
            suspect,
            Some(LifeChange::Suspect {
                silent_for: Duration::from_millis(175)
            })
        );
        assert_eq!(life.poll_silence(last + Duration::from_secs(5)), None, "said once");
        assert_eq!(life.heard(last + Duration::from_secs(5)), Some(LifeChange::Alive));
        assert!(!life.is_suspect());
    }

    #[test]
    fn our_own_stall_is_not_the_peers_silence() {
        let start = Instant::now();
        let mut life = Life::new(start);
        life.poll_silence(start + INTERVAL);
        assert_eq!(life.poll_silence(start + Duration::from_secs(2)), None);
        assert_eq!(life.poll_silence(start + Duration::from_secs(2) + INTERVAL), None);
        assert!(
            life.poll_silence(start + Duration::from_secs(2) + INTERVAL * 2)
                .is_some()
        );
    }

    #[test]
    fn a_round_trip_excludes_the_time_the_other_side_held_the_heartbeat() {
        let start = Instant::now();
        let (mut life, mut peer) = (Life::new(start), Life::new(start + Duration::from_millis(7)));
        beats(
            &mut life,
            &mut peer,
            start + Duration::from_millis(10),
            40,
            Duration::from_millis(45),
        );
        let rtt = life.rtt().expect("echoed");
        assert!(
            rtt.abs_diff(Duration::from_millis(90)) < Duration::from_millis(1),
            "{rtt:?}"
        );
    }

    #[test]
    fn jitter_widens_the_allowed_silence_up_to_a_second() {
        let start = Instant::now();
        let (mut life, mut peer) = (Life::new(start), Life::new(start));
        let mut at = start;
        for i in 0..300u64 {
            let beat = peer.poll_beat(at, 0, 0).expect("due");
            life.on_heartbeat(at + Duration::from_millis(if i % 10 == 0 { 100 } else { 20 }), &beat);
            at += INTERVAL;
        }
        assert_eq!(life.jitter_p99(), Duration::from_millis(80));
        assert_eq!(life.silence_allowed(), Duration::from_millis(320));
        for i in 0..300u64 {
            let beat = peer.poll_beat(at, 0, 0).expect("due");
            life.on_heartbeat(at + Duration::from_millis(if i % 10 == 0 { 900 } else { 20 }), &beat);
            at += INTERVAL;
        }
        assert_eq!(life.silence_allowed(), SILENCE_MAX);
    }

    #[test]
    fn a_forged_echo_is_not_a_round_trip() {
        let start = Instant::now();
        let mut life = Life::new(start);
        life.on_heartbeat(
            start,
            &Heartbeat {
                sequence: 1,
                echo_us: u64::MAX,
                sent_us: u64::MAX,
                ..Heartbeat::default()
            },
        );
        life.on_heartbeat(
            start,
            &Heartbeat {
                sequence: 2,
                echo_us: 1,
                hold_us: u32::MAX,
                ..Heartbeat::default()
            },
        );
        assert_eq!(life.rtt(), None);
    }
}
