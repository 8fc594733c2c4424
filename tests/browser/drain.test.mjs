/**
 * A PoP is drained under a meeting, by the command that an operator types: two people in the real app in Chromium go to another PoP, receive and
 * are received all the while, and nobody is seen leaving. How long pictures and sound paused is printed, not judged: the machine decides it.
 */
import assert from 'node:assert/strict';
import { after, before, describe } from 'node:test';
import { launch } from './chromium.mjs';
import { departures, enter, hears, notices, openWindow, pictures, received, say, shot, sounds, story, testId, until, watchDepartures, watchNotices, watchPictures, watchSounds } from './people.mjs';
import { startMesh } from './processes.mjs';

describe('a PoP is drained under a meeting', { timeout: 150_000 }, () => {
  let mesh, browser, ana, ben, code;
  let starting = [];
  const steps = story();
  const { test } = steps;

  before(async () => {
    starting = [startMesh().then((started) => (mesh = started)), launch().then((started) => (browser = started))];
    await Promise.all(starting);
    [ana, ben] = await Promise.all([openWindow(browser), openWindow(browser)]);
    await ana.goto(`${mesh.url}/?from=fra&capture=360`);
    await ana.click(testId('start-meeting'));
    code = await ana.textContent(testId('lobby-code'));
    await enter(ana, 'Ana');
    await ben.goto(`${mesh.url}/m/${code}?from=fra&capture=360`);
    await enter(ben, 'Ben');
    steps.begin();
  });

  after(async () => {
    await Promise.allSettled(starting);
    if (steps.failed) await Promise.allSettled([shot(ana, 'drain-last-a'), shot(ben, 'drain-last-b')]);
    await browser?.close();
    await mesh?.close({ failed: steps.failed });
  });

  const popOf = (page) => page.getAttribute(testId('pop-badge'), 'data-pop');
  const identity = (page) => page.evaluate(() => window.__meridian.room.localParticipant.identity);
  const people = async (pop) => JSON.parse((await mesh.pop('show', pop, '--json')).text).participants;

  async function mediaFlows() {
    await Promise.all([ana, ben].map(async (page) => {
      const start = await page.evaluate(received);
      await until(page, 'pictures and sound', received, (now) => now.camera.frames >= start.camera.frames + 15 && now.microphone.energy > start.microphone.energy);
    }));
  }

  async function peopleAre(pop, count) {
    const deadline = Date.now() + 20_000;
    while ((await people(pop)) !== count) assert.ok(Date.now() < deadline, `${count} people on ${pop}`);
  }

  test('two people on one PoP see and hear each other', async () => {
    assert.deepEqual([await popOf(ana), await popOf(ben)], ['fra', 'fra']);
    await Promise.all([ana, ben].map((page) => page.click(testId('control-chat'))));
    await mediaFlows();
  });

  test('the last PoP of a region is not drained unless it is meant', async () => {
    const { code: exit, text } = await mesh.pop('drain', 'fra', '--deadline', '30s');
    assert.equal(exit, 1);
    assert.match(text, /fra is the last PoP of region fra/);
    assert.deepEqual([await popOf(ana), await popOf(ben)], ['fra', 'fra']);
  });

  test('it is drained: both are on another, as themselves, and neither was seen leaving', async (t) => {
    const pages = [ana, ben];
    const who = await Promise.all(pages.map(identity));
    await Promise.all(pages.flatMap((page) => [watchDepartures, watchNotices, watchPictures, watchSounds].map((watch) => page.evaluate(watch))));
    const calm = Date.now();
    await mediaFlows();
    const usual = await Promise.all(pages.map(async (page) => `${(await page.evaluate(pictures, calm)).pauseMs} and ${(await page.evaluate(sounds)).pauseMs} ms`));
    await Promise.all(pages.flatMap((page) => [page.evaluate(watchSounds), page.evaluate(watchPictures)]));
    const atMs = Date.now();
    const drained = await mesh.pop('drain', 'fra', '--deadline', '30s', '--force', '--watch', '--json');
    assert.equal(drained.code, 0, drained.text);
    const told = drained.text.trim().split('\n').map((line) => JSON.parse(line));
    assert.deepEqual(told.map(({ state }) => state), told.map(() => 'draining'));
    assert.equal(told[0].drain.people_at_start, 2);
    assert.equal(told.at(-1).drain.people_left, 0);
    for (const page of pages) await until(page, 'another edge', () => document.querySelector('[data-testid="pop-badge"]')?.dataset.pop, (pop) => pop && pop !== 'fra');
    await mediaFlows();
    const flowsMs = Date.now();
    const [byAna, byBen] = await Promise.all(pages.map((page) => until(page, 'pictures on the screen', pictures, ({ lastMs }) => lastMs > flowsMs, { argument: atMs })));
    const [heardByAna, heardByBen] = await Promise.all(pages.map((page) => page.evaluate(sounds)));
    t.diagnostic(`empty after ${told.length} s; pictures stood still for at most ${byAna.pauseMs} ms (Ana), ${byBen.pauseMs} ms (Ben); sound for ${heardByAna.pauseMs} ms, ${heardByBen.pauseMs} ms; the pages were busy for up to ${heardByAna.stallMs} ms, ${heardByBen.stallMs} ms (in the ${atMs - calm} ms before: ${usual.join(', ')})`);
    for (const { pauseMs } of [byAna, byBen]) assert.ok(pauseMs < 3_000, `${pauseMs} ms`);
    assert.deepEqual(await Promise.all(pages.map(identity)), who);
    for (const page of pages) {
      assert.deepEqual(await page.evaluate(departures), []);
      assert.deepEqual((await page.evaluate(notices)).filter((text) => /joined|left/.test(text)), []);
      assert.deepEqual(page.complaints, []);
    }
    for (const [from, to, name] of [[ana, ben, 'Ana'], [ben, ana, 'Ben']]) {
      await say(from, `After the drain, from ${name}`);
      await hears(to, `After the drain, from ${name}`);
    }
    await shot(ana, 'drain-after');
  });

  test('nobody new comes to a drained PoP; undrained it is taken again', async () => {
    const cai = await openWindow(browser);
    await cai.goto(`${mesh.url}/m/${code}?from=fra&capture=360`);
    await enter(cai, 'Cai');
    assert.notEqual(await popOf(cai), 'fra');
    await cai.context().close();
    await mesh.pop('undrain', 'fra');
    const dan = await openWindow(browser);
    await dan.goto(`${mesh.url}/?from=fra&capture=360`);
    await dan.click(testId('start-meeting'));
    await enter(dan, 'Dan');
    assert.equal(await popOf(dan), 'fra');
    await dan.context().close();
  });

  test('a drain for which nobody has room moves nobody, and is called off', async () => {
    const here = await popOf(ana);
    const others = ['fra', 'iad', 'sin'].filter((pop) => pop !== here);
    for (const pop of others) assert.equal((await mesh.pop('cordon', pop)).code, 0);
    await peopleAre(here, 2);
    assert.equal((await mesh.pop('drain', here, '--deadline', '10m', '--force')).code, 0);
    await mediaFlows();
    assert.equal(await people(here), 2);
    assert.equal((await mesh.pop('undrain', here)).code, 0);
    for (const pop of others) await mesh.pop('uncordon', pop);
    await mediaFlows();
    assert.deepEqual([await popOf(ana), await popOf(ben)], [here, here]);
  });
});
