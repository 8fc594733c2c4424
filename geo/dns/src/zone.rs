//! What exists in the zone and what does not: a pure function from a question to records.

use crate::config::DnsConfig;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HINFO, NS, SOA};
use hickory_proto::rr::{DNSClass, LowerName, Name, RData, Record, RecordType};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Seconds for which the zone's own records (SOA, NS, fixed addresses) hold.
const FIXED_TTL_S: u32 = 3600;
/// SOA timers for secondaries, which this zone does not have: its answers depend on who asks.
const REFRESH_S: i32 = 3600;
const RETRY_S: i32 = 600;
const EXPIRE_S: i32 = 86_400;

/// The zone as configured.
pub struct Zone {
    apex: LowerName,
    hostnames: Vec<LowerName>,
    hosts: BTreeMap<LowerName, Vec<IpAddr>>,
    aliases: BTreeMap<LowerName, Name>,
    name_servers: Vec<Name>,
    soa: Record,
    ttl_s: u32,
}

/// The content of a reply.
#[derive(Debug, Default)]
pub(crate) struct Content {
    pub(crate) code: ResponseCode,
    pub(crate) authoritative: bool,
    pub(crate) answers: Vec<Record>,
    pub(crate) authority: Vec<Record>,
    /// Length of the client's network for which it holds; 0: for everybody.
    pub(crate) scope: u8,
}

/// Addresses of edges for whoever asks, and the length of the network for which they hold.
pub(crate) type Edges = (Vec<IpAddr>, u8);

/// A name as an operator writes it, with or without the last dot.
pub(crate) fn parse_name(text: &str) -> Option<LowerName> {
    let labels = text.strip_suffix('.').unwrap_or(text);
    let host = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if labels.is_empty() || labels.len() > 253 || !labels.split('.').all(host) {
        return None;
    }
    let mut name = Name::from_ascii(labels).ok()?;
    name.set_fqdn(true);
    Some(LowerName::new(&name))
}

impl Zone {
    /// The zone of a configuration that [`DnsConfig::problems`] finds nothing wrong with; `None` otherwise. `serial` is the SOA's.
    pub fn new(config: &DnsConfig, serial: u32) -> Option<Zone> {
        let apex = parse_name(&config.zone)?;
        let name = |text: &String| parse_name(text);
        let name_servers: Vec<Name> = config.name_servers.iter().filter_map(name).map(Name::from).collect();
        let contact = match config.contact.as_str() {
            "" => Name::from_ascii("hostmaster")
                .ok()?
                .append_domain(&Name::from(&apex))
                .ok()?,
            contact => Name::from(parse_name(contact)?),
        };
        let soa = SOA::new(
            name_servers.first()?.clone(),
            contact,
            serial,
            REFRESH_S,
            RETRY_S,
            EXPIRE_S,
            config.ttl_s,
        );
        let hostnames = match config.hostnames.as_slice() {
            [] => vec![apex.clone()],
            names => names.iter().filter_map(name).collect(),
        };
        let hosts = config
            .hosts
            .iter()
            .filter_map(|(host, addresses)| Some((parse_name(host)?, addresses.clone())));
        let aliases = config
            .aliases
            .iter()
            .filter_map(|(alias, target)| Some((parse_name(alias)?, Name::from(parse_name(target)?))));
        Some(Zone {
            hosts: hosts.collect(),
            aliases: aliases.collect(),
            hostnames,
            name_servers,
            // A negative answer holds for the lesser of the SOA's TTL and its minimum (RFC 2308, 5).
            soa: Record::from_rdata(Name::from(&apex), config.ttl_s, RData::SOA(soa)),
            apex,
            ttl_s: config.ttl_s,
        })
    }

