//! A control plane that stops and comes back while sessions end: what it hears of them, and what it is no longer told twice.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::Stream;
use meridian_outbox::{Inbox, Taken};
use meridian_pki::CertificateAuthority;
use meridian_signalling::proto::{self, signal_request::Message as Ask};
use meridian_wire::v1::edge_command::Command;
use meridian_wire::v1::edge_control_server::{EdgeControl, EdgeControlServer};
use meridian_wire::v1::edge_report::Report;
use meridian_wire::v1::entry::Kind;
use meridian_wire::{OUTBOX_HEADER, OUTBOX_VERSION, v1};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

use crate::edges::edge_config;
use crate::support::{Client, House, PATIENCE};

/// What survives a stop of the control plane.
#[derive(Default)]
struct Memory {
    inbox: Inbox,
    /// How often the end of each participant's session was acted on, by sid.
    ended: BTreeMap<String, u32>,
    emptied: u32,
}

#[derive(Clone)]
struct Service {
    memory: Arc<Mutex<Memory>>,
    /// Of a version without an outbox.
    old: bool,
}

/// A control plane in a runtime of its own: with that everything ends at once, as with a process.
struct Running(Option<Runtime>);

impl Running {
    fn start(service: Service, authority: &CertificateAuthority, address: SocketAddr) -> (Running, SocketAddr) {
        let runtime = Runtime::new().unwrap();
        let tls = authority
            .issue_control_plane("control", &[])
            .unwrap()
            .tonic_server(false);
        let deadline = Instant::now() + PATIENCE;
        let bound = loop {
            let bound = std::net::TcpListener::bind(address);
            match bound {
                Ok(bound) => break bound,
                // The sockets of the one before are still closing.
                Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
            }
            std::thread::yield_now();
        };
        bound.set_nonblocking(true).unwrap();
        let address = bound.local_addr().unwrap();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(bound).unwrap();
            let mut server = tonic::transport::Server::builder().tls_config(tls).unwrap();
            let server = server.add_service(EdgeControlServer::new(service));
            server.serve_with_incoming(TcpListenerStream::new(listener)).await
        });
        (Running(Some(runtime)), address)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

type Commands = Result<v1::EdgeCommand, Status>;

#[tonic::async_trait]
impl EdgeControl for Service {
    type AttachStream = Pin<Box<dyn Stream<Item = Commands> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::EdgeReport>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut reports = request.into_inner();
        let (commands, queue) = mpsc::channel(16);
        let policy = v1::Policy::default();
        let first = if self.old {
            Command::Policy(policy)
        } else {
            Command::Desired(v1::Desired {
                policy: Some(policy),
                ..v1::Desired::default()
            })
        };
        let command = |command| Ok(v1::EdgeCommand { command: Some(command) });
        commands.try_send(command(first)).unwrap();
        let (memory, old) = (self.memory.clone(), self.old);
        tokio::spawn(async move {
            let mut incarnation = 0;
            while let Ok(Some(report)) = reports.message().await {
                let through = match report.report {
                    Some(Report::Hello(hello)) => {
                        incarnation = hello.incarnation;
                        continue;
                    }
                    Some(Report::Session(session)) if old => {
                        memory.lock().unwrap().session(session);
                        continue;
                    }
                    Some(Report::Entry(entry)) if !old => memory.lock().unwrap().entry(incarnation, entry),
                    Some(Report::Entry(_) | Report::Session(_)) => panic!("an edge speaks as it was not answered"),
                    _ => continue,
                };
                let received = Command::Received(v1::Received { through });
                let _ = commands.send(command(received)).await;
            }
        });
        let mut response = Response::new(Box::pin(ReceiverStream::new(queue)) as Self::AttachStream);
        if !old {
            let version = MetadataValue::from_static(OUTBOX_VERSION);
            response.metadata_mut().insert(OUTBOX_HEADER, version);
        }
        Ok(response)
    }

    async fn join(&self, _: Request<v1::JoinRequest>) -> Result<Response<v1::JoinAnswer>, Status> {
        Err(Status::unimplemented("no meetings here"))
    }

    async fn probes(&self, _: Request<v1::ProbesRequest>) -> Result<Response<v1::ProbesAnswer>, Status> {
        Err(Status::unimplemented("no regions here"))
    }

    async fn renew(&self, _: Request<v1::RenewRequest>) -> Result<Response<v1::RenewAnswer>, Status> {
        Err(Status::unimplemented("no tokens here"))
    }

    async fn relocate(&self, _: Request<v1::RelocateRequest>) -> Result<Response<v1::RelocateAnswer>, Status> {
        Err(Status::unimplemented("no other edges here"))
    }

    async fn enroll(&self, _: Request<v1::EnrollRequest>) -> Result<Response<v1::EnrollAnswer>, Status> {
        Err(Status::unimplemented("nobody new here"))
    }
}

