//! What happened, for `/metrics`. One set per worker, so that counting costs no contention.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::sockets::Transport;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Only ever grows; all relaxed atomics, to be read from any thread.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub $name: AtomicU64),* }

        impl Counters {
            /// Name and value of every counter.
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed))),*]
            }
        }
    };
}

counters! {
    /// By what the client speaks to us over.
    created_udp,
    created_tcp,
    created_tls,
    created_dtls,
    /// For whatever reason: deleted, expired, client gone.
    ended_udp,
    ended_tcp,
    ended_tls,
    ended_dtls,
    /// 486.
    refused_quota,
    /// 508.
    refused_capacity,
    /// 403.
    refused_peer,
    /// 401 to a request that carried credentials.
    refused_credentials,
    /// Answers to requests without valid credentials, Binding included.
    unauthenticated_answers,
    /// Requests left unanswered because their prefix had its share.
    unauthenticated_braked,
    /// What is neither STUN nor ChannelData.
    malformed,
    packets_up,
    bytes_up,
    packets_down,
    bytes_down,
    /// No permission, no channel, no allocation, or a peer that may not be relayed to.
    dropped_forbidden,
    /// The user or the source address is over its bandwidth or packet quota.
    dropped_quota,
}

impl Counters {
    pub(crate) fn created(&self, transport: Transport) -> &AtomicU64 {
        match transport {
            Transport::Udp => &self.created_udp,
            Transport::Tcp => &self.created_tcp,
            Transport::Tls => &self.created_tls,
            Transport::Dtls => &self.created_dtls,
        }
    }

    pub(crate) fn ended(&self, transport: Transport) -> &AtomicU64 {
        match transport {
            Transport::Udp => &self.ended_udp,
            Transport::Tcp => &self.ended_tcp,
            Transport::Tls => &self.ended_tls,
            Transport::Dtls => &self.ended_dtls,
        }
    }
}

/// Only the worker whose set it is may: nobody else writes, so this need not be one indivisible step, which would cost more.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}
