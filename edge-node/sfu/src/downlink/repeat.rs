//! Packets below the highest number: what a NACK asks for again, and what came late. Within a budget, so that a subscriber that NACKs
//! everything for ever costs at most half a stream more.

use super::history::Mapping;
use super::rewrite::{self, Outgoing};
use super::{Downlink, Forwarded, Numbered, SendContext, WINDOW};
use crate::packet::{RtpHeader, RtpPacket};
use crate::sequence::OutSequence;
use crate::source::Source;

/// A NACK for a number further back than this is not looked up.
const NACK_AGE_MAX: u16 = 4_096;
/// Retransmissions are paid from credit, in half packets: one half earned by each packet sent, two spent on each repeat.
/// So a subscriber that NACKs everything for ever costs at most half a stream more.
pub(super) const CREDIT_START: u16 = 256;
pub(super) const CREDIT_MAX: u16 = 1_024;
/// RTP padding says its length in one byte (RFC 3550 §5.1).
const PADDING_MAX: usize = 255;

impl Downlink {
    /// Answers one NACKed sequence number with an RTX packet. Budgeted; `None` = unknown, gone or no RTX negotiated.
    pub fn retransmit(
        &mut self,
        sequence: u16,
        source: &Source,
        send: &mut SendContext<'_>,
        out: &mut [u8],
    ) -> Option<Forwarded> {
        let forwarded = self.find_sent(sequence, source).and_then(|(packet, mapping)| {
            let numbered = Numbered {
                packet,
                mapping: &mapping,
                sequence: OutSequence(u32::from(sequence)),
                format: self.format(packet.codec)?,
            };
            self.write_rtx(&numbered, send, out)
        });
        if forwarded.is_none() {
            self.unanswered += 1;
        }
        forwarded
    }

    /// A packet whose number is below one already sent. RTX keeps the main stream's numbers rising for SRTP; without RTX
    /// it takes its own place if that is recent and unused.
    pub(super) fn forward_late(
        &mut self,
        numbered: &Numbered<'_>,
        send: &mut SendContext<'_>,
        out: &mut [u8],
    ) -> Option<Forwarded> {
        let age = self.highest.ahead_of(numbered.sequence) as u32;
        if age < WINDOW && self.sent >> age & 1 != 0 {
            return None;
        }
        if numbered.format.rtx.is_some() {
            return self.write_rtx(numbered, send, out);
        }
        if age >= WINDOW {
            return None;
        }
        let mut forwarded = self.write(numbered, send, out)?;
        self.sent |= 1 << age;
        forwarded.late = true;
        Some(forwarded)
    }

    fn write_rtx(&mut self, numbered: &Numbered<'_>, send: &mut SendContext<'_>, out: &mut [u8]) -> Option<Forwarded> {
        let (ssrc, payload_type) = (self.rtx_ssrc?, numbered.format.rtx?);
        let credit = self.credit.checked_sub(2)?;
        let sequence = self.next_rtx;
        let outgoing = Outgoing {
            packet: numbered.packet,
            mapping: numbered.mapping,
            ssrc,
            sequence,
            payload_type,
            send_mid: self.send_mid,
            original_sequence: Some(numbered.sequence.wire()),
            skip_payload: 0,
            pad: false,
        };
        let (header_len, len) = rewrite::write(&outgoing, &self.extensions, send, out)?;
        self.credit = credit;
        self.next_rtx = sequence.wrapping_add(1);
        self.retransmitted += 1;
        Some(Forwarded {
            ssrc,
            sequence,
            header_len,
            len,
            marker: numbered.packet.marker,
            rtx: true,
            late: false,
        })
    }

    /// A packet with nothing but padding, of about `bytes`, on the RTX stream, where receivers take it for what it is: it asks the
    /// link, it carries nothing. `None` without RTX or transport-wide numbers.
    pub fn padding(&mut self, bytes: usize, send: &mut SendContext<'_>, out: &mut [u8]) -> Option<Forwarded> {
        let negotiated = || self.payloads.iter().find_map(|payload| payload.rtx_pt);
        let header = RtpHeader {
            marker: false,
            payload_type: self.format.map_or_else(negotiated, |format| format.rtx)?,
            sequence: self.next_rtx,
            timestamp: self.last.map_or(0, |last| last.timestamp),
            ssrc: self.rtx_ssrc?,
            extension_profile: 0,
            extension: 0..0,
            payload: 0..0,
        };
        let header_len = rewrite::write_padding_header(&header, self.send_mid, &self.extensions, send, out)?;
        let padding = bytes.saturating_sub(header_len).clamp(1, PADDING_MAX);
        let room = out.get_mut(header_len..header_len + padding)?;
        room.fill(0);
        room[padding - 1] = padding as u8;
        out[0] |= 0x20;
        let sequence = self.next_rtx;
        self.next_rtx = sequence.wrapping_add(1);
        Some(Forwarded {
            ssrc: header.ssrc,
            sequence,
            header_len,
            len: header_len + padding,
            marker: false,
            rtx: true,
            late: false,
        })
    }

    /// The packet that carried an outgoing number, while its ring still has it.
    pub(super) fn find_sent<'s>(&self, sequence: u16, source: &'s Source) -> Option<(&'s RtpPacket, Mapping)> {
        let age = self.highest.wire().wrapping_sub(sequence);
        if age > NACK_AGE_MAX || !self.started() {
            return None;
        }
        let out = self.highest.back(u32::from(age));
        let mapping = *self.history.of_outgoing(out)?;
        let ring = source.ring(mapping.space.encoding)?;
        let packet = ring.get(mapping.source(out, ring.newest())?)?;
        (packet.space() == mapping.space).then_some((packet, mapping))
    }
}
