//! How every process answers HTTP: the listener with its limits, certificates that are replaced while it runs, and the text of
//! metrics, and what a refusal looks like. What else is answered is the caller's router.
#![forbid(unsafe_code)]

pub mod listener;
pub mod metrics;
pub mod problem;
