//! One edge: starts its parts in order, holds what they share, stops them in the reverse order.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use meridian_access::limits::Limiter;
use meridian_access::network::Network;
use meridian_access::token::KeyRing;
use meridian_conference::{CloseKind, Input, SessionReport};
use meridian_pki::{NodeIdentity, PkiError};
use meridian_process::Vital;
use meridian_registry::nodes::{KeeperConfig, NODE_RECORD_VERSION, NodeRecord, NodeState, NodeWatch, View, announce};
use meridian_registry::{RegistrationState, RegistryError, SharedRegistry};
use meridian_room::{NodeId, RoomName};
use meridian_serving::listener;
use meridian_shard::{Shards, ShardsConfig, TapSenders};
use meridian_transport::{DtlsIdentity, Fingerprint};
use meridian_wire::v1;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::address::public_addresses;
use crate::config::EdgeConfig;
use crate::control::{self, ControlError, ControlPlane};
use crate::http;
use crate::link::{LinkConfig, LinkEndpoint, LinkError};
use crate::media::{self, MediaRouter};
use crate::mesh::{self, MeshHandle};
use crate::recording::{self, RecorderError, RecorderHandle};
use crate::rooms::{Rooms, ToRoom};
use crate::turn::{self, Turn};
use crate::usage::UsageMeter;

