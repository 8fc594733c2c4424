//! The mesh's own certificate authority and the mutual TLS built on it.
//!
//! A name in a certificate is the only identity that counts between our processes: an edge is `<id>.node.meridian.internal`, a
//! control plane `<id>.control.meridian.internal` (and [`CONTROL_PLANE_NAME`], so that any replica can be dialled by one name).
//! What the registry says about addresses is checked against it.
//!
//! Not here: public certificates for browsers (ACME or files), and revocation: certificates are short-lived instead.
#![forbid(unsafe_code)]

pub mod enrolment;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const NODE_SUFFIX: &str = ".node.meridian.internal";
const CONTROL_SUFFIX: &str = ".control.meridian.internal";
/// Every control plane's certificate carries this name beside its own: what edges expect when they dial one.
pub const CONTROL_PLANE_NAME: &str = "control.meridian.internal";
/// How long a node's certificate is valid unless asked otherwise.
pub const NODE_CERTIFICATE_TTL: Duration = Duration::from_secs(90 * 24 * 3600);
const CA_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// A certificate is valid from a little before now: clocks differ.
const BACKDATE: Duration = Duration::from_secs(3600);

/// From a little before now until `ttl` from now, in a time type that rcgen uses but does not re-export: hence the macro.
macro_rules! validity {
    ($ttl:expr) => {{
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (epoch + now.saturating_sub(BACKDATE), epoch + now + $ttl)
    }};
}

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{path}: {source}", path = path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{what}: {why}")]
    Invalid { what: String, why: String },
    #[error(
        "`{0}` cannot be a node's name: 1 to 40 characters a-z, 0-9 and -, beginning and ending with a letter or digit"
    )]
    NodeName(String),
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// What a certificate entitles its holder to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Edge,
    ControlPlane,
}

/// The name that our CA signed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerName {
    pub role: Role,
    pub id: String,
}

impl PeerName {
    /// The DNS name in the certificate's SAN, which is also what a client asks for when it dials.
    pub fn dns(&self) -> String {
        match self.role {
            Role::Edge => format!("{}{NODE_SUFFIX}", self.id),
            Role::ControlPlane => format!("{}{CONTROL_SUFFIX}", self.id),
        }
    }
}

/// The DNS name under which an edge is dialled: `<node>.node.meridian.internal`.
pub fn node_dns_name(node: &str) -> String {
    format!("{node}{NODE_SUFFIX}")
}

/// Whether `id` can be an edge's or control plane's id: it becomes one label of a DNS name.
pub fn is_valid_node_id(id: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !id.is_empty() && id.len() <= 40 && id.bytes().all(inner) && !id.starts_with('-') && !id.ends_with('-')
}

/// The certificate authority of one mesh. Whoever holds its key can add nodes: it stays on the control plane.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

