//! Fragments of SDP that carry ICE alone (RFC 8840 §9): a client's candidates as it finds them, or the new credentials of an ICE restart, and our
//! answer to those. As an ICE-lite server on known addresses we need none of a client's candidates: they are counted and dropped.

use std::fmt::Write;

use super::SdpError;
use crate::IceCredentials;

/// Largest fragment, bytes: a hundred candidates and more.
pub const FRAGMENT_BYTES_MAX: usize = 16 * 1024;

/// What a client said about its ICE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Of the first section that has them, or of all.
    pub ice: Option<IceCredentials>,
    pub candidates: usize,
    pub end_of_candidates: bool,
}

impl Fragment {
    /// # Errors
    /// [`SdpError::TooLong`], or [`SdpError::Malformed`] for control characters, credentials outside RFC 8839 §5.4, half of a pair, and text
    /// that has no line of SDP.
    pub fn parse(text: &str) -> Result<Fragment, SdpError> {
        if text.len() > FRAGMENT_BYTES_MAX {
            return Err(SdpError::TooLong(text.len()));
        }
        let mut fragment = Fragment::default();
        let (mut ufrag, mut pwd) = (None, None);
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_end_matches('\r');
            let malformed = |what| SdpError::Malformed { line: index + 1, what };
            if line.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
                return Err(malformed("line with a control character"));
            }
            if !line.is_empty() && line.as_bytes().get(1) != Some(&b'=') {
                return Err(malformed("line: it is not TYPE=VALUE"));
            }
            let Some(attribute) = line.strip_prefix("a=") else {
                continue;
            };
            let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
            let sound = |bytes: std::ops::RangeInclusive<usize>| {
                bytes.contains(&value.len()) && value.bytes().all(|b| b.is_ascii_graphic())
            };
            match name {
                "ice-ufrag" if sound(4..=256) => _ = ufrag.get_or_insert(value),
                "ice-pwd" if sound(22..=256) => _ = pwd.get_or_insert(value),
                "ice-ufrag" | "ice-pwd" => return Err(malformed("ICE credential")),
                "candidate" => fragment.candidates += 1,
                "end-of-candidates" => fragment.end_of_candidates = true,
                _ => {}
            }
        }
        fragment.ice = match (ufrag, pwd) {
            (Some(ufrag), Some(pwd)) => Some(IceCredentials {
                ufrag: ufrag.to_owned(),
                pwd: pwd.to_owned(),
            }),
            (None, None) => None,
            _ => {
                return Err(SdpError::Malformed {
                    line: text.lines().count(),
                    what: "fragment: ice-ufrag and ice-pwd come together",
                });
            }
        };
        Ok(fragment)
    }
}

/// An offer as its client would make it again after an ICE restart: all else stays (RFC 9725 §4.3.3).
pub fn with_credentials(offer: &str, ice: &IceCredentials) -> String {
    let mut changed = String::with_capacity(offer.len() + 64);
    for line in offer.lines() {
        let line = line.trim_end_matches('\r');
        let _ = if line.starts_with("a=ice-ufrag:") {
            write!(changed, "a=ice-ufrag:{}\r\n", ice.ufrag)
        } else if line.starts_with("a=ice-pwd:") {
            write!(changed, "a=ice-pwd:{}\r\n", ice.pwd)
        } else {
            write!(changed, "{line}\r\n")
        };
    }
    changed
}

/// What an answer of ours says about ICE: its bundle's tagged section, without media.
pub fn fragment_of_answer(answer: &str) -> String {
    let mut session = String::new();
    let mut section = String::new();
    let mut credentials = String::new();
    for line in answer.lines() {
        let line = line.trim_end_matches('\r');
        if line.starts_with("a=end-of-candidates") {
            let _ = write!(section, "{line}\r\n");
            return session + &credentials + &section;
        }
        if line.starts_with("m=") {
            section.clear();
            credentials.clear();
            let _ = write!(section, "{line}\r\n");
        } else if line.starts_with("a=mid:") || line.starts_with("a=candidate:") {
            let _ = write!(section, "{line}\r\n");
        } else if line.starts_with("a=ice-lite") || line.starts_with("a=group:") {
            let _ = write!(session, "{line}\r\n");
        } else if line.starts_with("a=ice-") {
            let _ = write!(credentials, "{line}\r\n");
        }
    }
    session + &credentials
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRICKLED: &str = "a=group:BUNDLE 0 1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=ice-ufrag:EsAw\r\n\
        a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\na=candidate:1387637174 1 udp 2122260223 192.0.2.1 61764 typ host\r\na=end-of-candidates\r\n";

    #[test]
    fn candidates_are_counted_and_credentials_read() {
        let fragment = Fragment::parse(TRICKLED).unwrap();
        assert_eq!(fragment.ice.unwrap().ufrag, "EsAw");
        assert_eq!((fragment.candidates, fragment.end_of_candidates), (1, true));
        assert_eq!(Fragment::parse("").unwrap(), Fragment::default());
    }

    #[test]
    fn what_is_no_fragment_is_refused_with_its_line() {
        let line = |text: &str| match Fragment::parse(text) {
            Err(SdpError::Malformed { line, .. }) => line,
            other => panic!("{other:?}"),
        };
        assert_eq!(line("a=mid:0\r\nhello\r\n"), 2);
        assert_eq!(line("a=ice-ufrag:abc\r\n"), 1, "too short");
        assert_eq!(line("a=ice-ufrag:abcd\r\n"), 1, "no password");
        assert_eq!(line("a=mid:0\x07\r\n"), 1);
        let long = "a=candidate:1\r\n".repeat(FRAGMENT_BYTES_MAX / 15 + 1);
        assert!(matches!(Fragment::parse(&long), Err(SdpError::TooLong(_))));
    }

    #[test]
    fn a_restarted_offer_differs_in_its_credentials_alone() {
        let ice = IceCredentials {
            ufrag: "new1".into(),
            pwd: "n".repeat(22),
        };
        let offer = "v=0\r\na=ice-ufrag:old1\r\nm=audio 9 x 0\r\na=ice-ufrag:old1\r\na=ice-pwd:old\r\na=mid:0\r\n";
        let expected = format!(
            "v=0\r\na=ice-ufrag:new1\r\nm=audio 9 x 0\r\na=ice-ufrag:new1\r\na=ice-pwd:{}\r\na=mid:0\r\n",
            ice.pwd
        );
        assert_eq!(with_credentials(offer, &ice), expected);
    }

    #[test]
    fn our_fragment_is_the_tagged_section_without_media() {
        let answer = "v=0\r\ns=-\r\na=ice-lite\r\na=group:BUNDLE 1\r\nm=audio 0 x 0\r\na=mid:0\r\nm=video 9 y 96\r\nc=IN IP4 0.0.0.0\r\n\
            a=ice-ufrag:aaaa\r\na=ice-pwd:bbbb\r\na=fingerprint:sha-256 AA\r\na=mid:1\r\na=candidate:1 1 udp 1 192.0.2.1 1 typ host\r\n\
            a=end-of-candidates\r\na=rtpmap:96 VP8/90000\r\n";
        assert_eq!(
            fragment_of_answer(answer),
            "a=ice-lite\r\na=group:BUNDLE 1\r\na=ice-ufrag:aaaa\r\na=ice-pwd:bbbb\r\nm=video 9 y 96\r\na=mid:1\r\n\
             a=candidate:1 1 udp 1 192.0.2.1 1 typ host\r\na=end-of-candidates\r\n"
        );
    }
}
