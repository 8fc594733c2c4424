/**
 * A stand-in for the control plane: serves the built app and answers the join API from memory. Without `mesh` there are no edges behind it;
 * with `mesh` (what `meridian dev --ready-file` writes) people meet on real ones, by tokens made here with the API key. Codes choose the answer: `ful-lful-ful` is full, `end-eded-end` has ended, `pas-scod-eee` wants the passcode `open`.
 */
import { createHmac, randomInt, randomUUID } from 'node:crypto';
import { createReadStream, existsSync, readFileSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { dirname, extname, join, normalize } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const DIST = join(dirname(fileURLToPath(import.meta.url)), '../../control-plane/web/dist');
const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml' };

const MEETINGS = {
  'abc-defg-hij': { title: 'Weekly review', passcode_required: false, state: 'open' },
  'pas-scod-eee': { title: 'Board meeting', passcode_required: true, state: 'open' },
  'ful-lful-ful': { title: 'Town hall', passcode_required: false, state: 'open' },
  'end-eded-end': { title: '', passcode_required: false, state: 'ended' },
};

const NO_MESH = { api_key: 'none', api_secret: 'none', edges: [{ id: 'fra', region: 'fra', url: 'ws://127.0.0.1:9' }] };

/** Starts it; resolves to {url, close, joins: every join body received}. */
export async function startMock({ port = 0, mesh = NO_MESH } = {}) {
  const joins = [];
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url, 'http://mock');
    if (!pathname.startsWith('/api/')) return serveApp(pathname, response);
    const body = await readJson(request);
    const [status, answer] = api(request.method, pathname, body, { joins, mesh });
    response.writeHead(status, { 'content-type': 'application/json' });
    response.end(JSON.stringify(answer));
  });
  await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
  return {
    url: `http://localhost:${server.address().port}`,
    joins,
    close: () => new Promise((resolve) => (server.closeAllConnections(), server.close(resolve))),
  };
}

function api(method, pathname, body, { joins, mesh }) {
  if (pathname === '/api/v1/probes') return [200, { regions: mesh.edges.map(({ region, url }) => ({ region, url: `${url.replace(/^ws/, 'http')}/probe` })) }];
  if (method === 'POST' && pathname === '/api/v1/meetings') {
    // A code of its own for each, so that nobody meets the people of an earlier test.
    const code = [3, 4, 3].map((length) => Array.from({ length }, () => String.fromCharCode(97 + randomInt(26))).join('')).join('-');
    MEETINGS[code] = { title: body.title ?? '', passcode_required: false, state: 'open' };
    return [201, { code, ...MEETINGS[code] }];
  }
  const [, code, action] = /^\/api\/v1\/meetings\/([a-z-]+)(?:\/(join))?$/.exec(pathname) ?? [];
  const meeting = MEETINGS[code];
  if (!meeting) return [404, { code: 'not_found', message: 'no such meeting' }];
  if (!action) return [200, { code, ...meeting }];
  joins.push({ code, ...body });
  if (code === 'ful-lful-ful') return [409, { code: 'full', message: 'the meeting is full' }];
  if (meeting.passcode_required && body.passcode !== 'open') {
    return joins.filter((join) => join.code === code).length > 3 ? [429, { code: 'rate_limited', message: 'slow down', retry_after_s: 20 }] : [403, { code: 'wrong_passcode', message: 'wrong passcode' }];
  }
  return [200, grant(mesh, code, body)];
}

/** The edge that `from` names, else the first; those to avoid go last. */
function grant(mesh, code, { name, from, avoid = [], previous_token: previous }) {
  const preference = (edge) => (avoid.includes(edge.id) ? 2 : edge.region === from ? 0 : 1);
  const [edge, ...alternates] = [...mesh.edges].sort((a, b) => preference(a) - preference(b));
  const identity = previous ? JSON.parse(Buffer.from(previous.split('.')[1], 'base64url')).sub : randomUUID();
  const video = { roomJoin: true, room: code, canPublish: true, canSubscribe: true, canPublishData: true, canUpdateOwnMetadata: true };
  const expires = Math.floor(Date.now() / 1000) + 1_800;
  const token = jwt({ iss: mesh.api_key, sub: identity, name, nbf: expires - 1_900, exp: expires, video }, mesh.api_secret);
  const reasons = [{ edge: edge.id, kind: 'from', value: 0, text: `You asked to be placed in ${edge.region}` }];
  return { edge, alternates, ice_servers: [], token, identity, room: code, title: MEETINGS[code].title, reasons, expires };
}

function jwt(claims, secret) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
}

async function readJson(request) {
  let text = '';
  for await (const chunk of request) text += chunk;
  try {
    return JSON.parse(text || '{}');
  } catch {
    return {};
  }
}

/** Files as they are; every other path is the app, which routes itself. */
function serveApp(pathname, response) {
  const wanted = join(DIST, normalize(pathname));
  const file = wanted.startsWith(DIST) && existsSync(wanted) && statSync(wanted).isFile() ? wanted : join(DIST, 'index.html');
  response.writeHead(200, { 'content-type': TYPES[extname(file)] ?? 'application/octet-stream' });
  createReadStream(file).pipe(response);
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const ready = process.env.MESH_READY_FILE;
  const mock = await startMock({ port: Number(process.env.PORT ?? 8080), ...(ready && { mesh: JSON.parse(readFileSync(ready, 'utf8')) }) });
  console.log(`mock control plane on ${mock.url}`);
}
