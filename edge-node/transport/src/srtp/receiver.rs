//! The receiving half: authenticates, decrypts and rejects replays.

use aws_lc_rs::error::Unspecified;

use super::cipher::Cipher;
use super::replay::ReplayWindow;
use super::{MasterKeys, RTCP_HEADER_LEN, SrtpProfile, be32, rtp_header_len};

/// SSRCs one client may send with over its life. State is kept only for SSRCs that authenticated.
pub const MAX_RECEIVE_SSRCS: usize = 512;

/// Why a packet was dropped. The buffer's content is undefined afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnprotectError {
    #[error("not an SRTP or SRTCP packet")]
    Malformed,
    #[error("seen before, or too old to know")]
    Replayed,
    #[error("authentication failed")]
    Unauthentic,
    #[error("more SSRCs than one client may use")]
    TooManyStreams,
}

impl From<Unspecified> for UnprotectError {
    fn from(_: Unspecified) -> UnprotectError {
        UnprotectError::Unauthentic
    }
}

/// One incoming SSRC.
struct ReceiveStream {
    rtp: ReplayWindow<16>,
    rtcp: ReplayWindow<2>,
}

/// Receiving half of a peer's SRTP.
pub struct SrtpReceiver {
    cipher: Cipher,
    /// Parallel to `streams`: scanned per packet, so kept dense.
    ssrcs: Vec<u32>,
    streams: Vec<ReceiveStream>,
}

impl SrtpReceiver {
    pub fn new(master: &MasterKeys) -> Result<SrtpReceiver, UnprotectError> {
        Ok(SrtpReceiver {
            cipher: Cipher::new(master)?,
            ssrcs: Vec::new(),
            streams: Vec::new(),
        })
    }

    pub fn profile(&self) -> SrtpProfile {
        self.cipher.profile()
    }

    /// Decrypts an SRTP packet in place; returns the length of header and payload.
    pub fn unprotect_rtp(&mut self, packet: &mut [u8]) -> Result<usize, UnprotectError> {
        let header_len = rtp_header_len(packet).ok_or(UnprotectError::Malformed)?;
        let plain_len = packet
            .len()
            .checked_sub(self.cipher.profile().tag_len())
            .ok_or(UnprotectError::Malformed)?;
        if plain_len < header_len {
            return Err(UnprotectError::Malformed);
        }
        let sequence = u16::from_be_bytes([packet[2], packet[3]]);
        let ssrc = be32(packet, 8);
        let slot = self.slot(ssrc)?;
        let index = match slot {
            None => u64::from(sequence),
            Some(slot) => {
                let window = &self.streams[slot].rtp;
                let index = match window.highest() {
                    Some(highest) => guess_index(highest, sequence).ok_or(UnprotectError::Replayed)?,
                    None => u64::from(sequence),
                };
                if !window.is_fresh(index) {
                    return Err(UnprotectError::Replayed);
                }
                index
            }
        };
        let (header, body) = packet.split_at_mut(header_len);
        self.cipher.open_rtp(ssrc, index, header, body)?;
        self.stream(slot, ssrc).rtp.accept(index);
        Ok(plain_len)
    }

    /// Decrypts an SRTCP packet in place; returns the length of the compound packet.
    pub fn unprotect_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, UnprotectError> {
        if packet.len() < RTCP_HEADER_LEN || packet[0] >> 6 != 2 {
            return Err(UnprotectError::Malformed);
        }
        let index = self.cipher.rtcp_index(packet).ok_or(UnprotectError::Malformed)?;
        let ssrc = be32(packet, 4);
        let slot = self.slot(ssrc)?;
        if slot.is_some_and(|slot| !self.streams[slot].rtcp.is_fresh(u64::from(index))) {
            return Err(UnprotectError::Replayed);
        }
        let len = self.cipher.open_rtcp(ssrc, index, packet)?;
        self.stream(slot, ssrc).rtcp.accept(u64::from(index));
        Ok(len)
    }

    fn slot(&self, ssrc: u32) -> Result<Option<usize>, UnprotectError> {
        match self.ssrcs.iter().position(|&known| known == ssrc) {
            None if self.ssrcs.len() >= MAX_RECEIVE_SSRCS => Err(UnprotectError::TooManyStreams),
            slot => Ok(slot),
        }
    }

    fn stream(&mut self, slot: Option<usize>, ssrc: u32) -> &mut ReceiveStream {
        let slot = slot.unwrap_or_else(|| {
            self.ssrcs.push(ssrc);
            self.streams.push(ReceiveStream {
                rtp: ReplayWindow::new(),
                rtcp: ReplayWindow::new(),
            });
            self.streams.len() - 1
        });
        &mut self.streams[slot]
    }
}

/// The packet index nearest to the highest one with this sequence number (RFC 3711 appendix A). `None` where that would
/// be before the first rollover or beyond 48 bits.
fn guess_index(highest: u64, sequence: u16) -> Option<u64> {
    const HALF: u32 = 1 << 15;
    let roc = highest >> 16;
    let (last, sequence) = (highest as u32 & 0xffff, u32::from(sequence));
    let guess = if last < HALF {
        if sequence > last + HALF {
            roc.checked_sub(1)?
        } else {
            roc
        }
    } else if last - HALF > sequence {
        roc + 1
    } else {
        roc
    };
    let index = guess << 16 | u64::from(sequence);
    (index >> 48 == 0).then_some(index)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Of all indices with this sequence number the guess is the nearest.
        #[test]
        fn the_guess_is_the_nearest_index(highest in 0u64..(1 << 40), sequence: u16) {
            let distance = |index: u64| index.abs_diff(highest);
            let roc = highest >> 16;
            let nearest = [roc.checked_sub(1), Some(roc), Some(roc + 1)]
                .into_iter()
                .flatten()
                .map(|roc| distance(roc << 16 | u64::from(sequence)))
                .min()
                .unwrap();
            match guess_index(highest, sequence) {
                Some(index) => {
                    prop_assert_eq!(index as u16, sequence);
                    prop_assert_eq!(distance(index), nearest);
                }
                None => prop_assert!(roc == 0),
            }
        }
    }
}
