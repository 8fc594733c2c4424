//! The certificate that a process shows to strangers. It stands in two files, which whoever renews it replaces while the process runs.

use meridian_pki::{PkiError, parse_certificates};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;

/// How often [`Certificate::follow`] looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A chain and its key, in files.
#[derive(Debug)]
pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    shown: Arc<Shown>,
    watched: Mutex<Watched>,
}

/// What the files hold. The key is in the clear.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    pub chain: String,
    pub key: String,
}

#[derive(Debug)]
struct Watched {
    /// What was last taken in, or refused.
    judged: Pem,
    /// At the last look: what is still being written differs from one look to the next.
    seen: Pem,
    /// Their absence has been told.
    missing: bool,
}

/// What [`Certificate::look`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    Unchanged,
    /// There is something new, but it may still be being written: the next look decides.
    Settling,
    /// New connections are shown this.
    Replaced(Pem),
    /// The files are broken, do not belong together or cannot be read, which has been logged; the certificate in memory stays.
    Kept,
}

/// The certificate of new connections; those that stand keep theirs.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pem").finish_non_exhaustive()
    }
}

impl Certificate {
    /// Reads a chain and its key, both PEM.
    ///
    /// # Errors
    /// [`PkiError`] naming the file, or saying that the two do not belong together.
    pub fn read(chain: &Path, key: &Path) -> Result<Certificate, PkiError> {
        let pem = Pem::read(chain, key)?;
        let shown = pem.certified(chain, key)?;
        Ok(Certificate {
            chain: chain.to_owned(),
            key: key.to_owned(),
            shown: Arc::new(Shown(RwLock::new(Arc::new(shown)))),
            watched: Mutex::new(Watched {
                judged: pem.clone(),
                seen: pem,
                missing: false,
            }),
        })
    }

    /// TLS for clients without certificates. It shows what the files held when [`Self::look`] last took them in.
    ///
    /// # Errors
    /// None that a valid certificate could cause.
    pub fn tls(&self, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, PkiError> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.shown.clone());
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// What was read at the start, for protocols beside TLS. Later [`Look::Replaced`] says what is new.
    pub fn pem(&self) -> Pem {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.judged.clone()
    }

    /// Looks whether the files were replaced, and takes the new ones in. Reads the disk: call it from where blocking is allowed. What is
    /// new is judged only when two looks found the same: whoever writes one file after the other is waited for.
    pub fn look(&self) -> Look {
        let chain = self.chain.display();
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match Pem::read(&self.chain, &self.key) {
            Ok(found) => found,
            Err(_) if watched.missing => return Look::Unchanged,
            Err(error) => {
                watched.missing = true;
                tracing::warn!(%error, "the certificate cannot be read any more; the one in memory goes on being shown");
                return Look::Kept;
            }
        };
        watched.missing = false;
        if watched.judged == found {
            watched.seen = found;
            return Look::Unchanged;
        }
        if watched.seen != found {
            watched.seen = found;
            return Look::Settling;
        }
        watched.judged = found.clone();
        match found.certified(&self.chain, &self.key) {
            Ok(certified) => {
                let until = certified.end_entity_cert().ok().and_then(|leaf| not_after(leaf));
                tracing::info!(%chain, until = until.unwrap_or_default(), "certificate replaced");
                *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(certified);
                Look::Replaced(found)
            }
            Err(error) => {
                tracing::warn!(%chain, %error, "the new certificate is of no use; the one in memory goes on being shown");
                Look::Kept
            }
        }
    }

    /// Looks every two seconds until stopped, and tells what is new.
    pub async fn follow(self: Arc<Self>, mut stopped: watch::Receiver<bool>, replaced: impl Fn(&Pem)) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                _ = stopped.wait_for(|down| *down) => return,
            }
            let this = self.clone();
            // The files may be on a disk that is far away.
            if let Ok(Look::Replaced(pem)) = tokio::task::spawn_blocking(move || this.look()).await {
                replaced(&pem);
            }
        }
    }
}

impl Pem {
    fn read(chain: &Path, key: &Path) -> Result<Pem, PkiError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|source| PkiError::File {
                path: path.to_owned(),
                source,
            })
        };
        Ok(Pem {
            chain: read(chain)?,
            key: read(key)?,
        })
    }

    fn certified(&self, chain: &Path, key: &Path) -> Result<CertifiedKey, PkiError> {
        let chain = parse_certificates(&chain.display().to_string(), &self.chain)?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|error| PkiError::Invalid {
            what: key.display().to_string(),
            why: error.to_string(),
        })?;
        Ok(CertifiedKey::from_der(chain, key, &provider())?)
    }
}

fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

fn not_after(certificate: &[u8]) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed.validity().not_after.to_string())
}
