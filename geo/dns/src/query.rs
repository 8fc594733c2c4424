//! Reads a query, with a limit on everything in it. What is not a query gets no answer, or a header that says what is wrong with it.

use crate::subnet::Subnet;
use hickory_proto::op::{Header, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::Name;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use hickory_server::zone_handler::Queries;

/// Records beside the question: OPT, and what TSIG or the like may add.
const ADDITIONALS_MAX: u16 = 4;
/// Questions and records before OPT in a message that is no good, as far as OPT is looked for.
const RECORDS_MAX: u32 = 16;
/// Options in one OPT record.
const OPTIONS_MAX: usize = 16;
const TYPE_OPT: u16 = 41;
const OPTION_CLIENT_SUBNET: u16 = 8;
/// The DNSSEC OK bit of OPT's TTL field (RFC 3225).
const DNSSEC_OK: u32 = 0x8000;

/// A well-formed query with exactly one question.
pub(crate) struct Query {
    pub(crate) header: Header,
    pub(crate) question: Queries,
    pub(crate) edns: Option<ClientEdns>,
}

/// What the client's OPT record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientEdns {
    /// Largest UDP message it takes, in bytes.
    pub(crate) payload: u16,
    pub(crate) version: u8,
    pub(crate) dnssec_ok: bool,
    pub(crate) subnet: Option<Subnet>,
}

/// Why a message is not answered as a query.
pub(crate) enum Refused {
    /// No query at all: an answer to it could go round in circles.
    Silence,
    /// A header with this code, and OPT if the query had one (RFC 6891 §6.1.1, §7); nothing else.
    Code(Header, ResponseCode, Option<ClientEdns>),
}

impl Query {
    pub(crate) fn parse(packet: &[u8]) -> Result<Query, Refused> {
        let mut decoder = BinDecoder::new(packet);
        let header = Header::read(&mut decoder).map_err(|_| Refused::Silence)?;
        if header.metadata.message_type != MessageType::Query {
            return Err(Refused::Silence);
        }
        if header.metadata.op_code != OpCode::Query {
            return Err(Refused::Code(header, ResponseCode::NotImp, edns_of(packet)));
        }
        let malformed = |_: Broken| Refused::Code(header, ResponseCode::FormErr, edns_of(packet));
        let counts = header.counts;
        if counts.queries != 1 || counts.answers > 0 || counts.authorities > 0 || counts.additionals > ADDITIONALS_MAX {
            return Err(malformed(Broken));
        }
        let question = Queries::read(&mut decoder, 1).map_err(|_| malformed(Broken))?;
        let mut edns = None;
        for _ in 0..counts.additionals {
            if let Some(found) = additional(&mut decoder).map_err(malformed)?
                && edns.replace(found).is_some()
            {
                // RFC 6891, 6.1.1: more than one OPT.
                return Err(malformed(Broken));
            }
        }
        Ok(Query { header, question, edns })
    }
}

struct Broken;

/// What OPT says in a message that is no good otherwise; its options are not looked at. `None`: it has none, or it is not found.
fn edns_of(packet: &[u8]) -> Option<ClientEdns> {
    let mut decoder = BinDecoder::new(packet);
    let counts = Header::read(&mut decoder).ok()?.counts;
    let before = [counts.queries, counts.answers, counts.authorities].map(u32::from);
    if before.iter().sum::<u32>() > RECORDS_MAX || counts.additionals > ADDITIONALS_MAX {
        return None;
    }
    for _ in 0..counts.queries {
        Name::read(&mut decoder).ok()?;
        decoder.read_u32().ok()?;
    }
    let records = counts.answers + counts.authorities;
    let mut record = |_: u16| Record::read(&mut decoder).ok();
    for number in 0..records {
        record(number)?;
    }
    (0..counts.additionals)
        .map_while(record)
        .find_map(|record| record.edns())
}

/// Reads one record of the additional section; `Some` if it is OPT.
fn additional(decoder: &mut BinDecoder<'_>) -> Result<Option<ClientEdns>, Broken> {
    let record = Record::read(decoder)?;
    let Some(edns) = record.edns() else {
        return match record.kind {
            // OPT of another name than the root.
            TYPE_OPT => Err(Broken),
            _ => Ok(None),
        };
    };
    let subnet = client_subnet(record.data)?;
    Ok(Some(ClientEdns { subnet, ..edns }))
}

struct Record<'p> {
    name: Name,
    kind: u16,
    class: u16,
    ttl: u32,
    data: &'p [u8],
}

impl<'p> Record<'p> {
    fn read(decoder: &mut BinDecoder<'p>) -> Result<Self, Broken> {
        let name = Name::read(decoder).map_err(|_| Broken)?;
        let kind = u16_of(decoder)?;
        let class = u16_of(decoder)?;
        let ttl = decoder.read_u32().map_err(|_| Broken)?.unverified();
        let length = u16_of(decoder)?;
        let data = decoder.read_slice(usize::from(length)).map_err(|_| Broken)?;
        Ok(Record {
            name,
            kind,
            class,
            ttl,
            data: data.unverified(),
        })
    }

    /// What it says if it is OPT (RFC 6891 §6.1.2), but for its options.
    fn edns(&self) -> Option<ClientEdns> {
        (self.kind == TYPE_OPT && self.name.is_root()).then(|| ClientEdns {
            payload: self.class,
            version: self.ttl.to_be_bytes()[1],
            dnssec_ok: self.ttl & DNSSEC_OK != 0,
            subnet: None,
        })
    }
}

fn client_subnet(mut options: &[u8]) -> Result<Option<Subnet>, Broken> {
    let mut subnet = None;
    for _ in 0..OPTIONS_MAX {
        let Some((&[code_high, code_low, length_high, length_low], rest)) = options.split_first_chunk::<4>() else {
            return if options.is_empty() { Ok(subnet) } else { Err(Broken) };
        };
        let length = usize::from(u16::from_be_bytes([length_high, length_low]));
        let (data, rest) = rest.split_at_checked(length).ok_or(Broken)?;
        if u16::from_be_bytes([code_high, code_low]) == OPTION_CLIENT_SUBNET {
            let found = Subnet::parse(data).map_err(|_| Broken)?;
            if subnet.replace(found).is_some() {
                return Err(Broken);
            }
        }
        options = rest;
    }
    if options.is_empty() { Ok(subnet) } else { Err(Broken) }
}

fn u16_of(decoder: &mut BinDecoder<'_>) -> Result<u16, Broken> {
    Ok(decoder.read_u16().map_err(|_| Broken)?.unverified())
}
