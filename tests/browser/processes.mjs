/**
 * A mesh as an operator runs it, for tests that stop and kill its processes: etcd, a control plane that serves the app, and edges with
 * certificates of `meridian pki`. Everything it starts it stops, by process id, and its folder goes with it.
 */
import { spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { createWriteStream, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { get as httpGet } from 'node:http';
import { get as httpsGet } from 'node:https';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const TOP = join(dirname(fileURLToPath(import.meta.url)), '../..');
const MERIDIAN = process.env.MERIDIAN_BINARY ?? join(TOP, 'target/debug/meridian');
const NETLAB = process.env.MERIDIAN_NETLAB ?? join(TOP, 'target/debug/meridian-netlab');
const WEB = join(TOP, 'control-plane/web/dist');
/** Seconds that a killed edge stays in placement. */
export const LEASE_S = 2;
const SOON_MS = 30_000;
const OPERATOR_TOKEN = 'an-operators-token-of-24-or-more';

/**
 * `host`: the control plane's address. Off loopback everything speaks HTTPS, with certificates of the mesh's own authority, and each edge has the
 * next address of the network, as browsers treat all ports of one address alike (Firefox opens one WebSocket to it at a time).
 * `host6`: an IPv6 address; each edge has media on the next of its network, too. `delayMs`: one way, between edges.
 * `regions`: names of edges, each in a region of the same name unless `regionOf` says otherwise. Resolves to a `Mesh` once people can be placed on each of `regions`.
 */
export async function startMesh({ regions = ['fra', 'iad', 'sin'], host = '127.0.0.1', host6, delayMs = 0, regionOf = {} } = {}) {
  const mesh = new Mesh(host, host6, delayMs, regionOf);
  try {
    await mesh.start(regions);
  } catch (error) {
    await mesh.close({ failed: true });
    throw error;
  }
  return mesh;
}

class Mesh {
  edges = new Map();
  relays = new Map();
  mediaRelays = [];
  hosts = new Map();
  media = new Map();
  ports = new Map();

  constructor(host, host6, delayMs, regionOf) {
    this.regionOf = regionOf;
    this.host = host;
    this.host6 = host6;
    this.delayMs = delayMs;
    this.secure = !host.startsWith('127.');
    this.folder = mkdtempSync(join(tmpdir(), 'meridian-browser-'));
  }

  async start(regions) {
    [this.http, this.grpc, this.etcdClients, this.etcdPeers] = await freePorts(this.host, 4);
    this.url = `${this.secure ? 'https' : 'http'}://${this.secure ? this.host : 'localhost'}:${this.http}`;
    this.startEtcd();
    await this.run('authority', ['pki', 'create', '--out', this.path('data/pki')]);
    const next = (address, i) => address.replace(/\d+$/, (last) => Number(last) + 1 + i);
    regions.forEach((id, i) => {
      this.hosts.set(id, this.secure ? next(this.host, i) : this.host);
      this.media.set(id, [`${this.hosts.get(id)}:0`, ...(this.host6 ? [`[${next(this.host6, i)}]:0`] : [])]);
    });
    // One certificate for all HTTPS in here: it is the address that counts.
    const names = [this.host, ...this.hosts.values()].flatMap((name) => ['--name', name]);
    if (this.secure) await this.run('https', ['pki', 'node', 'https', '--authority', this.path('data'), '--out', this.path('https'), ...names]);
    this.startControlPlane();
    await this.controlPlaneAnswers();
    await Promise.all(regions.map((region) => this.startEdge(region)));
    await this.edgesArePlaced(regions.length);
  }

  path(name) {
    return join(this.folder, name);
  }

  startEtcd() {
    const clients = `http://127.0.0.1:${this.etcdClients}`;
    const peers = `http://127.0.0.1:${this.etcdPeers}`;
    this.etcd = this.spawn('etcd', 'etcd', [
      '--name', 'one', '--data-dir', this.path('etcd'), '--listen-client-urls', clients, '--advertise-client-urls', clients,
      '--listen-peer-urls', peers, '--initial-advertise-peer-urls', peers, '--initial-cluster', `one=${peers}`,
    ]);
  }

  startControlPlane() {
    const file = this.configure('control-plane', `
      data_directory = '${this.path('data')}'
      demo = true
      operator_tokens = ['${OPERATOR_TOKEN}']
      [http]
      bind = '${this.host}:${this.http}'
      web_directory = '${WEB}'
      ${this.certificate()}
      [grpc]
      bind = '127.0.0.1:${this.grpc}'
      ${this.registry()}
      [limits]
      joins_per_minute_address = 10000`);
    this.controlPlane = this.spawn('control-plane', MERIDIAN, ['control-plane', '-c', file]);
  }

  /** Starts an edge: the first time with a new certificate, later where it was, as people who are elsewhere know its address. */
  async startEdge(id) {
    const pki = this.path(`pki-${id}`);
    if (!this.edges.has(id)) {
      await this.run(`pki-${id}`, ['pki', 'node', id, '--authority', this.path('data'), '--out', pki]);
      this.ports.set(id, await freePorts(this.hosts.get(id), 2));
    }
    const host = this.hosts.get(id);
    const [http, link] = this.ports.get(id);
    const advertise = this.delayMs ? `advertise = '${await this.startRelay(id, link)}'` : '';
    const file = this.configure(id, `
      [node]
      id = '${id}'
      region = '${this.regionOf[id] ?? id}'
      [http]
      bind = '${host}:${http}'
      ${this.certificate()}
      [media]
      bind = ${JSON.stringify(this.media.get(id))}
      threads = 1
      [link]
      bind = '127.0.0.1:${link}'
      ${advertise}
      ${this.registry()}
      [control_plane]
      url = 'https://127.0.0.1:${this.grpc}'
      [pki]
      directory = '${pki}'`);
    this.edges.set(id, this.spawn(id, MERIDIAN, ['edge', '-c', file]));
  }

  /** A relay before an edge's links that holds each datagram back; resolves to its address. */
  async startRelay(id, port) {
    await this.relays.get(id)?.end('SIGKILL');
    const relay = this.spawn(`relay-${id}`, NETLAB, ['--target', `127.0.0.1:${port}`, '--delay-ms', String(this.delayMs)]);
    this.relays.set(id, relay);
    return eventually(`the relay of ${id}`, async () => /^listening on (\S+)$/m.exec(relay.text())?.[1]);
  }

  /** What clients connect to. */
  edgeUrl(id) {
    return `ws://127.0.0.1:${this.ports.get(id)[0]}`;
  }

  /** A gauge of an edge's links, by the edge at the other end. */
  async linkGauge(id, name) {
    const text = await (await fetch(`http://127.0.0.1:${this.ports.get(id)[0]}/metrics`)).text();
    const lines = text.matchAll(new RegExp(`^meridian_link_${name}{peer="(.+)"} (.+)$`, 'gm'));
    return Object.fromEntries([...lines].map(([, peer, value]) => [peer, Number(value)]));
  }

  /** The UDP port of an edge with one media thread. */
  mediaPort(id) {
    return Number(/ media=\[127\.0\.0\.1:(\d+)\]/.exec(this.edges.get(id).text())[1]);
  }

  /** A relay of this rate each way before a media port of an edge; resolves to its port. */
  async relayBefore(port, kbps) {
    const name = `relay-media-${port}`;
    const relay = this.spawn(name, NETLAB, ['--target', `127.0.0.1:${port}`, '--delay-ms', '20']);
    this.mediaRelays.push(relay);
    const line = `rate-kbps ${kbps}`;
    relay.child.stdin.write(`${line}\n`);
    const own = await eventually(name, async () => relay.text().includes(line) && /^listening on \S+:(\d+)$/m.exec(relay.text())?.[1]);
    return Number(own);
  }

  /** Makes all links between edges a bottleneck of this rate each way; `null`: none any more. Only where there is a delay: it is the relays that do it. */
  async narrow(kbps) {
    const line = `rate-kbps ${kbps ?? 0}`;
    await Promise.all([...this.relays.values()].map(async (relay) => {
      const lines = () => relay.text().split('\n').filter((said) => said === line).length;
      const before = lines();
      relay.child.stdin.write(`${line}\n`);
      await eventually(`${relay.name}: ${line}`, async () => lines() > before);
    }));
  }

  registry() {
    return `[registry]\nkind = 'etcd'\nendpoints = ['http://127.0.0.1:${this.etcdClients}']\nlease_s = ${LEASE_S}`;
  }

  certificate() {
    return this.secure ? `certificate = '${this.path('https/node.pem')}'\nprivate_key = '${this.path('https/node.key')}'` : '';
  }

  configure(name, text) {
    writeFileSync(this.path(`${name}.toml`), text);
    return this.path(`${name}.toml`);
  }

  spawn(name, program, words) {
    return new Process(name, program, words, this.path(`${name}.log`));
  }

  /** A command that ends by itself. */
  async run(name, words) {
    const command = this.spawn(name, MERIDIAN, words);
    const code = await command.ended;
    if (code !== 0) throw new Error(`meridian ${words.join(' ')}: exit ${code}\n${command.text()}`);
  }

  /** What an operator does: `meridian pop …`. Resolves to {code, text}. */
  async pop(...words) {
    const command = this.spawn(`pop-${(this.pops = (this.pops ?? 0) + 1)}`, MERIDIAN, ['pop', ...words, '--url', this.url, '--token', OPERATOR_TOKEN]);
    return { code: await command.ended, text: command.text() };
  }

  /** JSON that the control plane answers. */
  get(path) {
    return getJson(`${this.url}${path}`, readFileSync(this.path('data/pki/ca.pem')));
  }

  async regions() {
    const { regions } = await this.get('/api/v1/regions');
    return regions.flatMap(({ edges }) => edges);
  }

  async controlPlaneAnswers() {
    await eventually('the control plane is ready', () => this.get('/readyz'));
  }

  /** Until `count` edges are healthy in placement and attached to the control plane. */
  async edgesArePlaced(count) {
    await eventually(`${count} edges are placed`, async () => {
      const { edges_attached: attached } = await this.get('/readyz');
      return attached === count && (await this.regions()).filter(({ healthy }) => healthy).length === count;
    });
  }

  /** Stops everything; tells what the processes said if something `failed`. */
  async close({ failed = false } = {}) {
    const all = [...this.edges.values(), this.controlPlane, this.etcd, ...this.relays.values(), ...this.mediaRelays].filter(Boolean);
    await Promise.all(all.map((process) => process.end('SIGKILL')));
    if (failed) for (const process of all) console.error(`--- ${process.name}\n${process.text().split('\n').slice(-40).join('\n')}`);
    rmSync(this.folder, { recursive: true, force: true });
  }
}

class Process {
  constructor(name, program, words, log) {
    this.name = name;
    this.log = log;
    // The settings of whoever runs the tests are not ours.
    const env = { PATH: process.env.PATH, MERIDIAN_LOG: process.env.MESH_LOG ?? 'info', ETCD_LOG_LEVEL: 'error' };
    const out = createWriteStream(log, { flags: 'a' });
    this.child = spawn(program, words, { env, stdio: ['pipe', 'pipe', 'pipe'] });
    this.child.stdin.on('error', () => {});
    this.child.stdout.pipe(out, { end: false });
    this.child.stderr.pipe(out, { end: false });
    this.ended = new Promise((resolve) => {
      this.child.on('error', (error) => (out.end(`${program}: ${error.message}\n`), resolve(127)));
      this.child.on('close', (code, signal) => out.end(() => resolve(code ?? signal)));
    });
  }

  text() {
    try {
      return readFileSync(this.log, 'utf8');
    } catch {
      return '';
    }
  }

  /** Sends the signal and waits for the end; resolves to the exit code, or to the signal that ended it. */
  async end(signal) {
    this.child.kill(signal);
    return this.ended;
  }
}

/** The first thing but null, undefined and false that `read` resolves to. */
async function eventually(what, read) {
  const deadline = Date.now() + SOON_MS;
  for (let last; ; await new Promise((resolve) => setTimeout(resolve, 50))) {
    const found = await read().catch((error) => void (last = error));
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`not within ${SOON_MS} ms: ${what}${last ? ` (${last.message})` : ''}`);
  }
}

/** `ca`: the authority of an https server, PEM. */
function getJson(url, ca) {
  return new Promise((resolve, reject) => {
    const get = url.startsWith('https:') ? httpsGet : httpGet;
    const request = get(url, { ca, agent: false, timeout: 5_000 }, async (answer) => {
      const text = (await answer.setEncoding('utf8').toArray().catch(reject))?.join('') ?? '';
      if (answer.statusCode === 200) resolve(JSON.parse(text));
      else reject(new Error(`${url}: ${answer.statusCode}`));
    });
    request.on('timeout', () => request.destroy(new Error(`${url}: no answer`))).on('error', reject);
  });
}

/** Ports that are free now, all different, outside of the range from which the kernel gives ports to anybody who asks for any. */
async function freePorts(host, count) {
  const found = new Set();
  while (found.size < count) {
    const port = randomInt(10_000, 32_000);
    if (await isFree(host, port)) found.add(port);
  }
  return [...found];
}

function isFree(host, port) {
  return new Promise((resolve) => {
    const server = createServer().on('error', () => resolve(false));
    server.listen(port, host, () => server.close(() => resolve(true)));
  });
}
