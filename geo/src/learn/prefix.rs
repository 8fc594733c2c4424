//! What sessions are filed under: an address's own prefix, the wider one around it, and its autonomous system.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Bits of the own prefix and of the wider one.
const V4_BITS: [u8; 2] = [24, 16];
const V6_BITS: [u8; 2] = [48, 32];

/// One row of the table. Written as `203.0.113.0/24`, `2001:db8::/48` or `AS64500`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    V4 {
        net: u32,
        bits: u8,
    },
    /// `net`: the upper 64 bits.
    V6 {
        net: u64,
        bits: u8,
    },
    Asn(u32),
}

impl Key {
    /// The own prefix and the wider one. `None` for addresses that say nothing about a way: loopback and the like, which everybody has.
    pub fn prefixes(address: IpAddr) -> Option<[Key; 2]> {
        match address.to_canonical() {
            IpAddr::V4(v4) if v4.is_loopback() || v4.is_unspecified() || v4.is_multicast() || v4.is_link_local() => {
                None
            }
            IpAddr::V6(v6)
                if v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local() =>
            {
                None
            }
            IpAddr::V4(v4) => Some(V4_BITS.map(|bits| Key::v4(v4, bits))),
            IpAddr::V6(v6) => Some(V6_BITS.map(|bits| Key::v6(v6, bits))),
        }
    }

    fn v4(address: Ipv4Addr, bits: u8) -> Self {
        let mask = u32::MAX << (32 - u32::from(bits));
        Key::V4 {
            net: u32::from(address) & mask,
            bits,
        }
    }

    fn v6(address: Ipv6Addr, bits: u8) -> Self {
        let mask = u64::MAX << (64 - u32::from(bits));
        let upper = (u128::from(address) >> 64) as u64;
        Key::V6 {
            net: upper & mask,
            bits,
        }
    }

    /// A number for this key among a wider key's sources (FNV-1a: it only has to differ, and stay the same between versions).
    pub(crate) fn tag(self) -> u32 {
        let number = match self {
            Key::V4 { net, .. } => u64::from(net),
            Key::V6 { net, .. } => net,
            Key::Asn(asn) => u64::from(asn),
        };
        let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        number.to_be_bytes().into_iter().fold(0x811c_9dc5, step)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::V4 { net, bits } => write!(f, "{}/{bits}", Ipv4Addr::from(*net)),
            Key::V6 { net, bits } => write!(f, "{}/{bits}", Ipv6Addr::from(u128::from(*net) << 64)),
            Key::Asn(asn) => write!(f, "AS{asn}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoKey;

impl FromStr for Key {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        if let Some(asn) = text.strip_prefix("AS") {
            return asn.parse().map(Key::Asn).map_err(|_| NoKey);
        }
        let (address, bits) = text.split_once('/').ok_or(NoKey)?;
        let bits: u8 = bits.parse().map_err(|_| NoKey)?;
        match address.parse().map_err(|_| NoKey)? {
            IpAddr::V4(v4) if V4_BITS.contains(&bits) => Ok(Key::v4(v4, bits)),
            IpAddr::V6(v6) if V6_BITS.contains(&bits) => Ok(Key::v6(v6, bits)),
            _ => Err(NoKey),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back_from_what_they_are_written_as() {
        let of = |text: &str| Key::prefixes(text.parse().unwrap()).unwrap().map(|key| key.to_string());
        assert_eq!(of("203.0.113.77"), ["203.0.113.0/24", "203.0.0.0/16"]);
        assert_eq!(of("::ffff:203.0.113.77"), of("203.0.113.77"));
        assert_eq!(of("2001:db8:1:2::3"), ["2001:db8:1::/48", "2001:db8::/32"]);
        for text in [
            "203.0.113.0/24",
            "203.0.0.0/16",
            "2001:db8:1::/48",
            "2001:db8::/32",
            "AS64500",
        ] {
            assert_eq!(text.parse::<Key>().unwrap().to_string(), text);
        }
        for text in ["", "203.0.113.0", "203.0.113.0/25", "AS", "2001:db8::/24", "x/24"] {
            assert!(text.parse::<Key>().is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_that_everybody_has_are_not_filed() {
        for text in ["127.0.0.1", "::1", "0.0.0.0", "169.254.1.1", "fe80::1", "224.0.0.1"] {
            assert!(Key::prefixes(text.parse().unwrap()).is_none(), "{text}");
        }
    }
}
