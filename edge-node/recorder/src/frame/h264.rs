//! H264 out of RTP (RFC 6184, packetisation modes 0 and 1): NAL units behind their lengths, as an `avcC` decoder wants them
//! (ISO/IEC 14496-15 §5.3.3).

use super::bits::Bits;
use super::{Format, Malformed};

const IDR: u8 = 5;
const SPS: u8 = 7;
const PPS: u8 = 8;
const FILLER: u8 = 12;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;
/// Of each parameter set; real ones have some dozens.
const PARAMETER_SET_MAX: usize = 1024;
/// Picture parameter sets with different ids a stream may have at a time.
const PPS_MAX: usize = 8;

#[derive(Default)]
pub(super) struct Units {
    sps: Vec<u8>,
    pps: Vec<Vec<u8>>,
    /// Parameter sets came since the format was last written.
    changed: bool,
    has_idr: bool,
    /// Where the unit that is being joined from fragments has its length.
    fragmented: Option<usize>,
}

impl Units {
    pub(super) fn begin(&mut self) {
        self.has_idr = false;
        self.fragmented = None;
    }

    pub(super) fn has_idr(&self) -> bool {
        self.has_idr
    }

    pub(super) fn push(&mut self, payload: &[u8], data: &mut Vec<u8>) -> Result<(), Malformed> {
        let header = *payload.first().ok_or(Malformed)?;
        match header & 0x1F {
            1..=23 => self.unit(payload, data),
            STAP_A => {
                let mut rest = &payload[1..];
                while let Some((size, tail)) = rest.split_first_chunk::<2>() {
                    let unit = tail.get(..usize::from(u16::from_be_bytes(*size))).ok_or(Malformed)?;
                    rest = &tail[unit.len()..];
                    self.unit(unit, data)?;
                }
                Ok(())
            }
            FU_A => self.fragment(header, payload.get(1..).ok_or(Malformed)?, data),
            _ => Err(Malformed),
        }
    }

    fn unit(&mut self, unit: &[u8], data: &mut Vec<u8>) -> Result<(), Malformed> {
        let kind = unit.first().ok_or(Malformed)? & 0x1F;
        match kind {
            SPS | PPS if unit.len() > PARAMETER_SET_MAX => return Err(Malformed),
            SPS => {
                self.changed |= self.sps != unit;
                if self.sps != unit {
                    self.pps.clear();
                }
                self.sps = unit.to_vec();
                return Ok(());
            }
            PPS => return self.picture_parameters(unit),
            FILLER => return Ok(()),
            IDR => self.has_idr = true,
            _ => {}
        }
        data.extend_from_slice(&(unit.len() as u32).to_be_bytes());
        data.extend_from_slice(unit);
        Ok(())
    }

    fn picture_parameters(&mut self, unit: &[u8]) -> Result<(), Malformed> {
        let id = |unit: &[u8]| Bits::new(unit.get(1..)?).golomb();
        if self.pps.iter().any(|held| held == unit) {
            return Ok(());
        }
        self.pps.retain(|held| id(held) != id(unit));
        if self.pps.len() == PPS_MAX {
            return Err(Malformed);
        }
        self.pps.push(unit.to_vec());
        self.changed = true;
        Ok(())
    }

    fn fragment(&mut self, indicator: u8, payload: &[u8], data: &mut Vec<u8>) -> Result<(), Malformed> {
        let (&header, part) = payload.split_first().ok_or(Malformed)?;
        if header & 0x80 != 0 {
            if header & 0x1F == IDR {
                self.has_idr = true;
            }
            self.fragmented = Some(data.len());
            data.extend_from_slice(&[0; 4]);
            data.push(indicator & 0xE0 | header & 0x1F);
        }
        let start = self.fragmented.ok_or(Malformed)?;
        data.extend_from_slice(part);
        let len = data.len() - start - 4;
        data[start..start + 4].copy_from_slice(&(len as u32).to_be_bytes());
        if header & 0x40 != 0 {
            self.fragmented = None;
        }
        Ok(())
    }

