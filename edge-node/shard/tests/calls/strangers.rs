//! Whoever means harm, or is nobody's client.

use meridian_transport::SrtpStream;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

#[test]
fn a_stranger_gets_no_answer() {
    let world = World::new(1);
    let peer = world.shards.allocate_peer();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
    for datagram in [&[0u8; 20][..], &[0x80; 100], &[22, 254, 253, 0], &[]] {
        socket
            .send_to(datagram, world.shards.candidates(peer)[0])
            .expect("send");
    }
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .expect("timeout");
    assert!(socket.recv_from(&mut [0; 100]).is_err());
    assert!(world.shards.metrics().drop_unknown_sender >= 3);
}

/// RTP that is well-formed enough to be encrypted, and random in everything a client can choose.
fn odd_rtp(rng: &mut StdRng, ssrc: u32, sequence: u16) -> (Vec<u8>, usize) {
    let words = rng.random_range(0..20u16);
    let mut packet = vec![
        0x90 | rng.random::<u8>() & 0x20,
        [OPUS.pt, VP8.pt, 97, 0][rng.random_range(0..4)],
    ];
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(&rng.random::<u32>().to_be_bytes());
    packet.extend_from_slice(&ssrc.to_be_bytes());
    packet.extend_from_slice(if rng.random() { &[0xbe, 0xde] } else { &[0x10, 0] });
    packet.extend_from_slice(&words.to_be_bytes());
    packet.extend((0..4 * words).map(|_| if rng.random() { rng.random() } else { 0x31 }));
    let header_len = packet.len();
    let payload = rng.random_range(0..300);
    packet.extend((0..payload).map(|_| rng.random::<u8>()));
    (packet, header_len)
}

#[test]
fn whatever_one_client_sends_the_others_call_goes_on() {
    let (mut world, mut a, mut b, mut microphone, _) = call(2, Layer::LOW);
    let (mut hostile, mut rng) = (world.client(0), StdRng::seed_from_u64(3));
    let peer = hostile.peer;
    for (track, publication) in [(TrackId(8), audio_publication()), (TrackId(9), video_publication())] {
        world.shards.send(Command::Publish {
            peer,
            track,
            publication,
        });
    }
    world.shards.send(Command::Subscribe {
        peer,
        track: VIDEO,
        media: subscription(VIDEO, VP8, VIDEO_OUT),
    });
    world.shards.send(Command::Subscribe {
        peer: b.peer,
        track: TrackId(9),
        media: subscription(TrackId(9), VP8, 0xc000),
    });
    world.connect(&mut [&mut a, &mut b, &mut hostile]);
    // Streams of the call itself, of its own tracks, and of nobody.
    let ssrcs = [0x21, VIDEO_OUT, 0xd001, 0xd002, 0xd003];
    let mut streams: Vec<SrtpStream> = ssrcs.map(SrtpStream::new).into();
    for round in 0..1_500u16 {
        let which = rng.random_range(0..ssrcs.len());
        let (packet, header_len) = odd_rtp(&mut rng, ssrcs[which], round);
        hostile.send_odd_rtp(&mut streams[which], &packet, header_len);
        let mut rtcp: Vec<u8> = (0..rng.random_range(8..120)).map(|_| rng.random()).collect();
        let words = (rtcp.len() / 4 - 1) as u16;
        rtcp[0] = 0x80 | rtcp[0] & 0x3f;
        rtcp[1] = rng.random_range(200..208);
        rtcp[2..4].copy_from_slice(&if rng.random() { words } else { rng.random() }.to_be_bytes());
        hostile.send_odd_rtcp(&rtcp);
        let raw: Vec<u8> = (0..rng.random_range(0..200)).map(|_| rng.random()).collect();
        hostile.send_raw(&raw);
        if round % 50 == 0 {
            for client in [&mut a, &mut b, &mut hostile] {
                client.turn();
            }
        }
    }
    b.rtp.clear();
    world.until(
        &mut [&mut a, &mut b, &mut hostile],
        "audio of the others",
        |_, clients| {
            microphone.send(clients[0]);
            clients[1].of_ssrc(AUDIO_OUT).len() > 5
        },
    );
    assert_eq!(world.shards.metrics().panics, 0);
    assert_eq!(world.count(|e| matches!(e, Event::PeerClosed { .. })), 0);
}
