//! The control plane: the HTTP API and the web app for people, gRPC for edges, meetings in a database, and the choice of an edge for
//! everybody who joins.
//!
//! One [`ControlPlane`] is one replica. It holds no media and no room state: with every replica down, meetings go on. The join itself
//! is [`join::JoinService`], a plain async struct: the HTTP API here and the edges (by gRPC) call the same.
//!
//! Shapes (being filled in):
//! ```text
//! ControlPlane::start(config: ControlPlaneConfig, registry: SharedRegistry) -> Result<ControlPlane, StartError>   (async)
//!     loads or creates ca.pem/ca.key, token.key and meridian.db in config.data_directory; binds HTTP and gRPC (port 0 works)
//! .http_address() .grpc_address() -> SocketAddr      .http_url() -> String
//! .certificate_authority() -> &CertificateAuthority   so `meridian dev` issues node identities: .issue_node("fra-1", &[])
//! .key_ring() -> KeyRing                              what edges get as Policy (token key + API keys)
//! .joins() -> &Arc<JoinService>                       JoinService::join(v1::JoinRequest) -> Result<v1::JoinGranted, v1::JoinRefused>
//! .shutdown().await
//! ```
//! An edge: `v1::edge_control_client::EdgeControlClient::new(Endpoint::from_shared("https://host:8090")?
//! .tls_config(identity.tonic_client())?.connect_lazy())`, `.attach(stream of EdgeReport)`, first Hello, then LoadReport every
//! `Policy.load_interval_ms`; `.join(JoinRequest)` for HTTP joins it serves.
#![forbid(unsafe_code)]

pub mod config;
pub mod http;

pub use config::ControlPlaneConfig;
