//! Where a role listens and what it tells others: whether it can have the ports, and whether what it tells can be reached.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::num::NonZero;
use std::time::Duration;

use meridian_control_plane::ControlPlaneConfig;
use meridian_node::EdgeConfig;
use meridian_registry::settings::RegistryKind;
use meridian_turn::settings::TurnSettings;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::report::Finding;

const LISTENS: &str = "listens";
const TELLS: &str = "advertised";
const DNS_ANSWERS_WITHIN: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Udp,
    Tcp,
}

/// One address that a role binds.
struct Listener {
    key: &'static str,
    protocol: Protocol,
    address: SocketAddr,
}

/// Addresses that others are told for sockets bound to `bound`.
struct Told {
    key: &'static str,
    addresses: Vec<IpAddr>,
    bound: Vec<SocketAddr>,
    /// Who is told: what does not work if they cannot be reached.
    whom: &'static str,
}

/// What a configuration says about addresses.
pub(super) struct Addresses {
    listeners: Vec<Listener>,
    told: Vec<Told>,
}

impl Addresses {
    pub(super) fn of_edge(config: &EdgeConfig) -> Addresses {
        let mut all = Addresses::of_turn(&config.turn);
        // TURN over TLS on the HTTPS port is one listener.
        all.listeners.retain(|one| one.address != config.http.bind);
        all.listen("http.bind", Protocol::Tcp, [config.http.bind]);
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let threads = if config.media.threads == 0 {
            cores
        } else {
            config.media.threads
        };
        for bind in &config.media.bind {
            let ports = (0..threads).filter_map(|thread| bind.port().checked_add(u16::try_from(thread).ok()?));
            let ports = ports.map(|port| SocketAddr::new(bind.ip(), if bind.port() == 0 { 0 } else { port }));
            all.listen("media.bind", Protocol::Udp, ports);
        }
        all.listen("link.bind", Protocol::Udp, [config.link.bind]);
        all.told.push(Told {
            key: "media.advertise",
            addresses: config.media.advertise.clone(),
            bound: config.media.bind.clone(),
            whom: "clients send media",
        });
        if config.registry.kind == RegistryKind::Etcd {
            all.told.push(Told {
                key: "link.advertise",
                addresses: config.link.advertise.iter().map(SocketAddr::ip).collect(),
                bound: vec![config.link.bind],
                whom: "other edges connect",
            });
        }
        all
    }

    pub(super) fn of_control_plane(config: &ControlPlaneConfig) -> Addresses {
        let mut all = Addresses {
            listeners: Vec::new(),
            told: Vec::new(),
        };
        all.listen("http.bind", Protocol::Tcp, [config.http.bind]);
        all.listen("grpc.bind", Protocol::Tcp, [config.grpc.bind]);
        all.listen("dns.bind", Protocol::Udp, config.dns.bind.iter().copied());
        all.listen("dns.bind", Protocol::Tcp, config.dns.bind.iter().copied());
        all
    }

    pub(super) fn of_turn(turn: &TurnSettings) -> Addresses {
        let mut all = Addresses {
            listeners: Vec::new(),
            told: Vec::new(),
        };
        all.listen("turn.udp", Protocol::Udp, turn.udp.iter().copied());
        all.listen("turn.tcp", Protocol::Tcp, turn.tcp.iter().copied());
        all.listen("turn.tls", Protocol::Tcp, turn.tls.iter().copied());
        all.listen("turn.dtls", Protocol::Udp, turn.dtls.iter().copied());
        let bound: Vec<SocketAddr> = all.listeners.iter().map(|one| one.address).collect();
        if !bound.is_empty() {
            all.told.push(Told {
                key: "turn.advertise",
                addresses: turn.advertise.clone(),
                bound,
                whom: "peers send what is relayed",
            });
        }
        all
    }

