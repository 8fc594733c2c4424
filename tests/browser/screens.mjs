/**
 * Takes a picture of every screen on a desktop and on a phone, for people to look at: `node screens.mjs [filter]`.
 * The meeting itself is the development story, so `npx vite --port 5173` must run in control-plane/web (STORY_URL names another place).
 */
import { mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { launch } from './chromium.mjs';
import { startMock } from './mock.mjs';

const OUT = join(dirname(fileURLToPath(import.meta.url)), 'artifacts/screens');
const STORY = process.env.STORY_URL ?? 'http://localhost:5173';
const SIZES = { desktop: { width: 1280, height: 760 }, phone: { width: 360, height: 740 } };
const filter = process.argv[2] ?? '';

const mock = await startMock();
const byTestId = (id) => `[data-testid="${id}"]`;
const lobby = async (page) => page.waitForSelector(byTestId('preview-video'));
const join_ = async (page) => {
  await lobby(page);
  await page.fill(byTestId('name-input'), 'Ana Kovač');
  await page.click(byTestId('join-meeting'));
};

const SCREENS = [
  ['landing', `${mock.url}/`, async () => {}],
  ['landing-dark', `${mock.url}/`, async () => {}, { colorScheme: 'dark' }],
  ['landing-options', `${mock.url}/`, async (page) => {
    await page.click('summary');
    await page.fill(byTestId('code-input'), 'nonsense');
    await page.click(byTestId('join-by-code'));
  }],
  ['lobby', `${mock.url}/m/abc-defg-hij`, lobby],
  ['lobby-passcode', `${mock.url}/m/pas-scod-eee`, async (page) => {
    await lobby(page);
    await page.fill(byTestId('name-input'), 'Ana Kovač');
    await page.fill(byTestId('passcode-input'), 'guess');
    await page.click(byTestId('join-meeting'));
    await page.waitForFunction(() => document.querySelector('[data-testid="join-error"]')?.textContent !== '');
  }],
  ['lobby-denied', `${mock.url}/m/abc-defg-hij`, (page) => page.waitForSelector(byTestId('device-problem')), { grant: false }],
  ['end-full', `${mock.url}/m/ful-lful-ful`, async (page) => {
    await join_(page);
    await page.waitForSelector(byTestId('end-full'));
  }],
  ['end-ended', `${mock.url}/m/end-eded-end`, (page) => page.waitForSelector(byTestId('end-ended'))],
  ['end-not-found', `${mock.url}/m/xxx-xxxx-xxx`, (page) => page.waitForSelector(byTestId('end-not_found'))],
  ['unknown', `${mock.url}/nowhere`, (page) => page.waitForSelector(byTestId('page-unknown'))],
  ...[1, 2, 3, 5, 9, 16, 25, 50, 60].map((n) => [`meeting-${n}`, `${STORY}/story.html?people=${n}&cameras=${Math.ceil(n * 0.7)}`, story]),
  ['meeting-share', `${STORY}/story.html?people=6&screen=1`, story],
  ['meeting-chat', `${STORY}/story.html?people=4&chat=1`, async (page) => {
    await story(page);
    await page.click(byTestId('control-chat'));
  }],
  ['meeting-unread', `${STORY}/story.html?people=3&notice=1`, story],
  ['meeting-people', `${STORY}/story.html?people=12`, async (page) => {
    await story(page);
    await page.click(byTestId('control-people'));
  }],
  ['meeting-why', `${STORY}/story.html?people=2`, async (page) => {
    await story(page);
    await page.click(byTestId('control-mic'));
    await page.click(byTestId('pop-badge'));
  }],
  ['meeting-rejoining', `${STORY}/story.html?people=4&phase=rejoining&blocked=1`, story],
];

async function story(page) {
  await page.waitForSelector(byTestId('meeting'));
  await page.waitForFunction(() => [...document.querySelectorAll('video')].every((video) => video.readyState >= 2));
}

mkdirSync(OUT, { recursive: true });
const browsers = new Map();
for (const [name, url, arrive, { colorScheme = 'light', grant = true } = {}] of SCREENS) {
  if (!name.includes(filter)) continue;
  if (!browsers.has(grant)) browsers.set(grant, await launch({ grant }));
  for (const [device, viewport] of Object.entries(SIZES)) {
    const context = await browsers.get(grant).newContext({ viewport, colorScheme, isMobile: device === 'phone', hasTouch: device === 'phone', deviceScaleFactor: 1 });
    const page = await context.newPage();
    page.on('pageerror', (error) => console.error(`${name} ${device}: ${error}`));
    page.on('console', (message) => message.type() === 'error' && !/Failed to load resource/.test(message.text()) && console.error(`${name} ${device}: ${message.text()}`));
    try {
      await page.goto(url);
      await arrive(page);
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      if (overflow > 0) console.error(`${name} ${device}: scrolls sideways by ${overflow} px`);
    } catch (error) {
      console.error(`${name} ${device}: ${error.message.split('\n')[0]}`);
    }
    await page.screenshot({ path: join(OUT, `${name}-${device}.png`) });
    await context.close();
  }
}
for (const browser of browsers.values()) await browser.close();
await mock.close();
