/**
 * The client protocol as livekit-client in Chromium sees it: interrupted sessions, repeated data, codecs. Needs the ready file of `meridian dev`
 * (MERIDIAN_READY) for its API key. The pages are protocol.html with nothing but livekit-client.
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
  '/livekit-client.js': [join(HERE, '../../control-plane/web/node_modules/livekit-client/dist/livekit-client.umd.js'), 'text/javascript'],
};
const READY = process.env.MERIDIAN_READY;

describe('the client protocol in Chromium', { skip: !READY && 'MERIDIAN_READY is not set', timeout: 240_000 }, () => {
  let mesh, server, origin, browser;
  const pages = [];

  before(async () => {
    mesh = JSON.parse(readFileSync(READY, 'utf8'));
    server = createServer((request, response) => {
      const [file, type] = SERVED[new URL(request.url, 'http://page').pathname] ?? [];
      if (!file) return response.writeHead(404).end();
      response.writeHead(200, { 'content-type': type });
      createReadStream(file).pipe(response);
    });
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    origin = `http://localhost:${server.address().port}/`;
    browser = await launch();
  });

  after(async () => {
    await browser?.close();
    server?.closeAllConnections();
    server?.close();
  });

  /** A page in a room on that PoP. `without`: codecs it cannot decode. */
  async function enter(room, pop, identity, { without = '' } = {}) {
    const context = await browser.newContext({ viewport: { width: 480, height: 300 } });
    const page = await context.newPage();
    page.on('console', (message) => process.env.VERBOSE && console.error(`${identity} [${message.type()}] ${message.text()}`));
    page.on('pageerror', (error) => console.error(`${identity}: ${error}`));
    await page.goto(`${origin}?without=${without}`);
    const { url } = mesh.edges.find(({ id }) => id === pop);
    page.sid = await page.evaluate(([url, token]) => join(url, token), [url, token(mesh, room, identity)]);
    pages.push(page);
    return page;
  }

  const leaveAll = () => Promise.all(pages.splice(0).map((page) => page.context().close()));
  const newRoom = () => `js-${randomBytes(6).toString('hex')}`;
  const named = (name) => (events) => Array.isArray(events) && events.some(([event]) => event === name);

  for (const [scenario, kept] of [
    ['signal-reconnect', true],
    ['resume-reconnect', false],
    ['full-reconnect', false],
    ['migration', false],
    ['node-failure', false],
    ['leave-full-reconnect', false],
    ['disconnect-signal-on-resume', true],
    ['disconnect-signal-on-resume-no-messages', true],
  ]) {
    test(`${scenario}: ${kept ? 'the session goes on' : 'a new session takes its place'}, and so do picture and data`, async (t) => {
      t.after(leaveAll);
      const room = newRoom();
      const [ana, wei] = await Promise.all([enter(room, 'fra', 'ana'), enter(room, 'sin', 'wei')]);
      await ana.evaluate(() => publish('vp8'));
      const before = await until(wei, 'ana’s picture', () => camera('ana'), ({ frames }) => frames > 10);
      await ana.evaluate((scenario) => void simulate(scenario), scenario);
      const events = await until(ana, 'ana is back', () => events, named('Reconnected'));
      const sid = await ana.evaluate(() => room.localParticipant.sid);
      assert.equal(sid === ana.sid, kept, JSON.stringify(events));
      assert.ok(!named('Disconnected')(events), JSON.stringify(events));
      await until(ana, 'ana sees wei', () => people(), (all) => all.join?.() === 'wei');
      await until(wei, 'wei sees ana', () => people(), (all) => all.join?.() === 'ana');
      await until(wei, 'the picture goes on', () => camera('ana'), ({ sid, frames }) => sid && (sid === before.sid) === kept && frames > (kept ? before.frames : 0) + 10);
      await wei.evaluate(() => say('from wei'));
      await until(ana, 'data', () => heard(), (texts) => texts.join?.() === 'from wei');
      // For a while after a full reconnect the SDK still holds back what is sent, and never sends it: the first that leaves must arrive.
      const speaking = setInterval(() => void ana.evaluate(() => say('from ana')), 250);
      t.after(() => clearInterval(speaking));
      await until(wei, 'data', () => heard(), (texts) => texts.includes?.('from ana'));
      clearInterval(speaking);
      const departures = (await wei.evaluate(() => events)).filter(([name]) => name === 'ParticipantDisconnected');
      assert.equal(departures.length > 0, !kept, JSON.stringify(departures));
    });
  }

  test('server-leave: the client is out and stays out', async (t) => {
    t.after(leaveAll);
    const ana = await enter(newRoom(), 'fra', 'ana');
    await ana.evaluate(() => void simulate('server-leave'));
    const events = await until(ana, 'the end', () => events, named('Disconnected'));
    assert.deepEqual(events.at(-1), ['Disconnected', 'SERVER_SHUTDOWN']);
  });

  test('speaker: everybody is shown who speaks, and that it ends', async (t) => {
    t.after(leaveAll);
    const room = newRoom();
    const [ana, wei] = await Promise.all([enter(room, 'fra', 'ana'), enter(room, 'fra', 'wei')]);
    await ana.evaluate(() => void simulate('speaker'));
    const speakers = (events) => events.filter?.(([name]) => name === 'ActiveSpeakersChanged').map(([, who]) => who).join(' ');
    await until(wei, 'ana speaks and stops', () => events, (events) => speakers(events) === 'ana ');
  });

  test('reliable data that a client lost is repeated when it resumes, in order and once', async (t) => {
    t.after(leaveAll);
    const room = newRoom();
    const [ana, wei] = await Promise.all([enter(room, 'fra', 'ana'), enter(room, 'sin', 'wei')]);
    await until(ana, 'both', () => people(), (all) => all.length === 1);
    await ana.evaluate(() => say('one'));
    await until(wei, 'the first', () => heard(), (texts) => texts.length === 1);
    await wei.evaluate(() => (lost.reliable = 2));
    await ana.evaluate(async () => {
      await say('two');
      await say('three');
    });
    await until(wei, 'two are lost', () => lost.reliable, (left) => left === 0);
    assert.deepEqual(await wei.evaluate(() => heard()), ['one']);
    await wei.evaluate(() => void simulate('signal-reconnect'));
    await until(wei, 'all three', () => heard(), (texts) => texts.length >= 3);
    await ana.evaluate(() => say('four'));
    await until(wei, 'all four', () => heard(), (texts) => texts.length >= 4);
    assert.deepEqual(await wei.evaluate(() => heard()), ['one', 'two', 'three', 'four']);
  });

  for (const pop of ['fra', 'sin']) {
    test(`a byte stream of 5 MB from fra to ${pop} arrives byte for byte`, async (t) => {
      t.after(leaveAll);
      const room = newRoom();
      const [ana, wei] = await Promise.all([enter(room, 'fra', 'ana'), enter(room, pop, 'wei')]);
      await wei.evaluate(() => takeFiles());
      await until(ana, 'ana sees wei', () => people(), (all) => all.join?.() === 'wei');
      const sent = await ana.evaluate(() => sendFile(5_000_000));
      const received = await until(wei, 'the file', () => files, (all) => all.length > 0);
      assert.deepEqual(received, [sent]);
    });
  }

  test('a layer that nobody wants stays paused when the publisher adds a microphone, and is back when it is wanted', async (t) => {
    t.after(leaveAll);
    const room = newRoom();
    const [ana, wei] = await Promise.all([enter(room, 'fra', 'ana'), enter(room, 'sin', 'wei')]);
    await ana.evaluate(() => publish('vp8'));
    await until(wei, 'ana’s picture', () => camera('ana'), ({ frames }) => frames > 5);
    await wei.evaluate(() => watch('ana', 'LOW'));
    await until(ana, 'the upper layer is paused', () => layers(), ({ q, h }) => q && h === false);
    await ana.evaluate(() => publishSound());
    assert.deepEqual(await ana.evaluate(() => layers()), { q: true, h: false });
    await wei.evaluate(() => watch('ana', 'HIGH'));
    await until(ana, 'the upper layer is sent again', () => layers(), ({ h }) => h === true);
  });

  for (const codec of ['vp9', 'av1', 'h264']) {
    test(`${codec} with a backup: who can decode it gets it, who cannot gets the backup`, async (t) => {
      t.after(leaveAll);
      const room = newRoom();
      const ana = await enter(room, 'fra', 'ana');
      if (!(await ana.evaluate(() => codecs())).includes(`video/${codec}`)) return t.skip(`this Chromium has no ${codec}`);
      await ana.evaluate((codec) => publish(codec), codec);
      const sees = (page, mime) => until(page, `frames of ${mime}`, () => stats('inbound-rtp'), (streams) => streams.some?.((stream) => stream.mime === mime && stream.frames >= 20), { timeoutMs: 20_000 });
      const near = await enter(room, 'fra', 'near');
      const far = await enter(room, 'sin', 'far');
      await Promise.all([near, far].map((page) => sees(page, `video/${codec}`)));
      const sent = await ana.evaluate(() => stats('outbound-rtp'));
      assert.deepEqual([...new Set(sent.map(({ mime }) => mime))], [`video/${codec}`], 'nobody needs the backup: it is not sent');
      if (codec === 'h264') return;
      const [old, older] = await Promise.all([enter(room, 'fra', 'old', { without: codec }), enter(room, 'sin', 'older', { without: codec })]);
      t.after(async () => t.diagnostic(JSON.stringify(await ana.evaluate(() => stats('outbound-rtp')).catch(String))));
      await Promise.all([old, older].map((page) => sees(page, 'video/vp8')));
      await Promise.all([near, far].map((page) => sees(page, `video/${codec}`)));
      
    });
  }
});