    fn listen(&mut self, key: &'static str, protocol: Protocol, addresses: impl IntoIterator<Item = SocketAddr>) {
        let listener = |address| Listener { key, protocol, address };
        self.listeners.extend(addresses.into_iter().map(listener));
    }

    /// `running`: the role itself may hold its ports now.
    pub(super) fn findings(&self, running: bool) -> Vec<Finding> {
        let mut found = self.listening(running);
        for told in &self.told {
            found.extend(told.findings());
        }
        found
    }

    fn listening(&self, running: bool) -> Vec<Finding> {
        let mut found: Vec<Finding> = Vec::new();
        // Held until all are tried, so that two of ours that want one port are seen.
        let mut held = Vec::new();
        for (index, one) in self.listeners.iter().enumerate() {
            let mut address = one.address;
            if running {
                address.set_port(0);
            }
            match one.bind(address) {
                Ok(socket) => held.push(socket),
                Err(error) => {
                    let twin = self.listeners[..index]
                        .iter()
                        .find(|other| other.protocol == one.protocol && other.address.port() == one.address.port());
                    found.push(one.failed(&error, twin));
                }
            }
        }
        if found.is_empty() {
            let says = if running {
                "the addresses are this machine's (their ports were not tried: the role may be running)"
            } else {
                "the addresses are this machine's, and their ports are free"
            };
            found.push(Finding::good(LISTENS, says));
        }
        found
    }
}

