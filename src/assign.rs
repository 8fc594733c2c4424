//! `meridian assign explain`: asks a running control plane where it would send somebody, and why.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, HOST};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Where Debian and its kin keep the certificates that the system trusts.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Left-out edges that are printed one by one.
const EXCLUDED_SHOWN: usize = 20;

#[derive(Args)]
pub(crate) struct AssignArgs {
    #[command(subcommand)]
    command: AssignCommand,
}

#[derive(Subcommand)]
enum AssignCommand {
    /// Prints where somebody at an address would be sent now, with the whole reckoning. Sends nobody anywhere.
    Explain(ExplainArgs),
}

#[derive(Args)]
struct ExplainArgs {
    /// The client's IP address.
    address: IpAddr,
    /// A meeting's code: who is there already, and where it may be held, count.
    #[arg(long, value_name = "CODE")]
    meeting: Option<String>,
    /// A region that stands in for the client's place: fra.
    #[arg(long, value_name = "REGION")]
    from: Option<String>,
    /// The control plane.
    #[arg(
        long,
        value_name = "URL",
        env = "MERIDIAN_URL",
        default_value = "http://localhost:8080"
    )]
    url: url::Url,
    /// One of the control plane's operator_tokens. Better in the environment than in a shell's history.
    #[arg(long, env = "MERIDIAN_OPERATOR_TOKEN", hide_env_values = true)]
    token: String,
    /// PEM certificates to trust for https, instead of the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: AssignArgs) -> anyhow::Result<()> {
    let AssignCommand::Explain(args) = args.command;
    let mut url = args.url.join("/api/v1/operator/assign").context("--url")?;
    url.query_pairs_mut()
        .append_pair("address", &args.address.to_string())
        .append_pair("meeting", args.meeting.as_deref().unwrap_or_default())
        .append_pair("from", args.from.as_deref().unwrap_or_default());
    let asked = tokio::time::timeout(ANSWER_WITHIN, get(&url, &args.token, args.ca.as_deref())).await;
    let (status, body) = asked
        .with_context(|| format!("{} does not answer", args.url))?
        .with_context(|| format!("cannot ask {}", args.url))?;
    let answer: Value = serde_json::from_slice(&body).with_context(|| {
        format!(
            "{} answered {status} with something that is no JSON: is it a control plane?",
            args.url
        )
    })?;
    if !status.is_success() {
        bail!(
            "{}",
            answer["message"]
                .as_str()
                .unwrap_or("the control plane refused, without a reason")
        );
    }
    if args.json {
        println!("{answer:#}");
    } else {
        print(&answer);
    }
    Ok(())
}

async fn get(url: &url::Url, token: &str, ca: Option<&Path>) -> anyhow::Result<(hyper::StatusCode, Bytes)> {
    let host = url.host_str().context("the URL has no host")?.to_owned();
    let port = url.port_or_known_default().context("the URL has no port")?;
    let socket = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    match url.scheme() {
        "http" => exchange(socket, url, &host, token).await,
        "https" => {
            let config = ClientConfig::builder()
                .with_root_certificates(roots(ca)?)
                .with_no_client_auth();
            let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            exchange(connector.connect(name, socket).await?, url, &host, token).await
        }
        other => bail!("{other}:// is neither http nor https"),
    }
}

fn roots(ca: Option<&Path>) -> anyhow::Result<RootCertStore> {
    let path = ca.unwrap_or(Path::new(SYSTEM_ROOTS));
    let pem = std::fs::read_to_string(path).with_context(|| format!("--ca: {}", path.display()))?;
    let mut roots = RootCertStore::empty();
    // A system's bundle may hold a certificate that rustls does not take; the others still count.
    roots.add_parsable_certificates(meridian_pki::parse_certificates(&path.display().to_string(), &pem)?);
    Ok(roots)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    url: &url::Url,
    host: &str,
    token: &str,
) -> anyhow::Result<(hyper::StatusCode, Bytes)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let target = format!("{}?{}", url.path(), url.query().unwrap_or_default());
    let authority = url
        .port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let request = hyper::Request::get(target)
        .header(HOST, authority)
        .header(AUTHORIZATION, format!("Bearer {token}"))
        .body(Empty::<Bytes>::new())
        .context("--token")?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    connection.abort();
    let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
    Ok((status, body.to_bytes()))
}

