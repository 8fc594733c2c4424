//! STUN binding messages as ICE uses them (RFC 8489, RFC 8445 §7), over `rtc-stun`. Parsing and authentication here;
//! what a request means for a path is `ice`'s business.

use std::net::SocketAddr;
use std::sync::LazyLock;

use rtc_crypto::RTCCryptoProvider;
use rtc_crypto::providers::AwsLcRsProvider;
use rtc_stun::attributes::{
    ATTR_ICE_CONTROLLED, ATTR_ICE_CONTROLLING, ATTR_MESSAGE_INTEGRITY, ATTR_PRIORITY, ATTR_USE_CANDIDATE, ATTR_USERNAME,
};
use rtc_stun::error_code::{CODE_ROLE_CONFLICT, ErrorCode};
use rtc_stun::fingerprint::FINGERPRINT;
use rtc_stun::integrity::MessageIntegrity;
use rtc_stun::message::{BINDING_ERROR, BINDING_REQUEST, BINDING_SUCCESS, Message, MessageType, Setter, TransactionId};
use rtc_stun::xoraddr::XorMappedAddress;

use crate::ice::IceCredentials;

/// Larger than any binding message of a browser (about 150 bytes); what is longer is dropped before it is copied.
const MAX_STUN_LEN: usize = 1_280;

/// An authenticated binding request.
pub(crate) struct BindingRequest {
    pub(crate) transaction: TransactionId,
    /// The sender, which controls, wants this pair for media.
    pub(crate) use_candidate: bool,
    /// The sender thinks it is controlled: we are ICE-lite, so one of us is wrong.
    pub(crate) controlled: bool,
}

static CRYPTO: LazyLock<AwsLcRsProvider> = LazyLock::new(AwsLcRsProvider::new);

/// The local half of the USERNAME of a STUN binding request (`local:remote`, RFC 8445 §7.2.2), for finding the peer a
/// datagram from an unknown address belongs to. `None` if it is no well-formed binding request. Authenticates nothing.
pub fn stun_local_ufrag(datagram: &[u8]) -> Option<&str> {
    username(datagram)?.split_once(':').map(|(local, _)| local)
}

/// USERNAME of a binding request, without copying: what decides whether a datagram is worth an HMAC.
pub(crate) fn username(datagram: &[u8]) -> Option<&str> {
    const BINDING_REQUEST: [u8; 2] = [0, 1];
    const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
    let (header, mut attributes) = datagram.split_at_checked(20)?;
    if header[..2] != BINDING_REQUEST
        || header[4..8] != COOKIE
        || usize::from(u16::from_be_bytes([header[2], header[3]])) != attributes.len()
    {
        return None;
    }
    while let Some((head, rest)) = attributes.split_at_checked(4) {
        let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = rest.get(..len)?;
        if u16::from_be_bytes([head[0], head[1]]) == ATTR_USERNAME.value() {
            return std::str::from_utf8(value).ok();
        }
        attributes = rest.get(len.next_multiple_of(4)..)?;
    }
    None
}

/// Parses a message and checks MESSAGE-INTEGRITY with `pwd`. Only attributes before it are returned: what follows is not
/// protected (RFC 8489 §14.5).
fn authenticate(datagram: &[u8], pwd: &str) -> Option<Message> {
    if datagram.len() > MAX_STUN_LEN {
        return None;
    }
    let mut message = Message::new();
    message.unmarshal_binary(datagram).ok()?;
    let integrity_at = message
        .attributes
        .0
        .iter()
        .position(|a| a.typ == ATTR_MESSAGE_INTEGRITY)?;
    MessageIntegrity::check(&mut message, pwd.as_bytes(), CRYPTO.crypto()).ok()?;
    message.attributes.0.truncate(integrity_at);
    Some(message)
}

/// `None` unless it is a binding request authenticated with `pwd` whose USERNAME is protected too.
pub(crate) fn parse_request(datagram: &[u8], pwd: &str) -> Option<BindingRequest> {
    let message = authenticate(datagram, pwd)?;
    if message.typ != BINDING_REQUEST || !message.contains(ATTR_USERNAME) {
        return None;
    }
    Some(BindingRequest {
        transaction: message.transaction_id,
        use_candidate: message.contains(ATTR_USE_CANDIDATE),
        controlled: message.contains(ATTR_ICE_CONTROLLED),
    })
}

/// The transaction of a success response authenticated with `pwd`.
pub(crate) fn parse_success(datagram: &[u8], pwd: &str) -> Option<TransactionId> {
    let message = authenticate(datagram, pwd)?;
    (message.typ == BINDING_SUCCESS).then_some(message.transaction_id)
}

/// A success response that tells the sender its address.
pub(crate) fn success(transaction: TransactionId, mapped: SocketAddr, pwd: &str) -> Option<Vec<u8>> {
    let mut message = begin(BINDING_SUCCESS, transaction);
    XorMappedAddress {
        ip: mapped.ip(),
        port: mapped.port(),
    }
    .add_to(&mut message)
    .ok()?;
    finish(message, pwd)
}

/// A 487 Role Conflict response (RFC 8445 §7.3.1.1): the sender has to control.
pub(crate) fn role_conflict(transaction: TransactionId, pwd: &str) -> Option<Vec<u8>> {
    let mut message = begin(BINDING_ERROR, transaction);
    let code: ErrorCode = CODE_ROLE_CONFLICT;
    code.add_to(&mut message).ok()?;
    finish(message, pwd)
}

