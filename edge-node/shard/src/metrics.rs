//! Counters of the media threads: written by one thread each with relaxed atomics, read by anybody.

use std::sync::atomic::{AtomicU64, Ordering};

use meridian_udp::SendStats;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Live counters of one shard.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: AtomicU64,)* }

        /// Counters since the start, summed over the shards (except gauges, which are sums of the present).
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct ShardMetrics { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            pub(crate) fn add_to(&self, sum: &mut ShardMetrics) {
                $(sum.$name += self.$name.load(Ordering::Relaxed);)*
            }
        }

        impl ShardMetrics {
            /// Name and value of every counter, for `/metrics`.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }
    };
}

counters! {
    /// Gauge: transports that exist.
    peers,
    /// Gauge: subscriptions that exist.
    subscriptions,
    /// Datagrams received.
    packets_in,
    bytes_in,
    /// RTP packets that entered a track (duplicates and padding not counted).
    media_in,
    /// Datagrams handed to the kernel.
    packets_out,
    bytes_out,
    /// RTP packets forwarded to subscribers, retransmissions included.
    media_out,
    /// Retransmissions sent to subscribers.
    retransmissions_out,
    /// `sendmmsg` calls.
    send_calls,
    /// Messages handed over in them; `packets_out / send_messages` = segments per message.
    send_messages,
    /// Messages that had to be sent without segmentation.
    gso_refused,
    /// Datagrams of no known peer.
    drop_unknown_sender,
    /// RTP that belongs to no published track, or could not be parsed.
    drop_unknown_stream,
    drop_malformed,
    /// Packets of muted or paused tracks.
    drop_muted,
    /// Datagrams the socket had no room for.
    drop_send_full,
    drop_send_too_big,
    drop_send_unreachable,
    /// SRTP refused to encrypt.
    drop_protect,
    /// Packets for another shard whose queue was full.
    drop_cross_shard,
    /// Packets for the mesh whose queue was full.
    drop_tap,
    /// `RemoteMedia` packets and `SendData` messages that found the shard behind.
    drop_commands,
    /// Data messages to clients whose channel was not open or full.
    drop_data_out,
    /// Data messages from clients that the node did not take.
    drop_data_in,
    /// Statistics events that the node did not take.
    drop_stats,
    keyframes_requested,
    nacks_sent,
    nacks_received,
    /// Peers closed because handling them panicked.
    panics,
}

/// Adds to a counter that only this thread writes: no locked instruction is needed.
#[inline]
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl Counters {
    /// Brings the sending counters up to a socket's totals.
    pub(crate) fn note_send(&self, before: &SendStats, after: &SendStats) {
        add(&self.packets_out, after.datagrams - before.datagrams);
        add(&self.bytes_out, after.bytes - before.bytes);
        add(&self.send_calls, after.calls - before.calls);
        add(&self.send_messages, after.messages - before.messages);
        add(&self.gso_refused, after.gso_refused - before.gso_refused);
        add(&self.drop_send_full, after.dropped_full - before.dropped_full);
        add(&self.drop_send_too_big, after.dropped_too_big - before.dropped_too_big);
        add(
            &self.drop_send_unreachable,
            after.dropped_unreachable - before.dropped_unreachable,
        );
    }
}
