//! HTTP: what browsers and scripts talk to.

mod network;

pub use network::Network;
