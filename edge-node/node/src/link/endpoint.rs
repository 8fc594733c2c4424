//! The endpoint all links share, and what the node calls.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use meridian_cascade::link::{MediaPacket, SenderReport};
use meridian_room::ids::NodeId;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{EndpointConfig, ServerConfig, VarInt};
use rand::Rng;
use tokio::sync::{mpsc, watch};

use super::dial::{self, Dialler};
use super::listen::{self, Halves};
use super::session::Session;
use super::settings::ALPN;
use super::types::{
    CONTROL_MESSAGE_MAX, LinkConfig, LinkError, LinkEvent, PeerAddress, SendControlError, SendMediaError,
};

const SOCKET_BUFFER: usize = 4 << 20;
const SHUTDOWN_WAIT: Duration = Duration::from_millis(500);

/// Why a connection is closed, as the code in CONNECTION_CLOSE.
pub(super) mod close {
    pub(crate) const DISCONNECTED: u32 = 0;
    pub(crate) const REPLACED: u32 = 1;
    pub(crate) const REFUSED: u32 = 2;
    pub(crate) const PROTOCOL: u32 = 3;
    pub(crate) const SHUTDOWN: u32 = 4;
}

/// All links of this node: one UDP socket, server and client at once. Cheap to clone; dropping every clone does not stop it,
/// [`LinkEndpoint::shutdown`] does.
#[derive(Clone)]
pub struct LinkEndpoint {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) config: LinkConfig,
    pub(super) endpoint: quinn::Endpoint,
    pub(super) client_tls: Arc<QuicClientConfig>,
    pub(super) server_tls: Arc<QuicServerConfig>,
    /// Drawn once per process: tells a peer's restart from its reconnection.
    pub(super) incarnation: u64,
    pub(super) events: mpsc::Sender<LinkEvent>,
    pub(super) links: RwLock<HashMap<NodeId, Arc<Session>>>,
    /// One lock per node, held while a link to it is up: a newer link waits until the older has said `Down`.
    pub(super) turns: Mutex<HashMap<NodeId, Arc<tokio::sync::Mutex<()>>>>,
    pub(super) halves: Mutex<Halves>,
    /// The second that began then, and refusals reported in it.
    pub(super) refusals_told: Mutex<(tokio::time::Instant, u32)>,
    diallers: Mutex<HashMap<NodeId, Dialler>>,
    pub(super) stopping: watch::Sender<bool>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LinkEndpoint {
    /// Binds the socket and begins to accept links. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`LinkError::Bind`], [`LinkError::Identity`], [`LinkError::WrongIdentity`], [`LinkError::Tls`].
    pub async fn start(config: LinkConfig, events: mpsc::Sender<LinkEvent>) -> Result<LinkEndpoint, LinkError> {
        let certified = config.identity.name()?.id;
        if certified != config.node.as_str() {
            return Err(LinkError::WrongIdentity {
                node: config.node.clone(),
                certified,
            });
        }
        let tls = |error: &dyn std::fmt::Display| LinkError::Tls(error.to_string());
        let client_tls = QuicClientConfig::try_from(config.identity.client_config(&[ALPN])?).map_err(|e| tls(&e))?;
        let server_tls = QuicServerConfig::try_from(config.identity.server_config(&[ALPN])?).map_err(|e| tls(&e))?;
        let (client_tls, server_tls) = (Arc::new(client_tls), Arc::new(server_tls));
        let bind = |source| LinkError::Bind {
            addr: config.bind,
            source,
        };
        let endpoint = quinn::Endpoint::new(
            endpoint_config(&config),
            Some(ServerConfig::with_crypto(server_tls.clone())),
            socket(config.bind).map_err(bind)?,
            Arc::new(quinn::TokioRuntime),
        );
        let shared = Arc::new(Shared {
            endpoint: endpoint.map_err(bind)?,
            client_tls,
            server_tls,
            incarnation: rand::rng().random(),
            events,
            links: RwLock::default(),
            turns: Mutex::default(),
            halves: Mutex::default(),
            refusals_told: Mutex::new((tokio::time::Instant::now(), 0)),
            diallers: Mutex::default(),
            stopping: watch::Sender::new(false),
            config,
        });
        tokio::spawn(listen::run(shared.clone()));
        Ok(LinkEndpoint { shared })
    }

    /// The address the socket is bound to.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.shared.endpoint.local_addr()
    }

    pub fn node(&self) -> &NodeId {
        &self.shared.config.node
    }

    /// The peers to keep links to, in full. New ones are dialled if our NodeId is the lower one; a peer that is no longer
    /// in the list keeps the link it has (a registry's silence is no death) but is not dialled again.
    pub fn set_peers(&self, peers: Vec<PeerAddress>) {
        lock(&self.shared.diallers).retain(|node, _| peers.iter().any(|peer| peer.node == *node));
        for peer in peers {
            self.connect(peer.node, peer.addr);
        }
    }

    /// Keeps a link to `node` at `addr`, dialling as needed; a new address replaces the old one at the next dial. Does
    /// nothing if it is for the other side to dial.
    pub fn connect(&self, node: NodeId, addr: SocketAddr) {
        if self.shared.config.node >= node || *self.shared.stopping.borrow() {
            return;
        }
        match lock(&self.shared.diallers).entry(node) {
            Entry::Occupied(dialler) => dialler.get().redirect(addr),
            Entry::Vacant(place) => {
                let dialler = dial::start(self.shared.clone(), place.key().clone(), addr);
                place.insert(dialler);
            }
        }
    }

    /// Closes the link to `node`, if there is one, and does not dial it again. (It may still dial us.)
    pub fn disconnect(&self, node: &NodeId) {
        lock(&self.shared.diallers).remove(node);
        if let Some(link) = self.shared.link(node) {
            link.close(close::DISCONNECTED, "disconnected");
        }
    }

    /// Nodes to which a link is up.
    pub fn connected(&self) -> Vec<NodeId> {
        self.shared
            .links
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .cloned()
            .collect()
    }

    /// Queues a control message; it arrives in order, or the link goes down.
    ///
    /// # Errors
    /// [`SendControlError`]; nothing was queued then.
    pub fn send_control(&self, node: &NodeId, message: Bytes) -> Result<(), SendControlError> {
        if message.len() > CONTROL_MESSAGE_MAX {
            return Err(SendControlError::TooLarge(message.len()));
        }
        self.shared
            .link(node)
            .ok_or(SendControlError::NotConnected)?
            .send_control(message)
    }

    /// Bytes of control messages that wait for the slowest link.
    pub fn control_backlog(&self) -> usize {
        let links = self.shared.links.read().unwrap_or_else(PoisonError::into_inner);
        links.values().map(|link| link.control_backlog()).max().unwrap_or(0)
    }

    /// Sends a batch of media packets, as far as congestion control allows: what does not fit waits briefly or is dropped by
    /// whole layers. Never blocks. Give it whole batches: one call costs one wake-up.
    ///
    /// # Errors
    /// [`SendMediaError::NotConnected`].
    pub fn send_media(&self, node: &NodeId, packets: Vec<MediaPacket>) -> Result<(), SendMediaError> {
        self.shared
            .link(node)
            .ok_or(SendMediaError::NotConnected)?
            .media
            .send(packets);
        Ok(())
    }

    /// Passes on a publisher's sender report. Unreliable: repeat it as reports come.
    ///
    /// # Errors
    /// [`SendMediaError::NotConnected`].
    pub fn send_sender_report(&self, node: &NodeId, report: SenderReport) -> Result<(), SendMediaError> {
        self.shared
            .link(node)
            .ok_or(SendMediaError::NotConnected)?
            .media
            .send_report(&report);
        Ok(())
    }

    /// Tells every peer that we go, and waits briefly until they know.
    pub async fn shutdown(&self) {
        self.shared.stopping.send_replace(true);
        lock(&self.shared.diallers).clear();
        for link in self
            .shared
            .links
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            link.close(close::SHUTDOWN, "shutting down");
        }
        self.shared
            .endpoint
            .close(VarInt::from_u32(close::SHUTDOWN), b"shutting down");
        let _ = tokio::time::timeout(SHUTDOWN_WAIT, self.shared.endpoint.wait_idle()).await;
    }
}

