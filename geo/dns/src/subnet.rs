//! EDNS Client Subnet (RFC 7871): where the person behind a resolver is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longer prefixes than these are not looked at: they say more about a person than placement needs, and would fill resolvers' caches.
const V4_BITS_MAX: u8 = 24;
const V6_BITS_MAX: u8 = 56;
/// Family, two prefix lengths.
const HEADER: usize = 4;

/// The option as it came. Kept as bytes: the reply repeats family, source prefix and address as they are (RFC 7871, 7.2.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subnet {
    raw: Vec<u8>,
    address: Option<IpAddr>,
    source_bits: u8,
}

/// An option that breaks RFC 7871, 7.1.1 and 7.1.2: answered with FORMERR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl Subnet {
    pub(crate) fn parse(raw: &[u8]) -> Result<Subnet, Malformed> {
        let &[family_high, family_low, source_bits, scope_bits, ref address @ ..] = raw else {
            return Err(Malformed);
        };
        let family = u16::from_be_bytes([family_high, family_low]);
        let bits_max = match family {
            // `dig +subnet=0` writes "no address" so.
            0 => 0,
            1 => 32,
            2 => 128,
            _ => return Err(Malformed),
        };
        // A query's scope is zero; the address has as many bytes as the prefix needs, and no bits beyond it.
        let spare_bits = (8 - source_bits % 8) % 8;
        let clean = address
            .last()
            .is_none_or(|last| last.trailing_zeros() >= u32::from(spare_bits));
        if source_bits > bits_max || scope_bits != 0 || address.len() != usize::from(source_bits).div_ceil(8) || !clean
        {
            return Err(Malformed);
        }
        let mut octets = [0; 16];
        octets[..address.len()].copy_from_slice(address);
        let address = match family {
            1 => Some(IpAddr::V4(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]))),
            2 => Some(IpAddr::V6(Ipv6Addr::from(octets))),
            _ => None,
        };
        Ok(Subnet {
            raw: raw.to_vec(),
            address,
            source_bits,
        })
    }

    /// The address to place by, cut to what is looked at; `None`: whoever asks wants the resolver's own to be used.
    pub(crate) fn client(&self) -> Option<IpAddr> {
        let address = self.address.filter(|_| self.source_bits > 0)?;
        Some(network(address, self.source_bits.min(bits_max(address))))
    }

    /// The option of the reply, valid for the network of `prefix` bits, but never for less than what was looked at.
    pub(crate) fn reply(&self, prefix: u8) -> Vec<u8> {
        let scope = match self.address {
            Some(address) => prefix.min(self.source_bits).min(bits_max(address)),
            None => 0,
        };
        let mut raw = self.raw.clone();
        if let Some(byte) = raw.get_mut(HEADER - 1) {
            *byte = scope;
        }
        raw
    }
}

fn bits_max(address: IpAddr) -> u8 {
    if address.is_ipv4() { V4_BITS_MAX } else { V6_BITS_MAX }
}

/// The first address of the network of `bits` around an address.
pub(crate) fn network(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_honoured_and_cut_to_what_is_looked_at() {
        let subnet = Subnet::parse(&[0, 1, 20, 0, 198, 51, 96]).unwrap();
        assert_eq!(subnet.client(), Some("198.51.96.0".parse().unwrap()));
        assert_eq!(
            subnet.reply(13)[3],
            13,
            "valid for the wider network that the database knows"
        );
        assert_eq!(subnet.reply(24)[3], 20, "never for less than was given");
        let host = Subnet::parse(&[0, 1, 32, 0, 198, 51, 100, 77]).unwrap();
        assert_eq!(host.client(), Some("198.51.100.0".parse().unwrap()));
        assert_eq!(host.reply(32)[..], [0, 1, 32, 24, 198, 51, 100, 77]);
        let v6 = Subnet::parse(&[0, 2, 60, 0, 0x20, 1, 0xd, 0xb8, 1, 2, 3, 0xf0]).unwrap();
        assert_eq!(v6.client(), Some("2001:db8:102:300::".parse().unwrap()));
        assert_eq!(v6.reply(64)[3], 56);
    }

    #[test]
    fn nobodys_address_is_used_when_the_client_asks_for_that() {
        for raw in [&[0, 1, 0, 0][..], &[0, 2, 0, 0], &[0, 0, 0, 0]] {
            let subnet = Subnet::parse(raw).unwrap();
            assert_eq!((subnet.client(), subnet.reply(24)[3]), (None, 0));
        }
    }

    #[test]
    fn an_option_that_breaks_the_rules_is_refused() {
        for raw in [
            &[][..],
            &[0, 1, 24],
            &[0, 3, 8, 0, 1],              // a family that there is not
            &[0, 1, 33, 0, 1, 2, 3, 4, 5], // longer than an address
            &[0, 1, 24, 0, 1, 2],          // too few bytes
            &[0, 1, 24, 0, 1, 2, 3, 4],    // too many
            &[0, 1, 20, 0, 1, 2, 0x1f],    // bits beyond the prefix
            &[0, 1, 24, 8, 1, 2, 3],       // a scope in a query
            &[0, 0, 8, 0, 1],
        ] {
            assert_eq!(Subnet::parse(raw), Err(Malformed), "{raw:?}");
        }
    }
}
