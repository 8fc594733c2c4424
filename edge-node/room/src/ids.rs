//! Ids that travel between edges and to clients. String ids are reference-counted: a clone costs no allocation.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use rand::Rng;

use crate::facts::{TrackKind, TrackSource};

macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn new(id: impl Into<String>) -> Self {
                Self(Arc::from(id.into()))
            }
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
        impl From<&str> for $name {
            fn from(id: &str) -> Self {
                Self(Arc::from(id))
            }
        }
        impl From<String> for $name {
            fn from(id: String) -> Self {
                Self(Arc::from(id))
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

string_id!(
    /// An edge, as its certificate names it.
    NodeId
);
string_id!(
    /// A room's name: what tokens and the directory speak of.
    RoomName
);
string_id!(
    /// One life of a room, `RM_…`.
    RoomSid
);
string_id!(
    /// One stay of a participant, `PA_…`; a full reconnect gets a new one.
    ParticipantSid
);
string_id!(
    /// Who a participant is (the token's `sub`): at most one live stay per identity and room.
    Identity
);
string_id!(
    /// One published track, `TR_…`.
    TrackSid
);

/// Orders the stays of one identity across edges: the highest seen in the room, plus one, on every join (never wall clock).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// Counts the changes of one participant's facts within its stay; clients drop what is older than what they have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl RoomSid {
    pub fn generate(rng: &mut impl Rng) -> Self {
        Self::new(random_id("RM_", rng))
    }
}

impl ParticipantSid {
    pub fn generate(rng: &mut impl Rng) -> Self {
        Self::new(random_id("PA_", rng))
    }
}

impl TrackSid {
    /// The two letters after `TR_` say kind and source, as LiveKit's do; nothing may depend on them.
    pub fn generate(kind: TrackKind, source: TrackSource, rng: &mut impl Rng) -> Self {
        let prefix = match (kind, source) {
            (TrackKind::Audio, TrackSource::Microphone) => "TR_AM",
            (TrackKind::Audio, TrackSource::ScreenShareAudio) => "TR_AS",
            (TrackKind::Audio, _) => "TR_AU",
            (TrackKind::Video, TrackSource::Camera) => "TR_VC",
            (TrackKind::Video, TrackSource::ScreenShare) => "TR_VS",
            (TrackKind::Video, _) => "TR_VU",
            (TrackKind::Data, _) => "TR_D",
        };
        Self::new(random_id(prefix, rng))
    }
}

/// 12 characters of base62: 71 bits, so that ids of one room do not collide and cannot be guessed at a useful rate.
fn random_id(prefix: &str, rng: &mut impl Rng) -> String {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut id = String::with_capacity(prefix.len() + 12);
    id.push_str(prefix);
    id.extend((0..12).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])));
    id
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn generated_ids_carry_their_prefix_and_differ() {
        let mut rng = rand::rngs::SmallRng::seed_from_u64(1);
        let a = ParticipantSid::generate(&mut rng);
        let b = ParticipantSid::generate(&mut rng);
        assert!(a.as_str().starts_with("PA_") && a.as_str().len() == 15);
        assert_ne!(a, b);
        let track = TrackSid::generate(TrackKind::Video, TrackSource::ScreenShare, &mut rng);
        assert!(track.as_str().starts_with("TR_VS") && track.as_str().len() == 17);
    }
}
