//! SRTP and SRTCP of our own (RFC 3711, RFC 7714).

/// Protection profile negotiated by DTLS-SRTP (RFC 5764 §4.1.2, RFC 7714 §14.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SrtpProfile {
    AeadAes128Gcm,
    AeadAes256Gcm,
    /// Only for clients that offer no AEAD profile: three times the CPU.
    AesCm128HmacSha1_80,
}

impl SrtpProfile {
    pub fn is_aead(self) -> bool {
        self != SrtpProfile::AesCm128HmacSha1_80
    }
}

/// Why a packet was not protected. Except for `BufferTooSmall` it must not be sent in any form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtectError {
    #[error("this (SSRC, index) was already encrypted, or is too old to know")]
    ReusedIndex,
    #[error("another stream of this sender has the SSRC, or the stream belongs to another sender")]
    ForeignStream,
    #[error("no room for the authentication tag")]
    BufferTooSmall,
    #[error("not an RTP or RTCP packet of at least a header")]
    Malformed,
    #[error("the key's packet limit is reached (2^48 RTP, 2^31 RTCP)")]
    KeyExhausted,
    #[error("the cipher refused")]
    Cipher,
}

/// One outgoing SSRC: its rollover counter and which indices were used. Hot, owned by the subscription.
pub struct SrtpStream {}

impl SrtpStream {
    pub fn new(_ssrc: u32) -> SrtpStream {
        SrtpStream {}
    }
}

/// Sending half of a peer's SRTP: keys and the SRTCP index.
pub struct SrtpSender {}

impl SrtpSender {
    /// Bytes that `protect_rtp` adds after the packet.
    pub fn tag_len(&self) -> usize {
        16
    }

    /// Protects in place: `buf[..len]` is header and payload, at least `tag_len()` bytes follow. Returns the new length.
    pub fn protect_rtp(
        &mut self,
        _stream: &mut SrtpStream,
        _buf: &mut [u8],
        _header_len: usize,
        _len: usize,
    ) -> Result<usize, ProtectError> {
        Err(ProtectError::Cipher)
    }

    /// Protects a compound RTCP packet in place, growing it.
    pub fn protect_rtcp(&mut self, _buf: &mut Vec<u8>) -> Result<(), ProtectError> {
        Err(ProtectError::Cipher)
    }
}
