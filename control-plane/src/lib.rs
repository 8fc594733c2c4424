//! The control plane: the HTTP API and the web app for people, gRPC for edges, meetings in a database, and the choice of an edge for
//! everybody who joins.
//!
//! One [`ControlPlane`] is one replica; several find each other in the registry and share what they do (`replicas`). It holds no media
//! and no room state: with every replica down, meetings go on. The join itself
//! is [`meetings::join::JoinService`], a plain async struct: the HTTP API here and the edges (by gRPC) call the same.
//!
//! An edge reaches it with `EdgeControlClient` of `meridian_wire::v1` over `NodeIdentity::tonic_client`: `attach` (Hello first, then a
//! LoadReport every `Policy.load_interval_ms`; the first command is the `Policy`) and `join` for the HTTP joins that it serves itself.
#![forbid(unsafe_code)]

mod accounts;
pub mod config;
mod database;
pub mod fleet;
mod grpc;
pub mod http;
mod learning;
pub mod meetings;
mod metrics;
mod operators;
mod passwords;
mod placement;
mod replicas;
mod server;

pub use config::ControlPlaneConfig;
pub use database::StoreError;
pub use server::{ControlPlane, StartError};
