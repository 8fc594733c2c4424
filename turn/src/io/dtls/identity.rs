//! What the server is to DTLS clients: certificate, key and timing.

use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use dimpl::crypto::aws_lc_rs::default_provider;
use dimpl::crypto::{CryptoProvider, HashAlgorithm, HmacProvider};
use dimpl::{Config, CryptoError, Dtls, DtlsCertificate};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::COOKIE_LEN;

/// A handshake takes at most this long.
pub(super) const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// One certificate and its key, for TURN over DTLS.
pub struct DtlsIdentity {
    /// What new sessions are shown.
    certificate: RwLock<Arc<DtlsCertificate>>,
    config: Arc<Config>,
}

#[derive(Debug, thiserror::Error)]
pub enum DtlsIdentityError {
    #[error("the certificate cannot be read: {0}")]
    Certificate(rustls::pki_types::pem::Error),
    #[error("the private key cannot be read: {0}")]
    Key(rustls::pki_types::pem::Error),
    #[error(
        "TURN over DTLS needs an ECDSA P-256 key; this one is of another kind. Get a certificate for such a key (certbot: --key-type ecdsa \
         --elliptic-curve secp256r1), or leave turn.dtls empty"
    )]
    NotP256,
    #[error("the first certificate of the chain is not that of the private key")]
    Mismatch,
    #[error("{0}")]
    Engine(#[from] dimpl::Error),
}

impl DtlsIdentity {
    /// From a chain, of which the first certificate is shown (dimpl sends no more than one), and its key, both as PEM.
    pub fn from_pem(chain: &str, key: &str) -> Result<DtlsIdentity, DtlsIdentityError> {
        DtlsIdentity::with(parse_pem(chain, key)?)
    }

    /// From DER; the key as PKCS #8 or SEC 1.
    pub fn new(certificate: &[u8], key: &[u8]) -> Result<DtlsIdentity, DtlsIdentityError> {
        DtlsIdentity::with(checked(certificate, key)?)
    }

    fn with(certificate: DtlsCertificate) -> Result<DtlsIdentity, DtlsIdentityError> {
        let provider = CryptoProvider {
            hmac_provider: &CookieHmac,
            ..default_provider()
        };
        let config = Config::builder()
            .with_crypto_provider(provider)
            .mtu(1_200)
            // Ours says for whom it was made, and costs no memory; see `CookieHmac`.
            .use_server_cookie(true)
            .require_client_certificate(false)
            .flight_start_rto(Duration::from_millis(500))
            .flight_retries(4)
            .handshake_timeout(HANDSHAKE_MAX)
            .build()?;
        Ok(DtlsIdentity {
            certificate: RwLock::new(Arc::new(certificate)),
            config: Arc::new(config),
        })
    }

    /// Shows another certificate to sessions from now on. If it will not do, which is logged, everything stays as it is.
    pub fn renew(&self, chain: &str, key: &str) -> bool {
        match parse_pem(chain, key) {
            Ok(certificate) => {
                *self.certificate.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(certificate);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the new certificate is of no use for DTLS; the one in memory goes on being shown");
                false
            }
        }
    }

    pub(super) fn engine(&self, now: std::time::Instant) -> Dtls {
        let certificate = self.certificate.read().unwrap_or_else(PoisonError::into_inner).clone();
        Dtls::new_12(self.config.clone(), DtlsCertificate::clone(&certificate), now)
    }
}

fn parse_pem(chain: &str, key: &str) -> Result<DtlsCertificate, DtlsIdentityError> {
    let certificate = CertificateDer::from_pem_slice(chain.as_bytes()).map_err(DtlsIdentityError::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(DtlsIdentityError::Key)?;
    checked(&certificate, key.secret_der())
}

fn checked(certificate: &[u8], key: &[u8]) -> Result<DtlsCertificate, DtlsIdentityError> {
    let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, key)
        .or_else(|_| EcdsaKeyPair::from_private_key_der(algorithm, key))
        .map_err(|_| DtlsIdentityError::NotP256)?;
    // The uncompressed point stands as it is in the certificate.
    let point = pair.public_key().as_ref();
    if !certificate.windows(point.len()).any(|window| window == point) {
        return Err(DtlsIdentityError::Mismatch);
    }
    Ok(DtlsCertificate {
        certificate: certificate.to_vec(),
        private_key: key.to_vec(),
    })
}

impl fmt::Debug for DtlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DtlsIdentity")
    }
}

thread_local! {
    /// The cookie of the ClientHello that is being handled: it was verified before.
    static VERIFIED: Cell<Option<[u8; COOKIE_LEN]>> = const { Cell::new(None) };
}

/// Runs `call` with dimpl taking `cookie` for right.
pub(super) fn with_cookie<T>(cookie: [u8; COOKIE_LEN], call: impl FnOnce() -> T) -> T {
    VERIFIED.set(Some(cookie));
    let result = call();
    VERIFIED.set(None);
    result
}

/// dimpl makes cookies of a secret of each connection, so it would need a connection for each ClientHello of a stranger. Its only use of
/// `hmac_sha256` in DTLS 1.2 is the cookie; everything else goes through `hmac`.
#[derive(Debug)]
struct CookieHmac;

impl HmacProvider for CookieHmac {
    fn hmac_sha256(&self, key: &[u8], data: &[u8]) -> Result<[u8; 32], CryptoError> {
        match VERIFIED.get() {
            Some(cookie) => Ok(cookie),
            None => default_provider().hmac_provider.hmac_sha256(key, data),
        }
    }

    fn hmac(&self, hash: HashAlgorithm, key: &[u8], data: &[u8], out: &mut [u8]) -> Result<usize, CryptoError> {
        default_provider().hmac_provider.hmac(hash, key, data, out)
    }
}
