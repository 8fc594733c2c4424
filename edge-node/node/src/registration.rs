//! Keeps the edge's record in the registry. An edge that could let nobody in is not announced: whoever was sent to it would be refused.

use std::sync::Arc;
use std::time::Duration;

use meridian_registry::SharedRegistry;
use meridian_registry::nodes::announce;

use crate::admission::Admission;
use crate::lifecycle::Lifecycle;
use crate::profile::Profile;

/// Runs until the edge has stopped; then the record is withdrawn.
pub(crate) async fn keep(
    profile: Arc<Profile>,
    lifecycle: Arc<Lifecycle>,
    admission: Arc<Admission>,
    registry: SharedRegistry,
    lease: Duration,
) {
    tokio::select! {
        () = admission.can_admit() => {}
        () = lifecycle.stopped() => return,
    }
    let mut stages = lifecycle.stages();
    let state = stages.borrow_and_update().node_state();
    let mut registration = announce(registry, profile.record(state), lease);
    let mut standing = registration.state();
    loop {
        lifecycle.set_registration(*standing.borrow_and_update());
        tokio::select! {
            Ok(()) = standing.changed() => {}
            Ok(()) = stages.changed() => registration.set_state(stages.borrow_and_update().node_state()),
            () = lifecycle.stopped() => break,
        }
    }
    registration.leave().await;
}
