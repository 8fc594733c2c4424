import { RoomEvent, type Room } from 'livekit-client';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { readTransport, watchPulse } from './pulse';

const chromium = (packets: number) => new Map<string, Record<string, unknown>>([
  ['T', { type: 'transport', selectedCandidatePairId: 'P', packetsReceived: packets }],
  ['P', { type: 'candidate-pair', currentRoundTripTime: 0.042, bytesReceived: 1 }],
]);
const firefox = new Map<string, Record<string, unknown>>([
  ['A', { type: 'candidate-pair', selected: false, bytesReceived: 9_000 }],
  ['B', { type: 'candidate-pair', selected: true, currentRoundTripTime: 0.007, bytesReceived: 2_500 }],
]);

test('packets and round trip are read from Chromium’s statistics and from Firefox’s', () => {
  expect(readTransport(chromium(7))).toEqual({ packets: 7, rttMs: 42 });
  expect(readTransport(firefox)).toEqual({ packets: 25, rttMs: 7 });
  expect(readTransport(new Map())).toEqual({ packets: null, rttMs: null });
});

let packets = 0;
let edge: 'answers' | 'refuses' = 'answers';
let flowing = true;
let handlers: (() => void)[] = [];
const room = {
  engine: undefined,
  remoteParticipants: new Map(),
  localParticipant: { trackPublications: new Map([['m', { track: { getRTCStatsReport: async () => chromium(flowing ? (packets += 5) : packets) } }]]) },
  on: (event: string, handler: () => void) => void (event === RoomEvent.SignalReconnecting && handlers.push(handler)),
  off: (_: string, handler: () => void) => void (handlers = handlers.filter((held) => held !== handler)),
} as unknown as Room;

/** The pulse was watched on a living edge; the socket falls, and from then on the edge is like this. */
async function socketFalls(then: { edge: typeof edge; flowing: boolean }) {
  const dead = vi.fn();
  const stop = watchPulse(room, 'wss://edge', { rtt: () => undefined, dead });
  await vi.advanceTimersByTimeAsync(50);
  ({ edge, flowing } = then);
  for (const handler of handlers) handler();
  await vi.advanceTimersByTimeAsync(300);
  stop();
  expect(handlers).toEqual([]);
  return dead;
}

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal('navigator', { onLine: true });
  vi.stubGlobal('fetch', async () => {
    if (edge === 'refuses') throw new TypeError('refused');
  });
  [edge, flowing] = ['answers', true];
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

test('a fallen socket of an edge that refuses connections and is silent is a death, known at once', async () => {
  expect(await socketFalls({ edge: 'refuses', flowing: false })).toHaveBeenCalledTimes(1);
});

test('a fallen socket of an edge that answers, or that still sends, is none', async () => {
  expect(await socketFalls({ edge: 'answers', flowing: false })).not.toHaveBeenCalled();
  expect(await socketFalls({ edge: 'refuses', flowing: true })).not.toHaveBeenCalled();
});
