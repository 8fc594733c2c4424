//! What each video stream of one subscriber gets of what its link carries ([`crate::bandwidth`]). Pure: the streams with what
//! their layers cost go in, a grant for each comes out. Audio is always sent; the caller takes it off the budget first.
//!
//! 1. Everybody shows: the lowest layer for each stream, the most important first. What does not fit is paused.
//! 2. The most important ones (a pinned tile, a shared screen: a priority above the others') rise to what they ask for.
//! 3. The others rise evenly, a step for each before a second step for anybody.
//!
//! So when the link falls the others step down together, then the important ones, and streams are paused last, the least
//! important first. A step up has to fit with [`UP_MARGIN`] to spare; one that was granted stays until it does not fit at all.

mod pauses;

pub use pauses::Pauses;

use crate::layers;
use crate::media::{Layer, LayerSet};

/// What a step up must fit with: measured rates vary by this much from one half second to the next, and an estimate
/// wavers by as much around what a link carries.
pub const UP_MARGIN: f64 = 1.15;
/// UDP, IP, SRTP tag and header extensions of packets of about 1,100 bytes.
const OVERHEAD: f64 = 1.06;
/// Layers that were never measured cost what libwebrtc's defaults for 180p, 360p and 720p are, bits per second.
const NOMINAL_BPS: [u32; Layer::COUNT] = [150_000, 500_000, 1_700_000];

/// One stream that its subscriber looks at.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Higher is more important.
    pub priority: u8,
    /// What the tile can use.
    pub max_layer: Layer,
    /// What the publisher sends at present; empty = not known yet.
    pub live: LayerSet,
    /// The most each layer took lately, bits per second; 0 = never measured.
    pub rates_bps: [u32; Layer::COUNT],
    /// What each layer takes at present; 0 = nothing comes.
    pub current_bps: [u32; Layer::COUNT],
    /// What was granted last.
    pub granted: Grant,
}

/// What a stream may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Grant {
    /// The link has no room for it.
    Paused,
    UpTo(Layer),
    /// No limit but the subscriber's own wish.
    #[default]
    All,
}

impl Stream {
    fn choices(&self) -> LayerSet {
        if self.live.is_empty() {
            return LayerSet::up_to(self.max_layer);
        }
        let usable = LayerSet(self.live.0 & LayerSet::up_to(self.max_layer).0);
        if !usable.is_empty() {
            return usable;
        }
        // Nothing as small as the tile: the lowest there is.
        let mut only = LayerSet::EMPTY;
        layers::best(self.max_layer, self.live)
            .into_iter()
            .for_each(|layer| only.insert(layer));
        only
    }

    fn cost(&self, layer: Layer) -> f64 {
        let measured = self.rates_bps[layer.index()];
        let rate = if measured == 0 {
            NOMINAL_BPS[layer.index()]
        } else {
            measured
        };
        f64::from(rate) * OVERHEAD
    }

    /// What a layer takes at present. A stream is not taken away from anybody because it was larger a while ago: keyframes, which
    /// every newcomer asks for, are far above what a small picture usually takes.
    fn current_cost(&self, layer: Layer) -> f64 {
        match self.current_bps[layer.index()] {
            0 => self.cost(layer),
            bps => (f64::from(bps) * OVERHEAD).min(self.cost(layer)),
        }
    }

    /// What must be free for this layer, which costs so much: more if it would be a step up.
    fn room_for(&self, layer: Layer, cost: f64) -> f64 {
        let has = match self.granted {
            Grant::Paused => false,
            Grant::UpTo(top) => layer <= top,
            Grant::All => true,
        };
        cost * if has { 1.0 } else { UP_MARGIN }
    }

    /// The least of it.
    fn lowest(&self) -> Layer {
        self.choices().iter().next().unwrap_or(Layer::LOW)
    }
}

/// Budget that grants every stream all it can use: with less somebody is missing something, so the link is to be asked for this much.
pub fn wanted_bps(streams: &[Stream]) -> u64 {
    let room = |stream: &Stream, top: Layer| match stream.rates_bps[top.index()] {
        // Only one way to find out how much it will be.
        0 => stream.room_for(top, f64::from(NOMINAL_BPS[Layer::HIGH.index()]) * OVERHEAD),
        _ => stream.room_for(top, stream.cost(top)),
    };
    let best = |stream: &Stream| stream.choices().iter().last().map_or(0.0, |top| room(stream, top));
    // What nobody publishes takes nothing.
    let flowing = streams.iter().filter(|stream| !stream.live.is_empty());
    // A bit more than the sum, which may be rounded down when it is taken apart again.
    (flowing.map(best).sum::<f64>() * (1.0 + 1e-6)).ceil() as u64
}