impl CertificateAuthority {
    /// A new authority with a fresh P-256 key, valid for ten years.
    ///
    /// # Errors
    /// [`PkiError::Certificate`] if the system gives no randomness.
    pub fn create() -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        // The name carries part of the key's hash: two authorities never share one, so errors point at the right file.
        let tag = hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.public_key_raw()).as_ref());
        let params = ca_params(&format!("Meridian CA {}", &tag[..8]));
        let certificate = params.self_signed(&key)?;
        Ok(CertificateAuthority {
            certificate_pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Reads what [`Self::save`] wrote: `ca.pem` and `ca.key` in `directory`.
    ///
    /// # Errors
    /// Naming the file and what is wrong with it.
    pub fn load(directory: &Path) -> Result<Self, PkiError> {
        let (certificate, key) = (directory.join("ca.pem"), directory.join("ca.key"));
        Self::from_pem(&read(&certificate)?, &read(&key)?).map_err(|error| PkiError::Invalid {
            what: directory.display().to_string(),
            why: error.to_string(),
        })
    }

    /// Loads the authority in `directory`, or creates one there if there is none.
    ///
    /// # Errors
    /// As [`Self::load`] and [`Self::save`]. A half-written pair is an error, never silently replaced: nodes trust the old one.
    pub fn load_or_create(directory: &Path) -> Result<Self, PkiError> {
        if directory.join("ca.pem").exists() || directory.join("ca.key").exists() {
            return Self::load(directory);
        }
        let authority = Self::create()?;
        authority.save(directory)?;
        Ok(authority)
    }

    /// From PEM texts.
    ///
    /// # Errors
    /// [`PkiError::Invalid`] if they are not a pair made by [`Self::create`].
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let invalid = |why: String| PkiError::Invalid {
            what: "CA".to_owned(),
            why,
        };
        let der =
            CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|error| invalid(error.to_string()))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|error| invalid(error.to_string()))?;
        let name = parsed
            .subject()
            .iter_common_name()
            .next()
            .and_then(|cn| cn.as_str().ok());
        let name = name.ok_or_else(|| invalid("the certificate has no common name".to_owned()))?;
        let key = KeyPair::from_pem(key_pem).map_err(|error| invalid(format!("ca.key: {error}")))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(invalid("ca.key does not belong to ca.pem".to_owned()));
        }
        Ok(CertificateAuthority {
            issuer: Issuer::new(ca_params(name), key),
            certificate_pem: certificate_pem.to_owned(),
        })
    }

    /// Writes `ca.pem` and `ca.key` (mode 0600) into `directory`, which is made if needed.
    ///
    /// # Errors
    /// [`PkiError::File`].
    pub fn save(&self, directory: &Path) -> Result<(), PkiError> {
        write_secret(&directory.join("ca.key"), &self.issuer.key().serialize_pem())?;
        write_file(&directory.join("ca.pem"), &self.certificate_pem, 0o644)
    }

    /// The certificate that every node trusts.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// A certificate and key for an edge. `extra` are further DNS names or IP addresses; `localhost`, 127.0.0.1 and ::1 are always in.
    ///
    /// # Errors
    /// [`PkiError::NodeName`] for an id that is no DNS label.
    pub fn issue_node(&self, node: &str, extra: &[String]) -> Result<NodeIdentity, PkiError> {
        self.issue(
            PeerName {
                role: Role::Edge,
                id: node.to_owned(),
            },
            extra,
            NODE_CERTIFICATE_TTL,
        )
    }

    /// A certificate and key for a control plane.
    ///
    /// # Errors
    /// As [`Self::issue_node`].
    pub fn issue_control_plane(&self, id: &str, extra: &[String]) -> Result<NodeIdentity, PkiError> {
        self.issue(
            PeerName {
                role: Role::ControlPlane,
                id: id.to_owned(),
            },
            extra,
            NODE_CERTIFICATE_TTL,
        )
    }

    /// A certificate and a fresh key, for either role, for `ttl`.
    ///
    /// # Errors
    /// As [`Self::issue_node`].
    pub fn issue(&self, name: PeerName, extra: &[String], ttl: Duration) -> Result<NodeIdentity, PkiError> {
        let key = KeyPair::generate()?;
        let certificate_pem = self.sign(&name, &key, extra, ttl)?;
        Ok(NodeIdentity {
            certificate_pem,
            key_pem: key.serialize_pem(),
            ca_pem: self.certificate_pem.clone(),
        })
    }

    /// Signs an edge's own public key (enrolment): the private key never travels. Returns the certificate as PEM.
    ///
    /// # Errors
    /// [`PkiError::Invalid`] unless `spki` is a DER SubjectPublicKeyInfo of a P-256 key.
    pub fn sign_node_key(&self, node: &str, spki: &[u8], extra: &[String]) -> Result<String, PkiError> {
        let key = P256PublicKey::parse(spki)?;
        self.sign(
            &PeerName {
                role: Role::Edge,
                id: node.to_owned(),
            },
            &key,
            extra,
            NODE_CERTIFICATE_TTL,
        )
    }

    fn sign(
        &self,
        name: &PeerName,
        key: &impl PublicKeyData,
        extra: &[String],
        ttl: Duration,
    ) -> Result<String, PkiError> {
        if !is_valid_node_id(&name.id) {
            return Err(PkiError::NodeName(name.id.clone()));
        }
        let mut names = vec![
            name.dns(),
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            "::1".to_owned(),
        ];
        if name.role == Role::ControlPlane {
            names.push(CONTROL_PLANE_NAME.to_owned());
        }
        for one in extra {
            // Nobody gets a second name inside our own zone: that would be somebody else's identity.
            if one
                .to_ascii_lowercase()
                .trim_end_matches('.')
                .ends_with("meridian.internal")
            {
                return Err(PkiError::Invalid {
                    what: one.clone(),
                    why: "names under meridian.internal are given by node id only".to_owned(),
                });
            }
            if !names.contains(one) {
                names.push(one.clone());
            }
        }
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = common_name(&name.id);
        (params.not_before, params.not_after) = validity!(ttl);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(key, &self.issuer)?.pem())
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    (params.not_before, params.not_after) = validity!(CA_TTL);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct P256PublicKey(Vec<u8>);

