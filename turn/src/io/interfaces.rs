//! This machine's own addresses, which clients must not reach through the relay.

use std::net::{IpAddr, Ipv6Addr};

/// All local addresses as the kernel's tables show them; empty where there is no /proc. Addresses that come later are
/// covered if they are private, and otherwise belong into the configuration.
pub fn own_addresses() -> Vec<IpAddr> {
    let v4 = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let v6 = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let mut all = parse_fib_trie(&v4);
    all.extend(parse_if_inet6(&v6));
    all.sort_unstable();
    all.dedup();
    all
}

/// "|-- 10.0.0.7" followed by "/32 host LOCAL".
fn parse_fib_trie(text: &str) -> Vec<IpAddr> {
    let mut last: Option<IpAddr> = None;
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line.starts_with("/32 host LOCAL") {
            found.extend(last);
        }
    }
    found
}

/// "fe80000000000000023048fffe8ab1cd 02 40 20 80 eth0".
fn parse_if_inet6(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| u128::from_str_radix(line.split_whitespace().next()?, 16).ok();
    text.lines()
        .filter_map(address)
        .map(|bits| IpAddr::V6(Ipv6Addr::from(bits)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_understood() {
        let trie = "Local:\n  +-- 10.0.0.0/24 2 0 2\n     |-- 10.0.0.0\n        /24 link UNICAST\n     |-- 10.0.0.7\n        /32 host LOCAL\n";
        assert_eq!(parse_fib_trie(trie), ["10.0.0.7".parse::<IpAddr>().unwrap()]);
        let inet6 = "00000000000000000000000000000001 01 80 10 80       lo\n";
        assert_eq!(parse_if_inet6(inet6), ["::1".parse::<IpAddr>().unwrap()]);
        assert!(own_addresses().contains(&"127.0.0.1".parse().unwrap()));
    }
}
