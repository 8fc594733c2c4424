//! Every target survives its seeds and what some thousand bends make of them.

use meridian_fuzz::{TARGETS, target};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Bent inputs per target. A fuzzer does as many in a second; this only keeps the targets honest.
const ROUNDS: u64 = 1_500;

/// Flips, overwrites, inserts, cuts, repeats.
fn bend(input: &mut Vec<u8>, rng: &mut SmallRng) {
    const INTERESTING: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b':', b'\n', 0x40];
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=input.len());
        match rng.random_range(0..6) {
            0 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
            1 if at < input.len() => input[at] = INTERESTING[rng.random_range(0..INTERESTING.len())],
            2 if at < input.len() => input[at] = rng.random(),
            3 => input.insert(at, rng.random()),
            4 => input.truncate(at),
            _ => {
                let end = rng.random_range(at..=input.len()).min(at + 64);
                let piece = input[at..end].to_vec();
                let to = rng.random_range(0..=input.len());
                input.splice(to..to, piece);
            }
        }
    }
}

#[test]
fn every_target_survives_bent_seeds() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        (target.run)(&[]);
        for seed in &seeds {
            (target.run)(seed);
        }
        let mut rng = SmallRng::seed_from_u64(1);
        for _ in 0..ROUNDS {
            let mut input = seeds[rng.random_range(0..seeds.len())].clone();
            bend(&mut input, &mut rng);
            (target.run)(&input);
        }
    }
}

#[test]
fn targets_have_distinct_names_in_order() {
    assert!(TARGETS.windows(2).all(|pair| pair[0].name < pair[1].name));
    assert!(target("transport_sdp").is_some() && target("nothing").is_none());
}
