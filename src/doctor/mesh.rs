//! What the rest of the mesh answers: etcd by its HTTP port, the control plane by gRPC, and this machine's own role by its health check.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{DATE, HOST};
use hyper_util::rt::TokioIo;
use meridian_pki::NodeIdentity;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::transport::Endpoint;
use tower::Service as _;

use super::clock::Reading;
use super::report::Finding;

const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// etcd's metrics are about 150 KB.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Share of etcd's quota from which on it is time to act: at the whole of it, etcd refuses every write.
const FULL: f64 = 0.8;

struct Answer {
    date: Option<String>,
    body: String,
}

async fn get(url: &url::Url) -> anyhow::Result<Answer> {
    let host = url.host_str().context("the URL has no host")?;
    let port = url.port_or_known_default().context("the URL has no port")?;
    let socket = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get(url.path())
        .header(HOST, format!("{host}:{port}"))
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let date = response
        .headers()
        .get(DATE)
        .and_then(|date| date.to_str().ok())
        .map(str::to_owned);
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    connection.abort();
    let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
    Ok(Answer {
        date,
        body: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
    })
}

/// Whether a role answers there already: its ports are then taken by itself. A port with TLS is only knocked at.
pub(super) async fn is_running(bind: SocketAddr, tls: bool) -> bool {
    let mut address = bind;
    if address.ip().is_unspecified() {
        let loopback: IpAddr = if bind.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        };
        address.set_ip(loopback);
    }
    if tls {
        return matches!(timeout(ANSWERS_WITHIN, TcpStream::connect(address)).await, Ok(Ok(_)));
    }
    let Ok(url) = url::Url::parse(&format!("http://{address}/healthz")) else {
        return false;
    };
    matches!(timeout(ANSWERS_WITHIN, get(&url)).await, Ok(Ok(answer)) if answer.body == "ok\n")
}

/// Every member by itself: one that is down is not noticed by those who use the others.
pub(super) async fn etcd(endpoints: &[String], clocks: &mut Vec<Reading>) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut down = 0;
    for endpoint in endpoints {
        match timeout(ANSWERS_WITHIN, member(endpoint, clocks)).await {
            Ok(Ok(findings)) => found.extend(findings),
            Ok(Err(error)) => {
                down += 1;
                found.push(silent(endpoint, &format!("{error:#}")));
            }
            Err(_) => {
                down += 1;
                found.push(silent(endpoint, "no answer within 5 s"));
            }
        }
    }
    if down > 0 && 2 * down >= endpoints.len() {
        found.push(Finding::problem(
            "etcd",
            format!(
                "{down} of {} members are away: without a majority nobody new is placed on new edges; calls go on",
                endpoints.len()
            ),
            "bring members back; if their disks are lost, restore a snapshot (docs/runbooks.md)",
        ));
    }
    found
}

fn silent(endpoint: &str, why: &str) -> Finding {
    Finding::problem(
        "etcd",
        format!("{endpoint} does not answer: {why}"),
        "is it running (`systemctl status etcd` there), and does the firewall let this machine to its client port?",
    )
}

async fn member(endpoint: &str, clocks: &mut Vec<Reading>) -> anyhow::Result<Vec<Finding>> {
    let base = url::Url::parse(endpoint).context("not a URL")?;
    let health = get(&base.join("/health")?).await?;
    clocks.extend(health.date.as_deref().and_then(|date| Reading::of(endpoint, date)));
    let health: serde_json::Value = serde_json::from_str(&health.body).context("this is no etcd")?;
    let metrics = get(&base.join("/metrics")?).await?.body;
    Ok(vec![healthy(endpoint, &health), space(endpoint, &metrics)])
}

fn healthy(endpoint: &str, health: &serde_json::Value) -> Finding {
    const CHECK: &str = "etcd";
    if health["health"].as_str() == Some("true") {
        return Finding::good(CHECK, format!("{endpoint} is healthy"));
    }
    let reason = health["reason"].as_str().unwrap_or_default();
    // etcd 3.4 gives no reason.
    let (reason, remedy) = match reason {
        "" => (
            "without a reason",
            "`etcdctl alarm list` says whether it is full; if not, a majority of members must see each other (`etcdctl endpoint status`)",
        ),
        full if full.contains("NOSPACE") => (
            full,
            "compact and defragment it, then `etcdctl alarm disarm` (docs/runbooks.md, EtcdSpace)",
        ),
        other => (
            other,
            "a majority of members must see each other: look at etcd's log there",
        ),
    };
    Finding::problem(CHECK, format!("{endpoint} says it is not healthy: {reason}"), remedy)
}

