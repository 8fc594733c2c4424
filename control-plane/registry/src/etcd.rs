//! The registry on an etcd cluster. All keys lie under one prefix, so that several meshes, or other software, can share it.

use crate::members::Members;
use crate::srv::Discovery;
use crate::{
    Batch, BoxFuture, Change, Changes, Entry, Expected, LeaseId, Listing, Registry, RegistryError, Result, Swap, within,
};
use bytes::Bytes;
use etcd_client::{
    Compare, CompareOp, ConnectOptions, Error, EventType, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse,
    WatchOptions, WatchStream,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

const WATCHER_QUEUE: usize = 64;

/// How to reach the cluster.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// `http://host:2379`, one per member. With `discovery`: not used.
    pub endpoints: Vec<String>,
    /// Finds the members by SRV records instead. All of them are used evenly, whatever their priority: any member serves.
    pub discovery: Option<Arc<Discovery>>,
    /// Everything lies under this; ends with `/`.
    pub prefix: String,
    /// User name and password, if the cluster asks for them.
    pub user: Option<(String, String)>,
    /// A call without an answer for this long counts as [`RegistryError::Unavailable`].
    pub timeout: Duration,
}

impl EtcdOptions {
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        EtcdOptions {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            discovery: None,
            prefix: "meridian/v1/".to_owned(),
            user: None,
            timeout: Duration::from_secs(2),
        }
    }
}

/// A connection to etcd; reconnects by itself.
pub struct EtcdRegistry {
    members: Members,
    prefix: String,
    timeout: Duration,
}

impl EtcdRegistry {
    /// Prepares the connection. It does not wait for the cluster: an edge may start before etcd does.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`] for endpoints that are no URLs; with a user, failure to log in.
    pub async fn connect(options: EtcdOptions) -> Result<Self> {
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(options.timeout)
            // Finds out about a peer that vanished without a word, also while only watches are open.
            .with_keep_alive(Duration::from_secs(3), Duration::from_secs(3))
            .with_keep_alive_while_idle(true)
            // A member cut off from the quorum must fail the watch instead of going quiet.
            .with_require_leader(true);
        if let Some((name, password)) = &options.user {
            connect = connect.with_user(name, password);
        }
        let members = match options.discovery {
            Some(discovery) => Members::discovered(discovery, connect),
            None => Members::fixed(&options.endpoints, connect).await?,
        };
        Ok(EtcdRegistry {
            members,
            prefix: options.prefix,
            timeout: options.timeout,
        })
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    async fn call<T>(&self, call: impl Future<Output = std::result::Result<T, Error>>) -> Result<T> {
        let result = within(self.timeout, async { call.await.map_err(error) }).await;
        if matches!(result, Err(RegistryError::Unavailable(_))) {
            self.members.doubt();
        }
        result
    }
}

pub(crate) fn error(error: Error) -> RegistryError {
    match error {
        Error::GRpcStatus(status) => match status.code() {
            tonic_code::NOT_FOUND if status.message().contains("lease") => RegistryError::LeaseGone,
            tonic_code::OUT_OF_RANGE => RegistryError::Compacted(0),
            tonic_code::UNAUTHENTICATED | tonic_code::PERMISSION_DENIED => {
                RegistryError::Invalid(status.message().to_owned())
            }
            _ => RegistryError::Unavailable(format!("etcd: {}", status.message())),
        },
        Error::LeaseKeepAliveError(_) => RegistryError::LeaseGone,
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::EndpointError(_) => {
            RegistryError::Invalid(error.to_string())
        }
        other => RegistryError::Unavailable(other.to_string()),
    }
}

/// gRPC status codes by name.
mod tonic_code {
    pub(super) use tonic::Code::{
        NotFound as NOT_FOUND, OutOfRange as OUT_OF_RANGE, PermissionDenied as PERMISSION_DENIED,
        Unauthenticated as UNAUTHENTICATED,
    };
}

fn revision(header: Option<&etcd_client::ResponseHeader>) -> u64 {
    header.map_or(0, |header| u64::try_from(header.revision()).unwrap_or(0))
}

fn entry(prefix: &str, kv: &KeyValue) -> Option<Entry> {
    Some(Entry {
        key: kv.key_str().ok()?.strip_prefix(prefix)?.to_owned(),
        value: Bytes::copy_from_slice(kv.value()),
        revision: u64::try_from(kv.mod_revision()).ok()?,
        lease: (kv.lease() != 0).then(|| LeaseId(kv.lease())),
    })
}

fn put_options(lease: Option<LeaseId>) -> Option<PutOptions> {
    lease.map(|lease| PutOptions::new().with_lease(lease.0))
}

impl Registry for EtcdRegistry {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>>> {
        Box::pin(async move {
            let mut kv = self.members.client()?.kv_client();
            let response = self.call(kv.get(self.full(key), None)).await?;
            Ok(response.kvs().first().and_then(|kv| entry(&self.prefix, kv)))
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing>> {
        Box::pin(async move {
            let mut kv = self.members.client()?.kv_client();
            let options = GetOptions::new().with_prefix();
            let response = self.call(kv.get(self.full(prefix), Some(options))).await?;
            let entries = response.kvs().iter().filter_map(|kv| entry(&self.prefix, kv)).collect();
            Ok(Listing {
                revision: revision(response.header()),
                entries,
            })
        })
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes, lease: Option<LeaseId>) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let mut kv = self.members.client()?.kv_client();
            let response = self
                .call(kv.put(self.full(key), value.to_vec(), put_options(lease)))
                .await?;
            Ok(revision(response.header()))
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let mut kv = self.members.client()?.kv_client();
            Ok(self.call(kv.delete(self.full(key), None)).await?.deleted() > 0)
        })
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Expected,
        value: Option<Bytes>,
        lease: Option<LeaseId>,
    ) -> BoxFuture<'a, Result<Swap>> {
        Box::pin(async move {
            let key = self.full(key);
            let compare = match expected {
                Expected::Absent => Compare::version(key.as_str(), CompareOp::Equal, 0),
                Expected::Revision(revision) => {
                    let revision =
                        i64::try_from(revision).map_err(|_| RegistryError::Invalid("revision".to_owned()))?;
                    Compare::mod_revision(key.as_str(), CompareOp::Equal, revision)
                }
            };
            let write = match value {
                Some(value) => TxnOp::put(key.as_str(), value.to_vec(), put_options(lease)),
                None => TxnOp::delete(key.as_str(), None),
            };
            let read = TxnOp::get(key.as_str(), None);
            let txn = Txn::new().when([compare]).and_then([write]).or_else([read]);
            let mut kv = self.members.client()?.kv_client();
            let response = self.call(kv.txn(txn)).await?;
            if response.succeeded() {
                return Ok(Swap::Done {
                    revision: revision(response.header()),
                });
            }
            let found = response.op_responses().into_iter().find_map(|one| match one {
                TxnOpResponse::Get(get) => get.kvs().first().and_then(|kv| entry(&self.prefix, kv)),
                _ => None,
            });
            Ok(Swap::Conflict(found))
        })
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId>> {
        Box::pin(async move {
            let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1);
            let mut lease = self.members.client()?.lease_client();
            Ok(LeaseId(self.call(lease.grant(seconds, None)).await?.id()))
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let mut client = self.members.client()?.lease_client();
            // Opening the stream sends one renewal and reads its answer, which is all we want: one call, one answer.
            self.call(client.keep_alive(lease.0)).await.map(drop)
        })
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let mut client = self.members.client()?.lease_client();
            match self.call(client.revoke(lease.0)).await {
                Ok(_) | Err(RegistryError::LeaseGone) => Ok(()),
                Err(error) => Err(error),
            }
        })
    }

    fn changes<'a>(&'a self, prefix: &'a str, after: u64) -> BoxFuture<'a, Result<Changes>> {
        Box::pin(async move {
            let start =
                i64::try_from(after.saturating_add(1)).map_err(|_| RegistryError::Invalid("revision".to_owned()))?;
            let options = WatchOptions::new().with_prefix().with_start_revision(start);
            let mut watch = self.members.client()?.watch_client();
            let mut stream = self.call(watch.watch(self.full(prefix), Some(options))).await?;
            let first = self.call(stream.message()).await?;
            let created = first.ok_or_else(|| RegistryError::Unavailable("etcd closed the watch".to_owned()))?;
            if created.canceled() {
                return Err(canceled(&created));
            }
            // A store restored from an older backup would leave us waiting for a revision that comes much later.
            if revision(created.header()) < after {
                return Err(RegistryError::Compacted(revision(created.header())));
            }
            let (queue, changes) = mpsc::channel(WATCHER_QUEUE);
            tokio::spawn(pump(stream, queue, self.prefix.clone()));
            Ok(changes)
        })
    }
}

