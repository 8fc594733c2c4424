/**
 * A server and a browser on two hosts with a firewall between them: two network namespaces, a cable, and nftables in front of the browser.
 * Needs root, `ip`, `nft` and `certutil` (`./run test browser` installs them).
 */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, watch, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const TOP = join(dirname(fileURLToPath(import.meta.url)), '../..');
export const MERIDIAN = process.env.MERIDIAN_BINARY ?? join(TOP, 'target/debug/meridian');
const WEB = join(TOP, 'control-plane/web/dist');
export const SERVER = '10.77.1.1';
const CLIENT = '10.77.1.2';
const READY_WITHIN_MS = 60_000;

const run = (command, ...args) => execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

/** Two hosts, the demo on one of them. `stop` leaves nothing behind. */
export class Network {
  constructor() {
    const tag = `mr${process.pid}`;
    this.server = `${tag}s`;
    this.client = `${tag}c`;
    this.folder = mkdtempSync(join(tmpdir(), 'meridian-relay-'));
  }

  async start() {
    const { server, client, folder } = this;
    for (const host of [server, client]) {
      run('ip', 'netns', 'add', host);
      run('ip', '-n', host, 'link', 'set', 'lo', 'up');
    }
    run('ip', 'link', 'add', 'cable', 'netns', server, 'type', 'veth', 'peer', 'name', 'cable', 'netns', client);
    for (const [host, address] of [[server, SERVER], [client, CLIENT]]) {
      run('ip', '-n', host, 'address', 'add', `${address}/24`, 'dev', 'cable');
      run('ip', '-n', host, 'link', 'set', 'cable', 'up');
    }
    this.certify();
    const ready = join(folder, 'ready.json');
    const args = ['netns', 'exec', server, MERIDIAN, 'dev', '--web', WEB, '--address', SERVER, '--port', '0', '--ready-file', ready];
    this.demo = spawn('ip', [...args, '--certificate', join(folder, 'web/node.pem'), '--private-key', join(folder, 'web/node.key')], { stdio: ['ignore', 'ignore', 'pipe'] });
    this.log = '';
    this.demo.stderr.on('data', (text) => (this.log += text));
    this.mesh = await this.appears(ready);
  }

  /** An authority of this test's own, a certificate for the server's address, and a browser profile's trust in it. */
  certify() {
    const { folder } = this;
    run(MERIDIAN, 'pki', 'create', '--out', join(folder, 'ca'));
    run(MERIDIAN, 'pki', 'node', 'web', '--authority', join(folder, 'ca'), '--out', join(folder, 'web'), '--name', SERVER);
    const store = join(folder, '.pki/nssdb');
    mkdirSync(store, { recursive: true });
    run('certutil', '-N', '--empty-password', '-d', `sql:${store}`);
    run('certutil', '-A', '-d', `sql:${store}`, '-n', 'test', '-t', 'C,,', '-i', join(folder, 'ca/ca.pem'));
  }

  async appears(file) {
    const watcher = watch(this.folder);
    const ended = once(this.demo, 'exit').then(([code]) => Promise.reject(new Error(`the demo ended (${code}):\n${this.log}`)));
    const written = new Promise((resolve, reject) => {
      const read = () => {
        // The event may come between the file's creation and its content.
        const text = existsSync(file) ? readFileSync(file, 'utf8') : '';
        if (text.endsWith('}')) resolve(JSON.parse(text));
      };
      watcher.on('change', read);
      setTimeout(() => reject(new Error(`the demo is not up after ${READY_WITHIN_MS} ms:\n${this.log}`)), READY_WITHIN_MS).unref();
      read();
    });
    try {
      return await Promise.race([written, ended]);
    } finally {
      watcher.close();
      ended.catch(() => {});
    }
  }

  /** What browsers run as: on the client's host, trusting the test's authority. */
  browser() {
    const path = join(this.folder, 'chromium');
    writeFileSync(path, `#!/bin/sh\nHOME=${this.folder} exec ip netns exec ${this.client} ${process.env.CHROMIUM ?? '/usr/bin/chromium'} "$@"\n`);
    chmodSync(path, 0o755);
    return path;
  }

  /**
   * Lets the client's host reach the server's signalling ports and one port for TURN, and drops everything else, both ways. `turn` is
   * {protocol, port}. If it is a signalling port itself, all of that port is counted as TURN's.
   */
  firewall(turn) {
    const same = (port) => turn.protocol === 'tcp' && port === turn.port;
    const signalling = [this.mesh.page, ...this.mesh.edges.map((edge) => edge.url)].map((url) => Number(new URL(url.replace(/^ws/, 'http')).port)).filter((port) => !same(port));
    const rules = (chain, address, port) => `
      chain ${chain} {
        type filter hook ${chain} priority 0; policy drop;
        ${chain === 'output' ? 'oif' : 'iif'} lo accept
        ip ${address} ${SERVER} ${turn.protocol} ${port} ${turn.port} counter name turn_${chain} accept
        ip ${address} ${SERVER} tcp ${port} { ${signalling.join(', ')} } counter name signalling_${chain} accept
        counter name dropped_${chain} drop
      }`;
    const counters = ['turn', 'signalling', 'dropped'].flatMap((name) => [`counter ${name}_output {}`, `counter ${name}_input {}`]).join('\n');
    const file = join(this.folder, 'rules.nft');
    writeFileSync(file, `flush ruleset\ntable inet firewall {\n${counters}\n${rules('output', 'daddr', 'dport')}\n${rules('input', 'saddr', 'sport')}\n}\n`);
    run('ip', 'netns', 'exec', this.client, 'nft', '-f', file);
  }

  /** Packets by counter: {turn_output: 12, …}. */
  counted() {
    const { nftables } = JSON.parse(run('ip', 'netns', 'exec', this.client, 'nft', '-j', 'list', 'counters'));
    return Object.fromEntries(nftables.filter((one) => one.counter).map(({ counter }) => [counter.name, counter.packets]));
  }

  /** TURN's URLs of one edge, by what has to be let through: {udp: {protocol, port}, tcp, tls}. */
  turn(edge) {
    const { turn } = this.mesh.edges.find((one) => one.id === edge);
    const port = (wanted) => Number(/:(\d+)\?/.exec(turn.find((url) => url.startsWith(wanted[0]) && url.endsWith(wanted[1])))[1]);
    return {
      udp: { protocol: 'udp', port: port(['turn:', '=udp']) },
      tcp: { protocol: 'tcp', port: port(['turn:', '=tcp']) },
      tls: { protocol: 'tcp', port: port(['turns:', '=tcp']) },
    };
  }

  async stop() {
    if (this.demo && this.demo.exitCode === null) {
      this.demo.kill('SIGINT');
      await once(this.demo, 'exit');
    }
    for (const host of [this.server, this.client]) {
      try {
        run('ip', 'netns', 'delete', host);
      } catch {
        // It was never made.
      }
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}