impl P256PublicKey {
    fn parse(spki: &[u8]) -> Result<Self, PkiError> {
        use x509_parser::prelude::FromDer as _;
        let invalid = |why: &str| PkiError::Invalid {
            what: "public key".to_owned(),
            why: why.to_owned(),
        };
        let (rest, parsed) = x509_parser::x509::SubjectPublicKeyInfo::from_der(spki)
            .map_err(|_| invalid("not a DER SubjectPublicKeyInfo"))?;
        match parsed.parsed() {
            Ok(x509_parser::public_key::PublicKey::EC(point))
                if rest.is_empty() && point.data().len() == 65 && point.data()[0] == 4 =>
            {
                Ok(P256PublicKey(point.data().to_vec()))
            }
            _ => Err(invalid("only uncompressed ECDSA P-256 keys are accepted")),
        }
    }
}

impl PublicKeyData for P256PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// A process's certificate, its key, and the CA it trusts: all that mutual TLS needs. `Debug` shows no key.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    pub certificate_pem: String,
    pub key_pem: String,
    pub ca_pem: String,
}

impl std::fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeIdentity")
            .field("name", &self.name().ok())
            .finish_non_exhaustive()
    }
}

impl NodeIdentity {
    /// Reads `node.pem`, `node.key` and `ca.pem` from `directory`.
    ///
    /// # Errors
    /// [`PkiError`] naming the file.
    pub fn load(directory: &Path) -> Result<Self, PkiError> {
        let identity = NodeIdentity {
            certificate_pem: read(&directory.join("node.pem"))?,
            key_pem: read(&directory.join("node.key"))?,
            ca_pem: read(&directory.join("ca.pem"))?,
        };
        identity.name()?;
        Ok(identity)
    }

    /// Writes `node.pem`, `node.key` (mode 0600) and `ca.pem` into `directory`, which is made if needed.
    ///
    /// # Errors
    /// [`PkiError::File`].
    pub fn save(&self, directory: &Path) -> Result<(), PkiError> {
        write_secret(&directory.join("node.key"), &self.key_pem)?;
        write_file(&directory.join("node.pem"), &self.certificate_pem, 0o644)?;
        write_file(&directory.join("ca.pem"), &self.ca_pem, 0o644)
    }

    /// Whose certificate this is.
    ///
    /// # Errors
    /// [`PkiError::Invalid`] if it is not one of our CA's.
    pub fn name(&self) -> Result<PeerName, PkiError> {
        let certificates = self.certificates()?;
        let first = certificates.first().and_then(|der| peer_name_of(der));
        first.ok_or_else(|| PkiError::Invalid {
            what: "node certificate".to_owned(),
            why: "it carries no meridian.internal name".to_owned(),
        })
    }

    /// A server that accepts only clients whose certificate our CA signed. Who they are: [`peer_name_of`] of the peer's certificate.
    ///
    /// # Errors
    /// [`PkiError`] for unreadable PEM.
    pub fn server_config(&self, alpn: &[&[u8]]) -> Result<ServerConfig, PkiError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider())
            .build()
            .map_err(|error| PkiError::Invalid {
                what: "CA".to_owned(),
                why: error.to_string(),
            })?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.certificates()?, self.key()?)?;
        config.alpn_protocols = alpn.iter().map(|one| one.to_vec()).collect();
        Ok(config)
    }

    /// A client that shows its certificate and accepts only servers whose certificate our CA signed for the name dialled
    /// ([`node_dns_name`] or [`CONTROL_PLANE_NAME`]).
    ///
    /// # Errors
    /// As [`Self::server_config`].
    pub fn client_config(&self, alpn: &[&[u8]]) -> Result<ClientConfig, PkiError> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(self.certificates()?, self.key()?)?;
        config.alpn_protocols = alpn.iter().map(|one| one.to_vec()).collect();
        Ok(config)
    }

    /// tonic's TLS settings for a gRPC server. With `enrolment`, clients without a certificate are let in as well, for `Enroll`
    /// alone: every other call must check [`peer_name_of`].
    pub fn tonic_server(&self, enrolment: bool) -> tonic::transport::ServerTlsConfig {
        tonic::transport::ServerTlsConfig::new()
            .identity(tonic::transport::Identity::from_pem(
                &self.certificate_pem,
                &self.key_pem,
            ))
            .client_ca_root(tonic::transport::Certificate::from_pem(&self.ca_pem))
            .client_auth_optional(enrolment)
    }

    /// tonic's TLS settings for a gRPC client that dials any control plane.
    pub fn tonic_client(&self) -> tonic::transport::ClientTlsConfig {
        tonic::transport::ClientTlsConfig::new()
            .identity(tonic::transport::Identity::from_pem(
                &self.certificate_pem,
                &self.key_pem,
            ))
            .ca_certificate(tonic::transport::Certificate::from_pem(&self.ca_pem))
            .domain_name(CONTROL_PLANE_NAME)
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        parse_certificates("node certificate", &self.certificate_pem)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, PkiError> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|error| PkiError::Invalid {
            what: "node key".to_owned(),
            why: error.to_string(),
        })
    }

    fn roots(&self) -> Result<RootCertStore, PkiError> {
        let mut roots = RootCertStore::empty();
        for certificate in parse_certificates("CA certificate", &self.ca_pem)? {
            roots.add(certificate)?;
        }
        Ok(roots)
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Certificates in a PEM text, at least one.
///
/// # Errors
/// [`PkiError::Invalid`] with `what` in front.
pub fn parse_certificates(what: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let invalid = |why: String| PkiError::Invalid {
        what: what.to_owned(),
        why,
    };
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| invalid(error.to_string()))?;
    if all.is_empty() {
        Err(invalid("no certificate in it".to_owned()))
    } else {
        Ok(all)
    }
}

