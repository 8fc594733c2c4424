//! Writing one outgoing packet: header, extensions under the subscriber's ids, payload with its counters rewritten,
//! padding. What to write is decided elsewhere.

use super::history::Mapping;
use super::{DownlinkConfig, SendContext};
use crate::extensions::{self, BlockWriter};
use crate::media::CANONICAL;
use crate::packet::{FIXED_HEADER, RtpHeader, RtpPacket, write_fixed_header};

/// Longest mid (RFC 8843 §15.1 with a one-byte extension).
const MID_MAX: usize = 16;

/// The subscriber's extension ids, ready to use; 0 = not negotiated.
#[derive(Clone, Debug)]
pub(super) struct OutExtensions {
    /// By canonical id.
    translate: [u8; 16],
    mid_id: u8,
    transport_cc: u8,
    abs_send_time: u8,
    mid_len: u8,
    mid: [u8; MID_MAX],
    /// Some negotiated id needs the two-byte form.
    wide_ids: bool,
}

impl OutExtensions {
    pub(super) fn new(config: &DownlinkConfig) -> Self {
        let map = &config.extensions;
        let mut translate = [0; 16];
        for (own, canonical) in extensions::forwarded(map) {
            if let (Some(own), Some(canonical)) = (own, canonical) {
                translate[usize::from(canonical & 0x0F)] = own;
            }
        }
        let mid_len = config.mid.len();
        let mut mid = [0; MID_MAX];
        let mid_fits = (1..=MID_MAX).contains(&mid_len);
        if mid_fits {
            mid[..mid_len].copy_from_slice(config.mid.as_bytes());
        }
        let own = [map.mid, map.transport_cc, map.abs_send_time].map(Option::unwrap_or_default);
        OutExtensions {
            translate,
            mid_id: if mid_fits { own[0] } else { 0 },
            transport_cc: own[1],
            abs_send_time: own[2],
            mid_len: mid_len.min(MID_MAX) as u8,
            mid,
            wide_ids: own.iter().any(|&id| id > 14),
        }
    }
}

impl OutExtensions {
    /// What every packet of this subscriber says, whatever it carries.
    #[inline]
    fn write_own(&self, send_mid: bool, send: &SendContext<'_>, writer: &mut BlockWriter<'_>) -> Option<()> {
        if self.transport_cc != 0 {
            writer.push(self.transport_cc, &send.transport_sequence.to_be_bytes())?;
        }
        if self.abs_send_time != 0 {
            writer.push(self.abs_send_time, &send.abs_send_time.to_be_bytes()[1..])?;
        }
        if send_mid && self.mid_id != 0 {
            writer.push(self.mid_id, &self.mid[..usize::from(self.mid_len)])?;
        }
        Some(())
    }
}

/// Everything about one outgoing packet.
pub(super) struct Outgoing<'a> {
    pub(super) packet: &'a RtpPacket,
    pub(super) mapping: &'a Mapping,
    pub(super) ssrc: u32,
    pub(super) sequence: u16,
    pub(super) payload_type: u8,
    pub(super) send_mid: bool,
    /// RTX: the original outgoing sequence number goes in front of the payload.
    pub(super) original_sequence: Option<u16>,
    /// RED stripped to its primary block.
    pub(super) skip_payload: usize,
    pub(super) pad: bool,
}

/// Writes to the front of `out`; returns header length and total length. `None` = `out` is too small.
pub(super) fn write(
    outgoing: &Outgoing<'_>,
    extensions: &OutExtensions,
    send: &mut SendContext<'_>,
    out: &mut [u8],
) -> Option<(usize, usize)> {
    let Outgoing { packet, mapping, .. } = outgoing;
    let header = RtpHeader {
        marker: packet.marker,
        payload_type: outgoing.payload_type,
        sequence: outgoing.sequence,
        timestamp: packet.timestamp.wrapping_add(mapping.timestamp),
        ssrc: outgoing.ssrc,
        extension_profile: 0,
        extension: 0..0,
        payload: 0..0,
    };
    if out.len() < FIXED_HEADER + 4 {
        return None;
    }
    write_fixed_header(out, &header);
    let header_len = write_extensions(outgoing, extensions, send, out)?;
    let mut at = header_len;
    if let Some(original) = outgoing.original_sequence {
        out.get_mut(at..at + 2)?.copy_from_slice(&original.to_be_bytes());
        at += 2;
    }
    let payload = packet.payload().get(outgoing.skip_payload..)?;
    let end = at + payload.len();
    let room = out.get_mut(at..end)?;
    room.copy_from_slice(payload);
    rewrite_counters(packet, mapping, room);
    let len = if outgoing.pad { pad(out, end, send.pad_to) } else { end };
    Some((header_len, len))
}

