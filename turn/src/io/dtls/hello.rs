//! DTLS records before there are keys: the ClientHello of a stranger, the cookie that he is asked for (RFC 6347 §4.2.1). Nothing here
//! remembers anything.

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::hmac;
use meridian_dtls_guard::Joiner;

use super::COOKIE_LEN;

const RECORD_HEADER_LEN: usize = 13;
const HANDSHAKE_HEADER_LEN: usize = 12;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const HELLO_VERIFY_REQUEST: u8 = 3;
const RANDOM_LEN: usize = 32;
const HELLO_VERIFY_LEN: usize = RECORD_HEADER_LEN + HANDSHAKE_HEADER_LEN + 3 + COOKIE_LEN;

/// Largest handshake message, bytes. A ClientHello with post-quantum key shares is below 2 kB.
const MESSAGE_LEN_MAX: usize = 4_096;

/// What is to be known of a ClientHello, or of its first fragment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hello<'a> {
    /// Epoch and number of its record.
    record: [u8; 8],
    pub(super) message_seq: u16,
    pub(super) random: [u8; RANDOM_LEN],
    pub(super) cookie: &'a [u8],
}

impl Hello<'_> {
    /// `None`: the datagram begins with something else.
    pub(super) fn parse(datagram: &[u8]) -> Option<Hello<'_>> {
        let (header, body) = datagram.split_first_chunk::<RECORD_HEADER_LEN>()?;
        let record: [u8; 8] = header[3..11].try_into().ok()?;
        if header[0] != HANDSHAKE || header[1] != 0xFE || record[..2] != [0, 0] {
            return None;
        }
        let body = body.get(..usize::from(u16::from_be_bytes([header[11], header[12]])))?;
        let (header, body) = body.split_first_chunk::<HANDSHAKE_HEADER_LEN>()?;
        if header[0] != CLIENT_HELLO || header[6..9] != [0, 0, 0] {
            return None;
        }
        let (_version, rest) = body.split_first_chunk::<2>()?;
        let (random, rest) = rest.split_first_chunk::<RANDOM_LEN>()?;
        let (&session, rest) = rest.split_first()?;
        let (&cookie, rest) = rest.get(usize::from(session)..)?.split_first()?;
        Some(Hello {
            record,
            message_seq: u16::from_be_bytes([header[4], header[5]]),
            random: *random,
            cookie: rest.get(..usize::from(cookie))?,
        })
    }

    /// The HelloVerifyRequest: shorter than any ClientHello, so nobody is amplified.
    pub(super) fn answer(&self, cookie: &[u8; COOKIE_LEN]) -> [u8; HELLO_VERIFY_LEN] {
        let body = (3 + COOKIE_LEN) as u8;
        let mut out = [0; HELLO_VERIFY_LEN];
        // DTLS 1.0 in both places, whatever will be spoken later; the record's number is the ClientHello's.
        out[..3].copy_from_slice(&[HANDSHAKE, 0xFE, 0xFF]);
        out[3..11].copy_from_slice(&self.record);
        out[12] = HANDSHAKE_HEADER_LEN as u8 + body;
        out[13] = HELLO_VERIFY_REQUEST;
        (out[16], out[24]) = (body, body);
        out[25..28].copy_from_slice(&[0xFE, 0xFF, COOKIE_LEN as u8]);
        out[28..].copy_from_slice(cookie);
        out
    }
}

/// The cookie of a client in a span of time.
pub(super) fn cookie(secret: &hmac::Key, span: u64, remote: SocketAddr, random: &[u8]) -> [u8; COOKIE_LEN] {
    let mut context = hmac::Context::with_key(secret);
    context.update(&span.to_be_bytes());
    match remote.ip() {
        IpAddr::V4(ip) => context.update(&ip.octets()),
        IpAddr::V6(ip) => context.update(&ip.octets()),
    }
    context.update(&remote.port().to_be_bytes());
    context.update(random);
    let tag = context.sign();
    let mut cookie = [0; COOKIE_LEN];
    cookie.copy_from_slice(tag.as_ref());
    cookie
}

/// A ClientHello without a cookie, of nobody: brings an engine to where it expects the one with a cookie.
pub(super) fn first_hello() -> Vec<u8> {
    let mut body = vec![0xFE, 0xFD];
    body.extend([0; RANDOM_LEN]);
    // No session, no cookie; TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256; no compression; no extensions.
    body.extend([0, 0, 0, 2, 0xC0, 0x2B, 1, 0]);
    let len = body.len() as u8;
    let mut hello = vec![HANDSHAKE, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    hello.push(HANDSHAKE_HEADER_LEN as u8 + len);
    hello.extend([CLIENT_HELLO, 0, 0, len, 0, 0, 0, 0, 0, 0, 0, len]);
    hello.extend(body);
    hello
}

pub(super) fn is_hello_verify_request(packet: &[u8]) -> bool {
    packet.first() == Some(&HANDSHAKE)
        && packet.get(3..5) == Some(&[0, 0])
        && packet.get(RECORD_HEADER_LEN) == Some(&HELLO_VERIFY_REQUEST)
}

/// What stands before the engine of a session until its client has keys.
pub(super) fn joiner() -> Joiner {
    Joiner::new(MESSAGE_LEN_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_good_for_one_address_one_random_and_one_span() {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
        let at: SocketAddr = "192.0.2.1:5000".parse().unwrap();
        let good = cookie(&secret, 1, at, &[1; 32]);
        assert_eq!(good, cookie(&secret, 1, at, &[1; 32]));
        assert_ne!(good, cookie(&secret, 2, at, &[1; 32]));
        assert_ne!(good, cookie(&secret, 1, "192.0.2.2:5000".parse().unwrap(), &[1; 32]));
        assert_ne!(good, cookie(&secret, 1, "192.0.2.1:5001".parse().unwrap(), &[1; 32]));
        assert_ne!(good, cookie(&secret, 1, at, &[2; 32]));
    }

    #[test]
    fn the_answer_to_a_hello_is_no_longer_than_the_shortest_hello() {
        let hello = first_hello();
        let parsed = Hello::parse(&hello).unwrap();
        assert!(parsed.cookie.is_empty() && parsed.message_seq == 0);
        let answer = parsed.answer(&[9; COOKIE_LEN]);
        assert!(is_hello_verify_request(&answer) && joiner().take(&hello).is_some());
        let shortest = (0..hello.len()).find(|&n| {
            let mut cut = hello[..n].to_vec();
            // The record says how long it is.
            if n > 12 {
                cut[12] = (n - 13) as u8;
            }
            Hello::parse(&cut).is_some()
        });
        assert!(answer.len() <= shortest.unwrap());
    }
}
