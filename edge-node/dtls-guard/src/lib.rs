//! What may reach a DTLS engine before a handshake is done (spec/transport.md, guard B), of WebRTC and of TURN: plaintext handshake fragments
//! are forgeable, so those that no real handshake contains are dropped before anything is buffered for them. No state, no DTLS.

#![forbid(unsafe_code)]

/// A full handshake with client certificate has seven client messages; one more for a HelloVerifyRequest retry.
const MESSAGE_SEQ_MAX: u16 = 8;
const RECORD_HEADER_LEN: usize = 13;
const HANDSHAKE_HEADER_LEN: usize = 12;
const HANDSHAKE: u8 = 22;

/// Epoch of the first record; `None` if there is no whole record header.
pub fn first_epoch(datagram: &[u8]) -> Option<u16> {
    let header = datagram.get(..RECORD_HEADER_LEN)?;
    Some(u16::from_be_bytes([header[3], header[4]]))
}

/// Whether every plaintext handshake fragment of the datagram could belong to a real handshake whose messages have at most
/// `message_len_max` bytes; the others are not worth buffering.
pub fn is_plausible(datagram: &[u8], message_len_max: usize) -> bool {
    let mut rest = datagram;
    while !rest.is_empty() {
        let Some((header, body)) = rest.split_at_checked(RECORD_HEADER_LEN) else {
            return false;
        };
        let len = usize::from(u16::from_be_bytes([header[11], header[12]]));
        let Some((record, next)) = body.split_at_checked(len) else {
            return false;
        };
        let epoch = u16::from_be_bytes([header[3], header[4]]);
        if header[0] == HANDSHAKE && epoch == 0 && !fragments_are_plausible(record, message_len_max) {
            return false;
        }
        rest = next;
    }
    true
}

fn fragments_are_plausible(mut record: &[u8], message_len_max: usize) -> bool {
    while !record.is_empty() {
        let Some((header, body)) = record.split_at_checked(HANDSHAKE_HEADER_LEN) else {
            return false;
        };
        let number =
            |at: usize| usize::from(header[at]) << 16 | usize::from(header[at + 1]) << 8 | usize::from(header[at + 2]);
        let (message_len, offset, fragment_len) = (number(1), number(6), number(9));
        let sequence = u16::from_be_bytes([header[4], header[5]]);
        if sequence > MESSAGE_SEQ_MAX || message_len > message_len_max || offset + fragment_len > message_len {
            return false;
        }
        let Some(next) = body.get(fragment_len..) else {
            return false;
        };
        record = next;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_plausible(datagram: &[u8]) -> bool {
        super::is_plausible(datagram, 16_000)
    }

    fn record(sequence: u16, message_len: usize, offset: usize, fragment: &[u8]) -> Vec<u8> {
        let u24 = |n: usize| (n as u32).to_be_bytes()[1..].to_vec();
        let mut body = vec![1];
        body.extend(u24(message_len));
        body.extend(sequence.to_be_bytes());
        body.extend(u24(offset));
        body.extend(u24(fragment.len()));
        body.extend(fragment);
        let mut datagram = vec![HANDSHAKE, 254, 253, 0, 0, 0, 0, 0, 0, 0, 1];
        datagram.extend((body.len() as u16).to_be_bytes());
        datagram.extend(body);
        datagram
    }

    #[test]
    fn fragments_of_no_real_handshake_are_refused() {
        assert!(is_plausible(&record(0, 1_400, 1_150, &[0; 250])));
        assert!(
            !is_plausible(&record(9, 100, 0, &[0; 100])),
            "no handshake has ten client messages"
        );
        assert!(!is_plausible(&record(0, 16_001, 0, &[0; 100])));
        assert!(!is_plausible(&record(0, 100, 50, &[0; 51])), "beyond its message");
        assert!(!is_plausible(&record(0, 100, 0, &[0; 100])[..60]), "cut off");
        let mut two = record(0, 100, 0, &[0; 100]);
        two.extend(record(20, 100, 0, &[0; 100]));
        assert!(!is_plausible(&two));
    }
}
