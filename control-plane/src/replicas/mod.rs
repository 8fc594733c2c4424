//! Control planes place people as one: each finds the others in the registry and tells them, over gRPC, whom it has just sent where,
//! what edges have reported to it, and what it has learned.
//!
//! Nobody waits for anybody: a replica that is slow or gone is told nothing, and forgotten after two seconds. What is told is the state
//! as of now, not a queue of events; only learned rows have a place to go on from.

mod service;

pub(crate) use service::ReplicasService;

use crate::fleet::{Fleet, Told};
use crate::learning::Learning;
use bytes::Bytes;
use meridian_geo::{Observation, Row};
use meridian_pki::{NodeIdentity, is_valid_node_id};
use meridian_registry::{Change, Entry, Registration, SharedRegistry, WatchEvent, register, watch};
use meridian_wire::v1;
use meridian_wire::v1::replicas_client::ReplicasClient;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

/// Where control planes' records lie: `controls/<id>`.
const PREFIX: &str = "controls/";
const RECORD_VERSION: u32 = 1;
/// How often there may be news, and how often there are some in any case: half of it is half of what a replica waits for.
const NEWS_EVERY: Duration = Duration::from_millis(100);
const NEWS_AT_LEAST_EVERY: Duration = Duration::from_millis(500);
/// Messages under way to a replica that does not read.
const QUEUE: usize = 4;
/// Learned rows of one message.
const ROWS: usize = 256;
/// Other replicas that are told.
const REPLICAS_MAX: usize = 64;
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What a control plane says about itself. JSON in the registry; unknown fields are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    version: u32,
    id: String,
    /// Where its gRPC listens: `https://host:port`.
    grpc: String,
}

/// What telling others needs.
#[derive(Clone)]
pub(crate) struct Sharing {
    pub(crate) id: String,
    pub(crate) identity: NodeIdentity,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) learning: Arc<Learning>,
}

/// This replica's record, kept in the registry until it is dropped or leaves.
pub(crate) fn announce(registry: SharedRegistry, id: &str, grpc: String, ttl: Duration) -> Registration {
    let record = Record {
        version: RECORD_VERSION,
        id: id.to_owned(),
        grpc,
    };
    let value = Bytes::from(serde_json::to_vec(&record).unwrap_or_default());
    register(registry, format!("{PREFIX}{id}"), value, ttl)
}

/// Tells all other replicas of the registry, for as long as it runs.
pub(crate) async fn tell_all(registry: SharedRegistry, sharing: Sharing) {
    let mut events = watch(registry, PREFIX);
    let mut tellers: HashMap<String, Teller> = HashMap::new();
    while let Some(event) = events.next().await {
        match event {
            WatchEvent::Snapshot(entries) | WatchEvent::Rewound(entries) => {
                tellers.retain(|id, _| entries.iter().any(|entry| entry.key.strip_prefix(PREFIX) == Some(id)));
                for entry in entries {
                    put(&mut tellers, &sharing, &entry);
                }
            }
            WatchEvent::Changes(changes) => {
                for change in changes {
                    match change {
                        Change::Put(entry) => put(&mut tellers, &sharing, &entry),
                        Change::Delete { key, .. } => {
                            tellers.remove(key.strip_prefix(PREFIX).unwrap_or_default());
                        }
                    }
                }
            }
        }
    }
}

fn put(tellers: &mut HashMap<String, Teller>, sharing: &Sharing, entry: &Entry) {
    let record = serde_json::from_slice::<Record>(&entry.value).ok();
    let Some(record) =
        record.filter(|one| entry.key.strip_prefix(PREFIX) == Some(&one.id) && is_valid_node_id(&one.id))
    else {
        tracing::warn!(key = %entry.key, "a control plane's record cannot be read; ignored");
        return;
    };
    let known = tellers.get(&record.id).is_some_and(|teller| teller.record == record);
    if record.id == sharing.id || known || tellers.len() >= REPLICAS_MAX {
        return;
    }
    tracing::info!(replica = %record.id, grpc = %record.grpc, "another control plane");
    let task = tokio::spawn(tell(sharing.clone(), record.clone()));
    tellers.insert(record.id.clone(), Teller { record, task });
}