/// For people. Whatever is missing in the answer of another version is left out.
fn print(answer: &Value) {
    print_client(answer);
    print_learned(answer);
    let rules = |key: &str| {
        let rules = answer["residency"][key].as_array().into_iter().flatten();
        rules.filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
    };
    for (key, whose) in [("policy", "the operator's"), ("meeting", "the meeting's")] {
        if !rules(key).is_empty() {
            println!("residency   {} ({whose} rule)", rules(key));
        }
    }
    let ranked: Vec<&Value> = answer["ranked"].as_array().into_iter().flatten().collect();
    if ranked.is_empty() {
        println!("\nThere is no edge for this client now.");
    } else {
        println!(
            "\n{:<4}{:<18}{:<10}{:>9}{:>9}  {:<22}{:>7}{:>8}{:>8}{:>8}",
            "", "edge", "region", "score", "rtt", "from", "load", "penalty", "room", "weight"
        );
    }
    for (rank, edge) in ranked.iter().enumerate() {
        print_edge(rank + 1, edge);
    }
    match answer["choice"].as_str() {
        Some("spread") => println!(
            "\nMany are joining at once: the first has the most free capacity of those about as near as the best."
        ),
        Some("known") => println!("\nThe first was measured; an edge that was not promises little more."),
        _ => {}
    }
    let excluded: Vec<&Value> = answer["excluded"].as_array().into_iter().flatten().collect();
    if !excluded.is_empty() {
        println!("\nLeft out:");
    }
    for one in excluded.iter().take(EXCLUDED_SHOWN) {
        println!("    {}", one["text"].as_str().unwrap_or_default());
    }
    if excluded.len() > EXCLUDED_SHOWN {
        println!("    and {} more (--json names them)", excluded.len() - EXCLUDED_SHOWN);
    }
}

fn print_client(answer: &Value) {
    let client = &answer["client"];
    println!("address     {}", answer["address"].as_str().unwrap_or_default());
    let database = &client["database"];
    let words: Vec<&str> = ["city", "country"]
        .iter()
        .filter_map(|key| database[key].as_str())
        .collect();
    match database["location"]["lat"]
        .as_f64()
        .zip(database["location"]["lon"].as_f64())
    {
        Some((lat, lon)) => println!("database    {} {lat:.2}, {lon:.2}", words.join(", ")),
        None => println!("database    does not know the place"),
    }
    if let Some(asn) = client["asn"].as_u64() {
        println!("system      AS{asn}");
    }
    let near = client["near"].as_str().unwrap_or("nowhere known");
    let place = match client["source"].as_str() {
        Some("inferred") => {
            let likely = client["likelihood"].as_f64().unwrap_or_default() * 100.0;
            format!("near {near}, inferred from earlier sessions ({likely:.0} % likely)")
        }
        Some("database") => format!("near {near}"),
        Some("told") => format!("near {near}, as told"),
        _ => "unknown: distance plays no part".to_owned(),
    };
    println!("taken to be {place}");
    let access_ms = client["access_ms"].as_f64().unwrap_or_default();
    if access_ms.abs() >= 0.5 {
        println!("access      {access_ms:+.0} ms over what distance suggests");
    }
    if let Some(code) = answer["meeting"].as_str() {
        println!("meeting     {code}");
    }
}

fn print_learned(answer: &Value) {
    for region in answer["learned"].as_array().into_iter().flatten() {
        let of = [
            ("prefix", "its prefix"),
            ("wide", "its wider prefix"),
            ("asn", "its system"),
        ];
        let stat = |(key, whose): &(&str, &str)| {
            let (median, sessions) = (region[key]["median_ms"].as_f64()?, region[key]["sessions"].as_u64()?);
            Some(format!("{median:.0} ms in {sessions} sessions of {whose}"))
        };
        let stats: Vec<String> = of.iter().filter_map(stat).collect();
        println!(
            "measured    {}: {}",
            region["region"].as_str().unwrap_or_default(),
            stats.join("; ")
        );
    }
}

fn print_edge(rank: usize, edge: &Value) {
    let text = |key: &str| edge[key].as_str().unwrap_or_default();
    let number = |key: &str| edge[key].as_f64().unwrap_or_default();
    let source = match edge["sessions"].as_u64() {
        Some(sessions) if text("source") == "learned" => format!("learned, {sessions} sessions"),
        _ => text("source").to_owned(),
    };
    println!(
        "{rank:<4}{:<18}{:<10}{:>6.1} ms{:>6.1} ms  {source:<22}{:>5.0} %{:>+8.1}{:>+8.1}{:>+8.1}",
        text("edge"),
        text("region"),
        number("score_ms"),
        number("rtt_ms"),
        number("load") * 100.0,
        number("load_penalty_ms"),
        0.0 - number("room_bonus_ms"),
        number("weight_ms"),
    );
}