/// Header and extensions of a packet that is all padding; returns their length. `None` = no transport-wide number negotiated, or `out` is
/// too small.
pub(super) fn write_padding_header(
    header: &RtpHeader,
    send_mid: bool,
    own: &OutExtensions,
    send: &mut SendContext<'_>,
    out: &mut [u8],
) -> Option<usize> {
    if own.transport_cc == 0 || out.len() < FIXED_HEADER + 4 {
        return None;
    }
    write_fixed_header(out, header);
    let mut writer = BlockWriter::new(out, FIXED_HEADER, own.wide_ids);
    own.write_own(send_mid, send, &mut writer)?;
    let end = writer.finish()?;
    *send.transport_sequence = send.transport_sequence.wrapping_add(1);
    Some(end)
}

fn write_extensions(
    outgoing: &Outgoing<'_>,
    own: &OutExtensions,
    send: &mut SendContext<'_>,
    out: &mut [u8],
) -> Option<usize> {
    let Outgoing { packet, mapping, .. } = outgoing;
    let translated = || {
        packet.extensions().filter_map(|(id, value)| {
            let id = own.translate[usize::from(id & 0x0F)];
            (id != 0).then_some((id, value))
        })
    };
    let two_byte = own.wide_ids || translated().any(|(id, value)| extensions::needs_two_bytes(id, value.len()));
    let mut writer = BlockWriter::new(out, FIXED_HEADER, two_byte);
    own.write_own(outgoing.send_mid, send, &mut writer)?;
    let descriptor = own.translate[usize::from(CANONICAL.dependency_descriptor.unwrap_or(0) & 0x0F)];
    let mut descriptor_at = None;
    for (id, value) in translated() {
        let at = writer.push(id, value)?;
        if id == descriptor && value.len() >= 3 {
            descriptor_at = Some(at);
        }
    }
    let end = writer.finish()?;
    if let Some(at) = descriptor_at {
        // Frame number: bytes 1 and 2 of the mandatory fields (dependency descriptor, §A.8.3).
        let number = u16::from_be_bytes([out[at + 1], out[at + 2]]).wrapping_add(mapping.frame_number);
        out[at + 1..at + 3].copy_from_slice(&number.to_be_bytes());
    }
    if own.transport_cc != 0 {
        *send.transport_sequence = send.transport_sequence.wrapping_add(1);
    }
    Some(end)
}

/// Picture id and TL0PICIDX, in the width they came in.
fn rewrite_counters(packet: &RtpPacket, mapping: &Mapping, payload: &mut [u8]) {
    if mapping.picture_id != 0
        && let Some(id) = packet.frame.picture_id
    {
        let value = id.value.wrapping_add(mapping.picture_id);
        let at = usize::from(id.at);
        if id.wide {
            if let Some(field) = payload.get_mut(at..at + 2) {
                field.copy_from_slice(&(value | 0x8000).to_be_bytes());
            }
        } else if let Some(field) = payload.get_mut(at) {
            *field = value as u8 & 0x7F;
        }
    }
    if mapping.tl0 != 0
        && let Some(tl0) = packet.frame.tl0
        && let Some(field) = payload.get_mut(usize::from(tl0.at))
    {
        *field = tl0.value.wrapping_add(mapping.tl0);
    }
}

/// RTP padding (RFC 3550 §5.1) to a multiple of `to` bytes: one UDP_SEGMENT message carries packets of equal size only,
/// and encoders split a frame into packets that differ by a byte or so.
fn pad(out: &mut [u8], len: usize, to: usize) -> usize {
    if !(2..=255).contains(&to) {
        return len;
    }
    let padding = len.next_multiple_of(to) - len;
    match out.get_mut(len..len + padding) {
        Some(room) if padding > 0 => {
            room.fill(0);
            room[padding - 1] = padding as u8;
            out[0] |= 0x20;
            len + padding
        }
        _ => len,
    }
}
