#!/usr/bin/env bash
# media-captions 1.0.4 (npm): of WebVTT segments as HLS has them, only the first word of the line that says where they belong is left. RFC 8216 §3.5:
# X-TIMESTAMP-MAP=LOCAL:<cue time>,MPEGTS:<time> ties the cues to the media, and a client that ignores it shows captions at the wrong time. The package
# documents that header metadata is parsed and handed over; of this one it hands over "LOCAL" (or "MPEGTS", whichever comes first): everything after
# the first colon of the value is gone, and with it both clocks. Any other value with a colon is cut too ("Title: Part 2: the answer" is "Part 2").
# - A cue that starts after 100 hours is dropped (with a message in `errors` only if errors are asked for). WebVTT §4.3: hours are "two or more" digits. Live
#   captions that count from the start of a channel get there on the fifth day.
# - A position of 50.5% is read as 50. §4.4: a percentage may have a fraction.
# Seen: all of it. Whoever plays segments with it reads the header line before the parser does.
set -euo pipefail
command -v npm >/dev/null || { echo "needs node and npm" >&2; exit 2; }
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund media-captions@1.0.4
cat > run.mjs <<'JS'
import { parseText } from "media-captions";
const read = (header, cue = "00:01.000 --> 00:02.000") => parseText(`WEBVTT\n${header}\n${header && "\n"}${cue}\nwords\n`, { type: "vtt" });
const headers = ["X-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:900000", "X-TIMESTAMP-MAP=MPEGTS:900000,LOCAL:00:00:00.000", "Title: Part 2: the answer"];
const seen = [];
for (const header of headers) seen.push(Object.values((await read(header)).metadata)[0]);
seen.push((await read("", "99:59:59.000 --> 99:59:59.500")).cues.length, (await read("", "100:00:00.000 --> 100:00:01.000")).cues.length);
seen.push((await read("", "00:01.000 --> 00:02.000 position:50.5%")).cues[0].position);
console.log(JSON.stringify(seen));
if (JSON.stringify(seen) !== JSON.stringify(["LOCAL", "MPEGTS", "Part 2", 1, 0, 50])) {
  console.error("this has changed");
  process.exit(1);
}
JS
node run.mjs
