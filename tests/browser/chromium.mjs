/** Chromium as the browser tests want it: headless, with a fake camera and microphone, talking to nobody but the page's own servers. */
import { chromium } from 'playwright-core';

const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  // A spinning figure and a beep each second for the camera and microphone, a fake tab for a shared screen.
  '--use-fake-device-for-media-stream=fps=30,display-media-type=browser',
  '--autoplay-policy=no-user-gesture-required',
  // Two pages on one machine meet over loopback, which Chromium hides from WebRTC otherwise.
  '--allow-loopback-in-peer-connection',
];

/** `grant: false` leaves the camera question to the page's permissions (for tests of a refusal). */
export function launch({ grant = true, extra = [], executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium' } = {}) {
  return chromium.launch({
    executablePath,
    headless: true,
    args: [...FLAGS, ...(grant ? ['--use-fake-ui-for-media-stream'] : ['--deny-permission-prompts']), ...extra],
  });
}
