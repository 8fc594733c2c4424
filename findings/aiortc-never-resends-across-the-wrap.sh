#!/usr/bin/env bash
# aiortc 1.16.0 (PyPI): a Generic NACK whose bit mask reaches over the end of the 16-bit sequence numbers asks for packets that aiortc then does not have.
# RFC 4585 §6.2.1: bit i of BLP means PID+i "modulo 2^16". aiortc adds without the modulo: PID 65534 with BLP 0b1111 becomes 65534, 65535, 65536, 65537,
# 65538, and since it looks up what it sent by number, the last three are never sent again. Every receiver that packs its losses tightly (browsers do)
# meets it once in 65,536 packets, about every minute or two of video, if packets are lost just there: a picture that stands still until the next
# keyframe, from bots, cameras and tests that publish with aiortc.
# The other way round packing 65535 and 0 in the order of sending is not possible: a ValueError (negative shift count).
# Seen: both. A receiver can put the numbers after the wrap into a NACK entry of their own, which every reader understands.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv v
v/bin/pip install --quiet --disable-pip-version-check aiortc==1.16.0
v/bin/python - <<'PY'
import struct
import sys
from aiortc.rtp import RtcpPacket, RtcpRtpfbPacket


def nack(*entries):
    body = struct.pack("!LL", 1, 2) + b"".join(struct.pack("!HH", *entry) for entry in entries)
    return RtcpPacket.parse(struct.pack("!BBH", 0x81, 205, len(body) // 4) + body)[0].lost


one, two = nack((65534, 0b1111)), nack((65534, 0b1), (0, 0b11))
print("one entry over the wrap:", one)
print("an entry on each side:  ", two)
try:
    packed = bytes(RtcpRtpfbPacket(fmt=1, ssrc=1, media_ssrc=2, lost=[65535, 0])).hex()
except ValueError as error:
    packed = f"ValueError: {error}"
print("packing 65535, 0:       ", packed)
if one != [65534, 65535, 65536, 65537, 65538] or two != [65534, 65535, 0, 1, 2] or "ValueError" not in packed:
    sys.exit("this has changed")
PY
