import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { httpJoinApi } from '../api/client';
import { BUDGET_MS, Probes, REGIONS_MAX, type ProbeTarget, type ProbeTools } from './probes';

const target = (region: string): ProbeTarget => ({ region, url: `https://${region}/probe` });
const listOf = (...regions: string[]) => async () => regions.map(target);

/** Answers after `rttMs`, the first time only after twice as much more for the connection; aborted ones reject at once. */
class FakeNetwork implements ProbeTools {
  asked: string[] = [];
  pending = 0;
  timings = new Map<string, number>();
  constructor(private readonly rttMs: (region: string, sample: number) => number, private readonly tells = false) {}

  now = () => Date.now();
  timing = (url: string) => this.timings.get(url);

  fetch(url: string, signal: AbortSignal): Promise<void> {
    this.asked.push(url);
    const [, region = '', sample = ''] = /^https:\/\/(\w+)\/probe\?(\d+)$/.exec(url) ?? [];
    const rtt = this.rttMs(region, Number(sample));
    if (this.tells) this.timings.set(url, rtt);
    this.pending++;
    return new Promise((resolve, reject) => {
      let open = true;
      const end = (settle: () => void) => {
        if (!open) return;
        open = false;
        this.pending--;
        clearTimeout(timer);
        settle();
      };
      const timer = setTimeout(() => end(resolve), sample === '0' ? rtt * 3 : rtt);
      signal.addEventListener('abort', () => end(() => reject(signal.reason)));
    });
  }
}

beforeEach(() => void vi.useFakeTimers());
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

test('the least of the later requests counts: the first pays for the connection, others may have waited', async () => {
  const network = new FakeNetwork((_region, sample) => (sample === 2 ? 20 : 35));
  const probes = new Probes(network);
  const done = probes.run(listOf('fra'));
  await vi.advanceTimersByTimeAsync(BUDGET_MS);
  await done;
  expect(probes.results()).toEqual([{ region: 'fra', rttMs: 20 }]);
});

test('where the browser tells a request’s parts, the first one counts as well', async () => {
  const probes = new Probes(new FakeNetwork(() => 70, true));
  void probes.run(listOf('iad'));
  await vi.advanceTimersByTimeAsync(70 * 3);
  expect(probes.results()).toEqual([{ region: 'iad', rttMs: 70 }]);
});

test('at most three regions are asked', async () => {
  const network = new FakeNetwork(() => 5);
  const probes = new Probes(network);
  const done = probes.run(listOf('fra', 'ams', 'iad', 'sin'));
  await vi.advanceTimersByTimeAsync(BUDGET_MS);
  await done;
  expect(new Set(network.asked.map((url) => new URL(url).host)).size).toBe(REGIONS_MAX);
  expect(probes.results().map(({ region }) => region)).toEqual(['fra', 'ams', 'iad']);
});

test('after 250 ms everything still under way is given up, and what was measured stays', async () => {
  const network = new FakeNetwork((region) => (region === 'fra' ? 10 : 1e9));
  const probes = new Probes(network);
  let over = false;
  void probes.run(listOf('fra', 'hangs')).then(() => (over = true));
  await vi.advanceTimersByTimeAsync(BUDGET_MS - 1);
  expect([over, network.pending]).toEqual([false, 1]);
  await vi.advanceTimersByTimeAsync(1);
  expect([over, network.pending]).toEqual([true, 0]);
  expect(probes.results()).toEqual([{ region: 'fra', rttMs: 10 }]);
  const asked = network.asked.length;
  await vi.advanceTimersByTimeAsync(10_000);
  expect(network.asked.length, 'nothing is asked afterwards').toBe(asked);
});

test('results are there at any moment, without waiting', async () => {
  const probes = new Probes(new FakeNetwork(() => 20));
  expect(probes.results()).toEqual([]);
  void probes.run(listOf('fra'));
  expect(probes.results()).toEqual([]);
  await vi.advanceTimersByTimeAsync(80);
  expect(probes.results()).toEqual([{ region: 'fra', rttMs: 20 }]);
});

test('a page that is left stops asking', async () => {
  const network = new FakeNetwork(() => 20);
  const probes = new Probes(network);
  void probes.run(listOf('fra', 'iad'));
  await vi.advanceTimersByTimeAsync(10);
  probes.stop();
  await vi.advanceTimersByTimeAsync(1_000);
  expect([network.asked.length, network.pending]).toEqual([2, 0]);
  const late = new Probes(network);
  late.stop();
  await late.run(listOf('fra'));
  expect(network.asked.length, 'stopped before the list came').toBe(2);
});

test('a list that fails, and a region that refuses, cost nothing', async () => {
  const probes = new Probes({ now: () => 0, timing: () => undefined, fetch: () => Promise.reject(new TypeError('refused')) });
  await probes.run(() => Promise.reject(new Error('503')));
  await probes.run(listOf('fra'));
  expect(probes.results()).toEqual([]);
});

test('measurements of another day are not sent', async () => {
  const probes = new Probes(new FakeNetwork(() => 20));
  void probes.run(listOf('fra'));
  await vi.advanceTimersByTimeAsync(BUDGET_MS);
  expect(probes.results()).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(11 * 60_000);
  expect(probes.results()).toEqual([]);
});

test('the list is read with care, and a join carries what was measured', async () => {
  const sent: RequestInit[] = [];
  vi.stubGlobal('fetch', async (url: string, init: RequestInit) => {
    sent.push(init);
    const list = { regions: [{ region: 'fra', url: 'https://fra/probe' }, { region: 'x', url: 'javascript:alert(1)' }, { region: '', url: 'https://y/probe' }, null] };
    return Response.json(url.endsWith('/probes') ? list : { edge: { id: 'fra', region: 'fra', url: 'ws://fra' }, token: 't' });
  });
  const api = httpJoinApi();
  expect(await api.probes()).toEqual([target('fra')]);
  await api.join('abc-defg-hij', { name: 'Ana', probes: [{ region: 'fra', rttMs: 12.34 }] });
  await api.join('abc-defg-hij', { name: 'Ana', probes: [] });
  expect(sent.slice(1).map(({ body }) => JSON.parse(String(body)).probes)).toEqual([[{ region: 'fra', rtt_ms: 12.34 }], undefined]);
});
