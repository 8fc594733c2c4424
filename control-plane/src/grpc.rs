//! gRPC for edges. Who they are is what our CA signed into their certificate, never what they say.

mod session;

use crate::database::now_ms;
use crate::fleet::Fleet;
use crate::meetings::join::JoinService;
use crate::metrics::Metrics;
use meridian_access::limits::Limiter;
use meridian_pki::{CertificateAuthority, PeerName, Role, is_valid_node_id, peer_name_of};
use meridian_wire::join::Refusal;
use meridian_wire::v1::edge_control_server::EdgeControl;
use meridian_wire::v1::{self, edge_command, edge_report, join_answer};
use meridian_wire::{OUTBOX_HEADER, OUTBOX_VERSION};
use session::Session;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

/// Commands waiting for one edge. The stream of an edge that does not read them ends, and it is told all that is wanted when it returns.
const COMMANDS: usize = 256;
/// Edges of this protocol take everything wanted of them as one command.
const WITH_DESIRED: u32 = 2;
/// An edge says Hello within this time.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

pub(crate) struct EdgeControlService {
    pub(crate) joins: Arc<JoinService>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) authority: Arc<CertificateAuthority>,
    pub(crate) policy: watch::Receiver<v1::Policy>,
    pub(crate) enrolment_tokens: watch::Receiver<Vec<String>>,
    pub(crate) enrolments: Limiter<IpAddr>,
    pub(crate) shutdown: watch::Receiver<bool>,
}

type CommandStream = Pin<Box<dyn Stream<Item = Result<v1::EdgeCommand, Status>> + Send>>;

/// The edge at the other end, by its certificate.
fn edge_of<T>(request: &Request<T>) -> Result<String, Status> {
    let certificates = request.peer_certs();
    let name = certificates
        .as_ref()
        .and_then(|all| all.first())
        .and_then(|first| peer_name_of(first));
    match name {
        Some(PeerName { role: Role::Edge, id }) => Ok(id),
        Some(_) => Err(Status::permission_denied(
            "this is for edges: the certificate is another kind of process's",
        )),
        None => Err(Status::unauthenticated(
            "a certificate signed by this mesh's CA is needed: enrol first",
        )),
    }
}

#[tonic::async_trait]
impl EdgeControl for EdgeControlService {
    type AttachStream = CommandStream;

    async fn attach(&self, request: Request<Streaming<v1::EdgeReport>>) -> Result<Response<CommandStream>, Status> {
        let node = edge_of(&request)?;
        let mut reports = request.into_inner();
        let first = tokio::time::timeout(HELLO_WITHIN, reports.next()).await;
        let hello = match first {
            Ok(Some(Ok(v1::EdgeReport {
                report: Some(edge_report::Report::Hello(hello)),
            }))) => hello,
            Ok(Some(Err(status))) => return Err(status),
            _ => return Err(Status::invalid_argument("the first report must be Hello")),
        };
        if hello.node != node {
            return Err(Status::permission_denied(format!(
                "the certificate is {node}'s, but Hello says {}",
                hello.node
            )));
        }
        let (commands, queue) = mpsc::channel(COMMANDS);
        let now = Instant::now();
        let now_ms = now_ms();
        let policy = self.policy.borrow().clone();
        let wanted = || {
            if hello.protocol >= WITH_DESIRED {
                edge_command::Command::Desired(self.fleet.desired(&node, policy.clone(), now_ms))
            } else {
                edge_command::Command::Policy(policy.clone())
            }
        };
        let first = Some(wanted());
        // The queue is new and empty: the policy is always in the first command.
        let _ = commands.try_send(v1::EdgeCommand { command: first.clone() });
        let attachment = self.fleet.attach(&hello, commands.clone(), now);
        // Whatever became wanted between the two was told to nobody.
        let again = Some(wanted());
        if again != first {
            let _ = commands.try_send(v1::EdgeCommand { command: again });
        }
        if hello.protocol < WITH_DESIRED {
            self.fleet.remind(&node, now_ms);
        }
        tracing::info!(%node, region = %hello.region, software = %hello.software, "edge attached");
        let session = Session {
            region: self.fleet.region_of(&node).unwrap_or_else(|| hello.region.clone()),
            node,
            fleet: self.fleet.clone(),
            learning: self.joins.learning.clone(),
            metrics: self.metrics.clone(),
            attachment,
            commands,
            policy: self.policy.clone(),
            shutdown: self.shutdown.clone(),
        };
        tokio::spawn(session.run(reports));
        let commands: CommandStream = Box::pin(ReceiverStream::new(queue).map(Ok));
        let mut response = Response::new(commands);
        response
            .metadata_mut()
            .insert(OUTBOX_HEADER, MetadataValue::from_static(OUTBOX_VERSION));
        Ok(response)
    }

    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinAnswer>, Status> {
        edge_of(&request)?;
        let answer = match self.joins.join(request.into_inner()).await {
            Ok(granted) => join_answer::Answer::Granted(granted),
            Err(refusal) => join_answer::Answer::Refused(refusal.into()),
        };
        Ok(Response::new(v1::JoinAnswer { answer: Some(answer) }))
    }

