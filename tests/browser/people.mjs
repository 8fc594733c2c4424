/** What a person does in the app, and what can be seen on their page: shared by the browser tests. */
import { createHmac } from 'node:crypto';
import { mkdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test as nodeTest } from 'node:test';
import { fileURLToPath } from 'node:url';
import { startMock } from './mock.mjs';

export const ARTIFACTS = join(dirname(fileURLToPath(import.meta.url)), 'artifacts');
mkdirSync(ARTIFACTS, { recursive: true });

export const testId = (id) => `[data-testid="${id}"]`;
export const VIEWPORT = { width: 960, height: 600 };
export const shot = (page, name) => page.screenshot({ path: join(ARTIFACTS, `${name}.png`) });

/** Steps that lean on each other: once one has failed the others are skipped. None runs before `begin`, when everything is up. */
export function story() {
  let broken = true;
  const steps = {
    failed: false,
    begin: () => (broken = false),
    test: (name, body) => nodeTest(name, async (t) => {
      if (broken) return t.skip('an earlier step failed');
      broken = steps.failed = true;
      await body(t);
      broken = steps.failed = false;
    }),
  };
  return steps;
}

/**
 * Where the app is served: MERIDIAN_URL, else the page of the running demo (MERIDIAN_READY names the file that `meridian dev --ready-file`
 * wrote), else the mock, with the demo's edges behind it when there are any. Resolves to {url, real, edges, close}.
 */
export async function findMeridian() {
  const ready = process.env.MERIDIAN_READY ? JSON.parse(readFileSync(process.env.MERIDIAN_READY, 'utf8')) : null;
  const page = process.env.MERIDIAN_URL ?? ready?.page ?? ready?.url;
  if (page) return { url: page.replace(/\/$/, ''), real: true, edges: true, close: async () => {} };
  const mock = await startMock(ready?.edges ? { mesh: ready } : {});
  return { url: mock.url, real: false, edges: Boolean(ready?.edges), close: mock.close };
}

/** A window of its own (own storage, own permissions), with the page's sockets and complaints on record. */
export async function openWindow(browser, { viewport = VIEWPORT, ...options } = {}) {
  const context = await browser.newContext({ viewport, ...options });
  const page = await context.newPage();
  page.complaints = [];
  page.on('pageerror', (error) => page.complaints.push(String(error)));
  page.on('console', (message) => process.env.VERBOSE && console.error(`[${message.type()}] ${message.text()}`));
  await page.addInitScript(() => {
    const Native = window.WebSocket;
    window.__sockets = [];
    window.WebSocket = class extends Native {
      constructor(...args) {
        super(...args);
        window.__sockets.push(this);
      }
    };
    const Connection = window.RTCPeerConnection;
    window.__connections = [];
    window.RTCPeerConnection = class extends Connection {
      constructor(...args) {
        super(...args);
        window.__connections.push(this);
      }
    };
  });
  return page;
}

/** From the lobby into the meeting. */
export async function enter(page, name, { passcode } = {}) {
  await page.waitForSelector(`${testId('preview')}[data-camera="on"][data-microphone="on"]`);
  await page.fill(testId('name-input'), name);
  if (passcode) await page.fill(testId('passcode-input'), passcode);
  await page.click(testId('join-meeting'));
  await page.waitForSelector(`${testId('meeting')}[data-phase="connected"]`, { timeout: 20_000 });
}

