//! The server on loopback, asked by others' software: hickory-resolver, and `dig` of bind9-dnsutils.

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RecordType;
use hickory_resolver::{Resolver, TokioResolver};
use meridian_geodns::{Choice, DnsConfig, DnsError, GeoDns, Target, World};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

/// 81.0.0.0/8 is near 192.0.2.81, everybody else near 192.0.2.1.
struct Two;

impl World for Two {
    fn choose(&self, client: IpAddr) -> Choice {
        let near = matches!(client, IpAddr::V4(v4) if v4.octets()[0] == 81);
        let target = |last: u8, score_ms| Target {
            addresses: vec![
                IpAddr::from([192, 0, 2, last]),
                IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)]),
            ],
            score_ms,
        };
        let (first, second) = if near { (81, 1) } else { (1, 81) };
        Choice {
            targets: vec![target(first, 10.0), target(second, 80.0)],
            prefix: 16,
        }
    }
}

fn config(responses_per_second: u32) -> DnsConfig {
    DnsConfig {
        bind: vec!["127.0.0.1:0".parse().unwrap()],
        zone: "meridian.test".into(),
        hostnames: vec!["join.meridian.test".into()],
        name_servers: vec!["ns1.meridian.test".into()],
        hosts: [("ns1.meridian.test".to_owned(), vec!["127.0.0.1".parse().unwrap()])].into(),
        responses_per_second,
        ..DnsConfig::default()
    }
}

fn resolver(server: SocketAddr, protocols: &[ConnectionConfig]) -> TokioResolver {
    let connections = protocols.iter().cloned().map(|mut connection| {
        connection.port = server.port();
        connection
    });
    let name_server = NameServerConfig::new(server.ip(), true, connections.collect());
    let config = ResolverConfig::from_name_servers(vec![name_server]);
    let mut options = ResolverOpts::default();
    options.cache_size = 0;
    Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
        .unwrap()
}

#[tokio::test]
async fn a_resolver_finds_the_edge_by_udp_and_by_tcp() {
    let server = GeoDns::start(&config(1000), Two).await.unwrap();
    for protocol in [ConnectionConfig::udp(), ConnectionConfig::tcp()] {
        let resolver = resolver(server.addresses()[0], &[protocol]);
        let found = resolver.lookup_ip("join.meridian.test.").await.unwrap();
        let found: Vec<IpAddr> = found.iter().collect();
        assert!(found.contains(&"192.0.2.1".parse().unwrap()), "{found:?}");
        assert!(
            !found.contains(&"192.0.2.81".parse().unwrap()),
            "the far one is not answered"
        );
        let missing = resolver.lookup("no.meridian.test.", RecordType::A).await.unwrap_err();
        assert!(missing.is_nx_domain(), "{missing}");
        let nothing = resolver
            .lookup("join.meridian.test.", RecordType::TXT)
            .await
            .unwrap_err();
        assert!(nothing.is_no_records_found() && !nothing.is_nx_domain(), "{nothing}");
    }
}

#[tokio::test]
async fn a_resolver_over_its_rate_is_sent_to_tcp_and_answered_there() {
    let server = GeoDns::start(&config(1), Two).await.unwrap();
    let resolver = resolver(
        server.addresses()[0],
        &[ConnectionConfig::udp(), ConnectionConfig::tcp()],
    );
    // The second of a second is told to come by TCP; both are answered.
    for _ in 0..2 {
        resolver.lookup("join.meridian.test.", RecordType::A).await.unwrap();
    }
    let metrics = server.render_metrics();
    assert!(
        metrics.contains("meridian_dns_rate_limited_total{outcome=\"tcp\"} 1"),
        "{metrics}"
    );
    assert!(
        metrics.contains("meridian_dns_queries_total{transport=\"tcp\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn who_asks_one_of_many_addresses_is_answered_from_that_one() {
    for (wildcard, asked) in [("0.0.0.0:0", "127.0.0.2"), ("[::]:0", "::1")] {
        let config = DnsConfig {
            bind: vec![wildcard.parse().unwrap()],
            ..config(1000)
        };
        let server = GeoDns::start(&config, Two).await.unwrap();
        let asked = SocketAddr::new(asked.parse().unwrap(), server.addresses()[0].port());
        // Its socket takes datagrams from the address that it asked only.
        let resolver = resolver(asked, &[ConnectionConfig::udp()]);
        resolver.lookup("join.meridian.test.", RecordType::A).await.unwrap();
    }
}

fn dig(server: SocketAddr, arguments: &str) -> String {
    let output = Command::new("dig")
        .args(["@127.0.0.1", "-p", &server.port().to_string(), "+tries=1", "+time=5"])
        .args(arguments.split(' '))
        .output()
        .expect("dig is in bind9-dnsutils");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn dig_reads_every_kind_of_answer() {
    let server = GeoDns::start(&config(1000), Two).await.unwrap();
    let server = server.addresses()[0];
    let near = dig(server, "join.meridian.test A +subnet=81.2.69.0/24");
    assert!(
        near.contains("192.0.2.81") && near.contains("CLIENT-SUBNET: 81.2.69.0/24/16"),
        "{near}"
    );
    assert!(
        near.contains("flags: qr aa rd;") && near.contains("ANSWER: 1, AUTHORITY: 0"),
        "{near}"
    );
    let v6 = dig(server, "join.meridian.test AAAA +subnet=81.2.69.160/32 +tcp");
    assert!(
        v6.contains("2001:db8::51") && v6.contains("CLIENT-SUBNET: 81.2.69.160/32/16"),
        "{v6}"
    );
    let nobody = dig(server, "join.meridian.test A +subnet=0");
    assert!(nobody.contains("192.0.2.1\n") && nobody.contains("NOERROR"), "{nobody}");
    for (arguments, expected) in [
        ("nobody.meridian.test A", "status: NXDOMAIN"),
        ("join.meridian.test MX", "status: NOERROR"),
        ("example.org A", "status: REFUSED"),
        ("meridian.test AXFR", "Transfer failed"),
        (
            "meridian.test SOA +short",
            "ns1.meridian.test. hostmaster.meridian.test.",
        ),
        ("meridian.test NS +short", "ns1.meridian.test."),
        ("ns1.meridian.test A +short", "127.0.0.1"),
        ("join.meridian.test ANY +notcp", "\"RFC8482\""),
        ("version.bind TXT CH", "status: REFUSED"),
        ("join.meridian.test A +edns=1 +noednsnegotiation", "status: BADVERS"),
        ("join.meridian.test A +noedns", "192.0.2.1"),
        ("join.meridian.test A +opcode=notify", "status: NOTIMP"),
    ] {
        let text = dig(server, arguments);
        assert!(text.contains(expected), "dig {arguments}: {text}");
        assert!(
            !text.contains("Warning") && !text.contains("WARNING: Message"),
            "dig {arguments}: {text}"
        );
    }
}

#[tokio::test]
async fn a_port_that_is_taken_and_a_bad_zone_are_named() {
    let first = GeoDns::start(&config(10), Two).await.unwrap();
    let taken = DnsConfig {
        bind: first.addresses().to_vec(),
        ..config(10)
    };
    let error = GeoDns::start(&taken, Two).await.err().unwrap();
    assert!(
        matches!(error, DnsError::Listen { .. }) && error.to_string().contains("dns.bind"),
        "{error}"
    );
    let bad = DnsConfig {
        zone: "..".into(),
        ..config(10)
    };
    assert!(
        GeoDns::start(&bad, Two)
            .await
            .err()
            .unwrap()
            .to_string()
            .starts_with("dns.zone: ")
    );
}
