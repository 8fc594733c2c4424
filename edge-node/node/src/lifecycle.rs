//! The life of an edge, in the one place that every part asks: whether it takes new people, is on its way out, or has stopped.
//!
//! Who may change it: the control plane wishes for [`Stage::Active`], [`Stage::Cordoned`] or [`Stage::Draining`] and may change its mind; the
//! process that ends goes on to [`Stage::Leaving`], [`Stage::Stopped`] and [`Stage::Closed`], and from there nothing leads back.

use std::time::{Duration, Instant};

use meridian_process::Vital;
use meridian_registry::RegistrationState;
use meridian_registry::nodes::NodeState;
use tokio::sync::watch;

/// Deadlines this close are one, told twice.
const SAME_DEADLINE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Takes whoever is sent here.
    Active,
    /// Gets nobody new; who is here stays.
    Cordoned,
    /// Gets nobody new; who is still here at `until` is sent elsewhere. `None`: everybody may stay until they go.
    Draining { until: Option<Instant> },
    /// The process is about to end: everybody is sent elsewhere as soon as nobody is sent here any more.
    Leaving,
    /// Rooms, media and mesh are gone. TURN may still relay between others, and HTTP tells how far that is.
    Stopped,
    /// Nobody needs the HTTP port any more.
    Closed,
}

/// What moves an edge from one stage to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Wish(Wish),
    Leave,
    Stop,
    Close,
}

/// What the control plane may want of an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Active,
    Cordoned,
    Draining { until: Option<Instant> },
}

impl Stage {
    fn after(self, step: Step) -> Stage {
        match (self, step) {
            (Stage::Active | Stage::Cordoned | Stage::Draining { .. }, Step::Wish(wish)) => match wish {
                Wish::Active => Stage::Active,
                Wish::Cordoned => Stage::Cordoned,
                Wish::Draining { until } => Stage::Draining { until },
            },
            (Stage::Active | Stage::Cordoned | Stage::Draining { .. }, Step::Leave) => Stage::Leaving,
            (Stage::Closed, _) | (_, Step::Close) => Stage::Closed,
            (_, Step::Stop) => Stage::Stopped,
            // Who ends has said so for good.
            (Stage::Leaving | Stage::Stopped, Step::Wish(_) | Step::Leave) => self,
        }
    }

    /// Why nobody new should be sent to an edge at this stage, if so.
    pub(crate) fn refuses(self) -> Option<&'static str> {
        match self {
            Stage::Active => None,
            Stage::Cordoned => Some("cordoned"),
            Stage::Draining { .. } => Some("draining"),
            Stage::Leaving | Stage::Stopped | Stage::Closed => Some("stopping"),
        }
    }

    /// Whether those who are here are, or will be, sent elsewhere: what begins here now would not last.
    pub(crate) fn is_emptying(self) -> bool {
        !matches!(self, Stage::Active | Stage::Cordoned)
    }

    /// As the registry calls it.
    pub(crate) fn node_state(self) -> NodeState {
        match self {
            Stage::Active => NodeState::Active,
            Stage::Cordoned => NodeState::Cordoned,
            Stage::Draining { .. } => NodeState::Draining,
            Stage::Leaving | Stage::Stopped | Stage::Closed => NodeState::Leaving,
        }
    }
}

pub(crate) struct Lifecycle {
    stage: watch::Sender<Stage>,
    /// [`Stage::Closed`], as listeners wait for it.
    closed: watch::Sender<bool>,
    /// What the registry makes of this edge.
    registration: watch::Sender<RegistrationState>,
    /// Parts without which nobody is served well.
    vital: Vital,
}

impl Default for Lifecycle {
    fn default() -> Lifecycle {
        Lifecycle {
            stage: watch::Sender::new(Stage::Active),
            closed: watch::Sender::new(false),
            registration: watch::Sender::new(RegistrationState::Starting),
            vital: Vital::default(),
        }
    }
}

