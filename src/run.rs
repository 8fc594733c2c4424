//! Starting one role from its configuration, and stopping it on a signal.

use std::sync::Arc;

use anyhow::Context;
use meridian_api::config::{Loader, Settings};
use meridian_api::pki::NodeIdentity;
use meridian_control_plane::{ControlPlane, ControlPlaneConfig};
use meridian_node::config::{RegistryKind, RegistrySettings};
use meridian_node::{Edge, EdgeConfig};
use meridian_registry::{EtcdOptions, EtcdRegistry, MemoryRegistry, SharedRegistry};
use tracing_subscriber::EnvFilter;

use crate::RoleArgs;

pub(crate) fn logging(filter: &str, json: bool) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|error| {
        eprintln!("meridian: --log {filter:?} is not a filter ({error}); using info");
        EnvFilter::new("info")
    });
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json { builder.json().init() } else { builder.with_target(false).with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init() }
}

pub(crate) async fn edge(args: RoleArgs) -> anyhow::Result<()> {
    let config: EdgeConfig = load(&args)?;
    if args.check {
        println!("the configuration is good");
        return Ok(());
    }
    let identity = NodeIdentity::load(&config.pki.directory).with_context(|| {
        format!("no certificate of this edge in {}: see pki.directory", config.pki.directory.display())
    })?;
    let registry = registry(&config.registry).await?;
    let edge = Edge::start(config, registry, identity).await?;
    stop_signal().await;
    tracing::info!("stopping");
    edge.stop().await;
    Ok(())
}

pub(crate) async fn control_plane(args: RoleArgs) -> anyhow::Result<()> {
    let config: ControlPlaneConfig = load(&args)?;
    if args.check {
        println!("the configuration is good");
        return Ok(());
    }
    let settings = RegistrySettings {
        kind: match config.registry.kind {
            meridian_control_plane::config::RegistryKind::Memory => RegistryKind::Memory,
            meridian_control_plane::config::RegistryKind::Etcd => RegistryKind::Etcd,
        },
        endpoints: config.registry.endpoints.clone(),
        lease_s: config.registry.lease_s,
    };
    let registry = registry(&settings).await?;
    let control = ControlPlane::start(config, registry).await?;
    stop_signal().await;
    tracing::info!("stopping");
    control.shutdown().await;
    Ok(())
}

/// The registry that a configuration names.
pub(crate) async fn registry(settings: &RegistrySettings) -> anyhow::Result<SharedRegistry> {
    Ok(match settings.kind {
        RegistryKind::Memory => Arc::new(MemoryRegistry::new()),
        RegistryKind::Etcd => {
            let options = EtcdOptions::new(settings.endpoints.clone());
            Arc::new(EtcdRegistry::connect(options).await.context("registry.endpoints")?)
        }
    })
}

pub(crate) fn load<T: Settings>(args: &RoleArgs) -> anyhow::Result<T> {
    let mut loader = Loader::new("MERIDIAN")
        .file(args.config.clone())
        .ignore_env(&["MERIDIAN_CONFIG", "MERIDIAN_LOG", "MERIDIAN_LOG_FORMAT"])
        .env(std::env::vars());
    for pair in &args.set {
        let (key, value) = pair.split_once('=').with_context(|| format!("--set {pair}: want KEY=VALUE"))?;
        loader = loader.flag("--set", key, Some(value));
    }
    Ok(loader.load::<T>()?.value)
}

/// Ctrl-C, or what service managers send.
pub(crate) async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
