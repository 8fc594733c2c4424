//! ICE-lite (RFC 8445 §2.5): the controlled, never-checking side.

use std::fmt;

use rand::Rng;

/// Username fragment and password of one side of one ICE session (RFC 8445 §5.3).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IceCredentials {
    pub ufrag: String,
    pub pwd: String,
}

impl IceCredentials {
    const UFRAG_LEN: usize = 8;
    const PWD_LEN: usize = 24;

    /// Fresh credentials: 48 bits of ufrag, 143 bits of password. The ufrag also finds the peer of a first datagram, so
    /// the caller checks that no other peer of the socket has it.
    pub fn generate(rng: &mut impl Rng) -> IceCredentials {
        IceCredentials { ufrag: ice_chars(rng, Self::UFRAG_LEN), pwd: ice_chars(rng, Self::PWD_LEN) }
    }
}

impl fmt::Debug for IceCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceCredentials").field("ufrag", &self.ufrag).finish_non_exhaustive()
    }
}

fn ice_chars(rng: &mut impl Rng, len: usize) -> String {
    const CHARS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    (0..len).map(|_| char::from(CHARS[rng.random_range(0..CHARS.len())])).collect()
}

/// The local half of the USERNAME of a STUN binding request (`local:remote`, RFC 8445 §7.2.2), for finding the peer a
/// datagram from an unknown address belongs to. `None` if it is no well-formed binding request. Authenticates nothing.
pub fn stun_local_ufrag(datagram: &[u8]) -> Option<&str> {
    const BINDING_REQUEST: [u8; 2] = [0, 1];
    const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
    const USERNAME: u16 = 0x0006;
    let (header, mut attributes) = datagram.split_at_checked(20)?;
    if header[..2] != BINDING_REQUEST
        || header[4..8] != COOKIE
        || usize::from(u16::from_be_bytes([header[2], header[3]])) != attributes.len()
    {
        return None;
    }
    while let Some((head, rest)) = attributes.split_at_checked(4) {
        let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = rest.get(..len)?;
        if u16::from_be_bytes([head[0], head[1]]) == USERNAME {
            return std::str::from_utf8(value).ok()?.split_once(':').map(|(local, _)| local);
        }
        attributes = rest.get(len.next_multiple_of(4)..)?;
    }
    None
}
