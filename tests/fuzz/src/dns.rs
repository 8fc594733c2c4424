//! GeoDNS: whoever can send a datagram.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use meridian_geodns::{Choice, DnsConfig, Responder, Target, Transport, UDP_BYTES_MAX, World};

use crate::{joined, messages};

struct One;

impl World for One {
    fn choose(&self, _: IpAddr) -> Choice {
        Choice {
            targets: vec![Target {
                addresses: vec![[192, 0, 2, 1].into(), [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into()],
                score_ms: 1.0,
            }],
            prefix: 20,
        }
    }
}

/// Messages to one server: replies answer what was asked, and keep to their limits.
pub(crate) fn queries(input: &[u8]) {
    let config = DnsConfig {
        bind: vec![([127, 0, 0, 1], 53).into()],
        zone: "meridian.test".to_owned(),
        hostnames: vec!["join.meridian.test".to_owned()],
        name_servers: vec!["ns1.example.test".to_owned()],
        ..DnsConfig::default()
    };
    let Some(responder) = Responder::new(&config, 1, Box::new(One)) else {
        panic!("the zone is good");
    };
    let (source, now) = (IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), Instant::now());
    for message in messages(input) {
        for transport in [Transport::Udp, Transport::Tcp] {
            let Some(reply) = responder.respond(message, source, transport, now) else {
                continue;
            };
            assert!(message[2] & 0x80 == 0, "an answer to an answer");
            assert!(reply.len() >= 12 && reply[..2] == message[..2] && reply[2] & 0x80 != 0);
            if transport == Transport::Udp {
                assert!(reply.len() <= usize::from(UDP_BYTES_MAX), "{} bytes", reply.len());
            }
        }
    }
}

pub(crate) fn query_seeds() -> Vec<Vec<u8>> {
    let ask = |name: &[&str], kind: u8, options: Option<&[u8]>| {
        let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(options.is_some())];
        for label in name {
            query.push(label.len() as u8);
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, kind, 0, 1]);
        if let Some(options) = options {
            query.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, options.len() as u8]);
            query.extend(options);
        }
        query
    };
    let join = ["join", "meridian", "test"];
    let subnet = [0, 8, 0, 7, 0, 1, 24, 0, 81, 2, 69];
    let a = ask(&join, 1, None);
    let near = ask(&join, 28, Some(&subnet));
    let any = ask(&join[1..], 255, Some(&[]));
    let outside = ask(&["example", "org"], 6, Some(&[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]));
    vec![joined([&a[..], &near, &any, &outside]), joined([&near[..]])]
}
