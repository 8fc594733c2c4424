//! Rendezvous hashing: every edge that sees the same candidates chooses the same, and a candidate that comes or goes moves
//! only what it was, or becomes, the best for. The hash is part of the wire protocol: it must never change.

/// FNV-1a.
pub(crate) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Weight of a candidate for a key, given the hashes of both: the highest wins.
pub(crate) fn weight(key: u64, candidate: u64) -> u64 {
    // FNV leaves the differences of the last bytes in the low bits: a finaliser spreads them. Rotated, so that a key equal
    // to a candidate's name does not weigh 0.
    let mut mixed = key.rotate_left(32) ^ candidate;
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fixed_for_ever() {
        assert_eq!(weight(hash("room"), hash("fra-1")), 0x7609_6f2f_f09a_d63d);
    }

    #[test]
    fn keys_spread_evenly_over_candidates() {
        let nodes: Vec<String> = (0..10).map(|i| format!("edge-{i}")).collect();
        let mut counts = [0u32; 10];
        for room in 0..10_000 {
            let key = format!("room-{room}");
            let best = (0..10).max_by_key(|&i| weight(hash(&key), hash(&nodes[i])));
            counts[best.unwrap_or(0)] += 1;
        }
        assert!(counts.iter().all(|&count| (800..1200).contains(&count)), "{counts:?}");
    }
}
