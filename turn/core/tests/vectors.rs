//! Test vectors of RFC 5769 and RFC 8489 appendix B, and bytes that are no messages.

use std::net::SocketAddr;

use meridian_turn_core::credentials::{IntegrityKey, PasswordAlgorithm};
use meridian_turn_core::stun::{
    Class, Integrity, Message, MessageWriter, Method, ParseError, TransactionId, attribute,
};
use proptest::prelude::*;

const USERNAME: &str = "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}";
const SHORT_TERM: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";

const REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74\
    002400046e0001ff80290008932ff9b151263b36000600096576746a3a68367659202020\
    000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf";
const RESPONSE_V4: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220\
    002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96";
const RESPONSE_V6: &str = "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220\
    002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed41\
    80280004c8fb0b4c";
const LONG_TERM: &str = "000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e382afe382b90000\
    0015001c662f2f3439396b39353464364f4c33346f4c39465354767936347341\
    0014000b6578616d706c652e6f72670000080014f67024656dd64a3e02b8e0712e85c9a28ca89666";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn rfc5769_2_1_sample_request() {
    let bytes = hex(REQUEST);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.class, message.method), (Class::Request, Method::BINDING));
    assert_eq!(message.get_str(attribute::USERNAME), Some("evtj:h6vY"));
    assert!(message.verify(&IntegrityKey::raw(SHORT_TERM)));
    assert!(!message.verify(&IntegrityKey::raw(b"VOkJxbRl1RmTxUk/WvJxBT")));
}

#[test]
fn rfc5769_2_2_and_2_3_sample_responses() {
    for (text, address) in [
        (RESPONSE_V4, "192.0.2.1:32853"),
        (RESPONSE_V6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853"),
    ] {
        let bytes = hex(text);
        let message = Message::parse(&bytes).unwrap();
        let address: SocketAddr = address.parse().unwrap();
        assert_eq!(message.class, Class::Success);
        assert_eq!(message.get_address(attribute::XOR_MAPPED_ADDRESS), Some(address));
        assert!(message.verify(&IntegrityKey::raw(SHORT_TERM)));
    }
}

#[test]
fn rfc5769_2_4_long_term_request_read_and_written() {
    let bytes = hex(LONG_TERM);
    let message = Message::parse(&bytes).unwrap();
    let key = IntegrityKey::long_term(PasswordAlgorithm::Md5, USERNAME, "example.org", "TheMatrIX");
    assert!(message.verify(&key));
    assert_eq!(message.get_str(attribute::USERNAME), Some(USERNAME));
    let written = MessageWriter::new(Class::Request, Method::BINDING, message.transaction)
        .attribute(attribute::USERNAME, USERNAME.as_bytes())
        .attribute(attribute::NONCE, b"f//499k954d6OL34oL9FSTvy64sA")
        .attribute(attribute::REALM, b"example.org")
        .sign(Integrity::Sha1, &key)
        .finish();
    assert_eq!(written, bytes);
}

/// With the HMAC of the verified erratum.
#[test]
fn rfc8489_b_1_sha256_request() {
    let userhash = hex("4a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704");
    let transaction = TransactionId(hex("78ad3433c6ad72c029da412e").try_into().unwrap());
    let key = IntegrityKey::long_term(PasswordAlgorithm::Sha256, USERNAME, "example.org", "TheMatrIX");
    let written = MessageWriter::new(Class::Request, Method::BINDING, transaction)
        .attribute(attribute::USERHASH, &userhash)
        .attribute(attribute::NONCE, b"obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA")
        .attribute(attribute::REALM, b"example.org")
        .attribute(attribute::PASSWORD_ALGORITHM, &[0, 2, 0, 0])
        .sign(Integrity::Sha256, &key)
        .finish();
    let hmac = hex("b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278cc6518e65");
    assert_eq!(written[written.len() - 32..], hmac);
    assert!(Message::parse(&written).unwrap().verify(&key));
}

#[test]
fn attributes_behind_the_integrity_do_not_count() {
    let key = IntegrityKey::raw(b"k");
    let writer = MessageWriter::new(Class::Request, Method::REFRESH, TransactionId([5; 12]));
    let bytes = writer
        .sign(Integrity::Sha1, &key)
        .u32(attribute::LIFETIME, 0)
        .finish_with_fingerprint();
    let message = Message::parse(&bytes).unwrap();
    assert!(message.verify(&key) && message.get(attribute::LIFETIME).is_none());
}

#[test]
fn a_wrong_fingerprint_is_no_message() {
    let mut bytes = hex(REQUEST);
    *bytes.last_mut().unwrap() ^= 1;
    assert_eq!(Message::parse(&bytes).unwrap_err(), ParseError::Fingerprint);
}

/// Everything the parser offers, on whatever it accepted.
fn touch(bytes: &[u8]) {
    if let Ok(message) = Message::parse(bytes) {
        for (kind, _) in message.attributes() {
            let _ = (message.get_u32(kind), message.get_str(kind), message.get_address(kind));
        }
        message.verify(&IntegrityKey::raw(b"key"));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        touch(&bytes);
        let mut framed = vec![0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42];
        framed.extend_from_slice(&bytes);
        framed.truncate(framed.len() & !3);
        if framed.len() >= 20 {
            let length = (framed.len() - 20) as u16;
            framed[2..4].copy_from_slice(&length.to_be_bytes());
        }
        touch(&framed);
        meridian_turn_core::framing::next_frame(&bytes);
    }

    #[test]
    fn no_damage_to_a_message_makes_the_parser_panic(
        which in 0..4usize,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = hex([REQUEST, RESPONSE_V4, RESPONSE_V6, LONG_TERM][which]);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        touch(&bytes);
        bytes.truncate(cut.index(bytes.len() + 1));
        touch(&bytes);
    }
}