/// Media events that may wait for the router task.
const MEDIA_EVENTS: usize = 8_192;
/// Batches of media that may wait for the mesh.
const TAP_BATCHES: usize = 4_096;
/// Events of links that may wait for the mesh.
const LINK_EVENTS: usize = 4_096;
/// Ends of sessions that may wait for the control plane.
const SESSION_REPORTS: usize = 4_096;
/// One per client, for as long as it stays; a large office behind one address is one address.
const HTTP_LIMITS: listener::Limits = listener::Limits {
    connections: 65_536,
    connections_per_address: 2_048,
};
/// How long an edge that has API keys of its own waits for the control plane's before it is announced without them.
const FIRST_POLICY: Duration = Duration::from_secs(3);
/// How long stopping waits until everybody who follows the registry can know that this edge takes nobody new.
const LEAVE_PLACEMENT: Duration = Duration::from_secs(1);
/// How long stopping waits for clients to read their goodbye.
const GOODBYE: Duration = Duration::from_millis(500);
/// How often media threads are looked after.
const THREAD_LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error("http.bind: cannot listen on {address}: {error}")]
    Http { address: SocketAddr, error: std::io::Error },
    #[error("media.bind: {0}")]
    Media(std::io::Error),
    #[error("DTLS certificate: {0}")]
    Dtls(String),
    #[error("turn: {0}")]
    Turn(meridian_turn::io::StartError),
    #[error("turn.dtls, http.certificate, http.private_key: {0}")]
    TurnDtls(meridian_turn::io::DtlsIdentityError),
    #[error("http.certificate, http.private_key: {0}")]
    Tls(PkiError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("pki.directory: {0}")]
    Pki(#[from] PkiError),
    #[error("node.id is {configured}, but the certificate in pki.directory is {certified}'s")]
    OtherNode { configured: String, certified: String },
    #[error(transparent)]
    Recorder(#[from] RecorderError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// Where the keys of tokens come from.
#[derive(Default)]
struct KeySources {
    policy: KeyRing,
    configured: BTreeMap<String, String>,
}

/// What all parts of an edge share.
pub(crate) struct EdgeState {
    pub(crate) config: EdgeConfig,
    pub(crate) node: NodeId,
    /// What clients connect to.
    pub(crate) url: String,
    /// When this process started, milliseconds since 1970.
    pub(crate) incarnation: u64,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) shards: Shards,
    pub(crate) router: MediaRouter,
    pub(crate) rooms: Rooms,
    pub(crate) recorder: RecorderHandle,
    pub(crate) mesh: MeshHandle,
    pub(crate) control: Option<ControlPlane>,
    pub(crate) turn: Arc<Turn>,
    /// Reverse proxies whose `X-Forwarded-For` is believed.
    pub(crate) trusted_proxies: Vec<Network>,
    /// How often an address may ask `/probe`.
    pub(crate) probes: Limiter<IpAddr>,
    /// Ends of sessions, for the control plane; dropped when it is away for long.
    sessions: mpsc::Sender<v1::SessionReport>,
    /// What GeoDNS answers with.
    addresses: Vec<IpAddr>,
    media: Vec<SocketAddr>,
    link: SocketAddr,
    keys: watch::Sender<Arc<KeyRing>>,
    key_sources: Mutex<KeySources>,
    /// What the registry makes of this edge.
    registration: watch::Sender<RegistrationState>,
    /// The control plane's token keys and TURN secret have been here at least once.
    policy_known: watch::Sender<bool>,
    control_connected: AtomicBool,
    /// The control plane has said that it sends nobody here any more.
    leaving_noted: watch::Sender<bool>,
    state: watch::Sender<NodeState>,
    stop: watch::Sender<bool>,
    /// After `stop`, once nobody needs the HTTP port any more.
    closed: watch::Sender<bool>,
    usage: UsageMeter,
    /// Parts without which nobody is served well.
    vital: Vital,
}

impl EdgeState {
    pub(crate) fn keys(&self) -> Arc<KeyRing> {
        self.keys.borrow().clone()
    }

    /// Keys of the control plane's policy, beside those of the configuration.
    pub(crate) fn set_keys(&self, keys: KeyRing) {
        self.change_keys(|sources| sources.policy = keys);
    }

    fn change_keys(&self, change: impl FnOnce(&mut KeySources)) {
        let mut sources = self.key_sources.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut sources);
        let mut keys = sources.policy.clone();
        for (key, secret) in &sources.configured {
            keys.add_api_key(key, secret);
        }
        // Under the lock, so that the last change is what remains.
        self.keys.send_replace(Arc::new(keys));
    }

    pub(crate) fn policy_known(&self) {
        self.policy_known.send_replace(true);
    }

    /// Once people who are sent here are let in: both their tokens and their TURN credentials may be the control plane's.
    async fn can_admit(&self) {
        if self.control.is_some() {
            let mut known = self.policy_known.subscribe();
            // Whoever has API keys of its own serves those when the control plane is away.
            let _ = tokio::time::timeout(FIRST_POLICY, known.wait_for(|known| *known)).await;
        }
        let _ = self.keys.subscribe().wait_for(|keys| !keys.is_empty()).await;
    }

    /// Notes whether the stream to the control plane stands; returns whether it did before.
    pub(crate) fn control_connected(&self, connected: bool) -> bool {
        let before = self.control_connected.swap(connected, Ordering::Relaxed);
        if before != connected {
            tracing::info!(connected, "control plane");
        }
        before
    }

    pub(crate) fn set_state(&self, state: v1::NodeState) {
        let state = match state {
            v1::NodeState::Cordoned => NodeState::Cordoned,
            v1::NodeState::Draining => NodeState::Draining,
            v1::NodeState::Active | v1::NodeState::Unspecified => NodeState::Active,
        };
        // Who stops has said so for good.
        self.state.send_if_modified(|current| {
            let changed = *current != state && *current != NodeState::Leaving;
            if changed {
                *current = state;
            }
            changed
        });
        // Who is here may need another allocation as long as nobody sends them away.
        let leaving = matches!(*self.state.borrow(), NodeState::Draining | NodeState::Leaving);
        self.turn.set_draining(leaving);
    }

    /// Why this edge should get nobody new, if so.
    pub(crate) fn not_ready(&self) -> Option<&'static str> {
        if self.is_stopping() {
            return Some("stopping");
        }
        if self.vital.failed().is_some() {
            return Some("a vital part has ended: this process is about to");
        }
        match *self.registration.borrow() {
            // Without keys it does not try to register: what it lacks is what it says.
            RegistrationState::Starting => {
                return self.refuses().or(Some(
                    "not registered yet: the registry has not been reached, or refuses",
                ));
            }
            RegistrationState::Superseded => return Some("another process has registered this edge's name"),
            // Others may miss this edge for a while, but an outage of the registry is none of the edge's.
            RegistrationState::Registered | RegistrationState::Lost => {}
        }
        self.refuses()
    }

    /// Why people who are sent here are not let in, or should not be sent, if so; whoever asks sees whether this edge is registered.
    fn refuses(&self) -> Option<&'static str> {
        match *self.state.borrow() {
            NodeState::Active if self.keys().is_empty() => {
                Some("no token keys yet: the control plane has not been reached")
            }
            NodeState::Active => None,
            NodeState::Cordoned => Some("cordoned"),
            NodeState::Leaving => Some("stopping"),
            _ => Some("draining"),
        }
    }

    /// Whether everybody has been sent away for good.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Once this edge has begun to stop.
    pub(crate) async fn leaving(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| *state == NodeState::Leaving).await;
    }

    pub(crate) fn leaving_noted(&self) {
        self.leaving_noted.send_replace(true);
    }

    /// Once the control plane sends nobody here any more. It does not wait for one that is away.
    async fn control_lets_go(&self) {
        if self.control_connected.load(Ordering::Relaxed) {
            let _ = self.leaving_noted.subscribe().wait_for(|noted| *noted).await;
        }
    }

    pub(crate) async fn stopped(&self) {
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    pub(crate) fn hello(&self) -> v1::Hello {
        v1::Hello {
            protocol: 1,
            node: self.node.to_string(),
            region: self.config.node.region.clone(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            client_url: self.url.clone(),
            media: self.media.iter().map(ToString::to_string).collect(),
            link: self.link.to_string(),
            capacity: self.config.node.capacity,
            incarnation: self.incarnation,
        }
    }

    pub(crate) fn load(&self) -> v1::LoadReport {
        let rooms: Vec<v1::RoomLoad> = self
            .rooms
            .people()
            .into_iter()
            .map(|(room, participants)| v1::RoomLoad {
                room: room.to_string(),
                participants,
            })
            .collect();
        let rates = self.usage.sample(&self.shards);
        v1::LoadReport {
            participants: rooms.iter().map(|room| room.participants).sum(),
            cpu: rates.cpu,
            tx_mbps: rates.tx_mbps,
            rx_mbps: rates.rx_mbps,
            tx_packets_per_s: rates.tx_packets_per_s,
            rooms,
            accepting: !self.is_stopping() && self.vital.failed().is_none() && self.refuses().is_none(),
        }
    }

    /// What a session was like, once it has ended and while a long one lasts.
    pub(crate) fn report_session(&self, room: &RoomName, report: SessionReport) {
        let report = v1::SessionReport {
            room: room.to_string(),
            participant: report.participant.to_string(),
            client_address: report.address.to_string(),
            rtt_ms: report.rtt_ms,
            samples: report.samples,
            duration_ms: report.duration.as_millis() as u64,
            ended: report.ended,
        };
        // The map learns from many: one that finds the queue full is no loss.
        let _ = self.sessions.try_send(report);
    }

    pub(crate) async fn close_room(&self, room: &str) {
        if let Some(room) = self.rooms.get(&RoomName::new(room)) {
            let _ = room.send(ToRoom::Input(Input::Close(CloseKind::RoomClosed))).await;
        }
    }

    fn record(&self) -> NodeRecord {
        NodeRecord {
            version: NODE_RECORD_VERSION,
            id: self.node.to_string(),
            region: self.config.node.region.clone(),
            lat: self.config.node.latitude,
            lon: self.config.node.longitude,
            client_url: self.url.clone(),
            addresses: self.addresses.clone(),
            media: self.media.clone(),
            link: Some(self.link),
            turn: self.turn.urls().to_vec(),
            state: *self.state.borrow(),
            capacity: self.config.node.capacity,
            software: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation: self.incarnation,
        }
    }
}

/// A running edge. [`Edge::stop`] it; dropping it leaves tasks behind.
pub struct Edge {
    state: Arc<EdgeState>,
    tasks: JoinSet<()>,
    view: watch::Receiver<Arc<View>>,
}

impl Edge {
    /// Starts every part and returns once clients can connect. The registry learns of the edge shortly after.
    ///
    /// # Errors
    /// Addresses that cannot be bound, certificates that cannot be read; each names the configuration key.
    pub async fn start(
        config: EdgeConfig,
        registry: SharedRegistry,
        identity: NodeIdentity,
    ) -> Result<Edge, EdgeError> {
        check_identity(&config, &identity)?;
        let node = NodeId::new(config.node.id.clone());
        let listener = TcpListener::bind(config.http.bind)
            .await
            .map_err(|error| EdgeError::Http {
                address: config.http.bind,
                error,
            })?;
        let http_address = listener.local_addr().map_err(|error| EdgeError::Http {
            address: config.http.bind,
            error,
        })?;
        let shared: &[&[u8]] = if config.turn.is_on() { &turn::ALPN } else { &[] };
        let certificate = config.http.keys().certificate().map_err(EdgeError::Tls)?;
        let tls = certificate.as_deref().map(|one| listener::https(one, shared));
        let tls = tls.transpose().map_err(EdgeError::Tls)?;
        let dtls = Arc::new(DtlsIdentity::generate().map_err(|error| EdgeError::Dtls(error.to_string()))?);
        let (events, media_events) = mpsc::channel(MEDIA_EVENTS);
        let (mesh_taps, tapped) = mpsc::channel(TAP_BATCHES);
        let (recorder_taps, recorded) = mpsc::channel(TAP_BATCHES);
        let taps = TapSenders {
            mesh: mesh_taps,
            recorder: recorder_taps,
        };
        let shards = Shards::start(shards_config(&config), dtls.clone(), events, taps).map_err(EdgeError::Media)?;
        let turn = Arc::new(Turn::start(&config, certificate.as_deref(), http_address, &shards)?);
        let (link_events, links) = mpsc::channel(LINK_EVENTS);
        let link_config = LinkConfig::new(node.clone(), config.link.bind, identity.clone());
        let endpoint = LinkEndpoint::start(link_config, link_events).await?;
        let bound = endpoint.local_addr().map_err(|source| LinkError::Bind {
            addr: config.link.bind,
            source,
        })?;
        let link = config.link.advertise.unwrap_or(bound);
        let control = ControlPlane::new(&config, &identity)?;
        let (recorder_handle, recorder) = RecorderHandle::new(&config.recording)?;
        let (mesh, to_mesh) = MeshHandle::new();
        let (sessions, ended_sessions) = mpsc::channel(SESSION_REPORTS);
        let state = Arc::new(EdgeState {
            sessions,
            url: client_url(&config, http_address),
            addresses: public_addresses(&config, http_address),
            probes: Limiter::new(http::PROBES_PER_MINUTE),
            incarnation: unix_now_ms(),
            fingerprint: dtls.fingerprint(),
            media: (0..shards.len() as u16)
                .flat_map(|shard| shards.candidates(meridian_shard::PeerId { shard, index: 0 }))
                .collect(),
            trusted_proxies: config.http.keys().proxies(),
            link,
            shards,
            router: MediaRouter::new(),
            rooms: Rooms::new(),
            recorder: recorder_handle,
            mesh,
            control: control.clone(),
            keys: watch::Sender::default(),
            key_sources: Mutex::default(),
            registration: watch::Sender::new(RegistrationState::Starting),
            policy_known: watch::Sender::default(),
            turn,
            control_connected: AtomicBool::new(false),
            leaving_noted: watch::Sender::new(false),
            state: watch::Sender::new(NodeState::Active),
            stop: watch::Sender::new(false),
            closed: watch::Sender::new(false),
            usage: UsageMeter::new(),
            vital: Vital::default(),
            node,
            config,
        });
        state.change_keys(|sources| sources.configured = state.config.api_keys.clone());
        let vital = state.vital.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(vital.task("the routing of media events", media::route(state.clone(), media_events)));
        tasks.spawn(look_after_threads(state.clone()));
        // Vanishing "together" must span a lease: leases end at different moments.
        let window = Duration::from_secs(state.config.registry.lease_s + 2);
        let nodes = NodeWatch::start(
            registry.clone(),
            KeeperConfig {
                window,
                ..KeeperConfig::default()
            },
        );
        let view = nodes.view();
        let inputs = mesh::Inputs {
            endpoint,
            links,
            tapped,
            rooms: to_mesh,
            nodes,
        };
        tasks.spawn(vital.task("the mesh", mesh::run(state.clone(), inputs)));
        if let Some(control) = control {
            let control = control::run(state.clone(), control, ended_sessions);
            tasks.spawn(vital.task("the connection to the control plane", control));
        }
        if let Some(certificate) = certificate {
            let turn = state.turn.clone();
            let follow = certificate.follow(state.closed.subscribe(), move |pem| turn.renew_certificate(pem));
            tasks.spawn(vital.task("the following of certificates", follow));
        }
        if let Some(recorder) = recorder {
            let name = state.node.to_string();
            let uploader = recorder
                .start(name, recorded, recording::commands(&state))
                .map_err(RecorderError::Thread)?;
            tasks.spawn(vital.task("the uploading of recordings", uploader.run()));
        }
        tasks.spawn(vital.task("HTTP", serve(state.clone(), listener, tls)));
        tasks.spawn(vital.task("the registration", register(state.clone(), registry)));
        tracing::info!(node = %state.node, url = state.url, link = %state.link, media = ?state.media, "edge started");
        Ok(Edge { state, tasks, view })
    }

    pub fn id(&self) -> &str {
        self.state.node.as_str()
    }

    /// What clients connect to.
    pub fn url(&self) -> &str {
        &self.state.url
    }

    /// What clients call the TURN server in it; empty without one.
    pub fn turn_urls(&self) -> &[String] {
        self.state.turn.urls()
    }

    /// Takes over what may change while an edge runs: its API keys, and who may use its TURN server. The rest of `config` is not looked at.
    pub fn reread(&self, config: &EdgeConfig) {
        self.state
            .change_keys(|sources| sources.configured = config.api_keys.clone());
        self.state.turn.set_configured(config.turn.credentials());
    }

    /// Waits until a part has ended without which people are not served, and names it. Such an edge gets nobody new; [`Edge::stop`] it.
    pub async fn failure(&self) -> &'static str {
        self.state.vital.failure().await
    }

    /// Leaves placement, tells every client to come back elsewhere, leaves the registry and the mesh, waits for the embedded TURN
    /// server's allocations to end (at most `turn.drain_s`), stops. Dropping the future ends the waiting at once.
    pub async fn stop(mut self) {
        self.state.vital.stopping();
        // First, or those who are sent away now would be sent back here.
        self.state.state.send_replace(NodeState::Leaving);
        self.state.turn.set_draining(true);
        let own = self.state.node.as_str();
        let seen = async {
            let is_gone = |view: &Arc<View>| view.get(own).is_none_or(|record| record.state == NodeState::Leaving);
            let _ = self.view.wait_for(is_gone).await;
        };
        let _ = tokio::time::timeout(LEAVE_PLACEMENT, async {
            // The control plane's view of the registry may be behind ours: it says so itself.
            tokio::join!(seen, self.state.control_lets_go())
        })
        .await;
        for room in self.state.rooms.all() {
            let _ = room.send(ToRoom::Input(Input::Close(CloseKind::EdgeLeaves))).await;
        }
        let _ = tokio::time::timeout(GOODBYE, self.state.rooms.emptied()).await;
        self.state.stop.send_replace(true);
        self.state.shards.shutdown();
        // Those who are left relay between others, perhaps by TLS on the HTTP port, whose metrics tell how far this is.
        self.state.turn.drain(&self.state.config).await;
        self.state.closed.send_replace(true);
        let _ = tokio::time::timeout(Duration::from_secs(3), async {
            while self.tasks.join_next().await.is_some() {}
        })
        .await;
        self.tasks.abort_all();
    }
}