    /// Answers one question. `name` is the question's with its own capitals; `edges` is asked only for names of edges.
    pub(crate) fn answer(
        &self,
        name: &Name,
        class: DNSClass,
        kind: RecordType,
        edges: impl FnOnce(bool) -> Option<Edges>,
    ) -> Content {
        let lower = LowerName::new(name);
        let transfer = matches!(kind, RecordType::AXFR | RecordType::IXFR);
        if class != DNSClass::IN || !self.apex.zone_of(&lower) || transfer {
            return Content {
                code: ResponseCode::Refused,
                ..Content::default()
            };
        }
        let is_apex = lower == self.apex;
        let is_edges = self.hostnames.contains(&lower);
        let fixed = self.hosts.get(&lower);
        if let Some(target) = self.aliases.get(&lower) {
            let data = RData::CNAME(CNAME(target.clone()));
            return self.positive(vec![self.record(name, self.ttl_s, data)]);
        }
        match kind {
            RecordType::SOA if is_apex => self.positive(vec![self.soa_record()]),
            RecordType::NS if is_apex => {
                let record = |server: &Name| self.record(name, FIXED_TTL_S, RData::NS(NS(server.clone())));
                self.positive(self.name_servers.iter().map(record).collect())
            }
            RecordType::ANY if is_apex || is_edges || fixed.is_some() => {
                // RFC 8482, 4.2: one small record instead of all there is.
                let hinfo = HINFO::new("RFC8482".to_owned(), String::new());
                self.positive(vec![self.record(name, FIXED_TTL_S, RData::HINFO(hinfo))])
            }
            RecordType::A | RecordType::AAAA if is_edges => {
                let Some((addresses, scope)) = edges(kind == RecordType::AAAA) else {
                    // No edge is known at all, yet: another name server, or the same a little later, may know.
                    return Content {
                        code: ResponseCode::ServFail,
                        ..Content::default()
                    };
                };
                let content = match addresses.is_empty() {
                    true => self.negative(ResponseCode::NoError),
                    false => self.positive(self.addresses(name, self.ttl_s, &addresses)),
                };
                Content { scope, ..content }
            }
            RecordType::A | RecordType::AAAA if fixed.is_some() => {
                let ipv6 = kind == RecordType::AAAA;
                let all = fixed.into_iter().flatten();
                let addresses: Vec<IpAddr> = all.filter(|one| one.is_ipv6() == ipv6).copied().collect();
                match addresses.is_empty() {
                    true => self.negative(ResponseCode::NoError),
                    false => self.positive(self.addresses(name, FIXED_TTL_S, &addresses)),
                }
            }
            _ if self.exists(&lower) => self.negative(ResponseCode::NoError),
            _ => self.negative(ResponseCode::NXDomain),
        }
    }

    /// Whether a name is in the zone, be it only because another lies below it (RFC 8020).
    fn exists(&self, name: &LowerName) -> bool {
        let mut names = self
            .hostnames
            .iter()
            .chain(self.hosts.keys())
            .chain(self.aliases.keys());
        *name == self.apex || names.any(|known| name.zone_of(known))
    }

    fn positive(&self, answers: Vec<Record>) -> Content {
        Content {
            authoritative: true,
            answers,
            ..Content::default()
        }
    }

    fn negative(&self, code: ResponseCode) -> Content {
        Content {
            code,
            authoritative: true,
            authority: vec![self.soa_record()],
            ..Content::default()
        }
    }

    fn soa_record(&self) -> Record {
        self.soa.clone()
    }

    fn record(&self, name: &Name, ttl_s: u32, data: RData) -> Record {
        Record::from_rdata(name.clone(), ttl_s, data)
    }

