/**
 * Doors that stay shut, and why: every refusal has its own clear words. Runs against the real control plane when there is one
 * (MERIDIAN_URL, MERIDIAN_READY), else against the mock.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { launch } from './chromium.mjs';
import { findMeridian, openWindow, testId } from './people.mjs';

describe('refusals', { timeout: 120_000 }, () => {
  let browser, meridian;

  before(async () => {
    meridian = await findMeridian();
    browser = await launch();
  });

  after(async () => {
    await browser?.close();
    await meridian?.close();
  });

  const open = async (path, options) => {
    const page = await openWindow(browser, options);
    await page.goto(meridian.url + path);
    return page;
  };

  test('a link to no meeting says so', async () => {
    const page = await open('/m/qqq-qqqq-qqq');
    await page.waitForSelector(testId('end-not_found'));
  });

  test('an address that is no meeting link says so', async () => {
    const page = await open('/m/not-a-code');
    await page.waitForSelector(testId('page-unknown'));
  });

  test('a mistyped code is caught before it is sent', async () => {
    const page = await open('/');
    await page.fill(testId('code-input'), 'abc-1');
    await page.click(testId('join-by-code'));
    assert.match(await page.textContent(testId('code-error')), /abc-defg-hij/);
    assert.equal(new URL(page.url()).pathname, '/');
  });

  test('a wrong passcode can be corrected in the lobby', async () => {
    const path = meridian.real ? await newMeeting(meridian.url, { title: 'Secret', passcode: 'open' }) : '/m/pas-scod-eee';
    const page = await open(`${path}?capture=360`);
    await page.waitForSelector(testId('preview-video'));
    await page.click(testId('join-meeting'));
    assert.match(await page.textContent(testId('join-error')), /name/);
    await page.fill(testId('name-input'), 'Ana');
    await page.fill(testId('passcode-input'), 'guess');
    await page.click(testId('join-meeting'));
    await page.waitForFunction(() => /passcode is not right/.test(document.querySelector('[data-testid="join-error"]').textContent));
    await page.fill(testId('passcode-input'), 'open');
    await page.click(testId('join-meeting'));
    // Without edges, being let in shows as nobody to connect to.
    if (meridian.edges) await page.waitForSelector(`${testId('meeting')}[data-phase="connected"]`, { timeout: 20_000 });
    else await page.waitForFunction(() => /can’t answer/.test(document.querySelector('[data-testid="join-error"]').textContent));
  });

  test('a full meeting says so', async (t) => {
    if (meridian.real) return t.skip('the control plane’s own tests fill a meeting');
    const page = await open('/m/ful-lful-ful');
    await page.waitForSelector(testId('preview-video'));
    await page.fill(testId('name-input'), 'Ana');
    await page.click(testId('join-meeting'));
    await page.waitForSelector(testId('end-full'));
  });

  test('an ended meeting says so without asking for the camera', async (t) => {
    if (meridian.real) return t.skip('the control plane’s own tests end a meeting');
    const page = await open('/m/end-eded-end');
    await page.waitForSelector(testId('end-ended'));
    assert.equal(await page.$(testId('preview')), null);
  });

  test('a refused camera is explained, and joining without stays possible', async () => {
    const shy = await launch({ grant: false });
    try {
      const page = await openWindow(shy);
      const path = meridian.real ? await newMeeting(meridian.url, {}) : '/m/abc-defg-hij';
      await page.goto(meridian.url + path);
      const problem = await page.waitForSelector(testId('device-problem'));
      assert.equal(await problem.getAttribute('data-problem'), 'denied');
      assert.equal(await problem.getAttribute('data-kinds'), 'camera microphone');
      assert.ok(await page.isEnabled(testId('join-meeting')));
    } finally {
      await shy.close();
    }
  });

  test('a page that cannot reach Meridian offers to try again', async () => {
    const page = await openWindow(browser);
    await page.route('**/api/v1/meetings/**', (route) => route.abort());
    await page.goto(`${meridian.url}/m/abc-defg-hij`);
    await page.waitForSelector(testId('page-unreachable'));
  });
});

async function newMeeting(origin, meeting) {
  const answer = await fetch(`${origin}/api/v1/meetings`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(meeting) });
  return `/m/${(await answer.json()).code}`;
}
