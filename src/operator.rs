//! What operators' subcommands share: how they reach a control plane's operator API, and how they watch an answer.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use url::Url;

/// Where Debian and its kin keep the certificates that the system trusts.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 16 << 20;
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Which control plane is asked, and who asks.
#[derive(Args)]
pub(crate) struct Operator {
    /// The control plane.
    #[arg(
        long,
        value_name = "URL",
        env = "MERIDIAN_URL",
        default_value = "http://localhost:8080"
    )]
    url: Url,
    /// One of the control plane's operator_tokens. Better in the environment than in a shell's history.
    #[arg(long, env = "MERIDIAN_OPERATOR_TOKEN", hide_env_values = true)]
    token: String,
    /// PEM certificates to trust for https, instead of the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// How an answer is shown.
#[derive(Args, Clone, Copy)]
pub(crate) struct Shown {
    /// Prints JSON; with --watch one line each time.
    #[arg(long)]
    pub(crate) json: bool,
    /// Shows it anew every second, until Ctrl-C.
    #[arg(long)]
    pub(crate) watch: bool,
}

impl Operator {
    /// The URL of a path of the operator API.
    pub(crate) fn url(&self, path: &str) -> anyhow::Result<Url> {
        self.url.join(&format!("/api/v1/operator/{path}")).context("--url")
    }

    pub(crate) async fn get(&self, url: &Url) -> anyhow::Result<Value> {
        self.send(hyper::Method::GET, url, Bytes::new()).await
    }

    pub(crate) async fn post(&self, url: &Url, body: &Value) -> anyhow::Result<Value> {
        self.send(hyper::Method::POST, url, Bytes::from(body.to_string())).await
    }

    async fn send(&self, method: hyper::Method, url: &Url, body: Bytes) -> anyhow::Result<Value> {
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let host = url.host_str().context("the URL has no host")?;
        let authority = url
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let request = hyper::Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, authority)
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
            .body(Full::new(body))
            .context("--token")?;
        let asked = tokio::time::timeout(ANSWER_WITHIN, ask(request, url, self.ca.as_deref())).await;
        let (status, body) = asked
            .with_context(|| format!("{} does not answer", self.url))?
            .with_context(|| format!("cannot ask {}", self.url))?;
        let answer: Value = serde_json::from_slice(&body).with_context(|| {
            format!(
                "{} answered {status} with something that is no JSON: is it a control plane?",
                self.url
            )
        })?;
        if !status.is_success() {
            let why = answer["message"].as_str();
            bail!("{}", why.unwrap_or("the control plane refused, without a reason"));
        }
        Ok(answer)
    }

    /// Asks, and shows the answer, once or every second; `done` ends the watching.
    pub(crate) async fn show(
        &self,
        path: &str,
        shown: Shown,
        text: impl Fn(&Value) -> String,
        done: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<()> {
        let url = self.url(path)?;
        let mut ticks = tokio::time::interval(WATCH_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let answer = self.get(&url).await?;
            let mut out = std::io::stdout();
            let written = match (shown.json, shown.watch) {
                (true, true) => writeln!(out, "{answer}"),
                (true, false) => writeln!(out, "{answer:#}"),
                // Over what was there, where that can be done.
                (false, true) if out.is_terminal() => write!(out, "\x1b[H\x1b[2J{}", text(&answer)),
                (false, _) => write!(out, "{}", text(&answer)),
            };
            // Whoever reads no more (`| head`) has seen enough.
            if written.and_then(|()| out.flush()).is_err() || !shown.watch || done(&answer) {
                return Ok(());
            }
        }
    }
}

async fn ask(
    request: hyper::Request<Full<Bytes>>,
    url: &Url,
    ca: Option<&Path>,
) -> anyhow::Result<(hyper::StatusCode, Bytes)> {
    let host = url.host_str().context("the URL has no host")?.to_owned();
    let port = url.port_or_known_default().context("the URL has no port")?;
    let socket = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    match url.scheme() {
        "http" => exchange(socket, request).await,
        "https" => {
            let config = ClientConfig::builder()
                .with_root_certificates(roots(ca)?)
                .with_no_client_auth();
            let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            exchange(connector.connect(name, socket).await?, request).await
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
    request: hyper::Request<Full<Bytes>>,
) -> anyhow::Result<(hyper::StatusCode, Bytes)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    connection.abort();
    let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
    Ok((status, body.to_bytes()))
}
