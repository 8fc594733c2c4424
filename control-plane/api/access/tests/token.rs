//! Tokens: what LiveKit's SDKs mint is accepted, what is wrong is refused with its own words.

use meridian_access::token::{Claims, Grants, KeyRing, SigningKey, TokenError, mint, unix_now_s, verify, verify_at};
use serde_json::json;

fn ring() -> KeyRing {
    meridian_access::install_crypto();
    KeyRing::new().with_api_key("devkey", "a-secret-of-some-length-0123456789")
}

fn hs256(payload: &serde_json::Value, secret: &str) -> String {
    meridian_access::install_crypto();
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(
        &jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256),
        payload,
        &key,
    )
    .unwrap()
}

const SECRET: &str = "a-secret-of-some-length-0123456789";

#[test]
fn a_token_as_the_sdks_write_it_is_read_in_full() {
    let now = unix_now_s();
    let token = hs256(
        &json!({
            "iss": "devkey", "sub": "ana", "name": "Ana", "exp": now + 600, "nbf": now, "jti": "ana", "kind": "standard",
            "metadata": "m", "attributes": {"role": "host"}, "roomConfig": {"name": "r", "emptyTimeout": 30},
            "video": {"roomJoin": true, "room": "yard", "canPublish": false, "canSubscribe": true,
                      "canPublishSources": ["camera"], "hidden": true, "canUpdateOwnMetadata": true, "somethingNew": 1},
            "sip": {"admin": true},
        }),
        SECRET,
    );
    let claims = verify(&token, &ring()).unwrap();
    assert_eq!(
        (claims.identity(), claims.name.as_str(), claims.metadata.as_str()),
        ("ana", "Ana", "m")
    );
    assert_eq!(claims.attributes["role"], "host");
    assert_eq!(claims.room_config.as_ref().unwrap()["emptyTimeout"], 30);
    let video = claims.join_grants().unwrap();
    assert!(video.hidden && !video.may_publish() && video.may_subscribe() && !video.may_publish_data());
    assert_eq!(video.can_publish_sources, ["camera"]);
}

#[test]
fn nulls_and_fractions_that_other_languages_write_are_taken() {
    let token = hs256(
        &json!({"iss": "devkey", "sub": "b", "exp": unix_now_s() as f64 + 60.5, "name": null, "attributes": null,
                "video": {"roomJoin": true, "room": "r", "canPublish": null, "canPublishSources": null, "hidden": null}}),
        SECRET,
    );
    let claims = verify(&token, &ring()).unwrap();
    assert!(claims.join_grants().unwrap().may_publish());
}

#[test]
fn absent_rights_mean_what_the_protocol_says() {
    let grants = Grants {
        can_publish_sources: vec!["microphone".into()],
        ..Grants::default()
    };
    assert!(grants.may_publish() && grants.may_subscribe() && grants.may_publish_data());
    assert!(!grants.may_update_own_metadata() && !grants.may_subscribe_metrics());
    assert!(grants.may_publish_source("MICROPHONE") && !grants.may_publish_source("camera"));
}

#[test]
fn our_own_tokens_verify_by_key_id_after_a_round_trip_through_pem_and_json() {
    meridian_access::install_crypto();
    let key = SigningKey::generate().unwrap();
    let again = SigningKey::from_pem(&key.to_pem()).unwrap();
    let public = serde_json::from_str(&serde_json::to_string(again.public_key()).unwrap()).unwrap();
    let token = key.mint(&Claims::join("ana", "Ana", "abc-defg-hij")).unwrap();
    let claims = verify(&token, &KeyRing::new().with_public_key(public)).unwrap();
    assert_eq!(
        (claims.iss.as_str(), claims.join_grants().unwrap().room.as_str()),
        ("meridian", "abc-defg-hij")
    );
    assert_eq!(
        verify(&token, &ring()).unwrap_err(),
        TokenError::UnknownKeyId(key.kid().to_owned())
    );
}

#[test]
fn es256_keys_work_too() {
    meridian_access::install_crypto();
    let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
        .unwrap()
        .serialize_pem();
    let key = SigningKey::from_pem(&pem).unwrap();
    let token = key.mint(&Claims::join("a", "A", "r")).unwrap();
    assert!(verify(&token, &KeyRing::new().with_public_key(key.public_key().clone())).is_ok());
}

#[test]
fn sixty_seconds_of_clock_difference_are_forgiven_and_no_more() {
    let claims = Claims {
        exp: Some(1_000),
        nbf: Some(500),
        ..Claims::join("a", "A", "r")
    };
    let token = mint(&claims, "devkey", SECRET).unwrap();
    let at = |now| verify_at(&token, &ring(), now);
    assert!(at(1_060).is_ok() && at(440).is_ok());
    assert_eq!(at(1_061).unwrap_err(), TokenError::Expired { seconds_ago: 61 });
    assert_eq!(at(439).unwrap_err(), TokenError::NotYetValid { seconds: 61 });
}

#[test]
fn every_wrong_token_has_its_own_words() {
    let good = mint(&Claims::join("a", "A", "r"), "devkey", SECRET).unwrap();
    let check = |token: &str| verify(token, &ring()).unwrap_err();
    assert_eq!(check(""), TokenError::Missing);
    assert!(matches!(check("abc"), TokenError::Malformed(_)));
    assert!(matches!(check("a.b.c"), TokenError::Malformed(_)));
    assert!(matches!(check(&"x".repeat(200_000)), TokenError::TooLong { .. }));
    assert_eq!(
        check(&mint(&Claims::join("a", "A", "r"), "devkey", "wrong").unwrap()),
        TokenError::BadSignature
    );
    assert_eq!(
        check(&mint(&Claims::join("a", "A", "r"), "nobody", SECRET).unwrap()),
        TokenError::UnknownApiKey("nobody".into())
    );
    assert_eq!(
        check(&hs256(&json!({"iss": "devkey", "sub": "x"}), SECRET)),
        TokenError::MissingClaim("exp")
    );
    let (body, _) = good.rsplit_once('.').unwrap();
    assert_eq!(check(&format!("{body}.AAAA")), TokenError::BadSignature);
}

#[test]
fn neither_alg_none_nor_a_public_key_used_as_hmac_secret_gets_in() {
    meridian_access::install_crypto();
    let key = SigningKey::generate().unwrap();
    let ring = ring().with_public_key(key.public_key().clone());
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJpc3MiOiJkZXZrZXkiLCJleHAiOjk5OTk5OTk5OTl9.";
    assert!(verify(none, &ring).is_err());
    let forged = mint(&Claims::join("a", "A", "r"), key.kid(), &key.public_key().key).unwrap();
    assert!(matches!(verify(&forged, &ring), Err(TokenError::UnknownApiKey(_))));
}
