//! Who the client is, when reverse proxies stand in between. Used by the control plane and by every edge.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address or a network in CIDR notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Reads `10.0.0.0/8`, `fd00::/8`, or a single address.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address.parse::<IpAddr>().ok()?, Some(prefix.parse::<u8>().ok()?)),
            None => (text.parse::<IpAddr>().ok()?, None),
        };
        let max = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(max);
        (prefix <= max).then_some(Network { address, prefix })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                masked_v4(network, self.prefix) == masked_v4(address, self.prefix)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                masked_v6(network, self.prefix) == masked_v6(address, self.prefix)
            }
            _ => false,
        }
    }
}

fn masked_v4(address: Ipv4Addr, prefix: u8) -> u32 {
    u32::from(address) & u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

fn masked_v6(address: Ipv6Addr, prefix: u8) -> u128 {
    u128::from(address) & u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0)
}

/// The client's address: the peer's, or what trusted proxies say about it.
///
/// `forwarded` are the values of `X-Forwarded-For`, in order. It is read from the right, where our own proxies wrote: the first
/// address that is not a trusted proxy is the client. Anything further left was written by strangers.
pub fn client_address<'a>(
    peer: IpAddr,
    forwarded: impl DoubleEndedIterator<Item = &'a str>,
    trusted: &[Network],
) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = peer.to_canonical();
    for hop in forwarded.flat_map(|line| line.split(',')).rev() {
        if !is_trusted(client) {
            break;
        }
        match parse_hop(hop.trim()) {
            Some(address) => client = address.to_canonical(),
            None => break,
        }
    }
    client
}

/// `203.0.113.9`, `203.0.113.9:4711`, `2001:db8::1`, `[2001:db8::1]:4711`.
fn parse_hop(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok())
}

/// The part of an address that one customer of a provider usually holds: limits count by it. IPv6: /64.
pub fn limit_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(masked_v6(address, 64))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn client(peer: &str, forwarded: &[&str], trusted: &[&str]) -> IpAddr {
        let trusted: Vec<Network> = trusted.iter().map(|one| Network::parse(one).unwrap()).collect();
        client_address(ip(peer), forwarded.iter().copied(), &trusted)
    }

    #[test]
    fn strangers_cannot_choose_their_address() {
        assert_eq!(client("198.51.100.1", &["203.0.113.9"], &[]), ip("198.51.100.1"));
        assert_eq!(
            client("198.51.100.1", &["203.0.113.9"], &["10.0.0.0/8"]),
            ip("198.51.100.1")
        );
        assert_eq!(
            client("10.0.0.1", &["6.6.6.6, 203.0.113.9"], &["10.0.0.0/8"]),
            ip("203.0.113.9")
        );
        assert_eq!(
            client("10.0.0.1", &["6.6.6.6", "203.0.113.9, 10.0.0.2"], &["10.0.0.0/8"]),
            ip("203.0.113.9")
        );
    }

    #[test]
    fn proxies_write_addresses_in_several_ways() {
        assert_eq!(
            client("::ffff:10.0.0.1", &["203.0.113.9:4711"], &["10.0.0.1"]),
            ip("203.0.113.9")
        );
        assert_eq!(client("::1", &["[2001:db8::7]:1"], &["::1/128"]), ip("2001:db8::7"));
        assert_eq!(client("10.0.0.1", &["unknown"], &["10.0.0.1"]), ip("10.0.0.1"));
        assert_eq!(client("10.0.0.1", &[], &["10.0.0.1"]), ip("10.0.0.1"));
    }

    #[test]
    fn networks_contain_what_they_should() {
        let contains = |network: &str, address: &str| Network::parse(network).unwrap().contains(ip(address));
        assert!(contains("10.0.0.0/8", "10.255.0.1") && !contains("10.0.0.0/8", "11.0.0.0"));
        assert!(
            contains("0.0.0.0/0", "203.0.113.1") && contains("::/0", "2001:db8::1") && !contains("0.0.0.0/0", "::1")
        );
        assert!(contains("203.0.113.7", "203.0.113.7") && !contains("203.0.113.7/32", "203.0.113.6"));
        assert!(contains("fd00::/8", "fd12::1") && !contains("fd00::/8", "fe80::1"));
        for wrong in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "host"] {
            assert!(Network::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn limits_count_a_whole_ipv6_network_as_one() {
        assert_eq!(limit_key(ip("2001:db8:1:2:3::4")), ip("2001:db8:1:2::"));
        assert_eq!(limit_key(ip("::ffff:203.0.113.9")), ip("203.0.113.9"));
    }
}
