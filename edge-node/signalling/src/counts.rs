//! How often things may stand in a client's message, counted before it is decoded: an empty element is two bytes on the wire and hundreds in
//! memory, so a limit on bytes alone lets 256 KB become 32 MB.
//!
//! Counts are of the whole message, whatever element they stand in. What a message holds once needs no rule unless something in it repeats;
//! numbers in a row (enums) grow by two at most and need none either.

use meridian_room::limits::{ACL_RULES, ACL_TRACKS, CODECS, LAYERS, TRACKS};

use crate::fields::fields;
use crate::frame::Violation;

/// Subscriptions that one message names: everybody's tracks in a room of several thousand.
const SUBSCRIPTIONS: usize = 16_384;
/// Entries of a map of texts: more than fit its bytes if they say anything.
const ENTRIES: usize = 4_096;
/// Values in a message of JSON, where an empty element is three bytes.
const JSON_VALUES: usize = 2 * SUBSCRIPTIONS;

/// One field that repeats, or holds what repeats.
pub(crate) struct Rule {
    field: u32,
    name: &'static str,
    at_most: usize,
    within: &'static [Rule],
}

const fn many(field: u32, name: &'static str, at_most: usize, within: &'static [Rule]) -> Rule {
    Rule {
        field,
        name,
        at_most,
        within,
    }
}

/// A field that stands once; said again it is merged, so what is in it still adds up.
const fn one(field: u32, within: &'static [Rule]) -> Rule {
    many(field, "", usize::MAX, within)
}

// Field numbers of livekit_rtc.proto and livekit_models.proto.
const LAYERS_OF_CODECS: &[Rule] = &[many(4, "layers of codecs", TRACKS * CODECS * LAYERS, &[])];
const ADD_TRACK: &[Rule] = &[
    many(9, "layers", TRACKS * LAYERS, &[]),
    many(10, "simulcast_codecs", TRACKS * CODECS, LAYERS_OF_CODECS),
];
const TRACK_INFO: &[Rule] = &[
    many(10, "layers", TRACKS * LAYERS, &[]),
    many(13, "codecs", TRACKS * CODECS, LAYERS_OF_CODECS),
];
const DESCRIPTION: &[Rule] = &[many(4, "mid_to_track_id", ENTRIES, &[])];
const SUBSCRIPTION: &[Rule] = &[
    many(1, "track_sids", SUBSCRIPTIONS, &[]),
    many(
        3,
        "participant_tracks",
        SUBSCRIPTIONS,
        &[many(2, "track_sids", SUBSCRIPTIONS, &[])],
    ),
];
const DATA_SUBSCRIPTION: &[Rule] = &[many(1, "updates", ENTRIES, &[])];
const SYNC_STATE: &[Rule] = &[
    one(1, DESCRIPTION),
    one(2, SUBSCRIPTION),
    many(3, "publish_tracks", 2 * TRACKS, &[one(2, TRACK_INFO)]),
    many(4, "data_channels", TRACKS, &[]),
    one(5, DESCRIPTION),
    many(6, "track_sids_disabled", SUBSCRIPTIONS, &[]),
    many(7, "datachannel_receive_states", SUBSCRIPTIONS, &[]),
    many(8, "publish_data_tracks", ENTRIES, &[]),
    one(9, DATA_SUBSCRIPTION),
];

pub(crate) const JOIN_REQUEST: &[Rule] = &[
    many(4, "participant_attributes", ENTRIES, &[]),
    many(5, "add_track_requests", TRACKS, ADD_TRACK),
    one(6, DESCRIPTION),
    one(10, SYNC_STATE),
];

pub(crate) const SIGNAL_REQUEST: &[Rule] = &[
    one(1, DESCRIPTION),
    one(2, DESCRIPTION),
    one(4, ADD_TRACK),
    one(6, SUBSCRIPTION),
    one(7, &[many(1, "track_sids", SUBSCRIPTIONS, &[])]),
    one(8, &[one(3, &[many(1, "regions", TRACKS, &[])])]),
    one(10, &[many(2, "layers", TRACKS * LAYERS, &[])]),
    one(
        11,
        &[many(
            2,
            "track_permissions",
            ACL_RULES,
            &[many(3, "track_sids", ACL_TRACKS, &[])],
        )],
    ),
    one(12, SYNC_STATE),
    one(15, &[many(3, "attributes", ENTRIES, &[])]),
    one(21, DATA_SUBSCRIPTION),
];

