//! The flags of the roles: the commonest settings by name, every other one by `--set`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use meridian_config::{Loader, Settings};

/// Flags that every role has.
#[derive(Args)]
pub(crate) struct RoleArgs {
    /// The configuration file (TOML); deploy/config documents every key.
    #[arg(long, short, value_name = "FILE", env = "MERIDIAN_CONFIG")]
    config: Option<PathBuf>,
    /// Sets any key, for example --set http.bind=127.0.0.1:7880; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// The flags of a role that is started, or only checked.
#[derive(Args)]
pub(crate) struct Start<T: Args> {
    #[command(flatten)]
    pub(crate) args: T,
    /// Checks the configuration and the files it names, and exits.
    #[arg(long)]
    pub(crate) check: bool,
}

/// Flags of the roles that find each other.
#[derive(Args)]
pub(crate) struct RegistryArgs {
    /// etcd's client URLs, separated by commas; sets registry.kind and registry.endpoints.
    #[arg(long, value_name = "URLS", help_heading = "Settings")]
    etcd: Option<String>,
}

#[derive(Args)]
pub(crate) struct EdgeArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,
    #[command(flatten)]
    registry: RegistryArgs,
    /// Name of this edge, unique in the mesh, as in its certificate: fra-1 [node.id].
    #[arg(long, value_name = "ID", help_heading = "Settings")]
    node_id: Option<String>,
    /// The PoP's region: fra [node.region].
    #[arg(long, help_heading = "Settings")]
    region: Option<String>,
    /// Where signalling and the join API listen [http.bind].
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Settings")]
    http_bind: Option<String>,
    /// What clients are told to connect to: wss://fra-1.example.org [http.public_url].
    #[arg(long, value_name = "URL", help_heading = "Settings")]
    public_url: Option<String>,
    /// Where media is received, UDP; several with commas [media.bind].
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Settings")]
    media_bind: Option<String>,
    /// Addresses that clients are told for media, behind 1:1 NAT; several with commas [media.advertise].
    #[arg(long, value_name = "ADDRESS", help_heading = "Settings")]
    media_advertise: Option<String>,
    /// Where links of other edges arrive, UDP [link.bind].
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Settings")]
    link_bind: Option<String>,
    /// The control plane's gRPC: https://host:8090 [control_plane.url].
    #[arg(long, value_name = "URL", help_heading = "Settings")]
    control_plane: Option<String>,
    /// Folder with this edge's ca.pem, node.pem and node.key [pki.directory].
    #[arg(long, value_name = "DIR", help_heading = "Settings")]
    pki: Option<String>,
}

#[derive(Args)]
pub(crate) struct ControlPlaneArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,
    #[command(flatten)]
    registry: RegistryArgs,
    /// Folder of the database, the certificate authority and the token key [data_directory].
    #[arg(long, value_name = "DIR", help_heading = "Settings")]
    data: Option<String>,
    /// Where the API and the browser app listen [http.bind].
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Settings")]
    http_bind: Option<String>,
    /// Where edges connect by gRPC [grpc.bind].
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Settings")]
    grpc_bind: Option<String>,
    /// The built browser app [http.web_directory].
    #[arg(long, value_name = "DIR", help_heading = "Settings")]
    web: Option<String>,
}

/// Secrets stand in the file or in MERIDIAN_TURN_SECRETS: everybody on a machine can read its processes' flags.
#[derive(Args)]
pub(crate) struct TurnArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,
    /// Where to listen for UDP: 0.0.0.0:3478; several with commas [turn.udp].
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Settings")]
    udp: Option<String>,
    /// Where to listen for TCP [turn.tcp].
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Settings")]
    tcp: Option<String>,
    /// Where to listen for TLS: 0.0.0.0:5349; needs a certificate [turn.tls].
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Settings")]
    tls: Option<String>,
    /// Where to listen for DTLS: 0.0.0.0:5349; needs a certificate of an ECDSA P-256 key [turn.dtls].
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Settings")]
    dtls: Option<String>,
    /// PEM certificate chain for TLS and DTLS [tls.certificate].
    #[arg(long, value_name = "FILE", help_heading = "Settings")]
    certificate: Option<String>,
    /// PEM key of the certificate [tls.private_key].
    #[arg(long, value_name = "FILE", help_heading = "Settings")]
    private_key: Option<String>,
    /// Name under which clients reach this server [turn.host].
    #[arg(long, value_name = "NAME", help_heading = "Settings")]
    host: Option<String>,
    /// Address on which ports are relayed, one per family with commas [turn.relay].
    #[arg(long, value_name = "ADDRESS", help_heading = "Settings")]
    relay: Option<String>,
    /// Address that clients and peers are told instead, behind 1:1 NAT [turn.advertise].
    #[arg(long, value_name = "ADDRESS", help_heading = "Settings")]
    advertise: Option<String>,
    /// Where /metrics, /healthz and /readyz listen [http.bind].
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Settings")]
    http_bind: Option<String>,
}

