//! What subscribers ask for, and what that means for the layers a publisher must send or a link must carry.
//! Which layer a subscription gets at this moment is the downlink's decision, not this module's.

use crate::media::{Layer, LayerSet};

/// One subscriber's wish for one track (LiveKit's `trackSetting`), already translated to layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// `false` = the subscriber wants no media of this track for now.
    pub enabled: bool,
    pub max_layer: Layer,
    /// Frames per second the subscriber can use; `None` = all.
    pub max_fps: Option<u8>,
    /// Higher is more important; 0 = unset.
    pub priority: u8,
}

impl Default for Demand {
    fn default() -> Self {
        Demand {
            enabled: true,
            max_layer: Layer::HIGH,
            max_fps: None,
            priority: 0,
        }
    }
}

/// The layers somebody wants, of those that exist: each enabled demand counts for its top layer (or the nearest that
/// exists below it, else above). For dynacast and link taps. Empty when nobody wants the track.
pub fn wanted(demands: impl IntoIterator<Item = Demand>, available: LayerSet) -> LayerSet {
    let mut wanted = LayerSet::EMPTY;
    for demand in demands {
        if demand.enabled
            && let Some(layer) = best(demand.max_layer, available)
        {
            wanted.insert(layer);
        }
    }
    wanted
}

/// What must be there to serve `wanted` over a link on which `shed` does not cross at present: also the layer below each of
/// those that somebody would have got.
pub fn with_stand_ins(wanted: LayerSet, shed: LayerSet) -> LayerSet {
    let mut all = wanted;
    for layer in shed.iter().filter(|layer| layer.0 > 0 && wanted.0 >> layer.0 != 0) {
        all.insert(Layer(layer.0 - 1));
    }
    all
}

/// Whether packets of `layer` are for somebody who wants `wanted`: the layer itself, or the best below it that is sent
/// (`live`) and crosses (is not in `shed`), so that nobody is left without a picture. True also for shed layers themselves:
/// the link measures what they would take.
pub fn serves(layer: Layer, wanted: LayerSet, live: LayerSet, shed: LayerSet) -> bool {
    let better = |want: Layer| live.iter().any(|l| l > layer && l <= want && !shed.contains(l));
    wanted.iter().any(|want| layer <= want && !better(want))
}

/// The highest available layer up to `max`, else the lowest above it.
pub fn best(max: Layer, available: LayerSet) -> Option<Layer> {
    available
        .iter()
        .filter(|&l| l <= max)
        .last()
        .or_else(|| available.iter().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up_to(layer: u8) -> Demand {
        Demand {
            max_layer: Layer(layer),
            ..Demand::default()
        }
    }

    #[test]
    fn the_best_layer_that_is_sent_and_crosses_stands_in() {
        let (low, mid, high) = (Layer(0), Layer(1), Layer(2));
        let who = |wanted: u8, live: u8, shed: u8| {
            [low, mid, high].map(|layer| serves(layer, LayerSet(wanted), LayerSet(live), LayerSet(shed)))
        };
        assert_eq!(who(0b100, 0b111, 0), [false, false, true]);
        assert_eq!(who(0b100, 0b011, 0), [false, true, true], "not sent");
        assert_eq!(
            who(0b100, 0b111, 0b100),
            [false, true, true],
            "shed, and still measured"
        );
        assert_eq!(
            who(0b100, 0b101, 0b100),
            [true, true, true],
            "the one below is not sent"
        );
        assert_eq!(who(0b100, 0b111, 0b110), [true, true, true], "shed one after the other");
        assert_eq!(who(0b010, 0b111, 0b100), [false, true, false], "somebody else's");
        assert_eq!(
            who(0b001, 0b001, 0b001),
            [true, false, false],
            "nothing stands in for the lowest"
        );
        assert_eq!(who(0, 0b111, 0b100), [false; 3]);
        let needed = |wanted: u8, shed: u8| with_stand_ins(LayerSet(wanted), LayerSet(shed)).0;
        assert_eq!(needed(0b100, 0), 0b100);
        assert_eq!(needed(0b100, 0b100), 0b110);
        assert_eq!(needed(0b100, 0b110), 0b111);
        assert_eq!(needed(0b100, 0b010), 0b101, "the middle one had stood in for the top");
        assert_eq!(
            (needed(0b010, 0b100), needed(0b001, 0b001), needed(0, 0b111)),
            (0b010, 0b001, 0)
        );
    }

    #[test]
    fn the_union_holds_each_demands_best_layer() {
        let all = LayerSet::up_to(Layer::HIGH);
        assert_eq!(wanted([up_to(0), up_to(2), up_to(0)], all), LayerSet(0b101));
        assert_eq!(wanted([up_to(2)], LayerSet(0b011)), LayerSet(0b010));
        assert_eq!(wanted([up_to(0)], LayerSet(0b100)), LayerSet(0b100));
        assert_eq!(
            wanted(
                [Demand {
                    enabled: false,
                    ..up_to(2)
                }],
                all
            ),
            LayerSet::EMPTY
        );
        assert_eq!(wanted([up_to(1)], LayerSet::EMPTY), LayerSet::EMPTY);
    }
}
