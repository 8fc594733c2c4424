//! What one participant, or one edge, can make every other edge of a room hold. Checked at the local writer (an error for
//! the caller) and again at every replica (the record is refused and counted).

/// Bytes of an identity, a room name, a track's name, stream, cid or mid.
pub const ID_BYTES: usize = 256;
/// Bytes of a participant's display name.
pub const NAME_BYTES: usize = 1024;
/// Bytes of a participant's or the room's metadata.
pub const METADATA_BYTES: usize = 64 * 1024;
/// Bytes of all keys and values of a participant's attributes together.
pub const ATTRIBUTES_BYTES: usize = 64 * 1024;
/// Tracks of one participant.
pub const TRACKS: usize = 64;
/// Codecs of one track, and layers of one codec.
pub const CODECS: usize = 8;
pub const LAYERS: usize = 8;
/// Short enumerations in facts: features, capabilities, sources.
pub const FEATURES: usize = 32;
/// People of one edge in one room.
pub const PARTICIPANTS_PER_NODE: usize = 20_000;
/// Edges that can hold state in one room.
pub const NODES: usize = 4_096;
/// Departures an edge remembers, so that a replica which was away learns of each; beyond, it is sent the roster instead.
pub const TOMBSTONES: usize = 1_024;
/// Bytes of records in one delta; larger differences come as several.
pub const DELTA_BYTES: usize = 128 * 1024;
/// Ranges of a writer's history that may arrive ahead of a gap before they are forgotten and asked for again.
pub const RANGES_AHEAD: usize = 64;
/// An epoch this far above the highest seen is a broken peer, not a busy room.
pub const EPOCH_LEAP: u64 = 1 << 40;
/// Rules of one participant's subscription list, and all track sids named in them together.
pub const ACL_RULES: usize = 2_048;
pub const ACL_TRACKS: usize = 8_192;
