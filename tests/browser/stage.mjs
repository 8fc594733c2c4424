/** A meeting on two points of presence for pages of quality.html, which have nothing but livekit-client. */
import assert from 'node:assert/strict';
import { createReadStream } from 'node:fs';
import { createServer } from 'node:http';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { launch } from './chromium.mjs';
import { openWindow } from './people.mjs';
import { startMesh } from './processes.mjs';

const HERE = dirname(fileURLToPath(import.meta.url));
const SERVED = {
  '/': [join(HERE, 'quality.html'), 'text/html'],
  '/livekit-client.js': [join(HERE, '../../control-plane/web/node_modules/livekit-client/dist/livekit-client.umd.js'), 'text/javascript'],
};
export const FROM_A = 'fra';
export const FROM_B = 'sin';

/** A meeting on points of presence `rttMs` apart, two unless `edges` says more (see `startMesh`), and a browser with people for it. */
export async function openStage(rttMs, edges = {}) {
  const mesh = await startMesh({ regions: [FROM_A, FROM_B], delayMs: rttMs / 2, ...edges });
  const server = createServer((request, response) => {
    const [file, type] = SERVED[request.url] ?? [];
    if (!file) return response.writeHead(404).end();
    response.writeHead(200, { 'content-type': type });
    createReadStream(file).pipe(response);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const origin = `http://localhost:${server.address().port}/`;
  const browser = await launch();
  const { code } = await post(`${mesh.url}/api/v1/meetings`, {});
  /** A page that is in no meeting. */
  async function open() {
    const page = await openWindow(browser, { viewport: { width: 480, height: 300 } });
    await page.goto(origin);
    return page;
  }
  return {
    mesh,
    open,
    /** A page in the meeting, as if from that place; `prepare` gets it before. */
    async enterFrom(from, name, prepare = async () => {}) {
      const page = await open();
      await prepare(page);
      const answer = await post(`${mesh.url}/api/v1/meetings/${code}/join`, { name, from });
      assert.equal(answer.edge.region, from);
      await page.evaluate(([url, token]) => join(url, token), [answer.edge.url, answer.token]);
      return page;
    },
    /** The same on a certain edge. */
    async enterOn(edge, name) {
      const page = await open();
      const { token } = await post(`${mesh.url}/api/v1/meetings/${code}/join`, { name, from: FROM_A });
      await page.evaluate(([url, token]) => join(url, token), [mesh.edgeUrl(edge), token]);
      return page;
    },
    async close(how) {
      await browser.close();
      server.closeAllConnections();
      server.close();
      await mesh.close(how);
    },
  };
}

async function post(url, body) {
  const answer = await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
  assert.ok(answer.ok, `${url}: ${answer.status}`);
  return answer.json();
}
