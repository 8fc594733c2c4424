//! How outgoing numbers map to the source's, now and a little while ago. The mapping changes only when a layer is
//! switched or a packet is left out, so a few records answer every NACK and place every late packet.

use crate::sequence::{OutSequence, SequenceSpace, SourceSequence};

/// Records kept. With every second frame dropped at 30 fps (temporal layers) this spans about a second.
const RECORDS: usize = 20;

/// A stretch of the outgoing stream with constant offsets. All arithmetic wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) out_start: OutSequence,
    /// Source minus outgoing sequence number, to 32 bits.
    pub(super) sequence: u32,
    /// Outgoing minus source, for the rest.
    pub(super) timestamp: u32,
    pub(super) picture_id: u16,
    /// Dependency descriptor frame number.
    pub(super) frame_number: u16,
    pub(super) tl0: u8,
    /// Where the source's numbers were counted: in another space the same numbers mean other packets.
    pub(super) space: SequenceSpace,
}

impl Mapping {
    pub(super) fn outgoing(&self, source: SourceSequence) -> OutSequence {
        OutSequence((source.0 as u32).wrapping_sub(self.sequence))
    }

    /// The source's number of what was sent as `out`, given a newer one of that space.
    pub(super) fn source(&self, out: OutSequence, newest: SourceSequence) -> Option<SourceSequence> {
        let low = out.0.wrapping_add(self.sequence);
        newest.before(u64::from((newest.0 as u32).wrapping_sub(low)))
    }
}

#[derive(Clone, Debug)]
pub(super) struct History {
    records: [Mapping; RECORDS],
    /// Records in use, newest at `head`.
    len: u8,
    head: u8,
}

impl History {
    pub(super) fn new() -> Self {
        History {
            records: [Mapping::default(); RECORDS],
            len: 0,
            head: 0,
        }
    }

    pub(super) fn current(&self) -> Option<&Mapping> {
        (self.len > 0).then(|| &self.records[usize::from(self.head)])
    }

    /// A new stretch begins. One that began at the same number and so carried nothing is replaced.
    pub(super) fn push(&mut self, mapping: Mapping) {
        if self
            .current()
            .is_some_and(|current| current.out_start == mapping.out_start)
        {
            self.records[usize::from(self.head)] = mapping;
            return;
        }
        if self.len > 0 {
            self.head = (self.head + 1) % RECORDS as u8;
        }
        self.len = (self.len + 1).min(RECORDS as u8);
        self.records[usize::from(self.head)] = mapping;
    }

    /// The stretch that an outgoing number (not above the highest sent) was sent in.
    pub(super) fn of_outgoing(&self, out: OutSequence) -> Option<&Mapping> {
        self.newest_first().find(|m| !out.precedes(m.out_start))
    }

    /// The stretch of `space` that this source number belongs to, and its outgoing number; `None` when it was left out, or
    /// lies outside of what this subscriber was sent.
    pub(super) fn of_source(&self, space: SequenceSpace, source: SourceSequence) -> Option<(&Mapping, OutSequence)> {
        let mut end: Option<OutSequence> = None;
        for mapping in self.newest_first() {
            let out = mapping.outgoing(source);
            if mapping.space == space && !out.precedes(mapping.out_start) && end.is_none_or(|end| out.precedes(end)) {
                return Some((mapping, out));
            }
            // A stretch may have begun above numbers that were never used; a later one then starts below it.
            end = Some(
                end.filter(|&end| end.precedes(mapping.out_start))
                    .unwrap_or(mapping.out_start),
            );
        }
        None
    }

    fn newest_first(&self) -> impl Iterator<Item = &Mapping> {
        let (head, len) = (usize::from(self.head), usize::from(self.len));
        (0..len).map(move |age| &self.records[(head + RECORDS - age) % RECORDS])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Encoding;

    fn space(encoding: u8) -> SequenceSpace {
        SequenceSpace {
            encoding: Encoding(encoding),
            ssrc: u32::from(encoding),
        }
    }

    fn mapping(out_start: u32, sequence: u32, encoding: u8) -> Mapping {
        Mapping {
            out_start: OutSequence(out_start),
            sequence,
            space: space(encoding),
            ..Mapping::default()
        }
    }

    fn outgoing(history: &History, encoding: u8, source: u64) -> Option<u32> {
        let found = history.of_source(space(encoding), SourceSequence(source));
        found.map(|(_, out)| out.0)
    }

    #[test]
    fn numbers_map_within_their_stretch_only() {
        let mut history = History::new();
        assert_eq!(history.of_outgoing(OutSequence(5)), None);
        history.push(mapping(100, 900, 0)); // source 1000.. → 100..
        history.push(mapping(110, 901, 0)); // 1010 left out, 1011 → 110
        history.push(mapping(120, 4_880, 2)); // encoding 2 from 5000 → 120
        assert_eq!(outgoing(&history, 0, 1_009), Some(109));
        assert_eq!(outgoing(&history, 0, 1_010), None);
        assert_eq!(outgoing(&history, 0, 1_011), Some(110));
        assert_eq!(outgoing(&history, 0, 1_021), None, "after the switch");
        assert_eq!(outgoing(&history, 2, 4_999), None, "before the switch");
        assert_eq!(outgoing(&history, 2, 5_003), Some(123));
        assert_eq!(history.of_outgoing(OutSequence(109)).map(|m| m.sequence), Some(900));
        assert_eq!(history.of_outgoing(OutSequence(110)).map(|m| m.sequence), Some(901));
        assert_eq!(history.of_outgoing(OutSequence(99)), None);
    }

    #[test]
    fn old_records_are_forgotten_and_empty_ones_replaced() {
        let mut history = History::new();
        for n in 0..100 {
            history.push(mapping(10 * n, n, 0));
            history.push(mapping(10 * n, n + 1, 0));
        }
        assert_eq!(history.len, RECORDS as u8);
        assert_eq!(history.current().map(|m| m.sequence), Some(100));
        assert_eq!(history.of_outgoing(OutSequence(805)).map(|m| m.sequence), Some(81));
        assert_eq!(history.of_outgoing(OutSequence(795)), None);
    }
}