/// Stops telling when dropped.
struct Teller {
    record: Record,
    task: JoinHandle<()>,
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Tells one other replica, reconnecting for ever.
async fn tell(sharing: Sharing, to: Record) {
    let mut pause = RETRY_MIN;
    let mut warned = false;
    loop {
        let started = Instant::now();
        let why = match connect(&sharing, &to).await {
            Ok(client) => share(&sharing, client).await,
            Err(error) => error,
        };
        if started.elapsed() > RETRY_MAX {
            (pause, warned) = (RETRY_MIN, false);
        }
        if !std::mem::replace(&mut warned, true) {
            tracing::warn!(replica = %to.id, %why, "another control plane cannot be told: it places people without our recent joins");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

async fn connect(sharing: &Sharing, to: &Record) -> Result<ReplicasClient<tonic::transport::Channel>, String> {
    let described = |error: tonic::transport::Error| {
        let source = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        format!("{error}{}", source.unwrap_or_default())
    };
    let endpoint = Endpoint::from_shared(to.grpc.clone()).map_err(described)?;
    let endpoint = endpoint
        .tls_config(sharing.identity.tonic_client())
        .map_err(described)?
        .connect_timeout(CONNECT_WITHIN)
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(true);
    Ok(ReplicasClient::new(endpoint.connect().await.map_err(described)?))
}

/// Tells until the stream ends; says why it did.
async fn share(sharing: &Sharing, mut client: ReplicasClient<tonic::transport::Channel>) -> String {
    let (queue, messages) = mpsc::channel(QUEUE);
    let feed = feed(sharing, queue);
    tokio::select! {
        ended = client.share(ReceiverStream::new(messages)) => match ended {
            Ok(_) => "it ended the stream".to_owned(),
            Err(status) => status.message().to_owned(),
        },
        () = feed => "the stream broke".to_owned(),
    }
}

/// Puts news into the queue whenever there is room for them. Ends with the queue.
async fn feed(sharing: &Sharing, queue: mpsc::Sender<v1::ReplicaNews>) {
    let mut ticks = tokio::time::interval(NEWS_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut told, mut learned): (Told, u64) = (sharing.fleet.told_nothing(), 0);
    let (mut last, mut last_at) = (Vec::new(), None::<Instant>);
    loop {
        ticks.tick().await;
        let slot = match queue.try_reserve() {
            Ok(slot) => slot,
            Err(mpsc::error::TrySendError::Full(())) => continue,
            Err(mpsc::error::TrySendError::Closed(())) => return,
        };
        let now = Instant::now();
        let mut news = sharing.fleet.news(&mut told, now);
        let (rows, next) = sharing.learning.changes_since(learned, ROWS);
        learned = next;
        news.replica.clone_from(&sharing.id);
        news.learned = rows.iter().map(row_to_wire).collect();
        let due = last_at.is_none_or(|at| now.duration_since(at) >= NEWS_AT_LEAST_EVERY);
        let anything =
            !news.loads.is_empty() || !news.learned.is_empty() || !news.closed.is_empty() || !news.wanted.is_empty();
        if due || anything || news.coming != last {
            last.clone_from(&news.coming);
            last_at = Some(now);
            slot.send(news);
        }
    }
}

fn row_to_wire(row: &Row) -> v1::LearnedRow {
    let session = |one: &Observation| v1::LearnedSession {
        at_s: one.at_s,
        source: one.source,
        rtt_dms: u32::from(one.rtt_dms),
        expected_dms: u32::from(one.expected_dms),
    };
    let region = |(region, sessions): &(String, Vec<Observation>)| v1::LearnedRegion {
        region: region.clone(),
        sessions: sessions.iter().map(session).collect(),
    };
    v1::LearnedRow {
        key: row.key.to_string(),
        regions: row.regions.iter().map(region).collect(),
    }
}

/// `None` for a row of a kind that this version does not know.
fn row_of_wire(row: v1::LearnedRow) -> Option<Row> {
    let session = |one: v1::LearnedSession| {
        Some(Observation {
            at_s: one.at_s,
            source: one.source,
            rtt_dms: u16::try_from(one.rtt_dms).ok()?,
            expected_dms: u16::try_from(one.expected_dms).unwrap_or(0),
        })
    };
    let region = |one: v1::LearnedRegion| (one.region, one.sessions.into_iter().filter_map(session).collect());
    Some(Row {
        key: row.key.parse().ok()?,
        regions: row.regions.into_iter().map(region).collect(),
    })
}
