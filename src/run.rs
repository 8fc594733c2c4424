//! Starting one role from its configuration, and stopping it on a signal.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use meridian_control_plane::{ControlPlane, ControlPlaneConfig};
use meridian_node::{Edge, EdgeConfig};
use meridian_pki::NodeIdentity;
use meridian_registry::settings::{RegistryKind, RegistrySettings};
use meridian_registry::srv::Discovery;
use meridian_registry::{EtcdOptions, EtcdRegistry, MemoryRegistry, SharedRegistry};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::flags::{ControlPlaneArgs, EdgeArgs};

pub(crate) fn logging(filter: &str, json: bool) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|error| {
        eprintln!("meridian: --log {filter:?} is not a filter ({error}); using info");
        EnvFilter::new("info")
    });
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if json {
        builder.json().init()
    } else {
        builder
            .with_target(false)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .init()
    }
}

pub(crate) async fn edge(args: EdgeArgs) -> anyhow::Result<()> {
    let config: EdgeConfig = args.load()?;
    let identity = NodeIdentity::load(&config.pki.directory).with_context(|| {
        format!(
            "pki.directory: no certificate of this edge in {} (`meridian pki node` makes one)",
            config.pki.directory.display()
        )
    })?;
    meridian_node::check_identity(&config, &identity)?;
    if args.role.check {
        println!("the configuration is good");
        return Ok(());
    }
    let start = async {
        let registry = registry(&config.registry, &config.discovery.resolvers).await?;
        Ok(Edge::start(config, registry, identity).await?)
    };
    StopSignal::install()?
        .serve(start, async |edge: Edge| edge.stop().await)
        .await
}

pub(crate) async fn control_plane(args: ControlPlaneArgs) -> anyhow::Result<()> {
    let config: ControlPlaneConfig = args.load()?;
    if args.role.check {
        println!("the configuration is good");
        return Ok(());
    }
    let start = async {
        let registry = registry(&config.registry, &config.discovery.resolvers).await?;
        Ok(ControlPlane::start(config, registry).await?)
    };
    StopSignal::install()?
        .serve(start, async |control: ControlPlane| control.shutdown().await)
        .await
}

/// The registry that a configuration names.
async fn registry(settings: &RegistrySettings, resolvers: &[SocketAddr]) -> anyhow::Result<SharedRegistry> {
    Ok(match settings.kind {
        RegistryKind::Memory => {
            tracing::warn!(
                "registry.kind is memory: this process neither sees others nor is seen by them (--etcd joins a mesh)"
            );
            Arc::new(MemoryRegistry::new())
        }
        RegistryKind::Etcd => {
            let discovery = settings.srv.as_deref().map(|name| Discovery::new(name, resolvers));
            let options = EtcdOptions {
                discovery: discovery.transpose().context("registry.srv")?.map(Arc::new),
                prefix: settings.prefix.clone(),
                ..EtcdOptions::new(settings.endpoints.clone())
            };
            Arc::new(EtcdRegistry::connect(options).await.context("registry.endpoints")?)
        }
    })
}

/// Ctrl-C, or what service managers send. Installed before anything is started, so that nothing started is left behind.
pub(crate) struct StopSignal {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignal {
    pub(crate) fn install() -> anyhow::Result<StopSignal> {
        let install = |kind| signal(kind).context("cannot listen for signals");
        Ok(StopSignal {
            interrupt: install(SignalKind::interrupt())?,
            terminate: install(SignalKind::terminate())?,
        })
    }

    pub(crate) async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Runs until the first signal, then stops; a second signal cuts the stopping short.
    pub(crate) async fn serve<T>(
        mut self,
        start: impl Future<Output = anyhow::Result<T>>,
        stop: impl AsyncFnOnce(T),
    ) -> anyhow::Result<()> {
        let running = tokio::select! {
            started = start => started?,
            () = self.received() => return Ok(()),
        };
        self.received().await;
        tracing::info!("stopping");
        tokio::select! {
            () = stop(running) => Ok(()),
            () = self.received() => bail!("stopped at once, without a goodbye to clients"),
        }
    }
}
