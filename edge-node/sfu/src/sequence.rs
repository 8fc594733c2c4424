//! Extending 16-bit RTP sequence numbers to 64 bits.

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
