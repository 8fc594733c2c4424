//! The sending half: what a shard calls for every outgoing packet.

use aws_lc_rs::error::Unspecified;

use super::cipher::Cipher;
use super::{MasterKeys, RTCP_HEADER_LEN, SrtpProfile, be32, rtp_header_len};

/// SSRCs one sender can ever use. Ids are never reused in a peer connection, so this bounds subscriptions over its life.
pub const MAX_SEND_SSRCS: usize = 65_536;

/// Why a packet was not protected. The buffer must not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtectError {
    #[error("this (SSRC, index) was already encrypted, or is too far behind to know")]
    ReusedIndex,
    #[error("the stream belongs to another sender, another stream has its SSRC, or the packet has another SSRC")]
    ForeignStream,
    #[error("more SSRCs than one sender may use")]
    TooManyStreams,
    #[error("no room for the authentication tag")]
    BufferTooSmall,
    #[error("not an RTP or RTCP packet, or its header is not as long as said")]
    Malformed,
    #[error("the key's packet limit is reached (2^48 RTP, 2^31 RTCP)")]
    KeyExhausted,
    #[error("the cipher refused")]
    Cipher,
}

impl From<Unspecified> for ProtectError {
    fn from(_: Unspecified) -> ProtectError {
        ProtectError::Cipher
    }
}

/// One outgoing SSRC: its rollover counter and which of the last 128 indices were used. Hot (32 bytes), owned by the
/// subscription. Neither `Clone` nor `Copy`: two copies could encrypt one index twice.
#[derive(Debug)]
pub struct SrtpStream {
    /// Bit `n`: index `highest - n` was used. Zero before the first packet.
    used: u128,
    /// `ROC << 16 | SEQ` of the highest index used.
    highest: u64,
    ssrc: u32,
    /// The sender that took this stream at its first packet; 0 before.
    sender: u32,
}

impl SrtpStream {
    /// A stream that has sent nothing. The sender of its first packet owns it from then on.
    pub fn new(ssrc: u32) -> SrtpStream {
        SrtpStream {
            used: 0,
            highest: 0,
            ssrc,
            sender: 0,
        }
    }

    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// Turns `sequence` into a packet index and marks it used. Packets may come out of order within 128 of the highest
    /// (a publisher's retransmission is forwarded late); the same index never comes twice.
    fn claim_index(&mut self, sequence: u16) -> Result<u64, ProtectError> {
        if self.used == 0 {
            (self.highest, self.used) = (u64::from(sequence), 1);
            return Ok(self.highest);
        }
        let ahead = sequence.wrapping_sub(self.highest as u16) as i16;
        if ahead > 0 {
            let index = self.highest + ahead as u64;
            if index >> 48 != 0 {
                return Err(ProtectError::KeyExhausted);
            }
            self.used = self.used.checked_shl(ahead as u32).unwrap_or(0) | 1;
            self.highest = index;
            return Ok(index);
        }
        let behind = u32::from(ahead.unsigned_abs());
        let index = self
            .highest
            .checked_sub(u64::from(behind))
            .ok_or(ProtectError::ReusedIndex)?;
        let bit = 1u128.checked_shl(behind).ok_or(ProtectError::ReusedIndex)?;
        if self.used & bit != 0 {
            return Err(ProtectError::ReusedIndex);
        }
        self.used |= bit;
        Ok(index)
    }
}

/// Sending half of a peer's SRTP: its keys and the SRTCP index. One per peer.
pub struct SrtpSender {
    cipher: Cipher,
    /// Tells this sender's streams from another's; never 0.
    id: u32,
    rtcp_index: u32,
    /// SSRCs taken by a stream, in order of first use. Touched only by a stream's first packet.
    ssrcs: Vec<u32>,
}

impl SrtpSender {
    /// `id` should be random: it only catches a stream used with the wrong sender.
    pub fn new(master: &MasterKeys, id: u32) -> Result<SrtpSender, ProtectError> {
        Ok(SrtpSender {
            cipher: Cipher::new(master)?,
            id: id.max(1),
            rtcp_index: 0,
            ssrcs: Vec::new(),
        })
    }

    pub fn profile(&self) -> SrtpProfile {
        self.cipher.profile()
    }

    /// Bytes `protect_rtp` adds after the packet: 16 (GCM) or 10.
    pub fn tag_len(&self) -> usize {
        self.cipher.profile().tag_len()
    }

