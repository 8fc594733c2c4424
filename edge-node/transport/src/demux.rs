//! Which protocol a datagram belongs to, by its first bytes (RFC 7983, RFC 5761). Nothing is parsed further here.

/// What a datagram on the media port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DatagramKind {
    Stun,
    Dtls,
    /// SRTP: version 2 and a payload type that is not one of RTCP's.
    Rtp,
    /// SRTCP: version 2 and packet type 192–223 (RFC 5761 §4).
    Rtcp,
    /// TURN channel data (64–79), ZRTP, QUIC or noise: not ours.
    Other,
}

/// Classifies a datagram by its first two bytes. Never reads past them, so a match says nothing about validity.
pub fn kind(datagram: &[u8]) -> DatagramKind {
    match datagram {
        [0..=3, ..] => DatagramKind::Stun,
        [20..=63, ..] => DatagramKind::Dtls,
        [128..=191, 192..=223, ..] => DatagramKind::Rtcp,
        [128..=191, _, ..] => DatagramKind::Rtp,
        _ => DatagramKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_first_byte_has_the_kind_of_rfc_7983() {
        for first in 0..=255u8 {
            let expected = match first {
                0..=3 => DatagramKind::Stun,
                20..=63 => DatagramKind::Dtls,
                128..=191 => DatagramKind::Rtp,
                _ => DatagramKind::Other,
            };
            assert_eq!(kind(&[first, 96]), expected, "first byte {first}");
        }
        assert_eq!(kind(&[0x80, 200]), DatagramKind::Rtcp);
        assert_eq!(
            kind(&[0x81, 0x80 | 96]),
            DatagramKind::Rtp,
            "marker bit and payload type 96 is 224"
        );
        assert_eq!(kind(&[]), DatagramKind::Other);
        assert_eq!(kind(&[0x80]), DatagramKind::Other, "too short to tell RTP from RTCP");
    }
}
