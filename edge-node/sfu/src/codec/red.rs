//! Redundant audio (RFC 2198 §3): where the primary block is, for subscribers that did not negotiate RED.

/// Most redundant blocks looked at. Clients send one or two.
const BLOCKS_MAX: usize = 8;

/// Offset of the last (primary) block; `None` when the headers do not fit.
pub(super) fn primary_offset(payload: &[u8]) -> Option<u16> {
    let (mut at, mut redundant) = (0, 0);
    for _ in 0..BLOCKS_MAX {
        if payload.get(at)? & 0x80 == 0 {
            let offset = at + 1 + redundant;
            return (offset < payload.len()).then_some(offset as u16);
        }
        let header = payload.get(at..at + 4)?;
        redundant += usize::from(u16::from_be_bytes([header[2] & 0x03, header[3]]));
        at += 4;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_primary_block_follows_all_redundant_ones() {
        let payload = [0x80 | 111, 0x0F, 0x00, 3, 111, 1, 2, 3, 42];
        assert_eq!(primary_offset(&payload), Some(8));
        assert_eq!(primary_offset(&[111, 42]), Some(1));
        assert_eq!(primary_offset(&payload[..8]), None, "empty primary");
        assert_eq!(primary_offset(&[0xFF, 0xFF]), None);
    }
}
