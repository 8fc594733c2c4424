//! How the outgoing stream goes on where the incoming one does not: another layer, another encoder, packets that are left out. Sequence
//! numbers, timestamps and frame counters stay continuous for the subscriber.

use super::Downlink;
use super::history::Mapping;
use super::timeline::{self, LastFrame, StreamClock};
use crate::media::Codec;
use crate::packet::RtpPacket;
use crate::sequence::OutSequence;
use crate::source::Source;

/// A source that jumps ahead further than a ring holds is a new stream, not a loss.
const JUMP_MAX: i32 = 512;
/// Nor does a source that was there all along deliver packets that its ring forgot long ago.
const BEHIND_MAX: i32 = 4_096;
/// The newest frame counters sent, in the subscriber's numbering.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    picture_id: u16,
    frame_number: u16,
    tl0: u8,
}

impl Downlink {
    /// Another encoder, or so far off that what lies between will never come (mute, restart, another link).
    pub(super) fn is_discontinuous(&self, packet: &RtpPacket) -> bool {
        let Some(current) = self.history.current() else {
            return true;
        };
        let ahead = current.outgoing(packet.extended_sequence).ahead_of(self.highest);
        packet.space() != current.space || !(-BEHIND_MAX..=JUMP_MAX).contains(&ahead)
    }

    /// From this packet on, the stream is carried by its layer.
    pub(super) fn switch(&mut self, source: &Source, packet: &RtpPacket) {
        let out_start = self.highest.next();
        let mut mapping = Mapping {
            out_start,
            sequence: (packet.extended_sequence.0 as u32).wrapping_sub(out_start.0),
            space: packet.space(),
            ..Mapping::default()
        };
        if let (Some(last), Some(old)) = (self.last, self.history.current()) {
            mapping.timestamp = self
                .next_timestamp(source, packet, last, old)
                .wrapping_sub(packet.timestamp);
            let next = self.counters;
            if let Some(id) = packet.frame.picture_id {
                mapping.picture_id = next.picture_id.wrapping_add(1).wrapping_sub(id.value);
            }
            if let Some(tl0) = packet.frame.tl0 {
                mapping.tl0 = next.tl0.wrapping_add(1).wrapping_sub(tl0.value);
            }
            if let Some(number) = frame_number(packet) {
                mapping.frame_number = next.frame_number.wrapping_add(1).wrapping_sub(number);
            }
            self.switches += 1;
        }
        self.history.push(mapping);
        self.dropped_frame = None;
        self.selection.switched(packet.layer);
    }

    pub(super) fn next_timestamp(&self, source: &Source, packet: &RtpPacket, last: LastFrame, old: &Mapping) -> u32 {
        if packet.ssrc == old.space.ssrc {
            // The same encoder after a pause: its clock went on.
            let same = packet.timestamp.wrapping_add(old.timestamp);
            if same.wrapping_sub(last.timestamp) as i32 > 0 {
                return same;
            }
        }
        let report = |encoding| source.sender_report(encoding).map(|(report, _)| report);
        let old_clock = report(old.space.encoding).map(|report| StreamClock {
            report,
            offset: old.timestamp,
        });
        let clock_rate_hz = packet.codec.clock_rate_hz();
        timeline::continue_at(
            packet.timestamp,
            packet.arrival,
            last,
            old_clock,
            report(packet.encoding),
            clock_rate_hz,
        )
    }

    /// Padding has done its work on the way here; a temporal layer above the wanted frame rate is not sent on.
    pub(super) fn leaves_out(&mut self, packet: &RtpPacket) -> bool {
        packet.is_padding_only() || packet.codec == Codec::Vp8 && self.selection.drops_temporal(&packet.frame)
    }

    /// Closes the gap: what follows takes this packet's number, and picture ids stay continuous for VP8 (RFC 7741 §4.2).
    pub(super) fn leave_out(&mut self, packet: &RtpPacket, current: Mapping, sequence: OutSequence) {
        let mut mapping = Mapping {
            out_start: sequence,
            sequence: current.sequence.wrapping_add(1),
            ..current
        };
        if !packet.is_padding_only() && self.dropped_frame != Some(packet.timestamp) {
            self.dropped_frame = Some(packet.timestamp);
            mapping.picture_id = mapping.picture_id.wrapping_sub(1);
        }
        self.history.push(mapping);
    }

    pub(super) fn note_sent(&mut self, packet: &RtpPacket, mapping: &Mapping) {
        let timestamp = packet.timestamp.wrapping_add(mapping.timestamp);
        if self
            .last
            .is_none_or(|last| timestamp.wrapping_sub(last.timestamp) as i32 > 0)
        {
            self.last = Some(LastFrame {
                timestamp,
                arrival: packet.arrival,
            });
        }
        let counters = &mut self.counters;
        if let Some(id) = packet.frame.picture_id {
            counters.picture_id = id.value.wrapping_add(mapping.picture_id);
        }
        if let Some(tl0) = packet.frame.tl0 {
            counters.tl0 = tl0.value.wrapping_add(mapping.tl0);
        }
        if let Some(number) = frame_number(packet) {
            counters.frame_number = number.wrapping_add(mapping.frame_number);
        }
    }
}

/// Frame number of the dependency descriptor (mandatory fields, §A.8.3).
fn frame_number(packet: &RtpPacket) -> Option<u16> {
    let descriptor = packet.dependency_descriptor()?;
    Some(u16::from_be_bytes([*descriptor.get(1)?, *descriptor.get(2)?]))
}
