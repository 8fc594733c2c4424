//! The TURN server inside this edge: for clients whose network lets nothing through but one UDP port, or TCP, or only what looks like
//! HTTPS. `meridian-turn` does the work; here it is told what only the edge knows: its certificate, its media ports, the secret of the
//! control plane's policy, and the URLs under which clients find it. Over TLS it shares the HTTPS port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use meridian_pki::PkiError;
use meridian_serving::listener::{Certificate, Pem, Takeover};
use meridian_shard::Shards;
use meridian_turn::credentials::Credentials;
use meridian_turn::framing::begins_turn;
use meridian_turn::io::{DtlsIdentity, TurnServer, own_addresses};
use meridian_turn::policy::MediaPorts;
use meridian_turn::settings::urls;
use meridian_turn::{Family, RelayAddress};
use meridian_turn_credentials::{IceServer, ice_servers, permitted_urls};
use meridian_wire::v1;
use rand::Rng;
use rand::distr::Alphanumeric;

use crate::clock::unix_now_ms;
use crate::config::EdgeConfig;
use crate::lifecycle::Lifecycle;

/// How TURN names itself in TLS (RFC 7443); clients that offer ALPN at all offer one of these.
pub(crate) const ALPN: [&[u8]; 2] = [b"stun.turn", b"stun.nat-discovery"];
/// Seconds that credentials hold when no control plane says.
const TTL_S: u32 = 6 * 3600;

#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    #[error("turn: {0}")]
    Start(meridian_turn::io::StartError),
    #[error("turn.dtls, http.certificate, http.private_key: {0}")]
    Dtls(meridian_turn::io::DtlsIdentityError),
    #[error("http.certificate, http.private_key: {0}")]
    Tls(PkiError),
}

/// What clients are given to get past firewalls: this edge's TURN server, if it runs one, and those of the control plane's policy.
pub(crate) struct Turn {
    server: Option<Embedded>,
    policy: Mutex<Policy>,
}

struct Embedded {
    server: TurnServer,
    dtls: Option<Arc<DtlsIdentity>>,
    urls: Vec<String>,
}

struct Policy {
    /// This process's own, for as long as no control plane has named one.
    own: String,
    current: v1::TurnPolicy,
    /// The secret before it: what was minted with it is still under way.
    previous: String,
    /// Users and secrets of this edge's configuration.
    configured: Credentials,
}

impl Turn {
    /// Starts the server if the configuration says where to listen. With `certificate` the listener at `http` is HTTPS, and shared.
    pub(crate) fn start(
        config: &EdgeConfig,
        certificate: Option<&Certificate>,
        http: SocketAddr,
        shards: &Shards,
    ) -> Result<Turn, TurnError> {
        let policy = Mutex::new(Policy {
            own: rand::rng().sample_iter(Alphanumeric).take(32).map(char::from).collect(),
            current: v1::TurnPolicy::default(),
            previous: String::new(),
            configured: config.turn.credentials(),
        });
        if !config.turn.is_on() {
            return Ok(Turn { server: None, policy });
        }
        let tls = certificate.map(|certificate| certificate.tls(&ALPN));
        let mut turn = config.turn.config(tls.transpose().map_err(TurnError::Tls)?);
        if let Some(certificate) = certificate.filter(|_| !config.turn.dtls.is_empty()) {
            let Pem { chain, key } = certificate.pem();
            let identity = DtlsIdentity::from_pem(&chain, &key).map_err(TurnError::Dtls)?;
            turn.dtls_identity = Some(Arc::new(identity));
        }
        let dtls = turn.dtls_identity.clone();
        turn.server.policy.media = media_ports(config, shards);
        turn.local = Some(shards.local_ports());
        let server = TurnServer::start(turn).map_err(TurnError::Start)?;
        shards.set_turn(server.local_ports());
        let urls = urls_of(config, &server, certificate.map(|_| http));
        tracing::info!(?urls, "TURN started");
        let turn = Turn {
            server: Some(Embedded { server, dtls, urls }),
            policy,
        };
        turn.renew_credentials();
        Ok(turn)
    }

    /// Shows a renewed certificate; TLS has it already.
    pub(crate) fn renew_certificate(&self, pem: &Pem) {
        if let Some(identity) = self.server.as_ref().and_then(|embedded| embedded.dtls.as_ref()) {
            identity.renew(&pem.chain, &pem.key);
        }
    }

    /// The control plane's policy: its secret, and TURN servers beside the edges' own.
    pub(crate) fn set_policy(&self, policy: v1::TurnPolicy) {
        {
            let mut known = self.lock();
            if known.current.secret != policy.secret {
                known.previous = std::mem::take(&mut known.current.secret);
            }
            known.current = policy;
        }
        self.renew_credentials();
    }

    /// Users and secrets of the configuration, read again.
    pub(crate) fn set_configured(&self, configured: Credentials) {
        self.lock().configured = configured;
        self.renew_credentials();
    }

    /// What this edge's server is called by clients; empty without one.
    pub(crate) fn urls(&self) -> &[String] {
        self.server.as_ref().map_or(&[], |embedded| &embedded.urls)
    }

