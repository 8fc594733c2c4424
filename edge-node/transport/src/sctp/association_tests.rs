//! The association against its client half, and against bytes nobody should send.

use proptest::prelude::*;
use rtc_sctp::StreamId;

use super::*;

/// Both halves, connected directly: what one sends the other gets.
fn pair(now: Instant) -> (DataChannels, DataChannels) {
    let mut server = DataChannels::server();
    let mut client = DataChannels::client(now, &[Channel::Reliable]);
    exchange(now, &mut server, &mut client);
    assert!(matches!(server.poll_event(), Some(DataEvent::Open(Channel::Reliable))));
    (server, client)
}

fn exchange(now: Instant, server: &mut DataChannels, client: &mut DataChannels) {
    loop {
        if let Some(packet) = client.poll_packet() {
            server.handle_packet(now, &packet);
        } else if let Some(packet) = server.poll_packet() {
            client.handle_packet(now, &packet);
        } else {
            return;
        }
    }
}

/// CRC-32c (RFC 9260 appendix A), so that bent packets reach the parser.
fn with_checksum(mut packet: Vec<u8>) -> Vec<u8> {
    if packet.len() < 12 {
        return packet;
    }
    packet[8..12].fill(0);
    let mut crc = !0u32;
    for &byte in &packet {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    packet[8..12].copy_from_slice(&(!crc).to_le_bytes());
    packet
}

/// A chunk of any type, with any value, its length mostly true.
fn chunk() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![
        0u8..16,
        Just(64),
        Just(128),
        Just(130),
        Just(132),
        Just(192),
        Just(193),
        any::<u8>()
    ];
    (
        kind,
        any::<u8>(),
        prop::collection::vec(any::<u8>(), 0..80),
        prop::option::weighted(0.2, any::<u16>()),
    )
        .prop_map(|(kind, flags, value, lie)| {
            let mut chunk = vec![kind, flags];
            chunk.extend_from_slice(&lie.unwrap_or(value.len() as u16 + 4).to_be_bytes());
            chunk.extend_from_slice(&value);
            chunk.resize(chunk.len().next_multiple_of(4), 0);
            chunk
        })
}

fn packet(verification_tag: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut packet = vec![0x13, 0x88, 0x13, 0x88];
    packet.extend_from_slice(&verification_tag.to_be_bytes());
    packet.extend_from_slice(&[0; 4]);
    packet.extend(chunks.iter().flatten());
    with_checksum(packet)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Any chunks under the right tag and checksum, before and after the association stands: the library never
    /// panics behind the guard.
    #[test]
    fn no_sctp_bytes_panic(noise in prop::collection::vec(prop::collection::vec(chunk(), 1..4), 1..30)) {
        let now = Instant::now();
        let (mut server, mut client) = pair(now);
        client.send(now, Channel::Reliable, b"tag", true).unwrap();
        let tag = client.poll_packet().unwrap();
        let tag = u32::from_be_bytes([tag[4], tag[5], tag[6], tag[7]]);
        let mut fresh = DataChannels::server();
        for (i, chunks) in noise.iter().enumerate() {
            server.handle_packet(now, &packet(tag, chunks));
            fresh.handle_packet(now, &packet(0, chunks));
            if i % 8 == 0 {
                server.handle_timeout(now + std::time::Duration::from_secs(i as u64));
            }
            while server.poll_packet().is_some() {}
        }
        prop_assert!(!server.stats().panicked);
        prop_assert!(!fresh.stats().panicked);
    }

    /// Real packets of an association, bent in places and given a right checksum again.
    #[test]
    fn no_bent_packet_panics(bends in prop::collection::vec((any::<u16>(), any::<u8>()), 1..40)) {
        let now = Instant::now();
        let (mut server, mut client) = pair(now);
        for (i, &(at, with)) in bends.iter().enumerate() {
            // A bent packet may rightly end the association.
            let _ = client.send(now, Channel::Reliable, &vec![with; usize::from(at) % 3_000], true);
            let Some(packet) = client.poll_packet() else { continue };
            let mut bent = packet.to_vec();
            let place = 12 + usize::from(at) % (bent.len() - 12);
            bent[place] ^= with;
            server.handle_packet(now, &with_checksum(bent));
            server.handle_packet(now, &packet);
            if i % 4 == 0 {
                exchange(now, &mut server, &mut client);
            }
        }
        prop_assert!(!server.stats().panicked);
    }
}

