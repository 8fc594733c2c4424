/**
 * The app as people use it, beyond two people who talk: what it remembers, its second tab, several screens, chat that is confirmed, a page that
 * may do nothing but its own, and what somebody sees who cannot see. Needs a running demo as meeting.test.mjs does.
 */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, before, describe } from 'node:test';
import { launch } from './chromium.mjs';
import { departures, enter, findMeridian, hears, notices, openWindow, received, say, shot, story, testId, until, VIEWPORT, watchDepartures, watchNotices } from './people.mjs';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const PHONE = { width: 360, height: 740 };

describe('the app', { skip: !(process.env.MERIDIAN_URL || process.env.MERIDIAN_READY) && 'neither MERIDIAN_URL nor MERIDIAN_READY is set', timeout: 240_000 }, () => {
  let meridian, browser, ana, wei, cai, code;
  const steps = story();
  const { test } = steps;
  const link = (from) => `${meridian.url}/m/${code}?from=${from}&capture=180`;
  const all = () => [ana, wei, cai];

  before(async () => {
    meridian = await findMeridian();
    browser = await launch();
    [ana, wei, cai] = await Promise.all([openWindow(browser), openWindow(browser), openWindow(browser)]);
    for (const page of all()) await page.addInitScript(() => {
      window.__refused = [];
      addEventListener('securitypolicyviolation', (event) => window.__refused.push(`${event.violatedDirective} ${event.blockedURI}`));
    });
    await ana.goto(`${meridian.url}/?from=fra&capture=180`);
    await ana.click(testId('start-meeting'));
    code = await ana.textContent(testId('lobby-code'));
    steps.begin();
  });

  after(async () => {
    if (steps.failed) await Promise.allSettled(all().map((page, i) => shot(page, `app-last-${i}`)));
    await browser?.close();
    await meridian?.close();
  });

  const tiles = (page, count) => page.waitForFunction((wanted) => document.querySelectorAll('[data-testid="tile"]').length === wanted, count, { timeout: 20_000 });
  const identity = (page) => page.evaluate(() => window.__meridian.room.localParticipant.identity);

  test('a page says what it may do, and comes in less than 250 KB', async () => {
    let bytes = 0;
    const page = await openWindow(browser);
    const network = await page.context().newCDPSession(page);
    await network.send('Network.enable');
    network.on('Network.loadingFinished', ({ encodedDataLength }) => (bytes += encodedDataLength));
    const answer = await page.goto(link('fra'));
    const { 'content-security-policy': policy, 'permissions-policy': permissions, 'content-encoding': encoding } = answer.headers();
    assert.match(policy, /default-src 'none'; script-src 'self';/);
    assert.match(policy, /connect-src 'self' wss?:\/\//);
    assert.doesNotMatch(policy, /unsafe|\*/);
    assert.match(permissions, /camera=\(self\)/);
    assert.equal(encoding, 'br');
    await page.waitForSelector(testId('preview-video'));
    assert.ok(bytes > 50_000 && bytes < 250_000, `${bytes} bytes`);
    await page.context().close();
  });

  test('three meet under that policy', async () => {
    await enter(ana, 'Ana');
    await wei.goto(link('sin'));
    await enter(wei, 'Wei');
    await cai.goto(link('iad'));
    await enter(cai, 'Cai');
    for (const page of all()) await tiles(page, 3);
  });

  test('a chat line is sent when others have it', async () => {
    await Promise.all(all().map((page) => page.click(testId('control-chat'))));
    await say(ana, 'Is this heard?');
    await ana.waitForSelector(`${testId('chat-line')}[data-own="true"][data-state="sent"]`, { timeout: 3_000 });
    for (const page of [wei, cai]) await hears(page, 'Is this heard?');
  });

  test('a join that was passed over and lands late does not throw the person out', async () => {
    const dan = await openWindow(browser);
    await dan.goto(link('fra'));
    await enter(dan, 'Dan');
    for (const page of all()) await tiles(page, 4);
    await wei.evaluate(watchDepartures);
    const me = await identity(dan);
    await dan.evaluate(loseEdgeAndDelayTheNext);
    await until(dan, 'the late one', () => window.__late, (late) => late === 'landed', { timeoutMs: 20_000 });
    // What the late one did to the stay in use: told of within a round trip, answered by another join.
    const settled = async () => dan.evaluate(() => ({ phase: document.querySelector('[data-testid="meeting"]')?.dataset.phase, people: document.querySelectorAll('[data-testid="tile"]').length }));
    const calmUntil = Date.now() + 4_000;
    for (let last; Date.now() < calmUntil; last = await settled()) assert.equal(await dan.$(testId('end-duplicate')), null, JSON.stringify(last));
    await dan.waitForSelector(`${testId('meeting')}[data-phase="connected"]`);
    await until(dan, 'pictures of the others', received, ({ camera }) => camera.frames >= 60);
    assert.equal(await identity(dan), me);
    assert.deepEqual((await wei.evaluate(departures)).filter((what) => what.startsWith('tile')), []);
    await dan.click(testId('control-leave'));
    await dan.context().close();
    for (const page of all()) await tiles(page, 3);
  });

  test('a panel takes the focus and gives it back', async () => {
    const focused = (page) => page.evaluate(() => document.activeElement.closest('[data-testid]')?.dataset.testid);
    assert.equal(await focused(ana), 'chat-input');
    await ana.fill(testId('chat-input'), 'Half a thou');
    await ana.keyboard.press('Escape');
    assert.equal(await focused(ana), 'control-chat');
    for (const name of ['people', 'settings']) {
      await ana.click(testId(`control-${name}`));
      assert.equal(await focused(ana), `${name}-panel`);
      await ana.keyboard.press('Escape');
      assert.equal(await focused(ana), `control-${name}`);
    }
    await ana.click(testId('control-chat'));
    assert.equal(await ana.inputValue(testId('chat-input')), 'Half a thou', 'what was written is still there');
    await ana.fill(testId('chat-input'), '');
    await ana.keyboard.press('Escape');
  });

  test('devices are named, the ones in use are chosen, and the speaker can be', async () => {
    await ana.click(testId('control-settings'));
    for (const kind of ['microphone', 'camera', 'speaker']) {
      const shown = await ana.$eval(testId(`choose-${kind}`), (select) => select.selectedOptions[0].textContent);
      assert.doesNotMatch(shown, /As it is|Choose|None|^$/, kind);
    }
    const other = await ana.$eval(testId('choose-speaker'), (select) => [...select.options].map(({ value }) => value).find((value) => value !== 'default' && value !== ''));
    await ana.selectOption(testId('choose-speaker'), other);
    await until(ana, 'others heard through it', () => [...document.querySelectorAll('[data-testid="remote-audio"]')].map(({ sinkId }) => sinkId), (sinks) => sinks.length > 0 && sinks.every((sink) => sink === other));
    await ana.keyboard.press('Escape');
  });

  test('two screens: each can be looked at, and nobody watches the own', async () => {
    await Promise.all([wei, cai].map((page) => page.click(testId('control-share'))));
    await ana.waitForFunction(() => document.querySelectorAll('[data-testid="screen-choice"]').length === 2, null, { timeout: 15_000 });
    for (const page of [wei, cai]) {
      const wanted = await identity(page);
      await ana.click(`${testId('screen-choice')}[data-identity="${wanted}"]`);
      await ana.waitForSelector(`${testId('stage')}[data-presenter="${wanted}"]`);
      await until(ana, 'a picture of that screen', () => document.querySelector('[data-testid="screen-video"]').videoWidth, (width) => width > 0);
    }
    await shot(ana, 'app-two-screens');
    for (const [page, other] of [[wei, cai], [cai, wei]]) {
      await page.waitForSelector(testId('sharing-bar'));
      await page.waitForSelector(`${testId('stage')}[data-presenter="${await identity(other)}"]`);
      assert.equal(await page.$$eval(testId('screen-choice'), (all) => all.length), 0, 'one other screen needs no choice');
    }
    await cai.click(testId('control-share'));
    await wei.waitForSelector(testId('stage'), { state: 'detached' });
    await shot(wei, 'app-sharing');
    await wei.click(testId('control-share'));
    await ana.waitForSelector(testId('stage'), { state: 'detached' });
  });

  test('people are seen almost whole', async () => {
    await until(ana, 'pictures in their shape', () => [...document.querySelectorAll('[data-testid="tile-video"]')].map(({ clientWidth, clientHeight, videoWidth, videoHeight }) => {
      const [box, picture] = [clientWidth / clientHeight, videoWidth / videoHeight];
      return Math.min(box, picture) / Math.max(box, picture);
    }), (seen) => seen.length === 3 && seen.every((part) => part > 0.89));
  });

  test('a raised hand and a reaction are seen by all, also by who comes later', async () => {
    await cai.keyboard.press('Alt+KeyH');
    const eli = await openWindow(browser);
    await eli.goto(link('fra'));
    await enter(eli, 'Eli');
    for (const page of [ana, wei, eli]) await page.waitForSelector(`${testId('tile')}[data-identity="${await identity(cai)}"] ${testId('tile-hand')}`);
    await wei.click(testId('control-react'));
    await wei.click(testId('reaction'));
    for (const page of [ana, cai]) await page.waitForSelector(`${testId('tile')}[data-identity="${await identity(wei)}"] ${testId('tile-reaction')}`);
    await cai.keyboard.press('Alt+KeyH');
    for (const page of [ana, wei, eli]) await page.waitForSelector(testId('tile-hand'), { state: 'detached' });
    await eli.context().close();
    for (const page of all()) await tiles(page, 3);
  });

  test('the host records, everybody is told, and files are kept', async () => {
    assert.deepEqual(await Promise.all([wei, cai].map((page) => page.$(testId('control-record')))), [null, null]);
    await ana.click(testId('control-record'));
    for (const page of all()) await page.waitForSelector(testId('recording'));
    await shot(ana, 'app-recording');
    const { recordings } = JSON.parse(readFileSync(process.env.MERIDIAN_READY, 'utf8'));
    await until(ana, 'a segment in the store', () => performance.now(), () => existsSync(recordings) && readdirSync(recordings, { recursive: true }).some((file) => String(file).endsWith('.mkv')));
    await ana.click(testId('control-record'));
    for (const page of all()) await page.waitForSelector(testId('recording'), { state: 'detached' });
  });

  test('light or dark is as the system has it, or as the person wants it', async () => {
    const background = () => ana.$eval(testId('meeting'), (meeting) => getComputedStyle(meeting).backgroundColor);
    const light = await background();
    await ana.emulateMedia({ colorScheme: 'dark' });
    const dark = await background();
    assert.notEqual(light, dark);
    await ana.click(testId('control-settings'));
    await ana.check(testId('theme-light'));
    assert.equal(await background(), light);
    await ana.check(testId('theme-system'));
    assert.equal(await background(), dark);
    await ana.keyboard.press('Escape');
    await ana.emulateMedia({ colorScheme: 'light' });
  });

  test('axe finds nothing in the meeting, whatever is open, wide or narrow, light or dark', async () => {
    const findings = [];
    for (const [viewport, colorScheme] of [[VIEWPORT, 'light'], [VIEWPORT, 'dark'], [PHONE, 'dark'], [PHONE, 'light']]) {
      await ana.setViewportSize(viewport);
      await ana.emulateMedia({ colorScheme });
      for (const panel of [null, 'chat', 'people', 'settings', 'react', 'why']) {
        const opener = panel === 'why' ? testId('pop-badge') : panel && testId(`control-${panel}`);
        if (opener) await ana.click(opener);
        findings.push(...(await axe(ana)).map((found) => `${panel ?? 'nothing open'}, ${viewport.width}, ${colorScheme}: ${found}`));
        await shot(ana, `app-${viewport.width}-${colorScheme}-${panel ?? 'meeting'}`);
        if (opener) await ana.keyboard.press('Escape');
      }
    }
    assert.deepEqual(findings, []);
  });

  test('on a phone everything that is said in passing or opened leaves names and Mute alone', async () => {
    assert.equal((await ana.viewportSize()).width, PHONE.width);
    await ana.click(testId('control-chat'));
    const onTop = (id) => ana.evaluate((wanted) => {
      const button = document.querySelector(`[data-testid="${wanted}"]`);
      const { left, top, width, height } = button.getBoundingClientRect();
      return button.contains(document.elementFromPoint(left + width / 2, top + height / 2));
    }, id);
    assert.ok(await onTop('control-mic'));
    await ana.click(testId('control-mic'));
    await ana.click(testId('control-mic'));
    await ana.click(testId('control-chat'));
    await cai.click(testId('control-leave'));
    await ana.waitForSelector(testId('notice'));
    await tiles(ana, 2);
    for (const viewport of [PHONE, VIEWPORT]) {
      await ana.setViewportSize(viewport);
      const covered = await ana.evaluate(() => {
        const toast = document.querySelector('[data-testid="notice"]').getBoundingClientRect();
        return [...document.querySelectorAll('.tile-label')].filter((label) => {
          const name = label.getBoundingClientRect();
          return name.left < toast.right && toast.left < name.right && name.top < toast.bottom && toast.top < name.bottom;
        }).length;
      });
      assert.equal(covered, 0, `${viewport.width} px wide`);
    }
  });

  test('who had camera and microphone off has them off after a reload', async () => {
    await ana.click(testId('control-mic'));
    await ana.click(testId('control-camera'));
    await until(wei, 'both off', () => [...window.__meridian.room.remoteParticipants.values()].map((p) => p.isMicrophoneEnabled || p.isCameraEnabled), (on) => on.length === 1 && !on[0]);
    await ana.reload();
    await ana.waitForSelector(`${testId('preview')}[data-camera="off"][data-microphone="off"]`);
    await ana.click(testId('join-meeting'));
    await ana.waitForSelector(`${testId('meeting')}[data-phase="connected"]`);
    await until(ana, 'everything off', () => window.__meridian.room.localParticipant.trackPublications.size, (count) => count === 0);
    await tiles(ana, 2);
    await tiles(wei, 2);
  });

  test('a second tab says so before joining and takes the call over', async () => {
    await wei.evaluate(watchDepartures);
    await wei.evaluate(watchNotices);
    const me = await identity(ana);
    const tab = await ana.context().newPage();
    await tab.goto(link('fra'));
    await tab.waitForSelector(testId('other-tab'));
    await tab.waitForSelector(`${testId('preview')}[data-camera="off"]`);
    await shot(tab, 'app-other-tab');
    await tab.click(testId('move-here'));
    await tab.waitForSelector(`${testId('meeting')}[data-phase="connected"]`);
    assert.equal(await identity(tab), me);
    await ana.waitForSelector(testId('end-duplicate'));
    await tiles(tab, 2);
    // The room takes the tabs for two stays of one person; nobody sees her go.
    assert.deepEqual((await wei.evaluate(departures)).filter((what) => what.startsWith('tile')), []);
    assert.deepEqual((await wei.evaluate(notices)).filter((text) => /left|joined/.test(text)), []);
    const third = await ana.context().newPage();
    await third.goto(link('fra'));
    await third.waitForSelector(testId('other-tab'));
    await tab.click(testId('control-leave'));
    await third.waitForSelector(testId('other-tab'), { state: 'detached' });
  });

  test('axe finds nothing before and after the meeting either', async () => {
    const findings = [];
    const page = await openWindow(browser, { colorScheme: 'light' });
    const look = async (what) => {
      for (const colorScheme of ['light', 'dark']) {
        await page.emulateMedia({ colorScheme });
        findings.push(...(await axe(page)).map((found) => `${what}, ${colorScheme}: ${found}`));
      }
    };
    await page.goto(meridian.url);
    await page.click('summary');
    await look('start page');
    await page.goto(link('fra'));
    await page.waitForSelector(testId('preview-video'));
    await look('lobby');
    await page.goto(`${meridian.url}/m/qqq-qqqq-qqq`);
    await page.waitForSelector(testId('end-not_found'));
    await look('end');
    assert.deepEqual(findings, []);
    await page.context().close();
  });

  test('nothing was refused by the policy, and no page complained', async () => {
    for (const page of [ana, wei]) {
      assert.deepEqual(await page.evaluate(() => window.__refused), []);
      assert.deepEqual(page.complaints, []);
    }
  });
});

/**
 * From here on the edge of this page refuses its sockets, as a dead process would. Of those tried in its place the first is slow: its socket opens
 * once another has won. `__late` says how far it is.
 */
function loseEdgeAndDelayTheNext() {
  const Native = window.WebSocket;
  const host = (url) => new URL(url).host;
  const gone = host(window.__sockets.at(-1).url);
  const phase = () => document.querySelector('[data-testid="meeting"]')?.dataset.phase;
  class Slow extends EventTarget {
    constructor(url) {
      super();
      Object.assign(this, { url, readyState: Native.CONNECTING, binaryType: 'blob', protocol: '', extensions: '' });
      window.__late = 'waits';
      const timer = setInterval(() => phase() === 'connected' && (clearInterval(timer), this.open(url)), 50);
    }
    open(url) {
      if (this.readyState !== Native.CONNECTING) return;
      this.real = new Native(url);
      this.real.binaryType = this.binaryType;
      for (const kind of ['open', 'message', 'error', 'close']) {
        this.real.addEventListener(kind, (event) => {
          this.readyState = this.real.readyState;
          if (kind === 'message') window.__late = 'landed';
          const copy = new event.constructor(kind, event);
          this[`on${kind}`]?.(copy);
          this.dispatchEvent(copy);
        });
      }
    }
    send(data) {
      this.real?.send(data);
    }
    close(...why) {
      this.readyState = Native.CLOSED;
      this.real?.close(...why);
    }
  }
  window.WebSocket = new Proxy(Native, {
    construct: (target, [url, ...rest]) => {
      if (host(url) === gone) return new target('ws://127.0.0.1:9', ...rest);
      return window.__late ? new target(url, ...rest) : new Slow(url);
    },
  });
  window.__sockets.at(-1).close(4000, 'test');
}

/** Serious findings of axe-core, `label-content-name-mismatch` among them. */
async function axe(page) {
  // By the debugger: the page's own policy lets no script in that is not the app's.
  const session = await page.context().newCDPSession(page);
  await session.send('Runtime.evaluate', { expression: AXE });
  await session.detach();
  return page.evaluate(async () => {
    const { violations } = await window.axe.run(document, { resultTypes: ['violations'], rules: { 'label-content-name-mismatch': { enabled: true } } });
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ target }) => target).join(' ')}`);
  });
}
