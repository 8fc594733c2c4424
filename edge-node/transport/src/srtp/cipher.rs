//! The two transforms: AEAD (AES-GCM, RFC 7714) and AES counter mode with HMAC-SHA1-80 (RFC 3711 §4.1, §4.2). Stateless:
//! indices come from the sender or receiver.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;

use super::keys::{Label, MasterKeys};
use super::{RTCP_HEADER_LEN, SrtpProfile};

/// E bit of the SRTCP index word: the packet is encrypted. We send and accept nothing else.
const ENCRYPTED: u32 = 1 << 31;
/// The SRTCP index word after the packet, bytes.
pub(super) const INDEX_LEN: usize = 4;

/// Session keys of one direction.
pub(super) struct Cipher {
    rtp: Transform,
    rtcp: Transform,
    profile: SrtpProfile,
}

enum Transform {
    Gcm {
        key: LessSafeKey,
        salt: [u8; 12],
    },
    /// Boxed: it is rare, and three times as large.
    CmSha1(Box<CmSha1>),
}

struct CmSha1 {
    key: EncryptingKey,
    salt: [u8; 14],
    authentication: hmac::Key,
}

impl Cipher {
    pub(super) fn new(master: &MasterKeys) -> Result<Cipher, Unspecified> {
        Ok(Cipher {
            rtp: Transform::new(master, [Label::RtpEncryption, Label::RtpAuthentication, Label::RtpSalt])?,
            rtcp: Transform::new(
                master,
                [Label::RtcpEncryption, Label::RtcpAuthentication, Label::RtcpSalt],
            )?,
            profile: master.profile,
        })
    }

    /// With the session keys of a published vector.
    #[cfg(test)]
    pub(super) fn from_session_keys(key: &[u8], salt: &[u8]) -> Cipher {
        let (algorithm, profile) = match key.len() {
            32 => (&AES_256_GCM, SrtpProfile::AeadAes256Gcm),
            _ => (&AES_128_GCM, SrtpProfile::AeadAes128Gcm),
        };
        let transform = || Transform::Gcm {
            key: LessSafeKey::new(UnboundKey::new(algorithm, key).unwrap()),
            salt: salt.try_into().unwrap(),
        };
        Cipher {
            rtp: transform(),
            rtcp: transform(),
            profile,
        }
    }

    pub(super) fn profile(&self) -> SrtpProfile {
        self.profile
    }

    /// Encrypts `payload` and returns the tag: 16 bytes, of which CM uses 10.
    pub(super) fn seal_rtp(
        &self,
        ssrc: u32,
        index: u64,
        header: &[u8],
        payload: &mut [u8],
    ) -> Result<[u8; 16], Unspecified> {
        match &self.rtp {
            Transform::Gcm { key, salt } => {
                let nonce = Nonce::assume_unique_for_key(gcm_rtp_iv(salt, ssrc, index));
                let sealed = key.seal_in_place_separate_tag(nonce, Aad::from(header), payload)?;
                tag_bytes(sealed.as_ref())
            }
            Transform::CmSha1(cm) => {
                let CmSha1 {
                    key,
                    salt,
                    authentication,
                } = &**cm;
                cm_keystream(key, salt, ssrc, index, payload)?;
                tag_bytes(&rtp_mac(authentication, header, payload, index))
            }
        }
    }

    /// Authenticates and decrypts `body` (payload and tag); the payload is left at its front.
    pub(super) fn open_rtp(&self, ssrc: u32, index: u64, header: &[u8], body: &mut [u8]) -> Result<(), Unspecified> {
        match &self.rtp {
            Transform::Gcm { key, salt } => {
                let nonce = Nonce::assume_unique_for_key(gcm_rtp_iv(salt, ssrc, index));
                key.open_in_place(nonce, Aad::from(header), body)?;
            }
            Transform::CmSha1(cm) => {
                let CmSha1 {
                    key,
                    salt,
                    authentication,
                } = &**cm;
                let payload_len = body.len().checked_sub(10).ok_or(Unspecified)?;
                let (payload, tag) = body.split_at_mut(payload_len);
                verify_slices_are_equal(&rtp_mac(authentication, header, payload, index)[..10], tag)?;
                cm_keystream(key, salt, ssrc, index, payload)?;
            }
        }
        Ok(())
    }

