#!/usr/bin/env bash
# aiortc 1.16.0 (PyPI): a compound RTCP packet whose SDES names two sources is refused as a whole, sender report included, unless the first name happens to
# have the right length. RFC 3550 §6.5: the items of a chunk end with one or more zero bytes, as many as are needed to reach a 32-bit boundary, and the
# next chunk starts there; no length follows a zero type. aiortc always takes two bytes as the end of a chunk. With one, three or four zeros it reads on in
# the middle of the next chunk: an error (the compound is dropped, so no round-trip time and no lip sync) or, worse, a source 0 without a name.
# What it writes itself for two sources has the same fault, so only its own reader understands it.
# Seen for first names of 1 to 8 letters: right for 4 and 8, an error for 1, 3, 5 and 7, wrong for 2 and 6.
# It hurts mixers and SFUs that announce several sources to it at once; one SDES per source (a chunk each) is read correctly.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv v
v/bin/pip install --quiet --disable-pip-version-check aiortc==1.16.0
v/bin/python - <<'PY'
import struct
import sys
from aiortc.rtp import RtcpPacket


def chunk(ssrc, name):
    body = struct.pack("!LBB", ssrc, 1, len(name)) + name
    return body + bytes(4 - len(body) % 4)


def packet(kind, count, body):
    return struct.pack("!BBH", 0x80 | count, kind, len(body) // 4) + body


report = packet(200, 0, struct.pack("!LQLLL", 1, 1 << 40, 90000, 10, 1000))


def outcome(length):
    names = [(1, b"n" * length), (2, b"second")]
    try:
        packets = RtcpPacket.parse(report + packet(202, 2, b"".join(chunk(*name) for name in names)))
    except ValueError:
        return "error"
    read = [(part.ssrc, part.items) for part in packets[1].chunks]
    return "right" if read == [(ssrc, [(1, name)]) for ssrc, name in names] else "wrong"


seen = {length: outcome(length) for length in range(1, 9)}
print(seen)
# One packet per source, in the same compound, is what works whatever the names.
RtcpPacket.parse(report + packet(202, 1, chunk(1, b"nnn")) + packet(202, 1, chunk(2, b"second")))
if seen != {1: "error", 2: "wrong", 3: "error", 4: "right", 5: "error", 6: "wrong", 7: "error", 8: "right"}:
    sys.exit("this has changed")
PY
