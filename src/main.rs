//! `meridian`: one binary, every role. Subcommands only; the roles live in their crates, the demo in `dev.rs`.
#![forbid(unsafe_code)]

mod assign;
mod dev;
mod doctor;
mod flags;
mod mesh;
mod operator;
mod pki;
mod plan;
mod pop;
mod run;
mod table;
mod turn;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

/// How long the end of a process waits for its last log lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Video conferencing whose rooms span the globe.
///
/// Every setting can stand in a TOML file, in the environment (MERIDIAN_HTTP_BIND for http.bind) or in a flag. Flags win over the
/// environment, the environment over the file, the file over the defaults.
#[derive(Parser)]
#[command(name = "meridian", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How much to log: error, warn, info, debug, trace, or a filter like meridian_node=debug.
    #[arg(long, global = true, env = "MERIDIAN_LOG", default_value = "info")]
    log: String,
    /// Log lines for people or for machines.
    #[arg(long, global = true, env = "MERIDIAN_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Meetings, joins, assignment; serves the browser app.
    ControlPlane(flags::Start<flags::ControlPlaneArgs>),
    /// One PoP: signalling, media, links to other edges.
    Edge(flags::Start<flags::EdgeArgs>),
    /// A TURN server alone: relays media for clients behind strict firewalls. Edges have one of their own ([turn] in edge.toml).
    Turn(flags::Start<flags::TurnArgs>),
    /// A control plane and three PoPs (fra, iad, sin) on this machine, to try things out. What `./run demo` runs.
    Dev(dev::DevArgs),
    /// Where a client would be sent, and why.
    Assign(assign::AssignArgs),
    /// The PoPs of a mesh: what they carry; take one out of service without anybody noticing, and put it back.
    Pop(pop::PopArgs),
    /// The links between PoPs.
    Mesh(mesh::MeshArgs),
    /// What every PoP does now, the busiest first.
    Top(mesh::ShowArgs),
    /// Certificates of the mesh: its authority, and one for each edge.
    Pki(pki::PkiArgs),
    /// What is wrong on this machine for a role, in plain words, and what to do about it.
    ///
    /// Reads the role's configuration, looks at this machine and asks etcd and the control plane; changes nothing. Exit code 1 if something
    /// is wrong; warnings alone are 0.
    Doctor(doctor::DoctorArgs),
    /// How many edges an event takes, by the costs that README.md measured.
    Plan(plan::PlanArgs),
}

fn main() -> ExitCode {
    // Before anything that might build a TLS configuration or verify a token.
    meridian_access::install_crypto();
    let cli = Cli::parse();
    let log = match run::logging(&cli.log, matches!(cli.log_format, LogFormat::Json)) {
        Ok(log) => log,
        Err(error) => return failed(format_args!("cannot start the log's thread: {error}")),
    };
    // Each person is a connection, each relayed one a socket.
    if let Err(error) = meridian_udp::raise_descriptor_limit() {
        tracing::warn!(%error, "the limit of file descriptors could not be raised");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(format_args!("cannot start the async runtime: {error}")),
    };
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::ControlPlane(args) => run::control_plane(args).await,
            Command::Edge(args) => run::edge(args).await,
            Command::Turn(args) => turn::run(args).await,
            Command::Dev(args) => dev::run(args).await,
            Command::Assign(args) => assign::run(args).await,
            Command::Pop(args) => pop::run(args).await,
            Command::Mesh(args) => mesh::run(args).await,
            Command::Top(args) => mesh::top(args).await,
            Command::Pki(args) => pki::run(args).await,
            Command::Doctor(args) => doctor::run(args).await,
            Command::Plan(args) => plan::run(&args),
        }
    });
    log.flush(LAST_LINES);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(format_args!("{error:#}")),
    }
}

/// Says why on standard error, if that can be written to: the exit code says it, too.
fn failed(why: std::fmt::Arguments<'_>) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "meridian: {why}");
    ExitCode::FAILURE
}