/** Polls a reading in the page until it satisfies, and returns it. Fails with the last reading. */
export async function until(page, what, read, satisfied, { timeoutMs = 30_000, argument } = {}) {
  const deadline = Date.now() + timeoutMs;
  let last;
  for (;;) {
    last = await page.evaluate(read, argument).catch((error) => `could not read: ${error.message}`);
    if (satisfied(last)) return last;
    if (Date.now() > deadline) throw new Error(`${what}: not within ${timeoutMs} ms; last seen: ${JSON.stringify(last)}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** What the page receives of others, summed by source: {camera: {frames, width, paused}, screen: {frames, width}, microphone: {energy}}; paused: the edge said so for want of room. */
export async function received() {
  const sums = { camera: { frames: 0, width: 0, paused: 0 }, screen: { frames: 0, width: 0, paused: 0 }, microphone: { energy: 0 } };
  const room = window.__meridian?.room;
  if (!room) return sums;
  for (const participant of room.remoteParticipants.values()) {
    for (const publication of participant.trackPublications.values()) {
      const report = await publication.track?.getRTCStatsReport?.();
      for (const stat of report?.values() ?? []) {
        if (stat.type !== 'inbound-rtp') continue;
        if (publication.source === 'camera' || publication.source === 'screen_share') {
          const sum = publication.source === 'camera' ? sums.camera : sums.screen;
          sum.frames += stat.framesDecoded ?? 0;
          sum.paused += Number(publication.track.streamState === 'paused');
          sum.width = Math.max(sum.width, stat.frameWidth ?? 0);
        } else if (publication.source === 'microphone') {
          sums.microphone.energy += stat.totalAudioEnergy ?? 0;
        }
      }
    }
  }
  return sums;
}

/** Begins to note everybody who leaves, as the room reports it and as tiles vanish from the screen. Read with `departures`. */
export function watchDepartures() {
  const seen = (window.__departures = []);
  window.__meridian.room.on('participantDisconnected', (participant) => seen.push(`room: ${participant.identity}`));
  const tiles = () => new Set([...document.querySelectorAll('[data-testid="tile"]')].map((tile) => tile.dataset.identity));
  let before = tiles();
  new MutationObserver(() => {
    const now = tiles();
    for (const identity of before) if (!now.has(identity)) seen.push(`tile: ${identity}`);
    before = now;
  }).observe(document.body, { childList: true, subtree: true });
}

export const departures = () => window.__departures;

/** Begins to note what the person is told in passing, for instance that somebody left. Read with `notices`. */
export function watchNotices() {
  const told = (window.__notices = []);
  new MutationObserver((changes) => {
    for (const { addedNodes } of changes) {
      for (const node of addedNodes) if (node instanceof HTMLElement && node.matches('[data-testid="notice"]')) told.push(node.textContent);
    }
  }).observe(document.body, { childList: true, subtree: true });
}

export const notices = () => window.__notices;

/** Begins to note when each new picture of somebody else was shown, whatever becomes of the video element. Read with `pictures`. */
export function watchPictures() {
  clearInterval(window.__pictures?.timer);
  const watched = new WeakSet();
  const shown = [Date.now()];
  const look = () => {
    for (const video of document.querySelectorAll('[data-testid="tile"][data-local="false"] video')) {
      if (watched.has(video)) continue;
      watched.add(video);
      const note = () => {
        shown.push(Date.now());
        video.requestVideoFrameCallback(note);
      };
      video.requestVideoFrameCallback(note);
    }
  };
  window.__pictures = { shown, timer: setInterval(look, 20) };
  look();
}

/** The longest pause between pictures that ended after `sinceMs` (Date.now() of this machine), and when the last was shown. */
export function pictures(sinceMs) {
  const { shown } = window.__pictures;
  const pauses = shown.slice(1).map((at, i) => (at >= sinceMs ? at - shown[i] : 0));
  return { pauseMs: Math.max(0, ...pauses), lastMs: shown.at(-1) ?? 0 };
}

/** Begins to note when sound of others was played last, on whichever connection it came. Read with `sounds`. */
export function watchSounds() {
  clearInterval(window.__sounds?.timer);
  const played = [];
  let lookedMs = performance.now();
  const look = () => {
    const nowMs = performance.now();
    window.__sounds.stallMs = Math.max(window.__sounds.stallMs, nowMs - lookedMs);
    lookedMs = nowMs;
    for (const connection of window.__connections) {
      if (connection.connectionState !== 'connected') continue;
      for (const receiver of connection.getReceivers()) {
        if (receiver.track.kind !== 'audio') continue;
        for (const { timestamp } of receiver.getSynchronizationSources()) played.push(timestamp);
      }
    }
  };
  window.__sounds = { played, stallMs: 0, timer: setInterval(look, 10) };
}

/** The longest time in which no sound of anybody was played, and the longest in which the page was too busy to look. */
export function sounds() {
  const played = [...new Set(window.__sounds.played)].sort((a, b) => a - b);
  return { pauseMs: Math.round(Math.max(0, ...played.slice(1).map((at, i) => at - played[i]))), stallMs: Math.round(window.__sounds.stallMs) };
}

export async function say(page, text) {
  await page.fill(testId('chat-input'), text);
  await page.press(testId('chat-input'), 'Enter');
}

export async function hears(page, text) {
  await page.waitForFunction((wanted) => [...document.querySelectorAll('[data-testid="chat-line"][data-own="false"]')].some((line) => line.textContent.includes(wanted)), text, { timeout: 10_000 });
}

/** An API key’s token that lets somebody in. */
export function token({ api_key, api_secret }, room, identity) {
  const expires = Math.floor(Date.now() / 1000) + 600;
  const video = { roomJoin: true, room, canPublish: true, canSubscribe: true, canPublishData: true, canUpdateOwnMetadata: true };
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ iss: api_key, sub: identity, name: identity, nbf: expires - 700, exp: expires, video })}`;
  return `${signed}.${createHmac('sha256', api_secret).update(signed).digest('base64url')}`;
}
