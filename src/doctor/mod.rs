//! `meridian doctor`: what is wrong on this machine for one role, in words that say what to do. Looks and asks; changes nothing.
//!
//! A module for each thing that can be wrong. Each takes facts as plain data where a test could not break the machine itself, and gives
//! [`Finding`]s; [`report`] prints them.

use anyhow::bail;
use clap::{Args, Subcommand};
use meridian_control_plane::ControlPlaneConfig;
use meridian_node::EdgeConfig;
use meridian_registry::settings::{RegistryKind, RegistrySettings};

use crate::flags::{ControlPlaneArgs, EdgeArgs, TurnArgs};
use crate::turn::config::TurnProcessConfig;
use addresses::Addresses;
use host::{Host, Needs};
use report::{Finding, Report};

mod addresses;
mod certificates;
mod clock;
mod files;
mod host;
mod mesh;
mod report;

#[derive(Args)]
pub(crate) struct DoctorArgs {
    #[command(subcommand)]
    role: RoleCommand,
    /// Prints JSON.
    #[arg(long, global = true)]
    json: bool,
}

/// The flags are those of the role itself, so that the doctor sees what the role would.
#[derive(Subcommand)]
enum RoleCommand {
    /// A machine that runs, or will run, `meridian edge`.
    Edge(EdgeArgs),
    /// A machine that runs, or will run, `meridian control-plane`.
    ControlPlane(ControlPlaneArgs),
    /// A machine that runs, or will run, `meridian turn`.
    Turn(TurnArgs),
}

pub(crate) async fn run(args: DoctorArgs) -> anyhow::Result<()> {
    let report = match &args.role {
        RoleCommand::Edge(role) => examine("edge", role.load(), async |config| edge(&config).await).await,
        RoleCommand::ControlPlane(role) => {
            examine("control-plane", role.load(), async |config| {
                control_plane(&config).await
            })
            .await
        }
        RoleCommand::Turn(role) => examine("turn", role.load(), async |config| turn(&config)).await,
    };
    if args.json {
        println!("{:#}", report.json());
    } else {
        print!("{}", report.text());
    }
    match report.problems() {
        0 => Ok(()),
        1 => bail!("1 thing is wrong"),
        many => bail!("{many} things are wrong"),
    }
}

/// Without a configuration that loads, there is only one thing to say.
async fn examine<T>(
    role: &'static str,
    config: anyhow::Result<T>,
    look: impl AsyncFnOnce(T) -> Vec<Finding>,
) -> Report {
    let findings = match config {
        Ok(config) => look(config).await,
        Err(error) => vec![Finding::problem(
            "configuration",
            format!("{error:#}"),
            format!("correct it; deploy/config/{role}.toml documents every key"),
        )],
    };
    Report { role, findings }
}

async fn edge(config: &EdgeConfig) -> Vec<Finding> {
    let mut found = vec![Finding::good(
        "configuration",
        "every key is known and has a value in its range",
    )];
    found.extend(host::findings(&Host::read(), &Needs::edge(config.node.capacity)));
    let running = mesh::is_running(config.http.bind, config.http.certificate.is_some()).await;
    found.extend(Addresses::of_edge(config).findings(running));
    found.extend(addresses::name_of(config).await);
    let host = addresses::host_of(&config.http.public_url);
    found.extend(certificates::files(
        config.http.certificate.as_deref(),
        config.http.private_key.as_deref(),
        host.as_deref(),
    ));
    let (identity, of_mesh) = certificates::of_mesh(&config.pki.directory, &config.node.id);
    found.extend(of_mesh);
    if config.recording.is_on() {
        found.extend(files::writable("recording.spool", &config.recording.spool));
    }
    let mut clocks = Vec::new();
    found.extend(registry(&config.registry, &mut clocks).await);
    if let (Some(url), Some(identity)) = (&config.control_plane.url, &identity) {
        found.extend(mesh::control_plane(url, identity, &mut clocks).await);
    }
    found.push(clock::finding(&clocks));
    found
}

async fn control_plane(config: &ControlPlaneConfig) -> Vec<Finding> {
    let mut found = vec![Finding::good(
        "configuration",
        "every key is known and has a value in its range",
    )];
    found.extend(host::findings(&Host::read(), &Needs::control_plane(config.dns.is_on())));
    let running = mesh::is_running(config.http.bind, config.http.certificate.is_some()).await;
    found.extend(Addresses::of_control_plane(config).findings(running));
    let (chain, key) = (config.http.certificate.as_deref(), config.http.private_key.as_deref());
    found.extend(certificates::files(chain, key, None));
    found.extend(files::data_directory(&config.data_directory));
    found.extend(files::geoip(&config.geo));
    let mut clocks = Vec::new();
    found.extend(registry(&config.registry, &mut clocks).await);
    found.push(clock::finding(&clocks));
    found
}

fn turn(config: &TurnProcessConfig) -> Vec<Finding> {
    let mut found = vec![Finding::good(
        "configuration",
        "every key is known and has a value in its range",
    )];
    found.extend(host::findings(&Host::read(), &Needs::turn(&config.turn.limits)));
    // Whether its ports are taken by itself cannot be asked of it: it has no port that only it would answer on.
    found.extend(Addresses::of_turn(&config.turn).findings(true));
    let host = (!config.turn.host.is_empty()).then_some(config.turn.host.as_str());
    let (chain, key) = (config.tls.certificate.as_deref(), config.tls.private_key.as_deref());
    found.extend(certificates::files(chain, key, host));
    found
}

async fn registry(settings: &RegistrySettings, clocks: &mut Vec<clock::Reading>) -> Vec<Finding> {
    match settings.kind {
        RegistryKind::Memory => vec![Finding::warning(
            "etcd",
            "registry.kind is \"memory\": this process neither sees others nor is seen by them",
            "set registry.kind = \"etcd\" and registry.endpoints, unless it is meant to be alone",
        )],
        RegistryKind::Etcd if settings.endpoints.is_empty() => vec![Finding::skipped(
            "etcd",
            "found by SRV records; name its members in --etcd to have them asked",
        )],
        RegistryKind::Etcd => mesh::etcd(&settings.endpoints, clocks).await,
    }
}
