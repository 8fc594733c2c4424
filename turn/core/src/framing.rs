//! Frames in a byte stream (RFC 8656 §3.1, §12.5): STUN messages say their length, ChannelData is padded to a multiple
//! of four. No buffering here; the connection owns its bytes.

/// The longest frame: a ChannelData message with a 16-bit length, or a STUN message.
pub const FRAME_BYTES_MAX: usize = 20 + 65_536;

/// Whether a stream that begins with this byte is TURN and not HTTP, when both share a port. STUN messages begin with 0 to 3.
/// ChannelData begins with 64 to 79, which is also where GET, HEAD, DELETE and OPTIONS do; but no TURN stream begins with it, because
/// a new connection has no allocation yet (RFC 8656 §12).
pub fn begins_turn(first: u8) -> bool {
    first <= 3
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Too few bytes yet; with this many in total it can be decided anew.
    Incomplete(usize),
    /// The first `message` bytes are one message, and it takes `consumed` bytes of the stream.
    Complete { message: usize, consumed: usize },
    /// Neither STUN nor ChannelData: the stream cannot be followed any further.
    Violation,
}

/// What is at the beginning of `bytes`.
pub fn next_frame(bytes: &[u8]) -> Frame {
    let &[first, _, high, low, ..] = bytes else {
        return if bytes.first().is_some_and(|&b| b >= 0x80) {
            Frame::Violation
        } else {
            Frame::Incomplete(4)
        };
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let (message, consumed) = match first >> 6 {
        0 if length % 4 == 0 => (20 + length, 20 + length),
        1 => (4 + length, (4 + length).next_multiple_of(4)),
        _ => return Frame::Violation,
    };
    if bytes.len() < consumed {
        Frame::Incomplete(consumed)
    } else {
        Frame::Complete { message, consumed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_end_where_their_length_says() {
        assert_eq!(next_frame(&[]), Frame::Incomplete(4));
        assert_eq!(next_frame(&[0x40, 0, 0, 5]), Frame::Incomplete(12));
        assert_eq!(
            next_frame(&[0x40, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0, 9]),
            Frame::Complete {
                message: 9,
                consumed: 12
            }
        );
        assert_eq!(next_frame(&[0, 1, 0, 0]), Frame::Incomplete(20));
        assert_eq!(
            next_frame(&[0; 24]),
            Frame::Complete {
                message: 20,
                consumed: 20
            }
        );
        assert_eq!(
            next_frame(&[0x16, 3, 1, 2]),
            Frame::Violation,
            "a TLS hello on a plain port"
        );
        assert_eq!(next_frame(&[0x80]), Frame::Violation);
        assert_eq!(next_frame(&[0, 1, 0, 3]), Frame::Violation);
    }
}