/// Whether a certificate is this edge's.
///
/// # Errors
/// [`EdgeError::OtherNode`]; [`EdgeError::Pki`] for a certificate without a name.
pub fn check_identity(config: &EdgeConfig, identity: &NodeIdentity) -> Result<(), EdgeError> {
    let certified = identity.name()?.id;
    if certified == config.node.id {
        return Ok(());
    }
    Err(EdgeError::OtherNode {
        configured: config.node.id.clone(),
        certified,
    })
}

fn shards_config(config: &EdgeConfig) -> ShardsConfig {
    ShardsConfig {
        bind: config.media.bind.clone(),
        shards: config.media.threads,
        advertise: config.media.advertise.clone(),
        ..ShardsConfig::default()
    }
}

fn client_url(config: &EdgeConfig, bound: SocketAddr) -> String {
    if !config.http.public_url.is_empty() {
        return config.http.public_url.clone();
    }
    let scheme = if config.http.certificate.is_some() { "wss" } else { "ws" };
    // `localhost`, not 127.0.0.1: the page is served from there, and cameras are given to it.
    let host = if bound.ip().is_loopback() {
        "localhost".to_owned()
    } else {
        bound.ip().to_string()
    };
    format!("{scheme}://{host}:{}", bound.port())
}

async fn serve(state: Arc<EdgeState>, socket: TcpListener, tls: Option<Arc<rustls::ServerConfig>>) {
    let proxies = state.trusted_proxies.clone();
    let server = listener::Server {
        tls,
        limits: HTTP_LIMITS,
        is_proxy: Box::new(move |address| proxies.iter().any(|network| network.contains(address))),
        takeover: state
            .turn
            .is_on()
            .then(|| state.turn.clone() as Arc<dyn listener::Takeover>),
        stopped: state.closed.subscribe(),
        router: http::router(state),
    };
    listener::serve(socket, server).await;
}

