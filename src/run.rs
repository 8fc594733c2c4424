//! Starting one role from its configuration, and stopping it on a signal.

use std::backtrace::BacktraceStatus;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use meridian_control_plane::{ControlPlane, ControlPlaneConfig};
use meridian_node::{Edge, EdgeConfig};
use meridian_pki::NodeIdentity;
use meridian_process::log::{Format, Sink};
use meridian_registry::settings::{RegistryKind, RegistrySettings};
use meridian_registry::srv::Discovery;
use meridian_registry::{EtcdOptions, EtcdRegistry, MemoryRegistry, SharedRegistry};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::flags::{ControlPlaneArgs, EdgeArgs};

/// How long a process that has lost a vital part takes for its goodbyes.
const FAILED_STOP: Duration = Duration::from_secs(5);

/// Log lines and panics go to standard error from now on. Nothing waits for it or fails with it.
pub(crate) fn logging(filter: &str, json: bool) -> std::io::Result<Sink> {
    let (filter, mistake) = match EnvFilter::try_new(filter) {
        Ok(good) => (good, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let format = match (json, terminal) {
        (true, _) => Format::Json,
        (false, true) => Format::Coloured,
        (false, false) => Format::Text,
    };
    let sink = Sink::start(std::io::stderr(), format)?;
    let out = sink.clone();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // It would tell standard error, and panic, that it cannot write to standard error.
        .log_internal_errors(false)
        .with_writer(move || out.clone());
    if json {
        builder.json().init()
    } else {
        builder.with_target(false).with_ansi(terminal).init()
    }
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("something that is no text");
        let backtrace = std::backtrace::Backtrace::capture();
        let backtrace = matches!(backtrace.status(), BacktraceStatus::Captured).then_some(backtrace);
        let backtrace = backtrace.map(tracing::field::display);
        tracing::error!(thread = thread.name(), place, backtrace, "panicked: {message}");
    }));
    if let Some(error) = mistake {
        tracing::warn!(%error, "--log is not a filter; info is logged");
    }
    Ok(sink)
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
        .serve(
            start,
            async |edge: &Edge| edge.failure().await,
            async |edge: Edge| edge.stop().await,
        )
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
        .serve(
            start,
            async |control: &ControlPlane| control.failure().await,
            async |control: ControlPlane| control.shutdown().await,
        )
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

    /// Runs until the first signal, then stops; a second signal cuts the stopping short. Ends with an error, and soon, when a part has
    /// ended that the role cannot go on without: whoever supervises the process starts it again.
    pub(crate) async fn serve<T>(
        mut self,
        start: impl Future<Output = anyhow::Result<T>>,
        failure: impl AsyncFnOnce(&T) -> &'static str,
        stop: impl AsyncFnOnce(T),
    ) -> anyhow::Result<()> {
        let running = tokio::select! {
            started = start => started?,
            () = self.received() => return Ok(()),
        };
        let failed = tokio::select! {
            () = self.received() => None,
            part = failure(&running) => Some(part),
        };
        if let Some(part) = failed {
            tracing::error!(part, "stopping: a vital part has ended");
            // What still works sends people elsewhere.
            let _ = tokio::time::timeout(FAILED_STOP, stop(running)).await;
            bail!("{part} has ended unasked, which the log explains");
        }
        tracing::info!("stopping");
        tokio::select! {
            () = stop(running) => Ok(()),
            () = self.received() => bail!("stopped at once, without a goodbye to clients"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_role_that_loses_a_vital_part_says_its_goodbyes_and_ends_with_an_error() {
        let (goodbye, said) = tokio::sync::oneshot::channel();
        let ended = StopSignal::install().unwrap().serve(
            async { Ok(goodbye) },
            async |_| "the heart",
            async |goodbye: tokio::sync::oneshot::Sender<()>| {
                let _ = goodbye.send(());
            },
        );
        let error = ended.await.unwrap_err().to_string();
        assert!(error.contains("the heart has ended"), "{error}");
        said.await.unwrap();
    }
}
