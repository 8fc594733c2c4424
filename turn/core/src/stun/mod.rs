//! STUN messages (RFC 8489 §5, §14) with TURN's methods and attributes (RFC 8656 §17–18, RFC 6062 §6): a borrowing
//! parser that never panics and does bounded work, and a writer. What a message *means* is decided in `server`.

mod parse;
mod write;

pub use parse::{Attributes, Integrity, Message, ParseError};
pub use write::{MessageWriter, data_indication_header};

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// RFC 8489 §5.
pub const MAGIC_COOKIE: u32 = 0x2112_A442;
pub const HEADER_BYTES: usize = 20;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransactionId(pub [u8; 12]);

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Request,
    Indication,
    Success,
    Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method(pub u16);

impl Method {
    pub const BINDING: Method = Method(0x001);
    pub const ALLOCATE: Method = Method(0x003);
    pub const REFRESH: Method = Method(0x004);
    pub const SEND: Method = Method(0x006);
    pub const DATA: Method = Method(0x007);
    pub const CREATE_PERMISSION: Method = Method(0x008);
    pub const CHANNEL_BIND: Method = Method(0x009);
    pub const CONNECT: Method = Method(0x00A);
    pub const CONNECTION_BIND: Method = Method(0x00B);
    pub const CONNECTION_ATTEMPT: Method = Method(0x00C);
}

/// Attribute types; below 0x8000 a receiver must understand them (RFC 8489 §14).
pub mod attribute {
    pub const USERNAME: u16 = 0x0006;
    pub const MESSAGE_INTEGRITY: u16 = 0x0008;
    pub const ERROR_CODE: u16 = 0x0009;
    pub const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
    pub const CHANNEL_NUMBER: u16 = 0x000C;
    pub const LIFETIME: u16 = 0x000D;
    pub const XOR_PEER_ADDRESS: u16 = 0x0012;
    pub const DATA: u16 = 0x0013;
    pub const REALM: u16 = 0x0014;
    pub const NONCE: u16 = 0x0015;
    pub const XOR_RELAYED_ADDRESS: u16 = 0x0016;
    pub const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
    pub const EVEN_PORT: u16 = 0x0018;
    pub const REQUESTED_TRANSPORT: u16 = 0x0019;
    pub const DONT_FRAGMENT: u16 = 0x001A;
    pub const MESSAGE_INTEGRITY_SHA256: u16 = 0x001C;
    pub const PASSWORD_ALGORITHM: u16 = 0x001D;
    pub const USERHASH: u16 = 0x001E;
    pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    pub const RESERVATION_TOKEN: u16 = 0x0022;
    pub const PRIORITY: u16 = 0x0024;
    pub const CONNECTION_ID: u16 = 0x002A;
    pub const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;
    pub const ADDRESS_ERROR_CODE: u16 = 0x8001;
    pub const PASSWORD_ALGORITHMS: u16 = 0x8002;
    /// The number before RFC 8656 gave it its own; coturn's programs still send it.
    pub const ADDITIONAL_ADDRESS_FAMILY_DRAFT: u16 = 0x8032;
    pub const ALTERNATE_SERVER: u16 = 0x8023;
    pub const FINGERPRINT: u16 = 0x8028;
}

/// RFC 8489 §14.8, RFC 8656 §19, RFC 6062 §6.3. The reason phrases are short: an answer to a stranger must stay small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    TryAlternate,
    BadRequest,
    Unauthenticated,
    Forbidden,
    UnknownAttribute,
    AllocationMismatch,
    StaleNonce,
    AddressFamilyNotSupported,
    WrongCredentials,
    UnsupportedTransport,
    PeerAddressFamilyMismatch,
    ConnectionAlreadyExists,
    ConnectionTimeoutOrFailure,
    AllocationQuotaReached,
    ServerError,
    InsufficientCapacity,
}

impl ErrorCode {
    /// 300–699.
    pub fn code(self) -> u16 {
        self.entry().0
    }

    pub fn reason(self) -> &'static str {
        self.entry().1
    }

    fn entry(self) -> (u16, &'static str) {
        match self {
            ErrorCode::TryAlternate => (300, "Try Alternate"),
            ErrorCode::BadRequest => (400, "Bad Request"),
            ErrorCode::Unauthenticated => (401, "Unauthorized"),
            ErrorCode::Forbidden => (403, "Forbidden"),
            ErrorCode::UnknownAttribute => (420, "Unknown Attribute"),
            ErrorCode::AllocationMismatch => (437, "Allocation Mismatch"),
            ErrorCode::StaleNonce => (438, "Stale Nonce"),
            ErrorCode::AddressFamilyNotSupported => (440, "Address Family not Supported"),
            ErrorCode::WrongCredentials => (441, "Wrong Credentials"),
            ErrorCode::UnsupportedTransport => (442, "Unsupported Transport Protocol"),
            ErrorCode::PeerAddressFamilyMismatch => (443, "Peer Address Family Mismatch"),
            ErrorCode::ConnectionAlreadyExists => (446, "Connection Already Exists"),
            ErrorCode::ConnectionTimeoutOrFailure => (447, "Connection Timeout or Failure"),
            ErrorCode::AllocationQuotaReached => (486, "Allocation Quota Reached"),
            ErrorCode::ServerError => (500, "Server Error"),
            ErrorCode::InsufficientCapacity => (508, "Insufficient Capacity"),
        }
    }
}

/// RFC 8489 §14.2; the same function encodes and decodes.
fn xor_ip(ip: IpAddr, transaction: &TransactionId) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) ^ MAGIC_COOKIE).into()),
        IpAddr::V6(v6) => {
            let mut mask = [0; 16];
            mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
            mask[4..].copy_from_slice(&transaction.0);
            IpAddr::V6((u128::from(v6) ^ u128::from_be_bytes(mask)).into())
        }
    }
}

fn xor_port(port: u16) -> u16 {
    port ^ (MAGIC_COOKIE >> 16) as u16
}

/// The value of a XOR-…-ADDRESS attribute. `None`: wrong length or family.
pub fn decode_xor_address(value: &[u8], transaction: &TransactionId) -> Option<SocketAddr> {
    let (&[_, family, port_high, port_low], ip) = value.split_first_chunk::<4>()?;
    let port = xor_port(u16::from_be_bytes([port_high, port_low]));
    let ip = match (family, ip.len()) {
        (1, 4) => IpAddr::from(<[u8; 4]>::try_from(ip).ok()?),
        (2, 16) => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(xor_ip(ip, transaction), port))
}

/// CRC-32 (ISO 3309) xored as RFC 8489 §14.7 says.
fn fingerprint(bytes: &[&[u8]]) -> u32 {
    const TABLE: [u32; 256] = crc_table();
    let mut crc = !0u32;
    for &byte in bytes.iter().copied().flatten() {
        crc = TABLE[usize::from((crc as u8) ^ byte)] ^ (crc >> 8);
    }
    !crc ^ 0x5354_554e
}

const fn crc_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut value = i as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 {
                0xEDB8_8320 ^ (value >> 1)
            } else {
                value >> 1
            };
            bit += 1;
        }
        table[i] = value;
        i += 1;
    }
    table
}
