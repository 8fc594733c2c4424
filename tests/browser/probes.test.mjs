/**
 * The app measures regions while somebody gets ready, and joining never waits for it. The regions are servers of this test; the app and its
 * join API are the real ones when there are any (MERIDIAN_URL, MERIDIAN_READY), else the mock's.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { after, afterEach, before, describe, test } from 'node:test';
import { launch } from './chromium.mjs';
import { findMeridian, openWindow, testId } from './people.mjs';

describe('client probes', { timeout: 120_000 }, () => {
  let browser, meridian;
  const servers = [];

  before(async () => {
    meridian = await findMeridian();
    browser = await launch();
  });

  afterEach(() => {
    for (const { server } of servers.splice(0)) server.closeAllConnections(), server.close();
  });

  after(async () => {
    await browser?.close();
    await meridian?.close();
  });

  /** A region that answers `delayMs` after it was asked; never, if that is null. */
  const region = async (name, delayMs) => {
    const asked = { count: 0 };
    const server = createServer((request, response) => {
      asked.count++;
      response.setHeader('access-control-allow-origin', '*');
      response.setHeader('timing-allow-origin', '*');
      response.statusCode = 204;
      if (delayMs !== null) setTimeout(() => response.end(), delayMs);
    });
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    const place = { region: name, url: `http://localhost:${server.address().port}/probe`, asked, server };
    servers.push(place);
    return place;
  };

  /** The lobby of a new meeting, offered these regions for measuring. `null`: the list itself never comes. */
  const lobby = async (regions, query = '') => {
    // These regions are the test’s own: the page’s policy names the mesh’s edges only.
    const page = await openWindow(browser, { bypassCSP: true });
    await page.route('**/api/v1/probes*', (route) => regions && route.fulfill({ json: { regions: regions.map(({ region, url }) => ({ region, url })) } }));
    const made = await fetch(`${meridian.url}/api/v1/meetings`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{}' });
    await page.goto(`${meridian.url}/m/${(await made.json()).code}?capture=180${query}`);
    await page.waitForSelector(`${testId('preview')}[data-camera="on"][data-microphone="on"]`);
    await page.fill(testId('name-input'), 'Ana');
    return page;
  };

  /** Presses the button; the body of the join request that follows. */
  const join = async (page) => {
    const [request] = await Promise.all([page.waitForRequest((request) => request.url().endsWith('/join')), page.click(testId('join-meeting'))]);
    return request.postDataJSON();
  };

  const measured = (page) => page.waitForFunction(() => performance.getEntriesByName('meridian-probes').length > 0);

  test('a join carries the round trips of at most three regions, the nearest one the least', async () => {
    const near = await region('near', 0);
    const far = await region('far', 40);
    const third = await region('third', 0);
    const fourth = await region('fourth', 0);
    // A machine that is busy for a quarter of a second measures less; then once more.
    let probes = [];
    for (let attempt = 0; attempt < 5 && probes.length < 3; attempt++) {
      const page = await lobby([near, far, third, fourth]);
      await measured(page);
      ({ probes = [] } = await join(page));
      await page.context().close();
    }
    assert.deepEqual(probes.map(({ region }) => region).sort(), ['far', 'near', 'third']);
    const rtt = (name) => probes.find(({ region }) => region === name).rtt_ms;
    assert.ok(rtt('far') >= 39 && rtt('near') < rtt('far'), JSON.stringify(probes));
    assert.equal(fourth.asked.count, 0);
    assert.ok(near.asked.count > 1, 'the first request alone would have paid for the connection');
  });

  test('regions that never answer are given up, and the join goes without them', async () => {
    const [hangs, also] = [await region('hangs', null), await region('also', null)];
    const closed = [hangs, also].map(async ({ server }) => once((await once(server, 'connection'))[0], 'close'));
    const page = await lobby([hangs, also]);
    await measured(page);
    const { probes } = await join(page);
    assert.equal(probes, undefined);
    assert.deepEqual([hangs.asked.count, also.asked.count], [1, 1]);
    await Promise.all(closed);
  });

  test('a join is sent while probing has not even begun', async () => {
    const page = await lobby(null);
    const { name, probes } = await join(page);
    assert.deepEqual([name, probes], ['Ana', undefined]);
    assert.equal(await page.evaluate(() => performance.getEntriesByName('meridian-probes').length), 0, 'the list still hangs');
  });

  test('who says where to be placed is not measured', async () => {
    const near = await region('near', 0);
    const page = await lobby([near], '&from=fra');
    const { from, probes } = await join(page);
    assert.deepEqual([from, probes, near.asked.count], ['fra', undefined, 0]);
  });
});
