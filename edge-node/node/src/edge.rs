//! One edge: starts its parts in order, gives each what it uses, stops them in the reverse order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meridian_pki::{NodeIdentity, PkiError};
use meridian_registry::nodes::{KeeperConfig, NodeRecord, NodeState, NodeWatch, View};
use meridian_registry::{RegistryError, SharedRegistry};
use meridian_room::NodeId;
use meridian_serving::listener::{self, Certificate};
use meridian_shard::{Event, Shards, ShardsConfig, TapBatch, TapSenders};
use meridian_transport::{DtlsIdentity, Fingerprint};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::admission::Admission;
use crate::config::EdgeConfig;
use crate::control::{self, ControlError, ControlPlane, Standing};
use crate::handles::LiveRooms;
use crate::lifecycle::Lifecycle;
use crate::link::{LinkConfig, LinkEndpoint, LinkError, LinkEvent};
use crate::media::{self, Media};
use crate::mesh::{self, MeshHandle, ToMesh};
use crate::outgoing::Outgoing;
use crate::profile::Profile;
use crate::recording::{Recorder, RecorderError, RecorderHandle};
use crate::reports::Reports;
use crate::rooms::{Around, Rooms};
use crate::turn::{self, Turn, TurnError};
use crate::{drain, http, registration};