    /// Protects in place: `buf[..len]` is header and payload, at least `tag_len()` bytes follow. Returns the new length.
    /// Refuses an index this stream already used, so a retransmission needs its own SSRC (RFC 4588).
    #[inline]
    pub fn protect_rtp(
        &mut self,
        stream: &mut SrtpStream,
        buf: &mut [u8],
        header_len: usize,
        len: usize,
    ) -> Result<usize, ProtectError> {
        let packet = buf.get(..len).ok_or(ProtectError::BufferTooSmall)?;
        if rtp_header_len(packet) != Some(header_len) {
            return Err(ProtectError::Malformed);
        }
        let end = len + self.tag_len();
        if buf.len() < end {
            return Err(ProtectError::BufferTooSmall);
        }
        let ssrc = be32(buf, 8);
        if ssrc != stream.ssrc || stream.sender != self.id {
            self.adopt(stream, ssrc)?;
        }
        let index = stream.claim_index(u16::from_be_bytes([buf[2], buf[3]]))?;
        let (header, rest) = buf.split_at_mut(header_len);
        let (payload, tail) = rest.split_at_mut(len - header_len);
        let tag = self.cipher.seal_rtp(ssrc, index, header, payload)?;
        let tag_len = end - len;
        tail[..tag_len].copy_from_slice(&tag[..tag_len]);
        Ok(end)
    }

    /// Protects a compound RTCP packet in place, growing it by at most 20 bytes. One index counts for the whole peer.
    pub fn protect_rtcp(&mut self, buf: &mut Vec<u8>) -> Result<(), ProtectError> {
        if buf.len() < RTCP_HEADER_LEN || buf[0] >> 6 != 2 {
            return Err(ProtectError::Malformed);
        }
        if self.rtcp_index >= (1 << 31) - 1 {
            return Err(ProtectError::KeyExhausted);
        }
        self.rtcp_index += 1;
        let ssrc = be32(buf, 4);
        self.cipher.seal_rtcp(ssrc, self.rtcp_index, buf)?;
        Ok(())
    }

    /// A stream's first packet: it becomes ours if its SSRC is still free.
    #[cold]
    fn adopt(&mut self, stream: &mut SrtpStream, ssrc: u32) -> Result<(), ProtectError> {
        if ssrc != stream.ssrc || stream.sender != 0 || self.ssrcs.contains(&ssrc) {
            return Err(ProtectError::ForeignStream);
        }
        if self.ssrcs.len() >= MAX_SEND_SSRCS {
            return Err(ProtectError::TooManyStreams);
        }
        self.ssrcs.push(ssrc);
        stream.sender = self.id;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever sequence numbers are asked for, in whatever order, no index comes out twice, the low 16 bits are the
        /// sequence number, and a forward walk counts rollovers.
        #[test]
        fn no_index_is_claimed_twice(first: u16, steps in prop::collection::vec(-200i32..400, 1..600)) {
            let mut stream = SrtpStream::new(7);
            let mut claimed = HashSet::new();
            let mut wide = i64::from(first);
            for step in steps {
                wide += i64::from(step);
                let sequence = wide as u16;
                if let Ok(index) = stream.claim_index(sequence) {
                    prop_assert!(claimed.insert(index), "index {} twice", index);
                    prop_assert_eq!(index as u16, sequence);
                }
            }
        }

        #[test]
        fn any_sequence_numbers_never_repeat_an_index(sequences in prop::collection::vec(any::<u16>(), 1..600)) {
            let mut stream = SrtpStream::new(7);
            let mut claimed = HashSet::new();
            for sequence in sequences {
                if let Ok(index) = stream.claim_index(sequence) {
                    prop_assert!(claimed.insert(index));
                }
            }
        }
    }

    #[test]
    fn rollover_counts_and_a_late_packet_keeps_the_old_one() {
        let mut stream = SrtpStream::new(7);
        assert_eq!(stream.claim_index(65_534), Ok(65_534));
        assert_eq!(stream.claim_index(1), Ok(65_537));
        assert_eq!(stream.claim_index(65_535), Ok(65_535), "late, from before the rollover");
        assert_eq!(stream.claim_index(65_535), Err(ProtectError::ReusedIndex));
        assert_eq!(stream.claim_index(0), Ok(65_536));
        assert_eq!(stream.claim_index(200), Ok(65_736));
        assert_eq!(stream.claim_index(72), Err(ProtectError::ReusedIndex), "128 behind");
        assert_eq!(stream.claim_index(73), Ok(65_609));
    }

    #[test]
    fn the_hot_state_of_a_stream_is_32_bytes() {
        assert_eq!(size_of::<SrtpStream>(), 32);
    }
}
