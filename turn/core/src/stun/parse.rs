//! Reading messages. Everything is checked once in [`Message::parse`]; afterwards attributes are slices of the input.

use std::net::SocketAddr;

use super::{Class, HEADER_BYTES, MAGIC_COOKIE, Method, TransactionId, attribute, decode_xor_address, fingerprint};
use crate::credentials::IntegrityKey;

/// No client sends nearly as many; more is an attempt to make us work.
const ATTRIBUTES_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("not a STUN message: the first bits, the cookie or the length do not fit")]
    NotStun,
    #[error("an attribute reaches beyond the message")]
    Truncated,
    #[error("more than {ATTRIBUTES_MAX} attributes")]
    TooManyAttributes,
    #[error("MESSAGE-INTEGRITY of impossible length")]
    IntegrityLength,
    #[error("FINGERPRINT is not last, or does not match the message")]
    Fingerprint,
}

/// Which integrity a message is protected with (RFC 8489 §14.5, §14.6); the stronger when it carries both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integrity {
    Sha1,
    Sha256,
}

/// A well-formed message, borrowed from the bytes it was parsed from.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub class: Class,
    pub method: Method,
    pub transaction: TransactionId,
    bytes: &'a [u8],
    /// Where the attributes end that count: the first MESSAGE-INTEGRITY(-SHA256), or FINGERPRINT, or the end.
    meaningful: usize,
    sha1_at: Option<usize>,
    sha256_at: Option<usize>,
}

impl<'a> Message<'a> {
    /// `bytes` must be exactly one message. Attributes behind MESSAGE-INTEGRITY are ignored as RFC 8489 §14.5 demands;
    /// a FINGERPRINT, if there is one, is verified.
    pub fn parse(bytes: &'a [u8]) -> Result<Message<'a>, ParseError> {
        let (header, body) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(ParseError::NotStun)?;
        let kind = u16::from_be_bytes([header[0], header[1]]);
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let cookie = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        if kind & 0xC000 != 0 || cookie != MAGIC_COOKIE || length != body.len() || length % 4 != 0 {
            return Err(ParseError::NotStun);
        }
        let (class, method) = split_kind(kind);
        let mut transaction = TransactionId([0; 12]);
        transaction.0.copy_from_slice(&header[8..]);
        let mut message = Message {
            class,
            method,
            transaction,
            bytes,
            meaningful: bytes.len(),
            sha1_at: None,
            sha256_at: None,
        };
        message.check_attributes()?;
        Ok(message)
    }

    fn check_attributes(&mut self) -> Result<(), ParseError> {
        let mut at = HEADER_BYTES;
        for _ in 0..=ATTRIBUTES_MAX {
            if at == self.bytes.len() {
                return Ok(());
            }
            let (kind, value) = attribute_at(self.bytes, at).ok_or(ParseError::Truncated)?;
            let next = at + 4 + padded(value.len());
            if next > self.bytes.len() {
                return Err(ParseError::Truncated);
            }
            match kind {
                attribute::MESSAGE_INTEGRITY if self.sha1_at.is_none() && self.sha256_at.is_none() => {
                    if value.len() != 20 {
                        return Err(ParseError::IntegrityLength);
                    }
                    self.sha1_at = Some(at);
                    self.meaningful = self.meaningful.min(at);
                }
                attribute::MESSAGE_INTEGRITY_SHA256 if self.sha256_at.is_none() => {
                    if !(16..=32).contains(&value.len()) || value.len() % 4 != 0 {
                        return Err(ParseError::IntegrityLength);
                    }
                    self.sha256_at = Some(at);
                    self.meaningful = self.meaningful.min(at);
                }
                attribute::FINGERPRINT => {
                    // Computed over the header with its final length, so nothing has to be patched.
                    let right = fingerprint(&[&self.bytes[..at]]).to_be_bytes();
                    if next != self.bytes.len() || value != right {
                        return Err(ParseError::Fingerprint);
                    }
                    self.meaningful = self.meaningful.min(at);
                }
                _ => {}
            }
            at = next;
        }
        Err(ParseError::TooManyAttributes)
    }

    /// The attributes that count, in order.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes {
            bytes: &self.bytes[..self.meaningful],
            at: HEADER_BYTES,
        }
    }

    /// The first attribute of this type: later ones of the same type are to be ignored (RFC 8489 §14).
    pub fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.attributes().find(|(k, _)| *k == kind).map(|(_, value)| value)
    }

    pub fn get_u32(&self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub fn get_str(&self, kind: u16) -> Option<&'a str> {
        std::str::from_utf8(self.get(kind)?).ok()
    }

    pub fn get_address(&self, kind: u16) -> Option<SocketAddr> {
        decode_xor_address(self.get(kind)?, &self.transaction)
    }

    /// What protects the message; says nothing about whether it is right.
    pub fn integrity(&self) -> Option<Integrity> {
        match (self.sha1_at, self.sha256_at) {
            (_, Some(_)) => Some(Integrity::Sha256),
            (Some(_), None) => Some(Integrity::Sha1),
            (None, None) => None,
        }
    }

    /// Whether the strongest integrity attribute was made with `key`. `false` if there is none.
    pub fn verify(&self, key: &IntegrityKey) -> bool {
        let (at, kind) = match (self.sha1_at, self.sha256_at) {
            (_, Some(at)) => (at, Integrity::Sha256),
            (Some(at), None) => (at, Integrity::Sha1),
            (None, None) => return false,
        };
        let Some((_, tag)) = attribute_at(self.bytes, at) else {
            return false;
        };
        let mut header = [0; 4];
        header.copy_from_slice(&self.bytes[..4]);
        let length = (at + 4 + tag.len() - HEADER_BYTES) as u16;
        header[2..].copy_from_slice(&length.to_be_bytes());
        key.verify(kind, &[&header, &self.bytes[4..at]], tag)
    }
}

/// See [`Message::attributes`].
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let found = attribute_at(self.bytes, self.at)?;
        self.at += 4 + padded(found.1.len());
        Some(found)
    }
}

fn attribute_at(bytes: &[u8], at: usize) -> Option<(u16, &[u8])> {
    let (&[k0, k1, l0, l1], rest) = bytes.get(at..)?.split_first_chunk::<4>()?;
    Some((
        u16::from_be_bytes([k0, k1]),
        rest.get(..usize::from(u16::from_be_bytes([l0, l1])))?,
    ))
}

fn padded(length: usize) -> usize {
    (length + 3) & !3
}

/// Class and method bits are interleaved (RFC 8489 §5).
fn split_kind(kind: u16) -> (Class, Method) {
    let class = match (kind & 0x0100 != 0, kind & 0x0010 != 0) {
        (false, false) => Class::Request,
        (false, true) => Class::Indication,
        (true, false) => Class::Success,
        (true, true) => Class::Error,
    };
    (
        class,
        Method((kind & 0x000F) | ((kind & 0x00E0) >> 1) | ((kind & 0x3E00) >> 2)),
    )
}
