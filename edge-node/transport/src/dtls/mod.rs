//! DTLS: the process's identity, fingerprints, and behind the `Dtls` trait the handshake. What is done with the keys and
//! the data is the session's business.

mod engine;
#[cfg(test)]
mod fragments_tests;
mod last_flight;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest;

#[cfg(test)]
pub(crate) use engine::DtlsKeys;
pub(crate) use engine::{DimplDtls, Dtls, DtlsEvent};

/// The certificate this process shows to every client, and its key. One per process: its fingerprint goes into every
/// SDP answer.
pub struct DtlsIdentity {
    certificate_der: Vec<u8>,
    private_key_der: Vec<u8>,
    fingerprint: Fingerprint,
    config: Arc<dimpl::Config>,
}

/// No certificate or no cipher suite: the process cannot speak DTLS at all.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("generating the DTLS certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("configuring DTLS: {0}")]
    Config(#[from] dimpl::Error),
}

impl DtlsIdentity {
    /// A fresh self-signed ECDSA P-256 certificate.
    pub fn generate() -> Result<DtlsIdentity, IdentityError> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new())?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "meridian");
        let certificate = params.self_signed(&key)?;
        let certificate_der = certificate.der().to_vec();
        let fingerprint = Fingerprint::of(&certificate_der);
        let config = Arc::new(engine::config()?);
        Ok(DtlsIdentity {
            certificate_der,
            private_key_der: key.serialize_der(),
            fingerprint,
            config,
        })
    }

    /// SHA-256 of the certificate, for the SDP.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

impl fmt::Debug for DtlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DtlsIdentity")
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// SHA-256 fingerprint of a certificate (RFC 8122 §5), printed as in SDP: `AB:CD:…`, 32 pairs.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a DER certificate.
    pub fn of(certificate_der: &[u8]) -> Fingerprint {
        let digest = digest::digest(&digest::SHA256, certificate_der);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Fingerprint(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(":")?;
            }
            write!(f, "{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not 32 hexadecimal pairs separated by colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 fingerprint is 32 hexadecimal pairs separated by colons")]
pub struct FingerprintError;

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Fingerprint, FingerprintError> {
        let mut bytes = [0; 32];
        let mut pairs = text.trim().split(':');
        for byte in &mut bytes {
            let pair = pairs.next().ok_or(FingerprintError)?;
            if pair.len() != 2 || !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(FingerprintError);
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| FingerprintError)?;
        }
        match pairs.next() {
            Some(_) => Err(FingerprintError),
            None => Ok(Fingerprint(bytes)),
        }
    }
}
