//! What may reach the SCTP library (spec/transport.md): it slices past the end on an error cause that lies about its
//! length, loops 2^31 times on a FORWARD TSN far ahead and 2^24 times on wide gap reports, and opens a stream for any id. Every chunk is checked here first.

/// SCTP packets come one per DTLS record; nobody sends more than an Ethernet frame.
const MAX_PACKET_LEN: usize = 2_048;
const COMMON_HEADER_LEN: usize = 12;
const CHUNK_HEADER_LEN: usize = 4;
/// DATA: chunk header, TSN, stream, sequence, protocol.
const DATA_HEADER_LEN: usize = 16;
/// INIT and INIT ACK: chunk header, tag, window, streams, initial TSN.
const INIT_LEN: usize = 20;
/// Streams a client may use. Browsers number channels from 0 in steps of 2; each stream costs about 500 bytes.
pub(super) const MAX_STREAMS: u16 = 256;
/// Bytes the client may have unread by us: incomplete messages, gaps, and what is held back.
pub(super) const RECEIVE_BUFFER_LEN: u32 = 128 * 1024;
/// How far ahead of what we acknowledged a TSN may be: 4,096 full chunks are 4.7 MB, far beyond our receive window.
const TSN_WINDOW: u32 = 4_096;
/// Chunks the library may keep for messages it cannot deliver yet. It counts their bytes only, and one of one byte costs
/// 700.
const MAX_KEPT: u32 = 4_096;
/// TSNs one SACK may report as received out of order, all gap blocks together: more than we ever have in flight.
const MAX_GAP_TSNS: usize = 16_384;
/// Stream reset requests per association: the library keeps those it cannot do yet.
const MAX_RECONFIGS: u32 = 512;

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const SACK: u8 = 3;
const ABORT: u8 = 6;
const ERROR: u8 = 9;
const RECONFIG: u8 = 130;
const FORWARD_TSN: u8 = 192;

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Harmless: hand it in. `init` is the initiate tag if it asks for a new association.
    Pass {
        init: Option<u32>,
    },
    /// The client ended the association. Acted on here, so that no ABORT is ever parsed.
    Abort,
    Drop,
}

/// Validates packets of one association.
#[derive(Default)]
pub(super) struct PacketGuard {
    /// Highest TSN of the peer below which we have everything, as we last told it.
    cumulative: Option<u32>,
    /// Highest TSN let through, and how many up to it were neither delivered nor known to be gone.
    highest: u32,
    kept: u32,
    /// The association stands: nobody begins it again.
    established: bool,
    reconfigs: u32,
}

impl PacketGuard {
    pub(super) fn set_established(&mut self) {
        self.established = true;
    }

    pub(super) fn inbound(&mut self, packet: &[u8]) -> Verdict {
        self.check(packet).unwrap_or(Verdict::Drop)
    }

    fn check(&mut self, packet: &[u8]) -> Option<Verdict> {
        if packet.len() > MAX_PACKET_LEN {
            return None;
        }
        let mut rest = packet.get(COMMON_HEADER_LEN..)?;
        let mut init = None;
        if rest.is_empty() {
            return None;
        }
        while !rest.is_empty() {
            let header = rest.get(..CHUNK_HEADER_LEN)?;
            let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
            if len < CHUNK_HEADER_LEN {
                return None;
            }
            let chunk = rest.get(..len)?;
            match chunk[0] {
                ABORT => return Some(Verdict::Abort),
                INIT | INIT_ACK if self.established => return None,
                INIT | INIT_ACK => {
                    init = init.or((chunk[0] == INIT).then_some(be32(chunk, 4)?));
                    self.highest = be32(chunk, INIT_LEN - 4)?.wrapping_sub(1);
                    self.cumulative = Some(self.highest);
                    self.kept = 0;
                }
                _ => self.check_chunk(chunk)?,
            }
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        }
        Some(Verdict::Pass { init })
    }

