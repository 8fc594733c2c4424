//! Simulcast layers of a section: which there are, and which of them is the smaller picture.

use meridian_sfu::media::Layer;

use super::offer::{OfferedLayer, OfferedSection};

/// Names that tell the order, low to high: those of LiveKit's SDKs, and of browsers' examples.
const NAMED: [[&str; Layer::COUNT]; 2] = [["q", "h", "f"], ["2", "1", "0"]];

/// The layers that are declared as rid and as simulcast stream (RFC 8853 §5.1), each once, at most [`Layer::COUNT`], in the offer's order.
pub(super) fn declared<'a>(offered: &OfferedSection<'a>) -> Vec<OfferedLayer<'a>> {
    let mut layers: Vec<OfferedLayer<'a>> = Vec::new();
    for layer in &offered.simulcast_send {
        let known = layers.iter().any(|known| known.rid == layer.rid);
        if layers.len() < Layer::COUNT && !known && offered.rids_send.contains(&layer.rid) {
            layers.push(*layer);
        }
    }
    layers
}

/// Low to high. The order of `a=simulcast` means nothing: livekit-client offers `q;h;f`, LiveKit's Rust core `f;h;q`. Names that are
/// not ours are sorted as `told`; without that they stay as declared.
pub(super) fn sort(rids: &mut [String], told: &[String]) {
    let all_in = |names: &dyn Fn(&String) -> Option<usize>| rids.iter().all(|rid| names(rid).is_some());
    for names in NAMED {
        let place = |rid: &String| names.iter().position(|name| name == rid);
        if all_in(&place) {
            return rids.sort_by_key(place);
        }
    }
    let place = |rid: &String| told.iter().position(|name| name == rid);
    if all_in(&place) {
        rids.sort_by_key(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(rids: &[&str], told: &[&str]) -> Vec<String> {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let mut rids = owned(rids);
        sort(&mut rids, &owned(told));
        rids
    }

    #[test]
    fn known_names_tell_the_order_however_they_are_declared() {
        assert_eq!(sorted(&["f", "h", "q"], &[]), ["q", "h", "f"]);
        assert_eq!(sorted(&["h", "q"], &[]), ["q", "h"]);
        assert_eq!(sorted(&["0", "1", "2"], &[]), ["2", "1", "0"]);
        assert_eq!(
            sorted(&["f", "q"], &["f", "q"]),
            ["q", "f"],
            "names come before what was told"
        );
    }

    #[test]
    fn other_names_go_by_the_sizes_that_were_told_else_as_declared() {
        assert_eq!(sorted(&["big", "small"], &["small", "big"]), ["small", "big"]);
        assert_eq!(
            sorted(&["big", "small"], &["small"]),
            ["big", "small"],
            "one was not told"
        );
        assert_eq!(sorted(&["q", "small"], &[]), ["q", "small"]);
    }
}