/// Bits per second that what is granted takes now.
pub fn granted_bps(streams: &[Stream]) -> u64 {
    let cost = |stream: &Stream| match stream.granted {
        Grant::Paused => 0.0,
        Grant::UpTo(top) => {
            let granted = stream.choices().iter().filter(|&layer| layer <= top).last();
            granted
                .or_else(|| stream.choices().iter().next())
                .map_or(0.0, |layer| stream.cost(layer))
        }
        Grant::All => stream.choices().iter().last().map_or(0.0, |layer| stream.cost(layer)),
    };
    streams.iter().map(cost).sum::<f64>() as u64
}

/// Writes the grants for this budget into `streams`.
pub fn allocate(budget_bps: u64, streams: &mut [Stream]) {
    let mut left = budget_bps as f64;
    let mut given: Vec<Option<Layer>> = vec![None; streams.len()];
    let mut order: Vec<usize> = (0..streams.len()).collect();
    order.sort_by_key(|&i| {
        (
            std::cmp::Reverse(streams[i].priority),
            std::cmp::Reverse(streams[i].max_layer),
            i,
        )
    });
    let top_priority = order.first().map_or(0, |&i| streams[i].priority);
    let (important, others): (Vec<usize>, Vec<usize>) = order
        .iter()
        .partition(|&&i| streams[i].priority == top_priority && top_priority > 0);
    for &i in &order {
        let (stream, lowest) = (&streams[i], streams[i].lowest());
        let cost = stream.current_cost(lowest);
        if stream.room_for(lowest, cost) <= left {
            left -= cost;
            given[i] = Some(lowest);
        }
    }
    // Steps up have to fit when everything is as large as it has been.
    let shown = streams.iter().zip(&given).filter(|(_, given)| given.is_some());
    left -= shown
        .map(|(stream, _)| stream.cost(stream.lowest()) - stream.current_cost(stream.lowest()))
        .sum::<f64>();
    for group in [important, others] {
        for _ in 1..Layer::COUNT {
            for &i in &group {
                if let Some(has) = &mut given[i] {
                    rise(&mut left, &streams[i], has);
                }
            }
        }
    }
    for (stream, given) in streams.iter_mut().zip(given) {
        stream.granted = given.map_or(Grant::Paused, Grant::UpTo);
    }
}

