//! RTCP (RFC 3550 §6, RFC 4585, RFC 5104): parsing compound packets and writing our own. Parsing borrows, never
//! allocates, and never panics on any bytes; what is malformed ends the compound.

use crate::media::SenderReportInfo;
use crate::twcc::Feedback;

mod write;
pub use write::Writer;

const SR: u8 = 200;
const RR: u8 = 201;
const SDES: u8 = 202;
const BYE: u8 = 203;
const RTPFB: u8 = 205;
const PSFB: u8 = 206;
/// Feedback message types (the 5 bits that are a count elsewhere).
const FMT_NACK: u8 = 1;
const FMT_TRANSPORT_CC: u8 = 15;
const FMT_PLI: u8 = 1;
const FMT_FIR: u8 = 4;
const FMT_REMB: u8 = 15;

const BLOCK: usize = 24;

/// RFC 3550 §6.4.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportBlock {
    pub ssrc: u32,
    /// 0–255 of 256.
    pub fraction_lost: u8,
    /// 24-bit signed.
    pub cumulative_lost: i32,
    pub highest_sequence: u32,
    /// RTP timestamp units.
    pub jitter: u32,
    /// Middle 32 bits of the NTP timestamp of the last sender report; 0 = none.
    pub last_sr: u32,
    /// Units of 1/65536 s.
    pub delay_since_last_sr: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderReport {
    pub ssrc: u32,
    pub info: SenderReportInfo,
    pub packets: u32,
    pub octets: u32,
}

/// One RTCP packet of a compound.
#[derive(Clone, Debug)]
pub enum Rtcp<'a> {
    SenderReport {
        report: SenderReport,
        blocks: ReportBlocks<'a>,
    },
    ReceiverReport {
        ssrc: u32,
        blocks: ReportBlocks<'a>,
    },
    Nack {
        media_ssrc: u32,
        sequences: NackSequences<'a>,
    },
    TransportFeedback(Feedback<'a>),
    /// Picture loss indication.
    Pli {
        media_ssrc: u32,
    },
    /// Full intra request, for each SSRC in it.
    Fir {
        targets: FirTargets<'a>,
    },
    /// Receiver-estimated maximum bitrate (draft-alvestrand-rmcat-remb).
    Remb {
        bitrate_bps: u64,
    },
    Bye {
        ssrcs: Ssrcs<'a>,
    },
    /// Known and not needed (SDES, XR, APP), or unknown.
    Other,
}

/// Walks a (compound or reduced-size) RTCP datagram; ends at the first malformed packet.
pub fn parse(data: &[u8]) -> Packets<'_> {
    Packets { rest: data }
}

/// Iterator of [`parse`].
#[derive(Clone, Debug)]
pub struct Packets<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Packets<'a> {
    type Item = Rtcp<'a>;

    fn next(&mut self) -> Option<Rtcp<'a>> {
        let head = self.rest.first_chunk::<4>()?;
        if head[0] >> 6 != 2 {
            return None;
        }
        let len = 4 * (usize::from(u16::from_be_bytes([head[2], head[3]])) + 1);
        if self.rest.len() < len {
            return None;
        }
        let (packet, rest) = self.rest.split_at(len);
        self.rest = rest;
        let body = unpadded(packet)?;
        let parsed = parse_one(head[1], head[0] & 0x1F, body);
        if parsed.is_none() {
            self.rest = &[];
        }
        parsed
    }
}

/// The packet without its 4-byte header and without padding (RFC 3550 §6.4.1).
fn unpadded(packet: &[u8]) -> Option<&[u8]> {
    let body = &packet[4..];
    if packet[0] & 0x20 == 0 {
        return Some(body);
    }
    let padding = usize::from(*body.last()?);
    if padding == 0 {
        return None;
    }
    body.get(..body.len().checked_sub(padding)?)
}

