/**
 * A page whose way to its edge carries 500 kb/s, with a router before it that keeps seconds of packets: a call of three stays a call. The way is
 * a relay (tests/netlab) whose port the page is told instead of the edge's.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { until } from './people.mjs';
import { FROM_A, openStage } from './stage.mjs';

const NARROW_KBPS = 500;
/** What a page that has just come may need to find out how narrow its way is. */
const SETTLE_MS = 8_000;
const WATCH_MS = 12_000;
/** Share of the sound that may be made up by the jitter buffer. It was 0.3 % on a quiet machine; three browsers' encoders on two busy cores are allowed the rest. */
const CONCEALED_MAX = 0.04;
const FPS_MIN = 3;

describe('a page behind 500 kb/s in a call of three', { timeout: 120_000 }, () => {
  let stage;
  let failed = true;

  before(async () => {
    stage = await openStage(0);
  });

  after(() => stage?.close({ failed }));

  test('hears everything and sees both others move, small', async (t) => {
    const others = await Promise.all(['One', 'Two'].map((name) => stage.enterFrom(FROM_A, name)));
    await Promise.all(others.map((page) => page.evaluate(() => publish())));
    const page = await stage.enterFrom(FROM_A, 'Narrow', (fresh) => behind(fresh, stage.mesh));
    await until(page, 'both pictures', everybody, (people) => people.length === 2 && people.every(({ video }) => video?.framesDecoded > 0), { timeoutMs: 20_000 });
    // Sound that nobody plays is not counted.
    // eslint-disable-next-line no-undef -- the page's
    await page.evaluate(() => Promise.all([...room.remoteParticipants.values()].map((person) => person.getTrackPublication('microphone').track.attach().play())));
    await page.waitForTimeout(SETTLE_MS);
    const first = await page.evaluate(everybody);
    await page.waitForTimeout(WATCH_MS);
    const last = await page.evaluate(everybody);
    // All figures before the first judgement: what one picture lacks the other may have taken.
    const judged = last.map(({ video, audio, name, paused }, i) => {
      const grown = (kind, key) => last[i][kind][key] - first[i][kind][key];
      const concealed = (grown('audio', 'concealedSamples') - grown('audio', 'silentConcealedSamples')) / grown('audio', 'totalSamplesReceived');
      const fps = grown('video', 'framesDecoded') / (WATCH_MS / 1_000);
      t.diagnostic(`${name}: ${fps.toFixed(1)} frames/s of ${video.frameWidth} × ${video.frameHeight}, ${(concealed * 100).toFixed(2)} % of the sound concealed, ${audio.packetsLost} packets lost, jitter buffer ${Math.round((grown('audio', 'jitterBufferDelay') / grown('audio', 'jitterBufferEmittedCount')) * 1_000)} ms, ${Math.round(grown('video', 'bytesReceived') / WATCH_MS * 8)} kb/s, ${grown('video', 'keyFramesDecoded')} keyframes, ${grown('video', 'pliCount')} asked for, paused before ${first[i].paused}, after ${paused}`);
      return { name, concealed, fps, width: video.frameWidth };
    });
    for (const { name, concealed, fps, width } of judged) {
      assert.ok(concealed <= CONCEALED_MAX, `${name}: ${(concealed * 100).toFixed(2)} % of the sound concealed`);
      assert.ok(fps >= FPS_MIN, `${name}: ${fps.toFixed(1)} frames/s`);
      assert.ok(width <= 640, `${name}: ${width} pixels wide`);
    }
    assert.deepEqual([page, ...others].flatMap(({ complaints }) => complaints), []);
    failed = false;
  });
});

/** Makes the page take its edge's candidate for that of a relay before it. */
async function behind(page, mesh) {
  const port = mesh.mediaPort(FROM_A);
  const relay = await mesh.relayBefore(port, NARROW_KBPS);
  await page.evaluate(([edge, relay]) => {
    const native = RTCPeerConnection.prototype.setRemoteDescription;
    RTCPeerConnection.prototype.setRemoteDescription = function ({ type, sdp }) {
      return native.call(this, { type, sdp: sdp.replaceAll(` 127.0.0.1 ${edge} typ host`, ` 127.0.0.1 ${relay} typ host`) });
    };
  }, [port, relay]);
}

/** What the page receives of each other person: the inbound-rtp of either kind. Runs in the page. */
async function everybody() {
  const of = async (participant, source) => {
    const report = await participant.getTrackPublication(source)?.track?.getRTCStatsReport();
    const { framesDecoded, bytesReceived, keyFramesDecoded, pliCount, frameWidth, frameHeight, concealedSamples, silentConcealedSamples, totalSamplesReceived, packetsLost, jitterBufferDelay, jitterBufferEmittedCount } =
      [...(report?.values() ?? [])].find((stat) => stat.type === 'inbound-rtp') ?? {};
    return { framesDecoded, bytesReceived, keyFramesDecoded, pliCount, frameWidth, frameHeight, concealedSamples, silentConcealedSamples, totalSamplesReceived, packetsLost, jitterBufferDelay, jitterBufferEmittedCount };
  };
  // eslint-disable-next-line no-undef -- the page's
  const people = [...room.remoteParticipants.values()].sort((a, b) => a.name.localeCompare(b.name));
  return Promise.all(people.map(async (participant) => ({ name: participant.name, paused: participant.getTrackPublication('camera')?.track?.streamState === 'paused', video: await of(participant, 'camera'), audio: await of(participant, 'microphone') })));
}
