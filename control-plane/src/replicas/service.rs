//! What other replicas tell this one.

use super::row_of_wire;
use crate::database::{Database, now_ms};
use crate::fleet::Fleet;
use crate::learning::Learning;
use meridian_geo::Row;
use meridian_pki::{PeerName, Role, peer_name_of};
use meridian_wire::v1;
use meridian_wire::v1::replicas_server::Replicas;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status, Streaming};

pub(crate) struct ReplicasService {
    pub(crate) id: String,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) learning: Arc<Learning>,
    pub(crate) database: Database,
    pub(crate) shutdown: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl Replicas for ReplicasService {
    async fn share(&self, request: Request<Streaming<v1::ReplicaNews>>) -> Result<Response<v1::ShareEnd>, Status> {
        let certificates = request.peer_certs();
        let name = certificates.as_ref().and_then(|all| peer_name_of(all.first()?));
        let Some(PeerName {
            role: Role::ControlPlane,
            id,
        }) = name
        else {
            return Err(Status::permission_denied("this is for control planes of this mesh"));
        };
        if id == self.id {
            return Err(Status::permission_denied(format!(
                "two control planes are called {id}: give each its own `id`"
            )));
        }
        let mut stream = request.into_inner();
        let mut shutdown = self.shutdown.clone();
        loop {
            let news = tokio::select! {
                news = stream.next() => news,
                _ = shutdown.changed() => return Ok(Response::new(v1::ShareEnd {})),
            };
            match news {
                Some(Ok(news)) if news.replica == id => self.hear(&id, news).await,
                Some(Ok(news)) => {
                    return Err(Status::permission_denied(format!(
                        "the certificate is {id}'s, but the message says {}",
                        news.replica
                    )));
                }
                Some(Err(status)) => return Err(status),
                None => return Ok(Response::new(v1::ShareEnd {})),
            }
        }
    }
}

impl ReplicasService {
    async fn hear(&self, id: &str, mut news: v1::ReplicaNews) {
        let rows: Vec<Row> = std::mem::take(&mut news.learned)
            .into_iter()
            .filter_map(row_of_wire)
            .collect();
        if !rows.is_empty() {
            self.learning.merge(&rows);
        }
        let wanted = std::mem::take(&mut news.wanted);
        self.fleet.hear(id, news, Instant::now());
        let wanted = self.fleet.take_wanted(wanted, Instant::now(), now_ms());
        if let Err(error) = self.database.save_wanted(&wanted).await {
            tracing::warn!(%error, "what operators want of edges could not be saved; another replica knows it, too");
        }
    }
}
