//! The seam to whoever knows the edges.

use std::net::IpAddr;

/// Edges this close to the best one, in ms, are answered beside it: clients try the next address when one does not answer.
const NEAR_TIE_MS: f64 = 10.0;
/// Edges in an answer.
const EDGES_MAX: usize = 3;
/// Addresses in an answer: so many IPv6 addresses stay below 512 bytes with the longest name.
const ADDRESSES_MAX: usize = 6;

/// Ranks edges for an address; must answer at once, from memory.
pub trait World: Send + Sync + 'static {
    fn choose(&self, client: IpAddr) -> Choice;
}

/// Edges for one client, best first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Choice {
    pub targets: Vec<Target>,
    /// Length of the network around the client's address for which the same holds: what an address database knows of it as one
    /// place. 0: the same for everybody.
    pub prefix: u8,
}

/// An edge in the order of preference.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub addresses: Vec<IpAddr>,
    /// As [`World`] reckons, lower is better.
    pub score_ms: f64,
}

impl Choice {
    /// The addresses of one family to answer with.
    ///
    /// Those of the best edge and of near ties. If none of them has IPv4, the best edge that does: somebody may have nothing else. Not
    /// so for IPv6: who has both would prefer it, and be sent far away by it.
    pub(crate) fn addresses(&self, ipv6: bool) -> Vec<IpAddr> {
        let usable = |target: &Target| target.addresses.iter().any(|one| one.is_ipv6() == ipv6);
        let best_ms = self.targets.first().map_or(0.0, |target| target.score_ms);
        let near = |target: &&Target| target.score_ms <= best_ms + NEAR_TIE_MS && usable(target);
        let mut chosen: Vec<&Target> = self.targets.iter().filter(near).take(EDGES_MAX).collect();
        if chosen.is_empty() && !ipv6 {
            chosen.extend(self.targets.iter().find(|target| usable(target)));
        }
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in chosen.into_iter().flat_map(|target| &target.addresses) {
            if address.is_ipv6() == ipv6 && !addresses.contains(address) && addresses.len() < ADDRESSES_MAX {
                addresses.push(*address);
            }
        }
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(targets: &[(&[&str], f64)]) -> Choice {
        let target = |(addresses, score_ms): &(&[&str], f64)| Target {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            score_ms: *score_ms,
        };
        Choice {
            targets: targets.iter().map(target).collect(),
            prefix: 24,
        }
    }

    fn texts(addresses: Vec<IpAddr>) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn near_ties_are_answered_beside_the_best_and_the_far_ones_are_not() {
        let choice = choice(&[(&["192.0.2.1"], 10.0), (&["192.0.2.2"], 19.0), (&["192.0.2.3"], 90.0)]);
        assert_eq!(texts(choice.addresses(false)), ["192.0.2.1", "192.0.2.2"]);
    }

    #[test]
    fn a_far_edge_stands_in_for_missing_ipv4_but_never_for_missing_ipv6() {
        let v6_near = choice(&[(&["2001:db8::1"], 10.0), (&["192.0.2.9", "2001:db8::9"], 200.0)]);
        assert_eq!(texts(v6_near.addresses(false)), ["192.0.2.9"]);
        assert_eq!(texts(v6_near.addresses(true)), ["2001:db8::1"]);
        let v4_near = choice(&[(&["192.0.2.1"], 10.0), (&["2001:db8::9"], 200.0)]);
        assert!(v4_near.addresses(true).is_empty());
    }

    #[test]
    fn an_edge_with_very_many_addresses_does_not_fill_the_answer() {
        let many: Vec<String> = (0..40).map(|last| format!("192.0.2.{last}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(choice(&[(&many, 1.0)]).addresses(false).len(), ADDRESSES_MAX);
    }
}
