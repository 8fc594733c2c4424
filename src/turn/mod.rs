//! `meridian turn`: the TURN server alone, for PoPs without an edge and for whoever needs no more. The server is `meridian-turn`; here it
//! gets its configuration, a port for operators, and an end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use meridian_process::{Vital, log};
use meridian_serving::listener::{Certificate, Limits, Pem, Server, serve};
use meridian_turn::Family;
use meridian_turn::io::{DtlsIdentity, TurnServer};
use meridian_turn::settings::urls;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::flags::{Start, TurnArgs};
use crate::run::{Role, Signals};
use config::TurnProcessConfig;

pub(crate) mod config;

/// How TURN names itself in TLS (RFC 7443).
const ALPN: [&[u8]; 2] = [b"stun.turn", b"stun.nat-discovery"];
/// Probes and Prometheus.
const HTTP_LIMITS: Limits = Limits {
    connections: 64,
    connections_per_address: 32,
};

pub(crate) async fn run(start: Start<TurnArgs>) -> anyhow::Result<()> {
    let Start { args, check } = start;
    let signals = Signals::install()?;
    let config: TurnProcessConfig = args.load()?;
    const FILES: &str = "tls.certificate, tls.private_key";
    let files = config.tls.certificate.as_deref().zip(config.tls.private_key.as_deref());
    let certificate = files.map(|(chain, key)| Certificate::read(chain, key));
    let certificate = certificate.transpose().context(FILES)?.map(Arc::new);
    let tls = certificate.as_ref().map(|one| one.tls(&ALPN)).transpose();
    let mut turn = config.turn.config(tls.context(FILES)?);
    if let Some(certificate) = certificate.as_ref().filter(|_| !config.turn.dtls.is_empty()) {
        let Pem { chain, key } = certificate.pem();
        let identity = DtlsIdentity::from_pem(&chain, &key).context("turn.dtls")?;
        turn.dtls_identity = Some(Arc::new(identity));
    }
    if check {
        println!("the configuration is good");
        return Ok(());
    }
    let drain = config.turn.drain();
    let start = async {
        let socket = TcpListener::bind(config.http.bind)
            .await
            .with_context(|| format!("http.bind: cannot listen on {}", config.http.bind))?;
        let dtls = turn.dtls_identity.clone();
        let server = TurnServer::start(turn).context("turn")?;
        let server = Arc::new(server);
        announce(&config, &server, &socket);
        let (stop, stopped) = watch::channel(false);
        if let Some(certificate) = certificate {
            tokio::spawn(certificate.follow(stopped.clone(), move |pem| {
                if let Some(identity) = &dtls {
                    identity.renew(&pem.chain, &pem.key);
                }
            }));
        }
        let http = Server {
            router: router(server.clone()),
            tls: None,
            limits: HTTP_LIMITS,
            is_proxy: Box::new(|_| false),
            takeover: None,
            stopped,
        };
        let vital = Vital::default();
        let http = tokio::spawn(vital.task("HTTP", serve(socket, http)));
        Ok(TurnRole {
            server,
            stop,
            http,
            vital,
            drain,
            args,
        })
    };
    signals.serve(start).await
}

/// What runs.
struct TurnRole {
    server: Arc<TurnServer>,
    stop: watch::Sender<bool>,
    http: JoinHandle<()>,
    vital: Vital,
    drain: Duration,
    args: TurnArgs,
}

impl Role for TurnRole {
    const REREAD: &str = "turn.users, turn.secrets";

    fn reread(&self) -> anyhow::Result<()> {
        let config: TurnProcessConfig = self.args.load()?;
        self.server.set_credentials(config.turn.credentials());
        Ok(())
    }

    async fn failure(&self) -> &'static str {
        tokio::select! {
            part = self.vital.failure() => part,
            () = self.server.lost(tokio::time::sleep) => "a TURN worker",
        }
    }

    async fn stop(self) {
        self.vital.stopping();
        self.server.drain(self.drain, tokio::time::sleep).await;
        self.stop.send_replace(true);
        let _ = self.http.await;
    }
}

fn announce(config: &TurnProcessConfig, server: &TurnServer, http: &TcpListener) {
    let relay = [Family::V4, Family::V6]
        .into_iter()
        .find_map(|family| config.turn.relay_address(family));
    let host = match (&config.turn.host, relay) {
        (host, Some(relay)) if host.is_empty() => relay.advertised.to_string(),
        (host, _) => host.clone(),
    };
    let tls: Vec<u16> = server.tls().iter().map(|address| address.port()).collect();
    let urls = urls(&host, server.udp(), server.tcp(), &tls, server.dtls());
    let operators = http.local_addr().map(|address| address.to_string()).unwrap_or_default();
    tracing::info!(?urls, http = operators, "TURN started");
}

fn router(server: Arc<TurnServer>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(server)
}

async fn ready(State(server): State<Arc<TurnServer>>) -> Response {
    if server.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    "ready\n".into_response()
}

async fn metrics(State(server): State<Arc<TurnServer>>) -> Response {
    let mut text = String::with_capacity(4096);
    server.render_metrics(&mut text);
    log::render_metrics(&mut text);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
