//! Reads a query, with a limit on everything in it. What is not a query gets no answer, or a header that says what is wrong with it.

use crate::subnet::Subnet;
use hickory_proto::op::{Header, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::Name;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use hickory_server::zone_handler::Queries;

/// Records beside the question: OPT, and what TSIG or the like may add.
const ADDITIONALS_MAX: u16 = 4;
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
    /// A header with this code, and nothing else.
    Code(Header, ResponseCode),
}

impl Query {
    pub(crate) fn parse(packet: &[u8]) -> Result<Query, Refused> {
        let mut decoder = BinDecoder::new(packet);
        let header = Header::read(&mut decoder).map_err(|_| Refused::Silence)?;
        if header.metadata.message_type != MessageType::Query {
            return Err(Refused::Silence);
        }
        if header.metadata.op_code != OpCode::Query {
            return Err(Refused::Code(header, ResponseCode::NotImp));
        }
        let malformed = |_: Broken| Refused::Code(header, ResponseCode::FormErr);
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

/// Reads one record of the additional section; `Some` if it is OPT.
fn additional(decoder: &mut BinDecoder<'_>) -> Result<Option<ClientEdns>, Broken> {
    let name = Name::read(decoder).map_err(|_| Broken)?;
    let kind = u16_of(decoder)?;
    let payload = u16_of(decoder)?;
    let flags = decoder.read_u32().map_err(|_| Broken)?.unverified();
    let length = u16_of(decoder)?;
    let data = decoder
        .read_slice(usize::from(length))
        .map_err(|_| Broken)?
        .unverified();
    if kind != TYPE_OPT {
        return Ok(None);
    }
    if !name.is_root() {
        return Err(Broken);
    }
    Ok(Some(ClientEdns {
        payload,
        version: flags.to_be_bytes()[1],
        dnssec_ok: flags & DNSSEC_OK != 0,
        subnet: client_subnet(data)?,
    }))
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
