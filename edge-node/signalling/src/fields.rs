//! Protobuf messages field by field, nothing decoded and nothing allocated.

use meridian_room::Identity;
use prost::encoding::decode_varint;

use crate::frame::Violation;

/// One field of a protobuf message, as it stands on the wire.
pub(crate) struct Field<'a> {
    pub(crate) number: u32,
    pub(crate) whole: &'a [u8],
    /// Payload of a length-delimited field; empty for others.
    pub(crate) value: &'a [u8],
    /// Value of a varint field; 0 for others.
    pub(crate) varint: u64,
}

impl Field<'_> {
    pub(crate) fn text(&self) -> Result<&str, Malformed> {
        std::str::from_utf8(self.value).map_err(|_| Malformed("text is not UTF-8"))
    }
    pub(crate) fn identity(&self) -> Result<Identity, Malformed> {
        Ok(Identity::from(self.text()?))
    }
}

/// These bytes are no message of protobuf.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl Malformed {
    pub(crate) fn in_a(self, what: &str) -> Violation {
        Violation::new(format!("malformed {what}: {}", self.0))
    }
}

/// The fields of a message in their order. After an error nothing more comes.
pub(crate) fn fields(mut rest: &[u8]) -> impl Iterator<Item = Result<Field<'_>, Malformed>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = next_field(&mut rest);
        if field.is_err() {
            rest = &[];
        }
        Some(field)
    })
}

fn next_field<'a>(rest: &mut &'a [u8]) -> Result<Field<'a>, Malformed> {
    let start = *rest;
    let key = decode_varint(rest).map_err(|_| Malformed("a cut field"))?;
    let number = u32::try_from(key >> 3).map_err(|_| Malformed("a field number out of range"))?;
    let (mut value, mut varint): (&[u8], u64) = (&[], 0);
    match key & 7 {
        0 => varint = decode_varint(rest).map_err(|_| Malformed("a cut number"))?,
        1 => *rest = rest.get(8..).ok_or(Malformed("a cut number"))?,
        2 => {
            let length = decode_varint(rest).map_err(|_| Malformed("a cut length"))?;
            let length = usize::try_from(length).map_err(|_| Malformed("a length out of range"))?;
            (value, *rest) = rest.split_at_checked(length).ok_or(Malformed("a cut field"))?;
        }
        5 => *rest = rest.get(4..).ok_or(Malformed("a cut number"))?,
        _ => return Err(Malformed("a group")),
    }
    Ok(Field {
        number,
        whole: &start[..start.len() - rest.len()],
        value,
        varint,
    })
}