fn parse_one(packet_type: u8, count: u8, body: &[u8]) -> Option<Rtcp<'_>> {
    Some(match (packet_type, count) {
        (SR, count) => {
            let report = SenderReport {
                ssrc: u32_at(body, 0)?,
                info: SenderReportInfo {
                    ntp: u64::from(u32_at(body, 4)?) << 32 | u64::from(u32_at(body, 8)?),
                    rtp_timestamp: u32_at(body, 12)?,
                },
                packets: u32_at(body, 16)?,
                octets: u32_at(body, 20)?,
            };
            Rtcp::SenderReport {
                report,
                blocks: ReportBlocks::new(&body[24..], count)?,
            }
        }
        (RR, count) => Rtcp::ReceiverReport {
            ssrc: u32_at(body, 0)?,
            blocks: ReportBlocks::new(&body[4..], count)?,
        },
        (BYE, count) => Rtcp::Bye {
            ssrcs: Ssrcs(body.get(..4 * usize::from(count))?),
        },
        (RTPFB, FMT_NACK) => Rtcp::Nack {
            media_ssrc: u32_at(body, 4)?,
            sequences: NackSequences::new(&body[8..]),
        },
        (RTPFB, FMT_TRANSPORT_CC) => Rtcp::TransportFeedback(Feedback::parse(body)?),
        (PSFB, FMT_PLI) => Rtcp::Pli {
            media_ssrc: u32_at(body, 4)?,
        },
        (PSFB, FMT_FIR) => {
            u32_at(body, 4)?;
            Rtcp::Fir {
                targets: FirTargets(&body[8..]),
            }
        }
        (PSFB, FMT_REMB) if body.get(8..12) == Some(b"REMB") => {
            let word = u32_at(body, 12)?;
            let (exponent, mantissa) = ((word >> 18) & 0x3F, u64::from(word & 0x3_FFFF));
            Rtcp::Remb {
                bitrate_bps: mantissa.checked_shl(exponent).unwrap_or(u64::MAX),
            }
        }
        _ => Rtcp::Other,
    })
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..at + 4)?
        .first_chunk::<4>()
        .map(|bytes| u32::from_be_bytes(*bytes))
}

/// Report blocks of an SR or RR.
#[derive(Clone, Debug)]
pub struct ReportBlocks<'a>(&'a [u8]);

impl<'a> ReportBlocks<'a> {
    fn new(body: &'a [u8], count: u8) -> Option<Self> {
        body.get(..BLOCK * usize::from(count)).map(ReportBlocks)
    }
}

impl Iterator for ReportBlocks<'_> {
    type Item = ReportBlock;

    fn next(&mut self) -> Option<ReportBlock> {
        let block = self.0.get(..BLOCK)?;
        self.0 = &self.0[BLOCK..];
        let lost = u32_at(block, 4)?;
        Some(ReportBlock {
            ssrc: u32_at(block, 0)?,
            fraction_lost: (lost >> 24) as u8,
            cumulative_lost: ((lost << 8) as i32) >> 8,
            highest_sequence: u32_at(block, 8)?,
            jitter: u32_at(block, 12)?,
            last_sr: u32_at(block, 16)?,
            delay_since_last_sr: u32_at(block, 20)?,
        })
    }
}

/// Lost sequence numbers, PID and BLP expanded (RFC 4585 §6.2.1).
#[derive(Clone, Debug)]
pub struct NackSequences<'a> {
    rest: &'a [u8],
    base: u16,
    /// Bit 0 = `base` itself, bit n = `base + n`.
    pending: u32,
}

impl<'a> NackSequences<'a> {
    fn new(rest: &'a [u8]) -> Self {
        NackSequences {
            rest,
            base: 0,
            pending: 0,
        }
    }
}

impl Iterator for NackSequences<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        if self.pending == 0 {
            let item = u32_at(self.rest, 0)?;
            self.rest = &self.rest[4..];
            self.base = (item >> 16) as u16;
            self.pending = (item & 0xFFFF) << 1 | 1;
        }
        let bit = self.pending.trailing_zeros();
        self.pending &= self.pending - 1;
        Some(self.base.wrapping_add(bit as u16))
    }
}

/// Media SSRCs of a FIR (RFC 5104 §4.3.1).
#[derive(Clone, Debug)]
pub struct FirTargets<'a>(&'a [u8]);

impl Iterator for FirTargets<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let ssrc = u32_at(self.0, 0)?;
        self.0 = self.0.get(8..)?;
        Some(ssrc)
    }
}

/// SSRCs that left.
#[derive(Clone, Debug)]
pub struct Ssrcs<'a>(&'a [u8]);

