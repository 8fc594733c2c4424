//! A network in a box for tests: seeded delay, jitter, loss, reordering, duplication, rate limits with a queue, MTU and cuts.
//!
//! [`Path`] is one direction as a state machine in virtual time, for sans-IO crates. [`Relay`] puts two of them between real
//! UDP sockets on loopback. Not here: namespaces and TUN devices (later), and anything that leaves this machine.
#![forbid(unsafe_code)]

mod path;
mod relay;

pub use path::{Impairment, Path, PathCounters};
pub use relay::{Relay, RelayError};
