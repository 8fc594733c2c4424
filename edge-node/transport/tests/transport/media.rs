use std::time::Duration;

use meridian_transport::{ProtectError, Received, SrtpStream};

use crate::network::{CLIENT_ADDRESS, Network, Options, SERVER_ADDRESS, address, receiver_report, rtp};

fn protect(sender: &mut meridian_transport::SrtpSender, stream: &mut SrtpStream, packet: &[u8]) -> Vec<u8> {
    let mut buffer = packet.to_vec();
    buffer.resize(packet.len() + sender.tag_len(), 0);
    let len = sender.protect_rtp(stream, &mut buffer, 12, packet.len()).unwrap();
    buffer.truncate(len);
    buffer
}

#[test]
fn rtp_and_rtcp_arrive_both_ways() {
    let mut network = Network::joined(Options {
        channels: vec![],
        ..Options::default()
    });
    let (server, client) = (address(SERVER_ADDRESS), address(CLIENT_ADDRESS));
    let (mut up, mut down) = (SrtpStream::new(1), SrtpStream::new(2));
    let mut sent = (Vec::new(), Vec::new());
    for sequence in 65_500..65_600u32 {
        let packet = rtp(1, sequence as u16, 1_100);
        let sealed = protect(network.client.srtp().unwrap(), &mut up, &packet);
        assert_ne!(sealed[12..packet.len()], packet[12..], "encrypted");
        network.send(true, client, server, sealed);
        sent.0.push(packet);
        let packet = rtp(2, sequence as u16, 60);
        let sealed = protect(network.server.srtp().unwrap(), &mut down, &packet);
        network.send(false, server, client, sealed);
        sent.1.push(packet);
    }
    let mut report = receiver_report(1);
    network.client.srtp().unwrap().protect_rtcp(&mut report).unwrap();
    network.send(true, client, server, report);
    sent.0.push(receiver_report(1));
    let mut report = receiver_report(2);
    network.server.srtp().unwrap().protect_rtcp(&mut report).unwrap();
    network.send(false, server, client, report);
    sent.1.push(receiver_report(2));
    network.run_for(Duration::from_millis(100));
    assert_eq!(network.server_received, sent.0, "also across the sequence rollover");
    assert_eq!(network.client_received, sent.1);
}

#[test]
fn a_replayed_or_bent_packet_is_rejected_and_counted() {
    let mut network = Network::joined(Options {
        channels: vec![],
        ..Options::default()
    });
    let (server, client) = (address(SERVER_ADDRESS), address(CLIENT_ADDRESS));
    let mut stream = SrtpStream::new(1);
    let sealed = protect(network.client.srtp().unwrap(), &mut stream, &rtp(1, 10, 50));
    let mut report = receiver_report(1);
    network.client.srtp().unwrap().protect_rtcp(&mut report).unwrap();
    let now = network.now;
    let mut receive = |bytes: &[u8]| network.server.handle_datagram(now, client, server, &mut bytes.to_vec());
    for at in 0..sealed.len() {
        let mut bent = sealed.clone();
        bent[at] ^= 1;
        assert_eq!(receive(&bent), Received::Nothing, "byte {at}");
    }
    assert_eq!(receive(&sealed), Received::Rtp { len: 62 });
    assert_eq!(receive(&sealed), Received::Nothing);
    assert_eq!(receive(&report), Received::Rtcp { len: 8 });
    assert_eq!(receive(&report), Received::Nothing);
    let stats = network.server.stats();
    assert_eq!(stats.srtp_replayed, 2);
    assert!(stats.srtp_unauthentic > 40, "{stats:?}");
}

#[test]
fn media_from_an_address_that_never_authenticated_is_ignored() {
    let mut network = Network::joined(Options {
        channels: vec![],
        ..Options::default()
    });
    let mut stream = SrtpStream::new(1);
    let mut sealed = protect(network.client.srtp().unwrap(), &mut stream, &rtp(1, 10, 50));
    let now = network.now;
    let stranger = address("198.51.100.1:9");
    assert_eq!(
        network
            .server
            .handle_datagram(now, stranger, address(SERVER_ADDRESS), &mut sealed),
        Received::Nothing
    );
    assert_eq!(network.server.stats().stray, 1);
}

#[test]
fn a_sender_never_encrypts_an_index_twice() {
    let mut network = Network::joined(Options {
        channels: vec![],
        ..Options::default()
    });
    let sender = network.server.srtp().unwrap();
    let mut first = SrtpStream::new(5);
    let mut buffer = rtp(5, 1, 20);
    buffer.resize(64, 0);
    sender.protect_rtp(&mut first, &mut buffer, 12, 32).unwrap();
    let mut again = rtp(5, 1, 20);
    again.resize(64, 0);
    assert_eq!(
        sender.protect_rtp(&mut first, &mut again, 12, 32),
        Err(ProtectError::ReusedIndex)
    );
    let mut second = SrtpStream::new(5);
    assert_eq!(
        sender.protect_rtp(&mut second, &mut again, 12, 32),
        Err(ProtectError::ForeignStream),
        "one stream an SSRC"
    );
    let client = network.client.srtp().unwrap();
    assert_eq!(
        client.protect_rtp(&mut first, &mut again, 12, 32),
        Err(ProtectError::ForeignStream),
        "of another sender"
    );
    let mut other = SrtpStream::new(6);
    assert_eq!(
        client.protect_rtp(&mut other, &mut again, 12, 32),
        Err(ProtectError::ForeignStream),
        "other SSRC"
    );
    let mut third = SrtpStream::new(5);
    assert_eq!(
        client.protect_rtp(&mut third, &mut again, 16, 32),
        Err(ProtectError::Malformed)
    );
    assert_eq!(
        client.protect_rtp(&mut third, &mut again[..40], 12, 32),
        Err(ProtectError::BufferTooSmall)
    );
}
