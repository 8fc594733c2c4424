//! A control plane that says what the test says.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use meridian_access::token::{JOIN_TOKEN_TTL_S, KeyRing, SigningKey, unix_now_s, verify};
use meridian_pki::CertificateAuthority;
use meridian_wire::v1;
use meridian_wire::v1::edge_command::Command;
use meridian_wire::v1::edge_control_server::{EdgeControl, EdgeControlServer};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

type Commands = Result<v1::EdgeCommand, Status>;

pub(crate) struct ControlPlane {
    pub(crate) url: String,
    commands: mpsc::Sender<Commands>,
    /// Signs its join tokens.
    pub(crate) key: Arc<SigningKey>,
}

impl ControlPlane {
    pub(crate) async fn start(authority: &CertificateAuthority) -> ControlPlane {
        let (commands, queue) = mpsc::channel(8);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let tls = authority
            .issue_control_plane("control", &[])
            .unwrap()
            .tonic_server(false);
        let key = Arc::new(SigningKey::generate().unwrap());
        let service = Service {
            commands: Mutex::new(Some(queue)),
            key: key.clone(),
        };
        let server = tonic::transport::Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(EdgeControlServer::new(service));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        ControlPlane { url, commands, key }
    }

    /// To the edge that attaches, or has.
    pub(crate) async fn say(&self, command: Command) {
        let command = Some(command);
        self.commands.send(Ok(v1::EdgeCommand { command })).await.unwrap();
    }

    /// Its policy: the key of its join tokens, and nothing else.
    pub(crate) async fn say_policy(&self) {
        self.say(Command::Policy((&keys(&self.key)).into())).await;
    }
}

fn keys(key: &SigningKey) -> KeyRing {
    KeyRing::new().with_public_key(key.public_key().clone())
}

struct Service {
    commands: Mutex<Option<mpsc::Receiver<Commands>>>,
    key: Arc<SigningKey>,
}

#[tonic::async_trait]
impl EdgeControl for Service {
    type AttachStream = Pin<Box<dyn Stream<Item = Commands> + Send>>;

    async fn attach(&self, _: Request<Streaming<v1::EdgeReport>>) -> Result<Response<Self::AttachStream>, Status> {
        let commands = self.commands.lock().await.take();
        let commands = commands.ok_or_else(|| Status::unavailable("once is enough"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(commands))))
    }

    async fn join(&self, _: Request<v1::JoinRequest>) -> Result<Response<v1::JoinAnswer>, Status> {
        Err(Status::unimplemented("no meetings here"))
    }

    async fn probes(&self, _: Request<v1::ProbesRequest>) -> Result<Response<v1::ProbesAnswer>, Status> {
        Err(Status::unimplemented("no regions here"))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewAnswer>, Status> {
        let claims = verify(&request.into_inner().token, &keys(&self.key));
        let mut claims = claims.map_err(|error| Status::permission_denied(error.to_string()))?;
        let expires = unix_now_s() + JOIN_TOKEN_TTL_S;
        claims.exp = Some(expires);
        let token = self.key.mint(&claims).unwrap();
        Ok(Response::new(v1::RenewAnswer { token, expires }))
    }

    async fn relocate(&self, _: Request<v1::RelocateRequest>) -> Result<Response<v1::RelocateAnswer>, Status> {
        Err(Status::unimplemented("no other edges here"))
    }

    async fn enroll(&self, _: Request<v1::EnrollRequest>) -> Result<Response<v1::EnrollAnswer>, Status> {
        Err(Status::unimplemented("nobody new here"))
    }
}
