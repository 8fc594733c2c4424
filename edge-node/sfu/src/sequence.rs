//! Sequence spaces: where packets are numbered, and 16-bit RTP sequence numbers extended to 64 bits.

use crate::media::Encoding;

/// One encoding as one encoder sends it: numbers of different spaces have nothing to do with each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SequenceSpace {
    pub encoding: Encoding,
    /// Changes when the publisher's encoder is replaced.
    pub ssrc: u32,
}

/// A packet's place in its encoding: the RTP sequence number, extended. Unique and rising per encoding on one node, across
/// changes of SSRC, too. 0 = not numbered yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceSequence(pub u64);

impl SourceSequence {
    /// As the publisher wrote it.
    pub fn wire(self) -> u16 {
        self.0 as u16
    }

    pub(crate) fn before(self, count: u64) -> Option<SourceSequence> {
        self.0.checked_sub(count).map(SourceSequence)
    }
}

/// A packet's place in what one subscriber is sent, extended to 32 bits. Wraps after 40 days of 1,000 packets a second,
/// harmlessly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutSequence(pub(crate) u32);

impl OutSequence {
    pub(crate) fn wire(self) -> u16 {
        self.0 as u16
    }

    pub(crate) fn next(self) -> OutSequence {
        OutSequence(self.0.wrapping_add(1))
    }

    pub(crate) fn back(self, count: u32) -> OutSequence {
        OutSequence(self.0.wrapping_sub(count))
    }

    /// How far it lies ahead of `other` (RFC 1982 arithmetic).
    pub(crate) fn ahead_of(self, other: OutSequence) -> i32 {
        self.0.wrapping_sub(other.0) as i32
    }

    pub(crate) fn precedes(self, other: OutSequence) -> bool {
        self.ahead_of(other) < 0
    }
}

/// Follows one SSRC's sequence numbers. The first is placed in cycle 1, so that packets reordered before it still have
/// a number above zero.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unwrapper {
    highest: Option<u64>,
}

impl Unwrapper {
    /// The extended number nearest to the highest seen so far.
    pub(crate) fn unwrap(&mut self, sequence: u16) -> u64 {
        let Some(highest) = self.highest else {
            let first = (1 << 16) | u64::from(sequence);
            self.highest = Some(first);
            return first;
        };
        let extended = nearest(highest, sequence);
        if extended > highest {
            self.highest = Some(extended);
        }
        extended
    }

    /// A new SSRC takes over: its numbers lie above everything used before, so rings and mappings never mix the two.
    pub(crate) fn restart(&mut self, sequence: u16) {
        if let Some(highest) = self.highest {
            self.highest = Some((((highest >> 16) + 2) << 16) | u64::from(sequence));
        }
    }

    pub(crate) fn highest(&self) -> Option<u64> {
        self.highest
    }
}

/// The number with these low 16 bits that is nearest to `reference`.
pub(crate) fn nearest(reference: u64, sequence: u16) -> u64 {
    let distance = sequence.wrapping_sub(reference as u16) as i16;
    reference.saturating_add_signed(i64::from(distance))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_extend_across_wraps_and_reordering() {
        let mut unwrapper = Unwrapper::default();
        let first = unwrapper.unwrap(65_534);
        assert_eq!(unwrapper.unwrap(1), first + 3);
        assert_eq!(unwrapper.unwrap(65_535), first + 1);
        assert_eq!(unwrapper.unwrap(2), first + 4);
        assert_eq!(unwrapper.highest(), Some(first + 4));
    }

    #[test]
    fn a_restart_lies_above_everything_before() {
        let mut unwrapper = Unwrapper::default();
        let before = unwrapper.unwrap(60_000);
        unwrapper.restart(3);
        let after = unwrapper.unwrap(3);
        assert!(after > before + 65_536 && after as u16 == 3);
        assert!(unwrapper.unwrap(65_530) > before);
    }
}