/// Media events that may wait for the router task.
const MEDIA_EVENTS: usize = 8_192;
/// Batches of media that may wait for the mesh.
const TAP_BATCHES: usize = 4_096;
/// Events of links that may wait for the mesh.
const LINK_EVENTS: usize = 4_096;
/// One per client, for as long as it stays; a large office behind one address is one address.
const HTTP_LIMITS: listener::Limits = listener::Limits {
    connections: 65_536,
    connections_per_address: 2_048,
};
/// How long stopping waits until everybody who follows the registry can know that this edge takes nobody new.
const LEAVE_PLACEMENT: Duration = Duration::from_secs(1);
/// How long stopping waits for clients to read their goodbye.
const GOODBYE: Duration = Duration::from_millis(500);
/// How long stopping waits for its tasks to end.
const TASKS_END: Duration = Duration::from_secs(3);
/// How long it waits for the last files of recordings to reach their store; what does not is sent when this edge runs again.
const LAST_UPLOADS: Duration = Duration::from_secs(15);
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
    #[error(transparent)]
    Turn(#[from] TurnError),
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

/// A running edge. [`Edge::stop`] it; dropping it leaves tasks behind.
pub struct Edge {
    parts: Parts,
    config: EdgeConfig,
    tasks: JoinSet<()>,
    uploads: JoinSet<()>,
    view: watch::Receiver<Arc<View>>,
}

/// The parts that others are given.
struct Parts {
    profile: Arc<Profile>,
    fingerprint: Fingerprint,
    lifecycle: Arc<Lifecycle>,
    admission: Arc<Admission>,
    live: Arc<LiveRooms>,
    shards: Arc<Shards>,
    media: Arc<Media>,
    mesh: Arc<MeshHandle>,
    recorder: Arc<RecorderHandle>,
    turn: Arc<Turn>,
    reports: Arc<Reports>,
    outgoing: Arc<Outgoing>,
    control: Option<ControlPlane>,
    standing: Arc<Standing>,
}

/// What parts read that run as tasks of their own.
struct Sources {
    http: Front,
    media_events: mpsc::Receiver<Event>,
    tapped: mpsc::Receiver<TapBatch>,
    recorded: mpsc::Receiver<TapBatch>,
    endpoint: LinkEndpoint,
    links: mpsc::Receiver<LinkEvent>,
    to_mesh: mpsc::Receiver<ToMesh>,
    recorder: Option<Recorder>,
}

/// The HTTP port, and what is shown there.
struct Front {
    listener: TcpListener,
    address: SocketAddr,
    certificate: Option<Arc<Certificate>>,
    tls: Option<Arc<rustls::ServerConfig>>,
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
        let (parts, sources) = build(&config, &identity).await?;
        // Vanishing "together" must span a lease: leases end at different moments.
        let window = Duration::from_secs(config.registry.lease_s + 2);
        let keeper = KeeperConfig {
            window,
            ..KeeperConfig::default()
        };
        let nodes = NodeWatch::start(registry.clone(), keeper);
        let view = nodes.view();
        let mut edge = Edge {
            parts,
            config,
            tasks: JoinSet::new(),
            uploads: JoinSet::new(),
            view,
        };
        edge.run(sources, nodes, registry)?;
        let Profile {
            node, url, link, media, ..
        } = &*edge.parts.profile;
        tracing::info!(%node, url, %link, ?media, "edge started");
        Ok(edge)
    }

    /// Starts the tasks.
    fn run(&mut self, sources: Sources, nodes: NodeWatch, registry: SharedRegistry) -> Result<(), EdgeError> {
        let Edge { parts, tasks, .. } = self;
        let lifecycle = &parts.lifecycle;
        let vital = lifecycle.vital().clone();
        let route = media::route(
            parts.media.clone(),
            parts.mesh.clone(),
            parts.recorder.clone(),
            sources.media_events,
        );
        tasks.spawn(vital.task("the routing of media events", route));
        let threads = look_after_threads(lifecycle.clone(), parts.shards.clone(), parts.turn.clone());
        tasks.spawn(threads);
        let inputs = mesh::Inputs {
            endpoint: sources.endpoint,
            links: sources.links,
            tapped: sources.tapped,
            rooms: sources.to_mesh,
            nodes,
        };
        tasks.spawn(vital.task("the mesh", mesh::run(parts.for_mesh(), inputs)));
        if let Some(control) = parts.control.clone() {
            let control = control::run(parts.for_control(), control);
            tasks.spawn(vital.task("the connection to the control plane", control));
        }
        if parts.turn.is_on() {
            let follow = parts.turn.clone().follow(lifecycle.clone());
            tasks.spawn(vital.task("what TURN knows of the edge's state", follow));
        }
        if let Some(certificate) = &sources.http.certificate {
            let turn = parts.turn.clone();
            let follow = certificate.clone();
            let follow = follow.follow(lifecycle.closed(), move |pem| turn.renew_certificate(pem));
            tasks.spawn(vital.task("the following of certificates", follow));
        }
        if let Some(recorder) = sources.recorder {
            let shards = parts.shards.clone();
            let uploads = recorder
                .start(parts.profile.node.to_string(), sources.recorded, move |command| {
                    shards.send(command);
                })
                .map_err(RecorderError::Thread)?;
            self.uploads
                .spawn(vital.task("the uploading of recordings", uploads.run()));
        }
        tasks.spawn(drain::follow(lifecycle.clone(), parts.live.clone()));
        tasks.spawn(vital.task("HTTP", parts.serve(&self.config, sources.http)));
        let registration = registration::keep(
            parts.profile.clone(),
            lifecycle.clone(),
            parts.admission.clone(),
            registry,
            Duration::from_secs(self.config.registry.lease_s),
        );
        tasks.spawn(vital.task("the registration", registration));
        Ok(())
    }

    pub fn id(&self) -> &str {
        self.parts.profile.node.as_str()
    }

    /// What clients connect to.
    pub fn url(&self) -> &str {
        &self.parts.profile.url
    }

    /// What clients call the TURN server in it; empty without one.
    pub fn turn_urls(&self) -> &[String] {
        self.parts.turn.urls()
    }

    /// Takes over what may change while an edge runs: its API keys, and who may use its TURN server. The rest of `config` is not looked at.
    pub fn reread(&self, config: &EdgeConfig) {
        self.parts.admission.configure_keys(&config.api_keys);
        self.parts.turn.set_configured(config.turn.credentials());
    }

    /// Waits until a part has ended without which people are not served, and names it. Such an edge gets nobody new; [`Edge::stop`] it.
    pub async fn failure(&self) -> &'static str {
        self.parts.lifecycle.vital().failure().await
    }

    /// Leaves placement, moves its people to other edges (in small steps, for at most `node.drain_s`), tells whoever is left to come back
    /// elsewhere, leaves the registry and the mesh, waits for the embedded TURN
    /// server's allocations to end (at most `turn.drain_s`) and for the last files of recordings to be in their store, stops. Dropping
    /// the future ends the waiting at once.
    pub async fn stop(mut self) {
        let parts = &self.parts;
        // First, or those who are sent away now would be sent back here.
        parts.lifecycle.leave();
        let own = parts.profile.node.as_str();
        let seen = async {
            let is_gone = |view: &Arc<View>| view.get(own).is_none_or(|record| record.state == NodeState::Leaving);
            let _ = self.view.wait_for(is_gone).await;
        };
        let _ = tokio::time::timeout(LEAVE_PLACEMENT, async {
            // The control plane's view of the registry may be behind ours: it says so itself.
            tokio::join!(seen, parts.standing.lets_go())
        })
        .await;
        let others = |view: &View| {
            let active = |record: &NodeRecord| record.state == NodeState::Active && record.id != own;
            view.records().any(active)
        };
        if others(&self.view.borrow()) {
            drain::empty(&parts.live, Duration::from_secs(self.config.node.drain_s)).await;
        }
        parts.live.send_away();
        let _ = tokio::time::timeout(GOODBYE, parts.live.emptied()).await;
        parts.lifecycle.stop();
        parts.shards.shutdown();
        // Those who are left relay between others, perhaps by TLS on the HTTP port, whose metrics tell how far this is.
        parts.turn.drain(&self.config).await;
        parts.lifecycle.close();
        tokio::join!(end(&mut self.tasks, TASKS_END), end(&mut self.uploads, LAST_UPLOADS));
    }
}

