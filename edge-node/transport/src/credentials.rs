//! The two secrets-and-promises of a WebRTC transport that travel in SDP: ICE credentials (RFC 8839 §5.4) and the DTLS
//! certificate fingerprint (RFC 8122 §5). Only their shape lives here; who checks them is the peer's business.

use std::fmt;
use std::str::FromStr;

use rand::Rng;

/// ICE username fragment and password. Ours are 16 and 32 characters; a client's may be 4–256 and 22–256.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IceCredentials {
    pub ufrag: String,
    pub pwd: String,
}

impl IceCredentials {
    const UFRAG_LEN: usize = 16;
    const PWD_LEN: usize = 32;

    /// Fresh credentials of ice-chars. The randomness must be cryptographic: the password authenticates path changes.
    pub fn generate(rng: &mut impl Rng) -> IceCredentials {
        let mut text = |len: usize| -> String {
            (0..len).map(|_| char::from(rng.sample(rand::distr::Alphanumeric))).collect()
        };
        IceCredentials { ufrag: text(Self::UFRAG_LEN), pwd: text(Self::PWD_LEN) }
    }
}

impl fmt::Debug for IceCredentials {
    // The password is a secret: it stays out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceCredentials").field("ufrag", &self.ufrag).finish_non_exhaustive()
    }
}

/// SHA-256 of a DER certificate. `Display` and `FromStr` use the SDP form `AB:CD:…` (without the algorithm's name).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(":")?;
            }
            write!(f, "{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// The text was not 32 colon-separated hexadecimal octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 fingerprint is 32 hexadecimal octets with colons between them")]
pub struct BadFingerprint;

impl FromStr for Fingerprint {
    type Err = BadFingerprint;

    fn from_str(text: &str) -> Result<Fingerprint, BadFingerprint> {
        let mut octets = [0u8; 32];
        let mut parts = text.trim().split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or(BadFingerprint)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(BadFingerprint);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| BadFingerprint)?;
        }
        if parts.next().is_some() {
            return Err(BadFingerprint);
        }
        Ok(Fingerprint(octets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_fingerprint_reads_what_it_prints_and_refuses_the_rest() {
        let fingerprint = Fingerprint(std::array::from_fn(|i| (i * 9) as u8));
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        assert_eq!(fingerprint.to_string().to_lowercase().parse(), Ok(fingerprint));
        for bad in ["", "AB", "AB:", "ZZ:00", "+1:00", &format!("{fingerprint}:00")] {
            assert_eq!(bad.parse::<Fingerprint>(), Err(BadFingerprint), "{bad}");
        }
    }

    #[test]
    fn credentials_are_long_enough_and_keep_the_password_out_of_logs() {
        let credentials = IceCredentials::generate(&mut rand::rngs::StdRng::seed_from_u64(1));
        assert!(credentials.ufrag.len() >= 8 && credentials.pwd.len() >= 24);
        assert!(!format!("{credentials:?}").contains(&credentials.pwd));
    }
}
