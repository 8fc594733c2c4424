//! Whatever comes in: no panic, no answer to what is no query, and no answer larger than the limits.

use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsOption};
use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use meridian_geodns::{Choice, DnsConfig, Responder, Target, Transport, UDP_BYTES_MAX, World};
use proptest::prelude::*;
use std::net::IpAddr;
use std::time::Instant;

/// Each /8 of IPv4 has an edge of its own with many addresses; IPv6 has one.
struct Everywhere;

impl World for Everywhere {
    fn choose(&self, client: IpAddr) -> Choice {
        let addresses = match client {
            IpAddr::V4(v4) => (0..20)
                .map(|last| IpAddr::from([192, 0, v4.octets()[0], last]))
                .collect(),
            IpAddr::V6(_) => vec![IpAddr::from([192, 0, 2, 6])],
        };
        let v6 = (0..20).map(|last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]));
        Choice {
            targets: vec![Target {
                addresses: v6.chain(addresses).collect(),
                score_ms: 1.0,
            }],
            prefix: 8,
        }
    }
}

fn responder() -> Responder {
    let config = DnsConfig {
        bind: vec!["127.0.0.1:0".parse().unwrap()],
        zone: "meridian.test".into(),
        hostnames: vec!["join.meridian.test".into()],
        name_servers: (1..=8)
            .map(|n| format!("a-name-server-with-a-rather-long-name-{n}.some-other-domain-{n}.test"))
            .collect(),
        responses_per_second: 1_000_000,
        ..DnsConfig::default()
    };
    assert_eq!(config.problems(), []);
    Responder::new(&config, 1, Box::new(Everywhere)).unwrap()
}

fn query(name: &str, kind: RecordType, edns: Option<(u16, Option<&str>)>) -> Vec<u8> {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.edns = edns.map(|(payload, subnet)| {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        if let Some(subnet) = subnet {
            edns.options_mut()
                .insert(EdnsOption::Subnet(subnet.parse::<ClientSubnet>().unwrap()));
        }
        edns
    });
    message.to_vec().unwrap()
}

fn ask(responder: &Responder, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
    responder.respond(packet, "203.0.113.9".parse().unwrap(), transport, Instant::now())
}

fn addresses(reply: &[u8]) -> Vec<String> {
    let reply = Message::from_vec(reply).unwrap();
    reply.answers.iter().map(|record| record.data.to_string()).collect()
}

#[test]
fn the_subnet_decides_before_the_resolvers_address_and_comes_back_with_its_scope() {
    let responder = responder();
    let by_resolver = ask(
        &responder,
        &query("join.meridian.test.", RecordType::A, None),
        Transport::Udp,
    )
    .unwrap();
    assert_eq!(addresses(&by_resolver)[0], "192.0.203.0");
    let packet = query("join.meridian.test.", RecordType::A, Some((1232, Some("81.2.69.0/24"))));
    let by_subnet = ask(&responder, &packet, Transport::Udp).unwrap();
    assert_eq!(addresses(&by_subnet)[0], "192.0.81.0");
    let edns = Message::from_vec(&by_subnet).unwrap().edns.unwrap();
    let Some(EdnsOption::Subnet(subnet)) = edns.options().as_ref().iter().map(|(_, option)| option).next() else {
        panic!("no subnet in the reply");
    };
    assert_eq!(
        (
            subnet.addr().to_string().as_str(),
            subnet.source_prefix(),
            subnet.scope_prefix()
        ),
        ("81.2.69.0", 24, 8)
    );
    assert_eq!(edns.max_payload(), UDP_BYTES_MAX);
}

#[test]
fn what_does_not_fit_is_asked_for_by_tcp() {
    let responder = responder();
    let packet = query("meridian.test.", RecordType::NS, None);
    let cut = Message::from_vec(&ask(&responder, &packet, Transport::Udp).unwrap()).unwrap();
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    let whole = Message::from_vec(&ask(&responder, &packet, Transport::Tcp).unwrap()).unwrap();
    assert!(!whole.metadata.truncation && whole.answers.len() == 8);
    let larger = query("meridian.test.", RecordType::NS, Some((4096, None)));
    let larger = Message::from_vec(&ask(&responder, &larger, Transport::Udp).unwrap()).unwrap();
    assert!(!larger.metadata.truncation && larger.answers.len() == 8);
}

#[test]
fn who_is_over_the_rate_hears_no_more_than_was_asked() {
    let config = DnsConfig {
        bind: vec!["127.0.0.1:0".parse().unwrap()],
        zone: "meridian.test".into(),
        name_servers: vec!["ns.example.test".into()],
        responses_per_second: 2,
        ..DnsConfig::default()
    };
    let (responder, now) = (
        Responder::new(&config, 1, Box::new(Everywhere)).unwrap(),
        Instant::now(),
    );
    let packet = query("meridian.test.", RecordType::A, Some((1232, Some("81.2.69.0/24"))));
    let source = "198.51.100.7".parse().unwrap();
    let sent: Vec<Option<Vec<u8>>> = (0..6)
        .map(|_| responder.respond(&packet, source, Transport::Udp, now))
        .collect();
    assert!(sent[0].is_some() && sent[1].is_some() && sent[3].is_none() && sent[5].is_none());
    for slip in [&sent[2], &sent[4]] {
        let slip = slip.as_ref().unwrap();
        let message = Message::from_vec(slip).unwrap();
        assert!(message.metadata.truncation && message.answers.is_empty() && slip.len() <= packet.len());
    }
    assert!(
        responder.respond(&packet, source, Transport::Tcp, now).is_some(),
        "TCP gets through"
    );
}

