//! A layer that a link does not carry for now, as people beyond that link see it.

use super::*;

/// The publisher's edge and the link from it.
struct Near {
    world: World,
    publisher: TestClient,
    /// Keeps all layers coming.
    neighbour: TestClient,
    camera: Camera,
    /// Keyframes asked for so far, by the near edge and from beyond.
    asked: usize,
}

impl Near {
    fn new() -> Near {
        let (world, publisher, neighbour, _, camera) = call(1, Layer::HIGH);
        let asked = camera.ssrcs.iter().map(|&ssrc| publisher.plis(ssrc)).sum();
        Near {
            world,
            publisher,
            neighbour,
            camera,
            asked,
        }
    }

    fn tap(&self, layers: u8) {
        self.world.shards.send(Command::Tap {
            track: VIDEO,
            consumer: meridian_shard::TapConsumer::Mesh,
            layers: LayerSet(layers),
        });
    }

    /// One frame, a keyframe if somebody asked for one; what `crosses` goes to the far edge.
    fn frame(&mut self, far: &World, crosses: u8, keyframe: bool) {
        self.publisher.turn();
        self.neighbour.turn();
        let plis: usize = self.camera.ssrcs.iter().map(|&s| self.publisher.plis(s)).sum();
        let asked = plis + requests(far, None);
        self.camera
            .send_frame(&mut self.publisher, keyframe || asked > self.asked);
        self.asked = asked;
        std::thread::sleep(Duration::from_millis(2));
        while let Ok(batch) = self.world.taps.try_recv() {
            for tapped in batch.packets.iter().filter(|t| LayerSet(crosses).contains(t.layer)) {
                far.shards.send(Command::RemoteMedia {
                    track: tapped.track,
                    encoding: tapped.packet.encoding,
                    layer: tapped.layer,
                    packets: vec![Bytes::copy_from_slice(tapped.packet.link_bytes())],
                });
            }
        }
    }
}

/// Keyframes that the far edge has asked for.
fn requests(far: &World, of: Option<Layer>) -> usize {
    far.count(|event| matches!(event, Event::KeyframeWanted { layer, .. } if of.is_none_or(|of| of == *layer)))
}

fn shown(client: &TestClient) -> Option<u8> {
    client
        .of_ssrc(VIDEO_OUT)
        .last()
        .map(|packet| video_tag(&packet.payload).0)
}

fn assert_no_gap(client: &TestClient) {
    for pair in client.of_ssrc(VIDEO_OUT).windows(2) {
        assert_eq!(pair[1].header.sequence, pair[0].header.sequence.wrapping_add(1));
    }
}

#[test]
fn while_a_layer_is_shed_old_and_new_subscribers_get_the_one_below_and_then_the_layer_again() {
    let mut near = Near::new();
    let mut far = World::new(2);
    // Beside the track's home and on the other media thread.
    let (mut c, mut d) = (far.client(0), far.client(1));
    far.shards.send(Command::AddRemoteTrack {
        track: VIDEO,
        kind: MediaKind::Video,
        codec: Codec::Vp8,
        layers: 3,
    });
    far.connect(&mut [&mut c, &mut d]);
    subscribe(&far, &c, Layer::HIGH);
    near.tap(0b100);
    far.until(&mut [&mut c, &mut d], "the wanted layer", |far, clients| {
        near.frame(far, 0b100, false);
        shown(clients[0]) == Some(2)
    });

    near.tap(0b110);
    far.shards.send(Command::SetAbsent {
        track: VIDEO,
        layers: LayerSet(0b100),
    });
    far.until(&mut [&mut c, &mut d], "the layer below", |far, clients| {
        near.frame(far, 0b010, false);
        shown(clients[0]) == Some(1)
    });
    let (of_top, all) = (requests(&far, Some(Layer::HIGH)), requests(&far, None));
    subscribe(&far, &d, Layer::HIGH);
    far.until(
        &mut [&mut c, &mut d],
        "the layer below for a newcomer",
        |far, clients| {
            near.frame(far, 0b010, false);
            clients[1].of_ssrc(VIDEO_OUT).len() >= 8
        },
    );
    assert_eq!(shown(&d), Some(1));
    // A decoder that lost its way gets a keyframe of what it can have.
    c.send_rtcp(|w| {
        w.pli(1, VIDEO_OUT);
    });
    far.until(&mut [&mut c, &mut d], "a keyframe of the layer below", |far, _| {
        near.frame(far, 0b010, false);
        requests(far, Some(Layer(1))) > 1
    });
    assert_eq!(requests(&far, Some(Layer::HIGH)), of_top, "that one cannot come");
    assert!(requests(&far, None) <= all + 3, "nobody storms");

    // The keyframe overtakes the word that the layer comes again.
    far.until(&mut [&mut c, &mut d], "the layer again", |far, clients| {
        let first = shown(clients[0]) == Some(1) && shown(clients[1]) == Some(1);
        near.frame(far, 0b100, first);
        [shown(clients[0]), shown(clients[1])] == [Some(2), Some(2)]
    });
    near.tap(0b100);
    far.shards.send(Command::SetAbsent {
        track: VIDEO,
        layers: LayerSet::EMPTY,
    });
    let before = near.camera.frames();
    far.until(&mut [&mut c, &mut d], "more of it", |far, _| {
        near.frame(far, 0b100, false);
        near.camera.frames() > before + 50
    });
    assert_eq!([shown(&c), shown(&d)], [Some(2), Some(2)]);
    assert_no_gap(&c);
    assert_no_gap(&d);
}

#[test]
fn the_only_layer_of_a_track_comes_back_at_a_keyframe_that_nobody_beyond_the_link_has_to_ask_for() {
    let mut near = Near::new();
    let mut far = World::new(1);
    let mut c = far.client(0);
    far.shards.send(Command::AddRemoteTrack {
        track: VIDEO,
        kind: MediaKind::Video,
        codec: Codec::Vp8,
        layers: 1,
    });
    far.connect(&mut [&mut c]);
    subscribe(&far, &c, Layer::LOW);
    near.tap(0b001);
    far.until(&mut [&mut c], "the layer", |far, clients| {
        near.frame(far, 0b001, false);
        shown(clients[0]) == Some(0)
    });
    far.shards.send(Command::SetAbsent {
        track: VIDEO,
        layers: LayerSet(0b001),
    });
    let before = near.camera.frames();
    far.until(&mut [&mut c], "nothing", |far, _| {
        near.frame(far, 0, false);
        near.camera.frames() > before + 50
    });
    let (asked, seen) = (requests(&far, None), c.of_ssrc(VIDEO_OUT).len());
    near.frame(&far, 0b001, true);
    far.until(&mut [&mut c], "the layer again", |far, clients| {
        near.frame(far, 0b001, false);
        clients[0].of_ssrc(VIDEO_OUT).len() > seen + 8
    });
    let first = &c.of_ssrc(VIDEO_OUT)[seen];
    assert_eq!(video_tag(&first.payload).2, 0, "from its first packet on");
    assert_eq!(requests(&far, None), asked);
    assert_no_gap(&c);
}
