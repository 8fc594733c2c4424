/**
 * Firefox and Chromium meet in one room through two points of presence. Firefox does not do ICE over loopback, so this runs in a network
 * namespace (MERIDIAN_ADDRESS is an address there; `./run test firefox` makes it), which off loopback also means HTTPS everywhere.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, test as nodeTest } from 'node:test';
import { launch } from './chromium.mjs';
import { launchFirefox } from './firefox.mjs';
import { ARTIFACTS, departures, enter, hears, openWindow, received, say, testId, until, watchDepartures } from './people.mjs';
import { startMesh } from './processes.mjs';

const HOST = process.env.MERIDIAN_ADDRESS;
const shot = (page, name) => page.screenshot({ path: join(ARTIFACTS, `${name}.png`) });

describe('Firefox and Chromium across two points of presence', { skip: !HOST && 'MERIDIAN_ADDRESS is not set', timeout: 150_000 }, () => {
  let mesh, browser, firefox, fay, cleo;
  let broken = true;
  let failed = false;
  const test = (name, body) => nodeTest(name, async (t) => {
    if (broken) return t.skip('an earlier step failed');
    broken = failed = true;
    await body(t);
    broken = failed = false;
  });

  before(async () => {
    [mesh, browser, firefox] = await Promise.all([startMesh({ host: HOST, regions: ['fra', 'sin'] }), launch(), launchFirefox()]);
    fay = firefox.page;
    cleo = await openWindow(browser, { ignoreHTTPSErrors: true });
    broken = false;
  });

  after(async () => {
    await Promise.allSettled([fay && shot(fay, 'firefox-last'), cleo && shot(cleo, 'firefox-last-chromium')]);
    await Promise.allSettled([firefox?.close(), browser?.close()]);
    await mesh?.close({ failed });
  });

  test('one starts the meeting in Firefox, the other joins it in Chromium', async () => {
    await fay.goto(`${mesh.url}/?from=fra&capture=360`);
    await fay.click(testId('start-meeting'));
    const code = await fay.textContent(testId('lobby-code'));
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
  });
});
