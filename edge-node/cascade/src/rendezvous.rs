//! Rendezvous hashing: every edge that sees the same candidates chooses the same, and a candidate that comes or goes moves
//! only what it was, or becomes, the best for. The hash is part of the wire protocol: it must never change.

/// Weight of `candidate` for `key`: the highest wins.
pub(crate) fn weight(key: &str, candidate: &str) -> u64 {
    // FNV-1a, then a finaliser: FNV alone leaves the last bytes' differences in the low bits.
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in key.bytes().chain([0xff]).chain(candidate.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fixed_for_ever() {
        assert_eq!(weight("room", "fra-1"), 0x487b_d712_7884_6cba);
    }

    #[test]
    fn keys_spread_evenly_over_candidates() {
        let nodes: Vec<String> = (0..10).map(|i| format!("edge-{i}")).collect();
        let mut counts = [0u32; 10];
        for room in 0..10_000 {
            let key = format!("room-{room}");
            let best = (0..10).max_by_key(|&i| weight(&key, &nodes[i]));
            counts[best.unwrap_or(0)] += 1;
        }
        assert!(counts.iter().all(|&count| (800..1200).contains(&count)), "{counts:?}");
    }
}
