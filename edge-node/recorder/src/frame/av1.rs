//! AV1 out of RTP (RTP payload format for AV1 §4): OBUs behind their sizes, as Matroska stores them ("Carriage of AV1 in Matroska").

use super::bits::Bits;
use super::{Format, Malformed};

const SEQUENCE_HEADER: u8 = 1;
const TEMPORAL_DELIMITER: u8 = 2;
const TILE_LIST: u8 = 8;
const PADDING: u8 = 15;
/// Real sequence headers have a dozen bytes.
const SEQUENCE_HEADER_MAX: usize = 1024;

#[derive(Default)]
pub(super) struct Units {
    /// An OBU whose end is yet to come.
    partial: Vec<u8>,
    sequence_header: Vec<u8>,
    changed: bool,
    has_sequence_header: bool,
}

impl Units {
    pub(super) fn begin(&mut self) {
        self.partial.clear();
        self.has_sequence_header = false;
    }

    pub(super) fn has_sequence_header(&self) -> bool {
        self.has_sequence_header
    }

    pub(super) fn push(&mut self, payload: &[u8], data: &mut Vec<u8>) -> Result<(), Malformed> {
        let (&header, mut rest) = payload.split_first().ok_or(Malformed)?;
        let (continues, goes_on) = (header & 0x80 != 0, header & 0x40 != 0);
        let elements = header >> 4 & 0x03;
        if continues == self.partial.is_empty() {
            return Err(Malformed);
        }
        let mut count = 0;
        while !rest.is_empty() {
            count += 1;
            let element = if count == elements {
                std::mem::take(&mut rest)
            } else {
                let (len, behind) = leb128(rest).ok_or(Malformed)?;
                let element = behind.get(..len).ok_or(Malformed)?;
                rest = &behind[len..];
                element
            };
            let ends = !(rest.is_empty() && goes_on);
            if self.partial.is_empty() && ends {
                self.unit(element, data)?;
            } else {
                if self.partial.len() + element.len() > super::FRAME_BYTES_MAX {
                    return Err(Malformed);
                }
                self.partial.extend_from_slice(element);
                if ends {
                    let unit = std::mem::take(&mut self.partial);
                    self.unit(&unit, data)?;
                    self.partial = unit;
                    self.partial.clear();
                }
            }
        }
        Ok(())
    }

    fn unit(&mut self, unit: &[u8], data: &mut Vec<u8>) -> Result<(), Malformed> {
        let &header = unit.first().ok_or(Malformed)?;
        if header & 0x80 != 0 {
            return Err(Malformed);
        }
        let kind = header >> 3 & 0x0F;
        let extended = header & 0x04 != 0;
        let head_len = if extended { 2 } else { 1 };
        let mut body = unit.get(head_len..).ok_or(Malformed)?;
        if header & 0x02 != 0 {
            let (len, behind) = leb128(body).ok_or(Malformed)?;
            body = behind.get(..len).ok_or(Malformed)?;
        }
        if [TEMPORAL_DELIMITER, TILE_LIST, PADDING].contains(&kind) {
            return Ok(());
        }
        let start = data.len();
        data.push(header | 0x02);
        if extended {
            data.push(unit[1]);
        }
        write_leb128(body.len(), data);
        data.extend_from_slice(body);
        if kind == SEQUENCE_HEADER {
            let whole = &data[start..];
            if whole.len() > SEQUENCE_HEADER_MAX {
                return Err(Malformed);
            }
            self.has_sequence_header = true;
            if self.sequence_header != whole {
                self.sequence_header = whole.to_vec();
                self.changed = true;
            }
        }
        Ok(())
    }

    pub(super) fn end(&mut self, format: &mut Format) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let header = &self.sequence_header;
        let body = header.get(1..).and_then(leb128).map_or(&[][..], |(_, body)| body);
        if let Some(sequence) = Sequence::parse(body) {
            format.private = sequence.configuration();
            format.private.extend_from_slice(header);
            format.size = Some(sequence.size);
        }
    }
}

/// What of a sequence header (AV1 specification §5.5) `av1C` and the track need.
struct Sequence {
    profile: u8,
    level: u8,
    tier: u8,
    size: (u16, u16),
    high_bit_depth: bool,
    twelve_bit: bool,
    monochrome: bool,
    subsampling: (bool, bool),
    sample_position: u8,
}

