//! The control plane's configuration: every key, its default, and what is checked about it.

use meridian_access::token::API_SECRET_BYTES_MIN;
use meridian_config::{Problems, Settings};
use meridian_geo::{LearnConfig, Policy};
pub use meridian_geodns::DnsConfig;
use meridian_registry::settings::{DiscoverySettings, RegistrySettings};
use meridian_serving::listener::HttpKeys;
use meridian_turn_credentials::SECRET_BYTES_MIN;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// See `meridian control-plane --help` and the documented example file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct ControlPlaneConfig {
    /// This replica's name in certificates and logs: a-z, 0-9, -.
    pub id: String,
    /// Holds `ca.pem`, `ca.key`, `token.key` and the SQLite database.
    pub data_directory: PathBuf,
    pub http: HttpConfig,
    pub grpc: GrpcConfig,
    pub registry: RegistrySettings,
    pub discovery: DiscoverySettings,
    pub geo: GeoConfig,
    /// The name server of the join hostname.
    pub dns: DnsConfig,
    pub assignment: Policy,
    /// What is remembered of measured round trips.
    pub learning: LearnConfig,
    pub limits: LimitsConfig,
    pub accounts: AccountsConfig,
    pub turn: TurnConfig,
    /// LiveKit API keys and their secrets, handed to every edge.
    pub api_keys: BTreeMap<String, String>,
    /// Tokens (secrets) with which a new edge may enrol. Empty: no enrolment.
    pub enrolment_tokens: Vec<String>,
    /// Tokens (secrets) with which operators ask over HTTP (`meridian assign explain`). Empty: nobody may.
    pub operator_tokens: Vec<String>,
    /// Accepts `from` in join requests, a region that stands in for the client's place. For the demo only.
    pub demo: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct HttpConfig {
    /// Anything but loopback needs `certificate` and `private_key`.
    pub bind: SocketAddr,
    /// PEM chain and key for HTTPS.
    pub certificate: Option<PathBuf>,
    pub private_key: Option<PathBuf>,
    /// Addresses or networks (`10.0.0.0/8`) of reverse proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<String>,
    /// The built web app; without it only the API is served.
    pub web_directory: Option<PathBuf>,
    /// Origins other than its own that may call the API from a browser (`https://meet.example.org`); `*`: any.
    pub allowed_origins: Vec<String>,
    /// Edges that may start while somebody's page is open (`wss://*.edge.example.org`). A page may connect to these and to the edges that
    /// were known when it was loaded.
    pub edge_origins: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct GrpcConfig {
    /// Where edges connect, always with mutual TLS.
    pub bind: SocketAddr,
    /// Further names or addresses for this replica's certificate.
    pub names: Vec<String>,
    /// Where other control planes reach this one, `host:port`. Absent: `bind`, if that is one address.
    pub advertise: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GeoConfig {
    /// An MMDB file (GeoLite2-City or alike). Without it, or if it is missing, distance plays no part in placement.
    pub database: Option<PathBuf>,
    /// An MMDB file of autonomous systems (GeoLite2-ASN or alike), if `database` does not tell them. Without, systems play no part.
    pub asn_database: Option<PathBuf>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitsConfig {
    /// Join attempts a minute from one client address (an IPv6 /64 counts as one).
    pub joins_per_minute_address: u32,
    /// Requests to the API, of whatever kind.
    pub requests_per_minute_address: u32,
    /// Failed attempts a minute at one meeting's passcode, from wherever they come.
    pub wrong_passcodes_per_minute_meeting: u32,
    /// Attempts a minute with codes that do not exist, from one client address.
    pub wrong_codes_per_minute_address: u32,
    /// Meetings a minute created from one client address.
    pub meetings_per_minute_address: u32,
    /// Most participants that a meeting may be created for.
    pub participants_max: u32,
    /// Meetings that nobody has joined for so many days are removed.
    pub meeting_idle_days: u32,
}

/// Who may make an account. Joining a meeting needs none.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct AccountsConfig {
    /// Whether anybody may make one.
    pub sign_up: bool,
    /// Most accounts there may be.
    pub accounts_max: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct TurnConfig {
    /// Servers beside those in the edges, which are known anyway: `turn:host:3478?transport=udp`, `turns:host:443?transport=tcp`,
    /// `stun:…`.
    pub urls: Vec<String>,
    /// Such servers by the region they stand in, which residency binds.
    pub regions: BTreeMap<String, Vec<String>>,
    /// Shared with the TURN servers; clients get time-limited credentials made from it. Empty: made from the key that signs tokens, for
    /// the edges' own servers.
    pub secret: String,
    pub ttl_s: u32,
}

impl Default for ControlPlaneConfig {
    fn default() -> Self {
        ControlPlaneConfig {
            id: "control-1".to_owned(),
            data_directory: PathBuf::from("data"),
            http: HttpConfig::default(),
            grpc: GrpcConfig::default(),
            registry: RegistrySettings::default(),
            discovery: DiscoverySettings::default(),
            geo: GeoConfig::default(),
            dns: DnsConfig::default(),
            assignment: Policy::default(),
            learning: LearnConfig::default(),
            limits: LimitsConfig::default(),
            accounts: AccountsConfig::default(),
            turn: TurnConfig::default(),
            api_keys: BTreeMap::new(),
            enrolment_tokens: Vec::new(),
            operator_tokens: Vec::new(),
            demo: false,
        }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        HttpConfig {
            bind: SocketAddr::from(([127, 0, 0, 1], 8080)),
            certificate: None,
            private_key: None,
            trusted_proxies: Vec::new(),
            web_directory: None,
            allowed_origins: Vec::new(),
            edge_origins: Vec::new(),
        }
    }
}

impl Default for GrpcConfig {
    fn default() -> Self {
        GrpcConfig {
            bind: SocketAddr::from(([127, 0, 0, 1], 8090)),
            names: Vec::new(),
            advertise: None,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        LimitsConfig {
            joins_per_minute_address: 60,
            requests_per_minute_address: 6_000,
            wrong_passcodes_per_minute_meeting: 20,
            wrong_codes_per_minute_address: 10,
            meetings_per_minute_address: 20,
            participants_max: 1_000,
            meeting_idle_days: 180,
        }
    }
}

impl Default for AccountsConfig {
    fn default() -> Self {
        AccountsConfig {
            sign_up: true,
            accounts_max: 100_000,
        }
    }
}

impl Default for TurnConfig {
    fn default() -> Self {
        TurnConfig {
            urls: Vec::new(),
            regions: BTreeMap::new(),
            secret: String::new(),
            ttl_s: 6 * 3600,
        }
    }
}

impl TurnConfig {
    fn all_urls(&self) -> impl Iterator<Item = &String> {
        self.urls.iter().chain(self.regions.values().flatten())
    }
}

impl Settings for ControlPlaneConfig {
    const OPEN_TABLES: &'static [&'static str] = &[
        "api_keys",
        "assignment.region_weights_ms",
        "dns.hosts",
        "dns.aliases",
        "turn.regions",
    ];

    fn check(&self, problems: &mut Problems) {
        problems.require(
            meridian_pki::is_valid_node_id(&self.id),
            "id",
            "1 to 40 characters a-z, 0-9 and -",
        );
        self.http.check(problems);
        for (key, message) in self.registry.problems() {
            problems.require(false, &format!("registry.{key}"), message);
        }
        problems.require(
            !self.turn.secret.is_empty() || self.turn.all_urls().all(|url| url.starts_with("stun")),
            "turn.secret",
            "TURN servers need the secret they share with this control plane",
        );
        problems.require(
            self.turn.secret.is_empty() || self.turn.secret.len() >= SECRET_BYTES_MIN,
            "turn.secret",
            format!("the secret needs at least {SECRET_BYTES_MIN} characters"),
        );
        for region in self.turn.regions.keys() {
            problems.require(
                meridian_geo::regions::is_rule(region) || meridian_pki::is_valid_node_id(region),
                &format!("turn.regions.{region}"),
                "must be named as edges name their region, 1 to 40 characters a-z, 0-9 and -",
            );
        }
        problems.require(
            (60..=86_400).contains(&self.turn.ttl_s),
            "turn.ttl_s",
            "60 to 86400 seconds",
        );
        problems.require(
            (1..=100_000).contains(&self.limits.participants_max),
            "limits.participants_max",
            "1 to 100000",
        );
        problems.require(
            (1..=36_500).contains(&self.limits.meeting_idle_days),
            "limits.meeting_idle_days",
            "1 to 36500 days",
        );
        for (key, secret) in &self.api_keys {
            problems.require(
                secret.len() >= API_SECRET_BYTES_MIN,
                &format!("api_keys.{key}"),
                format!("the secret needs at least {API_SECRET_BYTES_MIN} characters"),
            );
        }
        for (key, tokens) in [
            ("enrolment_tokens", &self.enrolment_tokens),
            ("operator_tokens", &self.operator_tokens),
        ] {
            problems.require(
                tokens.iter().all(|token| token.len() >= 24),
                key,
                "a token has fewer than 24 characters: it could be guessed",
            );
        }
        for (key, message) in self.learning.problems() {
            problems.require(false, &format!("learning.{key}"), message);
        }
        problems.require(
            self.grpc.advertise.as_deref().is_none_or(is_host_and_port),
            "grpc.advertise",
            "host:port, for example control-1.example.org:8090",
        );
        for (key, message) in self.assignment.problems() {
            problems.require(false, &format!("assignment.{key}"), message);
        }
    }
}

impl HttpConfig {
    /// The part that all listeners have in common.
    pub(crate) fn keys(&self) -> HttpKeys<'_> {
        HttpKeys {
            bind: self.bind,
            certificate: self.certificate.as_deref(),
            private_key: self.private_key.as_deref(),
            trusted_proxies: &self.trusted_proxies,
        }
    }

    fn check(&self, problems: &mut Problems) {
        self.keys().check(problems);
        if let Some(directory) = &self.web_directory {
            problems.require(
                directory.is_dir(),
                "http.web_directory",
                format!("there is no directory {}", directory.display()),
            );
        }
        for origin in &self.edge_origins {
            problems.require(
                crate::http::is_edge_origin(origin),
                "http.edge_origins",
                format!("{origin} is not like wss://*.edge.example.org or wss://fra.example.org:7443"),
            );
        }
    }
}

fn is_host_and_port(text: &str) -> bool {
    let sane = |host: &str| !host.is_empty() && !host.contains(['/', ' ', '@']);
    text.rsplit_once(':')
        .is_some_and(|(host, port)| sane(host) && port.parse::<u16>().is_ok_and(|port| port > 0))
}