impl Memory {
    fn entry(&mut self, incarnation: u64, entry: v1::Entry) -> u64 {
        if self.inbox.take(incarnation, entry.number) == Taken::New {
            match entry.kind {
                Some(Kind::Session(session)) => self.session(session),
                Some(Kind::RoomEmptied(_)) => self.emptied += 1,
                _ => {}
            }
        }
        self.inbox.through(incarnation)
    }

    fn session(&mut self, session: v1::SessionReport) {
        if session.ended {
            *self.ended.entry(session.participant).or_default() += 1;
        }
    }
}

async fn leave(mut client: Client) -> String {
    client.say(Ask::Leave(proto::LeaveRequest::default())).await;
    while client.hear().await.is_some() {}
    client.sid
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn house(authority: &CertificateAuthority, control: SocketAddr) -> House {
    meridian_access::install_crypto();
    let mut config = edge_config();
    config.control_plane.url = Some(format!("https://{control}"));
    House::with(config, authority).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_end_while_the_control_plane_is_away_are_reported_once_when_it_is_back() {
    meridian_access::install_crypto();
    let authority = CertificateAuthority::create().unwrap();
    let memory = Arc::new(Mutex::new(Memory::default()));
    let service = Service {
        memory: memory.clone(),
        old: false,
    };
    let (running, address) = Running::start(service.clone(), &authority, edge_config().http.bind);
    let house = house(&authority, address).await;
    let mut left = Vec::new();
    let mut clients = Vec::new();
    for number in 0..12 {
        clients.push(house.join(&format!("person-{number}")).await);
    }
    left.push(leave(clients.pop().unwrap()).await);
    let told = |sids: &[String]| sids.iter().all(|sid| memory.lock().unwrap().ended.contains_key(sid));
    eventually("the first is told", async || told(&left)).await;
    // Twice, and each time some end during the outage.
    let mut running = Some(running);
    for _ in 0..2 {
        drop(running.take());
        for client in clients.drain(..4) {
            left.push(leave(client).await);
        }
        eventually("they wait", async || house.metric("meridian_outbox_entries").await >= 4).await;
        running = Some(Running::start(service.clone(), &authority, address).0);
        eventually("they are told", async || told(&left)).await;
    }
    for client in clients {
        left.push(leave(client).await);
    }
    eventually("the end of the room is told", async || {
        memory.lock().unwrap().emptied == 1
    })
    .await;
    eventually("nothing is left", async || {
        house.metric("meridian_outbox_entries").await == 0
    })
    .await;
    assert_eq!(house.metric("meridian_outbox_dropped_total").await, 0);
    house.close().await;
    let memory = memory.lock().unwrap();
    assert_eq!(memory.ended.len(), left.len());
    assert!(memory.ended.values().all(|times| *times == 1), "{:?}", memory.ended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_without_an_outbox_is_told_of_sessions_as_ever() {
    meridian_access::install_crypto();
    let authority = CertificateAuthority::create().unwrap();
    let memory = Arc::new(Mutex::new(Memory::default()));
    let service = Service {
        memory: memory.clone(),
        old: true,
    };
    let (_running, address) = Running::start(service, &authority, edge_config().http.bind);
    let house = house(&authority, address).await;
    let sid = leave(house.join("ana").await).await;
    eventually("it is told", async || memory.lock().unwrap().ended.contains_key(&sid)).await;
    eventually("nothing is kept", async || {
        house.metric("meridian_outbox_entries").await == 0
    })
    .await;
    house.close().await;
}
