//! RTP header extensions (RFC 8285): reading both forms, translating ids.

use crate::media::{CANONICAL, ExtensionMap};

/// Most extension elements read from one packet; later ones are ignored. Clients send about six.
pub(crate) const ELEMENTS_MAX: usize = 12;

/// The profile words that announce the two forms (RFC 8285 §4.2, §4.3).
pub(crate) const ONE_BYTE: u16 = 0xBEDE;
pub(crate) const TWO_BYTE: u16 = 0x1000;

/// Walks the elements of an extension block. Stops at the first element that does not fit.
pub(crate) struct Elements<'a> {
    rest: &'a [u8],
    two_byte: bool,
}

impl<'a> Elements<'a> {
    /// `block` is what follows the 4-byte extension header. An unknown profile has no elements.
    pub(crate) fn new(profile: u16, block: &'a [u8]) -> Self {
        let two_byte = profile & 0xFFF0 == TWO_BYTE;
        let rest = if two_byte || profile == ONE_BYTE { block } else { &[] };
        Elements { rest, two_byte }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        loop {
            let (&first, rest) = self.rest.split_first()?;
            if first == 0 {
                self.rest = rest; // padding
                continue;
            }
            let (id, len, rest) = if self.two_byte {
                let (&len, rest) = rest.split_first()?;
                (first, usize::from(len), rest)
            } else {
                (first >> 4, usize::from(first & 0x0F) + 1, rest)
            };
            // Id 15 ends a one-byte block; id 0 with a length is malformed (RFC 8285 §4.2).
            if !self.two_byte && (id == 15 || id == 0) || rest.len() < len {
                self.rest = &[];
                return None;
            }
            let (value, rest) = rest.split_at(len);
            self.rest = rest;
            return Some((id, value));
        }
    }
}

/// The extensions that are forwarded, as (id in `map`, canonical id).
pub(crate) fn forwarded(map: &ExtensionMap) -> [(Option<u8>, Option<u8>); 5] {
    [
        (map.audio_level, CANONICAL.audio_level),
        (map.abs_capture_time, CANONICAL.abs_capture_time),
        (map.dependency_descriptor, CANONICAL.dependency_descriptor),
        (map.playout_delay, CANONICAL.playout_delay),
        (map.video_orientation, CANONICAL.video_orientation),
    ]
}

/// The canonical id of a negotiated id; `None` for extensions that end at this hop or are unknown.
pub(crate) fn canonical_id(map: &ExtensionMap, id: u8) -> Option<u8> {
    forwarded(map)
        .into_iter()
        .find(|(from, _)| *from == Some(id))
        .and_then(|(_, to)| to)
}

/// The one-byte form holds ids 1–14 with 1–16 bytes.
pub(crate) fn needs_two_bytes(id: u8, len: usize) -> bool {
    id > 14 || len == 0 || len > 16
}

/// Writes an extension block behind the fixed header at the front of `buf`, and sets the X bit.
pub(crate) struct BlockWriter<'a> {
    buf: &'a mut [u8],
    start: usize,
    at: usize,
    two_byte: bool,
}

impl<'a> BlockWriter<'a> {
    /// `start`: where the extension header goes.
    pub(crate) fn new(buf: &'a mut [u8], start: usize, two_byte: bool) -> Self {
        BlockWriter {
            buf,
            start,
            at: start + 4,
            two_byte,
        }
    }

    /// Appends an element and returns where its value starts; `None` when the buffer is full.
    pub(crate) fn push(&mut self, id: u8, value: &[u8]) -> Option<usize> {
        let value_at = self.at + if self.two_byte { 2 } else { 1 };
        let end = value_at + value.len();
        let room = self.buf.get_mut(self.at..end)?;
        if self.two_byte {
            room[0] = id;
            room[1] = value.len() as u8;
            room[2..].copy_from_slice(value);
        } else {
            room[0] = id << 4 | (value.len().saturating_sub(1) as u8 & 0x0F);
            room[1..].copy_from_slice(value);
        }
        self.at = end;
        Some(value_at)
    }

    /// Pads the block and returns where the payload starts: `start` itself when nothing was pushed.
    pub(crate) fn finish(self) -> Option<usize> {
        if self.at == self.start + 4 {
            return Some(self.start);
        }
        let end = self.at.next_multiple_of(4);
        self.buf.get_mut(self.at..end)?.fill(0);
        let words = (end - self.start) / 4 - 1;
        let profile = if self.two_byte { TWO_BYTE } else { ONE_BYTE };
        self.buf[self.start..self.start + 2].copy_from_slice(&profile.to_be_bytes());
        self.buf[self.start + 2..self.start + 4].copy_from_slice(&(words as u16).to_be_bytes());
        self.buf[0] |= 0x10;
        Some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_a_short_element_ends_the_block() {
        let one: Vec<_> = Elements::new(ONE_BYTE, &[0x10, 7, 0, 0x31, 1, 2, 0x5F, 1]).collect();
        assert_eq!(one, vec![(1, &[7][..]), (3, &[1, 2][..])]);
        let two: Vec<_> = Elements::new(TWO_BYTE | 3, &[1, 0, 0, 40, 2, 8, 9, 1, 200]).collect();
        assert_eq!(two, vec![(1, &[][..]), (40, &[8, 9][..])]);
        assert_eq!(Elements::new(0x1234, &[0x10, 7]).count(), 0);
    }
}
