#!/usr/bin/env bash
# rtc-rtcp 0.21.1 (webrtc-rs): two valid feedback messages are misread.
# - A transport-wide feedback whose status chunks reach to its end, because no packet arrived and so there are no deltas, is refused as too short if
#   the number of chunks is even (an odd number is padded, and passes). draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1: a delta follows for
#   each packet received, none for "packet not received"; its own first example of a run is one of lost packets. The refusal takes the whole
#   compound with it: in an outage the sender misses the very report that tells it to slow down.
# - A Generic NACK with RTCP padding (RFC 3550 §6.4.1: the padding bit, the last byte its length) has the padding read as a request: NACK of packet 7 and four
#   bytes of padding is taken for 7, 0 and 3, which are sent again for nothing. Senders that pad for a cipher's block are few, and valid.
# Seen: 28 lost packets as two vectors refused, 14 as one and 42 as three read; three numbers of one asked for.
set -euo pipefail
command -v cargo >/dev/null || { echo "needs cargo" >&2; exit 2; }
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "loss"
version = "0.0.0"
edition = "2024"
[dependencies]
rtc-rtcp = "=0.21.1"
bytes = "1"
TOML
cat > src/main.rs <<'RUST'
use bytes::Bytes;
use rtc_rtcp::{packet::unmarshal, transport_feedbacks::transport_layer_nack::TransportLayerNack};

/// A feedback about `14 * chunks` packets of which none arrived, in one-bit vectors.
fn nothing_arrived(chunks: u8) -> Result<usize, String> {
    let padding = chunks % 2 * 2;
    let mut packet = vec![0x8F | padding << 4, 205, 0, 4 + (chunks + 1) / 2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 10, 0, 14 * chunks, 0, 0, 1, 0];
    packet.extend([0x80, 0].repeat(chunks.into()));
    packet.extend([0, 2][..padding.into()].iter());
    unmarshal(&mut Bytes::from(packet)).map(|read| read.len()).map_err(|error| error.to_string())
}

fn main() {
    let reports: Vec<_> = (1..=3).map(nothing_arrived).collect();
    let padded = Bytes::from_static(&[0xA1, 205, 0, 4, 0, 0, 0, 1, 0, 0, 0, 2, 0, 7, 0, 0, 0, 0, 0, 4]);
    let read = unmarshal(&mut padded.clone()).unwrap();
    let nack = read[0].as_any().downcast_ref::<TransportLayerNack>().unwrap();
    let asked: Vec<u16> = nack.nacks.iter().flat_map(|pair| pair.packet_list()).collect();
    println!("14, 28, 42 packets of which none arrived: {reports:?}; packet 7 and padding: {asked:?}");
    if reports[0] != Ok(1) || reports[1].is_ok() || reports[2] != Ok(1) || asked != [7, 0, 3] {
        eprintln!("this has changed");
        std::process::exit(1);
    }
}
RUST
cargo run --quiet
