//! SDP of the single-connection flow.
