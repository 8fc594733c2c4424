/**
 * WHIP and WHEP as a page without any SDK uses them, across PoPs and beside a livekit-client participant. Needs the ready file of `meridian dev`
 * (MERIDIAN_READY) for its API key.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { createReadStream, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { launch } from './chromium.mjs';
import { token, until } from './people.mjs';

const HERE = dirname(fileURLToPath(import.meta.url));
const SERVED = {
  '/': [join(HERE, 'protocol.html'), 'text/html'],
  '/whip': [join(HERE, 'whip.html'), 'text/html'],
  '/livekit-client.js': [join(HERE, '../../control-plane/web/node_modules/livekit-client/dist/livekit-client.umd.js'), 'text/javascript'],
};
const READY = process.env.MERIDIAN_READY;

describe('WHIP and WHEP in Chromium', { skip: !READY && 'MERIDIAN_READY is not set', timeout: 90_000 }, () => {
  let mesh, server, origin, browser;

  before(async () => {
    mesh = JSON.parse(readFileSync(READY, 'utf8'));
    server = createServer((request, response) => {
      const [file, type] = SERVED[new URL(request.url, 'http://page').pathname] ?? [];
      if (!file) return response.writeHead(404).end();
      response.writeHead(200, { 'content-type': type });
      createReadStream(file).pipe(response);
    });
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    origin = `http://localhost:${server.address().port}`;
    browser = await launch();
  });

  after(async () => {
    await browser?.close();
    server?.closeAllConnections();
    server?.close();
  });

  const edge = (pop) => mesh.edges.find(({ id }) => id === pop).url;
  const http = (pop) => edge(pop).replace('ws', 'http');

  async function open(path) {
    const page = await (await browser.newContext({ viewport: { width: 480, height: 300 } })).newPage();
    page.on('console', (message) => process.env.VERBOSE && console.error(`${path} [${message.type()}] ${message.text()}`));
    page.on('pageerror', (error) => console.error(`${path}: ${error}`));
    await page.goto(origin + path);
    return page;
  }

  test('a page publishes three layers, is seen by livekit-client and by WHEP on other PoPs, restarts ICE and ends', async () => {
    const room = `js-${randomBytes(6).toString('hex')}`;
    const [camera, viewer, wei] = await Promise.all([open('/whip'), open('/whip'), open('/')]);
    await wei.evaluate(([url, token]) => join(url, token), [edge('sin'), token(mesh, room, 'wei')]);

    // Too early: the answer says so, and a page of any origin can read it.
    const early = await viewer.evaluate(([url, token]) => play(url, token), [`${http('iad')}/whep`, token(mesh, room, 'viewer')]);
    assert.equal(early.status, 409);
    assert.match(early.text, /try again/);

    const made = await camera.evaluate(([url, token]) => publish(url, token), [`${http('fra')}/whip`, token(mesh, room, 'camera')]);
    assert.equal(made.status, 201, made.text);
    assert.ok(made.links > 0 && made.etag);
    await until(wei, 'the camera in livekit-client', () => camera('camera'), ({ frames }) => frames > 10);

    const played = await viewer.evaluate(([url, token]) => play(url, token), [`${http('iad')}/whep?publisher=camera`, token(mesh, room, 'viewer')]);
    assert.equal(played.status, 201, played.text);
    // Not before the two layers below have been passed over: the largest is 1280 wide. (Of 640 × 360 Chromium sends two layers of three, without the largest.)
    await until(viewer, 'picture and sound', () => received(), ({ frames, width, sound }) => frames > 10 && width === 1280 && sound > 0);

    const restarted = await camera.evaluate(() => restart());
    assert.equal(restarted.status, 200, restarted.text);
    assert.notEqual(restarted.etag, made.etag);
    await until(camera, 'the new ICE session is in use', () => usernameFragment(), (used) => used === restarted.ufrag);
    const { frames } = await viewer.evaluate(() => received());
    await until(viewer, 'the picture goes on', () => received(), (now) => now.frames > frames + 20);

    assert.equal(await camera.evaluate(() => end()), 200);
    await until(viewer, 'the viewer is told', () => connection.connectionState, (state) => state === 'closed' || state === 'failed' || state === 'disconnected');
    await until(wei, 'wei is alone', () => people(), (all) => all.length === 0);
  });
});
