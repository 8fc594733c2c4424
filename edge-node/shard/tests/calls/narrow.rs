//! Subscribers whose links carry less than there is: what is paused, what waits, what never does.

use std::time::Instant;

use meridian_sfu::TwccReceiver;
use meridian_sfu::packet::RtpHeader;

use super::*;
use common::EXTENSIONS;

/// REMB (draft-alvestrand-rmcat-remb §2.2).
fn say_remb(client: &mut TestClient, bps: u32) {
    let exponent = bps.checked_ilog2().unwrap_or(0).saturating_sub(17);
    let word = exponent << 18 | bps >> exponent;
    let mut packet = vec![0x8f, 206, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0];
    packet.extend_from_slice(b"REMB");
    packet.extend_from_slice(&(1 << 24 | word).to_be_bytes());
    packet.extend_from_slice(&VIDEO_OUT.to_be_bytes());
    client.send_odd_rtcp(&packet);
}

fn paused(world: &World, subscriber: &TestClient) -> Option<bool> {
    world.seen.iter().rev().find_map(|event| match event {
        Event::StreamState {
            peer,
            track: VIDEO,
            paused,
        } if *peer == subscriber.peer => Some(*paused),
        _ => None,
    })
}

/// Thirty frames a second of one megabit in each layer, and audio, as long as it is called.
struct Clock {
    begun: Instant,
    frames: u32,
}

impl Clock {
    fn new() -> Clock {
        Clock {
            begun: Instant::now(),
            frames: 0,
        }
    }

    fn send(&mut self, publisher: &mut TestClient, microphone: &mut Microphone, camera: &mut Camera) {
        if self.begun.elapsed() >= Duration::from_millis(33) * self.frames {
            self.frames += 1;
            microphone.send(publisher);
            let asked: usize = camera.ssrcs.iter().map(|&ssrc| publisher.plis(ssrc)).sum();
            publisher.rtcp.clear();
            camera.send_frame(publisher, asked > 0);
        }
    }
}

#[test]
fn video_that_a_link_has_no_room_for_is_paused_and_announced_while_audio_goes_on_and_comes_back_with_room() {
    let (mut world, mut a, mut b, mut microphone, mut camera) = call(1, Layer::HIGH);
    let mut clock = Clock::new();
    say_remb(&mut b, 200_000);
    world.until(&mut [&mut a, &mut b], "the pause", |world, clients| {
        clock.send(clients[0], &mut microphone, &mut camera);
        paused(world, clients[1]) == Some(true)
    });
    let (frame, sound) = (camera.frames(), b.of_ssrc(AUDIO_OUT).len());
    world.until(&mut [&mut a, &mut b], "audio while paused", |_, clients| {
        clock.send(clients[0], &mut microphone, &mut camera);
        clients[1].of_ssrc(AUDIO_OUT).len() >= sound + 20
    });
    let later = |client: &TestClient, from: u16| {
        let video = client.of_ssrc(VIDEO_OUT);
        video.iter().filter(|p| video_tag(&p.payload).1 > from).count()
    };
    assert_eq!(later(&b, frame), 0, "nothing of the paused stream");
    say_remb(&mut b, 8_000_000);
    let resumed = camera.frames();
    world.until(&mut [&mut a, &mut b], "the picture again", |world, clients| {
        clock.send(clients[0], &mut microphone, &mut camera);
        paused(world, clients[1]) == Some(false) && later(clients[1], resumed) > 8
    });
    assert_eq!(world.shards.metrics().streams_paused, 1);
    world.shards.shutdown();
}

#[test]
fn a_burst_of_video_waits_and_the_word_after_it_does_not() {
    let (mut world, mut a, mut b, mut microphone, mut camera) = call(1, Layer::LOW);
    let mut clock = Clock::new();
    say_remb(&mut b, 2_500_000);
    world.until(&mut [&mut a, &mut b], "a steady stream", |_, clients| {
        clock.send(clients[0], &mut microphone, &mut camera);
        clock.frames > 20
    });
    b.rtp.clear();
    let first = camera.frames();
    // 64 KB at once: what a keyframe of a detailed picture is.
    for _ in 0..16 {
        camera.send_frame(&mut a, false);
    }
    microphone.send(&mut a);
    let fresh = |client: &TestClient| {
        let video = client.of_ssrc(VIDEO_OUT);
        video.iter().filter(|p| video_tag(&p.payload).1 >= first).count()
    };
    let mut before_the_word = None;
    world.until(&mut [&mut a, &mut b], "everything", |_, clients| {
        if before_the_word.is_none() && !clients[1].of_ssrc(AUDIO_OUT).is_empty() {
            before_the_word = Some(fresh(clients[1]));
        }
        fresh(clients[1]) == 64
    });
    // 40 ms at the paced rate of 3.1 Mb/s are 15 packets; more may have been read in the same turn.
    let before_the_word = before_the_word.expect("the word came");
    assert!(
        before_the_word < 40,
        "{before_the_word} packets of video were before it"
    );
    let numbers: Vec<u16> = b.of_ssrc(VIDEO_OUT).iter().map(|p| p.header.sequence).collect();
    assert!(
        numbers.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)),
        "{numbers:?}"
    );
    assert_eq!(world.shards.metrics().drop_paced, 0);
    world.shards.shutdown();
}

#[test]
fn a_subscriber_with_transport_wide_feedback_is_probed_with_padding_it_never_sees_as_media() {
    let mut world = World::new(1);
    let (mut a, mut b) = (world.client(0), world.client(0));
    publish(&world, &a);
    subscribe(&world, &b, Layer::HIGH);
    let mut media = subscription(VIDEO, VP8, VIDEO_OUT);
    media.extensions = EXTENSIONS;
    world.shards.send(Command::Subscribe {
        peer: b.peer,
        track: VIDEO,
        media,
    });
    world.connect(&mut [&mut a, &mut b]);
    let (mut microphone, mut camera) = (Microphone::new(0x11), Camera::new([0x21, 0x22, 0x23]));
    let mut clock = Clock::new();
    let mut feedback = TwccReceiver::new(Instant::now());
    let mut read = 0;
    world.until(
        &mut [&mut a, &mut b],
        "the top layer, by way of probes",
        |world, clients| {
            clock.send(clients[0], &mut microphone, &mut camera);
            for packet in &clients[1].rtp[read..] {
                let header = RtpHeader::parse(&packet.data).expect("read before");
                let number = header
                    .elements(&packet.data)
                    .find(|(id, _)| Some(*id) == EXTENSIONS.transport_cc);
                if let Some((_, number)) = number {
                    feedback.record(Instant::now(), u16::from_be_bytes([number[0], number[1]]), VIDEO_OUT);
                }
            }
            read = clients[1].rtp.len();
            let mut out = Vec::new();
            if feedback.poll(Instant::now(), 1, &mut out) {
                clients[1].send_odd_rtcp(&out);
            }
            let top = |p: &&common::Arrived| video_tag(&p.payload).0 == 2;
            clients[1].of_ssrc(VIDEO_OUT).iter().filter(|p| top(p)).count() > 8
                && world.shards.metrics().padding_out > 0
        },
    );
    let padding = b.rtp.iter().filter(|p| p.header.ssrc == VIDEO_OUT + 1);
    assert!(padding.clone().count() > 5, "clusters of padding on the RTX stream");
    assert!(padding.clone().all(|p| p.data[0] & 0x20 != 0));
    assert_eq!(world.shards.metrics().feedback_implausible, 0);
    world.shards.shutdown();
}
