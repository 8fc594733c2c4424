//! Our delay-based controller in quinn's clothes. One per connection; the media task reads the same one.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use meridian_cascade::link::{ControllerConfig, DelayController};
use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

/// The controller of one connection, shared between quinn and the media task. Held only for the few lines of a call.
#[derive(Clone, Debug)]
pub(super) struct SharedController(Arc<Mutex<DelayController>>);

impl SharedController {
    pub(super) fn new(ceiling_bps: u64) -> SharedController {
        let config = ControllerConfig {
            ceiling_bps,
            ..ControllerConfig::default()
        };
        SharedController(Arc::new(Mutex::new(DelayController::new(Instant::now(), config))))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, DelayController> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn factory(&self) -> Arc<dyn ControllerFactory + Send + Sync> {
        Arc::new(Factory(self.clone()))
    }
}

struct Factory(SharedController);

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, _now: Instant, _current_mtu: u16) -> Box<dyn Controller> {
        Box::new(QuinnController(self.0.clone()))
    }
}

struct QuinnController(SharedController);

impl Controller for QuinnController {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _app_limited: bool, rtt: &RttEstimator) {
        self.0.lock().on_ack(now, sent, bytes, rtt.get());
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, _persistent: bool, lost_bytes: u64) {
        self.0.lock().on_loss(now, sent, lost_bytes);
    }

    fn on_mtu_update(&mut self, _new_mtu: u16) {}

    fn window(&self) -> u64 {
        self.0.lock().window()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(QuinnController(self.0.clone()))
    }

    fn initial_window(&self) -> u64 {
        self.window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
