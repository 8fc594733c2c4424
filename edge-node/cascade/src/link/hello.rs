//! What both sides of a link say first on each of its two connections. A link is up only once both hellos were answered:
//! a QUIC client whose certificate is refused still sees its handshake succeed (RFC 9001 §4.1.2).

use prost::Message;

/// Our version of the link protocol. A peer with another version is accepted while `minimum` of both allows it.
pub const VERSION: u32 = 1;
/// Longest hello accepted, in bytes.
pub const HELLO_BYTES_MAX: usize = 8 * 1024;
/// A media hello is padded to this, so that an MTU the path does not carry shows itself before the link counts as up.
pub const MEDIA_HELLO_BYTES: usize = 4 * 1024;

/// Which of a pair's two connections this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Purpose {
    Unspecified = 0,
    /// Room state, directory, PLI, data packets: one ordered stream of messages.
    Control = 1,
    /// Media datagrams, heartbeats, hop NACKs.
    Media = 2,
}

/// First message on the first stream of each connection, from both sides.
#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// Lowest version the sender still speaks.
    #[prost(uint32, tag = "2")]
    pub minimum: u32,
    /// NodeId of the sender; must equal the one in its certificate.
    #[prost(string, tag = "3")]
    pub node: String,
    #[prost(enumeration = "Purpose", tag = "4")]
    pub purpose: i32,
    /// Chosen by the dialler; pairs the two connections of one link.
    #[prost(fixed64, tag = "5")]
    pub link_id: u64,
    /// Drawn once when the sender's process starts.
    #[prost(fixed64, tag = "6")]
    pub incarnation: u64,
    #[prost(bytes = "vec", tag = "15")]
    pub padding: Vec<u8>,
}

/// Why a hello was not acceptable.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HelloError {
    #[error("hello is not readable: {0}")]
    Malformed(String),
    #[error("peer speaks link protocol {theirs} (at least {minimum}), this node {ours}")]
    Version { theirs: u32, minimum: u32, ours: u32 },
    #[error("peer says it is {said}, its certificate says {certified}")]
    WrongNode { said: String, certified: String },
    #[error("peer opened a connection for purpose {0}, which this node does not know")]
    Purpose(i32),
}

impl Hello {
    pub fn new(node: &str, purpose: Purpose, link_id: u64, incarnation: u64) -> Hello {
        let mut hello = Hello {
            version: VERSION,
            minimum: VERSION,
            node: node.to_owned(),
            purpose: purpose.into(),
            link_id,
            incarnation,
            padding: Vec::new(),
        };
        if purpose == Purpose::Media {
            hello.padding = vec![0; MEDIA_HELLO_BYTES.saturating_sub(hello.encoded_len())];
        }
        hello
    }

    /// Reads a peer's hello and checks it against the NodeId its certificate proved.
    pub fn read(bytes: &[u8], certified: &str) -> Result<(Hello, Purpose), HelloError> {
        let hello = Hello::decode(bytes).map_err(|e| HelloError::Malformed(e.to_string()))?;
        if hello.version < VERSION || hello.minimum > VERSION {
            return Err(HelloError::Version {
                theirs: hello.version,
                minimum: hello.minimum,
                ours: VERSION,
            });
        }
        if hello.node != certified {
            return Err(HelloError::WrongNode {
                said: hello.node,
                certified: certified.to_owned(),
            });
        }
        match Purpose::try_from(hello.purpose) {
            Ok(purpose @ (Purpose::Control | Purpose::Media)) => Ok((hello, purpose)),
            _ => Err(HelloError::Purpose(hello.purpose)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_must_carry_the_certified_name_and_a_version_we_speak() {
        let hello = Hello::new("fra-1", Purpose::Media, 7, 9);
        let bytes = hello.encode_to_vec();
        assert!(bytes.len() >= MEDIA_HELLO_BYTES && bytes.len() <= HELLO_BYTES_MAX);
        assert_eq!(Hello::read(&bytes, "fra-1").unwrap().1, Purpose::Media);
        assert!(matches!(
            Hello::read(&bytes, "iad-1"),
            Err(HelloError::WrongNode { .. })
        ));
        let newer = Hello {
            version: 3,
            minimum: 2,
            ..hello.clone()
        };
        assert!(matches!(
            Hello::read(&newer.encode_to_vec(), "fra-1"),
            Err(HelloError::Version { .. })
        ));
        let other = Hello { purpose: 9, ..hello };
        assert_eq!(
            Hello::read(&other.encode_to_vec(), "fra-1"),
            Err(HelloError::Purpose(9))
        );
        assert!(matches!(
            Hello::read(&[0xff; 5], "fra-1"),
            Err(HelloError::Malformed(_))
        ));
    }
}