pub(crate) const DATA_PACKET: &[Rule] = &[
    one(
        2,
        &[
            many(3, "destination_sids", SUBSCRIPTIONS, &[]),
            many(6, "destination_identities", SUBSCRIPTIONS, &[]),
        ],
    ),
    one(3, &[many(1, "speakers", TRACKS, &[])]),
    many(5, "destination_identities", SUBSCRIPTIONS, &[]),
    one(7, &[many(4, "segments", ENTRIES, &[])]),
    one(
        8,
        &[
            many(3, "str_data", ENTRIES, &[]),
            many(4, "time_series", ENTRIES, &[many(4, "samples", ENTRIES, &[])]),
            many(5, "events", ENTRIES, &[]),
        ],
    ),
    one(
        13,
        &[
            many(8, "attributes", ENTRIES, &[]),
            one(9, &[many(4, "attached_stream_ids", ENTRIES, &[])]),
        ],
    ),
    one(15, &[many(3, "attributes", ENTRIES, &[])]),
];

/// # Errors
/// A [`Violation`] that names what there is too much of, or says that these bytes are no `what`.
pub(crate) fn check(bytes: &[u8], rules: &'static [Rule], what: &str) -> Result<(), Violation> {
    count(bytes, rules, what, &mut Vec::new())
}

fn count(
    bytes: &[u8],
    rules: &'static [Rule],
    what: &str,
    counts: &mut Vec<(&'static str, usize)>,
) -> Result<(), Violation> {
    for field in fields(bytes) {
        let field = field.map_err(|fault| fault.in_a(what))?;
        let Some(rule) = rules.iter().find(|rule| rule.field == field.number) else {
            continue;
        };
        if rule.at_most != usize::MAX {
            let at = counts
                .iter()
                .position(|(name, _)| *name == rule.name)
                .unwrap_or_else(|| {
                    counts.push((rule.name, 0));
                    counts.len() - 1
                });
            counts[at].1 += 1;
            if counts[at].1 > rule.at_most {
                return Err(Violation::new(format!(
                    "more than {} {} in one message: send them in several",
                    rule.at_most, rule.name
                )));
            }
        }
        if !rule.within.is_empty() {
            count(field.value, rule.within, what, counts)?;
        }
    }
    Ok(())
}

/// The same for a message of JSON: every value that is not the first of its list follows a comma, every list and object opens.
///
/// # Errors
/// A [`Violation`].
pub(crate) fn check_json(text: &str) -> Result<(), Violation> {
    let (mut quoted, mut escaped, mut values) = (false, false, 0);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' | b'{' | b'[' if !quoted => values += 1,
            _ => {}
        }
    }
    if values > JSON_VALUES {
        return Err(Violation::new(format!(
            "more than {JSON_VALUES} values in one message: send them in several"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use livekit_protocol as proto;
    use prost::Message;

    use super::*;

    fn said(bytes: &[u8], rules: &'static [Rule]) -> String {
        check(bytes, rules, "message").expect_err("too many").reason
    }

    #[test]
    fn what_repeats_is_counted_over_the_whole_message_and_named() {
        let track = |layers| proto::AddTrackRequest {
            layers: vec![proto::VideoLayer::default(); layers],
            ..Default::default()
        };
        let join = |tracks, layers| {
            proto::JoinRequest {
                add_track_requests: vec![track(layers); tracks],
                ..Default::default()
            }
            .encode_to_vec()
        };
        assert_eq!(check(&join(TRACKS, LAYERS), JOIN_REQUEST, "message"), Ok(()));
        assert!(said(&join(TRACKS + 1, 0), JOIN_REQUEST).contains("64 add_track_requests"));
        assert!(said(&join(TRACKS, LAYERS + 1), JOIN_REQUEST).contains("512 layers"));
    }

    #[test]
    fn a_message_said_in_two_halves_is_one_message() {
        let half = proto::JoinRequest {
            sync_state: Some(proto::SyncState {
                track_sids_disabled: vec![String::new(); SUBSCRIPTIONS / 2 + 1],
                ..Default::default()
            }),
            ..Default::default()
        }
        .encode_to_vec();
        assert_eq!(check(&half, JOIN_REQUEST, "message"), Ok(()));
        assert!(said(&half.repeat(2), JOIN_REQUEST).contains("track_sids_disabled"));
    }

    #[test]
    fn commas_in_texts_are_no_values() {
        let text = format!(r#"{{"metadata":"\"{}"}}"#, ",{[".repeat(JSON_VALUES));
        assert_eq!(check_json(&text), Ok(()));
        assert!(check_json(&format!("[{}]", "{},".repeat(JSON_VALUES))).is_err());
    }
}
