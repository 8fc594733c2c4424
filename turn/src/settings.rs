//! What an operator says about TURN: the `[turn]` table of `turn.toml` and of `edge.toml`, and what it comes to. Keys, units and
//! ranges stand here and in `deploy/config`; loading is the process's.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::io::{GATHER, GATHER_MAX, TurnConfig};
use meridian_turn_core::Family;
use meridian_turn_core::credentials::Credentials;
use meridian_turn_core::limits::{Limits, Quota, Rate};
use meridian_turn_core::policy::Network;
use meridian_turn_core::server::{RelayAddress, ServerConfig};
use meridian_turn_credentials::SECRET_BYTES_MIN;

/// Listens nowhere by default.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct TurnSettings {
    pub udp: Vec<SocketAddr>,
    pub tcp: Vec<SocketAddr>,
    pub tls: Vec<SocketAddr>,
    /// UDP ports of their own.
    pub dtls: Vec<SocketAddr>,
    /// Name or address in the URLs that clients get. Empty = the advertised address; a `turns:` URL then fits certificates for
    /// addresses only.
    pub host: String,
    /// Shown to clients in challenges; 1 to 48 bytes.
    pub realm: String,
    /// Where relayed ports are bound, one address per family. Empty = what `udp`, `tcp`, `tls` or `dtls` name, or, if that is all
    /// addresses, the one this machine sends from.
    pub relay: Vec<IpAddr>,
    /// What clients and peers are told instead, behind 1:1 NAT; at most one per family.
    pub advertise: Vec<IpAddr>,
    /// `first-last`.
    pub relay_ports: String,
    /// Shared with whoever mints time-limited credentials; several while they are rotated.
    pub secrets: Vec<String>,
    /// User → password, valid always.
    pub users: BTreeMap<String, String>,
    /// Networks that may be relayed to although they are private, loopback or this machine's.
    pub allowed_peers: Vec<String>,
    /// Networks that may not, although they are public. Stronger than `allowed_peers`.
    pub denied_peers: Vec<String>,
    /// Whether TCP connections to peers are relayed, too (RFC 6062).
    pub tcp_relay: bool,
    /// 1 to 64; 0 = one per core.
    pub threads: usize,
    /// Seconds that stopping waits for allocations to end, 0 to 86400.
    pub drain_s: u64,
    /// Microseconds that packets which come fast wait for each other, 0 to 2000; see [`TurnConfig::gather`].
    pub gather_us: u64,
    pub limits: LimitSettings,
}

/// 0 in a rate = unlimited.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitSettings {
    pub allocations: usize,
    pub allocations_per_user: u32,
    /// Per IPv4 address or IPv6 /64, like all that is per address here.
    pub allocations_per_address: u32,
    pub mbps_per_user: u64,
    pub mbps_per_address: u64,
    pub packets_per_s_user: u64,
    pub packets_per_s_address: u64,
    /// TCP and TLS, per thread; and as many DTLS sessions.
    pub connections: usize,
    pub connections_per_address: usize,
    /// Answers a second to strangers, per IPv4 /24 or IPv6 /56.
    pub stranger_answers_per_s: u64,
    /// A connection or DTLS session without an allocation is closed after this many seconds.
    pub idle_connection_s: u64,
}

impl Default for TurnSettings {
    fn default() -> Self {
        TurnSettings {
            udp: Vec::new(),
            tcp: Vec::new(),
            tls: Vec::new(),
            dtls: Vec::new(),
            host: String::new(),
            realm: "meridian".to_owned(),
            relay: Vec::new(),
            advertise: Vec::new(),
            relay_ports: "49152-65535".to_owned(),
            secrets: Vec::new(),
            users: BTreeMap::new(),
            allowed_peers: Vec::new(),
            denied_peers: Vec::new(),
            tcp_relay: false,
            threads: 0,
            drain_s: 60,
            gather_us: GATHER.as_micros() as u64,
            limits: LimitSettings::default(),
        }
    }
}

impl Default for LimitSettings {
    fn default() -> Self {
        LimitSettings {
            allocations: 20_000,
            allocations_per_user: 24,
            allocations_per_address: 512,
            mbps_per_user: 100,
            mbps_per_address: 1_000,
            packets_per_s_user: 25_000,
            packets_per_s_address: 250_000,
            connections: 10_000,
            connections_per_address: 512,
            stranger_answers_per_s: 100,
            idle_connection_s: 30,
        }
    }
}