#[test]
fn a_repeated_init_gets_the_same_answer_and_no_second_association() {
    let now = Instant::now();
    let mut server = DataChannels::server();
    let mut client = DataChannels::client(now, &[Channel::Reliable]);
    let init = client.poll_packet().unwrap();
    server.handle_packet(now, &init);
    let first = server.poll_packet().unwrap();
    server.handle_packet(now, &init);
    assert_eq!(server.poll_packet().unwrap(), first);
    client.handle_packet(now, &first);
    exchange(now, &mut server, &mut client);
    assert!(matches!(client.poll_event(), Some(DataEvent::Open(Channel::Reliable))));
    server.handle_packet(now, &init);
    assert!(server.poll_packet().is_none(), "connected: an INIT is refused");
    assert_eq!(server.stats().refused, 1);
}

#[test]
fn an_abort_ends_the_channels_quietly() {
    let now = Instant::now();
    let (mut server, _client) = pair(now);
    server.handle_packet(now, &packet(0, &[vec![6, 0, 0, 8, 0, 1, 0xff, 0xff]]));
    assert_eq!(
        server.send(now, Channel::Reliable, b"x", true),
        Err(SendDataError::NotOpen)
    );
    assert_eq!(server.poll_timeout(), None);
    assert!(!server.stats().panicked);
}

#[test]
fn a_channel_with_another_label_is_acknowledged_and_ignored() {
    let now = Instant::now();
    let (mut server, mut client) = pair(now);
    let id: StreamId = 40;
    client.contained(|inner, out| {
        let open = Message::DataChannelOpen(DataChannelOpen {
            channel_type: ChannelType::Reliable,
            priority: 256,
            reliability_parameter: 0,
            label: b"games".to_vec(),
            protocol: Vec::new(),
        });
        let (_, association) = inner.association.as_mut().unwrap();
        let mut stream = association.open_stream(id, Ppi::Binary).unwrap();
        stream.write_with_ppi(now, &open.marshal().unwrap(), Ppi::Dcep).unwrap();
        stream.write_with_ppi(now, b"move", Ppi::Binary).unwrap();
        inner.pump(now, out);
    });
    exchange(now, &mut server, &mut client);
    assert!(server.poll_event().is_none());
    assert_eq!(server.stats().ignored, 1);
    server.send(now, Channel::Reliable, b"still open", true).unwrap();
}

#[test]
fn a_panic_in_the_library_costs_this_client_its_channels_only() {
    let now = Instant::now();
    let (mut server, _client) = pair(now);
    let result: Option<()> = server.contained(|_, _| panic!("as the library would"));
    assert!(result.is_none());
    assert!(server.stats().panicked);
    assert_eq!(
        server.send(now, Channel::Reliable, b"x", true),
        Err(SendDataError::NotOpen)
    );
    server.handle_packet(now, &packet(0, &[vec![1, 0, 0, 4]]));
}

/// One-byte messages that can never be delivered, because the first of their stream never comes. The receive window
/// counts bytes: 90 MB were kept before the guard counted chunks.
#[test]
fn messages_behind_a_gap_are_bounded_in_memory() {
    fn resident_bytes() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }
    let now = Instant::now();
    let (mut server, mut client) = pair(now);
    client.send(now, Channel::Reliable, b"tag", true).unwrap();
    let real = client.poll_packet().unwrap();
    let be32 = |at: usize| u32::from_be_bytes([real[at], real[at + 1], real[at + 2], real[at + 3]]);
    let (tag, first_tsn) = (be32(4), be32(16));
    let before = resident_bytes();
    for n in 0..100_000u32 {
        let mut data = vec![0, 3, 0, 17];
        data.extend_from_slice(&first_tsn.wrapping_add(n).to_be_bytes());
        data.extend_from_slice(&[0, 8]);
        data.extend_from_slice(&((n % 30_000) as u16 + 1).to_be_bytes());
        data.extend_from_slice(&[0, 0, 0, 53, 7, 0, 0, 0]);
        server.handle_packet(now, &packet(tag, &[data]));
        while server.poll_packet().is_some() {}
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "grew by {grown} bytes");
    assert!(server.stats().refused > 90_000);
    assert!(server.poll_event().is_none());
}
