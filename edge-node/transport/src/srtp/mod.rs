//! SRTP and SRTCP of our own (RFC 3711, RFC 7714): one in-place AEAD call per packet, no allocation.
//!
//! `keys` splits and derives keys, `cipher` holds the two transforms, `sender` and `receiver` the two halves, `replay`
//! the window both use. RTP semantics stop at the header's length, SSRC and sequence number.

mod cipher;
mod keys;
mod receiver;
mod replay;
mod sender;
#[cfg(test)]
mod vectors;

pub use keys::MasterKeys;
pub use receiver::{MAX_RECEIVE_SSRCS, SrtpReceiver, UnprotectError};
pub use sender::{MAX_SEND_SSRCS, ProtectError, SrtpSender, SrtpStream};

/// Protection profile negotiated by DTLS-SRTP (RFC 5764 §4.1.2, RFC 7714 §14.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SrtpProfile {
    AeadAes128Gcm,
    AeadAes256Gcm,
    /// Only for clients that offer no AEAD profile: it costs several times the CPU.
    AesCm128HmacSha1_80,
}

impl SrtpProfile {
    pub fn is_aead(self) -> bool {
        self != SrtpProfile::AesCm128HmacSha1_80
    }

    /// Master key length, bytes.
    pub fn key_len(self) -> usize {
        match self {
            SrtpProfile::AeadAes256Gcm => 32,
            SrtpProfile::AeadAes128Gcm | SrtpProfile::AesCm128HmacSha1_80 => 16,
        }
    }

    /// Master salt length, bytes.
    pub fn salt_len(self) -> usize {
        if self.is_aead() { 12 } else { 14 }
    }

    /// Bytes an authentication tag adds to a packet.
    pub fn tag_len(self) -> usize {
        if self.is_aead() { 16 } else { 10 }
    }
}

/// Fixed RTP header, bytes (RFC 3550 §5.1).
const RTP_HEADER_LEN: usize = 12;
/// RTCP header and sender SSRC: what SRTCP leaves clear, bytes.
const RTCP_HEADER_LEN: usize = 8;

/// Length of the RTP header with CSRCs and extension, or `None` if it is no RTP packet or does not fit.
fn rtp_header_len(packet: &[u8]) -> Option<usize> {
    let first = *packet.first()?;
    if first >> 6 != 2 {
        return None;
    }
    let mut len = RTP_HEADER_LEN + 4 * usize::from(first & 0x0f);
    if first & 0x10 != 0 {
        let extension = packet.get(len..len + 4)?;
        len += 4 + 4 * usize::from(u16::from_be_bytes([extension[2], extension[3]]));
    }
    (len <= packet.len()).then_some(len)
}

/// The 32-bit number at `offset`; the caller has checked the length.
fn be32(packet: &[u8], offset: usize) -> u32 {
    u32::from_be_bytes([
        packet[offset],
        packet[offset + 1],
        packet[offset + 2],
        packet[offset + 3],
    ])
}
