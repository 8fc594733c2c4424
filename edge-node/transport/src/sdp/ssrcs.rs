//! Numbers for the streams we send.

use std::collections::HashSet;

/// Visits every 32-bit number once: an odd step through the ring. So no SSRC is handed out twice.
#[derive(Debug)]
pub(super) struct SsrcSequence {
    next: u32,
    step: u32,
}

impl SsrcSequence {
    pub(super) fn new(seed: u64) -> SsrcSequence {
        let bits = mix(seed ^ 0x5353_5243);
        SsrcSequence {
            next: (bits >> 32) as u32,
            step: (bits as u32) | 1,
        }
    }

    pub(super) fn next(&mut self, theirs: &HashSet<u32>) -> u32 {
        loop {
            let ssrc = self.next;
            self.next = self.next.wrapping_add(self.step);
            if ssrc != 0 && !theirs.contains(&ssrc) {
                return ssrc;
            }
        }
    }
}

/// SplitMix64: spreads a seed over 64 bits.
pub(super) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