    /// Protects a compound RTCP packet: encrypts after the header, appends index word and tag (their order differs
    /// between the transforms).
    pub(super) fn seal_rtcp(&self, ssrc: u32, index: u32, packet: &mut Vec<u8>) -> Result<(), Unspecified> {
        let word = (ENCRYPTED | index).to_be_bytes();
        let (header, payload) = packet.split_at_mut_checked(RTCP_HEADER_LEN).ok_or(Unspecified)?;
        match &self.rtcp {
            Transform::Gcm { key, salt } => {
                let nonce = Nonce::assume_unique_for_key(gcm_rtcp_iv(salt, ssrc, index));
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(rtcp_aad(header, word)), payload)?;
                packet.extend_from_slice(tag.as_ref());
                packet.extend_from_slice(&word);
            }
            Transform::CmSha1(cm) => {
                let CmSha1 {
                    key,
                    salt,
                    authentication,
                } = &**cm;
                cm_keystream(key, salt, ssrc, u64::from(index), payload)?;
                packet.extend_from_slice(&word);
                let tag = hmac::sign(authentication, packet);
                packet.extend_from_slice(&tag.as_ref()[..10]);
            }
        }
        Ok(())
    }

    /// The index an SRTCP packet claims, before it is authenticated. `None` if the packet is too short or not encrypted.
    pub(super) fn rtcp_index(&self, packet: &[u8]) -> Option<u32> {
        let trailer = match self.profile.is_aead() {
            true => INDEX_LEN,
            false => INDEX_LEN + 10,
        };
        if packet.len() < RTCP_HEADER_LEN + INDEX_LEN + self.profile.tag_len() {
            return None;
        }
        let word = super::be32(packet, packet.len() - trailer);
        (word & ENCRYPTED != 0).then_some(word & !ENCRYPTED)
    }

    /// Authenticates and decrypts an SRTCP packet with the index of `rtcp_index`; returns the plain length.
    pub(super) fn open_rtcp(&self, ssrc: u32, index: u32, packet: &mut [u8]) -> Result<usize, Unspecified> {
        let overhead = INDEX_LEN + self.profile.tag_len();
        let plain_len = packet.len().checked_sub(overhead).ok_or(Unspecified)?;
        if plain_len < RTCP_HEADER_LEN {
            return Err(Unspecified);
        }
        match &self.rtcp {
            Transform::Gcm { key, salt } => {
                let sealed_end = packet.len() - INDEX_LEN;
                let (header, body) = packet[..sealed_end].split_at_mut(RTCP_HEADER_LEN);
                let nonce = Nonce::assume_unique_for_key(gcm_rtcp_iv(salt, ssrc, index));
                let aad = rtcp_aad(header, (ENCRYPTED | index).to_be_bytes());
                key.open_in_place(nonce, Aad::from(aad), body)?;
            }
            Transform::CmSha1(cm) => {
                let CmSha1 {
                    key,
                    salt,
                    authentication,
                } = &**cm;
                let (signed, tag) = packet.split_at_mut(plain_len + INDEX_LEN);
                let expected = hmac::sign(authentication, signed);
                verify_slices_are_equal(&expected.as_ref()[..10], tag)?;
                cm_keystream(
                    key,
                    salt,
                    ssrc,
                    u64::from(index),
                    &mut signed[RTCP_HEADER_LEN..plain_len],
                )?;
            }
        }
        Ok(plain_len)
    }
}