impl Iterator for Ssrcs<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let ssrc = u32_at(self.0, 0)?;
        self.0 = &self.0[4..];
        Some(ssrc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_compound_comes_back_as_it_was_written() {
        let mut out = Vec::new();
        let block = ReportBlock {
            ssrc: 9,
            fraction_lost: 12,
            cumulative_lost: -3,
            highest_sequence: 0x1_0005,
            jitter: 77,
            last_sr: 0xABCD_EF01,
            delay_since_last_sr: 65_536,
        };
        let info = SenderReportInfo {
            ntp: 0x0123_4567_89AB_CDEF,
            rtp_timestamp: 0xFFFF_0001,
        };
        let report = SenderReport {
            ssrc: 5,
            info,
            packets: 100,
            octets: 9_000,
        };
        Writer::new(&mut out)
            .sender_report(&report, &[block])
            .cname(5, "meridian")
            .nack(5, 9, &[65_534, 65_535, 1, 20])
            .pli(5, 9)
            .fir(5, 9, 3)
            .receiver_report(5, &[block, block])
            .bye(5);
        assert_eq!(out.len() % 4, 0);
        let packets: Vec<_> = parse(&out).collect();
        assert_eq!(packets.len(), 7);
        assert!(matches!(&packets[0], Rtcp::SenderReport { report: r, blocks }
            if *r == report && blocks.clone().eq([block])));
        assert!(matches!(packets[1], Rtcp::Other));
        assert!(matches!(&packets[2], Rtcp::Nack { media_ssrc: 9, sequences }
            if sequences.clone().eq([65_534, 65_535, 1, 20])));
        assert!(matches!(packets[3], Rtcp::Pli { media_ssrc: 9 }));
        assert!(matches!(&packets[4], Rtcp::Fir { targets } if targets.clone().eq([9])));
        assert!(matches!(&packets[5], Rtcp::ReceiverReport { ssrc: 5, blocks } if blocks.clone().count() == 2));
        assert!(matches!(&packets[6], Rtcp::Bye { ssrcs } if ssrcs.clone().eq([5])));
    }

    #[test]
    fn a_nack_starts_a_new_pair_where_the_sequence_numbers_wrap() {
        let mut out = Vec::new();
        Writer::new(&mut out).nack(1, 2, &[65_534, 65_535, 0, 1]);
        assert_eq!(out[12..], [0xFF, 0xFE, 0, 1, 0, 0, 0, 1]);
    }

    #[test]
    fn remb_is_read_and_padding_is_not() {
        let remb = [
            0x8F, 206, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0, b'R', b'E', b'M', b'B', 1, 0x0F, 0xFF, 0xFF, 0, 0, 0, 7,
        ];
        assert!(matches!(parse(&remb).next(), Some(Rtcp::Remb { bitrate_bps }) if bitrate_bps == 0x3_FFFF << 3));
        let padded = [0xA1, 205, 0, 4, 0, 0, 0, 1, 0, 0, 0, 9, 0, 5, 0, 1, 0, 0, 0, 4];
        let Some(Rtcp::Nack { sequences, .. }) = parse(&padded).next() else {
            panic!("a NACK")
        };
        assert!(sequences.eq([5, 6]));
    }

    #[test]
    fn a_report_whose_blocks_do_not_fit_ends_the_compound() {
        let mut out = Vec::new();
        Writer::new(&mut out).receiver_report(1, &[]).pli(1, 2);
        out[0] |= 1;
        assert_eq!(parse(&out).count(), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_without_panic(data in prop::collection::vec(any::<u8>(), 0..300), kind in 0u8..8) {
            let mut data = data;
            if let Some(head) = data.first_chunk_mut::<4>() {
                head[0] = head[0] & 0x3F | 0x80;
                head[1] = 199 + kind;
                head[2] = 0;
            }
            for packet in parse(&data) {
                match packet {
                    Rtcp::SenderReport { blocks, .. } | Rtcp::ReceiverReport { blocks, .. } => drop(blocks.count()),
                    Rtcp::Nack { sequences, .. } => prop_assert!(sequences.count() <= 300 * 17 / 4),
                    Rtcp::TransportFeedback(feedback) => drop(feedback.packets().count()),
                    Rtcp::Fir { targets } => drop(targets.count()),
                    Rtcp::Bye { ssrcs } => drop(ssrcs.count()),
                    Rtcp::Pli { .. } | Rtcp::Remb { .. } | Rtcp::Other => {}
                }
            }
        }

        #[test]
        fn nacked_numbers_survive_the_bitmask(first: u16, gaps in prop::collection::vec(1u16..40, 0..60)) {
            let mut sequences = vec![first];
            for gap in gaps {
                sequences.push(sequences[sequences.len() - 1].wrapping_add(gap));
            }
            let mut out = Vec::new();
            Writer::new(&mut out).nack(1, 2, &sequences);
            let Some(Rtcp::Nack { sequences: read, .. }) = parse(&out).next() else { panic!("a NACK") };
            prop_assert_eq!(read.collect::<Vec<_>>(), sequences);
        }
    }
}
