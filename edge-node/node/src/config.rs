//! An edge's configuration: what each key means, its unit and its range. Loaded by `meridian_config` (flags over
//! environment over file over the defaults here).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use meridian_access::token::API_SECRET_BYTES_MIN;
use meridian_config::{Problems, Settings};
use meridian_pki::is_valid_node_id;
use meridian_registry::settings::{DiscoverySettings, RegistrySettings};
use meridian_registry::srv::is_srv_name;
use meridian_serving::listener::HttpKeys;
pub use meridian_spool::RecordingSettings;
use meridian_turn::settings::TurnSettings;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EdgeConfig {
    pub node: NodeSettings,
    pub http: HttpSettings,
    pub media: MediaSettings,
    /// TURN for clients behind strict firewalls; off unless it is told where to listen. Over TLS it shares `http.bind`.
    pub turn: TurnSettings,
    /// Off unless it is told where recordings go.
    pub recording: RecordingSettings,
    pub link: LinkSettings,
    pub registry: RegistrySettings,
    pub control_plane: ControlPlaneSettings,
    pub discovery: DiscoverySettings,
    pub pki: PkiSettings,
    /// API key → secret: whoever signs a token with one of them may join rooms here. Secrets have at least 32 characters.
    pub api_keys: BTreeMap<String, String>,
}

/// Who this edge is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeSettings {
    /// Name of the edge, unique in the mesh and the one its certificate carries: `fra-1`.
    pub id: String,
    /// The PoP's region: `fra`.
    pub region: String,
    /// Degrees north, -90 to 90; absent = looked up by the region's name.
    pub latitude: Option<f64>,
    /// Degrees east, -180 to 180.
    pub longitude: Option<f64>,
    /// Participants this edge is meant to hold at once.
    pub capacity: u32,
    /// Seconds in which a process that is stopped moves its people to other edges before it sends whoever is left away, 0 to 3600.
    pub drain_s: u64,
}

impl Default for NodeSettings {
    fn default() -> Self {
        NodeSettings {
            id: String::new(),
            region: String::new(),
            latitude: None,
            longitude: None,
            capacity: 2_000,
            drain_s: 10,
        }
    }
}

/// Signalling and the join API.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct HttpSettings {
    pub bind: SocketAddr,
    /// What clients are told to connect to, `wss://fra-1.example.org`. Empty = made from `bind` (loopback only).
    pub public_url: String,
    /// The addresses of that URL's host: what GeoDNS answers with. Empty = the address in `public_url`, or `media.advertise`, or `bind`.
    pub public_addresses: Vec<IpAddr>,
    /// PEM files. Required unless `bind` is a loopback address: browsers give cameras to secure pages only.
    pub certificate: Option<PathBuf>,
    pub private_key: Option<PathBuf>,
    /// Addresses or networks (`10.0.0.0/8`) of reverse proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<String>,
}

impl Default for HttpSettings {
    fn default() -> Self {
        HttpSettings {
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 7880)),
            public_url: String::new(),
            public_addresses: vec![],
            certificate: None,
            private_key: None,
            trusted_proxies: vec![],
        }
    }
}

/// WebRTC media: one UDP port per media thread.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct MediaSettings {
    /// Thread `i` binds `port + i` of each address; port 0 = any free port.
    pub bind: Vec<SocketAddr>,
    /// Addresses clients are told, for hosts behind 1:1 NAT. Empty = the bound ones.
    pub advertise: Vec<IpAddr>,
    /// Media threads; 0 = one per core.
    pub threads: usize,
}

impl Default for MediaSettings {
    fn default() -> Self {
        MediaSettings {
            bind: vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7882))],
            advertise: vec![],
            threads: 0,
        }
    }
}

/// Links to other edges (QUIC, mutual TLS).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkSettings {
    pub bind: SocketAddr,
    /// Where other edges reach us. Absent = `bind`, which then must not be a wildcard address.
    pub advertise: Option<SocketAddr>,
}

impl Default for LinkSettings {
    fn default() -> Self {
        LinkSettings {
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 7900)),
            advertise: None,
        }
    }
}

/// gRPC to the control plane (mutual TLS). Without one the edge serves API keys and its own rooms.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ControlPlaneSettings {
    /// `https://host:port`; absent = none.
    pub url: Option<String>,
    /// Or the name of SRV records that say where control planes are: `_meridian-control._tcp.example.org`.
    pub srv: Option<String>,
}

/// The certificate by which the mesh knows this edge.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct PkiSettings {
    /// Holds `ca.pem`, `node.pem`, `node.key`, as `meridian pki node` writes them.
    pub directory: PathBuf,
}

impl Default for PkiSettings {
    fn default() -> Self {
        PkiSettings {
            directory: PathBuf::from("pki"),
        }
    }
}

