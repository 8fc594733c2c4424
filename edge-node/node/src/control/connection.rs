//! Where the control plane is: at a configured URL, or with whomever SRV records name at the moment.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use meridian_pki::NodeIdentity;
use meridian_registry::srv::{Discovery, Server, SrvError};
use meridian_wire::v1;
use meridian_wire::v1::edge_control_client::EdgeControlClient;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use crate::config::EdgeConfig;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A forwarded join is a person waiting: past this another edge or an error serves them better.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Nobody waits for probes: a late list is no use.
const PROBES_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("control_plane.url: {0}")]
    Url(tonic::transport::Error),
    #[error("control_plane.srv: {0}")]
    Srv(#[from] SrvError),
}

/// Why there is no server to try now.
#[derive(Debug, thiserror::Error)]
pub(super) enum Nowhere {
    #[error(transparent)]
    Srv(#[from] SrvError),
    #[error(transparent)]
    Endpoint(#[from] tonic::transport::Error),
}

pub(super) type Client = EdgeControlClient<Channel>;

/// The connection. Cheap to clone; connects when first used and again whenever it was lost.
#[derive(Clone)]
pub(crate) struct ControlPlane(Arc<Inner>);

enum Inner {
    Url(Client),
    Srv(Srv),
}

struct Srv {
    discovery: Discovery,
    tls: ClientTlsConfig,
    /// Of the last look-up, those that have not been tried.
    untried: Mutex<VecDeque<Server>>,
    /// Whoever took our stream last: where joins go.
    current: RwLock<Option<Client>>,
}

impl ControlPlane {
    /// `None` if the configuration names no control plane.
    pub(crate) fn new(config: &EdgeConfig, identity: &NodeIdentity) -> Result<Option<ControlPlane>, ControlError> {
        let settings = &config.control_plane;
        if let Some(url) = &settings.url {
            let client = client(url.clone(), identity.tonic_client()).map_err(ControlError::Url)?;
            return Ok(Some(ControlPlane(Arc::new(Inner::Url(client)))));
        }
        let Some(name) = &settings.srv else {
            return Ok(None);
        };
        let srv = Srv {
            discovery: Discovery::new(name, &config.discovery.resolvers)?,
            tls: identity.tonic_client(),
            untried: Mutex::default(),
            current: RwLock::default(),
        };
        Ok(Some(ControlPlane(Arc::new(Inner::Srv(srv)))))
    }

    /// The server to try next. When all that SRV records named were tried, they are looked up anew.
    pub(super) async fn next(&self) -> Result<Client, Nowhere> {
        let srv = match &*self.0 {
            Inner::Url(client) => return Ok(client.clone()),
            Inner::Srv(srv) => srv,
        };
        let next = srv.untried().pop_front();
        let server = match next {
            Some(server) => server,
            None => {
                let mut servers = VecDeque::from(srv.discovery.servers().await?);
                let first = servers.pop_front();
                *srv.untried() = servers;
                first.ok_or_else(|| SrvError::NotOffered(srv.discovery.name().to_owned()))?
            }
        };
        tracing::debug!(name = server.name, address = %server.address, "trying a control plane");
        Ok(client(url_of(server.address), srv.tls.clone())?)
    }

    /// Whether there are servers that were not tried since the last look-up.
    pub(super) fn has_untried(&self) -> bool {
        matches!(&*self.0, Inner::Srv(srv) if !srv.untried().is_empty())
    }

    /// This one took our stream. After it is lost, the records are asked again: the order is theirs.
    pub(super) fn answered(&self, client: &Client) {
        if let Inner::Srv(srv) = &*self.0 {
            srv.untried().clear();
            *srv.current.write().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        }
    }

    /// Asks which regions a client may measure.
    pub(crate) async fn probes(&self, request: v1::ProbesRequest) -> Result<v1::ProbesAnswer, tonic::Status> {
        let mut request = tonic::Request::new(request);
        request.set_timeout(PROBES_TIMEOUT);
        Ok(self.current()?.probes(request).await?.into_inner())
    }

    /// Forwards a client's join.
    pub(crate) async fn join(&self, request: v1::JoinRequest) -> Result<v1::JoinAnswer, tonic::Status> {
        let mut request = tonic::Request::new(request);
        request.set_timeout(JOIN_TIMEOUT);
        Ok(self.current()?.join(request).await?.into_inner())
    }

    /// A token to come back with, for whoever has this one of the join API. See the errors at the procedure's definition.
    pub(crate) async fn renew(&self, token: String) -> Result<v1::RenewAnswer, tonic::Status> {
        let mut request = tonic::Request::new(v1::RenewRequest { token });
        request.set_timeout(JOIN_TIMEOUT);
        Ok(self.current()?.renew(request).await?.into_inner())
    }

    /// Asks where somebody of this edge is best sent.
    pub(crate) async fn relocate(&self, request: v1::RelocateRequest) -> Result<v1::RelocateAnswer, tonic::Status> {
        let mut request = tonic::Request::new(request);
        request.set_timeout(JOIN_TIMEOUT);
        Ok(self.current()?.relocate(request).await?.into_inner())
    }

    fn current(&self) -> Result<Client, tonic::Status> {
        match &*self.0 {
            Inner::Url(client) => Ok(client.clone()),
            Inner::Srv(srv) => {
                let current = srv.current.read().unwrap_or_else(PoisonError::into_inner).clone();
                current.ok_or_else(|| tonic::Status::unavailable("no control plane has been found yet"))
            }
        }
    }
}

impl Srv {
    fn untried(&self) -> std::sync::MutexGuard<'_, VecDeque<Server>> {
        self.untried.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The certificate is checked for being a control plane's, whatever address it was found at.
fn url_of(address: SocketAddr) -> String {
    format!("https://{address}")
}

fn client(url: String, tls: ClientTlsConfig) -> Result<Client, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(url)?
        .tls_config(tls)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true);
    Ok(EdgeControlClient::new(endpoint.connect_lazy()))
}
