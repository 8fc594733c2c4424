//! The one crypto provider of every process: aws-lc-rs.

/// Installs aws-lc-rs as the process-wide provider of rustls and of jsonwebtoken.
///
/// Call it first thing in `main` and in tests. Calling it again is harmless: the first call wins, and both are the same.
pub fn install_crypto() {
    // An `Err` means that somebody was here before; only another aws-lc-rs provider can be linked in (deny.toml bans ring).
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
}