/// So that an answer to a stranger stays within 160 bytes.
const REALM_BYTES_MAX: usize = 48;
/// RFC 8489 §14.3.
const USERNAME_BYTES_MAX: usize = 508;

impl TurnSettings {
    /// Whether it listens anywhere.
    pub fn is_on(&self) -> bool {
        self.listening().next().is_some()
    }

    /// What is wrong: the key within the table, and what to do about it.
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, key: &str, message: String| {
            if !holds {
                problems.push((key.to_owned(), message));
            }
        };
        let realm = (1..=REALM_BYTES_MAX).contains(&self.realm.len());
        require(realm, "realm", format!("must have 1 to {REALM_BYTES_MAX} bytes"));
        let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        require(
            self.host.chars().all(name) || self.host.parse::<IpAddr>().is_ok(),
            "host",
            "must be a name or an address without scheme and port, for example \"turn.example.org\"".to_owned(),
        );
        require(
            self.ports().is_some(),
            "relay_ports",
            "must be a range of ports above 0, for example \"49152-65535\"".to_owned(),
        );
        for (key, list) in [
            ("allowed_peers", &self.allowed_peers),
            ("denied_peers", &self.denied_peers),
        ] {
            for text in list {
                let error = text.parse::<Network>().err();
                require(error.is_none(), key, error.map(|e| e.to_string()).unwrap_or_default());
            }
        }
        for (key, list) in [("relay", &self.relay), ("advertise", &self.advertise)] {
            let one_each = [Family::V4, Family::V6]
                .into_iter()
                .all(|family| of_family(list, family).count() <= 1);
            require(one_each, key, "must name at most one address of each family".to_owned());
            let specified = list.iter().all(|ip| !ip.is_unspecified());
            require(specified, key, "must name an address, not all of them".to_owned());
        }
        for secret in &self.secrets {
            let long_enough = secret.len() >= SECRET_BYTES_MIN;
            require(
                long_enough,
                "secrets",
                format!("a secret needs at least {SECRET_BYTES_MIN} characters"),
            );
        }
        for (user, password) in &self.users {
            let good = user.len() <= USERNAME_BYTES_MAX && !user.contains(':') && !password.is_empty();
            require(
                good,
                &format!("users.{user}"),
                "needs a password, and a name without a colon".to_owned(),
            );
        }
        require(self.threads <= 64, "threads", "must be at most 64".to_owned());
        let bounded = self.drain_s <= 86_400;
        require(bounded, "drain_s", "must be at most 86400 seconds".to_owned());
        let gather_us_max = GATHER_MAX.as_micros() as u64;
        require(
            self.gather_us <= gather_us_max,
            "gather_us",
            format!("must be at most {gather_us_max}"),
        );
        let limits = &self.limits;
        let counts = [
            ("allocations", limits.allocations as u64),
            ("allocations_per_user", limits.allocations_per_user.into()),
            ("allocations_per_address", limits.allocations_per_address.into()),
            ("connections", limits.connections as u64),
            ("connections_per_address", limits.connections_per_address as u64),
            ("stranger_answers_per_s", limits.stranger_answers_per_s),
            ("idle_connection_s", limits.idle_connection_s),
        ];
        for (key, value) in counts {
            require(value > 0, &format!("limits.{key}"), "must be at least 1".to_owned());
        }
        let rates = [
            ("mbps_per_user", limits.mbps_per_user),
            ("mbps_per_address", limits.mbps_per_address),
            ("packets_per_s_user", limits.packets_per_s_user),
            ("packets_per_s_address", limits.packets_per_s_address),
        ];
        for (key, value) in rates {
            let sane = value <= 1_000_000_000;
            require(sane, &format!("limits.{key}"), "must be at most 1000000000".to_owned());
        }
        if self.is_on() {
            let relayable = [Family::V4, Family::V6]
                .into_iter()
                .any(|f| self.relay_address(f).is_some());
            require(
                relayable,
                "relay",
                "must name an address of this machine: none was found to send from".to_owned(),
            );
        }
        problems
    }

    /// What [`crate::io::TurnServer`] is started with. `tls`: the certificate; without it `tls` addresses are refused at start,
    /// and `dtls` addresses unless whoever starts it adds an identity.
    /// What [`TurnSettings::problems`] complains about is left out.
    pub fn config(&self, tls: Option<Arc<rustls::ServerConfig>>) -> TurnConfig {
        let mut server = ServerConfig::new(self.realm.clone(), self.credentials());
        server.relay_v4 = self.relay_address(Family::V4);
        server.relay_v6 = self.relay_address(Family::V6);
        if let Some(ports) = self.ports() {
            server.relay_ports = ports;
        }
        let networks = |texts: &[String]| texts.iter().filter_map(|text| text.parse().ok()).collect();
        server.policy.allowed = networks(&self.allowed_peers);
        server.policy.denied = networks(&self.denied_peers);
        server.tcp_relay = self.tcp_relay;
        server.limits = self.limits.limits();
        TurnConfig {
            udp: self.udp.clone(),
            tcp: self.tcp.clone(),
            tls: self.tls.clone(),
            tls_config: tls,
            dtls: self.dtls.clone(),
            workers: match self.threads {
                0 => std::thread::available_parallelism().map_or(1, usize::from),
                threads => threads,
            },
            gather: Duration::from_micros(self.gather_us),
            ..TurnConfig::new(server)
        }
    }

    /// The configured users and secrets.
    pub fn credentials(&self) -> Credentials {
        let users = self.users.iter();
        let credentials = users.fold(Credentials::default(), |all, (user, password)| {
            all.with_user(user, password)
        });
        let secrets = self.secrets.iter();
        secrets.fold(credentials, |all, secret| all.with_secret(secret.as_bytes()))
    }

    /// How long stopping waits for allocations to end.
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_s)
    }

    fn listening(&self) -> impl Iterator<Item = &SocketAddr> {
        self.udp.iter().chain(&self.tcp).chain(&self.tls).chain(&self.dtls)
    }

    fn ports(&self) -> Option<RangeInclusive<u16>> {
        let (first, last) = self.relay_ports.split_once('-')?;
        let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (0 < first && first <= last).then_some(first..=last)
    }

    /// Where ports of a family are relayed, and how they are called.
    pub fn relay_address(&self, family: Family) -> Option<RelayAddress> {
        let bind = of_family(&self.relay, family).next().or_else(|| {
            let listening: Vec<IpAddr> = self.listening().map(SocketAddr::ip).collect();
            let named = of_family(&listening, family).find(|ip| !ip.is_unspecified());
            let any = || {
                of_family(&listening, family)
                    .next()
                    .and_then(|_| outward_address(family))
            };
            named.or_else(any)
        })?;
        let advertised = of_family(&self.advertise, family).next().unwrap_or(bind);
        Some(RelayAddress { bind, advertised })
    }
}

