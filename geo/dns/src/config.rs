//! The keys of `[dns]`: what each means, its unit and its range.

use crate::zone::parse_name;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Addresses of one name, and names: what stays far below 512 bytes with room to spare.
const NAMES_MAX: usize = 8;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsConfig {
    /// Where DNS is served, UDP and TCP each. Empty: not at all.
    pub bind: Vec<SocketAddr>,
    /// The zone that is delegated to this server: the join hostname itself, or a domain above it.
    pub zone: String,
    /// Names that are answered with edges, each in the zone. Empty: the zone's own name.
    pub hostnames: Vec<String>,
    /// The zone's name servers, as the parent zone's NS records have them. The first one stands in the SOA.
    pub name_servers: Vec<String>,
    /// Fixed addresses of further names in the zone: of name servers, if they are named in it.
    pub hosts: BTreeMap<String, Vec<IpAddr>>,
    /// Names in the zone that stand for names elsewhere (CNAME): `_acme-challenge` of the hostname, answered where certificates are made.
    pub aliases: BTreeMap<String, String>,
    /// Who cares for the zone, in the SOA: `hostmaster.example.org` stands for hostmaster@example.org. Empty: hostmaster of the zone.
    pub contact: String,
    /// Seconds for which resolvers may keep an answer, and the fact that there is none. 1 to 3600.
    pub ttl_s: u32,
    /// UDP replies a second to one source network (IPv4 /24, IPv6 /56); beyond, every other one says "ask by TCP", the rest is silence.
    pub responses_per_second: u32,
    /// TCP connections at once. 1 to 10000.
    pub tcp_connections_max: usize,
}

impl Default for DnsConfig {
    fn default() -> Self {
        DnsConfig {
            bind: Vec::new(),
            zone: String::new(),
            hostnames: Vec::new(),
            name_servers: Vec::new(),
            hosts: BTreeMap::new(),
            aliases: BTreeMap::new(),
            contact: String::new(),
            ttl_s: 30,
            responses_per_second: 100,
            tcp_connections_max: 256,
        }
    }
}

impl DnsConfig {
    /// Whether a server is wanted.
    pub fn is_on(&self) -> bool {
        !self.bind.is_empty()
    }

    /// Values that make no sense, as (key, what it should be).
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        if !self.is_on() {
            return problems;
        }
        let mut require = |holds: bool, key: &str, message: String| {
            if !holds {
                problems.push((key.to_owned(), message));
            }
        };
        let zone = parse_name(&self.zone);
        require(
            zone.as_ref().is_some_and(|zone| !zone.is_root()),
            "zone",
            "must be the domain that is delegated to this server, for example \"join.example.org\"".to_owned(),
        );
        let inside = |name: &str| {
            let name = parse_name(name);
            zone.as_ref().zip(name).is_some_and(|(zone, name)| zone.zone_of(&name))
        };
        require(
            self.hostnames.len() <= NAMES_MAX,
            "hostnames",
            format!("at most {NAMES_MAX}"),
        );
        for name in &self.hostnames {
            require(inside(name), "hostnames", format!("`{name}` is no name in the zone"));
        }
        require(
            (1..=NAMES_MAX).contains(&self.name_servers.len()),
            "name_servers",
            format!("needs 1 to {NAMES_MAX} names, those of the delegation's NS records"),
        );
        for name in &self.name_servers {
            require(
                parse_name(name).is_some(),
                "name_servers",
                format!("`{name}` is no host name"),
            );
            require(
                !inside(name) || self.hosts.contains_key(name),
                "hosts",
                format!("the name server `{name}` lies in the zone, so its addresses must stand here"),
            );
        }
        for (name, addresses) in &self.hosts {
            require(inside(name), "hosts", format!("`{name}` is no name in the zone"));
            require(
                (1..=NAMES_MAX).contains(&addresses.len()),
                "hosts",
                format!("`{name}` needs 1 to {NAMES_MAX} addresses"),
            );
        }
        for (name, target) in &self.aliases {
            let taken = self.hosts.contains_key(name) || self.hostnames.contains(name) || *name == self.zone;
            require(
                inside(name) && !taken,
                "aliases",
                format!("`{name}` must be a name in the zone that has nothing else"),
            );
            require(
                parse_name(target).is_some(),
                "aliases",
                format!("`{target}` is no domain name"),
            );
        }
        require(
            self.contact.is_empty() || parse_name(&self.contact).is_some(),
            "contact",
            "is no domain name; hostmaster@example.org is written \"hostmaster.example.org\"".to_owned(),
        );
        require(
            (1..=3600).contains(&self.ttl_s),
            "ttl_s",
            "must be 1 to 3600 seconds".to_owned(),
        );
        require(
            (1..=1_000_000).contains(&self.responses_per_second),
            "responses_per_second",
            "must be 1 to 1000000".to_owned(),
        );
        require(
            (1..=10_000).contains(&self.tcp_connections_max),
            "tcp_connections_max",
            "must be 1 to 10000".to_owned(),
        );
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> DnsConfig {
        DnsConfig {
            bind: vec!["127.0.0.1:0".parse().unwrap()],
            zone: "join.meridian.test".into(),
            name_servers: vec!["ns1.meridian.test".into()],
            ..DnsConfig::default()
        }
    }

    #[test]
    fn a_zone_and_a_name_server_are_enough_and_nothing_is_asked_while_it_is_off() {
        assert_eq!(good().problems(), []);
        assert_eq!(DnsConfig::default().problems(), []);
    }

    #[test]
    fn what_makes_no_sense_is_named_by_its_key() {
        let key = |change: fn(&mut DnsConfig)| {
            let mut config = good();
            change(&mut config);
            config
                .problems()
                .first()
                .map(|(key, _)| key.clone())
                .unwrap_or_default()
        };
        assert_eq!(key(|config| config.zone = "no spaces here".into()), "zone");
        assert_eq!(key(|config| config.zone = String::new()), "zone");
        assert_eq!(
            key(|config| config.hostnames = vec!["join.elsewhere.test".into()]),
            "hostnames"
        );
        assert_eq!(key(|config| config.name_servers = vec![]), "name_servers");
        assert_eq!(
            key(|config| config.name_servers = vec!["ns1.join.meridian.test".into()]),
            "hosts"
        );
        let alias = |name: &str| [(name.to_owned(), "elsewhere.test".to_owned())].into();
        let mut taken = good();
        taken.aliases = alias("join.meridian.test");
        assert_eq!(taken.problems()[0].0, "aliases", "a CNAME stands alone");
        assert_eq!(key(|config| config.ttl_s = 0), "ttl_s");
        assert_eq!(key(|config| config.contact = "a@b".into()), "contact");
    }
}
