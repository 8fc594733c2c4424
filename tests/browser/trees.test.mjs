/**
 * Two edges of one region share the copies that cross to it, and one of them is killed while the other's people watch through it. Counts, no times:
 * the edges say which of their links carries how many tracks.
 */
import assert from 'node:assert/strict';
import { after, before, describe } from 'node:test';
import { story, until } from './people.mjs';
import { openStage } from './stage.mjs';

const NEAR = 'fra';
const FAR = ['sin-1', 'sin-2'];
/** Camera and microphone. */
const TRACKS = 2;

describe('two edges of a region far from the publisher', { timeout: 170_000 }, () => {
  let stage, mesh;
  const viewers = new Map();
  const steps = story();
  const { test } = steps;

  before(async () => {
    stage = await openStage(0, { regions: [NEAR, ...FAR], regionOf: { 'sin-1': 'sin', 'sin-2': 'sin' } });
    mesh = stage.mesh;
    const publisher = await stage.enterOn(NEAR, 'Publisher');
    for (const edge of FAR) viewers.set(edge, await stage.enterOn(edge, `Viewer on ${edge}`));
    await publisher.evaluate(() => publish());
    steps.begin();
  });

  after(() => stage?.close({ failed: steps.failed }));

  /** Pictures and sound come from now on. Nothing plays the sound, so it is packets that count. */
  async function mediaFlows(page) {
    const start = await page.evaluate(() => received());
    await until(page, 'pictures and sound', () => received(), ({ video, audio }) => video && audio
      && video.framesDecoded >= (start.video?.framesDecoded ?? 0) + 15 && audio.packetsReceived >= (start.audio?.packetsReceived ?? 0) + 30);
  }

  /** Until the tracks on these links, each `[edge, other]`, in the direction from edge to other, are so many; all readings on the way. */
  async function tracksCross(links, count) {
    const seen = [];
    for (const deadline = Date.now() + 60_000; Date.now() < deadline; await new Promise((resolve) => setTimeout(resolve, 250))) {
      const each = await Promise.all(links.map(async ([from, to]) => (await mesh.linkGauge(from, 'tracks_out'))[to]));
      seen.push(each.join('+'));
      if (each.reduce((sum, one) => sum + one, 0) === count) return each;
    }
    assert.fail(`${JSON.stringify(links)}: never ${count} tracks, but ${[...new Set(seen)].join(', ')}`);
  }

  test('each track crosses once, and both see and hear it', async (t) => {
    for (const page of viewers.values()) {
      await until(page, 'the camera', () => Boolean(remote('camera')?.track), Boolean);
      await page.evaluate(() => setQuality('LOW'));
    }
    const crossing = await tracksCross(FAR.map((edge) => [NEAR, edge]), TRACKS);
    const within = await tracksCross([FAR, [...FAR].reverse()], TRACKS);
    t.diagnostic(`${NEAR} sends ${FAR[0]} ${crossing[0]} tracks and ${FAR[1]} ${crossing[1]}; they send each other ${within.join(' and ')}`);
    await Promise.all([...viewers.values()].map(mediaFlows));
  });

  test('the edge that passes them on is killed: the other takes them from the publisher\'s', async (t) => {
    const out = await Promise.all(FAR.map(async (edge) => [edge, (await mesh.linkGauge(edge, 'tracks_out'))[FAR.find((other) => other !== edge)]]));
    const [relay] = out.find(([, tracks]) => tracks > 0);
    const left = FAR.find((edge) => edge !== relay);
    await viewers.get(left).evaluate(() => watchVideo());
    await mediaFlows(viewers.get(left));
    await mesh.edges.get(relay).end('SIGKILL');
    await mediaFlows(viewers.get(left));
    await tracksCross([[NEAR, left]], TRACKS);
    const pauseMs = await viewers.get(left).evaluate(() => Math.max(...watched.frames.slice(1).map(({ at }, i) => at - watched.frames[i].at)));
    t.diagnostic(`${relay} was killed; ${left} has all tracks from ${NEAR}, its picture stood still for ${Math.round(pauseMs)} ms`);
  });
});