/// `turn:` and `turns:` URLs (RFC 7065) of a server that listens there. Ports that are bound several times are named once.
/// Browsers pass over the last kind, TURN over DTLS: none speaks it.
pub fn urls(host: &str, udp: &[SocketAddr], tcp: &[SocketAddr], tls: &[u16], dtls: &[SocketAddr]) -> Vec<String> {
    // An IPv6 address stands in brackets.
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    let ports = |addresses: &[SocketAddr]| addresses.iter().map(SocketAddr::port).collect::<Vec<_>>();
    let mut urls: Vec<String> = Vec::new();
    for (scheme, transport, ports) in [
        ("turn", "udp", ports(udp)),
        ("turn", "tcp", ports(tcp)),
        ("turns", "tcp", tls.to_vec()),
        ("turns", "udp", ports(dtls)),
    ] {
        for port in ports {
            let url = format!("{scheme}:{host}:{port}?transport={transport}");
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
    }
    urls
}

impl LimitSettings {
    fn limits(&self) -> Limits {
        let rate = |per_second: u64| {
            (per_second > 0).then_some(Rate {
                per_second,
                burst: per_second,
            })
        };
        let bytes = |mbps: u64| rate(mbps.saturating_mul(125_000));
        Limits {
            allocations: self.allocations,
            per_user: Quota {
                allocations: self.allocations_per_user,
                bytes: bytes(self.mbps_per_user),
                packets: rate(self.packets_per_s_user),
            },
            per_source: Quota {
                allocations: self.allocations_per_address,
                bytes: bytes(self.mbps_per_address),
                packets: rate(self.packets_per_s_address),
            },
            unauthenticated: Rate {
                per_second: self.stranger_answers_per_s,
                burst: self.stranger_answers_per_s.saturating_mul(2),
            },
            connections: self.connections,
            connections_per_source: self.connections_per_address,
            stream_idle: Duration::from_secs(self.idle_connection_s),
            ..Limits::default()
        }
    }
}

fn of_family(list: &[IpAddr], family: Family) -> impl Iterator<Item = IpAddr> {
    list.iter().copied().filter(move |ip| Family::of(*ip) == family)
}

/// The address this machine would send from to the internet. Connecting a UDP socket sends nothing: it asks the routing table. The far
/// addresses are those of documentation (RFC 5737, RFC 3849).
fn outward_address(family: Family) -> Option<IpAddr> {
    let (any, far): (IpAddr, IpAddr) = match family {
        Family::V4 => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        Family::V6 => (
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        ),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((far, 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn on_loopback() -> TurnSettings {
        TurnSettings {
            udp: vec![addr("127.0.0.1:3478")],
            ..TurnSettings::default()
        }
    }

    #[test]
    fn defaults_are_the_servers_own_and_listen_nowhere() {
        let settings = TurnSettings::default();
        assert!(!settings.is_on() && settings.problems().is_empty());
        let (ours, servers) = (settings.limits.limits(), Limits::default());
        assert_eq!(format!("{ours:?}"), format!("{servers:?}"));
    }

    #[test]
    fn ports_are_relayed_at_the_address_that_is_listened_on_unless_another_is_named() {
        let mut settings = on_loopback();
        let loopback: IpAddr = [127, 0, 0, 1].into();
        assert_eq!(settings.relay_address(Family::V4), Some(loopback.into()));
        assert_eq!(settings.relay_address(Family::V6), None);
        settings.relay = vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        settings.advertise = vec!["203.0.113.7".parse().unwrap()];
        let v4 = settings.relay_address(Family::V4).unwrap();
        assert_eq!((v4.bind, v4.advertised), (settings.relay[0], settings.advertise[0]));
        let v6 = settings.relay_address(Family::V6).unwrap();
        assert_eq!((v6.bind, v6.advertised), (settings.relay[1], settings.relay[1]));
    }

    #[test]
    fn every_mistake_is_named() {
        let mut settings = on_loopback();
        settings.realm = String::new();
        settings.host = "turn:x".to_owned();
        settings.relay_ports = "60000-50000".to_owned();
        settings.allowed_peers = vec!["10.0.0.0/40".to_owned()];
        settings.advertise = vec![[1, 1, 1, 1].into(), [2, 2, 2, 2].into()];
        settings.secrets = vec!["short".to_owned()];
        settings.users = BTreeMap::from([("a:b".to_owned(), "x".to_owned())]);
        settings.drain_s = 86_401;
        settings.limits.allocations = 0;
        settings.limits.mbps_per_user = u64::MAX;
        let keys: Vec<_> = settings.problems().into_iter().map(|(key, _)| key).collect();
        let expected = [
            "realm",
            "host",
            "relay_ports",
            "allowed_peers",
            "advertise",
            "secrets",
            "users.a:b",
            "drain_s",
            "limits.allocations",
            "limits.mbps_per_user",
        ];
        assert_eq!(keys, expected);
    }

    #[test]
    fn urls_name_each_port_once_and_bracket_ipv6() {
        let udp = [addr("0.0.0.0:3478"), addr("[::]:3478")];
        assert_eq!(
            urls("turn.example.org", &udp, &udp[..1], &[443], &[addr("0.0.0.0:5349")]),
            [
                "turn:turn.example.org:3478?transport=udp",
                "turn:turn.example.org:3478?transport=tcp",
                "turns:turn.example.org:443?transport=tcp",
                "turns:turn.example.org:5349?transport=udp"
            ]
        );
        assert_eq!(
            urls("fd00::1", &udp, &[], &[], &[]),
            ["turn:[fd00::1]:3478?transport=udp"]
        );
    }
}