/// A controlling agent's check of one pair.
pub(crate) fn request(
    transaction: TransactionId,
    local: &IceCredentials,
    remote: &IceCredentials,
    tie_breaker: u64,
    nominate: bool,
) -> Option<Vec<u8>> {
    /// Priority of a peer-reflexive candidate with full local preference (RFC 8445 §5.1.2).
    const PRIORITY: u32 = (110 << 24) | (65_535 << 8) | 255;
    let mut message = begin(BINDING_REQUEST, transaction);
    message.add(ATTR_USERNAME, format!("{}:{}", remote.ufrag, local.ufrag).as_bytes());
    message.add(ATTR_ICE_CONTROLLING, &tie_breaker.to_be_bytes());
    message.add(ATTR_PRIORITY, &PRIORITY.to_be_bytes());
    if nominate {
        message.add(ATTR_USE_CANDIDATE, &[]);
    }
    finish(message, &remote.pwd)
}

fn begin(kind: MessageType, transaction: TransactionId) -> Message {
    let mut message = Message::new();
    message.transaction_id = transaction;
    message.set_type(kind);
    message.write_header();
    message
}

fn finish(mut message: Message, pwd: &str) -> Option<Vec<u8>> {
    MessageIntegrity::new_short_term_integrity_with_provider(pwd.to_owned(), CRYPTO.crypto())
        .add_to(&mut message)
        .ok()?;
    FINGERPRINT.add_to(&mut message).ok()?;
    Some(message.raw)
}

#[cfg(test)]
mod tests {
    use rtc_stun::attributes::AttrType;

    use super::*;

    fn credentials(name: &str) -> IceCredentials {
        IceCredentials {
            ufrag: format!("{name}uf"),
            pwd: format!("{name}-password-of-22-chars"),
        }
    }

    #[test]
    fn a_request_is_accepted_with_the_right_password_only() {
        let (client, server) = (credentials("client"), credentials("server"));
        let bytes = request(TransactionId([7; 12]), &client, &server, 1, true).unwrap();
        assert_eq!(stun_local_ufrag(&bytes), Some("serveruf"));
        let parsed = parse_request(&bytes, &server.pwd).unwrap();
        assert!(parsed.use_candidate && !parsed.controlled);
        assert_eq!(parsed.transaction, TransactionId([7; 12]));
        assert!(parse_request(&bytes, &client.pwd).is_none());
        for at in 0..bytes.len() - 8 {
            let mut bent = bytes.clone();
            bent[at] ^= 1;
            assert!(parse_request(&bent, &server.pwd).is_none(), "byte {at} is protected");
        }
    }

    #[test]
    fn use_candidate_after_message_integrity_does_not_count() {
        let (client, server) = (credentials("client"), credentials("server"));
        let mut bytes = request(TransactionId([7; 12]), &client, &server, 1, false).unwrap();
        bytes.extend_from_slice(&[0, 0x25, 0, 0]);
        let len = (bytes.len() - 20) as u16;
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        let parsed = parse_request(&bytes, &server.pwd).unwrap();
        assert!(!parsed.use_candidate);
    }

    #[test]
    fn the_sample_request_of_rfc_5769_authenticates() {
        let sample: [u8; 108] = [
            0x00, 0x01, 0x00, 0x58, 0x21, 0x12, 0xa4, 0x42, 0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87,
            0xdf, 0xae, 0x80, 0x22, 0x00, 0x10, 0x53, 0x54, 0x55, 0x4e, 0x20, 0x74, 0x65, 0x73, 0x74, 0x20, 0x63, 0x6c,
            0x69, 0x65, 0x6e, 0x74, 0x00, 0x24, 0x00, 0x04, 0x6e, 0x00, 0x01, 0xff, 0x80, 0x29, 0x00, 0x08, 0x93, 0x2f,
            0xf9, 0xb1, 0x51, 0x26, 0x3b, 0x36, 0x00, 0x06, 0x00, 0x09, 0x65, 0x76, 0x74, 0x6a, 0x3a, 0x68, 0x36, 0x76,
            0x59, 0x20, 0x20, 0x20, 0x00, 0x08, 0x00, 0x14, 0x9a, 0xea, 0xa7, 0x0c, 0xbf, 0xd8, 0xcb, 0x56, 0x78, 0x1e,
            0xf2, 0xb5, 0xb2, 0xd3, 0xf2, 0x49, 0xc1, 0xb5, 0x71, 0xa2, 0x80, 0x28, 0x00, 0x04, 0xe5, 0x7a, 0x3b, 0xcf,
        ];
        assert_eq!(stun_local_ufrag(&sample), Some("evtj"));
        let parsed = parse_request(&sample, "VOkJxbRl1RmTxUk/WvJxBt").unwrap();
        assert!(parsed.controlled);
    }

    #[test]
    fn a_success_response_says_the_address_in_both_families() {
        for mapped in ["192.0.2.1:32853", "[2001:db8::1]:32853"] {
            let bytes = success(TransactionId([1; 12]), mapped.parse().unwrap(), "pwd").unwrap();
            assert_eq!(parse_success(&bytes, "pwd"), Some(TransactionId([1; 12])));
            assert!(parse_success(&bytes, "other").is_none());
            let mut message = Message::new();
            message.unmarshal_binary(&bytes).unwrap();
            let mut address = XorMappedAddress::default();
            address.get_from_as(&message, AttrType(0x0020)).unwrap();
            assert_eq!(SocketAddr::new(address.ip, address.port), mapped.parse().unwrap());
        }
    }
}
