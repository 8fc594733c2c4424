//! Joins the fragments of plaintext handshake messages by their offsets (RFC 6347 §4.2.3): they may overlap, come in any order and be cut
//! differently each time they are sent. Firefox cuts its ClientHello anew from the third retransmission on, because a path that drops its
//! longest datagrams would lose the same part of it each time.

use std::borrow::Cow;

use crate::{HANDSHAKE_HEADER_LEN, Record, fragments, records};

/// Records in a datagram. A client's whole last flight has five.
const RECORDS_MAX: usize = 16;

/// One connection's, until its handshake is done.
#[derive(Debug)]
pub struct Joiner {
    message_len_max: usize,
    /// Incomplete messages, the one that grew last at the end.
    partial: Vec<Partial>,
}

#[derive(Debug)]
struct Partial {
    /// Of the message: type, length and message_seq, as every fragment repeats them.
    identity: [u8; 6],
    body: Vec<u8>,
    /// Which bytes of `body` are there, one bit each.
    have: Vec<u64>,
    missing: usize,
}

impl Joiner {
    /// For a handshake whose messages have at most `message_len_max` bytes. Holds at most twice that, and an eighth more to know what is there.
    pub fn new(message_len_max: usize) -> Joiner {
        Joiner {
            message_len_max,
            partial: Vec::new(),
        }
    }

    /// What an engine may be shown of a datagram, in order: each record alone, each plaintext handshake message whole and in a record of its own.
    /// Nothing, while a message lacks fragments. `None`: no real handshake contains this datagram.
    pub fn take<'d>(&mut self, datagram: &'d [u8]) -> Option<Vec<Cow<'d, [u8]>>> {
        if !crate::is_plausible(datagram, self.message_len_max) || records(datagram).count() > RECORDS_MAX {
            return None;
        }
        let mut whole = Vec::new();
        for record in records(datagram).flatten() {
            if !record.is_plain_handshake() {
                whole.push(Cow::Borrowed(record.bytes));
                continue;
            }
            for fragment in fragments(record.body()).flatten() {
                if fragment.body.len() != fragment.message_len {
                    whole.extend(self.join(&record, &fragment));
                    continue;
                }
                self.partial.retain(|partial| partial.sequence() != fragment.sequence);
                let alone = fragment.bytes.len() == record.body().len();
                whole.push(match alone {
                    true => Cow::Borrowed(record.bytes),
                    false => Cow::Owned(record.with(&[fragment.bytes])),
                });
            }
        }
        Some(whole)
    }

    /// The record of the message that this fragment completes.
    fn join<'d>(&mut self, record: &Record, fragment: &crate::Fragment) -> Option<Cow<'d, [u8]>> {
        if fragment.body.is_empty() {
            return None;
        }
        let identity = fragment.identity();
        // Of two messages with one number the later is taken for true: a forged one must not be in the way for ever.
        let known = self
            .partial
            .iter()
            .position(|partial| partial.sequence() == fragment.sequence);
        let mut partial = known
            .map(|at| self.partial.remove(at))
            .filter(|partial| partial.identity == identity)
            .unwrap_or_else(|| Partial::new(identity, fragment.message_len));
        partial.add(fragment.offset, fragment.body);
        if partial.missing > 0 {
            self.hold(partial);
            return None;
        }
        let (len, number) = (&identity[1..4], &identity[4..]);
        let header = [&identity[..1], len, number, &[0, 0, 0], len].concat();
        debug_assert_eq!(header.len(), HANDSHAKE_HEADER_LEN);
        Some(Cow::Owned(record.with(&[&header, &partial.body])))
    }

    /// Forgets those that have not grown for longest when there is no room.
    fn hold(&mut self, partial: Partial) {
        let mut room = (2 * self.message_len_max).saturating_sub(partial.body.len());
        let mut keep = self.partial.len();
        while keep > 0 && self.partial[keep - 1].body.len() <= room {
            keep -= 1;
            room -= self.partial[keep].body.len();
        }
        self.partial.drain(..keep);
        self.partial.push(partial);
    }

    /// Bytes of messages that are held.
    pub fn held(&self) -> usize {
        self.partial.iter().map(|partial| partial.body.len()).sum()
    }
}

impl Partial {
    fn new(identity: [u8; 6], message_len: usize) -> Partial {
        Partial {
            identity,
            body: vec![0; message_len],
            have: vec![0; message_len.div_ceil(64)],
            missing: message_len,
        }
    }

    fn sequence(&self) -> u16 {
        u16::from_be_bytes([self.identity[4], self.identity[5]])
    }

    /// `offset + fragment.len()` is within the message: see `is_plausible`.
    fn add(&mut self, offset: usize, fragment: &[u8]) {
        self.body[offset..offset + fragment.len()].copy_from_slice(fragment);
        for at in offset..offset + fragment.len() {
            let bit = 1 << (at % 64);
            self.missing -= usize::from(self.have[at / 64] & bit == 0);
            self.have[at / 64] |= bit;
        }
    }
}