/// One step up, if there is one and it fits.
fn rise(left: &mut f64, stream: &Stream, has: &mut Layer) {
    let Some(next) = stream.choices().iter().find(|&layer| layer > *has) else {
        return;
    };
    let held = stream.cost(*has);
    let cost = stream.cost(next);
    if stream.room_for(next, cost) - held <= *left {
        *left -= cost - held;
        *has = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    const RATES: [u32; 3] = [150_000, 500_000, 1_700_000];

    fn camera(priority: u8, max: u8) -> Stream {
        Stream {
            priority,
            max_layer: Layer(max),
            live: LayerSet::up_to(Layer::HIGH),
            rates_bps: RATES,
            current_bps: RATES,
            granted: Grant::Paused,
        }
    }

    fn grants(budget_bps: u64, streams: &mut [Stream]) -> Vec<Option<u8>> {
        allocate(budget_bps, streams);
        streams
            .iter()
            .map(|s| match s.granted {
                Grant::Paused => None,
                Grant::UpTo(layer) => Some(layer.0),
                Grant::All => panic!("a budget was given"),
            })
            .collect()
    }

    #[test]
    fn everybody_shows_before_anybody_is_large_and_all_rise_evenly() {
        let four = || [camera(0, 2); 4];
        assert_eq!(grants(800_000, &mut four()), [Some(0); 4]);
        assert_eq!(grants(3_000_000, &mut four()), [Some(1); 4]);
        assert_eq!(grants(10_000_000, &mut four()), [Some(2); 4]);
        assert_eq!(grants(400_000, &mut four()), [Some(0), Some(0), None, None]);
        assert_eq!(grants(100_000, &mut four()), [None; 4]);
    }

    #[test]
    fn what_is_pinned_or_a_shared_screen_comes_first() {
        let mut streams = [camera(1, 2), camera(1, 2), camera(200, 2), camera(1, 2)];
        assert_eq!(grants(2_600_000, &mut streams), [Some(0), Some(0), Some(2), Some(0)]);
        assert_eq!(grants(1_200_000, &mut streams), [Some(0), Some(0), Some(1), Some(0)]);
        assert_eq!(grants(200_000, &mut streams), [None, None, Some(0), None]);
    }

    #[test]
    fn a_small_tile_takes_no_more_than_it_can_use() {
        let mut streams = [camera(0, 2), camera(0, 0), camera(0, 0)];
        assert_eq!(grants(2_500_000, &mut streams), [Some(2), Some(0), Some(0)]);
        assert_eq!(wanted_bps(&streams) / 10, (2_000_000.0 * OVERHEAD) as u64 / 10);
        assert_eq!(granted_bps(&streams), (2_000_000.0 * OVERHEAD) as u64);
    }

    #[test]
    fn a_step_up_needs_room_to_spare_and_a_step_once_taken_stays() {
        let mut one = [camera(0, 1)];
        assert_eq!(
            grants(560_000, &mut one),
            [Some(0)],
            "530 k would fit, with nothing to spare"
        );
        assert_eq!(grants(640_000, &mut one), [Some(1)]);
        for wavering in [560_000, 540_000, 600_000, 535_000] {
            assert_eq!(grants(wavering, &mut one), [Some(1)], "no flapping at {wavering}");
        }
        assert_eq!(grants(520_000, &mut one), [Some(0)]);
        assert_eq!(grants(560_000, &mut one), [Some(0)]);
    }

    #[test]
    fn what_is_wanted_is_enough_for_everybody() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(7);
        for round in 0..2_000 {
            let mut streams: Vec<Stream> = (0..rng.random_range(1..9))
                .map(|_| {
                    let rates = RATES.map(|bps| rng.random_range(bps / 2..bps));
                    Stream {
                        live: LayerSet(rng.random_range(1..8)),
                        rates_bps: rates,
                        current_bps: rates.map(|bps| rng.random_range(bps / 3..=bps)),
                        granted: [Grant::Paused, Grant::UpTo(Layer::LOW), Grant::All][rng.random_range(0..3)],
                        ..camera(rng.random_range(0..2), rng.random_range(0..3))
                    }
                })
                .collect();
            let wanted = wanted_bps(&streams);
            allocate(wanted, &mut streams);
            for stream in &streams {
                let best = stream.choices().iter().last().unwrap();
                assert_eq!(
                    stream.granted,
                    Grant::UpTo(best),
                    "round {round}, {wanted} bit/s: {streams:?}"
                );
            }
        }
    }

    #[test]
    fn a_picture_that_was_larger_stays_on_but_others_rise_only_beside_what_it_may_be_again() {
        let mut streams = [Stream {
            rates_bps: [300_000, 500_000, 1_700_000],
            granted: Grant::UpTo(Layer::LOW),
            ..camera(0, 2)
        }; 2];
        assert_eq!(
            grants(330_000, &mut streams),
            [Some(0); 2],
            "two of 150 k, which had keyframes"
        );
        assert_eq!(
            grants(700_000, &mut streams),
            [Some(0); 2],
            "one of 500 k would fit beside 150 k, not beside 300 k"
        );
        assert_eq!(grants(950_000, &mut streams), [Some(1), Some(0)]);
        assert_eq!(grants(300_000, &mut streams), [Some(0), None]);
    }

    #[test]
    fn layers_that_are_not_sent_are_not_granted_and_a_single_large_one_is_all_or_nothing() {
        let mut streams = [Stream {
            live: LayerSet(0b011),
            ..camera(0, 2)
        }];
        assert_eq!(grants(9_000_000, &mut streams), [Some(1)]);
        let mut only_high = [Stream {
            live: LayerSet(0b100),
            ..camera(0, 0)
        }];
        assert_eq!(grants(9_000_000, &mut only_high), [Some(2)]);
        assert_eq!(grants(1_000_000, &mut only_high), [None]);
        let mut unknown = [Stream {
            live: LayerSet::EMPTY,
            rates_bps: [0; 3],
            current_bps: [0; 3],
            ..camera(0, 2)
        }];
        assert_eq!(grants(800_000, &mut unknown), [Some(1)], "by what is usual");
    }
}
