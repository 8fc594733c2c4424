//! The keys that verify tokens, as they travel in a policy.

use crate::v1;
use meridian_access::token::{KeyRing, PublicKey, PublicKeyAlgorithm};

impl From<&KeyRing> for v1::Policy {
    /// The keys of a policy; everything else in it is left empty.
    fn from(keys: &KeyRing) -> Self {
        let token_key = |key: &PublicKey| v1::TokenKey {
            kid: key.kid.clone(),
            algorithm: match key.algorithm {
                PublicKeyAlgorithm::EdDSA => "EdDSA".to_owned(),
                PublicKeyAlgorithm::ES256 => "ES256".to_owned(),
            },
            key: key.key.clone(),
        };
        let api_key = |(key, secret): (&str, &str)| v1::ApiKey {
            key: key.to_owned(),
            secret: secret.to_owned(),
        };
        v1::Policy {
            token_keys: keys.public_keys().map(token_key).collect(),
            api_keys: keys.api_keys().map(api_key).collect(),
            ..Self::default()
        }
    }
}

impl From<&v1::Policy> for KeyRing {
    /// The keys that a control plane sent. Keys of algorithms that this version does not know are left out.
    fn from(policy: &v1::Policy) -> Self {
        let mut ring = KeyRing::new();
        for key in &policy.token_keys {
            let algorithm = match key.algorithm.as_str() {
                "EdDSA" => PublicKeyAlgorithm::EdDSA,
                "ES256" => PublicKeyAlgorithm::ES256,
                _ => continue,
            };
            ring.add_public_key(PublicKey {
                kid: key.kid.clone(),
                algorithm,
                key: key.key.clone(),
            });
        }
        for key in &policy.api_keys {
            ring.add_api_key(&key.key, &key.secret);
        }
        ring
    }
}
