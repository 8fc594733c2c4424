import { RoomEvent, type Room } from 'livekit-client';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Signals } from './signals';

/** Rooms of one meeting, as far as data goes. */
class FakeRoom {
  static all: FakeRoom[] = [];
  private readonly handlers = new Map<string, ((...args: unknown[]) => void)[]>();
  localParticipant;

  constructor(identity: string) {
    this.localParticipant = {
      identity,
      publishData: async (bytes: Uint8Array, { topic, destinationIdentities: to }: { topic: string; destinationIdentities?: string[] }) => {
        for (const room of FakeRoom.all) if (room !== this && (!to || to.includes(room.localParticipant.identity))) room.emit(RoomEvent.DataReceived, bytes, { identity }, 0, topic);
      },
    };
    FakeRoom.all.push(this);
  }

  on(event: string, handler: (...args: unknown[]) => void) {
    this.handlers.set(event, [...(this.handlers.get(event) ?? []), handler]);
    return this;
  }
  emit(event: string, ...args: unknown[]) {
    for (const handler of this.handlers.get(event) ?? []) handler(...args);
  }
}

function join(identity: string): { signals: Signals; room: FakeRoom } {
  const room = new FakeRoom(identity);
  const signals = new Signals();
  signals.plugIn(room as unknown as Room);
  signals.use(room as unknown as Room);
  for (const other of FakeRoom.all) if (other !== room) other.emit(RoomEvent.ParticipantConnected, { identity });
  return { signals, room };
}

beforeEach(() => {
  vi.useFakeTimers({ now: 1_000 });
  FakeRoom.all = [];
});
afterEach(() => void vi.useRealTimers());

test('a raised hand is seen by those who are there and by those who come later, until it is taken down', async () => {
  const ana = join('ana');
  const wei = join('wei');
  await ana.signals.raise(true);
  const cai = join('cai');
  await vi.advanceTimersByTimeAsync(0);
  for (const { signals } of [wei, cai]) expect(signals.handOf('ana', false)).toBe(1_000);
  expect(ana.signals.handOf('ana', true)).toBe(1_000);
  await ana.signals.raise(false);
  for (const { signals } of [wei, cai]) expect(signals.handOf('ana', false)).toBeNull();
});

test('a hand stays up over a change of edge, and goes down with who leaves', async () => {
  const wei = join('wei');
  const ana = join('ana');
  await ana.signals.raise(true);
  wei.room.emit(RoomEvent.ParticipantDisconnected, { identity: 'ana' });
  expect(wei.signals.handOf('ana', false)).toBeNull();
  ana.signals.use(null);
  ana.signals.use(ana.room as unknown as Room);
  await vi.advanceTimersByTimeAsync(0);
  expect(wei.signals.handOf('ana', false)).toBe(1_000);
});

test('a reaction is seen for four seconds', async () => {
  const [ana, wei] = [join('ana'), join('wei')];
  await ana.signals.react('👏');
  expect([ana, wei].map(({ signals }) => signals.reactionOf('ana'))).toEqual(['👏', '👏']);
  await vi.advanceTimersByTimeAsync(4_000);
  expect([ana, wei].map(({ signals }) => signals.reactionOf('ana'))).toEqual([null, null]);
});

test.each(['nonsense', 'null', '7', '{"reaction":"<img>"}', '{"hand":"soon"}', '{"hand":1e999}', `{"hand":1,"x":"${'y'.repeat(300)}"}`])('%s from a stranger shows nothing', async (text) => {
  const wei = join('wei');
  wei.room.emit(RoomEvent.DataReceived, new TextEncoder().encode(text), { identity: 'eve' }, 0, 'meridian.signal');
  expect([wei.signals.handOf('eve', false), wei.signals.reactionOf('eve')]).toEqual([null, null]);
});
