//! Empties this edge in small steps: a few people every half second, as many as it takes to be done well before the deadline and no more
//! than the rest of the mesh takes in at once. Whether there is room for each, the control plane says (`rooms/relocation.rs`); who is still
//! here at the deadline is sent away with everybody else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use meridian_conference::Input;

use crate::handles::{LiveRooms, ToRoom};
use crate::lifecycle::{Lifecycle, Stage};

const TICK: Duration = Duration::from_millis(500);
/// People of one tick: 50 a second are joins that one other edge takes without being noticed.
const STEP_MAX: usize = 25;

/// Moves people for as long as the control plane wants this edge emptied.
pub(crate) async fn follow(lifecycle: Arc<Lifecycle>, live: Arc<LiveRooms>) {
    let mut stages = lifecycle.stages();
    loop {
        let stage = *stages.borrow_and_update();
        match stage {
            Stage::Draining { until: Some(until) } => {
                tracing::info!("people are moved to other edges");
                let emptying = async {
                    tokio::join!(steps(&live, until), lifecycle.drained());
                    tracing::info!("the drain's time is over: whoever is left is sent elsewhere");
                    live.send_away();
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    () = emptying => {}
                    _ = stages.changed() => {}
                }
                if !lifecycle.stage().is_emptying() {
                    tracing::info!("the drain was called off: whoever is here stays");
                    live.tell_all(|| Input::Stay);
                }
            }
            Stage::Stopped | Stage::Closed => return,
            _ if stages.changed().await.is_err() => return,
            _ => {}
        }
    }
}

/// Moves people for this long, or until nobody is left.
pub(crate) async fn empty(live: &LiveRooms, within: Duration) {
    if within.is_zero() {
        return;
    }
    let until = Instant::now() + within;
    tokio::select! {
        () = steps(live, until) => {}
        () = live.emptied() => {}
    }
}

/// A step every tick until the deadline.
async fn steps(live: &LiveRooms, until: Instant) {
    let mut ticks = tokio::time::interval(TICK);
    let done_by = done_by(Instant::now(), until);
    loop {
        ticks.tick().await;
        let now = Instant::now();
        if now >= until {
            return;
        }
        let rooms: Vec<_> = live.all().into_iter().map(|room| (room.staying(), room)).collect();
        let left = rooms.iter().map(|(staying, _)| staying).sum();
        let mut people = step(left, done_by.saturating_duration_since(now));
        for (staying, room) in rooms {
            let here = staying.min(people);
            if here > 0 && room.try_send(ToRoom::Input(Input::MoveAway { people: here })) {
                people -= here;
            }
        }
    }
}

/// When all are to be gone: after three quarters of the time, because some need a second try.
fn done_by(now: Instant, until: Instant) -> Instant {
    now + until.saturating_duration_since(now) * 3 / 4
}

/// How many of those who are `left` go now, if all are to be gone within this time.
fn step(left: usize, time: Duration) -> usize {
    let ticks = usize::try_from(time.as_millis() / TICK.as_millis()).unwrap_or(usize::MAX);
    left.div_ceil(ticks.max(1)).min(STEP_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets drains run in virtual time: `takes` says how many of those who are told can go at a tick. Gives what was asked at each.
    fn drain(people: usize, within: Duration, takes: impl Fn(usize) -> usize) -> (Vec<usize>, usize) {
        let start = Instant::now();
        let (mut left, mut asked, mut now) = (people, Vec::new(), start);
        let done_by = done_by(start, start + within);
        while now < start + within && left > 0 {
            let step = step(left, done_by.saturating_duration_since(now));
            asked.push(step);
            left -= step.min(takes(asked.len()));
            now += TICK;
        }
        (asked, left)
    }

    #[test]
    fn people_go_in_even_small_steps_and_are_gone_before_the_deadline() {
        let minute = Duration::from_secs(60);
        let (asked, left) = drain(1_000, minute, |_| usize::MAX);
        assert_eq!(left, 0);
        assert!(asked.len() <= 90, "three quarters of 120 ticks, not {}", asked.len());
        let (least, most) = (asked.iter().min().unwrap(), asked.iter().max().unwrap());
        assert!(*most <= 12 && most - least <= 2, "{least} to {most}");
        let (asked, _) = drain(3, minute, |_| usize::MAX);
        assert_eq!(asked, [1, 1, 1], "few are moved one by one and soon");
    }

    #[test]
    fn no_step_is_larger_than_others_take_in_at_once() {
        let (asked, left) = drain(10_000, Duration::from_secs(10), |_| usize::MAX);
        assert!(asked.iter().all(|step| *step == STEP_MAX));
        assert_eq!(left, 10_000 - 20 * STEP_MAX, "the deadline sends the rest away");
        let (asked, _) = drain(10, Duration::from_millis(1), |_| usize::MAX);
        assert_eq!(asked, [10]);
    }

    #[test]
    fn who_finds_no_room_is_asked_again_and_the_pace_rises() {
        // Nobody has room during the first half.
        let (asked, left) = drain(
            200,
            Duration::from_secs(60),
            |tick| if tick <= 60 { 0 } else { usize::MAX },
        );
        assert_eq!(left, 0);
        assert!(
            asked[60] > asked[0] && asked[60] <= STEP_MAX,
            "{} then {}",
            asked[0],
            asked[60]
        );
    }
}
