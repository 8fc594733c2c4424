//! Nonces without a table: the nonce itself says when it expires, and a MAC under this process's key says that we made
//! it, for this client address. Any worker can check it.

use std::net::IpAddr;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// "obMatJos2" and 24 bits of security features (RFC 8489 §9.2): password algorithms, no username anonymity.
const COOKIE: &str = "obMatJos2AAAB";
const MAC_BYTES: usize = 8;

#[derive(Debug)]
pub(crate) struct NonceKey(hmac::Key);

impl NonceKey {
    pub(crate) fn new(seed: [u8; 32]) -> NonceKey {
        NonceKey(hmac::Key::new(hmac::HMAC_SHA256, &seed))
    }

    /// `expires_s`: seconds since the server's beginning.
    pub(crate) fn mint(&self, client: IpAddr, expires_s: u32) -> String {
        let mut body = [0; 4 + MAC_BYTES];
        body[..4].copy_from_slice(&expires_s.to_be_bytes());
        body[4..].copy_from_slice(&self.mac(client, expires_s));
        format!("{COOKIE}{}", STANDARD_NO_PAD.encode(body))
    }

    /// Whether we minted it for this address and it has not expired.
    pub(crate) fn accepts(&self, nonce: &[u8], client: IpAddr, now_s: u32) -> bool {
        let Some(encoded) = nonce.strip_prefix(COOKIE.as_bytes()) else {
            return false;
        };
        let mut body = [0; 4 + MAC_BYTES];
        if STANDARD_NO_PAD.decode_slice(encoded, &mut body) != Ok(body.len()) {
            return false;
        }
        let expires_s = u32::from_be_bytes([body[0], body[1], body[2], body[3]]);
        let right = self.mac(client, expires_s);
        now_s < expires_s && aws_lc_rs::constant_time::verify_slices_are_equal(&body[4..], &right).is_ok()
    }

    fn mac(&self, client: IpAddr, expires_s: u32) -> [u8; MAC_BYTES] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&expires_s.to_be_bytes());
        match client {
            IpAddr::V4(ip) => context.update(&ip.octets()),
            IpAddr::V6(ip) => context.update(&ip.octets()),
        }
        let mut mac = [0; MAC_BYTES];
        mac.copy_from_slice(&context.sign().as_ref()[..MAC_BYTES]);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_good_for_its_client_and_its_time() {
        let (key, other) = (NonceKey::new([1; 32]), NonceKey::new([2; 32]));
        let (anna, bert) = (IpAddr::from([1, 1, 1, 1]), IpAddr::from([2, 2, 2, 2]));
        let nonce = key.mint(anna, 100);
        assert!(nonce.len() <= 32);
        assert!(key.accepts(nonce.as_bytes(), anna, 99));
        assert!(!key.accepts(nonce.as_bytes(), anna, 100));
        assert!(!key.accepts(nonce.as_bytes(), bert, 99));
        assert!(!other.accepts(nonce.as_bytes(), anna, 99));
        for cut in 0..nonce.len() {
            assert!(!key.accepts(&nonce.as_bytes()[..cut], anna, 0));
        }
    }
}
