//! How outgoing numbers map to the source's, now and a little while ago. The mapping changes only when a layer is
//! switched or a packet is left out, so a few records answer every NACK and place every late packet.

/// Records kept. With every second frame dropped at 30 fps (temporal layers) this spans about a second.
const RECORDS: usize = 20;

/// A stretch of the outgoing stream with constant offsets. All arithmetic wraps; extended sequence numbers are kept to
/// 32 bits, which a stream outgrows after 40 days of 1,000 packets a second, harmlessly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mapping {
    /// First outgoing extended sequence number.
    pub(super) out_start: u32,
    /// Source minus outgoing extended sequence number.
    pub(super) sequence: u32,
    /// Outgoing minus source, for the rest.
    pub(super) timestamp: u32,
    pub(super) picture_id: u16,
    /// Dependency descriptor frame number.
    pub(super) frame_number: u16,
    pub(super) tl0: u8,
    pub(super) layer: u8,
    /// The encoder whose packets these are: after a restart, the same numbers can mean other packets.
    pub(super) source_ssrc: u32,
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
    pub(super) fn of_outgoing(&self, out: u32) -> Option<&Mapping> {
        self.newest_first().find(|m| !precedes(out, m.out_start))
    }

    /// The stretch of `layer` that this source number belongs to, and its outgoing number; `None` when it was left out, or
    /// lies outside of what this subscriber was sent.
    pub(super) fn of_source(&self, layer: u8, source: u32) -> Option<(&Mapping, u32)> {
        let mut end: Option<u32> = None;
        for mapping in self.newest_first() {
            let out = source.wrapping_sub(mapping.sequence);
            if mapping.layer == layer && !precedes(out, mapping.out_start) && end.is_none_or(|end| precedes(out, end)) {
                return Some((mapping, out));
            }
            // A stretch may have begun above numbers that were never used; a later one then starts below it.
            end = Some(
                end.filter(|&end| precedes(end, mapping.out_start))
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

/// Serial number arithmetic (RFC 1982).
pub(super) fn precedes(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(out_start: u32, sequence: u32, layer: u8) -> Mapping {
        Mapping {
            out_start,
            sequence,
            layer,
            ..Mapping::default()
        }
    }

    #[test]
    fn numbers_map_within_their_stretch_only() {
        let mut history = History::new();
        assert_eq!(history.of_outgoing(5), None);
        history.push(mapping(100, 900, 0)); // source 1000.. → 100..
        history.push(mapping(110, 901, 0)); // 1010 left out, 1011 → 110
        history.push(mapping(120, 4_880, 2)); // layer 2 from 5000 → 120
        assert_eq!(history.of_source(0, 1_009).map(|(_, out)| out), Some(109));
        assert_eq!(history.of_source(0, 1_010).map(|(_, out)| out), None);
        assert_eq!(history.of_source(0, 1_011).map(|(_, out)| out), Some(110));
        assert_eq!(history.of_source(0, 1_021), None, "after the switch");
        assert_eq!(history.of_source(2, 4_999), None, "before the switch");
        assert_eq!(history.of_source(2, 5_003).map(|(_, out)| out), Some(123));
        assert_eq!(history.of_outgoing(109).map(|m| m.sequence), Some(900));
        assert_eq!(history.of_outgoing(110).map(|m| m.sequence), Some(901));
        assert_eq!(history.of_outgoing(99), None);
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
        assert_eq!(history.of_outgoing(805).map(|m| m.sequence), Some(81));
        assert_eq!(history.of_outgoing(795), None);
    }
}
