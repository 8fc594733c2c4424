//! Who may do what, as every process decides it: access tokens and their keys, who a client is behind reverse proxies, and how
//! often it may try. A leaf without sockets or a runtime; the one crypto provider is chosen here, because tokens need it everywhere.
//! What a grant *means* is decided where it is used.
#![forbid(unsafe_code)]

mod crypto;
pub mod limits;
pub mod network;
pub mod token;

pub use crypto::install_crypto;
