//! What the control plane and the edges agree on, and nothing else: access tokens, the certificate authority of the mesh,
//! the configuration loader, how a client's address is told, the HTTP listener, how metrics are written, and the gRPC messages between them. A leaf: it depends
//! on no other crate of the workspace, holds no state, and opens no socket but the one by which a new edge enrols. Called by
//! every process.
#![forbid(unsafe_code)]

pub mod config;
pub mod crypto;
pub mod enrolment;
pub mod join;
pub mod limits;
pub mod listener;
pub mod metrics;
pub mod network;
pub mod pki;
pub mod probes;
pub mod token;

/// Version 1 of the gRPC protocols between edges and the control plane, and between control planes, generated from `proto/`.
pub mod v1 {
    tonic::include_proto!("meridian.v1");
}

pub use crypto::install_crypto;
