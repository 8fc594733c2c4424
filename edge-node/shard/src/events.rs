//! The way out for events: never blocks the media thread, never loses a change of state.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use meridian_shard_api::Event;
use meridian_transport::Channel;

use crate::metrics::{Counters, add};

/// Events waiting for the node, beyond which lossy data is dropped.
const DATA_BACKLOG_MAX: usize = 4_096;
/// And from which on whoever sends reliable data is held back.
const RELIABLE_BACKLOG: usize = 64;

/// Changes of state that the full channel does not take wait here, in order, until it does. Their number is bounded by
/// what the node itself created (peers, tracks, subscriptions); reliable data is held back at its source, other data capped, statistics are dropped.
pub(crate) struct EventSink {
    channel: mpsc::Sender<Event>,
    backlog: VecDeque<Event>,
    counters: Arc<Counters>,
}

impl EventSink {
    pub(crate) fn new(channel: mpsc::Sender<Event>, counters: Arc<Counters>) -> EventSink {
        EventSink {
            channel,
            backlog: VecDeque::new(),
            counters,
        }
    }

    pub(crate) fn send(&mut self, event: Event) {
        if self.backlog.is_empty() {
            match self.channel.try_send(event) {
                Ok(()) | Err(TrySendError::Closed(_)) => {}
                Err(TrySendError::Full(event)) => self.overflow(event),
            }
        } else {
            self.overflow(event);
        }
    }

    fn overflow(&mut self, event: Event) {
        match event {
            Event::AudioLevels(_) | Event::PeerStats { .. } => add(&self.counters.drop_stats, 1),
            Event::Data { channel, .. } if channel != Channel::Reliable && self.backlog.len() >= DATA_BACKLOG_MAX => {
                add(&self.counters.drop_data_in, 1);
            }
            event => self.backlog.push_back(event),
        }
    }

    /// Tries to hand over what waits. Call on every tick.
    pub(crate) fn retry(&mut self) {
        while let Some(event) = self.backlog.pop_front() {
            match self.channel.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(event)) => {
                    self.backlog.push_front(event);
                    return;
                }
                Err(TrySendError::Closed(_)) => {
                    self.backlog.clear();
                    return;
                }
            }
        }
    }

    /// Whoever sends reliable data should wait until there is no backlog.
    pub(crate) fn is_behind(&self) -> bool {
        self.backlog.len() >= RELIABLE_BACKLOG
    }

    pub(crate) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use meridian_shard_api::{PeerId, PeerStats};
    use std::sync::atomic::Ordering;

    const PEER: PeerId = PeerId { shard: 0, index: 1 };

    #[test]
    fn changes_of_state_survive_a_full_channel_in_order_and_statistics_do_not() {
        let (tx, mut rx) = mpsc::channel(1);
        let counters = Arc::new(Counters::default());
        let mut sink = EventSink::new(tx, counters.clone());
        let data = || Event::Data {
            peer: PEER,
            channel: Channel::Lossy,
            payload: Bytes::new(),
            binary: true,
        };
        sink.send(Event::ChannelOpen {
            peer: PEER,
            channel: Channel::Reliable,
        });
        sink.send(Event::ChannelOpen {
            peer: PEER,
            channel: Channel::Lossy,
        });
        sink.send(Event::PeerStats {
            peer: PEER,
            stats: PeerStats::default(),
        });
        for _ in 0..DATA_BACKLOG_MAX + 5 {
            sink.send(data());
        }
        sink.send(Event::ChannelOpen {
            peer: PEER,
            channel: Channel::DataTrack,
        });
        assert_eq!(counters.drop_stats.load(Ordering::Relaxed), 1);
        assert_eq!(counters.drop_data_in.load(Ordering::Relaxed), 6);
        let mut opened = Vec::new();
        while let Ok(event) = rx.try_recv() {
            if let Event::ChannelOpen { channel, .. } = event {
                opened.push(channel);
            }
            sink.retry();
        }
        assert_eq!(opened, [Channel::Reliable, Channel::Lossy, Channel::DataTrack]);
        assert!(!sink.has_backlog());
    }
}
