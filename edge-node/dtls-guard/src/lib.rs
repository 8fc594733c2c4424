//! What may reach a DTLS engine before a handshake is done (spec/transport.md, guard B), of WebRTC and of TURN. Plaintext handshake fragments
//! are forgeable, so those that no real handshake contains are dropped before anything is buffered for them; the others are joined here, because
//! dimpl 0.9 joins only fragments that touch exactly. No DTLS.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod join;

pub use join::Joiner;

/// A full handshake with client certificate has seven client messages; one more for a HelloVerifyRequest retry.
const MESSAGE_SEQ_MAX: u16 = 8;
const RECORD_HEADER_LEN: usize = 13;
const HANDSHAKE_HEADER_LEN: usize = 12;
const HANDSHAKE: u8 = 22;

/// Epoch of the first record; `None` if there is no whole record header.
pub fn first_epoch(datagram: &[u8]) -> Option<u16> {
    let header = datagram.get(..RECORD_HEADER_LEN)?;
    Some(u16::from_be_bytes([header[3], header[4]]))
}

/// One record (RFC 6347 §4.1), header and all.
#[derive(Clone, Copy)]
struct Record<'d> {
    bytes: &'d [u8],
}

impl<'d> Record<'d> {
    fn is_plain_handshake(&self) -> bool {
        self.bytes[0] == HANDSHAKE && self.bytes[3..5] == [0, 0]
    }

    fn body(&self) -> &'d [u8] {
        &self.bytes[RECORD_HEADER_LEN..]
    }

    /// This record with another body, of at most 65,535 bytes.
    fn with(&self, body: &[&[u8]]) -> Vec<u8> {
        let len: usize = body.iter().map(|part| part.len()).sum();
        let mut record = Vec::with_capacity(RECORD_HEADER_LEN + len);
        record.extend_from_slice(&self.bytes[..RECORD_HEADER_LEN - 2]);
        record.extend_from_slice(&(len as u16).to_be_bytes());
        body.iter().for_each(|part| record.extend_from_slice(part));
        record
    }
}

/// One fragment of a handshake message (RFC 6347 §4.2.2).
struct Fragment<'d> {
    /// Header and body.
    bytes: &'d [u8],
    message_len: usize,
    sequence: u16,
    offset: usize,
    body: &'d [u8],
}

impl Fragment<'_> {
    /// Type, length and message_seq of the message.
    fn identity(&self) -> [u8; 6] {
        std::array::from_fn(|at| self.bytes[at])
    }
}

/// The records of a datagram; ends with `None` where there is no whole one.
fn records(mut rest: &[u8]) -> impl Iterator<Item = Option<Record<'_>>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let len = rest
            .get(11..RECORD_HEADER_LEN)
            .map(|len| usize::from(len[0]) << 8 | usize::from(len[1]));
        let Some((bytes, next)) = len.and_then(|len| rest.split_at_checked(RECORD_HEADER_LEN + len)) else {
            rest = &[];
            return Some(None);
        };
        rest = next;
        Some(Some(Record { bytes }))
    })
}

/// The fragments of a record's body; ends with `None` where there is no whole one.
fn fragments(mut rest: &[u8]) -> impl Iterator<Item = Option<Fragment<'_>>> {
    std::iter::from_fn(move || {
        let (header, _) = match rest {
            [] => return None,
            _ => rest.split_at_checked(HANDSHAKE_HEADER_LEN).unwrap_or_default(),
        };
        let number = |at: usize| {
            header[at..at + 3]
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
        };
        let len = (!header.is_empty()).then(|| HANDSHAKE_HEADER_LEN + number(9));
        let Some((bytes, next)) = len.and_then(|len| rest.split_at_checked(len)) else {
            rest = &[];
            return Some(None);
        };
        rest = next;
        Some(Some(Fragment {
            bytes,
            message_len: number(1),
            sequence: u16::from_be_bytes([header[4], header[5]]),
            offset: number(6),
            body: &bytes[HANDSHAKE_HEADER_LEN..],
        }))
    })
}

/// Whether every plaintext handshake fragment of the datagram could belong to a real handshake whose messages have at most
/// `message_len_max` bytes; the others are not worth buffering.
fn is_plausible(datagram: &[u8], message_len_max: usize) -> bool {
    let fragment = |fragment: Option<Fragment>| {
        fragment.is_some_and(|f| {
            f.sequence <= MESSAGE_SEQ_MAX
                && f.message_len <= message_len_max
                && f.offset + f.body.len() <= f.message_len
        })
    };
    records(datagram).all(|record| {
        record.is_some_and(|record| !record.is_plain_handshake() || fragments(record.body()).all(fragment))
    })
}
