//! What happened, for `/metrics`. One set per worker, so that counting costs no contention.

use std::sync::atomic::{AtomicU64, Ordering};

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
    allocations_created,
    /// For whatever reason: deleted, expired, client gone.
    allocations_ended,
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

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
