//! The connection to etcd's members, which are either configured or found by SRV records and then followed.

use crate::etcd::error;
use crate::srv::Discovery;
use crate::{RegistryError, Result};
use etcd_client::{Client, ConnectOptions};
use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// While all is well, the records are looked up this often.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// After a failure, they are looked up at once, but no more often than this.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// A client for the members known now.
pub(crate) struct Members {
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    client: RwLock<Option<Client>>,
    /// Why there is none.
    why: RwLock<String>,
    failed: Notify,
}

impl Members {
    pub(crate) async fn fixed(endpoints: &[String], options: ConnectOptions) -> Result<Self> {
        let client = Client::connect(endpoints, Some(options)).await.map_err(error)?;
        let shared = Shared {
            client: RwLock::new(Some(client)),
            ..Shared::default()
        };
        Ok(Members {
            shared: Arc::new(shared),
            task: None,
        })
    }

    /// Looks for them in the background.
    pub(crate) fn discovered(discovery: Arc<Discovery>, options: ConnectOptions) -> Self {
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(follow(discovery, options, shared.clone()));
        Members {
            shared,
            task: Some(task),
        }
    }

    /// # Errors
    /// [`RegistryError::Unavailable`] while no member was found yet.
    pub(crate) fn client(&self) -> Result<Client> {
        let client = self
            .shared
            .client
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        client.ok_or_else(|| {
            let why = self.shared.why.read().unwrap_or_else(PoisonError::into_inner);
            RegistryError::Unavailable(format!("etcd has not been found: {why}"))
        })
    }

    /// A call went unanswered: perhaps the members have moved.
    pub(crate) fn doubt(&self) {
        self.shared.failed.notify_one();
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn follow(discovery: Arc<Discovery>, options: ConnectOptions, shared: Arc<Shared>) {
    let mut connected: BTreeSet<String> = BTreeSet::new();
    loop {
        let looked = Instant::now();
        let found = match discovery.servers().await {
            Ok(servers) => servers
                .into_iter()
                .map(|server| format!("http://{}", server.address))
                .collect(),
            Err(error) => {
                tracing::warn!(%error, "etcd cannot be found");
                *shared.why.write().unwrap_or_else(PoisonError::into_inner) = error.to_string();
                BTreeSet::new()
            }
        };
        if !found.is_empty() && found != connected {
            let endpoints: Vec<String> = found.iter().cloned().collect();
            match Client::connect(&endpoints, Some(options.clone())).await {
                Ok(client) => {
                    tracing::info!(name = discovery.name(), ?endpoints, "etcd's members");
                    // Watches that stand go on where they are until they fail.
                    *shared.client.write().unwrap_or_else(PoisonError::into_inner) = Some(client);
                    connected = found;
                }
                Err(error) => tracing::warn!(%error, ?endpoints, "etcd's members cannot be used"),
            }
        }
        let next = looked + if connected.is_empty() { LOOK_PAUSE } else { LOOK_EVERY };
        tokio::select! {
            () = sleep_until(next) => {}
            () = shared.failed.notified() => sleep_until(looked + LOOK_PAUSE).await,
        }
    }
}