fn canceled(response: &etcd_client::WatchResponse) -> RegistryError {
    match u64::try_from(response.compact_revision()) {
        Ok(compacted) if compacted > 0 => RegistryError::Compacted(compacted),
        _ => RegistryError::Unavailable(format!("etcd ended the watch: {}", response.cancel_reason())),
    }
}

/// Carries one etcd watch into a queue until either side ends.
async fn pump(mut stream: WatchStream, queue: mpsc::Sender<Result<Batch>>, prefix: String) {
    loop {
        let message = tokio::select! {
            message = stream.message() => message,
            () = queue.closed() => return,
        };
        let item = match message {
            Ok(Some(response)) if response.canceled() => Err(canceled(&response)),
            Ok(Some(response)) => {
                let changes: Vec<Change> = response
                    .events()
                    .iter()
                    .filter_map(|event| change(&prefix, event))
                    .collect();
                if changes.is_empty() {
                    continue;
                }
                Ok(Batch {
                    revision: revision(response.header()),
                    changes,
                })
            }
            Ok(None) => Err(RegistryError::Unavailable("etcd closed the watch".to_owned())),
            Err(failure) => Err(error(failure)),
        };
        let ended = item.is_err();
        if queue.send(item).await.is_err() || ended {
            return;
        }
    }
}

fn change(prefix: &str, event: &etcd_client::Event) -> Option<Change> {
    let entry = entry(prefix, event.kv()?)?;
    Some(match event.event_type() {
        EventType::Put => Change::Put(entry),
        EventType::Delete => Change::Delete {
            key: entry.key,
            revision: entry.revision,
        },
    })
}