impl Shared {
    pub(super) fn link(&self, node: &NodeId) -> Option<Arc<Session>> {
        self.links
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(node)
            .cloned()
    }

    /// Reports something the node may miss.
    pub(super) fn mention(&self, event: LinkEvent) {
        let _ = self.events.try_send(event);
    }
}

/// The reset key comes from our private key, so after a restart peers' old connections are reset at once instead of after
/// 3 s of silence; random connection ids, because the default generator drops ids of an earlier life silently.
fn endpoint_config(config: &LinkConfig) -> EndpointConfig {
    use aws_lc_rs::{digest, hmac};
    let mut secret = b"meridian link stateless reset v1\0".to_vec();
    secret.extend_from_slice(config.identity.key_pem.as_bytes());
    let key = digest::digest(&digest::SHA256, &secret);
    let mut endpoint = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, key.as_ref())));
    endpoint.cid_generator(|| Box::new(quinn_proto::RandomConnectionIdGenerator::default()));
    endpoint
}

fn socket(bind: SocketAddr) -> std::io::Result<std::net::UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(bind), Type::DGRAM, Some(Protocol::UDP))?;
    // The kernel may grant less (net.core.rmem_max); that costs burst capacity, not correctness.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    if bind.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&bind.into())?;
    Ok(socket.into())
}
