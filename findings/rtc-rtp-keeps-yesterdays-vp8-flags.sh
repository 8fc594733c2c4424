#!/usr/bin/env bash
# rtc-rtp 0.21.1 (webrtc-rs), Vp8Packet: a depacketizer that is kept for a stream, as sample builders do, remembers the optional bits of the packet before. After
# one with X and I set, one without X (RFC 7741 §4.2: then no extension follows, the frame does) loses the first byte of its frame, which is taken for a
# PictureID, or two bytes if its high bit is set. Streams change like that when an SFU or a mixer goes over from one sender to another; the
# frame is then undecodable, and no error says why.
# Beside it: a payload of less than four bytes is refused ("packet is not large enough") though the mandatory descriptor is one byte. pion and str0m
# had that too and mended it; here the crate's own Vp8Payloader writes what its Vp8Packet refuses: 1,200 bytes for an MTU of 1,200 become 1,200 and 2.
# Seen: one byte of five lost; of 1,199 lengths, the two that end in a fragment of one or two bytes.
# Whoever takes frames apart with it should start with a new Vp8Packet for each packet.
set -euo pipefail
command -v cargo >/dev/null || { echo "needs cargo" >&2; exit 2; }
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "vp8"
version = "0.0.0"
edition = "2024"
[dependencies]
rtc-rtp = "=0.21.1"
bytes = "1"
TOML
cat > src/main.rs <<'RUST'
use bytes::Bytes;
use rtc_rtp::{codec::vp8::{Vp8Packet, Vp8Payloader}, packetizer::{Depacketizer, Payloader}};

fn main() {
    let plain = Bytes::from_static(&[0x10, 1, 2, 3, 4, 5]);
    let mut kept = Vp8Packet::default();
    kept.depacketize(&Bytes::from_static(&[0x90, 0x80, 0x11, 9, 9, 9])).unwrap();
    let after = kept.depacketize(&plain).unwrap();
    let fresh = Vp8Packet::default().depacketize(&plain).unwrap();
    println!("fresh {fresh:?}, kept {after:?}");
    let refused: Vec<usize> = (1_000..1_000 + 1_199)
        .filter(|&length| {
            let packets = Vp8Payloader::default().payload(1_200, &Bytes::from(vec![7; length])).unwrap();
            packets.iter().any(|packet| Vp8Packet::default().depacketize(packet).is_err())
        })
        .collect();
    println!("frames of 1,000 to 2,198 bytes whose own packets are refused: {refused:?}");
    if fresh[..] != [1, 2, 3, 4, 5] || after[..] != [2, 3, 4, 5] || refused != [1_200, 1_201] {
        eprintln!("this has changed");
        std::process::exit(1);
    }
}
RUST
cargo run --quiet