/// The name our CA put into a certificate; `None` if there is none, or more than one. The chain is *not* checked here: rustls did.
pub fn peer_name_of(certificate: &[u8]) -> Option<PeerName> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    let mut found = names.value.general_names.iter().filter_map(|name| match name {
        x509_parser::extensions::GeneralName::DNSName(dns) => peer_name(dns),
        _ => None,
    });
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// The id of the edge that a certificate was issued to; `None` for anything but an edge's certificate.
pub fn node_id_of(certificate: &[u8]) -> Option<String> {
    peer_name_of(certificate)
        .filter(|name| name.role == Role::Edge)
        .map(|name| name.id)
}

fn peer_name(dns: &str) -> Option<PeerName> {
    let (id, role) = match (dns.strip_suffix(NODE_SUFFIX), dns.strip_suffix(CONTROL_SUFFIX)) {
        (Some(id), _) => (id, Role::Edge),
        (_, Some(id)) => (id, Role::ControlPlane),
        _ => return None,
    };
    is_valid_node_id(id).then(|| PeerName {
        role,
        id: id.to_owned(),
    })
}

/// The rustls name to dial an edge by.
///
/// # Errors
/// [`PkiError::NodeName`].
pub fn node_server_name(node: &str) -> Result<ServerName<'static>, PkiError> {
    if !is_valid_node_id(node) {
        return Err(PkiError::NodeName(node.to_owned()));
    }
    ServerName::try_from(node_dns_name(node)).map_err(|_| PkiError::NodeName(node.to_owned()))
}

/// Whether a text is an IP address (for callers that sort names from addresses).
pub fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

fn read(path: &Path) -> Result<String, PkiError> {
    std::fs::read_to_string(path).map_err(|source| PkiError::File {
        path: path.to_owned(),
        source,
    })
}

/// Writes a file that only its owner may read (0600), atomically; directories on the way are made.
///
/// # Errors
/// [`PkiError::File`].
pub fn write_secret(path: &Path, content: &str) -> Result<(), PkiError> {
    write_file(path, content, 0o600)
}

fn write_file(path: &Path, content: &str, mode: u32) -> Result<(), PkiError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let attempt = || -> std::io::Result<()> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let temporary = path.with_extension(format!("tmp{}", std::process::id()));
        // A leftover of a crash may have another mode: it must not lend it to the secret.
        let _ = std::fs::remove_file(&temporary);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    attempt().map_err(|source| PkiError::File {
        path: path.to_owned(),
        source,
    })
}

/// A fresh P-256 key for a node that will enrol: (private key as PKCS#8 PEM, public key as DER SubjectPublicKeyInfo).
///
/// # Errors
/// [`PkiError::Certificate`] if the system gives no randomness.
pub fn generate_node_key() -> Result<(String, Vec<u8>), PkiError> {
    let key = KeyPair::generate()?;
    Ok((key.serialize_pem(), key.subject_public_key_info()))
}
