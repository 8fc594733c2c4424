//! What operators say about an HTTP listener, the same in every process: `http.bind`, `http.certificate`, `http.private_key`,
//! `http.trusted_proxies`.

use crate::config::Problems;
use crate::network::Network;
use crate::pki::{PkiError, parse_certificates};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
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

    /// The TLS configuration of the named files; `None` without them. `alpn` is offered beside `http/1.1`.
    ///
    /// # Errors
    /// [`PkiError`] naming the file.
    pub fn tls(&self, alpn: &[&[u8]]) -> Result<Option<Arc<ServerConfig>>, PkiError> {
        let files = self.certificate.zip(self.private_key);
        let protocols = [&[b"http/1.1".as_slice()], alpn].concat();
        files
            .map(|(certificate, key)| tls_config(certificate, key, &protocols))
            .transpose()
    }
}

/// Reads a certificate chain and its key, as clients without certificates are served with.
///
/// # Errors
/// [`PkiError`] naming the file.
pub fn tls_config(certificate: &Path, key: &Path, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, PkiError> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|source| PkiError::File {
            path: path.to_owned(),
            source,
        })
    };
    let chain = parse_certificates(&certificate.display().to_string(), &read(certificate)?)?;
    let key_pem = read(key)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| PkiError::Invalid {
        what: key.display().to_string(),
        why: error.to_string(),
    })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}
