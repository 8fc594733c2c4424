import { expect, test } from 'vitest';
import { Liveness, type Verdict } from './liveness';

const TICK = 200;

/** Steps virtual time; `packetsAt` says how many packets have arrived by then, `answers` whether requests are answered at once. */
function run(untilMs: number, packetsAt: (ms: number) => number | null, answers: boolean, rttMs: number | null = 10) {
  const liveness = new Liveness(0);
  let asked = 0;
  for (let now = TICK; now <= untilMs; now += TICK) {
    const verdict: Verdict = liveness.tick(now, packetsAt(now), rttMs);
    if (verdict === 'dead') return { deadAtMs: now, asked };
    if (verdict === 'ask') {
      asked++;
      if (answers) liveness.answered(now);
    }
  }
  return { deadAtMs: null, asked };
}

test('flowing media is never questioned', () => {
  expect(run(60_000, (ms) => ms / 20, false)).toEqual({ deadAtMs: null, asked: 0 });
});

test('media that stops and an edge that does not answer is dead within 1.5 s', () => {
  const { deadAtMs } = run(20_000, (ms) => Math.min(ms, 10_000) / 20, false);
  expect(deadAtMs).toBeGreaterThan(10_000);
  expect(deadAtMs).toBeLessThanOrEqual(11_500);
});

test('a meeting where nobody sends anything is asked now and then and lives on', () => {
  const { deadAtMs, asked } = run(60_000, () => 0, true);
  expect(deadAtMs).toBeNull();
  expect(asked).toBeLessThanOrEqual(30);
});

test('everybody muting does not look like death', () => {
  expect(run(30_000, (ms) => Math.min(ms, 5_000) / 20, true).deadAtMs).toBeNull();
});

test('reports that trickle in are not taken for media whose pause means something', () => {
  expect(run(30_000, (ms) => Math.floor(ms / 1_000), true).asked).toBeLessThan(5);
});

test('a far edge is given three round trips to answer', () => {
  const near = run(20_000, (ms) => Math.min(ms, 4_000) / 20, false, 10).deadAtMs ?? 0;
  const far = run(20_000, (ms) => Math.min(ms, 4_000) / 20, false, 400).deadAtMs ?? 0;
  expect(far - near).toBeGreaterThanOrEqual(600);
});

test('a page that slept does not blame the edge', () => {
  const liveness = new Liveness(0);
  expect(liveness.tick(200, 100, 10)).toBe('alive');
  expect(liveness.tick(60_000, 100, 10)).toBe('alive');
  expect(liveness.tick(60_200, 120, 10)).toBe('alive');
});
