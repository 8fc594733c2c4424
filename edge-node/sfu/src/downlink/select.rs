//! Which layer a subscription gets: the target follows demand and liveness, the current layer follows keyframes.

use crate::allocation::Grant;
use crate::codec::FrameInfo;
use crate::layers::{self, Demand};
use crate::media::{Layer, MediaKind};
use crate::packet::RtpPacket;
use crate::source::Source;
use std::time::{Duration, Instant};

/// Time between keyframe requests of one subscription while it waits: doubles up to the maximum.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub(super) struct Selection {
    pub(super) demand: Demand,
    /// What the subscriber's link has room for.
    pub(super) grant: Grant,
    /// The layer being sent; `None` before the first keyframe and while stopped.
    pub(super) current: Option<Layer>,
    /// The layer that should be sent.
    pub(super) target: Option<Layer>,
    /// The subscriber asked for a keyframe.
    pub(super) decoder_lost: bool,
    /// The layer being sent stopped coming over its link: its next keyframe goes on without a gap in the numbers.
    pub(super) interrupted: bool,
    next_request: Option<Instant>,
    backoff: Duration,
    /// Highest temporal layer sent now, and wanted; `u8::MAX` = all.
    temporal: u8,
    wanted_temporal: u8,
}

impl Selection {
    pub(super) fn new() -> Self {
        Selection {
            demand: Demand::default(),
            grant: Grant::All,
            current: None,
            target: None,
            decoder_lost: false,
            interrupted: false,
            next_request: None,
            backoff: RETRY_MIN,
            temporal: u8::MAX,
            wanted_temporal: u8::MAX,
        }
    }

    /// Nothing is sent until a packet that can start the stream.
    pub(super) fn stop(&mut self) {
        self.current = None;
        self.interrupted = false;
        self.ask_at_once();
    }

    pub(super) fn retarget(&mut self, source: &Source) {
        self.interrupted |= self.current.is_some_and(|current| source.absent().contains(current));
        let target = layers::best(self.max_layer(), source.live());
        if target != self.target {
            self.target = target;
            self.ask_at_once();
        }
        self.wanted_temporal = match (self.demand.max_fps, self.current) {
            // The link has no room for this layer any more, and the keyframe of a lower one is not here yet.
            (_, Some(layer)) if layer > self.max_layer() && Some(layer) > self.target => 0,
            (Some(fps), Some(layer)) => source.temporal_for(layer, fps),
            _ => u8::MAX,
        };
    }

    /// The best layer that is both wished for and granted.
    pub(super) fn max_layer(&self) -> Layer {
        match self.grant {
            Grant::UpTo(layer) => layer.min(self.demand.max_layer),
            Grant::Paused | Grant::All => self.demand.max_layer,
        }
    }

    fn ask_at_once(&mut self) {
        self.next_request = None;
        self.backoff = RETRY_MIN;
    }

    /// `packet` can start the stream and is not of the current layer: take it?
    pub(super) fn may_switch(&mut self, kind: MediaKind, source: &Source, packet: &RtpPacket) -> bool {
        if kind == MediaKind::Audio {
            return true;
        }
        self.retarget(source);
        self.target == Some(packet.layer) || self.current.is_none() && packet.layer <= self.max_layer()
    }

    pub(super) fn switched(&mut self, layer: Layer) {
        self.current = Some(layer);
        self.decoder_lost = false;
        self.interrupted = false;
        self.temporal = self.wanted_temporal;
        self.ask_at_once();
    }

    pub(super) fn poll_keyframe_request(&mut self, now: Instant) -> Option<Layer> {
        if std::mem::take(&mut self.decoder_lost) && self.current.is_some() {
            return self.current;
        }
        if self.current == self.target || self.next_request.is_some_and(|next| now < next) {
            return None;
        }
        self.next_request = Some(now + self.backoff);
        self.backoff = (self.backoff * 2).min(RETRY_MAX);
        self.target
    }

    /// Whether a frame of a VP8 temporal layer is left out. Going down takes effect at the next frame, going up where
    /// the encoder says that it is safe (RFC 7741 §4.2, Y bit).
    pub(super) fn drops_temporal(&mut self, frame: &FrameInfo) -> bool {
        let Some(temporal) = frame.temporal else { return false };
        if frame.start && self.wanted_temporal < self.temporal {
            self.temporal = self.wanted_temporal;
        }
        if temporal <= self.temporal {
            return false;
        }
        if frame.start && frame.switch_up && temporal <= self.wanted_temporal {
            self.temporal = temporal;
            return false;
        }
        true
    }
}