    fn check_chunk(&mut self, chunk: &[u8]) -> Option<()> {
        let acceptable = match chunk[0] {
            // RFC 9260 §3.3.1: a DATA chunk without data is a protocol violation.
            DATA => {
                chunk.len() > DATA_HEADER_LEN
                    && self.is_in_window(be32(chunk, 4)?)
                    && u16::from_be_bytes([chunk[8], chunk[9]]) < MAX_STREAMS
                    && self.has_room(be32(chunk, 4)?)
            }
            FORWARD_TSN => self.is_in_window(be32(chunk, 4)?),
            SACK => gaps_are_sane(chunk),
            ERROR => causes_are_sound(&chunk[CHUNK_HEADER_LEN..]),
            RECONFIG => {
                self.reconfigs += 1;
                self.reconfigs <= MAX_RECONFIGS
            }
            _ => true,
        };
        acceptable.then_some(())
    }

    /// Ahead of the acknowledged TSN by at most the window, or behind it (a retransmission).
    fn is_in_window(&self, tsn: u32) -> bool {
        self.cumulative.is_some_and(|cumulative| {
            let ahead = tsn.wrapping_sub(cumulative);
            ahead <= TSN_WINDOW || ahead >= 1 << 31
        })
    }

    /// Retransmissions always have room: they may be what completes a message.
    fn has_room(&mut self, tsn: u32) -> bool {
        let ahead = tsn.wrapping_sub(self.highest);
        if ahead == 0 || ahead >= 1 << 31 {
            return true;
        }
        if self.kept >= MAX_KEPT {
            return false;
        }
        self.highest = tsn;
        self.kept += ahead;
        true
    }

    /// A message of so many chunks was read.
    pub(super) fn delivered(&mut self, chunks: usize) {
        self.kept = self.kept.saturating_sub(chunks as u32);
    }

    /// Learns from our own packets what was acknowledged.
    pub(super) fn outbound(&mut self, packet: &[u8]) {
        let mut rest = packet.get(COMMON_HEADER_LEN..).unwrap_or(&[]);
        while let Some((header, _)) = rest.split_at_checked(CHUNK_HEADER_LEN) {
            let len = usize::from(u16::from_be_bytes([header[2], header[3]])).max(CHUNK_HEADER_LEN);
            if header[0] == SACK {
                self.cumulative = be32(rest, CHUNK_HEADER_LEN).or(self.cumulative);
                // The window is whole: nothing is kept, and what was not delivered was abandoned.
                if be32(rest, CHUNK_HEADER_LEN + 4) == Some(RECEIVE_BUFFER_LEN) {
                    self.kept = 0;
                }
            }
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        }
    }
}

