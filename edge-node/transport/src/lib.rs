#![forbid(unsafe_code)]

mod credentials;
pub mod sdp;

pub use credentials::{BadFingerprint, Fingerprint, IceCredentials};
