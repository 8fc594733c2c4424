//! What one forwarded packet costs without encryption and sockets:
//! `cargo run --release -p meridian-sfu --example forward_cost`. One packet at a time to 1,000 subscribers, each with
//! their own state, as a shard does.

use meridian_sfu::packet::PACKET_BYTES_MAX;
use meridian_sfu::*;
use std::time::{Duration, Instant};

const SUBSCRIBERS: usize = 1_000;
const PACKETS: u32 = 4_000;

fn main() {
    let codec = Codec::Vp8;
    let start = Instant::now();
    let mut track = RemoteTrack::new(TrackId(1), codec);
    let mut pool = PacketPool::new(1_024);
    let mut downlinks: Vec<_> = (0..SUBSCRIBERS as u32)
        .map(|n| {
            Downlink::new(DownlinkConfig {
                kind: MediaKind::Video,
                mid: "0".into(),
                ssrc: 1_000 + 2 * n,
                rtx_ssrc: Some(1_001 + 2 * n),
                payloads: vec![PayloadType {
                    pt: 96,
                    codec,
                    rtx_pt: Some(97),
                }],
                extensions: ExtensionMap {
                    transport_cc: Some(3),
                    abs_send_time: Some(2),
                    ..ExtensionMap::default()
                },
                first_sequence: 100,
                first_rtx_sequence: 100,
            })
        })
        .collect();
    let mut out = vec![0; 64 * (PACKET_BYTES_MAX + 64)];
    let (mut spent, mut sent, mut refused) = (Duration::ZERO, 0u64, Duration::ZERO);
    let mut transport_sequence = 0;
    for n in 0..PACKETS {
        let now = start + Duration::from_millis(8) * n;
        let mut data = vec![0x80, 96 | if n % 4 == 3 { 0x80 } else { 0 }];
        data.extend((n as u16).to_be_bytes());
        data.extend((n / 4 * 3_000).to_be_bytes());
        data.extend(7u32.to_be_bytes());
        data.extend([0x90, 0x80, 0x80, (n / 4) as u8 & 0x7F, u8::from(n > 0)]);
        data.resize(1_200, 0xEE);
        for layer in [Layer(0), Layer(1)] {
            let Ok(Some(packet)) = track.handle_link(now, (Encoding(layer.0), layer), &data, &mut pool) else {
                continue;
            };
            let before = Instant::now();
            for (index, downlink) in downlinks.iter_mut().enumerate() {
                let slot = index % 64 * (PACKET_BYTES_MAX + 64);
                let mut send = SendContext {
                    now,
                    abs_send_time: 9,
                    transport_sequence: &mut transport_sequence,
                    pad_to: 8,
                };
                sent += u64::from(
                    downlink
                        .forward(track.source(), &packet, &mut send, &mut out[slot..])
                        .is_some(),
                );
            }
            // Layer 1 becomes the target with the first keyframe, so layer 0 is refused from then on.
            *if layer == Layer(1) { &mut spent } else { &mut refused } += before.elapsed();
        }
    }
    let per = |time: Duration| time.as_nanos() / u128::from(PACKETS) / SUBSCRIBERS as u128;
    println!("size_of::<Downlink>()  {} bytes", std::mem::size_of::<Downlink>());
    println!(
        "forwarded              {sent} packets, {} ns each (1,200 bytes)",
        per(spent)
    );
    println!("refused (other layer)  {} ns each", per(refused));
}
