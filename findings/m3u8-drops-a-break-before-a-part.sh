#!/usr/bin/env bash
# m3u8 6.0.0 (PyPI): three valid things do not survive loads() and dumps(), the round trip the package is used for in proxies and tests of packagers.
# - EXT-X-DISCONTINUITY in front of the first part of a segment that is still growing is dropped, and an EXT-X-DATERANGE after the last part with it.
#   A live player that gets such a playlist appends parts of another encoding to the old ones (draft-pantos-hls-rfc8216bis §4.4.4.3: the tag applies
#   to what follows, §4.4.4.9: also to a Partial Segment). When the segment is complete the tag is there, so it happens only at the live edge.
# - REQ-VIDEO-LAYOUT="CH-STEREO" (§4.4.6.2) comes out as REQ-VIDEO_LAYOUT=""CH-STEREO"": another name, and two pairs of quotation marks.
# - EXT-X-SESSION-DATA with FORMAT (§4.4.6.4) cannot be read at all: TypeError, for the whole multivariant playlist.
# Seen: all three. Whoever tests a packager with it should compare its text as well.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv v
v/bin/pip install --quiet --disable-pip-version-check m3u8==6.0.0
v/bin/python - <<'PY'
import sys
import m3u8

growing = """#EXTM3U
#EXT-X-VERSION:9
#EXT-X-TARGETDURATION:4
#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=3.0
#EXT-X-PART-INF:PART-TARGET=1
#EXT-X-MEDIA-SEQUENCE:7
#EXTINF:4,
a.mp4
#EXT-X-DISCONTINUITY
#EXT-X-PART:DURATION=1,URI="b1.mp4",INDEPENDENT=YES
#EXT-X-DATERANGE:ID="break",START-DATE="2026-03-01T10:00:00Z",DURATION=1
"""
complete = growing.replace("#EXT-X-DATERANGE", "#EXTINF:4,\nb.mp4\n#EXT-X-DATERANGE")
lost = [tag for tag in ("DISCONTINUITY", "DATERANGE") if f"#EXT-X-{tag}" not in m3u8.loads(growing).dumps()]
kept = "#EXT-X-DISCONTINUITY" in m3u8.loads(complete).dumps()
print(f"growing: {lost} lost; complete: discontinuity {'kept' if kept else 'lost'}")

variants = """#EXTM3U
#EXT-X-STREAM-INF:BANDWIDTH=1280000,REQ-VIDEO-LAYOUT="CH-STEREO"
v.m3u8
"""
layout = [part for part in m3u8.loads(variants).dumps().replace("\n", ",").split(",") if "LAYOUT" in part]
print("layout:", layout)

try:
    m3u8.loads('#EXTM3U\n#EXT-X-SESSION-DATA:DATA-ID="org.example.a",URI="a.bin",FORMAT=RAW\n' + variants[8:])
    data = "read"
except TypeError as error:
    data = f"TypeError: {error}"
print("session data:", data)

if lost != ["DISCONTINUITY", "DATERANGE"] or not kept or layout != ['REQ-VIDEO_LAYOUT=""CH-STEREO""'] or "format" not in data:
    sys.exit("this has changed")
PY