/// Notices media threads and TURN workers that have ended: nobody waits for those.
async fn look_after_threads(state: Arc<EdgeState>) {
    let media = async {
        while state.shards.is_whole() {
            tokio::time::sleep(THREAD_LOOK).await;
        }
    };
    tokio::select! {
        () = media => state.vital.ended("a media thread"),
        () = state.turn.lost() => state.vital.ended("a TURN worker"),
        () = state.stopped() => {}
    }
}

/// Keeps the edge's record in the registry and follows its state. An edge that could let nobody in is not announced: whoever was sent to
/// it would be refused.
async fn register(state: Arc<EdgeState>, registry: SharedRegistry) {
    let ttl = Duration::from_secs(state.config.registry.lease_s);
    tokio::select! {
        () = state.can_admit() => {}
        () = state.stopped() => return,
    }
    let mut registration = announce(registry, state.record(), ttl);
    let mut changes = state.state.subscribe();
    let mut standing = registration.state();
    loop {
        state.registration.send_replace(*standing.borrow_and_update());
        tokio::select! {
            Ok(()) = standing.changed() => {}
            changed = changes.changed() => match changed {
                Ok(()) => registration.set_state(*state.state.borrow()),
                Err(_) => break,
            },
            () = state.stopped() => break,
        }
    }
    registration.leave().await;
}

pub(crate) fn unix_now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_pki::CertificateAuthority;
    use meridian_registry::MemoryRegistry;

    #[tokio::test]
    async fn an_edge_that_loses_a_vital_task_says_so_and_is_ready_no_longer() {
        meridian_access::install_crypto();
        let identity = CertificateAuthority::create().unwrap().issue_node("fra", &[]).unwrap();
        let mut config = EdgeConfig::default();
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        config.node.id = "fra".to_owned();
        (config.http.bind, config.link.bind) = (loopback, loopback);
        (config.media.bind, config.media.threads) = (vec![loopback], 1);
        config.api_keys.insert("key".to_owned(), "s".repeat(32));
        let mut edge = Edge::start(config, Arc::new(MemoryRegistry::new()), identity)
            .await
            .unwrap();
        let mut registration = edge.state.registration.subscribe();
        let _ = registration
            .wait_for(|state| *state == RegistrationState::Registered)
            .await;
        assert_eq!(edge.state.not_ready(), None);
        edge.tasks.abort_all();
        edge.failure().await;
        assert!(edge.state.not_ready().unwrap().contains("vital"));
        assert!(!edge.state.load().accepting);
        edge.stop().await;
    }
}
