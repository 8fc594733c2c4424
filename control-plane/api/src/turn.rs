//! Time-limited TURN credentials (draft-uberti-behave-turn-rest-00): what the join API hands out and TURN servers check.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// User name and credential for `user`, valid until `expires_s` (seconds since 1970): `<expires>:<user>` and the base64 of its
/// HMAC-SHA1 under the secret shared with the TURN servers.
pub fn credentials(secret: &str, user: &str, expires_s: u64) -> (String, String) {
    let username = format!("{expires_s}:{user}");
    // SHA-1 is what TURN servers and their clients agreed on; HMAC does not rest on its collision resistance.
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
    let credential = STANDARD.encode(hmac::sign(&key, username.as_bytes()));
    (username, credential)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_those_that_openssl_computes() {
        // printf '1700000000:ana' | openssl dgst -sha1 -hmac secret -binary | base64
        let (username, credential) = credentials("secret", "ana", 1_700_000_000);
        assert_eq!(username, "1700000000:ana");
        assert_eq!(credential, "vJ8D7IQfxkVpn2mA2wCryzH/VQE=");
    }
}
