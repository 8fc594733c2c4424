//! The configuration of `meridian turn`; `[turn]` is the same table as an edge's.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use meridian_config::{Problems, Settings};
use meridian_turn::settings::TurnSettings;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TurnProcessConfig {
    pub(crate) turn: TurnSettings,
    pub(crate) tls: TlsFiles,
    pub(crate) http: HttpSettings,
}

/// The certificate for TURN over TLS.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TlsFiles {
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) private_key: Option<PathBuf>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct HttpSettings {
    /// `/metrics`, `/healthz`, `/readyz`: for operators, in the clear.
    pub(crate) bind: SocketAddr,
}

impl Default for HttpSettings {
    fn default() -> Self {
        HttpSettings {
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 9_641)),
        }
    }
}

impl Settings for TurnProcessConfig {
    const OPEN_TABLES: &'static [&'static str] = &["turn.users"];

    fn check(&self, problems: &mut Problems) {
        problems.require(
            self.turn.is_on(),
            "turn.udp",
            "nothing to listen on: name addresses in turn.udp, turn.tcp, turn.tls or turn.dtls, for example [\"0.0.0.0:3478\"]",
        );
        problems.require(
            !self.turn.secrets.is_empty() || !self.turn.users.is_empty(),
            "turn.secrets",
            "nobody could use this server: set turn.secrets (the control plane's turn.secret) or turn.users",
        );
        for (key, message) in self.turn.problems() {
            problems.require(false, &format!("turn.{key}"), message);
        }
        problems.require_file(self.tls.certificate.as_deref(), "tls.certificate");
        problems.require_file(self.tls.private_key.as_deref(), "tls.private_key");
        problems.require(
            self.tls.certificate.is_some() == self.tls.private_key.is_some(),
            "tls.certificate",
            "tls.certificate and tls.private_key belong together: set both or neither",
        );
        problems.require(
            self.turn.dtls.is_empty() || self.tls.certificate.is_some(),
            "turn.dtls",
            "needs tls.certificate and tls.private_key, of an ECDSA P-256 key",
        );
        problems.require(
            self.turn.tls.is_empty() || self.tls.certificate.is_some(),
            "turn.tls",
            "needs tls.certificate and tls.private_key",
        );
    }
}
