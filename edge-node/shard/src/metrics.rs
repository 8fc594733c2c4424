//! Counters of the media threads: written by one thread each with relaxed atomics, read by anybody.

use std::sync::atomic::{AtomicU64, Ordering};

use meridian_transport::PeerStats as TransportStats;
use meridian_udp::SendStats;

/// How a metric behaves, in Prometheus' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Counts since the start.
    Counter,
}

/// One line of `/metrics`, not yet written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    pub value: u64,
}

macro_rules! metrics {
    ($($kind:ident $name:ident = $help:literal),* $(,)?) => {
        /// Live counters of one shard.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: AtomicU64,)* }

        /// All shards together: counters since the start, gauges of the present.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct ShardMetrics { $(#[doc = $help] pub $name: u64,)* }

        impl Counters {
            pub(crate) fn add_to(&self, sum: &mut ShardMetrics) {
                $(sum.$name += self.$name.load(Ordering::Relaxed);)*
            }
        }

        impl ShardMetrics {
            /// Everything, for `/metrics`.
            pub fn iter(&self) -> impl Iterator<Item = Metric> {
                [$(Metric { name: stringify!($name), help: $help, kind: Kind::$kind, value: self.$name }),*].into_iter()
            }
        }
    };
}

metrics! {
    Gauge peers = "Transports that exist.",
    Gauge subscriptions = "Subscriptions that exist.",
    Counter packets_in = "Datagrams received.",
    Counter bytes_in = "Bytes of datagrams received.",
    Counter media_in = "RTP packets that entered a track, without duplicates and padding.",
    Counter packets_out = "Datagrams handed to the kernel.",
    Counter bytes_out = "Bytes of datagrams handed to the kernel.",
    Counter media_out = "RTP packets forwarded to subscribers, retransmissions included.",
    Counter retransmissions_out = "Retransmissions sent to subscribers.",
    Counter padding_out = "Packets of padding that asked subscribers' links how much they carry.",
    Counter streams_paused = "Times a stream was paused because its subscriber's link had no room for it.",
    Counter feedback_implausible = "Packets in subscribers' feedback that were never sent or cannot have arrived then.",
    Counter send_calls = "Calls of sendmmsg.",
    Counter send_messages = "Messages handed over in them; packets_out by this is segments per message.",
    Counter gso_refused = "Messages that had to be sent without segmentation.",
    Counter relayed_in = "Datagrams from this edge's TURN server, in process; packets_in counts them too.",
    Counter relayed_out = "Datagrams to this edge's TURN server, in process.",
    Counter drop_relayed = "Datagrams to or from this edge's TURN server whose queue was full.",
    Counter drop_unknown_sender = "Datagrams of no known peer.",
    Counter drop_unknown_stream = "RTP of no published track, or unreadable.",
    Counter drop_malformed = "RTP from links that could not be read.",
    Counter drop_muted = "Packets of muted or paused tracks.",
    Counter drop_send_full = "Datagrams the socket had no room for.",
    Counter drop_send_too_big = "Datagrams longer than the path takes.",
    Counter drop_send_unreachable = "Datagrams to addresses the kernel has no route to.",
    Counter drop_paced = "Video packets that would have waited too long for a slow link.",
    Counter drop_protect = "Packets that SRTP refused to encrypt.",
    Counter drop_cross_shard = "Packets for another shard whose queue was full.",
    Counter drop_tap = "Packets for the mesh whose queue was full.",
    Counter drop_recorder = "Packets for the recorder whose queue was full.",
    Counter drop_commands = "Media of links and data messages that found the shard behind.",
    Counter drop_data_out = "Data messages to clients whose channel was not open, or lossy and full.",
    Counter drop_data_in = "Lossy data messages from clients that the node did not take.",
    Counter data_queues_full = "Clients closed because they did not take their reliable data.",
    Counter data_held = "Times that clients' reliable data was held back because the node was behind.",
    Counter drop_stats = "Statistics events that the node did not take.",
    Counter keyframes_requested = "Keyframes asked of publishers or of the edge they are on.",
    Counter nacks_sent = "NACKs sent to publishers.",
    Counter nacks_received = "NACKs received from subscribers.",
    Counter panics = "Peers closed because handling them panicked.",
    Counter transport_stun_dropped = "STUN that was no authenticated binding request.",
    Counter transport_stray = "Datagrams other than STUN from addresses that never authenticated.",
    Counter transport_dtls_dropped = "DTLS datagrams that no real handshake contains, or too many at once.",
    Counter transport_srtp_replayed = "SRTP packets that had been received before.",
    Counter transport_srtp_unauthentic = "SRTP packets whose tag was wrong.",
    Counter transport_srtp_refused = "SRTP before the keys, malformed, or of too many SSRCs.",
    Counter transport_sctp_refused = "SCTP packets refused before parsing.",
    Counter transport_data_ignored = "Data messages on unknown channels, too long, or not understood.",
    Counter transport_path_moves = "Clients that changed their address and kept their call.",
}

/// Adds to a counter that only this thread writes: no locked instruction is needed.
#[inline]
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl Counters {
    /// Adds what a transport has counted since `before`.
    pub(crate) fn note_transport(&self, before: &TransportStats, now: &TransportStats) {
        add(&self.transport_stun_dropped, now.stun_dropped - before.stun_dropped);
        add(&self.transport_stray, now.stray - before.stray);
        add(&self.transport_dtls_dropped, now.dtls_dropped - before.dtls_dropped);
        add(&self.transport_srtp_replayed, now.srtp_replayed - before.srtp_replayed);
        add(
            &self.transport_srtp_unauthentic,
            now.srtp_unauthentic - before.srtp_unauthentic,
        );
        add(&self.transport_srtp_refused, now.srtp_refused - before.srtp_refused);
        add(
            &self.transport_sctp_refused,
            now.sctp_refused.saturating_sub(before.sctp_refused),
        );
        add(
            &self.transport_data_ignored,
            now.data_ignored.saturating_sub(before.data_ignored),
        );
        add(&self.transport_path_moves, now.path_moves - before.path_moves);
    }

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
