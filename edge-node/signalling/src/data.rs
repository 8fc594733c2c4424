//! Data packets between participants: who sent them is stamped, who receives them is read; the rest is opaque and passes
//! byte for byte, fields this server does not know included.

use livekit_protocol as proto;
use meridian_room::{Identity, ParticipantSid, Room};
use prost::Message;
use prost::bytes::Bytes;
use prost::encoding::{encode_key, encode_varint};

use crate::counts;
use crate::fields::{Field, Malformed, fields};
use crate::frame::Violation;
use crate::session::Session;

/// Largest message on a data channel, in bytes.
pub const DATA_BYTES_MAX: usize = 64_000;

// Field numbers of DataPacket and, inside it, UserPacket.
const USER: u32 = 2;
const SPEAKER: u32 = 3;
const PACKET_IDENTITY: u32 = 4;
const PACKET_DESTINATIONS: u32 = 5;
const METRICS: u32 = 8;
const SEQUENCE: u32 = 16;
const PACKET_SID: u32 = 17;
const USER_SID: u32 = 1;
const USER_DESTINATION_SIDS: u32 = 3;
const USER_IDENTITY: u32 = 5;
const USER_DESTINATION_IDENTITIES: u32 = 6;

/// In reasons.
const WHAT: &str = "data packet";

fn malformed(fault: Malformed) -> Violation {
    fault.in_a(WHAT)
}

/// A packet to be passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Stamped with its sender.
    pub bytes: Bytes,
    pub reliable: bool,
    /// `None`: everybody but the sender. Otherwise these only (possibly nobody).
    pub destinations: Option<Vec<Identity>>,
    /// 0: the client does not number its packets.
    pub sequence: u32,
}

impl Session {
    /// Inspects one message of the client's `_reliable` or `_lossy` channel. `None`: not to be passed on (no permission, a
    /// repetition, or of a kind that only servers send).
    ///
    /// # Errors
    /// As [`inspect`].
    pub fn inspect_data(&mut self, room: &Room, reliable: bool, bytes: &[u8]) -> Result<Option<Relay>, Violation> {
        let Some(sender) = self.sender() else {
            return Err(Violation::new("data before the session has started"));
        };
        let relay = inspect(room, sender, reliable, bytes)?;
        let permitted = room
            .participant(self.identity())
            .is_some_and(|me| me.permission.can_publish_data);
        let Some(relay) = relay.filter(|_| permitted) else {
            return Ok(None);
        };
        // After a resume the client repeats what may have been lost; its channel keeps the order.
        if reliable && relay.sequence > 0 && !self.advance_data_sequence(relay.sequence) {
            return Ok(None);
        }
        Ok(Some(relay))
    }
}

/// Stamps and addresses a DataPacket. `None`: a kind that is not for relaying (speaker lists, metrics).
///
/// # Errors
/// A [`Violation`] for a message that is no DataPacket or larger than [`DATA_BYTES_MAX`].
pub fn inspect(
    room: &Room,
    sender: (&Identity, &ParticipantSid),
    reliable: bool,
    bytes: &[u8],
) -> Result<Option<Relay>, Violation> {
    if bytes.len() > DATA_BYTES_MAX {
        let length = bytes.len();
        return Err(Violation::new(format!(
            "a data packet of {length} bytes: at most {DATA_BYTES_MAX} are accepted"
        )));
    }
    counts::check(bytes, counts::DATA_PACKET, WHAT)?;
    // Receivers decode all of it: what they could not read must not reach them.
    proto::DataPacket::decode(bytes).map_err(|error| Violation::new(format!("malformed {WHAT}: {error}")))?;
    let mut out = Vec::with_capacity(bytes.len() + 64);
    let mut destinations: Option<Vec<Identity>> = None;
    let mut address = |identity: Option<Identity>| destinations.get_or_insert_default().extend(identity);
    let (mut sequence, mut has_value) = (0, false);
    for field in fields(bytes) {
        let field = field.map_err(malformed)?;
        match field.number {
            PACKET_IDENTITY | PACKET_SID => continue,
            SPEAKER | METRICS => return Ok(None),
            PACKET_DESTINATIONS => address(Some(field.identity().map_err(malformed)?)),
            SEQUENCE => sequence = u32::try_from(field.varint).unwrap_or(0),
            USER => {
                has_value = true;
                stamp_user(room, sender, &field, &mut out, &mut address)?;
                continue;
            }
            _ => has_value = true,
        }
        out.extend_from_slice(field.whole);
    }
    if !has_value {
        return Ok(None);
    }
    put_string(&mut out, PACKET_IDENTITY, sender.0.as_str());
    put_string(&mut out, PACKET_SID, sender.1.as_str());
    if let Some(list) = &mut destinations {
        list.sort();
        list.dedup();
    }
    Ok(Some(Relay {
        bytes: out.into(),
        reliable,
        destinations,
        sequence,
    }))
}

/// Who sent a stamped packet, and the sender's number of it (0: none). `None`: it is not one of ours.
pub fn stamp(packet: &[u8]) -> Option<(ParticipantSid, u32)> {
    let (mut sender, mut sequence) = (None, 0);
    for field in fields(packet) {
        let field = field.ok()?;
        match field.number {
            PACKET_SID => sender = Some(ParticipantSid::from(field.text().ok()?)),
            SEQUENCE => sequence = u32::try_from(field.varint).unwrap_or(0),
            _ => {}
        }
    }
    Some((sender?, sequence))
}

/// UserPacket has sender and destinations of its own, which older clients use.
fn stamp_user(
    room: &Room,
    sender: (&Identity, &ParticipantSid),
    user: &Field<'_>,
    out: &mut Vec<u8>,
    address: &mut impl FnMut(Option<Identity>),
) -> Result<(), Violation> {
    let mut inner = Vec::with_capacity(user.value.len() + 64);
    for field in fields(user.value) {
        let field = field.map_err(malformed)?;
        match field.number {
            USER_SID | USER_IDENTITY => continue,
            USER_DESTINATION_IDENTITIES => address(Some(field.identity().map_err(malformed)?)),
            USER_DESTINATION_SIDS => {
                let sid = ParticipantSid::from(field.text().map_err(malformed)?);
                address(room.participant_by_sid(&sid).map(|p| p.identity.clone()));
            }
            _ => {}
        }
        inner.extend_from_slice(field.whole);
    }
    put_string(&mut inner, USER_SID, sender.1.as_str());
    put_string(&mut inner, USER_IDENTITY, sender.0.as_str());
    put_bytes(out, USER, &inner);
    Ok(())
}

fn put_string(out: &mut Vec<u8>, number: u32, text: &str) {
    put_bytes(out, number, text.as_bytes());
}

fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    encode_key(number, prost::encoding::WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}
