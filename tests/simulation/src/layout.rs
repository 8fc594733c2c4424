//! Where edges stand: made up, or on this planet.

use std::time::Duration;

use meridian_geo::predicted_rtt_ms;
use meridian_geo::regions::REGIONS;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::world::Layout;

/// So many edges in each region: 1–4 ms within one, 20–120 ms one way between two, a little different for each pair.
pub fn of_regions(seed: u64, sizes: &[usize], is_exact: bool, linked_all_up_to: usize) -> Layout {
    let mut rng = SmallRng::seed_from_u64(seed ^ 0x6c61_796f_7574);
    let region_of: Vec<usize> = (0..sizes.len())
        .flat_map(|region| std::iter::repeat_n(region, sizes[region]))
        .collect();
    let apart: Vec<Vec<u64>> = (0..sizes.len())
        .map(|_| (0..sizes.len()).map(|_| rng.random_range(20_000..120_000)).collect())
        .collect();
    let count = region_of.len();
    let mut ways = vec![vec![Duration::ZERO; count]; count];
    for a in 0..count {
        for b in 0..a {
            let (one, other) = (region_of[a].min(region_of[b]), region_of[a].max(region_of[b]));
            let us = if one == other {
                rng.random_range(1_000..4_000)
            } else {
                apart[one][other] + rng.random_range(0..3_000)
            };
            ways[a][b] = Duration::from_micros(us);
            ways[b][a] = ways[a][b];
        }
    }
    Layout {
        regions: region_of.iter().map(|region| format!("region-{region}")).collect(),
        ways,
        sites: (0..count).collect(),
        is_exact,
        linked_all_up_to,
    }
}

/// So many edges spread over the cities that Meridian knows, one site a city. Which edge stands where repeats.
pub fn planet(edges: usize, linked_all_up_to: usize) -> Layout {
    let cities = REGIONS.len().min(edges);
    let way = |a: usize, b: usize| {
        let rtt_ms = if a == b {
            0.6
        } else {
            predicted_rtt_ms(REGIONS[a].location, REGIONS[b].location)
        };
        Duration::from_micros((rtt_ms * 500.0) as u64)
    };
    Layout {
        regions: (0..edges).map(|edge| REGIONS[edge % cities].name.to_owned()).collect(),
        ways: (0..cities).map(|a| (0..cities).map(|b| way(a, b)).collect()).collect(),
        sites: (0..edges).map(|edge| edge % cities).collect(),
        is_exact: false,
        linked_all_up_to,
    }
}
