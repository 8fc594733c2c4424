/**
 * Firefox and Chromium meet in one room through two points of presence. Firefox does not do ICE over loopback, so this runs in a network
 * namespace (MERIDIAN_ADDRESS is an address there; `./run test browser` makes it), which off loopback also means HTTPS everywhere.
 */
import assert from 'node:assert/strict';
import { after, before, describe } from 'node:test';
import { launch } from './chromium.mjs';
import { launchFirefox } from './firefox.mjs';
import { departures, enter, hears, openWindow, pictures, received, say, shot, story, testId, until, VIEWPORT, watchDepartures, watchPictures } from './people.mjs';
import { startMesh } from './processes.mjs';

const HOST = process.env.MERIDIAN_ADDRESS;
describe('Firefox and Chromium across two points of presence', { skip: !HOST && 'MERIDIAN_ADDRESS is not set', timeout: 150_000 }, () => {
  let mesh, browser, firefox, fay, cleo;
  let starting = [];
  const steps = story();
  const { test } = steps;

  before(async () => {
    starting = [
      startMesh({ host: HOST, regions: ['fra', 'sin'] }).then((started) => (mesh = started)),
      launch().then((started) => (browser = started)),
      launchFirefox().then((started) => (firefox = started)),
    ];
    await Promise.all(starting);
    fay = firefox.page;
    cleo = await openWindow(browser, { ignoreHTTPSErrors: true });
    steps.begin();
  });

  after(async () => {
    // What came up although something else did not has to go as well.
    await Promise.allSettled(starting);
    await Promise.allSettled([fay && shot(fay, 'firefox-last'), cleo && shot(cleo, 'firefox-last-chromium')]);
    await Promise.allSettled([firefox?.close(), browser?.close()]);
    await mesh?.close({ failed: steps.failed });
  });

  test('one starts the meeting in Firefox, the other joins it in Chromium', async () => {
    await fay.goto(`${mesh.url}/?from=fra&capture=360`);
    await fay.click(testId('start-meeting'));
    const code = await fay.textContent(testId('lobby-code'));
    await fay.waitForSelector(`${testId('preview')}[data-camera="on"][data-microphone="on"]`);
    await fay.waitForFunction(() => document.querySelector('video')?.currentTime > 0.5);
    await shot(fay, 'firefox-preview');
    await enter(fay, 'Fay');
    await cleo.goto(`${mesh.url}/m/${code}?from=sin&capture=360`);
    await enter(cleo, 'Cleo');
    for (const page of [fay, cleo]) await page.waitForFunction(() => document.querySelectorAll('[data-testid="tile"]').length === 2);
    assert.deepEqual([await fay.getAttribute(testId('pop-badge'), 'data-pop'), await cleo.getAttribute(testId('pop-badge'), 'data-pop')], ['fra', 'sin']);
  });

  test('at least 100 video frames are decoded each way', async (t) => {
    const [byFay, byCleo] = await Promise.all([fay, cleo].map((page) => until(page, 'camera frames', received, ({ camera }) => camera.frames >= 100)));
    t.diagnostic(`Firefox ${JSON.stringify(byFay.camera)}, Chromium ${JSON.stringify(byCleo.camera)}`);
    assert.ok(byFay.camera.width > 0 && byCleo.camera.width > 0);
  });

  test('each hears the other', async () => {
    await Promise.all([fay, cleo].map((page) => until(page, 'audio energy', received, ({ microphone }) => microphone.energy > 0)));
  });

  test('chat goes both ways', async () => {
    await Promise.all([fay, cleo].map((page) => page.click(testId('control-chat'))));
    await say(fay, 'Hello from Firefox');
    await hears(cleo, 'Hello from Firefox');
    await say(cleo, 'Hello from Chromium');
    await hears(fay, 'Hello from Chromium');
    await shot(fay, 'firefox-meeting');
    await shot(cleo, 'firefox-meeting-chromium');
    await Promise.all([fay, cleo].map((page) => page.click(testId('control-chat'))));
  });

  test('each sees the other mute, and the camera go off and on', async () => {
    const remote = (attribute) => `document.querySelector('[data-testid="tile"][data-local="false"]')?.${attribute}`;
    for (const [acts, sees] of [[fay, cleo], [cleo, fay]]) {
      await acts.click(testId('control-mic'));
      await until(sees, 'muted', remote('dataset.mic'), (mic) => mic === 'false');
      await acts.click(testId('control-mic'));
      await until(sees, 'unmuted', remote('dataset.mic'), (mic) => mic === 'true');
      await acts.click(testId('control-camera'));
      await until(sees, 'camera off', remote('querySelector("video") === null'), (off) => off === true);
      await acts.click(testId('control-camera'));
      await until(sees, 'camera on', remote('querySelector("video") !== null'), (on) => on === true);
      const { camera } = await sees.evaluate(received);
      await until(sees, 'pictures again', received, (now) => now.camera.frames >= camera.frames + 30 || now.camera.frames < camera.frames);
    }
  });

  test('each gets the layer that fits its tile', async (t) => {
    const whole = ({ camera }) => camera.width === 640;
    await Promise.all([fay, cleo].map((page) => until(page, 'the whole picture', received, whole)));
    await cleo.setViewportSize({ width: 240, height: 380 });
    const { camera: small } = await until(cleo, 'a smaller picture of Firefox', received, ({ camera }) => camera.width > 0 && camera.width < 640);
    await cleo.setViewportSize(VIEWPORT);
    await until(cleo, 'the whole picture again', received, whole);
    t.diagnostic(`640, ${small.width} and 640 pixels a row`);
  });

  test('the edge of Firefox is killed: it is back on the other, and is not seen leaving', async (t) => {
    await Promise.all([fay, cleo].map((page) => page.evaluate(watchPictures)));
    await Promise.all([fay, cleo].map((page) => page.evaluate(watchDepartures)));
    const atMs = Date.now();
    await mesh.edges.get('fra').end('SIGKILL');
    await until(fay, 'the other edge', () => document.querySelector('[data-testid="pop-badge"]')?.dataset.pop, (pop) => pop === 'sin');
    const movedMs = Date.now();
    const [byFay, byCleo] = await Promise.all([fay, cleo].map((page) => until(page, 'pictures again', pictures, ({ lastMs }) => lastMs > movedMs + 1_000, { argument: atMs })));
    t.diagnostic(`pictures stood still for ${byFay.pauseMs} ms in Firefox and ${byCleo.pauseMs} ms in Chromium`);
    assert.deepEqual([await fay.evaluate(departures), await cleo.evaluate(departures)], [[], []]);
    await Promise.all([fay, cleo].map(async (page) => {
      const { microphone } = await page.evaluate(received);
      await until(page, 'sound again', received, (now) => now.microphone.energy > microphone.energy);
    }));
    assert.equal(await fay.evaluate(() => document.querySelector('[data-testid="allow-sound"]')), null, 'no question about sound that plays');
    await shot(fay, 'firefox-moved');
  });

  test('no page complained', () => {
    assert.deepEqual(cleo.complaints, []);
  });
});
