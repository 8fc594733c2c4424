//! Writing messages: append attributes, then finish with integrity and fingerprint.

use std::net::{IpAddr, SocketAddr};

use super::{Class, ErrorCode, HEADER_BYTES, Integrity, MAGIC_COOKIE, Method, TransactionId, attribute, fingerprint};
use super::{xor_ip, xor_port};
use crate::credentials::IntegrityKey;
use crate::sockets::Family;

/// A message under construction. Values beyond what a 16-bit length can say are cut off; none of ours come near.
#[derive(Debug)]
pub struct MessageWriter {
    bytes: Vec<u8>,
    transaction: TransactionId,
}

impl MessageWriter {
    pub fn new(class: Class, method: Method, transaction: TransactionId) -> MessageWriter {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&join_kind(class, method).to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
        bytes.extend_from_slice(&transaction.0);
        MessageWriter { bytes, transaction }
    }

    pub fn attribute(mut self, kind: u16, value: &[u8]) -> MessageWriter {
        let value = &value[..value.len().min(usize::from(u16::MAX) - 3)];
        self.bytes.extend_from_slice(&kind.to_be_bytes());
        self.bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    pub fn u32(self, kind: u16, value: u32) -> MessageWriter {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// One of the XOR-…-ADDRESS attributes.
    pub fn address(self, kind: u16, address: SocketAddr) -> MessageWriter {
        let mut value = [0; 20];
        let length = encode_xor_address(&mut value, address, &self.transaction);
        self.attribute(kind, &value[..length])
    }

    pub fn error(self, error: ErrorCode) -> MessageWriter {
        let code = error.code();
        let mut value = vec![0, 0, (code / 100) as u8, (code % 100) as u8];
        value.extend_from_slice(error.reason().as_bytes());
        self.attribute(attribute::ERROR_CODE, &value)
    }

    /// ADDRESS-ERROR-CODE (RFC 8656 §18.12): the half of a dual allocation that could not be had.
    pub fn address_error(self, family: Family, error: ErrorCode) -> MessageWriter {
        let code = error.code();
        let mut value = vec![
            if family == Family::V4 { 1 } else { 2 },
            0,
            (code / 100) as u8,
            (code % 100) as u8,
        ];
        value.extend_from_slice(error.reason().as_bytes());
        self.attribute(attribute::ADDRESS_ERROR_CODE, &value)
    }

    /// The finished message, without integrity or fingerprint.
    pub fn finish(mut self) -> Vec<u8> {
        self.set_length(0);
        self.bytes
    }

    /// Appends MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256.
    pub fn sign(mut self, kind: Integrity, key: &IntegrityKey) -> MessageWriter {
        let (attribute, tag_bytes) = match kind {
            Integrity::Sha1 => (attribute::MESSAGE_INTEGRITY, 20),
            Integrity::Sha256 => (attribute::MESSAGE_INTEGRITY_SHA256, 32),
        };
        self.set_length(4 + tag_bytes);
        let tag = key.sign(kind, &self.bytes);
        self.attribute(attribute, tag.as_ref())
    }

    /// Appends FINGERPRINT and finishes.
    pub fn finish_with_fingerprint(mut self) -> Vec<u8> {
        self.set_length(8);
        let crc = fingerprint(&[&self.bytes]);
        self.u32(attribute::FINGERPRINT, crc).finish()
    }

    fn set_length(&mut self, more: usize) {
        let length = (self.bytes.len() - HEADER_BYTES + more) as u16;
        self.bytes[2..4].copy_from_slice(&length.to_be_bytes());
    }
}

/// Writes everything of a Data indication that precedes its payload into `out`; the caller appends the payload and pads
/// to a multiple of 4. Returns the length: 36 (IPv4 peer) or 48 (IPv6 peer), 0 if `out` is too small.
pub fn data_indication_header(out: &mut [u8], transaction: TransactionId, peer: SocketAddr, payload: usize) -> usize {
    let mut value = [0; 20];
    let address = encode_xor_address(&mut value, peer, &transaction);
    let total = HEADER_BYTES + 4 + address + 4;
    if out.len() < total || payload > 65_000 {
        return 0;
    }
    let body = 4 + address + 4 + payload.next_multiple_of(4);
    out[..2].copy_from_slice(&join_kind(Class::Indication, Method::DATA).to_be_bytes());
    out[2..4].copy_from_slice(&(body as u16).to_be_bytes());
    out[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    out[8..20].copy_from_slice(&transaction.0);
    out[20..22].copy_from_slice(&attribute::XOR_PEER_ADDRESS.to_be_bytes());
    out[22..24].copy_from_slice(&(address as u16).to_be_bytes());
    out[24..24 + address].copy_from_slice(&value[..address]);
    out[24 + address..26 + address].copy_from_slice(&attribute::DATA.to_be_bytes());
    out[26 + address..28 + address].copy_from_slice(&(payload as u16).to_be_bytes());
    total
}

fn encode_xor_address(value: &mut [u8; 20], address: SocketAddr, transaction: &TransactionId) -> usize {
    value[2..4].copy_from_slice(&xor_port(address.port()).to_be_bytes());
    match xor_ip(address.ip(), transaction) {
        IpAddr::V4(ip) => {
            value[1] = 1;
            value[4..8].copy_from_slice(&ip.octets());
            8
        }
        IpAddr::V6(ip) => {
            value[1] = 2;
            value[4..20].copy_from_slice(&ip.octets());
            20
        }
    }
}

fn join_kind(class: Class, method: Method) -> u16 {
    let class = match class {
        Class::Request => 0x0000,
        Class::Indication => 0x0010,
        Class::Success => 0x0100,
        Class::Error => 0x0110,
    };
    let m = method.0;
    class | (m & 0x000F) | ((m & 0x0070) << 1) | ((m & 0x0F80) << 2)
}
