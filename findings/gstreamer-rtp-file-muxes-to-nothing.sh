#!/usr/bin/env bash
# GStreamer 1.22 (Debian 12): RTP out of a file (RFC 4571) through rtpstreamdepay and a depayloader into matroskamux gives a file without a single
# frame, and the pipeline ends with exit code 0 and no word. rtpstreamdepay puts no timestamps on what it takes apart, rtpvp8depay makes none out of
# RTP's own, and matroskamux drops every buffer that has none ("Invalid buffer timestamp", seen only with GST_DEBUG=3).
# filesrc's do-timestamp helps only if each read holds exactly one packet: with larger reads only the first packet of each is stamped, and most frames
# are still lost, again with exit code 0. A jitter buffer in between makes timestamps from RTP's, and everything is there.
# Seen: 422 bytes without, 13,617 with do-timestamp and reads of 256 KiB, about 3.3 MB with one packet a read or with rtpjitterbuffer, of 3,000 packets with
# 1,000 frames. Whoever records RTP this way should look at the length of what came out, not at the exit code.
set -euo pipefail
need='1.22.'
command -v gst-launch-1.0 >/dev/null || { echo "needs apt packages gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good" >&2; exit 2; }
version=$(gst-launch-1.0 --version | sed -n 's/^GStreamer //p')
[[ $version == "$need"* ]] || { echo "written for GStreamer ${need}x, this is $version" >&2; exit 2; }
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 - <<'PY'
import struct
with open("in.rtp", "wb") as file:
    for index in range(3000):
        frame, part = divmod(index, 3)
        header = struct.pack(">BBHII", 0x80, 96 | (0x80 if part == 2 else 0), index & 0xFFFF, frame * 3600, 1)
        # VP8 payload descriptor (RFC 7741) with a 15-bit picture id; a keyframe header of 640x360 every hundred frames.
        payload = bytes([0x90 if part == 0 else 0x80, 0x80]) + struct.pack(">H", frame & 0x7FFF | 0x8000)
        if part == 0:
            payload += bytes([0x10, 0, 0, 0x9D, 1, 0x2A, 0x80, 2, 0x68, 1]) if frame % 100 == 0 else bytes([0x11, 0, 0])
        payload = payload.ljust(1100, b"\x5a")
        file.write(struct.pack(">H", 12 + len(payload)) + header + payload)
PY
caps='application/x-rtp-stream,media=video,clock-rate=90000,encoding-name=VP8,payload=96'
record() { # NAME SOURCE-OPTIONS [ELEMENT]
  timeout 60 gst-launch-1.0 -q filesrc location=in.rtp $2 ! "$caps" ! rtpstreamdepay ${3:+! $3} ! rtpvp8depay ! matroskamux ! filesink location="$1.mkv"
  stat -c %s "$1.mkv"
}
plain=$(record plain '')
stamped=$(record stamped 'do-timestamp=true blocksize=262144')
single=$(record single 'do-timestamp=true blocksize=1114')
jitter=$(record jitter '' 'rtpjitterbuffer latency=0')
echo "GStreamer $version, 3,300,000 bytes of payload, every pipeline ended with 0: plain $plain, do-timestamp $stamped, one packet a read $single, jitter buffer $jitter bytes"
(( plain < 1000 )) && (( stamped < 100000 )) && (( single > 3000000 )) && (( jitter > 3000000 )) || { echo "this has changed" >&2; exit 1; }