/// Waits until all tasks have ended, but no longer than this.
async fn end(tasks: &mut JoinSet<()>, limit: Duration) {
    let _ = tokio::time::timeout(limit, async { while tasks.join_next().await.is_some() {} }).await;
    tasks.abort_all();
}

/// Binds the sockets and starts the threads; no task runs yet.
async fn build(config: &EdgeConfig, identity: &NodeIdentity) -> Result<(Parts, Sources), EdgeError> {
    let http = Front::open(config).await?;
    let dtls = Arc::new(DtlsIdentity::generate().map_err(|error| EdgeError::Dtls(error.to_string()))?);
    let (events, media_events) = mpsc::channel(MEDIA_EVENTS);
    let (mesh_taps, tapped) = mpsc::channel(TAP_BATCHES);
    let (recorder_taps, recorded) = mpsc::channel(TAP_BATCHES);
    let taps = TapSenders {
        mesh: mesh_taps,
        recorder: recorder_taps,
    };
    let shards = Shards::start(shards_config(config), dtls.clone(), events, taps).map_err(EdgeError::Media)?;
    let shards = Arc::new(shards);
    let turn = Arc::new(Turn::start(config, http.certificate.as_deref(), http.address, &shards)?);
    let (endpoint, link, links) = open_links(config, identity).await?;
    let control = ControlPlane::new(config, identity)?;
    let (recorder_handle, recorder) = RecorderHandle::new(&config.recording)?;
    let (mesh, to_mesh) = MeshHandle::new();
    let mesh = Arc::new(mesh);
    let lifecycle = Arc::new(Lifecycle::default());
    let admission = Admission::new(lifecycle.clone(), &config.api_keys, control.is_some());
    let admission = Arc::new(admission);
    let live = Arc::new(LiveRooms::default());
    let outgoing = Arc::new(Outgoing::default());
    let told = control.is_some().then(|| outgoing.clone());
    let reports = Reports::new(told, admission.clone(), live.clone(), shards.clone(), mesh.clone());
    let parts = Parts {
        profile: Arc::new(Profile::new(config, http.address, link, &shards, turn.urls())),
        fingerprint: dtls.fingerprint(),
        lifecycle,
        admission,
        live,
        media: Arc::new(Media::new(shards.clone())),
        shards,
        mesh,
        recorder: Arc::new(recorder_handle),
        turn,
        reports: Arc::new(reports),
        outgoing,
        control,
        standing: Arc::default(),
    };
    let sources = Sources {
        http,
        media_events,
        tapped,
        recorded,
        endpoint,
        links,
        to_mesh,
        recorder,
    };
    Ok((parts, sources))
}

/// The endpoint, the address that others are told, and what its links say.
async fn open_links(
    config: &EdgeConfig,
    identity: &NodeIdentity,
) -> Result<(LinkEndpoint, SocketAddr, mpsc::Receiver<LinkEvent>), EdgeError> {
    let (events, links) = mpsc::channel(LINK_EVENTS);
    let node = NodeId::new(config.node.id.clone());
    let endpoint = LinkEndpoint::start(LinkConfig::new(node, config.link.bind, identity.clone()), events).await?;
    let bound = endpoint.local_addr().map_err(|source| LinkError::Bind {
        addr: config.link.bind,
        source,
    })?;
    Ok((endpoint, config.link.advertise.unwrap_or(bound), links))
}

