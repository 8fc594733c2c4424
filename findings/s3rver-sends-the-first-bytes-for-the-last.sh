#!/usr/bin/env bash
# s3rver 3.7.1 (npm, an S3 for tests): it answers ranges and conditions with the wrong success, so a test against it passes where S3 would have said no, or
# fails where the program is right.
# - bytes=-2, the last two bytes (RFC 9110 §14.1.2, suffix range), is answered 206 with bytes 0-2: the first three. Readers of an index at the end of a
#   file (recordings, Parquet, ZIP) get its beginning.
# - bytes=0-0, one byte, as programs ask to learn the length, is answered 206 with the whole object. bytes=5-5 is right, so only the zero is the matter.
# - PUT with If-None-Match: * on an object that is there, and with an If-Match that names another version, is answered 200 and writes. S3 answers 412;
#   locks, logs and "create only" of the Rust object_store crate stand on that: two writers both win here.
# - A PUT whose Content-MD5 is not that of its body is stored too; S3 answers 400 BadDigest.
# Seen: all of them. A contract test of a store belongs against an S3 that passes these five lines first.
set -euo pipefail
command -v npm >/dev/null || { echo "needs node and npm" >&2; exit 2; }
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund s3rver@3.7.1
cat > run.cjs <<'JS'
const S3rver = require("s3rver");
(async () => {
  const server = new S3rver({ port: 0, address: "127.0.0.1", silent: true, directory: "./data", configureBuckets: [{ name: "bucket" }] });
  const { port } = await server.run();
  const ask = async (method, headers = {}, body) => {
    const answer = await fetch(`http://127.0.0.1:${port}/bucket/key`, { method, headers, body });
    return `${answer.status} ${await answer.text()}`.trim();
  };
  const seen = {};
  seen.put = await ask("PUT", {}, "0123456789");
  for (const range of ["bytes=-2", "bytes=0-0", "bytes=5-5", "bytes=2-"]) seen[range] = await ask("GET", { range });
  seen["If-None-Match: *"] = await ask("PUT", { "if-none-match": "*" }, "second");
  seen["If-Match of another"] = await ask("PUT", { "if-match": '"00000000000000000000000000000000"' }, "third");
  seen["Content-MD5 of another"] = await ask("PUT", { "content-md5": "AAAAAAAAAAAAAAAAAAAAAA==" }, "fourth");
  seen.get = await ask("GET");
  await server.close();
  console.log(seen);
  const expected = ["200", "206 012", "206 0123456789", "206 5", "206 23456789", "200", "200", "200", "200 fourth"];
  if (JSON.stringify(Object.values(seen)) !== JSON.stringify(expected)) {
    console.error("this has changed");
    process.exit(1);
  }
})();
JS
node --no-deprecation run.cjs
