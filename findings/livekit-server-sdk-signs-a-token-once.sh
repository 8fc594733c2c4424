#!/usr/bin/env bash
# livekit-server-sdk 2.19.2 (npm): toJwt() of a token that limits what may be published (canPublishSources, documented as an array of TrackSource) works once.
# The second call throws "Cannot convert TrackSource microphone to string": the first replaced the numbers in the token's own grant by names, and
# names are not numbers. Nothing says that an AccessToken is used up by signing it, and without canPublishSources it is not. It hurts whoever keeps
# one token object per participant and signs it anew for a reconnection or a refresh: the first join works, the reconnection does not.
# What a TokenVerifier gives back is of the same kind: names where its type says TrackSource, so a verified grant cannot be put into a new token.
# Python's livekit-api takes the names themselves, signs as often as asked, and writes the same claim.
# Seen: all of this. A new AccessToken per signature helps.
set -euo pipefail
command -v npm >/dev/null || { echo "needs node and npm" >&2; exit 2; }
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund livekit-server-sdk@2.19.2
cat > run.mjs <<'JS'
import { AccessToken, TokenVerifier, TrackSource } from "livekit-server-sdk";
const secret = "an example of at least 32 letters";
const token = (grant) => {
  const made = new AccessToken("key", secret, { identity: "somebody" });
  made.addGrant({ roomJoin: true, room: "room", ...grant });
  return made;
};
const attempt = async (made) => {
  try {
    return (await new TokenVerifier("key", secret).verify(await made.toJwt())).video;
  } catch (error) {
    return error.message;
  }
};
const plain = token({});
const limited = token({ canPublishSources: [TrackSource.MICROPHONE] });
const results = { plain: [await attempt(plain), await attempt(plain)], limited: [await attempt(limited), await attempt(limited)] };
results.copied = await attempt(token({ canPublishSources: results.limited[0].canPublishSources }));
console.log(JSON.stringify(results, null, 1));
const refused = "Cannot convert TrackSource microphone to string";
const seen = results.plain[1].roomJoin && results.limited[0].canPublishSources[0] === "microphone" && results.limited[1] === refused;
if (!seen || results.copied !== refused) {
  console.error("this has changed");
  process.exit(1);
}
JS
node run.mjs