/// Whether a packet that has passed the guard brings data, and besides at most acknowledgements: to hand it in twice changes nothing.
pub(super) fn is_only_data(packet: &[u8]) -> bool {
    let mut rest = packet.get(COMMON_HEADER_LEN..).unwrap_or(&[]);
    let mut data = false;
    while let Some((header, _)) = rest.split_at_checked(CHUNK_HEADER_LEN) {
        match header[0] {
            DATA => data = true,
            SACK => {}
            _ => return false,
        }
        let len = usize::from(u16::from_be_bytes([header[2], header[3]])).max(CHUNK_HEADER_LEN);
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    data
}

/// Walks error causes exactly as the library does: without padding between them.
fn causes_are_sound(mut causes: &[u8]) -> bool {
    while causes.len() >= 4 {
        let len = usize::from(u16::from_be_bytes([causes[2], causes[3]]));
        match causes.get(len..) {
            Some(next) if len >= 4 => causes = next,
            _ => return false,
        }
    }
    true
}

/// The library visits every TSN of every gap block, in flight or not.
fn gaps_are_sane(sack: &[u8]) -> bool {
    let Some(counts) = sack.get(12..16) else { return false };
    let blocks = usize::from(u16::from_be_bytes([counts[0], counts[1]]));
    let Some(blocks) = sack.get(16..16 + 4 * blocks) else {
        return false;
    };
    let tsns: usize = blocks
        .chunks_exact(4)
        .map(|block| {
            let (start, end) = (
                u16::from_be_bytes([block[0], block[1]]),
                u16::from_be_bytes([block[2], block[3]]),
            );
            usize::from(end.saturating_sub(start)) + 1
        })
        .sum();
    tsns <= MAX_GAP_TSNS
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(chunks: &[&[u8]]) -> Vec<u8> {
        let mut packet = vec![0; COMMON_HEADER_LEN];
        for chunk in chunks {
            packet.extend_from_slice(chunk);
            packet.resize(packet.len().next_multiple_of(4), 0);
        }
        packet
    }

    fn chunk(kind: u8, value: &[u8]) -> Vec<u8> {
        let mut chunk = vec![kind, 0];
        chunk.extend_from_slice(&(value.len() as u16 + 4).to_be_bytes());
        chunk.extend_from_slice(value);
        chunk
    }

    fn data(tsn: u32, stream: u16, payload: &[u8]) -> Vec<u8> {
        let mut value = tsn.to_be_bytes().to_vec();
        value.extend_from_slice(&stream.to_be_bytes());
        value.extend_from_slice(&[0; 6]);
        value.extend_from_slice(payload);
        chunk(DATA, &value)
    }

    /// A guard that saw an INIT with initial TSN 1000.
    fn guard() -> PacketGuard {
        let mut guard = PacketGuard::default();
        let mut init = vec![0; 16];
        init[3] = 7;
        init[12..].copy_from_slice(&1000u32.to_be_bytes());
        assert_eq!(
            guard.inbound(&packet(&[&chunk(INIT, &init)])),
            Verdict::Pass { init: Some(7) }
        );
        guard
    }

    #[test]
    fn data_is_bounded_in_stream_and_tsn() {
        let pass = Verdict::Pass { init: None };
        let mut guard = guard();
        assert_eq!(guard.inbound(&packet(&[&data(1000, 0, b"a")])), pass);
        assert_eq!(guard.inbound(&packet(&[&data(1000, MAX_STREAMS, b"a")])), Verdict::Drop);
        assert_eq!(guard.inbound(&packet(&[&data(1000, 0, b"")])), Verdict::Drop);
        assert_eq!(
            guard.inbound(&packet(&[&data(1000 + TSN_WINDOW, 0, b"a")])),
            Verdict::Drop
        );
        assert_eq!(guard.inbound(&packet(&[&data(999 + TSN_WINDOW, 0, b"a")])), pass);
        assert_eq!(guard.inbound(&packet(&[&data(5, 0, b"a")])), pass, "a retransmission");
    }

    #[test]
    fn undelivered_chunks_are_counted_until_they_are_read_or_gone() {
        let pass = Verdict::Pass { init: None };
        let mut guard = guard();
        let sack = |cumulative: u32, window: u32| {
            let mut value = cumulative.to_be_bytes().to_vec();
            value.extend_from_slice(&window.to_be_bytes());
            packet(&[&chunk(SACK, &value)])
        };
        for tsn in 1000..1000 + MAX_KEPT {
            assert_eq!(guard.inbound(&packet(&[&data(tsn, 0, b"a")])), pass);
        }
        let next = 1000 + MAX_KEPT;
        guard.outbound(&sack(next - 1, RECEIVE_BUFFER_LEN - MAX_KEPT));
        assert_eq!(guard.inbound(&packet(&[&data(next, 0, b"a")])), Verdict::Drop);
        assert_eq!(
            guard.inbound(&packet(&[&data(next - 5, 0, b"a")])),
            pass,
            "what may complete a message"
        );
        guard.delivered(1);
        assert_eq!(guard.inbound(&packet(&[&data(next, 0, b"a")])), pass);
        assert_eq!(guard.inbound(&packet(&[&data(next + 1, 0, b"a")])), Verdict::Drop);
        guard.outbound(&sack(next, RECEIVE_BUFFER_LEN));
        assert_eq!(guard.inbound(&packet(&[&data(next + 1, 0, b"a")])), pass, "all read");
    }

    #[test]
    fn a_forward_tsn_cannot_jump() {
        let mut guard = guard();
        let jump = |tsn: u32| packet(&[&chunk(FORWARD_TSN, &tsn.to_be_bytes())]);
        assert_eq!(guard.inbound(&jump(1_200)), Verdict::Pass { init: None });
        assert_eq!(guard.inbound(&jump(1 << 30)), Verdict::Drop);
        assert_eq!(
            PacketGuard::default().inbound(&jump(0)),
            Verdict::Drop,
            "before any INIT"
        );
    }

    #[test]
    fn lying_lengths_are_dropped_and_an_abort_is_never_parsed() {
        let mut guard = guard();
        let lying_cause = chunk(ERROR, &[0, 1, 0xff, 0xff]);
        assert_eq!(guard.inbound(&packet(&[&lying_cause])), Verdict::Drop);
        assert_eq!(
            guard.inbound(&packet(&[&chunk(ERROR, &[0, 1, 0, 4])])),
            Verdict::Pass { init: None }
        );
        assert_eq!(
            guard.inbound(&packet(&[&chunk(ABORT, &[0, 1, 0xff, 0xff])])),
            Verdict::Abort
        );
        assert_eq!(
            guard.inbound(&packet(&[&[5, 0, 0, 3]])),
            Verdict::Drop,
            "shorter than its header"
        );
        assert_eq!(
            guard.inbound(&packet(&[&[5, 0, 0, 30]])),
            Verdict::Drop,
            "longer than the packet"
        );
        assert_eq!(guard.inbound(&[0; 12]), Verdict::Drop, "no chunk at all");
    }

    #[test]
    fn a_sack_cannot_report_more_than_could_be_in_flight() {
        let sack = |blocks: &[[u16; 2]]| {
            let mut value = vec![0; 8];
            value.extend_from_slice(&(blocks.len() as u16).to_be_bytes());
            value.extend_from_slice(&[0, 0]);
            value.extend(blocks.iter().flatten().flat_map(|edge| edge.to_be_bytes()));
            packet(&[&chunk(SACK, &value)])
        };
        let mut guard = guard();
        assert_eq!(guard.inbound(&sack(&[[2, 5], [9, 9]])), Verdict::Pass { init: None });
        assert_eq!(guard.inbound(&sack(&[[1, 60_000]])), Verdict::Drop);
        assert_eq!(guard.inbound(&sack(&[[1, 9_000], [1, 9_000]])), Verdict::Drop);
        let mut lying = sack(&[[2, 5]]);
        lying[COMMON_HEADER_LEN + 13] = 200;
        assert_eq!(guard.inbound(&lying), Verdict::Drop, "more blocks than bytes");
    }

    #[test]
    fn an_association_that_stands_is_not_begun_again() {
        let mut guard = guard();
        guard.set_established();
        let mut init = vec![0; 16];
        init[12..].copy_from_slice(&0xffff_ffffu32.to_be_bytes());
        assert_eq!(guard.inbound(&packet(&[&chunk(INIT, &init)])), Verdict::Drop);
        assert_eq!(
            guard.inbound(&packet(&[&data(0, 0, b"a")])),
            Verdict::Pass { init: None },
            "an old TSN still"
        );
        assert_eq!(
            guard.inbound(&packet(&[&data(999 + TSN_WINDOW, 0, b"a")])),
            Verdict::Pass { init: None }
        );
    }

    #[test]
    fn resets_are_counted() {
        let mut guard = guard();
        let reset = packet(&[&chunk(RECONFIG, &[0; 4])]);
        for _ in 0..MAX_RECONFIGS {
            assert_ne!(guard.inbound(&reset), Verdict::Drop);
        }
        assert_eq!(guard.inbound(&reset), Verdict::Drop);
    }
}
