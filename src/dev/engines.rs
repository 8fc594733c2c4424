//! What the demo runs on: a directory, a registry, and an etcd of its own when that is asked for.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use meridian_registry::{EtcdOptions, EtcdRegistry, MemoryRegistry, Registry, SharedRegistry};
use tokio::process::{Child, Command};

/// The demo's directory; removed at the end unless the user named it.
pub(super) struct Data {
    pub(super) path: PathBuf,
    temporary: bool,
}

impl Data {
    pub(super) fn open(named: Option<PathBuf>) -> anyhow::Result<Data> {
        let temporary = named.is_none();
        let path = named.unwrap_or_else(|| std::env::temp_dir().join(format!("meridian-dev-{}", std::process::id())));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Data { path, temporary })
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        if self.temporary {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Where the demo's processes find each other.
pub(super) enum Engine {
    Memory(MemoryRegistry),
    Etcd(Etcd),
}

impl Engine {
    /// A connection of its own for each part, as separate processes would have.
    pub(super) async fn connect(&self) -> anyhow::Result<SharedRegistry> {
        Ok(match self {
            Engine::Memory(registry) => Arc::new(registry.connection()),
            Engine::Etcd(etcd) => Arc::new(EtcdRegistry::connect(EtcdOptions::new([etcd.url.clone()])).await?),
        })
    }

    pub(super) async fn stop(self) {
        if let Engine::Etcd(etcd) = self {
            etcd.stop().await;
        }
    }
}

/// A single etcd on loopback, ours to stop.
pub(super) struct Etcd {
    url: String,
    process: Child,
}

impl Etcd {
    pub(super) async fn start(directory: &Path) -> anyhow::Result<Etcd> {
        let (client, peer) = (free_port()?, free_port()?);
        let url = format!("http://127.0.0.1:{client}");
        let peers = format!("http://127.0.0.1:{peer}");
        let mut command = Command::new("etcd");
        // Settings of another etcd on this machine; it refuses those that contradict our arguments.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD_")) {
            command.env_remove(name);
        }
        let process = command
            .args(["--name", "dev", "--log-level", "error", "--data-dir"])
            .arg(directory)
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("dev={peers}")])
            // A group of its own: Ctrl-C in the terminal is for us, and we stop etcd after the edges have left it.
            .process_group(0)
            .kill_on_drop(true)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .context("etcd is not installed: apt-get install etcd-server")?;
        let mut etcd = Etcd { url, process };
        etcd.wait_until_ready().await?;
        Ok(etcd)
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(15);
        while Instant::now() < deadline {
            if let Some(status) = self.process.try_wait()? {
                bail!("etcd ended at once ({status}); its own message stands above");
            }
            let registry = EtcdRegistry::connect(EtcdOptions::new([self.url.clone()])).await?;
            if registry.list("nodes/").await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("etcd did not answer at {} within 15 s", self.url)
    }

    async fn stop(mut self) {
        if let Err(error) = self.process.kill().await {
            tracing::warn!(%error, "etcd not stopped");
        }
    }
}

/// Below the ports that the kernel hands out by itself, or something else may be given it before etcd binds it.
fn free_port() -> anyhow::Result<u16> {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let tried = || rand::random_range(10_000..32_000);
    std::iter::repeat_with(tried)
        .take(1_000)
        .find(is_free)
        .context("no free TCP port between 10000 and 32000")
}
