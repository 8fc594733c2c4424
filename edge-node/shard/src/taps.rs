//! Tapped packets on their way to the mesh and to the recorder: gathered for the length of a flush, then handed over without waiting.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use meridian_sfu::{LayerSet, Packet, TrackId};
use meridian_shard_api::{TapBatch, TapConsumer, Tapped};
use tokio::sync::mpsc;

use crate::metrics::{Counters, add};

/// Where tapped packets go. A consumer that is behind loses them, counted: media never waits.
#[derive(Clone)]
pub struct TapSenders {
    pub mesh: mpsc::Sender<TapBatch>,
    pub recorder: mpsc::Sender<TapBatch>,
}

/// Which layers of one track each consumer takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tapping {
    mesh: LayerSet,
    recorder: LayerSet,
}

impl Tapping {
    pub(crate) fn of(self, consumer: TapConsumer) -> LayerSet {
        match consumer {
            TapConsumer::Mesh => self.mesh,
            TapConsumer::Recorder => self.recorder,
        }
    }

    /// Replaces what this consumer takes; answers with the layers that nobody had.
    pub(crate) fn set(&mut self, consumer: TapConsumer, layers: LayerSet) -> LayerSet {
        let before = self.all();
        match consumer {
            TapConsumer::Mesh => self.mesh = layers,
            TapConsumer::Recorder => self.recorder = layers,
        }
        LayerSet(layers.0 & !before.0)
    }

    pub(crate) fn all(self) -> LayerSet {
        self.mesh | self.recorder
    }
}

pub(crate) struct TapSink {
    senders: TapSenders,
    mesh: Vec<Tapped>,
    recorder: Vec<Tapped>,
    counters: Arc<Counters>,
}

impl TapSink {
    pub(crate) fn new(senders: TapSenders, counters: Arc<Counters>) -> TapSink {
        TapSink {
            senders,
            mesh: Vec::new(),
            recorder: Vec::new(),
            counters,
        }
    }

    pub(crate) fn push(&mut self, consumer: TapConsumer, track: TrackId, live: LayerSet, packet: &Packet) {
        let waiting = match consumer {
            TapConsumer::Mesh => &mut self.mesh,
            TapConsumer::Recorder => &mut self.recorder,
        };
        waiting.push(Tapped {
            track,
            layer: packet.layer,
            live,
            packet: packet.clone(),
        });
    }

    pub(crate) fn flush(&mut self) {
        hand_over(&mut self.mesh, &self.senders.mesh, &self.counters.drop_tap);
        hand_over(&mut self.recorder, &self.senders.recorder, &self.counters.drop_recorder);
    }
}

fn hand_over(waiting: &mut Vec<Tapped>, sender: &mpsc::Sender<TapBatch>, dropped: &AtomicU64) {
    if waiting.is_empty() {
        return;
    }
    let packets = std::mem::take(waiting);
    let count = packets.len() as u64;
    if sender.try_send(TapBatch { packets }).is_err() {
        add(dropped, count);
    }
}