    fn addresses(&self, name: &Name, ttl_s: u32, addresses: &[IpAddr]) -> Vec<Record> {
        let data = |address: &IpAddr| match address {
            IpAddr::V4(v4) => RData::A(A(*v4)),
            IpAddr::V6(v6) => RData::AAAA(AAAA(*v6)),
        };
        addresses
            .iter()
            .map(|address| self.record(name, ttl_s, data(address)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Zone {
        let config = DnsConfig {
            bind: vec!["127.0.0.1:0".parse().unwrap()],
            zone: "meridian.test".into(),
            hostnames: vec!["Join.meridian.test".into(), "a.b.meridian.test.".into()],
            name_servers: vec!["ns1.meridian.test".into(), "ns2.elsewhere.test".into()],
            hosts: [("ns1.meridian.test".to_owned(), vec!["192.0.2.53".parse().unwrap()])].into(),
            aliases: [(
                "_acme-challenge.join.meridian.test".to_owned(),
                "join.acme.test".to_owned(),
            )]
            .into(),
            ..DnsConfig::default()
        };
        assert_eq!(config.problems(), []);
        Zone::new(&config, 7).unwrap()
    }

    fn ask(name: &str, kind: RecordType) -> Content {
        let edges = |ipv6: bool| {
            let v4 = vec!["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
            Some((if ipv6 { vec![] } else { v4 }, 20))
        };
        zone().answer(&Name::from_ascii(name).unwrap(), DNSClass::IN, kind, edges)
    }

    fn soa_only(content: &Content) -> bool {
        content.authoritative
            && content.answers.is_empty()
            && content.authority.len() == 1
            && content.authority[0].record_type() == RecordType::SOA
            && content.authority[0].ttl == 30
    }

    #[test]
    fn the_join_hostname_has_edges_in_any_capitals_and_with_a_short_life() {
        let content = ask("jOIN.MERIDIAN.test.", RecordType::A);
        assert_eq!(
            (content.code, content.scope, content.answers.len()),
            (ResponseCode::NoError, 20, 2)
        );
        assert_eq!(
            (content.answers[0].ttl, content.answers[0].name.to_ascii().as_str()),
            (30, "jOIN.MERIDIAN.test.")
        );
        assert!(content.authority.is_empty(), "minimal");
    }

    #[test]
    fn a_name_without_such_records_is_not_a_name_that_does_not_exist() {
        for (name, kind) in [
            ("join.meridian.test.", RecordType::AAAA),
            ("join.meridian.test.", RecordType::CAA),
            ("meridian.test.", RecordType::A),
            ("ns1.meridian.test.", RecordType::AAAA),
            ("ns1.meridian.test.", RecordType::NS),
            ("b.meridian.test.", RecordType::A), // only because a.b is there
            ("b.meridian.test.", RecordType::ANY),
        ] {
            let content = ask(name, kind);
            assert_eq!(content.code, ResponseCode::NoError, "{name} {kind}");
            assert!(soa_only(&content), "{name} {kind}");
        }
        let content = ask("nobody.meridian.test.", RecordType::A);
        assert_eq!(content.code, ResponseCode::NXDomain);
        assert!(soa_only(&content));
        assert_eq!(ask("x.join.meridian.test.", RecordType::A).code, ResponseCode::NXDomain);
    }

    #[test]
    fn what_is_outside_or_would_copy_the_zone_is_refused() {
        for (name, kind) in [
            ("example.test.", RecordType::A),
            ("test.", RecordType::SOA),
            (".", RecordType::NS),
            ("xmeridian.test.", RecordType::A),
            ("meridian.test.", RecordType::AXFR),
            ("meridian.test.", RecordType::IXFR),
        ] {
            let content = ask(name, kind);
            assert_eq!(
                (content.code, content.authoritative),
                (ResponseCode::Refused, false),
                "{name} {kind}"
            );
            assert!(content.answers.is_empty() && content.authority.is_empty());
        }
        let version = Name::from_ascii("version.bind.").unwrap();
        let content = zone().answer(&version, DNSClass::CH, RecordType::TXT, |_| None);
        assert_eq!(content.code, ResponseCode::Refused);
    }

    #[test]
    fn any_is_answered_with_one_small_record() {
        let content = ask("join.meridian.test.", RecordType::ANY);
        assert_eq!(content.answers.len(), 1);
        assert_eq!(content.answers[0].record_type(), RecordType::HINFO);
    }

    #[test]
    fn the_apex_has_soa_and_name_servers_and_the_name_server_its_address() {
        let soa = ask("meridian.test.", RecordType::SOA);
        assert!(
            soa.answers[0]
                .data
                .to_string()
                .starts_with("ns1.meridian.test. hostmaster.meridian.test. 7 ")
        );
        assert_eq!(ask("meridian.test.", RecordType::NS).answers.len(), 2);
        assert_eq!(
            ask("ns1.meridian.test.", RecordType::A).answers[0].data.to_string(),
            "192.0.2.53"
        );
    }

    #[test]
    fn an_alias_stands_for_a_name_elsewhere_whatever_is_asked() {
        for kind in [RecordType::TXT, RecordType::A, RecordType::CNAME, RecordType::ANY] {
            let content = ask("_acme-challenge.join.meridian.test.", kind);
            assert_eq!(content.answers[0].data.to_string(), "join.acme.test.", "{kind}");
        }
    }

    #[test]
    fn while_no_edge_was_ever_known_another_server_may_be_asked() {
        let name = Name::from_ascii("join.meridian.test.").unwrap();
        let content = zone().answer(&name, DNSClass::IN, RecordType::A, |_| None);
        assert_eq!(content.code, ResponseCode::ServFail);
    }
}
