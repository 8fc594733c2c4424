//! What the control plane, the edges and clients say to each other: the gRPC messages of `proto/`, and the join API as JSON, which
//! control planes and edges answer alike. Messages and their translation only; nothing here is sent or decided.
#![forbid(unsafe_code)]

pub mod join;
mod policy;
pub mod probes;

/// In the answer to Attach: the control plane takes [`v1::Entry`] and acknowledges it.
pub const OUTBOX_HEADER: &str = "meridian-outbox";
/// What [`OUTBOX_HEADER`] says.
pub const OUTBOX_VERSION: &str = "1";

/// Version 1 of the gRPC protocols between edges and the control plane, and between control planes, generated from `proto/`.
pub mod v1 {
    tonic::include_proto!("meridian.v1");
}
