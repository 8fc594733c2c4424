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

use crate::flags::{ControlPlaneArgs, EdgeArgs, Start};

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

pub(crate) async fn edge(start: Start<EdgeArgs>) -> anyhow::Result<()> {
    let Start { args, check } = start;
    let signals = Signals::install()?;
    let config: EdgeConfig = args.load()?;
    let identity = NodeIdentity::load(&config.pki.directory).with_context(|| {
        format!(
            "pki.directory: no certificate of this edge in {} (`meridian pki node` makes one)",
            config.pki.directory.display()
        )
    })?;
    meridian_node::check_identity(&config, &identity)?;
    if check {
        println!("the configuration is good");
        return Ok(());
    }
    let start = async {
        let registry = registry(&config.registry, &config.discovery.resolvers).await?;
        let edge = Edge::start(config, registry, identity).await?;
        Ok(EdgeRole { edge, args })
    };
    signals.serve(start).await
}

/// An edge, and where its configuration came from.
struct EdgeRole {
    edge: Edge,
    args: EdgeArgs,
}

impl Role for EdgeRole {
    const REREAD: &str = "api_keys, turn.users, turn.secrets";

    fn reread(&self) -> anyhow::Result<()> {
        self.edge.reread(&self.args.load()?);
        Ok(())
    }

    async fn failure(&self) -> &'static str {
        self.edge.failure().await
    }

    async fn stop(self) {
        self.edge.stop().await;
    }
}

pub(crate) async fn control_plane(start: Start<ControlPlaneArgs>) -> anyhow::Result<()> {
    let Start { args, check } = start;
    let signals = Signals::install()?;
    let config: ControlPlaneConfig = args.load()?;
    if check {
        println!("the configuration is good");
        return Ok(());
    }
    let start = async {
        let registry = registry(&config.registry, &config.discovery.resolvers).await?;
        let control = ControlPlane::start(config, registry).await?;
        Ok(ControlPlaneRole { control, args })
    };
    signals.serve(start).await
}

/// A control plane, and where its configuration came from.
struct ControlPlaneRole {
    control: ControlPlane,
    args: ControlPlaneArgs,
}

impl Role for ControlPlaneRole {
    const REREAD: &str = "api_keys, operator_tokens, enrolment_tokens";

    fn reread(&self) -> anyhow::Result<()> {
        self.control.reread(&self.args.load()?);
        Ok(())
    }

    async fn failure(&self) -> &'static str {
        self.control.failure().await
    }

    async fn stop(self) {
        self.control.shutdown().await;
    }
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

/// A role that runs.
pub(crate) trait Role {
    /// The keys of the configuration that [`Self::reread`] takes over.
    const REREAD: &str;

    /// Reads the configuration again and takes over what may change while the role runs.
    ///
    /// # Errors
    /// A configuration that no role could start from: everything stays as it was.
    fn reread(&self) -> anyhow::Result<()>;

    /// Waits until a part has ended that the role cannot go on without, and names it.
    async fn failure(&self) -> &'static str;

    async fn stop(self);
}

/// Ctrl-C, what service managers send, and what asks for the configuration to be read again. Installed before anything is started: so
/// that nothing started is left behind, and nothing running is killed by a hangup.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    pub(crate) fn install() -> anyhow::Result<Signals> {
        let install = |kind| signal(kind).context("cannot listen for signals");
        Ok(Signals {
            interrupt: install(SignalKind::interrupt())?,
            terminate: install(SignalKind::terminate())?,
            hangup: install(SignalKind::hangup())?,
        })
    }

    /// Waits for one that ends the process.
    pub(crate) async fn end(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Waits for one that ends the process, or for its terminal to go away: for what somebody runs by hand.
    pub(crate) async fn end_or_hangup(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }

    /// Runs until the first signal that ends it, then stops; a second one cuts the stopping short. SIGHUP has the configuration read again,
    /// at any time. Ends with an error, and soon, when a part has ended that the role cannot go on without: whoever supervises the
    /// process starts it again.
    pub(crate) async fn serve<R: Role>(mut self, start: impl Future<Output = anyhow::Result<R>>) -> anyhow::Result<()> {
        let running = tokio::select! {
            started = start => started?,
            () = self.end() => return Ok(()),
        };
        let failed = loop {
            tokio::select! {
                _ = self.interrupt.recv() => break None,
                _ = self.terminate.recv() => break None,
                part = running.failure() => break Some(part),
                _ = self.hangup.recv() => match running.reread() {
                    Ok(()) => tracing::info!(applied = R::REREAD, "SIGHUP: the configuration was read again; its other keys apply at the next start"),
                    Err(error) => tracing::warn!(error = format!("{error:#}"), "SIGHUP: the configuration is not good; what was read before stays"),
                },
            }
        };
        if let Some(part) = failed {
            tracing::error!(part, "stopping: a vital part has ended");
            // What still works sends people elsewhere.
            let _ = tokio::time::timeout(FAILED_STOP, running.stop()).await;
            bail!("{part} has ended unasked, which the log explains");
        }
        tracing::info!("stopping");
        tokio::select! {
            () = running.stop() => Ok(()),
            () = self.end() => bail!("stopped at once, without a goodbye to clients"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Heartless(tokio::sync::oneshot::Sender<()>);

    impl Role for Heartless {
        const REREAD: &str = "";

        fn reread(&self) -> anyhow::Result<()> {
            Ok(())
        }

        async fn failure(&self) -> &'static str {
            "the heart"
        }

        async fn stop(self) {
            let _ = self.0.send(());
        }
    }

    #[tokio::test]
    async fn a_role_that_loses_a_vital_part_says_its_goodbyes_and_ends_with_an_error() {
        let (goodbye, said) = tokio::sync::oneshot::channel();
        let ended = Signals::install()
            .unwrap()
            .serve(async { Ok(Heartless(goodbye)) })
            .await;
        let error = ended.unwrap_err().to_string();
        assert!(error.contains("the heart has ended"), "{error}");
        said.await.unwrap();
    }
}
