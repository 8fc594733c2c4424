//! The whole server without sockets: one message in, at most one out.

use crate::config::DnsConfig;
use crate::query::{ClientEdns, Query, Refused};
use crate::rate::{RateLimit, Verdict};
use crate::subnet::Subnet;
use crate::world::World;
use crate::zone::{Content, Zone};
use hickory_proto::op::{Edns, Header, Metadata, ResponseCode};
use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::serialize::binary::{BinDecoder, BinEncoder};
use hickory_server::zone_handler::{MessageResponseBuilder, Queries};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The largest reply by UDP, in bytes, whatever the client says it takes: it crosses every path in one piece.
pub const UDP_BYTES_MAX: u16 = 1232;
/// The largest reply by UDP to who does not speak EDNS (RFC 1035, 4.2.1).
const UDP_BYTES_PLAIN: u16 = 512;
const OPTION_CLIENT_SUBNET: u16 = 8;

/// How a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// Answers messages. Shared by all sockets.
pub struct Responder {
    zone: Zone,
    world: Box<dyn World>,
    rate: Mutex<RateLimit>,
    counters: Counters,
}

/// What has happened since the start.
#[derive(Default)]
struct Counters {
    udp: AtomicU64,
    tcp: AtomicU64,
    refused: AtomicU64,
    malformed: AtomicU64,
    slipped: AtomicU64,
    silenced: AtomicU64,
}

impl Responder {
    /// `None` for a configuration that [`DnsConfig::problems`] finds fault with.
    pub fn new(config: &DnsConfig, serial: u32, world: Box<dyn World>) -> Option<Responder> {
        Some(Responder {
            zone: Zone::new(config, serial)?,
            world,
            rate: Mutex::new(RateLimit::new(config.responses_per_second)),
            counters: Counters::default(),
        })
    }

    /// The reply to `packet` from `source`, if it gets one. By UDP it is at most [`UDP_BYTES_MAX`] long and counted against the rate of
    /// the source's network.
    pub fn respond(&self, packet: &[u8], source: IpAddr, transport: Transport, now: Instant) -> Option<Vec<u8>> {
        let counters = &self.counters;
        count(match transport {
            Transport::Udp => &counters.udp,
            Transport::Tcp => &counters.tcp,
        });
        let query = Query::parse(packet);
        if matches!(query, Err(Refused::Silence)) {
            count(&counters.malformed);
            return None;
        }
        let verdict = match transport {
            // Whoever completed a TCP handshake is who he says.
            Transport::Tcp => Verdict::Answer,
            Transport::Udp => self
                .rate
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(source, now),
        };
        if verdict == Verdict::Silence {
            count(&counters.silenced);
            return None;
        }
        match query {
            Err(Refused::Silence) => None,
            Err(Refused::Code(header, code, edns)) => {
                count(&counters.malformed);
                header_only(&header, code, edns.as_ref())
            }
            Ok(query) if verdict == Verdict::Slip => {
                count(&counters.slipped);
                Reply::new(&query, Content::default()).truncated()
            }
            Ok(query) => {
                let content = self.content(&query, source);
                if content.code == ResponseCode::Refused {
                    count(&counters.refused);
                }
                Reply::new(&query, content).encode(bytes_max(&query, transport))
            }
        }
    }

    fn content(&self, query: &Query, source: IpAddr) -> Content {
        let code = |code| Content {
            code,
            ..Content::default()
        };
        if query.edns.as_ref().is_some_and(|edns| edns.version > 0) {
            return code(ResponseCode::BADVERS);
        }
        let Some(question) = query.question.queries().first() else {
            return code(ResponseCode::FormErr);
        };
        let client = query.subnet().and_then(Subnet::client);
        let edges = |ipv6| {
            let choice = self.world.choose(client.unwrap_or(source).to_canonical());
            (!choice.targets.is_empty()).then(|| (choice.addresses(ipv6), choice.prefix))
        };
        let name = question.original().name();
        self.zone
            .answer(name, question.query_class(), question.query_type(), edges)
    }

