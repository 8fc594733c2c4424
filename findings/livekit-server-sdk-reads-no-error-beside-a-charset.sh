#!/usr/bin/env bash
# livekit-server-sdk 2.19.2 (npm): an error of a Twirp service keeps its code, sentence and metadata only if the answer's Content-Type is "application/json" to
# the letter. With a parameter ("application/json; charset=utf-8"), with other capitals ("Application/JSON"), both the same media type by RFC 9110 §8.3.1,
# `code` and `metadata` are undefined and `message` is the raw JSON. Its own requests carry "application/json;charset=UTF-8", and many web
# frameworks and proxies answer like that; a program that waits for `error.code === "not_found"` takes a missing room for an unknown failure there.
# Python's livekit-api 1.2.2 reads all of them. Successful answers are read whatever their type.
# Seen: as said. A server for these SDKs sends the bare media type with its errors; a client looks at `status` too.
set -euo pipefail
command -v npm >/dev/null || { echo "needs node and npm" >&2; exit 2; }
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund livekit-server-sdk@2.19.2
python3 -m venv v
v/bin/pip install --quiet --disable-pip-version-check livekit-api==1.2.2
cat > run.mjs <<'JS'
import { spawn } from "node:child_process";
import { once } from "node:events";
import http from "node:http";
import { RoomServiceClient } from "livekit-server-sdk";
let type;
const server = http.createServer((_, answer) => {
  answer.writeHead(404, { "content-type": type });
  answer.end(JSON.stringify({ code: "not_found", msg: "no such room", meta: { room: "x" } }));
});
server.listen(0, "127.0.0.1");
await once(server, "listening");
const url = `http://127.0.0.1:${server.address().port}`;
const secret = "an example of at least 32 letters";
const python = async () => {
  const child = spawn("v/bin/python", ["ask.py", url, secret], { stdio: ["ignore", "pipe", "inherit"] });
  let text = "";
  for await (const part of child.stdout) text += part;
  return text.trim();
};
const seen = [];
for (type of ["application/json", "application/json; charset=utf-8", "Application/JSON"]) {
  const error = await new RoomServiceClient(url, "key", secret).listRooms().catch((error) => error);
  seen.push([String(error.code), await python()]);
  console.log(`${type}: npm: ${error.status} ${error.code} ${error.message} ${JSON.stringify(error.metadata)}; PyPI: ${seen.at(-1)[1]}`);
}
server.close();
server.closeAllConnections();
if (JSON.stringify(seen) !== JSON.stringify([["not_found", "not_found"], ["undefined", "not_found"], ["undefined", "not_found"]])) {
  console.error("this has changed");
  process.exit(1);
}
JS
cat > ask.py <<'PY'
import asyncio
import sys
from livekit import api


async def main():
    async with api.LiveKitAPI(sys.argv[1], "key", sys.argv[2]) as client:
        try:
            await client.room.list_rooms(api.ListRoomsRequest())
        except api.TwirpError as error:
            print(error.code)


asyncio.run(main())
PY
node run.mjs