    pub(super) fn end(&mut self, format: &mut Format) {
        if !std::mem::take(&mut self.changed) || self.sps.len() < 4 || self.pps.is_empty() {
            return;
        }
        format.private = self.decoder_configuration();
        format.size = size(&self.sps).or(format.size);
    }

    /// AVCDecoderConfigurationRecord.
    fn decoder_configuration(&self) -> Vec<u8> {
        let mut record = vec![1, self.sps[1], self.sps[2], self.sps[3], 0xFF, 0xE1];
        record.extend_from_slice(&(self.sps.len() as u16).to_be_bytes());
        record.extend_from_slice(&self.sps);
        record.push(self.pps.len() as u8);
        for pps in &self.pps {
            record.extend_from_slice(&(pps.len() as u16).to_be_bytes());
            record.extend_from_slice(pps);
        }
        record
    }
}

/// Width and height out of a sequence parameter set (H.264 §7.3.2.1.1), cropping taken off.
fn size(sps: &[u8]) -> Option<(u16, u16)> {
    let payload = without_emulation_prevention(sps.get(1..)?);
    let mut bits = Bits::new(&payload);
    let profile = bits.take(8)?;
    bits.skip(16)?;
    bits.golomb()?;
    let mut chroma = 1;
    if [100, 110, 122, 244, 44, 83, 86, 118, 128].contains(&profile) {
        chroma = bits.golomb()?;
        if chroma == 3 {
            bits.skip(1)?;
        }
        bits.golomb()?;
        bits.golomb()?;
        bits.skip(1)?;
        if bits.flag()? {
            for list in 0..if chroma == 3 { 12 } else { 8 } {
                if bits.flag()? {
                    skip_scaling_list(&mut bits, if list < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    bits.golomb()?;
    match bits.golomb()? {
        0 => {
            bits.golomb()?;
        }
        1 => {
            bits.skip(1)?;
            bits.signed_golomb()?;
            bits.signed_golomb()?;
            for _ in 0..bits.golomb()?.min(255) {
                bits.signed_golomb()?;
            }
        }
        _ => {}
    }
    bits.golomb()?;
    bits.skip(1)?;
    let width = bits.golomb()?.checked_add(1)?.checked_mul(16)?;
    let map_units = bits.golomb()?.checked_add(1)?;
    let frames_only = bits.flag()?;
    let height = map_units
        .checked_mul(16)?
        .checked_mul(if frames_only { 1 } else { 2 })?;
    if !frames_only {
        bits.skip(1)?;
    }
    bits.skip(1)?;
    let (mut crop_x, mut crop_y) = (0u32, 0u32);
    if bits.flag()? {
        let (left, right, top, bottom) = (bits.golomb()?, bits.golomb()?, bits.golomb()?, bits.golomb()?);
        let unit_x = if chroma == 1 || chroma == 2 { 2 } else { 1 };
        let unit_y = if chroma == 1 { 2 } else { 1 } * if frames_only { 1 } else { 2 };
        crop_x = left.checked_add(right)?.checked_mul(unit_x)?;
        crop_y = top.checked_add(bottom)?.checked_mul(unit_y)?;
    }
    let fits = |value: u32| u16::try_from(value).ok().filter(|&v| v > 0);
    Some((fits(width.checked_sub(crop_x)?)?, fits(height.checked_sub(crop_y)?)?))
}

fn skip_scaling_list(bits: &mut Bits<'_>, entries: u32) -> Option<()> {
    let (mut last, mut next) = (8i32, 8i32);
    for _ in 0..entries {
        if next != 0 {
            next = last.wrapping_add(bits.signed_golomb()?).rem_euclid(256);
        }
        if next != 0 {
            last = next;
        }
    }
    Some(())
}

/// Without the 3 of each 0 0 3 (H.264 §7.4.1.1).
fn without_emulation_prevention(data: &[u8]) -> Vec<u8> {
    let mut zeros = 0;
    let mut out = Vec::with_capacity(data.len());
    for &byte in data {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}
