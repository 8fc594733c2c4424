//! Writing RTCP. Appends to a buffer that the caller reuses.

use super::{BYE, FMT_FIR, FMT_NACK, FMT_PLI, PSFB, RR, RTPFB, ReportBlock, SDES, SR, SenderReport};

/// Most report blocks one packet can carry (5-bit count).
const BLOCKS_MAX: usize = 31;

/// Appends RTCP packets to `out`; together they form one compound datagram. A compound starts with `sender_report` or
/// `receiver_report`, unless reduced-size RTCP (RFC 5506) was negotiated, as all WebRTC clients do.
pub struct Writer<'a> {
    pub out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Writer { out }
    }

    /// At most 31 blocks are written.
    pub fn sender_report(&mut self, report: &SenderReport, blocks: &[ReportBlock]) -> &mut Self {
        let start = self.begin();
        self.out.extend(report.ssrc.to_be_bytes());
        self.out.extend(report.info.ntp.to_be_bytes());
        self.out.extend(report.info.rtp_timestamp.to_be_bytes());
        self.out.extend(report.packets.to_be_bytes());
        self.out.extend(report.octets.to_be_bytes());
        let count = self.blocks(blocks);
        self.end(start, SR, count)
    }

    /// At most 31 blocks are written.
    pub fn receiver_report(&mut self, ssrc: u32, blocks: &[ReportBlock]) -> &mut Self {
        let start = self.begin();
        self.out.extend(ssrc.to_be_bytes());
        let count = self.blocks(blocks);
        self.end(start, RR, count)
    }

    /// SDES with one CNAME item, cut at 255 bytes.
    pub fn cname(&mut self, ssrc: u32, cname: &str) -> &mut Self {
        let name = &cname.as_bytes()[..cname.len().min(255)];
        let start = self.begin();
        self.out.extend(ssrc.to_be_bytes());
        self.out.extend([1, name.len() as u8]);
        self.out.extend(name);
        // The item list ends with at least one zero and is padded to a word (RFC 3550 §6.5).
        let end = (self.out.len() - start + 1).next_multiple_of(4) + start;
        self.out.resize(end, 0);
        self.end(start, SDES, 1)
    }

    pub fn bye(&mut self, ssrc: u32) -> &mut Self {
        let start = self.begin();
        self.out.extend(ssrc.to_be_bytes());
        self.end(start, BYE, 1)
    }

    /// `sequences` ascending (modulo 2^16); packed into PID/BLP pairs. No pair reaches over the wrap, where it could: aiortc adds the mask's bits
    /// without RFC 4585's modulo and would never send again what follows 65,535 (findings/aiortc-never-resends-across-the-wrap.sh).
    pub fn nack(&mut self, sender_ssrc: u32, media_ssrc: u32, sequences: &[u16]) -> &mut Self {
        let start = self.begin();
        self.feedback(sender_ssrc, media_ssrc);
        let mut rest = sequences;
        while let Some((&pid, mut following)) = rest.split_first() {
            let mut blp = 0u16;
            while let Some((&next, tail)) = following.split_first() {
                match next.wrapping_sub(pid) {
                    0 => {}
                    distance @ 1..=16 if next > pid => blp |= 1 << (distance - 1),
                    _ => break,
                }
                following = tail;
            }
            self.out.extend(pid.to_be_bytes());
            self.out.extend(blp.to_be_bytes());
            rest = following;
        }
        self.end(start, RTPFB, FMT_NACK)
    }

    pub fn pli(&mut self, sender_ssrc: u32, media_ssrc: u32) -> &mut Self {
        let start = self.begin();
        self.feedback(sender_ssrc, media_ssrc);
        self.end(start, PSFB, FMT_PLI)
    }

    /// `command` changes with every new request (RFC 5104 §4.3.1.1).
    pub fn fir(&mut self, sender_ssrc: u32, media_ssrc: u32, command: u8) -> &mut Self {
        let start = self.begin();
        self.feedback(sender_ssrc, 0);
        self.out.extend(media_ssrc.to_be_bytes());
        self.out.extend([command, 0, 0, 0]);
        self.end(start, PSFB, FMT_FIR)
    }

    /// Reserves the header; `end` fills it in.
    pub(crate) fn begin(&mut self) -> usize {
        let start = self.out.len();
        self.out.extend([0; 4]);
        start
    }

    pub(crate) fn end(&mut self, start: usize, packet_type: u8, count: u8) -> &mut Self {
        let words = ((self.out.len() - start) / 4 - 1) as u16;
        self.out[start] |= 0x80 | count & 0x1F;
        self.out[start + 1] = packet_type;
        self.out[start + 2..start + 4].copy_from_slice(&words.to_be_bytes());
        self
    }

    pub(crate) fn feedback(&mut self, sender_ssrc: u32, media_ssrc: u32) {
        self.out.extend(sender_ssrc.to_be_bytes());
        self.out.extend(media_ssrc.to_be_bytes());
    }

    fn blocks(&mut self, blocks: &[ReportBlock]) -> u8 {
        let written = &blocks[..blocks.len().min(BLOCKS_MAX)];
        for block in written {
            let lost = block.cumulative_lost.clamp(-0x80_0000, 0x7F_FFFF) as u32 & 0xFF_FFFF;
            self.out.extend(block.ssrc.to_be_bytes());
            self.out
                .extend((u32::from(block.fraction_lost) << 24 | lost).to_be_bytes());
            self.out.extend(block.highest_sequence.to_be_bytes());
            self.out.extend(block.jitter.to_be_bytes());
            self.out.extend(block.last_sr.to_be_bytes());
            self.out.extend(block.delay_since_last_sr.to_be_bytes());
        }
        written.len() as u8
    }
}