impl EdgeArgs {
    pub(crate) fn load<T: Settings>(&self) -> anyhow::Result<T> {
        let loader = self
            .registry
            .flags(self.role.loader())
            .flag("--node-id", "node.id", self.node_id.as_ref())
            .flag("--region", "node.region", self.region.as_ref())
            .flag("--http-bind", "http.bind", self.http_bind.as_ref())
            .flag("--public-url", "http.public_url", self.public_url.as_ref())
            .flag("--media-bind", "media.bind", self.media_bind.as_ref())
            .flag("--media-advertise", "media.advertise", self.media_advertise.as_ref())
            .flag("--link-bind", "link.bind", self.link_bind.as_ref())
            .flag("--control-plane", "control_plane.url", self.control_plane.as_ref())
            .flag("--pki", "pki.directory", self.pki.as_ref());
        self.role.finish(loader)
    }
}

impl ControlPlaneArgs {
    pub(crate) fn load<T: Settings>(&self) -> anyhow::Result<T> {
        let loader = self
            .registry
            .flags(self.role.loader())
            .flag("--data", "data_directory", self.data.as_ref())
            .flag("--http-bind", "http.bind", self.http_bind.as_ref())
            .flag("--grpc-bind", "grpc.bind", self.grpc_bind.as_ref())
            .flag("--web", "http.web_directory", self.web.as_ref());
        self.role.finish(loader)
    }
}

impl RegistryArgs {
    fn flags(&self, loader: Loader) -> Loader {
        loader
            .flag("--etcd", "registry.kind", self.etcd.as_ref().map(|_| "etcd"))
            .flag("--etcd", "registry.endpoints", self.etcd.as_ref())
    }
}

impl TurnArgs {
    pub(crate) fn load<T: Settings>(&self) -> anyhow::Result<T> {
        let loader = self
            .role
            .loader()
            .flag("--udp", "turn.udp", self.udp.as_ref())
            .flag("--tcp", "turn.tcp", self.tcp.as_ref())
            .flag("--tls", "turn.tls", self.tls.as_ref())
            .flag("--dtls", "turn.dtls", self.dtls.as_ref())
            .flag("--certificate", "tls.certificate", self.certificate.as_ref())
            .flag("--private-key", "tls.private_key", self.private_key.as_ref())
            .flag("--host", "turn.host", self.host.as_ref())
            .flag("--relay", "turn.relay", self.relay.as_ref())
            .flag("--advertise", "turn.advertise", self.advertise.as_ref())
            .flag("--http-bind", "http.bind", self.http_bind.as_ref());
        self.role.finish(loader)
    }
}

impl RoleArgs {
    fn loader(&self) -> Loader {
        Loader::new("MERIDIAN")
            .file(self.config.clone())
            .ignore_env(&[
                "MERIDIAN_CONFIG",
                "MERIDIAN_LOG",
                "MERIDIAN_LOG_FORMAT",
                "MERIDIAN_ENROLMENT_TOKEN",
                "MERIDIAN_OPERATOR_TOKEN",
                "MERIDIAN_URL",
            ])
            .env(std::env::vars())
    }

    /// `--set` comes last: what is spelt out key by key wins.
    fn finish<T: Settings>(&self, mut loader: Loader) -> anyhow::Result<T> {
        for pair in &self.set {
            let (key, value) = pair
                .split_once('=')
                .with_context(|| format!("--set {pair}: want KEY=VALUE"))?;
            loader = loader.flag("--set", key, Some(value));
        }
        Ok(loader.load::<T>()?.value)
    }
}