    async fn probes(&self, request: Request<v1::ProbesRequest>) -> Result<Response<v1::ProbesAnswer>, Status> {
        edge_of(&request)?;
        let request = request.into_inner();
        let address = request.client_address.parse();
        let address = address.map_err(|_| Status::invalid_argument("client_address is no IP address"))?;
        Ok(Response::new(self.joins.probes(address, &request.from)))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewAnswer>, Status> {
        edge_of(&request)?;
        match self.joins.renew(&request.into_inner().token).await {
            Ok(Some(answer)) => Ok(Response::new(answer)),
            Ok(None) => Err(Status::permission_denied(
                "this is no token of the join API, or it expired long ago",
            )),
            Err(Refusal::Unavailable) => Err(Status::unavailable("the database does not answer; try again")),
            Err(_) => Err(Status::not_found("the meeting is over")),
        }
    }

    async fn relocate(&self, request: Request<v1::RelocateRequest>) -> Result<Response<v1::RelocateAnswer>, Status> {
        let node = edge_of(&request)?;
        let request = request.into_inner();
        let address = request.client_address.parse();
        let address = address.map_err(|_| Status::invalid_argument("client_address is no IP address"))?;
        let edges = self.joins.relocate(&request.room, address, node).await;
        let edges = edges.map_err(|_| Status::unavailable("the database does not answer; try again"))?;
        Ok(Response::new(v1::RelocateAnswer { edges }))
    }

    async fn enroll(&self, request: Request<v1::EnrollRequest>) -> Result<Response<v1::EnrollAnswer>, Status> {
        let peer = request
            .remote_addr()
            .map_or(IpAddr::from([0, 0, 0, 0]), |address| address.ip());
        self.enrolments
            .take(peer, Instant::now())
            .map_err(|_| Status::resource_exhausted("too many tries; wait a minute"))?;
        let request = request.into_inner();
        if !self
            .enrolment_tokens
            .borrow()
            .iter()
            .any(|token| constant_time_eq(token, &request.token))
        {
            return Err(Status::permission_denied("the enrolment token is not valid"));
        }
        if !is_valid_node_id(&request.node) {
            return Err(Status::invalid_argument(
                "a node id is 1 to 40 characters a-z, 0-9 and -",
            ));
        }
        if self.fleet.view().nodes.contains_key(&request.node) {
            return Err(Status::already_exists(
                "a node of this name is alive; stop it first, or choose another name",
            ));
        }
        let signed = self
            .authority
            .sign_node_key(&request.node, &request.public_key, &request.names);
        let certificate_pem = signed.map_err(|error| Status::invalid_argument(error.to_string()))?;
        tracing::info!(node = %request.node, region = %request.region, "edge enrolled");
        let ca_pem = self.authority.certificate_pem().to_owned();
        Ok(Response::new(v1::EnrollAnswer {
            certificate_pem,
            ca_pem,
        }))
    }
}

fn constant_time_eq(a: &str, b: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a.as_bytes(), b.as_bytes()).is_ok()
}
