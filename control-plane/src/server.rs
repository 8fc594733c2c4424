//! Starts and stops one control plane: files, database, registry view, HTTP and gRPC.

use crate::accounts::{AccountStore, Accounts, SqliteAccounts};
use crate::config::{ControlPlaneConfig, TurnConfig};
use crate::database::{Database, StoreError, now_ms};
use crate::fleet::Fleet;
use crate::grpc::EdgeControlService;
use crate::http::{self, App, Rate};
use crate::learning::Learning;
use crate::meetings::join::{JoinParts, JoinService};
use crate::meetings::{MeetingStore, SqliteMeetings};
use crate::metrics::Metrics;
use crate::operators::{Operators, OperatorsService};
use crate::passwords::Passwords;
use crate::placement::FleetWorld;
use crate::replicas::{self, ReplicasService, Sharing};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meridian_access::limits::Limiter;
use meridian_access::token::{KeyRing, SigningKey, TokenError};
use meridian_geo::GeoDatabase;
use meridian_geodns::{DnsError, GeoDns};
use meridian_pki::{CertificateAuthority, NodeIdentity, PkiError, write_secret};
use meridian_process::Vital;
use meridian_registry::nodes::{KeeperConfig, NodeWatch, View};
use meridian_registry::{Registration, SharedRegistry};
use meridian_serving::listener;
use meridian_wire::v1;
use meridian_wire::v1::edge_control_server::EdgeControlServer;
use meridian_wire::v1::operators_server::OperatorsServer;
use meridian_wire::v1::replicas_server::ReplicasServer;
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;

/// How often edges report their load.
const LOAD_INTERVAL: Duration = Duration::from_secs(1);
const PURGE_EVERY: Duration = Duration::from_secs(6 * 3600);
/// A page load takes six connections, a join one; a company behind one address still has its morning.
const HTTP_LIMITS: listener::Limits = listener::Limits {
    connections: 8_192,
    connections_per_address: 256,
};
/// Open requests may take this long to finish when the process stops.
const GRACE: Duration = Duration::from_secs(2);

