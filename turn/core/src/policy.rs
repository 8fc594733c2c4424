//! Which peers may be relayed to. A TURN server inside a network is a door into it, so everything that is not plainly
//! the public internet is refused, unless it is configured: networks by name, and the media ports of this PoP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

/// An address prefix, "10.0.0.0/8" or "fd00::/8"; a bare address is its own network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    ip: IpAddr,
    prefix: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a network: write 10.0.0.0/8 or fd00::/8")]
pub struct NetworkError(String);

impl Network {
    /// `prefix` beyond the address's length means the address alone.
    pub fn new(ip: IpAddr, prefix: u8) -> Network {
        Network {
            ip,
            prefix: prefix.min(if ip.is_ipv4() { 32 } else { 128 }),
        }
    }

    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                (u32::from(net) ^ u32::from(ip))
                    .checked_shr(32 - u32::from(self.prefix))
                    .unwrap_or(0)
                    == 0
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                (u128::from(net) ^ u128::from(ip))
                    .checked_shr(128 - u32::from(self.prefix))
                    .unwrap_or(0)
                    == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Network, NetworkError> {
        let error = || NetworkError(text.to_owned());
        let (ip, prefix) = text.split_once('/').unwrap_or((text, ""));
        let ip: IpAddr = ip.parse().map_err(|_| error())?;
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = if prefix.is_empty() {
            longest
        } else {
            prefix.parse().map_err(|_| error())?
        };
        if prefix > longest {
            Err(error())
        } else {
            Ok(Network { ip, prefix })
        }
    }
}

/// Media sockets of this PoP: clients name `advertised`, datagrams go to `actual` (behind 1:1 NAT they differ).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaPorts {
    pub advertised: IpAddr,
    pub actual: IpAddr,
    pub ports: RangeInclusive<u16>,
}

/// The default refuses everything special and permits the public internet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerPolicy {
    /// Permitted although they are private, loopback or our own; e.g. a test network.
    pub allowed: Vec<Network>,
    /// Refused although they are public. Stronger than `allowed`.
    pub denied: Vec<Network>,
    /// This machine's addresses. Refused but for `media` and for live relayed ports.
    pub own: Vec<IpAddr>,
    pub media: Vec<MediaPorts>,
}

/// Where datagrams for a permitted peer go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// To this address.
    Send(SocketAddr),
    /// To one of our relayed addresses: permitted while some allocation holds that port.
    Relayed(SocketAddr),
}

impl PeerPolicy {
    /// For CreatePermission, which names no port: is there any port of `ip` that may be reached?
    pub(crate) fn permits_ip(&self, ip: IpAddr, relayed: &[IpAddr]) -> bool {
        if self.denied.iter().any(|n| n.contains(ip)) {
            return false;
        }
        relayed.contains(&ip) || self.has_media_at(ip) || self.open(ip)
    }

    /// Where datagrams for `peer` go, `None` if nowhere. `relayed`: our own relay addresses as clients know them.
    pub(crate) fn route(&self, peer: SocketAddr, relayed: &[IpAddr]) -> Option<Route> {
        let ip = peer.ip();
        if peer.port() == 0 || self.denied.iter().any(|n| n.contains(ip)) {
            return None;
        }
        if let Some(media) = self
            .media
            .iter()
            .find(|m| m.advertised == ip && m.ports.contains(&peer.port()))
        {
            return Some(Route::Send(SocketAddr::new(media.actual, peer.port())));
        }
        if self.open(ip) {
            return Some(Route::Send(peer));
        }
        relayed.contains(&ip).then_some(Route::Relayed(peer))
    }

    /// Whether clients know one of this PoP's media sockets by this address.
    pub(crate) fn is_media(&self, peer: SocketAddr) -> bool {
        self.media
            .iter()
            .any(|m| m.advertised == peer.ip() && m.ports.contains(&peer.port()))
    }

    /// Whether media sockets of this PoP are at this address.
    pub(crate) fn has_media_at(&self, ip: IpAddr) -> bool {
        self.media.iter().any(|m| m.advertised == ip)
    }

