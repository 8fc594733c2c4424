//! `meridian pki`: the mesh's certificate authority by hand, and enrolment of an edge over the network.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use meridian_pki::CertificateAuthority;
use meridian_pki::enrolment::Enrolment;

#[derive(Args)]
pub(crate) struct PkiArgs {
    #[command(subcommand)]
    command: PkiCommand,
}

#[derive(Subcommand)]
enum PkiCommand {
    /// Makes a certificate authority: ca.pem, and ca.key, which must stay secret.
    ///
    /// A control plane makes its own on its first start, in the folder pki of its data_directory; do this only to choose the
    /// authority beforehand. An authority that is already there is never overwritten.
    Create {
        /// The folder to write to.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Issues an edge's certificate: ca.pem, node.pem, and node.key, which must stay secret.
    ///
    /// Copy the folder to the edge and name it there in pki.directory. Issue a new one into the same folder before the old one ends.
    Node {
        /// The edge's name, as in its node.id: 1 to 40 of a-z, 0-9 and -.
        id: String,
        /// A control plane's data_directory, or a folder with ca.pem and ca.key.
        #[arg(long, value_name = "DIR", default_value = "data")]
        authority: PathBuf,
        /// The folder to write to.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// A further DNS name or IP address for the certificate; may be repeated.
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<String>,
    },
    /// Asks a running control plane for an edge's certificate, with one of its enrolment_tokens.
    ///
    /// Run it on the edge: the key is made there and never leaves it. It needs the mesh's ca.pem beforehand, so that the token is shown
    /// to nobody else.
    Enrol(EnrolArgs),
}

#[derive(Args)]
struct EnrolArgs {
    /// The edge's name, as in its node.id: 1 to 40 of a-z, 0-9 and -.
    id: String,
    /// The control plane's gRPC: https://host:8090.
    #[arg(long, value_name = "URL")]
    control_plane: String,
    /// The mesh's ca.pem, from the folder pki of the control plane's data_directory.
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// One of the control plane's enrolment_tokens. Better in the environment than in a shell's history.
    #[arg(long, env = "MERIDIAN_ENROLMENT_TOKEN", hide_env_values = true)]
    token: String,
    /// The PoP's region, for the control plane's log.
    #[arg(long, default_value = "")]
    region: String,
    /// The folder to write to.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A further DNS name or IP address for the certificate; may be repeated.
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
}

pub(crate) async fn run(args: PkiArgs) -> anyhow::Result<()> {
    match args.command {
        PkiCommand::Enrol(args) => enrol(args).await,
        PkiCommand::Create { out } => create(&out),
        PkiCommand::Node {
            id,
            authority,
            out,
            names,
        } => node(&id, &authority, &out, &names),
    }
}

fn create(out: &Path) -> anyhow::Result<()> {
    if out.join("ca.key").exists() || out.join("ca.pem").exists() {
        bail!(
            "{} already holds an authority: a new one would cut off every node with a certificate of the old one",
            out.display()
        );
    }
    CertificateAuthority::create()?.save(out)?;
    println!("{}: ca.pem, ca.key (secret)", out.display());
    Ok(())
}

fn node(id: &str, authority: &Path, out: &Path, names: &[String]) -> anyhow::Result<()> {
    // The control plane keeps its authority in a folder of its data directory.
    let inside = authority.join("pki");
    let folder = if inside.join("ca.pem").exists() {
        inside
    } else {
        authority.to_owned()
    };
    let authority = CertificateAuthority::load(&folder)
        .context("--authority: start the control plane once, or run `meridian pki create`, to have an authority")?;
    authority.issue_node(id, names)?.save(out)?;
    println!("{}: ca.pem, node.pem, node.key (secret)", out.display());
    Ok(())
}

async fn enrol(args: EnrolArgs) -> anyhow::Result<()> {
    let ca_pem = std::fs::read_to_string(&args.ca).with_context(|| format!("--ca {}", args.ca.display()))?;
    let enrolment = Enrolment {
        control_plane: args.control_plane,
        ca_pem,
        token: args.token,
        node: args.id,
        region: args.region,
        names: args.names,
    };
    enrolment.run().await?.save(&args.out)?;
    println!("{}: ca.pem, node.pem, node.key (secret)", args.out.display());
    Ok(())
}