/// Why a control plane did not start. Each says which file, address or setting is meant.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("http.bind: {0}")]
    NeedsCertificate(String),
    #[error("{what} cannot listen on {address}: {source}")]
    Listen {
        what: &'static str,
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("{path}: {source}", path = path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("token.key: {0}")]
    SigningKey(#[from] TokenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Dns(#[from] DnsError),
    #[error("gRPC: {0}")]
    Grpc(#[from] tonic::transport::Error),
}

/// A running control plane. [`Self::shutdown`] stops it; dropping it stops it without waiting.
pub struct ControlPlane {
    http_address: SocketAddr,
    https: bool,
    grpc_address: SocketAddr,
    authority: Arc<CertificateAuthority>,
    keys: KeyRing,
    joins: Arc<JoinService>,
    database: Database,
    dns: Option<Arc<GeoDns>>,
    /// This replica's record in the registry; absent if others could not reach it.
    announced: Option<Registration>,
    shutdown: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    vital: Vital,
    rereadable: Rereadable,
}

/// What may change while a control plane runs.
struct Rereadable {
    policy: watch::Sender<v1::Policy>,
    operator_tokens: watch::Sender<Vec<String>>,
    enrolment_tokens: watch::Sender<Vec<String>>,
}

impl ControlPlane {
    /// Starts, and returns once both ports listen. Edges need not be there yet.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: ControlPlaneConfig, registry: SharedRegistry) -> Result<Self, StartError> {
        meridian_access::install_crypto();
        config.http.keys().may_bind().map_err(StartError::NeedsCertificate)?;
        private_directory(&config.data_directory).map_err(|source| StartError::File {
            path: config.data_directory.clone(),
            source,
        })?;
        let authority = Arc::new(CertificateAuthority::load_or_create(
            &config.data_directory.join("pki"),
        )?);
        let signing_key = Arc::new(signing_key(&config.data_directory.join("pki/token.key"))?);
        let keys = key_ring(&config, &signing_key);
        let database = Database::open(&config.data_directory.join("meridian.db")).await?;
        let (shutdown, stopped) = watch::channel(false);
        // Vanishing "together" must span a lease: leases end at different moments.
        let window = Duration::from_secs(config.registry.lease_s + 2);
        let nodes = NodeWatch::start(
            registry.clone(),
            KeeperConfig {
                window,
                ..KeeperConfig::default()
            },
        );
        let seen = follows(nodes.view(), stopped.clone());
        let fleet = Arc::new(Fleet::new(nodes, config.assignment.clone()));
        fleet.take_wanted(database.load_wanted().await?, Instant::now(), now_ms());
        let learning = Arc::new(learning(&config, &signing_key));
        let saved = learning.load(&database).await;
        let turn = TurnConfig {
            secret: turn_secret(&config.turn, &signing_key),
            regions: turn_regions(&config),
            ..config.turn.clone()
        };
        let policy = watch::Sender::new(policy(&turn, &keys));
        let operator_tokens = watch::Sender::new(config.operator_tokens.clone());
        let enrolment_tokens = watch::Sender::new(config.enrolment_tokens.clone());
        let operators = Arc::new(Operators::new(operator_tokens.subscribe()));
        let metrics = Arc::new(Metrics::default());
        let meetings: Arc<dyn MeetingStore> = Arc::new(SqliteMeetings(database.clone()));
        let passwords = Passwords::default();
        let account_store: Arc<dyn AccountStore> = Arc::new(SqliteAccounts(database.clone()));
        let accounts = Accounts::new(
            account_store.clone(),
            config.accounts.clone(),
            signing_key.clone(),
            keys.clone(),
            passwords.clone(),
        );
        let joins = Arc::new(JoinService::new(JoinParts {
            store: meetings.clone(),
            fleet: fleet.clone(),
            metrics: metrics.clone(),
            learning: learning.clone(),
            policy: config.assignment.clone(),
            turn,
            signing_key,
            passwords,
            keys: keys.clone(),
            limits: config.limits.clone(),
            demo: config.demo,
        }));
        let dns = match config.dns.is_on() {
            true => Some(Arc::new(
                GeoDns::start(&config.dns, FleetWorld::new(joins.clone())).await?,
            )),
            false => None,
        };
        let (http_address, http) = serve_http(
            &config,
            joins.clone(),
            accounts,
            database.clone(),
            dns.clone(),
            operators.clone(),
            stopped.clone(),
        )
        .await?;
        let service = EdgeControlService {
            joins: joins.clone(),
            fleet: fleet.clone(),
            metrics,
            authority: authority.clone(),
            policy: policy.subscribe(),
            enrolment_tokens: enrolment_tokens.subscribe(),
            enrolments: Limiter::new(10),
            shutdown: stopped.clone(),
        };
        let purge = purge(
            meetings,
            account_store,
            config.limits.meeting_idle_days,
            stopped.clone(),
        );
        let learn = learning.clone().run(database.clone(), saved, stopped.clone());
        let sharing = Sharing {
            id: config.id.clone(),
            identity: authority.issue_control_plane(&config.id, &config.grpc.names)?,
            fleet,
            learning,
        };
        let desk = OperatorsService {
            operators,
            fleet: sharing.fleet.clone(),
            database: database.clone(),
        };
        let (grpc_address, grpc) = serve_grpc(&config, &sharing, service, desk, stopped).await?;
        let announced = announce(&config, grpc_address, registry.clone());
        let tell = tell(registry, sharing, shutdown.subscribe());
        let vital = Vital::default();
        let tasks = vec![
            tokio::spawn(vital.task("HTTP", http)),
            tokio::spawn(vital.task("gRPC", grpc)),
            tokio::spawn(vital.task("the removal of unused meetings", purge)),
            tokio::spawn(vital.task("what is told to other control planes", tell)),
            tokio::spawn(vital.task("learning", learn)),
            tokio::spawn(vital.task("the view of the registry", seen)),
        ];
        tracing::info!(%http_address, %grpc_address, "control plane started");
        let https = config.http.certificate.is_some();
        Ok(ControlPlane {
            http_address,
            https,
            grpc_address,
            authority,
            keys,
            joins,
            database,
            dns,
            announced,
            shutdown,
            tasks,
            vital,
            rereadable: Rereadable {
                policy,
                operator_tokens,
                enrolment_tokens,
            },
        })
    }

    /// Where HTTP listens (the real port, if 0 was configured).
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// `http://` or `https://` and [`Self::http_address`]; `localhost` on loopback, because browsers give cameras to that name.
    pub fn http_url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        match self.http_address.ip().is_loopback() {
            true => format!("{scheme}://localhost:{}", self.http_address.port()),
            false => format!("{scheme}://{}", self.http_address),
        }
    }

    /// Where edges connect.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc_address
    }

    /// Where DNS is served, if it is.
    pub fn dns_addresses(&self) -> &[SocketAddr] {
        self.dns.as_deref().map_or(&[], GeoDns::addresses)
    }

    /// Signs nodes' certificates.
    pub fn certificate_authority(&self) -> &CertificateAuthority {
        &self.authority
    }

    /// What edges verify tokens with; they also get it as the first command of their stream.
    pub fn key_ring(&self) -> &KeyRing {
        &self.keys
    }

    /// The join service, for callers in this process.
    pub fn joins(&self) -> &Arc<JoinService> {
        &self.joins
    }

    /// What is known about the edges.
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.joins.fleet
    }

    /// Takes over what may change while a control plane runs: API keys, operators' and enrolment tokens. The rest of `config` is not looked
    /// at. (If it started without any enrolment token, edges without certificates cannot connect until the next start.)
    pub fn reread(&self, config: &ControlPlaneConfig) {
        let mut keys = KeyRing::new();
        for key in self.keys.public_keys() {
            keys.add_public_key(key.clone());
        }
        for (key, secret) in &config.api_keys {
            keys.add_api_key(key, secret);
        }
        let known = &self.rereadable;
        known.policy.send_modify(|policy| {
            *policy = v1::Policy {
                version: policy.version,
                turn: policy.turn.clone(),
                load_interval_ms: policy.load_interval_ms,
                ..v1::Policy::from(&keys)
            };
        });
        known.operator_tokens.send_replace(config.operator_tokens.clone());
        known.enrolment_tokens.send_replace(config.enrolment_tokens.clone());
    }

    /// Waits until a part has ended that this control plane cannot go on without, and names it. [`Self::shutdown`] it.
    pub async fn failure(&self) -> &'static str {
        self.vital.failure().await
    }

    /// Stops listening, lets open requests finish for two seconds, closes the database.
    pub async fn shutdown(mut self) {
        self.vital.stopping();
        if let Some(announced) = self.announced.take() {
            // Others stop telling us; if the registry does not answer, the lease ends by itself.
            let _ = tokio::time::timeout(GRACE, announced.leave()).await;
        }
        self.shutdown.send_replace(true);
        for mut task in std::mem::take(&mut self.tasks) {
            if tokio::time::timeout(GRACE, &mut task).await.is_err() {
                task.abort();
            }
        }
        self.database.close().await;
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.shutdown.send_replace(true);
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Makes the directory if need be; from now on nobody else reads in it. One that belongs to somebody else stays as it is.
fn private_directory(path: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(path)?;
    if let Err(error) = std::fs::set_permissions(path, Permissions::from_mode(0o700)) {
        tracing::warn!(path = %path.display(), %error, "data_directory: others may be able to read it");
    }
    Ok(())
}

fn learning(config: &ControlPlaneConfig, signing_key: &SigningKey) -> Learning {
    let open = |path: Option<&Path>| path.map_or_else(GeoDatabase::none, GeoDatabase::open);
    let places = open(config.geo.database.as_deref());
    let systems = open(config.geo.asn_database.as_deref());
    // Replicas share the signing key, so they tag addresses alike.
    let secret = signing_key.to_pem();
    Learning::new(places, systems, config.learning.clone(), secret.as_bytes())
}

/// Puts this replica into the registry, so that others tell it what they do.
fn announce(config: &ControlPlaneConfig, bound: SocketAddr, registry: SharedRegistry) -> Option<Registration> {
    let address = match &config.grpc.advertise {
        Some(advertised) => advertised.clone(),
        None if !bound.ip().is_unspecified() => bound.to_string(),
        None => {
            tracing::info!(
                "grpc.bind is every address and grpc.advertise is not set: other control planes cannot tell this one what they do"
            );
            return None;
        }
    };
    let ttl = Duration::from_secs(config.registry.lease_s);
    Some(replicas::announce(
        registry,
        &config.id,
        format!("https://{address}"),
        ttl,
    ))
}

async fn tell(registry: SharedRegistry, sharing: Sharing, mut stopped: watch::Receiver<bool>) {
    tokio::select! {
        () = replicas::tell_all(registry, sharing) => {}
        _ = stopped.wait_for(|down| *down) => {}
    }
}

/// Ends when nothing is written into the view any more, or on stopping.
async fn follows(mut view: watch::Receiver<Arc<View>>, mut stopped: watch::Receiver<bool>) {
    tokio::select! {
        () = async { while view.changed().await.is_ok() {} } => {}
        _ = stopped.wait_for(|down| *down) => {}
    }
}

/// Removes meetings that nobody uses any more, and sessions that have expired, now and then.
async fn purge(
    meetings: Arc<dyn MeetingStore>,
    accounts: Arc<dyn AccountStore>,
    idle_days: u32,
    mut stopped: watch::Receiver<bool>,
) {
    let mut ticks = tokio::time::interval(PURGE_EVERY);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.changed() => return,
        }
        let before_ms = now_ms().saturating_sub(u64::from(idle_days) * 24 * 3600 * 1000);
        match meetings.purge(before_ms).await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, idle_days, "unused meetings removed"),
            Err(error) => tracing::warn!(%error, "unused meetings could not be removed"),
        }
        if let Err(error) = accounts.purge(now_ms()).await {
            tracing::warn!(%error, "expired sessions could not be removed");
        }
    }
}