    /// The address clients know a sender by: the way back of [`PeerPolicy::route`].
    pub(crate) fn name_of(&self, from: SocketAddr) -> SocketAddr {
        match self
            .media
            .iter()
            .find(|m| m.actual == from.ip() && m.ports.contains(&from.port()))
        {
            Some(media) => SocketAddr::new(media.advertised, from.port()),
            None => from,
        }
    }

    fn open(&self, ip: IpAddr) -> bool {
        self.allowed.iter().any(|n| n.contains(ip)) || (!self.own.contains(&ip) && is_public(ip))
    }
}

/// Whether `ip` is ordinary public unicast (IANA special-purpose registries, RFC 6890), also in the disguises IPv6 has
/// for IPv4.
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !(ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || a == 0
        || a >= 224
        || (a == 100 && b & 0xC0 == 64)
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && b & 0xFE == 18))
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match s {
        // NAT64 and 6to4 lead to the IPv4 address inside.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => is_public_v4(v4(high, low)),
        [0x2002, high, low, ..] => is_public_v4(v4(high, low)),
        // Teredo, ORCHID, benchmarking; documentation.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        // Only 2000::/3 is handed out; loopback, mapped, link-local, unique local and multicast all lie outside.
        [first, ..] => first & 0xE000 == 0x2000 && first != 0x3fff,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_public_unicast_is_public() {
        for yes in [
            "1.1.1.1",
            "203.0.112.1",
            "100.128.0.1",
            "172.32.0.1",
            "2606:4700::1",
            "2a00::1",
            "64:ff9b::1.1.1.1",
        ] {
            assert!(is_public(ip(yes)), "{yes}");
        }
        for no in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::ffff:1.1.1.1",
            "::7f00:1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2002:0a00:0001::",
            "2001::1",
            "2001:db8::1",
            "fe80::1",
            "fec0::1",
            "fd00::1",
            "ff02::1",
        ] {
            assert!(!is_public(ip(no)), "{no}");
        }
    }

    #[test]
    fn networks_contain_what_their_prefix_says() {
        let net: Network = "10.32.0.0/11".parse().unwrap();
        assert!(net.contains(ip("10.63.1.1")) && !net.contains(ip("10.64.0.0")) && !net.contains(ip("::1")));
        assert!("0.0.0.0/0".parse::<Network>().unwrap().contains(ip("9.9.9.9")));
        assert!("::/0".parse::<Network>().unwrap().contains(ip("fe80::1")));
        assert!("10.0.0.0/33".parse::<Network>().is_err() && "x/1".parse::<Network>().is_err());
    }

    #[test]
    fn own_addresses_are_reached_at_media_and_relayed_ports_only() {
        let own = ip("198.51.99.7");
        let media = MediaPorts {
            advertised: own,
            actual: ip("10.0.0.7"),
            ports: 7000..=7003,
        };
        let policy = PeerPolicy {
            own: vec![own, ip("10.0.0.7")],
            media: vec![media],
            ..PeerPolicy::default()
        };
        let at = |port| SocketAddr::new(own, port);
        assert_eq!(
            policy.route(at(7001), &[]),
            Some(Route::Send("10.0.0.7:7001".parse().unwrap()))
        );
        assert_eq!(policy.name_of("10.0.0.7:7001".parse().unwrap()), at(7001));
        assert_eq!(policy.route(at(22), &[]), None);
        assert_eq!(policy.route(at(50_000), &[own]), Some(Route::Relayed(at(50_000))));
        assert_eq!(policy.route("10.0.0.7:7001".parse().unwrap(), &[]), None);
        assert!(policy.permits_ip(own, &[]) && !policy.permits_ip(ip("10.0.0.7"), &[]));
    }

    #[test]
    fn denied_is_stronger_than_allowed() {
        let both = vec!["10.0.0.0/8".parse().unwrap()];
        let policy = PeerPolicy {
            allowed: both.clone(),
            denied: both,
            ..PeerPolicy::default()
        };
        assert_eq!(policy.route("10.0.0.1:9".parse().unwrap(), &[]), None);
    }
}