impl Sequence {
    fn parse(body: &[u8]) -> Option<Sequence> {
        let mut bits = Bits::new(body);
        let profile = bits.take(3)? as u8;
        bits.skip(1)?;
        let reduced = bits.flag()?;
        let (mut level, mut tier) = (0, 0);
        if reduced {
            level = bits.take(5)? as u8;
        } else {
            let mut delays = None;
            if bits.flag()? {
                bits.skip(64)?;
                if bits.flag()? {
                    let mut zeros = 0;
                    while !bits.flag()? {
                        zeros += 1;
                    }
                    bits.skip(zeros)?;
                }
                if bits.flag()? {
                    delays = Some(bits.take(5)? + 1);
                    bits.skip(32 + 5 + 5)?;
                }
            }
            let delay_present = bits.flag()?;
            for point in 0..=bits.take(5)? {
                bits.skip(12)?;
                let this_level = bits.take(5)? as u8;
                let this_tier = if this_level > 7 { bits.take(1)? as u8 } else { 0 };
                if point == 0 {
                    (level, tier) = (this_level, this_tier);
                }
                if let Some(length) = delays
                    && bits.flag()?
                {
                    bits.skip(2 * length + 1)?;
                }
                if delay_present && bits.flag()? {
                    bits.skip(4)?;
                }
            }
        }
        let (width_bits, height_bits) = (bits.take(4)? + 1, bits.take(4)? + 1);
        let size = (
            u16::try_from(bits.take(width_bits)? + 1).ok()?,
            u16::try_from(bits.take(height_bits)? + 1).ok()?,
        );
        skip_tools(&mut bits, reduced)?;
        let mut sequence = Sequence {
            profile,
            level,
            tier,
            size,
            high_bit_depth: false,
            twelve_bit: false,
            monochrome: false,
            subsampling: (true, true),
            sample_position: 0,
        };
        sequence.colours(&mut bits)?;
        Some(sequence)
    }

    fn colours(&mut self, bits: &mut Bits<'_>) -> Option<()> {
        self.high_bit_depth = bits.flag()?;
        self.twelve_bit = self.profile == 2 && self.high_bit_depth && bits.flag()?;
        self.monochrome = self.profile != 1 && bits.flag()?;
        let (mut primaries, mut transfer, mut matrix) = (2, 2, 2);
        if bits.flag()? {
            (primaries, transfer, matrix) = (bits.take(8)?, bits.take(8)?, bits.take(8)?);
        }
        if self.monochrome {
            return Some(());
        }
        if (primaries, transfer, matrix) == (1, 13, 0) {
            self.subsampling = (false, false);
            return Some(());
        }
        bits.skip(1)?;
        self.subsampling = match self.profile {
            0 => (true, true),
            1 => (false, false),
            _ if self.twelve_bit => {
                let x = bits.flag()?;
                (x, x && bits.flag()?)
            }
            _ => (true, false),
        };
        if self.subsampling == (true, true) {
            self.sample_position = bits.take(2)? as u8;
        }
        Some(())
    }

    /// AV1CodecConfigurationRecord without its OBUs.
    fn configuration(&self) -> Vec<u8> {
        let flag = |flag: bool, shift: u8| u8::from(flag) << shift;
        vec![
            0x81,
            self.profile << 5 | self.level,
            self.tier << 7
                | flag(self.high_bit_depth, 6)
                | flag(self.twelve_bit, 5)
                | flag(self.monochrome, 4)
                | flag(self.subsampling.0, 3)
                | flag(self.subsampling.1, 2)
                | self.sample_position,
            0,
        ]
    }
}

/// Frame ids and coding tools, up to `film_grain`'s neighbours: nothing of them is needed.
fn skip_tools(bits: &mut Bits<'_>, reduced: bool) -> Option<()> {
    const SELECT: u32 = 2;
    if !reduced && bits.flag()? {
        bits.skip(7)?;
    }
    bits.skip(3)?;
    if !reduced {
        bits.skip(4)?;
        let order_hint = bits.flag()?;
        if order_hint {
            bits.skip(2)?;
        }
        let screen_content = if bits.flag()? { SELECT } else { bits.take(1)? };
        if screen_content > 0 && !bits.flag()? {
            bits.skip(1)?;
        }
        if order_hint {
            bits.skip(3)?;
        }
    }
    bits.skip(3)
}

/// A length (AV1 specification §4.10.5) and what lies behind it.
fn leb128(data: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0u64;
    for (index, &byte) in data.iter().take(8).enumerate() {
        value |= u64::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((usize::try_from(value).ok()?, &data[index + 1..]));
        }
    }
    None
}

fn write_leb128(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