/// The key that signs join tokens, made on the first start.
fn signing_key(path: &Path) -> Result<SigningKey, StartError> {
    match std::fs::read_to_string(path) {
        Ok(pem) => Ok(SigningKey::from_pem(&pem)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = SigningKey::generate()?;
            write_secret(path, &key.to_pem())?;
            Ok(key)
        }
        Err(source) => Err(StartError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

fn key_ring(config: &ControlPlaneConfig, signing_key: &SigningKey) -> KeyRing {
    let mut keys = KeyRing::new().with_public_key(signing_key.public_key().clone());
    for (key, secret) in &config.api_keys {
        keys.add_api_key(key, secret);
    }
    keys
}

/// What TURN credentials are made with. If nobody configured a secret (edges need none of the operator's), it follows from the key that
/// signs tokens: so replicas that share the one agree on the other, and it outlives restarts.
fn turn_secret(configured: &TurnConfig, signing_key: &SigningKey) -> String {
    if !configured.secret.is_empty() {
        return configured.secret.clone();
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, signing_key.to_pem().as_bytes());
    URL_SAFE_NO_PAD.encode(hmac::sign(&key, b"meridian turn secret, version 1"))
}

/// The configured TURN servers by region, as far as people may be placed there.
fn turn_regions(config: &ControlPlaneConfig) -> BTreeMap<String, Vec<String>> {
    let within = |region: &str| meridian_geo::regions::lies_within(region, &config.assignment.residency);
    let regions = config.turn.regions.clone().into_iter();
    regions.filter(|(region, _)| within(region)).collect()
}

fn policy(turn: &TurnConfig, keys: &KeyRing) -> v1::Policy {
    v1::Policy {
        version: 1,
        turn: Some(v1::TurnPolicy {
            urls: turn.urls.clone(),
            secret: turn.secret.clone(),
            ttl_s: turn.ttl_s,
            regional: turn
                .regions
                .iter()
                .map(|(region, urls)| v1::RegionalTurn {
                    region: region.clone(),
                    urls: urls.clone(),
                })
                .collect(),
        }),
        load_interval_ms: u32::try_from(LOAD_INTERVAL.as_millis()).unwrap_or(1000),
        ..v1::Policy::from(keys)
    }
}

async fn listen(what: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { what, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

async fn serve_http(
    config: &ControlPlaneConfig,
    joins: Arc<JoinService>,
    accounts: Accounts,
    database: Database,
    dns: Option<Arc<GeoDns>>,
    operators: Arc<Operators>,
    stopped: watch::Receiver<bool>,
) -> Result<(SocketAddr, impl Future<Output = ()> + use<>), StartError> {
    let rate = Rate::new(config.limits.requests_per_minute_address);
    let config = &config.http;
    let (socket, address) = listen("HTTP", config.bind).await?;
    let proxies = config.keys().proxies();
    let app = App {
        joins,
        accounts,
        database,
        dns,
        operators,
        rate,
        trusted_proxies: proxies.clone(),
        allowed_origins: config.allowed_origins.clone(),
        web_directory: config.web_directory.clone(),
        edge_origins: config.edge_origins.clone(),
    };
    let certificate = config.keys().certificate()?;
    let tls = certificate
        .as_deref()
        .map(|one| listener::https(one, &[]))
        .transpose()?;
    let follow = certificate.map(|one| one.follow(stopped.clone(), |_| ()));
    let server = listener::Server {
        router: http::router(Arc::new(app)),
        tls,
        limits: HTTP_LIMITS,
        takeover: None,
        is_proxy: Box::new(move |address| proxies.iter().any(|network| network.contains(address))),
        stopped,
    };
    let serving = async move {
        let follow = async {
            if let Some(follow) = follow {
                follow.await;
            }
        };
        tokio::join!(listener::serve(socket, server), follow);
    };
    Ok((address, serving))
}

async fn serve_grpc(
    config: &ControlPlaneConfig,
    sharing: &Sharing,
    service: EdgeControlService,
    desk: OperatorsService,
    mut stopped: watch::Receiver<bool>,
) -> Result<(SocketAddr, impl Future<Output = ()> + use<>), StartError> {
    let identity: &NodeIdentity = &sharing.identity;
    let replicas = ReplicasService {
        id: sharing.id.clone(),
        fleet: sharing.fleet.clone(),
        learning: sharing.learning.clone(),
        database: desk.database.clone(),
        shutdown: stopped.clone(),
    };
    let (listener, address) = listen("gRPC", config.grpc.bind).await?;
    let enrolment = !config.enrolment_tokens.is_empty();
    let router = tonic::transport::Server::builder()
        .tls_config(identity.tonic_server(enrolment))?
        // Finds out within seconds about an edge that vanished without a word.
        .http2_keepalive_interval(Some(Duration::from_secs(2)))
        .http2_keepalive_timeout(Some(Duration::from_secs(3)))
        .add_service(EdgeControlServer::new(service))
        .add_service(OperatorsServer::new(desk))
        .add_service(ReplicasServer::new(replicas));
    let until = async move {
        let _ = stopped.wait_for(|down| *down).await;
    };
    let incoming = TcpListenerStream::new(listener);
    let serving = async move { report("gRPC", router.serve_with_incoming_shutdown(incoming, until).await) };
    Ok((address, serving))
}

fn report<E: std::fmt::Display>(what: &str, result: Result<(), E>) {
    if let Err(error) = result {
        tracing::error!(%error, "{what} server ended");
    }
}