#[test]
fn other_versions_of_edns_and_other_operations_are_told_so() {
    let responder = responder();
    let mut message = Message::from_vec(&query("join.meridian.test.", RecordType::A, Some((1232, None)))).unwrap();
    message.edns.as_mut().unwrap().set_version(1);
    let reply = ask(&responder, &message.to_vec().unwrap(), Transport::Udp).unwrap();
    // BADSIG, to some, has the same number.
    let code = u16::from(Message::from_vec(&reply).unwrap().metadata.response_code);
    assert_eq!(code, u16::from(ResponseCode::BADVERS));
    message.metadata.op_code = OpCode::Notify;
    let reply = ask(&responder, &message.to_vec().unwrap(), Transport::Udp).unwrap();
    assert_eq!(
        Message::from_vec(&reply).unwrap().metadata.response_code,
        ResponseCode::NotImp
    );
    message.metadata.message_type = MessageType::Response;
    assert_eq!(ask(&responder, &message.to_vec().unwrap(), Transport::Udp), None);
}

#[test]
fn a_refusal_carries_opt_if_the_query_did() {
    let responder = responder();
    let opt = |packet: &[u8], code| {
        let reply = ask(&responder, packet, Transport::Udp).unwrap();
        assert!(reply.len() <= packet.len());
        let reply = Message::from_vec(&reply).unwrap();
        assert_eq!(reply.metadata.response_code, code);
        reply.edns.map(|edns| edns.max_payload())
    };
    for edns in [None, Some((4096, None))] {
        let carried = edns.map(|_| UDP_BYTES_MAX);
        let good = query("join.meridian.test.", RecordType::A, edns);
        let mut message = Message::from_vec(&good).unwrap();
        message.metadata.op_code = OpCode::Notify;
        assert_eq!(opt(&message.to_vec().unwrap(), ResponseCode::NotImp), carried);
        message.metadata.op_code = OpCode::Query;
        message.add_query(message.queries[0].clone());
        assert_eq!(opt(&message.to_vec().unwrap(), ResponseCode::FormErr), carried);
    }
    // A subnet of family 0x7f01.
    let mut bad = query("join.meridian.test.", RecordType::A, Some((1232, Some("192.0.2.0/24"))));
    let family = bad.len() - 7;
    bad[family] = 0x7f;
    assert_eq!(opt(&bad, ResponseCode::FormErr), Some(UDP_BYTES_MAX));
}

/// A real query with some bytes changed, some added, or cut short.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let names = prop::sample::select(vec![
        "join.meridian.test.",
        "meridian.test.",
        "x.meridian.test.",
        "other.test.",
        ".",
    ]);
    let kinds = prop::sample::select(vec![
        RecordType::A,
        RecordType::AAAA,
        RecordType::ANY,
        RecordType::NS,
        RecordType::SOA,
        RecordType::AXFR,
    ]);
    let subnets = prop::sample::select(vec![None, Some("81.2.69.0/24"), Some("2001:db8::/48")]);
    let edns = prop::option::of((any::<u16>(), subnets));
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let tail = prop::collection::vec(any::<u8>(), 0..40);
    (
        names,
        kinds,
        edns,
        changes,
        tail,
        any::<prop::sample::Index>(),
        any::<bool>(),
    )
        .prop_map(|(name, kind, edns, changes, tail, cut, shorten)| {
            let mut packet = query(name, kind, edns);
            for (at, byte) in changes {
                let at = at.index(packet.len());
                packet[at] = byte;
            }
            packet.extend(tail);
            if shorten {
                packet.truncate(cut.index(packet.len()));
            }
            packet
        })
}

fn check(responder: &Responder, packet: &[u8]) -> Result<(), TestCaseError> {
    for transport in [Transport::Udp, Transport::Tcp] {
        let Some(reply) = ask(responder, packet, transport) else {
            continue;
        };
        let asked = Header::read(&mut BinDecoder::new(packet)).unwrap();
        let header = Header::read(&mut BinDecoder::new(&reply)).unwrap();
        prop_assert_eq!(asked.metadata.message_type, MessageType::Query);
        prop_assert_eq!(header.metadata.message_type, MessageType::Response);
        prop_assert_eq!(header.metadata.id, asked.metadata.id);
        prop_assert!(Message::from_vec(&reply).is_ok(), "a reply that nobody can read");
        let limit = match transport {
            Transport::Udp if asked.counts.additionals == 0 => 512,
            Transport::Udp => usize::from(UDP_BYTES_MAX),
            Transport::Tcp => usize::from(u16::MAX),
        };
        prop_assert!(reply.len() <= limit, "{} bytes", reply.len());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_survived_and_answers_keep_to_their_limits(packet in prop::collection::vec(any::<u8>(), 0..600)) {
        check(&responder(), &packet)?;
    }

    #[test]
    fn damaged_queries_are_survived_and_answers_keep_to_their_limits(packet in damaged()) {
        check(&responder(), &packet)?;
    }
}
