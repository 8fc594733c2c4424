/**
 * Processes die under a meeting: an edge killed and one stopped, etcd and the control plane away. The roles are processes of their own, as an
 * operator runs them; the people are in the real app in Chromium. Times are printed, not judged: the machine decides them.
 */
import assert from 'node:assert/strict';
import { after, before, describe } from 'node:test';
import { launch } from './chromium.mjs';
import { departures, enter, hears, notices, openWindow, pictures, received, say, shot, story, testId, until, watchDepartures, watchNotices, watchPictures } from './people.mjs';
import { LEASE_S, startMesh } from './processes.mjs';

describe('processes die under a meeting', { timeout: 170_000 }, () => {
  let mesh, browser, ana, wei, cai, code;
  let starting = [];
  const steps = story();
  const { test } = steps;

  before(async () => {
    starting = [startMesh().then((started) => (mesh = started)), launch().then((started) => (browser = started))];
    await Promise.all(starting);
    [ana, wei] = await Promise.all([openWindow(browser), openWindow(browser)]);
    await ana.goto(`${mesh.url}/?from=fra&capture=360`);
    await ana.click(testId('start-meeting'));
    code = await ana.textContent(testId('lobby-code'));
    await enter(ana, 'Ana');
    await enterFrom(wei, 'sin', 'Wei');
    steps.begin();
  });

  after(async () => {
    // What came up although something else did not has to go as well.
    await Promise.allSettled(starting);
    if (steps.failed) await Promise.allSettled([shot(ana, 'outages-last-a'), shot(wei, 'outages-last-b')]);
    await browser?.close();
    await mesh?.close({ failed: steps.failed });
  });

  async function enterFrom(page, from, name) {
    await page.goto(`${mesh.url}/m/${code}?from=${from}&capture=360`);
    await enter(page, name);
  }

  const popOf = (page) => page.getAttribute(testId('pop-badge'), 'data-pop');
  const identity = (page) => page.evaluate(() => window.__meridian.room.localParticipant.identity);

  /** Both see and hear the other from now on. */
  async function mediaFlows() {
    await Promise.all([ana, wei].map(async (page) => {
      const start = await page.evaluate(received);
      await until(page, 'pictures and sound', received, (now) => now.camera.frames >= start.camera.frames + 15 && now.microphone.energy > start.microphone.energy);
    }));
  }

  /** Neither misses the other: chat goes both ways. Its panel is open on both pages. */
  async function chatGoesBothWays(topic) {
    for (const [from, to, name] of [[ana, wei, 'Ana'], [wei, ana, 'Wei']]) {
      await say(from, `${topic}, from ${name}`);
      await hears(to, `${topic}, from ${name}`);
    }
  }

  /** Ana's edge ends by `end`; she is on another with media, as the same person, and Wei never sees her leave. */
  async function anaMovesWhen(t, end) {
    await Promise.all([ana.evaluate(watchPictures), wei.evaluate(watchPictures), wei.evaluate(watchDepartures), ana.evaluate(watchDepartures)]);
    const [lost, me] = await Promise.all([popOf(ana), identity(ana)]);
    const atMs = Date.now();
    await end(lost);
    const edge = await until(ana, 'another edge', () => document.querySelector('[data-testid="pop-badge"]')?.dataset.pop, (pop) => pop && pop !== lost);
    await mediaFlows();
    const flowsMs = Date.now();
    const [byAna, byWei] = await Promise.all([ana, wei].map((page) => until(page, 'pictures on the screen', pictures, ({ lastMs }) => lastMs > flowsMs, { argument: atMs })));
    t.diagnostic(`${lost} → ${edge}; pictures stood still for ${byAna.pauseMs} ms on the page that moved and ${byWei.pauseMs} ms on the other`);
    assert.equal(await identity(ana), me);
    assert.deepEqual(await wei.evaluate(departures), []);
    assert.deepEqual(await ana.evaluate(departures), []);
    assert.ok(byAna.pauseMs < 10_000, 'a moment, not an outage');
  }

  test('two people on two edges see, hear and write to each other', async () => {
    assert.deepEqual([await popOf(ana), await popOf(wei)], ['fra', 'sin']);
    await Promise.all([ana, wei].map((page) => page.click(testId('control-chat'))));
    await mediaFlows();
    await chatGoesBothWays('Before');
  });

  test('an edge is killed: who was on it is back on another and nobody was seen leaving', async (t) => {
    await anaMovesWhen(t, (edge) => mesh.edges.get(edge).end('SIGKILL'));
    await chatGoesBothWays('After the kill');
    await shot(wei, 'outages-after-kill');
  });

  test('an edge is stopped: the same, it ends cleanly, and what was written in that second arrives once', async (t) => {
    const words = [1, 2, 3, 4].map((n) => `Last words ${n}`);
    await mesh.startEdge('fra');
    await mesh.edgesArePlaced(3);
    await anaMovesWhen(t, async (edge) => {
      await say(ana, words[0]);
      mesh.edges.get(edge).end('SIGTERM').then((code) => t.diagnostic(`${edge} ended with ${code}`));
      for (const text of words.slice(1)) await say(ana, text);
    });
    const states = () => [...document.querySelectorAll('[data-testid="chat-line"][data-own="true"]')].map(({ dataset }) => dataset.state);
    await until(ana, 'every line confirmed', states, (all) => all.every((state) => state === 'sent'));
    const heard = await wei.$$eval('[data-testid="chat-line"][data-own="false"] .chat-text', (lines) => lines.map(({ textContent }) => textContent).filter((text) => text.startsWith('Last words')));
    assert.deepEqual(heard.sort(), words);
    await chatGoesBothWays('After the stop');
  });

  test('etcd and the control plane are killed: pictures, sound, chat and a broken socket go on without them', async () => {
    await Promise.all([wei, ana].map((page) => page.evaluate(watchDepartures)));
    await Promise.all([mesh.etcd.end('SIGKILL'), mesh.controlPlane.end('SIGKILL')]);
    // Longer than the leases: nobody alive is given up because nobody can renew.
    const enough = Date.now() + 2_000 * LEASE_S;
    do await mediaFlows(); while (Date.now() < enough);
    await chatGoesBothWays('Without a control plane');
    await ana.evaluate(() => window.__sockets.at(-1).close(4000, 'test'));
    await mediaFlows();
    await chatGoesBothWays('After a resume');
  });

  test('an edge is killed meanwhile: the alternates that the page holds are enough', async (t) => {
    await anaMovesWhen(t, (edge) => mesh.edges.get(edge).end('SIGKILL'));
    await chatGoesBothWays('On an alternate');
  });

  test('etcd and the control plane come back: the meeting never noticed, and a third person finds it', async () => {
    mesh.startEtcd();
    mesh.startControlPlane();
    await mesh.controlPlaneAnswers();
    await mediaFlows();
    cai = await openWindow(browser);
    await enterFrom(cai, 'sin', 'Cai');
    for (const page of [ana, wei, cai]) await page.waitForFunction(() => document.querySelectorAll('[data-testid="tile"]').length === 3, null, { timeout: 15_000 });
    await until(cai, 'pictures of both', received, ({ camera }) => camera.frames >= 60);
    assert.deepEqual(await wei.evaluate(departures), []);
    await shot(cai, 'outages-after-return');
  });

  test('the edge of everybody is killed: each is back, and nobody is told that anybody left or joined', async () => {
    await mesh.startEdge('fra');
    await mesh.edgesArePlaced(2);
    for (const page of [ana, wei, cai]) assert.equal(await popOf(page), 'sin');
    const people = [ana, wei, cai];
    await Promise.all(people.flatMap((page) => [page.evaluate(watchDepartures), page.evaluate(watchNotices)]));
    await mesh.edges.get('sin').end('SIGKILL');
    for (const page of people) await until(page, 'another edge', () => document.querySelector('[data-testid="pop-badge"]')?.dataset.pop, (pop) => pop && pop !== 'sin');
    for (const page of people) await until(page, 'pictures of both', received, ({ camera }) => camera.frames >= 60);
    for (const page of people) {
      assert.deepEqual((await page.evaluate(departures)).filter((what) => what.startsWith('tile')), []);
      assert.deepEqual((await page.evaluate(notices)).filter((text) => /joined|left/.test(text)), []);
    }
    await cai.context().close();
  });

  test('no page complained', () => {
    assert.deepEqual([...ana.complaints, ...wei.complaints], []);
  });
});