impl Lifecycle {
    pub(crate) fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    pub(crate) fn stages(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    /// What the control plane wants; too late for an edge that is leaving.
    pub(crate) fn wish(&self, wish: Wish) {
        self.step(Step::Wish(wish));
    }

    /// Whether the edge is what the control plane wants already. The same deadline, told twice, is not the same instant.
    pub(crate) fn is_as(&self, wish: Wish) -> bool {
        match (self.stage(), wish) {
            (Stage::Active, Wish::Active) | (Stage::Cordoned, Wish::Cordoned) => true,
            (Stage::Draining { until: Some(ours) }, Wish::Draining { until: Some(theirs) }) => {
                let apart = ours.max(theirs) - ours.min(theirs);
                apart < SAME_DEADLINE
            }
            (Stage::Draining { until }, Wish::Draining { until: wished }) => until == wished,
            _ => false,
        }
    }

    pub(crate) fn leave(&self) {
        self.vital.stopping();
        self.step(Step::Leave);
    }

    pub(crate) fn stop(&self) {
        self.step(Step::Stop);
    }

    pub(crate) fn close(&self) {
        self.step(Step::Close);
        self.closed.send_replace(true);
    }

    /// Whether everybody has been sent away for good.
    pub(crate) fn is_stopped(&self) -> bool {
        matches!(self.stage(), Stage::Stopped | Stage::Closed)
    }

    /// Once this edge has begun to stop.
    pub(crate) async fn leaving(&self) {
        let began = |stage: &Stage| matches!(stage, Stage::Leaving | Stage::Stopped | Stage::Closed);
        let _ = self.stages().wait_for(began).await;
    }

    pub(crate) async fn stopped(&self) {
        let is_over = |stage: &Stage| matches!(stage, Stage::Stopped | Stage::Closed);
        let _ = self.stages().wait_for(is_over).await;
    }

    /// True once nobody needs the HTTP port any more.
    pub(crate) fn closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    /// Waits until the deadline of a drain has come that nobody has called off or moved; at once if it has come already. Gives that drain.
    pub(crate) async fn drained(&self) -> Stage {
        let mut stages = self.stages();
        loop {
            let stage = *stages.borrow_and_update();
            let deadline = async {
                match stage {
                    Stage::Draining { until: Some(until) } => tokio::time::sleep_until(until.into()).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                () = deadline => return stage,
                // The sender is `self`'s: it is there.
                _ = stages.changed() => {}
            }
        }
    }

    pub(crate) fn registration(&self) -> RegistrationState {
        *self.registration.borrow()
    }

    #[cfg(test)]
    pub(crate) fn registrations(&self) -> watch::Receiver<RegistrationState> {
        self.registration.subscribe()
    }

    pub(crate) fn set_registration(&self, registration: RegistrationState) {
        self.registration.send_replace(registration);
    }

    pub(crate) fn vital(&self) -> &Vital {
        &self.vital
    }

    fn step(&self, step: Step) {
        self.stage.send_if_modified(|stage| {
            let next = stage.after(step);
            let changed = next != *stage;
            *stage = next;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::{Context, Waker};

    use super::*;

    const DRAINING: Stage = Stage::Draining { until: None };

    #[test]
    fn the_control_plane_may_change_its_mind_until_the_edge_leaves() {
        let later = Instant::now() + Duration::from_secs(60);
        let wishes = [
            (Wish::Active, Stage::Active),
            (Wish::Cordoned, Stage::Cordoned),
            (Wish::Draining { until: None }, DRAINING),
            (
                Wish::Draining { until: Some(later) },
                Stage::Draining { until: Some(later) },
            ),
        ];
        for from in wishes.map(|(_, stage)| stage) {
            for (wish, expected) in wishes {
                assert_eq!(from.after(Step::Wish(wish)), expected, "{from:?}");
            }
        }
        for from in [Stage::Leaving, Stage::Stopped, Stage::Closed] {
            for (wish, _) in wishes {
                assert_eq!(from.after(Step::Wish(wish)), from, "{wish:?} comes too late");
            }
        }
    }

    #[test]
    fn who_ends_goes_one_way_only_and_may_skip_stages() {
        let all = [
            Stage::Active,
            Stage::Cordoned,
            DRAINING,
            Stage::Leaving,
            Stage::Stopped,
            Stage::Closed,
        ];
        let after = |step: Step| all.map(|stage| stage.after(step));
        let (leaving, stopped, closed) = (Stage::Leaving, Stage::Stopped, Stage::Closed);
        assert_eq!(
            after(Step::Leave),
            [leaving, leaving, leaving, leaving, stopped, closed]
        );
        assert_eq!(after(Step::Stop), [stopped, stopped, stopped, stopped, stopped, closed]);
        assert_eq!(after(Step::Close), [closed; 6]);
    }

    #[test]
    fn only_an_active_edge_refuses_nobody_and_an_emptying_one_begins_nothing() {
        let all = [
            (Stage::Active, None, false, NodeState::Active),
            (Stage::Cordoned, Some("cordoned"), false, NodeState::Cordoned),
            (DRAINING, Some("draining"), true, NodeState::Draining),
            (Stage::Leaving, Some("stopping"), true, NodeState::Leaving),
            (Stage::Stopped, Some("stopping"), true, NodeState::Leaving),
            (Stage::Closed, Some("stopping"), true, NodeState::Leaving),
        ];
        for (stage, refuses, emptying, registered_as) in all {
            assert_eq!(stage.refuses(), refuses, "{stage:?}");
            assert_eq!(stage.is_emptying(), emptying, "{stage:?}");
            assert_eq!(stage.node_state(), registered_as, "{stage:?}");
        }
    }

    #[test]
    fn a_wish_that_is_fulfilled_is_recognised_also_by_a_deadline_that_was_told_again() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let until = |until| Wish::Draining { until: Some(until) };
        let lifecycle = Lifecycle::default();
        assert!(lifecycle.is_as(Wish::Active) && !lifecycle.is_as(Wish::Cordoned));
        lifecycle.wish(until(now + 60 * second));
        assert!(lifecycle.is_as(until(now + 61 * second)) && lifecycle.is_as(until(now + 59 * second)));
        for other in [until(now + 90 * second), Wish::Draining { until: None }, Wish::Active] {
            assert!(!lifecycle.is_as(other), "{other:?}");
        }
    }

    #[tokio::test]
    async fn whoever_waits_for_a_stage_hears_of_it_also_when_it_was_skipped() {
        let lifecycle = Arc::new(Lifecycle::default());
        assert!(!lifecycle.is_stopped());
        let waiting = [lifecycle.clone(), lifecycle.clone()].map(|of| {
            tokio::spawn(async move {
                tokio::join!(of.leaving(), of.stopped());
            })
        });
        lifecycle.stop();
        for waits in waiting {
            waits.await.unwrap();
        }
        assert!(lifecycle.is_stopped() && !*lifecycle.closed().borrow());
        lifecycle.close();
        assert!(*lifecycle.closed().borrow());
        lifecycle.wish(Wish::Active);
        assert_eq!(lifecycle.stage(), Stage::Closed);
    }

    #[tokio::test]
    async fn a_drains_deadline_counts_unless_it_is_called_off() {
        let lifecycle = Lifecycle::default();
        let mut waits = std::pin::pin!(lifecycle.drained());
        let now = Instant::now();
        for wish in [
            Wish::Draining { until: None },
            Wish::Draining {
                until: Some(now + Duration::from_secs(3600)),
            },
            Wish::Active,
        ] {
            lifecycle.wish(wish);
            let mut context = Context::from_waker(Waker::noop());
            assert!(waits.as_mut().poll(&mut context).is_pending(), "{wish:?}");
        }
        lifecycle.wish(Wish::Draining { until: Some(now) });
        assert_eq!(waits.await, Stage::Draining { until: Some(now) });
    }
}
