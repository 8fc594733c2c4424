//! The typed layer for edges: what a node says about itself, and the view that everybody else has of all nodes.

mod keeper;

pub use keeper::{KeeperConfig, View, ViewKeeper, ViewNode};

use crate::{Registration, RegistrationState, SharedRegistry, register, watch};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch as watch_channel;
use tokio::task::JoinHandle;

/// Where node records lie: `nodes/<id>`.
pub const NODES_PREFIX: &str = "nodes/";
/// The version this code writes into [`NodeRecord::version`].
pub const NODE_RECORD_VERSION: u32 = 1;
/// What `registry.lease_s` may be, in seconds: shorter leases end while a busy registry elects a leader, longer ones send people to
/// edges that are gone.
pub const LEASE_S: RangeInclusive<u64> = 2..=60;
/// How long a crashed node stays in the registry, unless configured otherwise.
pub const LEASE_TTL_DEFAULT: Duration = Duration::from_secs(10);

/// Whether people are placed on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    #[default]
    Active,
    /// Nobody new; those who are there stay.
    Cordoned,
    /// Those who are there are being moved away.
    Draining,
    /// The last thing a node says: it stops on purpose.
    Leaving,
    /// Written by a newer version of this software: taken as "nobody new".
    #[serde(other)]
    Unknown,
}

/// What a node says about itself. JSON in the registry; unknown fields are ignored, so fields may be added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Version of this record's meaning. A reader takes any version: only additions are made.
    pub version: u32,
    /// The name in the node's certificate.
    pub id: String,
    pub region: String,
    /// Degrees, −90..90 and −180..180; absent: the region's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lat: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lon: Option<f64>,
    /// Where clients connect: `wss://host[:port]` (plain `ws://` on loopback).
    pub client_url: String,
    /// The addresses of `client_url`'s host, which GeoDNS answers with. Empty: the edge is not found by DNS.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Addresses in ICE candidates.
    #[serde(default)]
    pub media: Vec<SocketAddr>,
    /// Where other edges connect by QUIC; absent: takes no part in the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<SocketAddr>,
    /// URLs of the TURN server in it (RFC 7065); empty: runs none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub turn: Vec<String>,
    #[serde(default)]
    pub state: NodeState,
    /// Participants it is meant to hold; 0: unknown.
    #[serde(default)]
    pub capacity: u32,
    /// Software version.
    #[serde(default)]
    pub software: String,
    /// Milliseconds since 1970 at which this process started: tells a restart from a reconnect.
    #[serde(default)]
    pub incarnation: u64,
}

impl NodeRecord {
    pub fn key(&self) -> String {
        format!("{NODES_PREFIX}{}", self.id)
    }

    pub fn to_json(&self) -> Bytes {
        // Serialising a struct of strings and numbers into memory cannot fail.
        Bytes::from(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Reads a record; `None` (and a warning) if it is not one.
    pub fn from_json(key: &str, value: &[u8]) -> Option<Self> {
        match serde_json::from_slice::<NodeRecord>(value) {
            Ok(record) if record.key() == key => Some(record),
            Ok(record) => {
                tracing::warn!(key, id = %record.id, "a node's record lies under another node's key; ignored");
                None
            }
            Err(error) => {
                tracing::warn!(key, %error, "a node's record cannot be read; ignored");
                None
            }
        }
    }
}

/// This node's own record in the registry, kept there until it leaves.
pub struct NodeRegistration {
    record: NodeRecord,
    registration: Registration,
}

/// Announces a node; `ttl` is how long it stays visible after a crash ([`LEASE_TTL_DEFAULT`]; the demo uses 2 s).
pub fn announce(registry: SharedRegistry, record: NodeRecord, ttl: Duration) -> NodeRegistration {
    let registration = register(registry, record.key(), record.to_json(), ttl);
    NodeRegistration { record, registration }
}

impl NodeRegistration {
    pub fn record(&self) -> &NodeRecord {
        &self.record
    }

    pub fn set_state(&mut self, state: NodeState) {
        self.update(|record| record.state = state);
    }

    /// Changes the record (not its id).
    pub fn update(&mut self, change: impl FnOnce(&mut NodeRecord)) {
        let id = self.record.id.clone();
        change(&mut self.record);
        self.record.id = id;
        self.registration.set(self.record.to_json());
    }

    /// Waits until the record stands.
    pub async fn registered(&self) {
        self.registration.registered().await;
    }

    pub fn state(&self) -> watch_channel::Receiver<RegistrationState> {
        self.registration.state()
    }

    /// Takes the record away now, so that nobody is placed here any more.
    pub async fn leave(mut self) {
        // Readers tell a departure from an outage by this last word; they may miss it when the registry merges both, which only
        // makes them careful.
        self.set_state(NodeState::Leaving);
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.registration.leave().await;
    }
}

/// Follows all nodes. Ends when dropped.
pub struct NodeWatch {
    view: watch_channel::Receiver<Arc<View>>,
    dead: tokio::sync::mpsc::UnboundedSender<String>,
    task: JoinHandle<()>,
}

impl NodeWatch {
    /// Starts following. The first view is empty with [`View::known`] false.
    pub fn start(registry: SharedRegistry, config: KeeperConfig) -> Self {
        let (view_in, view) = watch_channel::channel(Arc::new(View::default()));
        let (dead, dead_out) = tokio::sync::mpsc::unbounded_channel();
        let task = tokio::spawn(follow(registry, config, view_in, dead_out));
        NodeWatch { view, dead, task }
    }

    /// The view and its changes.
    pub fn view(&self) -> watch_channel::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// The view as it is.
    pub fn now(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Tells that a node which is only *kept* in the view is known to be dead (its neighbours say so).
    pub fn confirm_dead(&self, id: &str) {
        let _ = self.dead.send(id.to_owned());
    }

    /// Waits until the view holds `wanted`.
    pub async fn wait_for(&self, mut wanted: impl FnMut(&View) -> bool) -> Arc<View> {
        let mut view = self.view.clone();
        match view.wait_for(|view| wanted(view)).await {
            Ok(view) => view.clone(),
            Err(_) => self.now(),
        }
    }
}

impl Drop for NodeWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(
    registry: SharedRegistry,
    config: KeeperConfig,
    out: watch_channel::Sender<Arc<View>>,
    mut dead: tokio::sync::mpsc::UnboundedReceiver<String>,
) {
    let mut keeper = ViewKeeper::new(config);
    let mut events = watch(registry, NODES_PREFIX);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(event) => keeper.handle(Instant::now(), event),
                None => return,
            },
            Some(id) = dead.recv() => keeper.confirm_dead(&id),
        }
        if let Some(view) = keeper.poll_view() {
            out.send_replace(Arc::new(view));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests_support {
    use super::*;

    pub(crate) fn record(id: &str) -> NodeRecord {
        NodeRecord {
            version: NODE_RECORD_VERSION,
            id: id.to_owned(),
            region: "fra".to_owned(),
            lat: None,
            lon: None,
            client_url: "ws://127.0.0.1:1".to_owned(),
            addresses: Vec::new(),
            media: Vec::new(),
            link: None,
            turn: Vec::new(),
            state: NodeState::Active,
            capacity: 0,
            software: String::new(),
            incarnation: 0,
        }
    }
}
