//! Master keys out of the DTLS exporter, session keys out of the key derivation function (RFC 3711 §4.3).

use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::iv::FixedLength;

use super::SrtpProfile;

/// Key and salt of one direction. GCM's 12-byte salts are zero-padded to the 14 bytes of RFC 3711.
#[derive(Clone)]
pub struct MasterKeys {
    pub(super) profile: SrtpProfile,
    key: [u8; 32],
    salt: [u8; 14],
}

/// What a session key is for: the label of the key derivation function (RFC 3711 §4.3.2).
#[derive(Clone, Copy)]
pub(super) enum Label {
    RtpEncryption = 0,
    RtpAuthentication = 1,
    RtpSalt = 2,
    RtcpEncryption = 3,
    RtcpAuthentication = 4,
    RtcpSalt = 5,
}

impl MasterKeys {
    /// `None` unless the lengths are the profile's.
    pub fn new(profile: SrtpProfile, key: &[u8], salt: &[u8]) -> Option<MasterKeys> {
        if key.len() != profile.key_len() || salt.len() != profile.salt_len() {
            return None;
        }
        let mut keys = MasterKeys {
            profile,
            key: [0; 32],
            salt: [0; 14],
        };
        keys.key[..key.len()].copy_from_slice(key);
        keys.salt[..salt.len()].copy_from_slice(salt);
        Some(keys)
    }

    /// Splits exported keying material (RFC 5764 §4.2): client key, server key, client salt, server salt. Returns the
    /// client's and the server's write keys; `None` unless the length is the profile's.
    pub fn split(profile: SrtpProfile, material: &[u8]) -> Option<(MasterKeys, MasterKeys)> {
        let (key_len, salt_len) = (profile.key_len(), profile.salt_len());
        if material.len() != 2 * (key_len + salt_len) {
            return None;
        }
        let (keys, salts) = material.split_at(2 * key_len);
        let client = MasterKeys::new(profile, &keys[..key_len], &salts[..salt_len])?;
        let server = MasterKeys::new(profile, &keys[key_len..], &salts[salt_len..])?;
        Some((client, server))
    }

    /// Fills `out` (at most 32 bytes) with the session key of `label`: AES-CM keystream under the master key, key
    /// derivation rate 0 (AES-256 as in RFC 6188 §3 for the 256-bit profile).
    pub(super) fn derive(&self, label: Label, out: &mut [u8]) -> Result<(), Unspecified> {
        let mut iv = [0u8; 16];
        iv[..14].copy_from_slice(&self.salt);
        iv[7] ^= label as u8;
        let algorithm = if self.profile.key_len() == 32 {
            &AES_256
        } else {
            &AES_128
        };
        let key = UnboundCipherKey::new(algorithm, &self.key[..self.profile.key_len()])?;
        out.fill(0);
        EncryptingKey::ctr(key)?.less_safe_encrypt(out, EncryptionContext::Iv128(FixedLength::from(iv)))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    #[test]
    fn session_keys_are_those_of_rfc_3711_appendix_b_3() {
        let master = MasterKeys::new(
            SrtpProfile::AesCm128HmacSha1_80,
            &hex("E1F97A0D3E018BE0D64FA32C06DE4139"),
            &hex("0EC675AD498AFEEBB6960B3AABE6"),
        )
        .unwrap();
        let derive = |label, len| {
            let mut out = vec![0; len];
            master.derive(label, &mut out).unwrap();
            out
        };
        assert_eq!(
            derive(Label::RtpEncryption, 16),
            hex("C61E7A93744F39EE10734AFE3FF7A087")
        );
        assert_eq!(derive(Label::RtpSalt, 14), hex("30CBBC08863D8C85D49DB34A9AE1"));
        assert_eq!(
            derive(Label::RtpAuthentication, 20),
            hex("CEBE321F6FF7716B6FD4AB49AF256A156D38BAA4")
        );
    }

    #[test]
    fn exporter_material_splits_into_client_and_server() {
        let material: Vec<u8> = (0..56).collect();
        let (client, server) = MasterKeys::split(SrtpProfile::AeadAes128Gcm, &material).unwrap();
        assert_eq!(client.key[..16], material[..16]);
        assert_eq!(server.key[..16], material[16..32]);
        assert_eq!(client.salt[..12], material[32..44]);
        assert_eq!(server.salt[..12], material[44..56]);
        assert_eq!(client.salt[12..], [0, 0]);
        assert!(MasterKeys::split(SrtpProfile::AeadAes256Gcm, &material).is_none());
    }
}