impl Transform {
    fn new(master: &MasterKeys, [encryption, authentication, salting]: [Label; 3]) -> Result<Transform, Unspecified> {
        let mut key = [0u8; 32];
        let key = &mut key[..master.profile.key_len()];
        master.derive(encryption, key)?;
        if master.profile.is_aead() {
            let mut salt = [0; 12];
            master.derive(salting, &mut salt)?;
            let algorithm = if key.len() == 32 { &AES_256_GCM } else { &AES_128_GCM };
            return Ok(Transform::Gcm {
                key: LessSafeKey::new(UnboundKey::new(algorithm, key)?),
                salt,
            });
        }
        let mut salt = [0; 14];
        master.derive(salting, &mut salt)?;
        let mut mac_key = [0; 20];
        master.derive(authentication, &mut mac_key)?;
        Ok(Transform::CmSha1(Box::new(CmSha1 {
            key: EncryptingKey::ctr(UnboundCipherKey::new(&AES_128, key)?)?,
            salt,
            authentication: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &mac_key),
        })))
    }
}

fn tag_bytes(tag: &[u8]) -> Result<[u8; 16], Unspecified> {
    tag.get(..16).and_then(|tag| tag.try_into().ok()).ok_or(Unspecified)
}

/// RFC 7714 §8.1: `00 00 | SSRC | ROC | SEQ`, XORed with the salt.
fn gcm_rtp_iv(salt: &[u8; 12], ssrc: u32, index: u64) -> [u8; 12] {
    let mut iv = *salt;
    xor(&mut iv[2..6], &ssrc.to_be_bytes());
    xor(&mut iv[6..12], &index.to_be_bytes()[2..]);
    iv
}

/// RFC 7714 §9.1: `00 00 | SSRC | 00 00 | 31-bit index`, XORed with the salt.
fn gcm_rtcp_iv(salt: &[u8; 12], ssrc: u32, index: u32) -> [u8; 12] {
    let mut iv = *salt;
    xor(&mut iv[2..6], &ssrc.to_be_bytes());
    xor(&mut iv[8..12], &index.to_be_bytes());
    iv
}

/// RFC 7714 §9.2: header, then E and index.
fn rtcp_aad(header: &[u8], word: [u8; 4]) -> [u8; RTCP_HEADER_LEN + INDEX_LEN] {
    let mut aad = [0; RTCP_HEADER_LEN + INDEX_LEN];
    aad[..RTCP_HEADER_LEN].copy_from_slice(header);
    aad[RTCP_HEADER_LEN..].copy_from_slice(&word);
    aad
}

/// AES counter mode (RFC 3711 §4.1.1): IV = salt·2^16 XOR SSRC·2^64 XOR index·2^16. Its own inverse.
fn cm_keystream(
    key: &EncryptingKey,
    salt: &[u8; 14],
    ssrc: u32,
    index: u64,
    data: &mut [u8],
) -> Result<(), Unspecified> {
    let mut iv = [0u8; 16];
    iv[..14].copy_from_slice(salt);
    xor(&mut iv[4..8], &ssrc.to_be_bytes());
    xor(&mut iv[8..14], &index.to_be_bytes()[2..]);
    key.less_safe_encrypt(data, EncryptionContext::Iv128(FixedLength::from(iv)))?;
    Ok(())
}

/// HMAC-SHA1 over header, encrypted payload and ROC (RFC 3711 §4.2); the first 10 bytes are the tag.
fn rtp_mac(key: &hmac::Key, header: &[u8], payload: &[u8], index: u64) -> [u8; 20] {
    let mut context = hmac::Context::with_key(key);
    context.update(header);
    context.update(payload);
    context.update(&((index >> 16) as u32).to_be_bytes());
    let mut mac = [0; 20];
    mac.copy_from_slice(context.sign().as_ref());
    mac
}

fn xor(into: &mut [u8], from: &[u8]) {
    for (byte, other) in into.iter_mut().zip(from) {
        *byte ^= other;
    }
}
