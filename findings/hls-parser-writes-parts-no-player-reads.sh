#!/usr/bin/env bash
# hls-parser 0.16.1 (npm): a Low-Latency HLS playlist that is parsed and written again (what ad inserters, proxies and rewriters of addresses do) comes
# out broken in three ways, without a word, as soon as the last segment is still growing, which at the live edge is always.
# - `#EXT-X-KEY:METHOD=undefined,URI="init.mp4"` appears before the last parts: the EXT-X-MAP in force is written as if it were a key. A player that takes
#   it at its word cannot decrypt anything (draft-pantos-hls-rfc8216bis §4.4.4.4: METHOD is NONE, AES-128, SAMPLE-AES or SAMPLE-AES-CTR).
# - BYTERANGE of a part loses its quotation marks. §4.4.4.9: a quoted string.
# - A part without an offset ("begins at the next byte following the previous Partial Segment", §4.4.4.9) is written with the offset -1.
# Seen: all three, from valid lines, and hls-parser reads its own result without complaint. Asked what it sees, m3u8-parser 7.2.0 (of a player)
# has a key with the method "undefined" on the parts, which had none in what went in.
# Whoever passes live playlists on should edit lines, or compare what comes out with what went in, tag by tag.
set -euo pipefail
command -v npm >/dev/null || { echo "needs node and npm" >&2; exit 2; }
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund hls-parser@0.16.1 m3u8-parser@7.2.0
cat > run.mjs <<'JS'
import HLS from "hls-parser";
import { Parser } from "m3u8-parser";
const before = `#EXTM3U
#EXT-X-VERSION:6
#EXT-X-TARGETDURATION:4
#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=3
#EXT-X-PART-INF:PART-TARGET=1
#EXT-X-MEDIA-SEQUENCE:7
#EXT-X-MAP:URI="init.mp4"
#EXTINF:4,
a.mp4
#EXT-X-PART:DURATION=1,URI="b.mp4",BYTERANGE="1000@0",INDEPENDENT=YES
#EXT-X-PART:DURATION=1,URI="b.mp4",BYTERANGE="500"
#EXT-X-PRELOAD-HINT:TYPE=PART,URI="b.mp4",BYTERANGE-START=1500
`;
const after = HLS.stringify(HLS.parse(before));
console.log(after);
HLS.parse(after);
const growing = (text) => {
  const parser = new Parser();
  parser.push(text);
  parser.end();
  return parser.manifest.preloadSegment;
};
const [was, is] = [growing(before), growing(after)];
console.log("key of the growing segment, before and after:", JSON.stringify(was.key), JSON.stringify(is.key));
const seen =
  after.includes('#EXT-X-KEY:METHOD=undefined,URI="init.mp4"') && after.includes("BYTERANGE=1000@0,") && after.includes("BYTERANGE=500@-1");
if (!seen || was.key !== undefined || is.key?.method !== "undefined") {
  console.error("this has changed");
  process.exit(1);
}
JS
node run.mjs