    /// Servers and credentials for one person near `region`: this edge's first, then the policy's, if their regions are `permitted`
    /// (`None` = all are).
    pub(crate) fn ice_servers(&self, identity: &str, region: &str, permitted: Option<&[String]>) -> Vec<IceServer> {
        let known = self.lock();
        let secret = if known.current.secret.is_empty() {
            &known.own
        } else {
            &known.current.secret
        };
        let ttl_s = if known.current.ttl_s == 0 {
            TTL_S
        } else {
            known.current.ttl_s
        };
        let expires_s = unix_now_ms() / 1000 + u64::from(ttl_s);
        let mint = |urls: &[String]| ice_servers(urls, secret.as_bytes(), identity, expires_s);
        let mut servers = mint(self.urls());
        let regional = known.current.regional.iter().cloned();
        let regional = regional.map(|one| (one.region, one.urls));
        let anywhere = std::iter::once((String::new(), known.current.urls.clone()));
        servers.extend(mint(&permitted_urls(regional.chain(anywhere), region, permitted)));
        servers
    }

    /// Refuses new allocations while people are being sent away: who stays may need another. Runs until the edge has stopped.
    pub(crate) async fn follow(self: Arc<Turn>, lifecycle: Arc<Lifecycle>) {
        let Some(embedded) = &self.server else { return };
        let mut stages = lifecycle.stages();
        while !lifecycle.is_stopped() {
            embedded.server.set_draining(stages.borrow_and_update().is_emptying());
            if stages.changed().await.is_err() {
                return;
            }
        }
    }

    /// Refuses new allocations and waits until those of others than this edge's own people have ended, or for as long as is configured.
    pub(crate) async fn drain(&self, config: &EdgeConfig) {
        if let Some(embedded) = &self.server {
            embedded.server.drain(config.turn.drain(), tokio::time::sleep).await;
        }
    }

    /// Waits until one of its workers has ended unasked.
    pub(crate) async fn lost(&self) {
        match &self.server {
            Some(embedded) => embedded.server.lost(tokio::time::sleep).await,
            None => std::future::pending().await,
        }
    }