/// A socket that holds its port while it lives.
enum Held {
    Udp(#[expect(dead_code, reason = "held, not used")] UdpSocket),
    Tcp(#[expect(dead_code, reason = "held, not used")] TcpListener),
}

impl Listener {
    fn bind(&self, address: SocketAddr) -> io::Result<Held> {
        match self.protocol {
            Protocol::Udp => UdpSocket::bind(address).map(Held::Udp),
            Protocol::Tcp => TcpListener::bind(address).map(Held::Tcp),
        }
    }

    fn failed(&self, error: &io::Error, twin: Option<&Listener>) -> Finding {
        let Listener { key, address, .. } = self;
        let (protocol, flag) = match self.protocol {
            Protocol::Udp => ("UDP", 'u'),
            Protocol::Tcp => ("TCP", 't'),
        };
        let port = address.port();
        match (error.kind(), twin) {
            (io::ErrorKind::AddrNotAvailable, _) => Finding::problem(
                LISTENS,
                format!("{key}: {} is no address of this machine", address.ip()),
                "listen on one that `ip address` shows, or on 0.0.0.0; behind 1:1 NAT the public one belongs into `advertise`",
            ),
            (io::ErrorKind::AddrInUse, Some(twin)) => Finding::problem(
                LISTENS,
                format!(
                    "{key} and {} both want {protocol} port {port} (media thread i takes port + i)",
                    twin.key
                ),
                "move one of them",
            ),
            (io::ErrorKind::AddrInUse, None) => Finding::problem(
                LISTENS,
                format!("{key}: {protocol} port {port} is taken by another program"),
                format!("`ss -{flag}lpn sport = :{port}` says by which: stop it, or take another port"),
            ),
            (io::ErrorKind::PermissionDenied, _) => Finding::problem(
                LISTENS,
                format!("{key}: this user may not listen on port {port}"),
                "run it by the unit in deploy/systemd, which has CAP_NET_BIND_SERVICE, or as that user",
            ),
            _ => Finding::problem(
                LISTENS,
                format!("{key}: cannot listen on {address}: {error}"),
                "see the message",
            ),
        }
    }
}

impl Told {
    fn findings(&self) -> Vec<Finding> {
        let Told { key, whom, .. } = self;
        let mut found = Vec::new();
        for ip in &self.addresses {
            if !self
                .bound
                .iter()
                .any(|bound| bound.is_ipv4() == ip.is_ipv4() || is_dual_stack(bound))
            {
                found.push(Finding::problem(
                    TELLS,
                    format!("{key} tells {ip}, but nothing listens by that family"),
                    "listen on [::] for IPv6, on 0.0.0.0 for IPv4, too, or do not tell it",
                ));
            } else if let Some(why) = unreachable(*ip) {
                found.push(self.bad(*ip, why));
            }
        }
        if self.addresses.is_empty() {
            for ip in self.bound.iter().filter_map(reached_by) {
                found.extend(unreachable(ip).map(|why| self.bad(ip, why)));
            }
        }
        found.dedup();
        if found.is_empty() {
            found.push(Finding::good(
                TELLS,
                format!("{key}: where {whom} can be an address of the internet"),
            ));
        }
        found
    }

    fn bad(&self, ip: IpAddr, why: Unreachable) -> Finding {
        let Told {
            key, whom, addresses, ..
        } = self;
        let source = if addresses.is_empty() {
            "is not set, and what is bound is"
        } else {
            "is"
        };
        let remedy = format!("set {key} to the address by which this machine is reached from outside");
        match why {
            Unreachable::Nowhere(what) => Finding::problem(
                TELLS,
                format!("{key} {source} {ip}, {what}: where {whom} leads nowhere"),
                remedy,
            ),
            Unreachable::Outside(what) => Finding::warning(
                TELLS,
                format!("{key} {source} {ip}, {what}: where {whom} is reached from that network only"),
                format!("{remedy}, unless everybody is in that network"),
            ),
        }
    }
}

enum Unreachable {
    /// From no other machine.
    Nowhere(&'static str),
    /// From its own network only.
    Outside(&'static str),
}

fn unreachable(ip: IpAddr) -> Option<Unreachable> {
    match ip.to_canonical() {
        ip if ip.is_loopback() => Some(Unreachable::Nowhere("this machine itself")),
        ip if ip.is_unspecified() => Some(Unreachable::Nowhere("no address at all")),
        ip if ip.is_multicast() => Some(Unreachable::Nowhere("a multicast group")),
        IpAddr::V4(ip) if ip.is_private() => Some(Unreachable::Outside("a private address (RFC 1918)")),
        IpAddr::V4(ip) if ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64 => {
            Some(Unreachable::Outside("an address behind a provider's NAT (RFC 6598)"))
        }
        IpAddr::V4(ip) if ip.is_link_local() => Some(Unreachable::Outside("a link-local address")),
        IpAddr::V6(ip) if ip.is_unique_local() => Some(Unreachable::Outside("a private address (RFC 4193)")),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some(Unreachable::Outside("a link-local address")),
        _ => None,
    }
}

fn is_dual_stack(bound: &SocketAddr) -> bool {
    bound.is_ipv6() && bound.ip().is_unspecified()
}

/// The address by which others see what is bound: for all addresses, the one this machine sends from. No packet leaves.
fn reached_by(bound: &SocketAddr) -> Option<IpAddr> {
    if !bound.ip().is_unspecified() {
        return Some(bound.ip());
    }
    // Documentation addresses: routed like any other.
    let far = if bound.is_ipv4() {
        "192.0.2.1:9"
    } else {
        "[2001:db8::1]:9"
    };
    let socket = UdpSocket::bind(SocketAddr::new(bound.ip(), 0)).ok()?;
    socket.connect(far).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// The host in a URL that clients are told.
pub(super) fn host_of(url: &str) -> Option<String> {
    let url = url::Url::parse(url).ok()?;
    Some(url.host_str()?.trim_matches(['[', ']']).to_owned())
}

/// Whether the name that clients are told leads here.
pub(super) async fn name_of(config: &EdgeConfig) -> Option<Finding> {
    const KEY: &str = "http.public_url";
    let Some(host) = host_of(&config.http.public_url) else {
        let bind = config.http.bind.ip();
        return bind.is_loopback().then(|| {
            Finding::warning(
                TELLS,
                format!("{KEY} is not set: clients are told {bind}, which only browsers on this machine reach"),
                "set it to what the proxy in front, or the certificate, is called: \"wss://fra-1.example.org\"",
            )
        });
    };
    if host.parse::<IpAddr>().is_ok() {
        return None;
    }
    let answer = timeout(DNS_ANSWERS_WITHIN, lookup_host((host.as_str(), 443))).await;
    let known: Vec<IpAddr> = match answer {
        Ok(Ok(addresses)) => addresses.map(|address| address.ip()).collect(),
        Ok(Err(_)) | Err(_) => {
            return Some(Finding::problem(
                TELLS,
                format!("{KEY}: DNS does not know {host}: no client finds this edge"),
                format!("give {host} an A record (and AAAA) with this machine's public address"),
            ));
        }
    };
    let mut ours = config.http.public_addresses.clone();
    ours.extend(&config.media.advertise);
    ours.extend(reached_by(&config.http.bind));
    ours.extend(config.media.bind.iter().filter_map(reached_by));
    let shown: Vec<String> = known.iter().map(ToString::to_string).collect();
    if known.iter().any(|ip| ours.contains(ip)) {
        return Some(Finding::good(
            TELLS,
            format!("{host} is {}, which is this edge", shown.join(", ")),
        ));
    }
    Some(Finding::warning(
        TELLS,
        format!(
            "{KEY}: {host} is {}, which is none of this edge's addresses",
            shown.join(", ")
        ),
        "correct the DNS record, or name these addresses in http.public_addresses if a load balancer has them",
    ))
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    fn told(advertise: &[&str], bound: &[&str]) -> Finding {
        let told = Told {
            key: "media.advertise",
            addresses: advertise.iter().map(|ip| ip.parse().unwrap()).collect(),
            bound: bound.iter().map(|address| address.parse().unwrap()).collect(),
            whom: "clients send media",
        };
        told.findings().remove(0)
    }

    #[test]
    fn addresses_that_nobody_outside_reaches_are_told_by_their_kind() {
        for (advertise, bound, verdict, says) in [
            ("203.0.113.7", "0.0.0.0:7882", Verdict::Good, "media.advertise: where"),
            (
                "10.0.0.5",
                "0.0.0.0:7882",
                Verdict::Warning,
                "media.advertise is 10.0.0.5, a private address (RFC 1918)",
            ),
            (
                "100.64.3.1",
                "0.0.0.0:7882",
                Verdict::Warning,
                "media.advertise is 100.64.3.1, an address behind a provider's NAT",
            ),
            (
                "127.0.0.1",
                "0.0.0.0:7882",
                Verdict::Problem,
                "media.advertise is 127.0.0.1, this machine itself",
            ),
            (
                "2001:db8::7",
                "0.0.0.0:7882",
                Verdict::Problem,
                "media.advertise tells 2001:db8::7, but nothing listens by that family",
            ),
            (
                "fd00::7",
                "[::]:7882",
                Verdict::Warning,
                "media.advertise is fd00::7, a private address (RFC 4193)",
            ),
        ] {
            let finding = told(&[advertise], &[bound]);
            assert_eq!(finding.verdict, verdict, "{advertise}: {finding:?}");
            assert!(finding.says.starts_with(says), "{}", finding.says);
        }
        let silent = told(&[], &["127.0.0.1:7882"]);
        assert!(
            silent
                .says
                .starts_with("media.advertise is not set, and what is bound is 127.0.0.1"),
            "{}",
            silent.says
        );
    }

    #[test]
    fn two_of_our_own_listeners_that_want_one_port_are_named_both() {
        let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut all = Addresses {
            listeners: Vec::new(),
            told: Vec::new(),
        };
        all.listen("media.bind", Protocol::Udp, [free]);
        all.listen("link.bind", Protocol::Udp, [free]);
        let says = &all.findings(false)[0].says;
        assert!(
            says.starts_with("link.bind and media.bind both want UDP port"),
            "{says}"
        );
    }
}