    /// What was counted, in Prometheus' text format.
    pub(crate) fn render_metrics(&self) -> String {
        let of = &self.counters;
        let families = [
            (
                "meridian_dns_queries_total",
                "Queries, by transport.",
                vec![("{transport=\"udp\"}", &of.udp), ("{transport=\"tcp\"}", &of.tcp)],
            ),
            (
                "meridian_dns_refused_total",
                "Queries for names outside of the zone.",
                vec![("", &of.refused)],
            ),
            (
                "meridian_dns_malformed_total",
                "Queries that could not be read.",
                vec![("", &of.malformed)],
            ),
            (
                "meridian_dns_rate_limited_total",
                "Queries beyond the rate limit, by what they got.",
                vec![
                    ("{outcome=\"tcp\"}", &of.slipped),
                    ("{outcome=\"silence\"}", &of.silenced),
                ],
            ),
        ];
        let mut text = String::new();
        for (name, help, counters) in families {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
            for (labels, counter) in counters {
                let _ = writeln!(text, "{name}{labels} {}", counter.load(Ordering::Relaxed));
            }
        }
        text
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn bytes_max(query: &Query, transport: Transport) -> u16 {
    match (transport, &query.edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, None) => UDP_BYTES_PLAIN,
        (Transport::Udp, Some(edns)) => edns.payload.clamp(UDP_BYTES_PLAIN, UDP_BYTES_MAX),
    }
}

impl Query {
    fn subnet(&self) -> Option<&Subnet> {
        self.edns.as_ref()?.subnet.as_ref()
    }
}

/// A reply to one query.
struct Reply<'q> {
    question: &'q Queries,
    metadata: Metadata,
    edns: Option<Edns>,
    content: Content,
}

impl<'q> Reply<'q> {
    fn new(query: &'q Query, content: Content) -> Self {
        let mut metadata = Metadata::response_from_request(&query.header.metadata);
        metadata.response_code = content.code;
        metadata.authoritative = content.authoritative;
        // Nothing here is signed or recursed; RFC 4035, 3.1.6 has servers clear what they do not understand.
        metadata.checking_disabled = false;
        Reply {
            question: &query.question,
            metadata,
            edns: query.edns.as_ref().map(|edns| server_edns(edns, content.scope)),
            content,
        }
    }

    /// The reply in at most `bytes_max`; without records and with TC set if they do not fit.
    fn encode(&self, bytes_max: u16) -> Option<Vec<u8>> {
        let (truncated, bytes) = self.emit(bytes_max, &self.content.answers, &self.content.authority, false)?;
        if truncated { self.truncated() } else { Some(bytes) }
    }

    fn truncated(&self) -> Option<Vec<u8>> {
        self.emit(UDP_BYTES_PLAIN, &[], &[], true).map(|(_, bytes)| bytes)
    }

    fn emit(&self, bytes_max: u16, answers: &[Record], authority: &[Record], cut: bool) -> Option<(bool, Vec<u8>)> {
        let mut metadata = self.metadata;
        metadata.truncation = cut;
        let mut bytes = Vec::with_capacity(usize::from(UDP_BYTES_PLAIN));
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(bytes_max);
        let none: [Record; 0] = [];
        let message = MessageResponseBuilder::new(self.question, self.edns.as_ref());
        let info = message
            .build(metadata, answers, authority, &none, &none)
            .destructive_emit(&mut encoder)
            .ok()?;
        Some((info.truncation && !cut, bytes))
    }
}

fn server_edns(client: &ClientEdns, scope: u8) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_BYTES_MAX).set_dnssec_ok(client.dnssec_ok);
    if let Some(subnet) = &client.subnet {
        let option = EdnsOption::Unknown(OPTION_CLIENT_SUBNET, subnet.reply(scope));
        edns.options_mut().insert(option);
    }
    edns
}

/// Twelve bytes, and eleven of OPT: never more than was asked with.
fn header_only(header: &Header, code: ResponseCode, edns: Option<&ClientEdns>) -> Option<Vec<u8>> {
    let mut metadata = Metadata::response_from_request(&header.metadata);
    metadata.response_code = code;
    let question = Queries::read(&mut BinDecoder::new(&[]), 0).ok()?;
    let edns = edns.map(|edns| server_edns(edns, 0));
    let mut bytes = Vec::with_capacity(23);
    MessageResponseBuilder::new(&question, edns.as_ref())
        .build_no_records(metadata)
        .destructive_emit(&mut BinEncoder::new(&mut bytes))
        .ok()?;
    Some(bytes)
}