impl Front {
    async fn open(config: &EdgeConfig) -> Result<Front, EdgeError> {
        let failed = |error| EdgeError::Http {
            address: config.http.bind,
            error,
        };
        let listener = TcpListener::bind(config.http.bind).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let shared: &[&[u8]] = if config.turn.is_on() { &turn::ALPN } else { &[] };
        let certificate = config.http.keys().certificate().map_err(EdgeError::Tls)?;
        let tls = certificate.as_deref().map(|one| listener::https(one, shared));
        Ok(Front {
            listener,
            address,
            tls: tls.transpose().map_err(EdgeError::Tls)?,
            certificate,
        })
    }
}

impl Parts {
    fn for_mesh(&self) -> mesh::Uses {
        mesh::Uses {
            profile: self.profile.clone(),
            lifecycle: self.lifecycle.clone(),
            shards: self.shards.clone(),
            mesh: self.mesh.clone(),
        }
    }

    fn for_control(&self) -> control::Uses {
        control::Uses {
            profile: self.profile.clone(),
            lifecycle: self.lifecycle.clone(),
            admission: self.admission.clone(),
            reports: self.reports.clone(),
            outgoing: self.outgoing.clone(),
            live: self.live.clone(),
            turn: self.turn.clone(),
            standing: self.standing.clone(),
        }
    }

    fn for_rooms(&self) -> Around {
        Around {
            profile: self.profile.clone(),
            fingerprint: self.fingerprint,
            admission: self.admission.clone(),
            live: self.live.clone(),
            media: self.media.clone(),
            mesh: self.mesh.clone(),
            recorder: self.recorder.clone(),
            reports: self.reports.clone(),
            control: self.control.clone(),
        }
    }

    fn serve(&self, config: &EdgeConfig, front: Front) -> impl Future<Output = ()> + use<> {
        let trusted_proxies = config.http.keys().proxies();
        let routes = http::Parts {
            lifecycle: self.lifecycle.clone(),
            admission: self.admission.clone(),
            live: self.live.clone(),
            outgoing: self.outgoing.clone(),
            rooms: Arc::new(Rooms::new(self.for_rooms())),
            http_sessions: Arc::default(),
            shards: self.shards.clone(),
            mesh: self.mesh.clone(),
            recorder: self.recorder.clone(),
            turn: self.turn.clone(),
            control: self.control.clone(),
            region: self.profile.region.clone(),
            trusted_proxies: trusted_proxies.clone(),
            probes: http::probe_limiter(),
        };
        let takeover = self
            .turn
            .is_on()
            .then(|| self.turn.clone() as Arc<dyn listener::Takeover>);
        let server = listener::Server {
            tls: front.tls,
            limits: HTTP_LIMITS,
            is_proxy: Box::new(move |address| trusted_proxies.iter().any(|network| network.contains(address))),
            takeover,
            stopped: self.lifecycle.closed(),
            router: http::router(Arc::new(routes)),
        };
        listener::serve(front.listener, server)
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

/// Notices media threads and TURN workers that have ended: nobody waits for those.
async fn look_after_threads(lifecycle: Arc<Lifecycle>, shards: Arc<Shards>, turn: Arc<Turn>) {
    let media = async {
        while shards.is_whole() {
            tokio::time::sleep(THREAD_LOOK).await;
        }
    };
    tokio::select! {
        () = media => lifecycle.vital().ended("a media thread"),
        () = turn.lost() => lifecycle.vital().ended("a TURN worker"),
        () = lifecycle.stopped() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_pki::CertificateAuthority;
    use meridian_registry::{MemoryRegistry, RegistrationState};

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
        let mut registration = edge.parts.lifecycle.registrations();
        let _ = registration
            .wait_for(|state| *state == RegistrationState::Registered)
            .await;
        assert_eq!(edge.parts.admission.not_ready(), None);
        edge.tasks.abort_all();
        edge.failure().await;
        assert!(edge.parts.admission.not_ready().unwrap().contains("vital"));
        assert!(!edge.parts.reports.load().accepting);
        edge.stop().await;
    }
}
