//! What the engine costs a packet. Measure: `cargo test --release -p meridian-cascade --test link_cost -- --ignored --nocapture`

use std::time::{Duration, Instant};

use meridian_cascade::link::engine::PathState;
use meridian_cascade::link::{MediaLink, MediaPacket, Priority};
use meridian_sfu::media::{Encoding, Layer};

#[test]
#[ignore = "a measurement, not a check"]
fn a_packet_through_both_engines() {
    const PACKETS: u32 = 1_000_000;
    let start = Instant::now();
    let path = PathState {
        target_bps: 1_000_000_000,
        queue: Duration::ZERO,
        srtt: Duration::from_millis(20),
    };
    let (mut near, mut far) = (MediaLink::new(start), MediaLink::new(start));
    let payload = bytes::Bytes::from(vec![0; 1150]);
    let mut arrived = 0;
    for batch in 0..PACKETS / 20 {
        // 100,000 packets a second in batches of 20, 64 layers.
        let now = start + Duration::from_micros(200) * batch;
        for i in 0..20 {
            let track = (batch * 20 + i) % 64;
            near.send(
                now,
                MediaPacket {
                    track,
                    encoding: Encoding(1),
                    layer: Layer(1),
                    priority: Priority::Mid,
                    keyframe: false,
                    payload: payload.clone(),
                },
            );
        }
        near.handle_timeout(now, path);
        while let Some(datagram) = near.poll_transmit(now, 1312, 1 << 20) {
            far.handle_datagram(now, datagram);
        }
        far.handle_timeout(now, path);
        arrived += far.take_received().len();
        while let Some(answer) = far.poll_transmit(now, 1312, 1 << 20) {
            near.handle_datagram(now, answer);
        }
    }
    println!(
        "{} ns a packet, both sides",
        start.elapsed().as_nanos() / u128::from(PACKETS)
    );
    assert_eq!(arrived, PACKETS as usize);
}
