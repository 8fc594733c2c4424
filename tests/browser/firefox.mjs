/**
 * Firefox as the browser tests want it, driven over Marionette (its own remote protocol: JSON over TCP). A page here has those methods of a
 * Playwright page that people.mjs uses, so that the same steps run in either browser. Playwright itself drives only a Firefox of its own making.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const PATIENCE_MS = 30_000;
/** How a web element is written in Marionette's JSON. */
const ELEMENT = 'element-6066-11e4-a52e-4f735466cecf';

const PREFERENCES = {
  'marionette.port': 0,
  // A coloured picture that changes and a tone, given without a question.
  'media.navigator.streams.fake': true,
  'media.navigator.permission.disabled': true,
  'media.autoplay.default': 0,
  // Off the network there is nothing to ask, and a namespace without a way out is not "offline".
  'network.manage-offline-status': false,
  'network.captive-portal-service.enabled': false,
  'network.connectivity-service.enabled': false,
  'browser.shell.checkDefaultBrowser': false,
  'datareporting.policy.dataSubmissionEnabled': false,
  'app.normandy.enabled': false,
  'media.gmp-manager.updateEnabled': false,
};

/** Starts it, headless, and resolves to {page, close}. It takes any certificate. */
export async function launchFirefox({ width = 960, height = 600 } = {}) {
  const profile = mkdtempSync(join(tmpdir(), 'meridian-firefox-'));
  const lines = Object.entries(PREFERENCES).map(([key, value]) => `user_pref(${JSON.stringify(key)}, ${JSON.stringify(value)});`);
  writeFileSync(join(profile, 'user.js'), lines.join('\n'));
  const words = ['--headless', '--no-remote', '--marionette', '--profile', profile, '--width', String(width), '--height', String(height)];
  const child = spawn(process.env.FIREFOX ?? 'firefox-esr', words, { env: { ...process.env, HOME: profile, MOZ_CRASHREPORTER_DISABLE: '1' }, stdio: 'ignore' });
  const ended = new Promise((resolve) => child.on('exit', resolve).on('error', resolve));
  const close = async () => {
    child.kill('SIGKILL');
    await ended;
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  };
  try {
    const marionette = await Marionette.connect(join(profile, 'MarionetteActivePort'), ended);
    await marionette.send('WebDriver:NewSession', { acceptInsecureCerts: true });
    await marionette.send('WebDriver:SetTimeouts', { script: PATIENCE_MS, pageLoad: PATIENCE_MS, implicit: 0 });
    return { page: new Page(marionette), close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** The wire: `length:[0, id, command, parameters]` one way, `length:[1, id, error, result]` the other. */
class Marionette {
  waiting = new Map();
  next = 1;
  bytes = Buffer.alloc(0);

  static async connect(portFile, ended) {
    let over = false;
    void ended.then(() => (over = true));
    const deadline = Date.now() + PATIENCE_MS;
    while (!existsSync(portFile) || readFileSync(portFile, 'utf8') === '') {
      if (over || Date.now() > deadline) throw new Error(over ? 'Firefox ended at once' : 'Firefox opened no Marionette port');
      await pause(50);
    }
    const marionette = new Marionette();
    await new Promise((resolve, reject) => {
      marionette.socket = connect(Number(readFileSync(portFile, 'utf8')), '127.0.0.1', resolve).on('error', reject);
      marionette.socket.on('data', (bytes) => marionette.read(bytes));
      marionette.socket.on('close', () => marionette.fail(new Error('Firefox closed the connection')));
    });
    return marionette;
  }

  send(command, parameters = {}) {
    const id = this.next++;
    const text = JSON.stringify([0, id, command, parameters]);
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.socket.write(`${Buffer.byteLength(text)}:${text}`);
    });
  }

  read(bytes) {
    this.bytes = Buffer.concat([this.bytes, bytes]);
    for (;;) {
      const colon = this.bytes.indexOf(':');
      const end = colon + 1 + Number(this.bytes.subarray(0, Math.max(colon, 0)).toString());
      if (colon < 0 || this.bytes.length < end) return;
      const message = JSON.parse(this.bytes.subarray(colon + 1, end).toString());
      this.bytes = this.bytes.subarray(end);
      // The first message is a greeting.
      if (Array.isArray(message)) this.answer(message);
    }
  }

  answer([, id, error, result]) {
    const { resolve, reject } = this.waiting.get(id) ?? {};
    this.waiting.delete(id);
    if (error) reject?.(new Error(`${error.error}: ${error.message}`));
    else resolve?.(result);
  }

  fail(error) {
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
  }
}

class Page {
  complaints = [];

  constructor(marionette) {
    this.marionette = marionette;
  }

  async goto(url) {
    await this.marionette.send('WebDriver:Navigate', { url });
  }

  /** A function with one argument, or an expression; a promise is awaited. */
  async evaluate(what, argument) {
    const script = typeof what === 'function' ? `return (${what})(arguments[0])` : `return (${what})`;
    const { value } = await this.marionette.send('WebDriver:ExecuteScript', { script, args: [argument ?? null], newSandbox: false });
    return value;
  }

  async waitForFunction(what, argument, { timeout = PATIENCE_MS } = {}) {
    const deadline = Date.now() + timeout;
    while (!(await this.evaluate(what, argument))) {
      if (Date.now() > deadline) throw new Error(`not within ${timeout} ms: ${what}`);
      await pause(100);
    }
  }

  async waitForSelector(selector, { state = 'visible', timeout } = {}) {
    const seen = ([css, wanted]) => {
      const element = document.querySelector(css);
      return (element !== null && (wanted !== 'visible' || element.getClientRects().length > 0)) === (wanted !== 'detached');
    };
    await this.waitForFunction(seen, [selector, state], { timeout });
  }

  async find(selector) {
    await this.waitForSelector(selector);
    const { value } = await this.marionette.send('WebDriver:FindElement', { using: 'css selector', value: selector });
    return value[ELEMENT];
  }

  async click(selector) {
    await this.marionette.send('WebDriver:ElementClick', { id: await this.find(selector) });
  }

  async fill(selector, text) {
    const id = await this.find(selector);
    await this.marionette.send('WebDriver:ElementClear', { id });
    await this.marionette.send('WebDriver:ElementSendKeys', { id, text });
  }

  async press(selector, key) {
    const text = { Enter: '\uE007', Escape: '\uE00C' }[key] ?? key;
    await this.marionette.send('WebDriver:ElementSendKeys', { id: await this.find(selector), text });
  }

  async textContent(selector) {
    await this.waitForSelector(selector);
    return this.evaluate((css) => document.querySelector(css).textContent, selector);
  }

  async getAttribute(selector, name) {
    await this.waitForSelector(selector);
    return this.evaluate(([css, attribute]) => document.querySelector(css).getAttribute(attribute), [selector, name]);
  }

  async screenshot({ path }) {
    const { value } = await this.marionette.send('WebDriver:TakeScreenshot', { full: false });
    writeFileSync(path, Buffer.from(value, 'base64'));
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