fn space(endpoint: &str, metrics: &str) -> Finding {
    const CHECK: &str = "etcd space";
    let value = |name: &str| -> Option<f64> {
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line?.trim().parse().ok()
    };
    let used = value("etcd_mvcc_db_total_size_in_bytes");
    let live = value("etcd_mvcc_db_total_size_in_use_in_bytes").or(used);
    let quota = value("etcd_server_quota_backend_bytes").filter(|quota| *quota > 0.0);
    let (Some(used), Some(live), Some(quota)) = (used, live, quota) else {
        return Finding::skipped(
            CHECK,
            format!("{endpoint} does not tell its size and quota in /metrics"),
        );
    };
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let says = format!(
        "{endpoint} takes {:.1} MiB of {:.0} MiB, {:.1} of them in use",
        mib(used),
        mib(quota),
        mib(live)
    );
    if used < FULL * quota {
        return Finding::good(CHECK, says);
    }
    let remedy = if live < used / 2.0 {
        "`etcdctl defrag` gives back what is free"
    } else {
        "compact old revisions (`--auto-compaction-retention=1h`) and defragment, or raise --quota-backend-bytes"
    };
    Finding::problem(
        CHECK,
        format!("{says}: when it is full, etcd refuses every write"),
        remedy,
    )
}

/// Asks for nothing: any answer proves the address, both certificates and the clock.
pub(super) async fn control_plane(url: &str, identity: &NodeIdentity, clocks: &mut Vec<Reading>) -> Option<Finding> {
    const CHECK: &str = "control plane";
    match timeout(ANSWERS_WITHIN, knock(url, identity)).await {
        Ok(Ok(date)) => {
            clocks.extend(date.and_then(|date| Reading::of("the control plane", &date)));
            Some(Finding::good(
                CHECK,
                format!("{url} answers and takes this edge's certificate"),
            ))
        }
        outcome => {
            let why = match outcome {
                Ok(Err(error)) => format!("{error:#}"),
                _ => "no answer within 5 s".to_owned(),
            };
            Some(Finding::problem(
                CHECK,
                format!("{url} cannot be asked: {why}"),
                "is it running, is control_plane.url its grpc.bind (not the page), does the firewall allow it, is ca.pem that control plane's? \
                 Calls go on; joins go through other edges",
            ))
        }
    }
}

async fn knock(url: &str, identity: &NodeIdentity) -> anyhow::Result<Option<String>> {
    let endpoint = Endpoint::from_shared(url.to_owned())?.tls_config(identity.tonic_client())?;
    let mut channel = endpoint.connect().await?;
    poll_fn(|context| channel.poll_ready(context)).await?;
    let request = http::Request::post(format!("{}/meridian.Doctor/Knock", url.trim_end_matches('/')))
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .body(tonic::body::Body::empty())?;
    let answer = channel.call(request).await?;
    let date = answer.headers().get(DATE).and_then(|date| date.to_str().ok());
    Ok(date.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn an_etcd_that_fills_up_is_told_before_it_refuses_writes() {
        let metrics = |used: u64, live: u64| {
            format!(
                "etcd_mvcc_db_total_size_in_bytes {used}\netcd_mvcc_db_total_size_in_use_in_bytes {live}\n\
                 etcd_server_quota_backend_bytes 2.147483648e+09\n"
            )
        };
        assert_eq!(space("e", &metrics(20 << 20, 10 << 20)).verdict, Verdict::Good);
        let fragmented = space("e", &metrics(1_900_000_000, 10 << 20));
        assert_eq!(fragmented.verdict, Verdict::Problem);
        assert!(
            fragmented.remedy.starts_with("`etcdctl defrag`"),
            "{}",
            fragmented.remedy
        );
        assert!(
            space("e", &metrics(1_900_000_000, 1_800_000_000))
                .remedy
                .starts_with("compact")
        );
        assert_eq!(space("e", "nothing 1\n").verdict, Verdict::Skipped);
    }

    #[test]
    fn an_alarm_of_etcd_is_told_with_what_ends_it() {
        let health = serde_json::json!({"health": "false", "reason": "ALARM NOSPACE"});
        let finding = healthy("http://10.0.0.1:2379", &health);
        assert_eq!(
            finding.says,
            "http://10.0.0.1:2379 says it is not healthy: ALARM NOSPACE"
        );
        assert!(finding.remedy.contains("alarm disarm"));
    }
}
