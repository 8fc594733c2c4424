//! Receive statistics.
