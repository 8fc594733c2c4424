//! What the process of every role does alike: where log lines go, and which of its tasks it cannot go on without. A leaf; called by
//! the binary, by edges and by control planes. What the lines say, and what the tasks do, is theirs.
#![forbid(unsafe_code)]

pub mod log;
mod vital;

pub use vital::Vital;
