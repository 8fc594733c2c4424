//! Replay window over packet indices (RFC 3711 §3.3.2): a ring of bits behind the highest index seen.

/// Remembers which of the last `WORDS * 64` indices were accepted.
pub(super) struct ReplayWindow<const WORDS: usize> {
    bits: [u64; WORDS],
    /// Highest accepted index; `None` before the first.
    highest: Option<u64>,
}

impl<const WORDS: usize> ReplayWindow<WORDS> {
    const SPAN: u64 = 64 * WORDS as u64;

    pub(super) fn new() -> Self {
        ReplayWindow {
            bits: [0; WORDS],
            highest: None,
        }
    }

    pub(super) fn highest(&self) -> Option<u64> {
        self.highest
    }

    /// Whether `index` may still be accepted: not seen, and not older than the window.
    pub(super) fn is_fresh(&self, index: u64) -> bool {
        match self.highest {
            None => true,
            Some(highest) if index > highest => true,
            Some(highest) => highest - index < Self::SPAN && !self.bit(index),
        }
    }

    /// Marks `index` accepted. Call only for fresh indices of authenticated packets.
    pub(super) fn accept(&mut self, index: u64) {
        let highest = self.highest.unwrap_or(index);
        if index > highest {
            // Bits of the skipped indices still hold what was one span earlier.
            if index - highest >= Self::SPAN {
                self.bits = [0; WORDS];
            } else {
                for skipped in highest + 1..index {
                    self.bits[Self::word(skipped)] &= !Self::mask(skipped);
                }
            }
        }
        self.highest = Some(highest.max(index));
        self.bits[Self::word(index)] |= Self::mask(index);
    }

    fn bit(&self, index: u64) -> bool {
        self.bits[Self::word(index)] & Self::mask(index) != 0
    }

    fn word(index: u64) -> usize {
        (index / 64 % WORDS as u64) as usize
    }

    fn mask(index: u64) -> u64 {
        1 << (index % 64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a set that remembers everything: fresh means above the window's floor and never accepted.
        #[test]
        fn the_window_agrees_with_a_set(start in 0u64..5_000, steps in prop::collection::vec(-300i64..600, 1..400)) {
            let mut window = ReplayWindow::<4>::new();
            let mut seen = BTreeSet::new();
            let mut index = start;
            for step in steps {
                index = index.saturating_add_signed(step);
                let expected = match seen.last() {
                    Some(&highest) if index <= highest => highest - index < 256 && !seen.contains(&index),
                    _ => true,
                };
                prop_assert_eq!(window.is_fresh(index), expected);
                if expected {
                    window.accept(index);
                    seen.insert(index);
                }
            }
        }
    }
}
