#!/usr/bin/env bash
# ffmpeg 5.1 (Debian 12): every `-c copy` of a WebM or Matroska file with Opus makes its picture 7 ms later against its sound, and the delays add up. A copy
# changes nothing, one expects (ffmpeg's own manual, "streamcopy": no decoding or encoding, packets as they are).
# An Opus track starts with samples to throw away, 6.5 ms in ffmpeg's files, announced as CodecDelay (RFC 9559); blocks are stamped with that
# delay included. The demuxer takes it off, so the sound starts at -0.007; the muxer takes that for a negative time, which it must not write, moves
# everything up by 7 ms, and puts the delay on top of the sound. The first encoding has the offset too (a player of 2025 corrects that one
# step, by the name of the muxing program); that copies go on adding, and that -avoid_negative_ts disabled does not help, was not to be found.
# Seen, from the blocks themselves: the first picture at 7, 14, 21 ... 49 ms after six copies, the first sound always at 0; the same into Matroska.
# It hurts pipelines that cut, join, tag and repack recordings in steps: ten steps are 70 ms, and
# sound that is early is noticed from 45 ms on (ITU-R BT.1359).
# Repack from the original in one step.
set -euo pipefail
command -v ffmpeg >/dev/null || { echo "needs the apt package ffmpeg" >&2; exit 2; }
version=$(ffmpeg -version | sed -n '1s/^ffmpeg version \([^ ]*\).*/\1/p')
[[ $version == 5.1.* ]] || { echo "written for ffmpeg 5.1.x, this is $version" >&2; exit 2; }
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
ffmpeg -v error -f lavfi -i testsrc=size=160x90:rate=10:duration=3 -f lavfi -i sine=duration=3 -c:v libvpx -c:a libopus 0.webm
for step in 1 2 3 4 5 6; do ffmpeg -v error -i $((step - 1)).webm -c copy $step.webm; done
ffmpeg -v error -i 0.webm -c copy 1.mkv
ffmpeg -v error -i 1.webm -c copy -avoid_negative_ts disabled off.webm
cat > first.py <<'PY'
"""Milliseconds of the first picture and the first sound of each file, from its clusters and blocks (RFC 9559 §5.1.3)."""
import sys


def number(data, at, keep):
    size = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + size], "big")
    return (value if keep else value & (1 << 7 * size) - 1), at + size, size


def first(data, at, end, found, cluster=0):
    while at < end:
        kind, at, _ = number(data, at, True)
        length, at, size = number(data, at, False)
        until = end if length == (1 << 7 * size) - 1 else at + length
        if kind in (0x18538067, 0x1F43B675, 0xA0):
            first(data, at, until, found, cluster)
        elif kind == 0xE7:
            cluster = int.from_bytes(data[at:until], "big")
        elif kind in (0xA3, 0xA1):
            track, then, _ = number(data, at, False)
            found.setdefault(track, cluster + int.from_bytes(data[then : then + 2], "big", signed=True))
        at = until
    return found


print(*("{}:{}".format(*(first(data, 0, len(data), {})[track] for track in (1, 2))) for data in (open(name, "rb").read() for name in sys.argv[1:])))
PY
seen=$(python3 first.py {0..6}.webm 1.mkv off.webm)
echo "ffmpeg $version, first picture:first sound of the original, six copies, one into Matroska, a second one with -avoid_negative_ts disabled: $seen"
[[ $seen == '7:0 14:0 21:0 28:0 35:0 42:0 49:0 14:0 21:0' ]] || { echo "this has changed" >&2; exit 1; }
