//! What operators say about an HTTP listener, the same in every process: `http.bind`, `http.certificate`, `http.private_key`,
//! `http.trusted_proxies`.

use super::Certificate;
use meridian_access::network::Network;
use meridian_config::Problems;
use meridian_pki::PkiError;
use rustls::ServerConfig;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// The keys that all listeners share, borrowed from a process's own settings.
#[derive(Debug, Clone, Copy)]
pub struct HttpKeys<'a> {
    pub bind: SocketAddr,
    pub certificate: Option<&'a Path>,
    pub private_key: Option<&'a Path>,
    pub trusted_proxies: &'a [String],
}

impl HttpKeys<'_> {
    pub fn check(&self, problems: &mut Problems) {
        problems.require_file(self.certificate, "http.certificate");
        problems.require_file(self.private_key, "http.private_key");
        problems.require(
            self.certificate.is_some() == self.private_key.is_some(),
            "http.certificate",
            "http.certificate and http.private_key belong together: set both or neither",
        );
        if let Err(why) = self.may_bind() {
            problems.require(false, "http.bind", why);
        }
        for network in self.trusted_proxies {
            problems.require(
                Network::parse(network).is_some(),
                "http.trusted_proxies",
                format!("`{network}` is neither an address nor a network like 10.0.0.0/8"),
            );
        }
    }

    /// Browsers give cameras and microphones only to HTTPS pages and to loopback; and nobody's passcode should cross a network in the
    /// clear.
    ///
    /// # Errors
    /// Why not, and the way out.
    pub fn may_bind(&self) -> Result<(), String> {
        if self.certificate.is_some() || self.bind.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        Err(format!(
            "{} is reachable from other machines, so it needs HTTPS: browsers refuse cameras on plain HTTP. Set http.certificate and \
             http.private_key to a PEM certificate and its key (for example from an ACME client), or bind to 127.0.0.1 behind a \
             reverse proxy",
            self.bind
        ))
    }

    /// Those of `trusted_proxies` that can be read; [`Self::check`] has complained about the others.
    pub fn proxies(&self) -> Vec<Network> {
        self.trusted_proxies
            .iter()
            .filter_map(|text| Network::parse(text))
            .collect()
    }

    /// The certificate in the named files; `None` without them.
    ///
    /// # Errors
    /// [`PkiError`] naming the file.
    pub fn certificate(&self) -> Result<Option<Arc<Certificate>>, PkiError> {
        let files = self.certificate.zip(self.private_key);
        let read = files.map(|(chain, key)| Certificate::read(chain, key));
        Ok(read.transpose()?.map(Arc::new))
    }
}

/// HTTPS with that certificate. `alpn` is offered beside `http/1.1`.
///
/// # Errors
/// As [`Certificate::tls`].
pub fn https(certificate: &Certificate, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, PkiError> {
    certificate.tls(&[&[b"http/1.1".as_slice()], alpn].concat())
}