impl Settings for EdgeConfig {
    const OPEN_TABLES: &'static [&'static str] = &["api_keys", "turn.users", "recording.store_options"];

    fn check(&self, problems: &mut Problems) {
        let name = |text: &str| {
            !text.is_empty()
                && text.len() <= 63
                && text
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        problems.require(
            is_valid_node_id(&self.node.id),
            "node.id",
            "must be 1 to 40 of a-z, 0-9 and - (not at either end), for example \"fra-1\"",
        );
        problems.require(
            name(&self.node.region),
            "node.region",
            "must be 1 to 63 of a-z, 0-9 and -, for example \"fra\"",
        );
        problems.require(
            self.node
                .latitude
                .is_none_or(|degrees| (-90.0..=90.0).contains(&degrees)),
            "node.latitude",
            "must be between -90 and 90 degrees",
        );
        problems.require(
            self.node
                .longitude
                .is_none_or(|degrees| (-180.0..=180.0).contains(&degrees)),
            "node.longitude",
            "must be between -180 and 180 degrees",
        );
        problems.require(self.node.drain_s <= 3_600, "node.drain_s", "must be 0 to 3600 seconds");
        problems.require(
            self.node.capacity > 0,
            "node.capacity",
            "must be at least 1 participant",
        );
        if self.recording.is_on()
            && let Err(error) = self.recording.open_store()
        {
            problems.require(false, "recording.store", error.to_string());
        }
        self.check_http(problems);
        problems.require(
            !self.media.bind.is_empty(),
            "media.bind",
            "needs at least one address, for example \"0.0.0.0:7882\"",
        );
        problems.require(self.media.threads <= 256, "media.threads", "must be at most 256");
        problems.require(
            self.link.advertise.is_some() || !self.link.bind.ip().is_unspecified(),
            "link.advertise",
            "must name the address other edges reach, because link.bind is a wildcard address",
        );
        self.check_control_plane(problems);
        for (key, message) in self.registry.problems() {
            problems.require(false, &format!("registry.{key}"), message);
        }
        for (key, message) in self.turn.problems() {
            problems.require(false, &format!("turn.{key}"), message);
        }
        problems.require(
            self.turn.dtls.is_empty() || self.http.certificate.is_some(),
            "turn.dtls",
            "needs http.certificate and http.private_key, of an ECDSA P-256 key",
        );
        problems.require(
            self.turn.tls.is_empty() || self.http.certificate.is_some(),
            "turn.tls",
            "needs http.certificate and http.private_key",
        );
        for (key, secret) in &self.api_keys {
            problems.require(
                secret.len() >= API_SECRET_BYTES_MIN,
                &format!("api_keys.{key}"),
                format!("the secret needs at least {API_SECRET_BYTES_MIN} characters"),
            );
        }
    }
}

impl HttpSettings {
    /// The part that all listeners have in common.
    pub(crate) fn keys(&self) -> HttpKeys<'_> {
        HttpKeys {
            bind: self.bind,
            certificate: self.certificate.as_deref(),
            private_key: self.private_key.as_deref(),
            trusted_proxies: &self.trusted_proxies,
        }
    }
}

impl EdgeConfig {
    fn check_control_plane(&self, problems: &mut Problems) {
        problems.require(
            self.control_plane.srv.is_none() || self.control_plane.url.is_none(),
            "control_plane.srv",
            "either control_plane.srv or control_plane.url says where the control plane is, not both",
        );
        problems.require(
            self.control_plane.srv.as_deref().is_none_or(is_srv_name),
            "control_plane.srv",
            "must be a name of SRV records, for example \"_meridian-control._tcp.example.org\"",
        );
        if let Some(url) = &self.control_plane.url {
            // The connection is always mutual TLS.
            problems.require(
                url.starts_with("https://"),
                "control_plane.url",
                "must begin with https://, for example \"https://10.0.0.2:8090\"",
            );
        }
    }

    fn check_http(&self, problems: &mut Problems) {
        self.http.keys().check(problems);
        let url = &self.http.public_url;
        problems.require(
            url.is_empty() || url.starts_with("wss://") || url.starts_with("ws://"),
            "http.public_url",
            "must begin with wss:// (or ws:// on loopback)",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_config::Loader;

    fn load(text: &str) -> Result<EdgeConfig, String> {
        Loader::new("MERIDIAN")
            .file_text("edge.toml", text)
            .load()
            .map(|loaded| loaded.value)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_least_configuration_is_a_name_and_a_region() {
        let config = load("[node]\nid = 'fra-1'\nregion = 'fra'").unwrap();
        assert_eq!(config.node.capacity, 2_000);
    }

    #[test]
    fn a_public_address_without_a_certificate_is_refused_with_the_way_out() {
        let error = load("[node]\nid = 'fra-1'\nregion = 'fra'\n[http]\nbind = '203.0.113.7:443'").unwrap_err();
        assert!(
            error.contains("edge.toml:5") && error.contains("http.certificate"),
            "{error}"
        );
    }

    #[test]
    fn a_misspelt_key_is_refused_with_the_nearest_known_one() {
        let error = load("[node]\nid = 'fra-1'\nregoin = 'fra'").unwrap_err();
        assert!(error.contains("regoin") && error.contains("region"), "{error}");
    }
}
