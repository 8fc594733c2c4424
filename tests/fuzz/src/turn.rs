//! TURN clients and peers: strangers all.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use meridian_dtls_guard::Joiner;
use meridian_turn::credentials::Credentials;
use meridian_turn::framing::{FRAME_BYTES_MAX, Frame, next_frame};
use meridian_turn::stun::{Class, Message, MessageWriter, Method, TransactionId};
use meridian_turn::{ClientSocket, Command, Relayed, Server, ServerConfig, Shared, Transport};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::{joined, messages};

/// Datagrams of one client without credentials: every answer is short, nothing is relayed, and the tables stay consistent.
pub(crate) fn datagrams(input: &[u8]) {
    let mut now = Instant::now();
    let mut config = ServerConfig::new("meridian.test", Credentials::default().with_user("anna", "pw"));
    config.tcp_relay = true;
    config.relay_v4 = Some(IpAddr::V4(Ipv4Addr::new(203, 0, 114, 1)).into());
    let Ok(shared) = Shared::new(config, now, Duration::from_secs(1_767_225_600), [7; 32]) else {
        return;
    };
    let mut server = Server::new(shared, 0, now, SmallRng::seed_from_u64(3));
    let client = ClientSocket {
        remote: SocketAddr::from(([198, 51, 100, 1], 4000)),
        local: SocketAddr::from(([203, 0, 114, 1], 3478)),
        transport: Transport::Udp,
    };
    for datagram in messages(input) {
        now += Duration::from_millis(1);
        let parsed = Message::parse(datagram);
        if let Ok(message) = &parsed {
            let _ = (message.attributes().count(), message.integrity());
        }
        assert!(
            matches!(server.handle_client(now, client, datagram), Relayed::Nothing),
            "relayed without credentials"
        );
        while let Some(command) = server.poll_command() {
            match command {
                Command::Send { message, .. } => assert!(
                    message.len() <= 160,
                    "an unauthenticated answer of {} bytes",
                    message.len()
                ),
                other => panic!("{other:?} without credentials"),
            }
        }
        server.handle_timeout(now);
        server.assert_consistent();
    }
}

pub(crate) fn datagram_seeds() -> Vec<Vec<u8>> {
    let request = |method| MessageWriter::new(Class::Request, method, TransactionId([7; 12]));
    let allocate = request(Method::ALLOCATE).u32(0x0019, 17 << 24).finish();
    let binding = request(Method::BINDING).finish_with_fingerprint();
    let send = MessageWriter::new(Class::Indication, Method::SEND, TransactionId([7; 12]))
        .address(0x0012, SocketAddr::from(([192, 0, 2, 9], 5000)))
        .attribute(0x0013, b"data")
        .finish();
    let channel = [0x40, 0, 0, 4, 1, 2, 3, 4];
    vec![joined([allocate.as_slice(), &binding, &send, &channel])]
}

/// A stranger's DTLS is answered with less than it was.
pub(crate) fn dtls_hello(input: &[u8]) {
    let (answer, _) = meridian_turn::io::answer_to_stranger(input);
    if let Some(answer) = answer {
        assert!(answer.len() <= input.len() && input[0] == 22 && answer[3..11] == input[3..11]);
    }
}

pub(crate) fn dtls_hello_seeds() -> Vec<Vec<u8>> {
    // DTLS 1.2, no session, no cookie, one cipher suite, no compression.
    let body = [&[0xfe, 0xfd][..], &[7; 32], &[0, 0, 0, 2, 0xc0, 0x2b, 1, 0]].concat();
    let length = body.len() as u8;
    let header = [
        22,
        0xfe,
        0xfd,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        length + 12,
        1,
        0,
        0,
        length,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        length,
    ];
    vec![[&header[..], &body].concat()]
}

/// Whatever fragments come: what leaves is whole messages, and little is held.
pub(crate) fn dtls_fragments(input: &[u8]) {
    const MESSAGE_LEN_MAX: usize = 1_000;
    let mut joiner = Joiner::new(MESSAGE_LEN_MAX);
    for datagram in messages(input) {
        for record in joiner.take(datagram).into_iter().flatten() {
            let (header, body) = record.split_at(13);
            assert_eq!(usize::from(header[11]) << 8 | usize::from(header[12]), body.len());
            if header[0] == 22 && header[3..5] == [0, 0] && !body.is_empty() {
                let (header, message) = body.split_at(12);
                assert!(header[6..9] == [0; 3] && header[1..4] == header[9..]);
                assert_eq!((message.len() as u32).to_be_bytes()[1..], header[1..4]);
            }
        }
        assert!(joiner.held() <= 2 * MESSAGE_LEN_MAX);
    }
}

pub(crate) fn dtls_fragment_seeds() -> Vec<Vec<u8>> {
    let fragment = |from: u8, to: u8| {
        let mut fragment = vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, from, 0, to - from + 12];
        fragment.extend([1, 0, 0, 200, 0, 0, 0, 0, from, 0, 0, to - from]);
        fragment.extend(from..to);
        fragment
    };
    vec![joined([
        fragment(150, 200).as_slice(),
        &fragment(0, 90),
        &fragment(90, 180),
    ])]
}

/// A byte stream is cut into frames that cover it without gaps.
pub(crate) fn stream(input: &[u8]) {
    let mut rest = input;
    loop {
        match next_frame(rest) {
            Frame::Complete { message, consumed } => {
                assert!(0 < message && message <= consumed && consumed <= rest.len() && consumed <= FRAME_BYTES_MAX);
                let _ = Message::parse(&rest[..message]);
                rest = &rest[consumed..];
            }
            Frame::Incomplete(needed) => {
                assert!(needed > rest.len() && needed <= FRAME_BYTES_MAX);
                return;
            }
            Frame::Violation => return,
        }
    }
}

pub(crate) fn stream_seeds() -> Vec<Vec<u8>> {
    let binding = MessageWriter::new(Class::Request, Method::BINDING, TransactionId([7; 12])).finish();
    vec![[binding.as_slice(), &[0x40, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0], &binding].concat()]
}
