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