    pub(crate) fn render_metrics(&self, text: &mut String) {
        if let Some(embedded) = &self.server {
            embedded.server.render_metrics(text);
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.server.is_some()
    }

    fn renew_credentials(&self) {
        let Some(embedded) = &self.server else { return };
        let known = self.lock();
        let secrets = [&known.own, &known.current.secret, &known.previous];
        let credentials = secrets
            .into_iter()
            .filter(|secret| !secret.is_empty())
            .fold(known.configured.clone(), |all, secret| {
                all.with_secret(secret.as_bytes())
            });
        embedded.server.set_credentials(credentials);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Policy> {
        self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Takeover for Turn {
    fn wants(&self, first: u8) -> bool {
        self.is_on() && begins_turn(first)
    }

    fn take(&self, socket: std::net::TcpStream, tls: rustls::ServerConnection, from: SocketAddr) {
        if let Some(embedded) = &self.server {
            embedded.server.adopt(socket, tls, from);
        }
    }
}

/// What clients call it. TLS goes by the shared HTTPS port, which firewalls know best, unless there is none. DTLS
/// is for other clients than browsers, none of which speaks it.
fn urls_of(config: &EdgeConfig, server: &TurnServer, https: Option<SocketAddr>) -> Vec<String> {
    let (public_host, public_port) = public_address(&config.http.public_url);
    let relay = [Family::V4, Family::V6]
        .into_iter()
        .find_map(|f| config.turn.relay_address(f));
    let host = [config.turn.host.as_str(), public_host]
        .into_iter()
        .find(|host| !host.is_empty())
        .map(str::to_owned)
        .or_else(|| relay.map(|RelayAddress { advertised, .. }| advertised.to_string()))
        .unwrap_or_default();
    let tls = match https {
        Some(bound) => vec![public_port.unwrap_or(bound.port())],
        None => server.tls().iter().map(SocketAddr::port).collect(),
    };
    urls(&host, server.udp(), server.tcp(), &tls, server.dtls())
}

/// Host and port of `wss://host[:port]`.
fn public_address(url: &str) -> (&str, Option<u16>) {
    let Some((scheme, rest)) = url.split_once("://") else {
        return ("", None);
    };
    let authority = rest.split('/').next().unwrap_or(rest);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
        _ => (authority, None),
    };
    let default = if scheme == "wss" { 443 } else { 80 };
    (
        host.trim_start_matches('[').trim_end_matches(']'),
        port.or(Some(default)),
    )
}

/// This edge's media sockets: what clients call them, and where they are for us. An advertised address that this machine does not have
/// is that of a 1:1 NAT in front of it, so datagrams go to an address it does have.
fn media_ports(config: &EdgeConfig, shards: &Shards) -> Vec<MediaPorts> {
    let own = own_addresses();
    let actual = |advertised: IpAddr| {
        let family = Family::of(advertised);
        let mut bound = config.media.bind.iter().map(SocketAddr::ip);
        let named = bound.find(|ip| Family::of(*ip) == family && !ip.is_unspecified());
        let relay = config.turn.relay_address(family).map(|relay| relay.bind);
        let loopback: IpAddr = match family {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        };
        named
            .or_else(|| own.contains(&advertised).then_some(advertised))
            .or(relay)
            .unwrap_or(loopback)
    };
    let mut all: Vec<SocketAddr> = (0..shards.len() as u16)
        .flat_map(|shard| shards.candidates(meridian_shard::PeerId { shard, index: 0 }))
        .collect();
    all.sort_unstable();
    let mut ports: Vec<MediaPorts> = Vec::new();
    for address in all {
        match ports.last_mut() {
            // One range for all shards, as they are usually bound.
            Some(last)
                if last.advertised == address.ip() && last.ports.end().checked_add(1) == Some(address.port()) =>
            {
                last.ports = *last.ports.start()..=address.port();
            }
            _ => ports.push(MediaPorts {
                advertised: address.ip(),
                actual: actual(address.ip()),
                ports: address.port()..=address.port(),
            }),
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_and_port_of_a_public_url_are_found() {
        assert_eq!(
            public_address("wss://fra-1.example.org"),
            ("fra-1.example.org", Some(443))
        );
        assert_eq!(
            public_address("wss://fra-1.example.org:8443/x"),
            ("fra-1.example.org", Some(8443))
        );
        assert_eq!(public_address("wss://[2a00::1]:8443"), ("2a00::1", Some(8443)));
        assert_eq!(public_address("wss://[2a00::1]"), ("2a00::1", Some(443)));
        assert_eq!(public_address(""), ("", None));
    }

    #[test]
    fn a_meetings_residency_binds_the_policys_servers_and_those_near_come_first() {
        let server = |region: &str| (region.to_owned(), vec![format!("stun:{region}.example.org")]);
        let regional = ["fra", "iad"]
            .map(server)
            .map(|(region, urls)| v1::RegionalTurn { region, urls });
        let current = v1::TurnPolicy {
            urls: vec!["stun:anycast.example.org".into()],
            regional: regional.into(),
            ..v1::TurnPolicy::default()
        };
        let policy = Policy {
            own: String::new(),
            current,
            previous: String::new(),
            configured: Credentials::default(),
        };
        let turn = Turn {
            server: None,
            policy: Mutex::new(policy),
        };
        let told = |near: &str, permitted: Option<&[&str]>| {
            let permitted =
                permitted.map(|regions| regions.iter().map(|region| (*region).to_owned()).collect::<Vec<_>>());
            let servers = turn.ice_servers("ana", near, permitted.as_deref());
            let urls = servers.into_iter().flat_map(|server| server.urls);
            urls.map(|url| url[5..].split('.').next().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(told("iad", None), ["iad", "fra", "anycast"]);
        assert_eq!(told("iad", Some(&["fra"])), ["fra"]);
        assert_eq!(told("fra", Some(&["", "fra"])), ["fra", "anycast"]);
        assert!(told("fra", Some(&[])).is_empty());
    }

    fn shards(bind: [u8; 4], advertise: &[[u8; 4]]) -> (EdgeConfig, Shards) {
        let mut config = EdgeConfig::default();
        config.media.bind = vec![SocketAddr::from((bind, 0))];
        config.media.advertise = advertise.iter().map(|ip| IpAddr::from(*ip)).collect();
        let shards = meridian_shard::ShardsConfig {
            bind: config.media.bind.clone(),
            advertise: config.media.advertise.clone(),
            shards: 1,
            ..Default::default()
        };
        let identity = std::sync::Arc::new(meridian_transport::DtlsIdentity::generate().unwrap());
        let events = tokio::sync::mpsc::channel(1).0;
        let taps = meridian_shard::TapSenders {
            mesh: tokio::sync::mpsc::channel(1).0,
            recorder: tokio::sync::mpsc::channel(1).0,
        };
        (config, Shards::start(shards, identity, events, taps).unwrap())
    }

    #[test]
    fn media_ports_behind_one_to_one_nat_lead_to_an_address_of_this_machine() {
        let (public, private) = ([203, 0, 113, 7], [10, 0, 0, 7]);
        let found = |(config, shards): (EdgeConfig, Shards)| {
            let ports = media_ports(&config, &shards);
            let pairs = ports.iter().map(|one| (one.advertised, one.actual));
            pairs.collect::<Vec<_>>()
        };
        let loopback = [127, 0, 0, 1];
        let pair = |advertised: [u8; 4], actual: [u8; 4]| (IpAddr::from(advertised), IpAddr::from(actual));
        assert_eq!(
            found(shards(loopback, &[public])),
            [pair(public, loopback)],
            "the bound one"
        );
        let everywhere = shards([0, 0, 0, 0], &[loopback, public]);
        let expected = [pair(loopback, loopback), pair(public, loopback)];
        assert_eq!(found(everywhere), expected, "what it has stays, and any will do");
        let (mut config, shards) = shards([0, 0, 0, 0], &[public]);
        config.turn.relay = vec![private.into()];
        assert_eq!(found((config, shards)), [pair(public, private)], "the one that relays");
    }
}
