import { ConnectionState, DisconnectReason, LocalVideoTrack, RoomEvent, type LocalTrack, type Room } from 'livekit-client';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { ApiError } from '../api/errors';
import type { JoinAnswer, JoinApi, JoinRequest } from '../api/client';
import { MeetingSession } from './session';

/** As much of a LiveKit room as the session touches. `dead` edges refuse to connect. */
class FakeRoom {
  static dead = new Set<string>();
  static made: FakeRoom[] = [];
  url = '';
  token = '';
  left = false;
  canPlaybackAudio = true;
  remoteParticipants = new Map<string, unknown>();
  localParticipant = { ...person('ana'), isLocal: true, trackPublications: new Map<string, unknown>(), publishTrack: vi.fn((track: LocalTrack) => void this.localParticipant.trackPublications.set(track.source, { track })), sendText: vi.fn(async () => undefined) };
  engine = { close: vi.fn(async () => undefined), client: { rtt: 0 }, fullReconnectOnNext: false };
  private readonly handlers = new Map<string, ((...args: never[]) => void)[]>();

  constructor() {
    FakeRoom.made.push(this);
  }

  registerTextStreamHandler() {}
  on(event: string, handler: (...args: never[]) => void) {
    this.handlers.set(event, [...(this.handlers.get(event) ?? []), handler]);
    return this;
  }
  off(event: string, handler: (...args: never[]) => void) {
    this.handlers.set(event, (this.handlers.get(event) ?? []).filter((held) => held !== handler));
    return this;
  }
  removeAllListeners() {
    this.handlers.clear();
  }
  emit(event: string, ...args: unknown[]) {
    for (const handler of this.handlers.get(event) ?? []) handler(...(args as never[]));
  }
  async connect(url: string, token: string) {
    this.url = url;
    this.token = token;
    if (FakeRoom.dead.has(url)) throw new Error('refused');
  }
  async disconnect() {
    this.left = true;
  }
}

function person(identity: string) {
  return {
    identity, name: identity, isLocal: false, isMicrophoneEnabled: true, isCameraEnabled: false, isSpeaking: false, connectionQuality: 'excellent',
    attributes: {}, audioTrackPublications: new Map(), getTrackPublication: () => undefined,
  };
}

const address = (id: string) => ({ id, region: id, url: `ws://${id}` });
const ANSWER: JoinAnswer = { edge: address('fra'), alternates: [address('iad'), address('sin')], iceServers: [], token: 'first', identity: 'ana', room: 'r', reasons: ['near'] };

let joins: JoinRequest[];
let answer: () => JoinAnswer | Promise<JoinAnswer>;
let session: MeetingSession;
const rooms = () => FakeRoom.made;
const latest = () => FakeRoom.made.at(-1) as FakeRoom;

beforeEach(async () => {
  vi.useFakeTimers();
  Object.assign(globalThis, { addEventListener: () => undefined, removeEventListener: () => undefined });
  vi.stubGlobal('fetch', async () => new Response());
  FakeRoom.dead.clear();
  FakeRoom.made = [];
  joins = [];
  answer = () => ANSWER;
  const api: JoinApi = {
    create: () => Promise.reject(new Error('unused')),
    meeting: () => Promise.reject(new Error('unused')),
    probes: async () => [],
    join: async (_code, request) => {
      joins.push(request);
      return answer();
    },
  };
  session = new MeetingSession({ api, makeRoom: () => new FakeRoom() as unknown as Room, code: 'abc-defg-hij', title: '', name: 'Ana', passcode: undefined, from: 'fra', relay: undefined });
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

const settle = (ms = 0) => vi.advanceTimersByTimeAsync(ms);

test('joins the edge it was given', async () => {
  await session.join([]);
  expect(latest().url).toBe('ws://fra');
  await settle();
  expect(session.snapshot()).toMatchObject({ phase: 'connected', placement: { edgeId: 'fra', alternates: ['iad', 'sin'], reasons: ['near'] } });
});

test('an edge that cannot be reached at the first join is replaced by an alternate', async () => {
  FakeRoom.dead.add('ws://fra');
  await session.join([]);
  expect(latest().url).toBe('ws://iad');
});

test('with every edge out of reach the join fails and can be repeated', async () => {
  for (const url of ['ws://fra', 'ws://iad', 'ws://sin']) FakeRoom.dead.add(url);
  await expect(session.join([])).rejects.toMatchObject({ problem: 'unavailable' });
  FakeRoom.dead.clear();
  await session.join([]);
  expect(session.snapshot().phase).toBe('connected');
});

test('a lost edge is replaced by another, with the same identity, and everybody stays on the screen meanwhile', async () => {
  await session.join([]);
  const first = latest();
  first.remoteParticipants.set('wei', person('wei'));
  first.emit(RoomEvent.ParticipantActive);
  await settle();
  let release: (value: JoinAnswer) => void = () => undefined;
  answer = () => new Promise((resolve) => (release = resolve));
  FakeRoom.dead.add('ws://fra');
  first.emit(RoomEvent.Disconnected, undefined);
  await settle();
  expect(session.snapshot()).toMatchObject({ phase: 'rejoining', people: [{ identity: 'ana' }, { identity: 'wei' }] });
  expect(first.engine.close, 'held until the next edge is joined').not.toHaveBeenCalled();
  release({ ...ANSWER, token: 'second' });
  await settle();
  expect(latest()).toMatchObject({ url: 'ws://iad', token: 'second' });
  expect(joins[1]).toMatchObject({ previousToken: 'first', avoid: ['fra'] });
  expect(session.snapshot()).toMatchObject({ phase: 'connected', placement: { edgeId: 'iad' } });
  expect(first.engine.close).toHaveBeenCalled();
});

test('what is captured goes on in the next room, although the lost one has forgotten it', async () => {
  const stop = vi.fn();
  const capture = Object.assign(new EventTarget(), { kind: 'video', readyState: 'live', id: 'camera', enabled: true, stop, getSettings: () => ({}), getConstraints: () => ({}), clone: () => capture });
  vi.stubGlobal('MediaStream', class {});
  const camera = new LocalVideoTrack(capture as unknown as MediaStreamTrack, undefined, false) as LocalTrack;
  await session.join([camera]);
  const first = latest();
  await settle();
  first.localParticipant.trackPublications.clear();
  first.emit(RoomEvent.Disconnected, undefined);
  await settle();
  const [sent] = latest().localParticipant.publishTrack.mock.calls[0] as [LocalTrack];
  expect(latest()).not.toBe(first);
  expect(sent.mediaStreamTrack).toBe(capture);
  expect(sent).not.toBe(camera);
  expect(stop).not.toHaveBeenCalled();
  await settle();
  await session.actions.leave();
  expect(stop).toHaveBeenCalled();
});

test('with the control plane down the alternates and the token at hand serve', async () => {
  await session.join([]);
  answer = () => Promise.reject(new ApiError('unreachable', 0, ''));
  FakeRoom.dead.add('ws://fra');
  latest().emit(RoomEvent.Disconnected, DisconnectReason.SERVER_SHUTDOWN);
  await settle();
  expect(latest()).toMatchObject({ url: 'ws://iad', token: 'first' });
});

test('a full reconnect that livekit-client begins is taken over', async () => {
  await session.join([]);
  latest().emit(RoomEvent.ConnectionStateChanged, ConnectionState.Reconnecting);
  await settle();
  expect(rooms()).toHaveLength(2);
  expect(session.snapshot().phase).toBe('connected');
});

test('a resumed socket changes nothing but the phase', async () => {
  await session.join([]);
  latest().emit(RoomEvent.ConnectionStateChanged, ConnectionState.SignalReconnecting);
  await settle();
  expect(session.snapshot().phase).toBe('resuming');
  latest().emit(RoomEvent.ConnectionStateChanged, ConnectionState.Connected);
  await settle();
  expect(session.snapshot().phase).toBe('connected');
  expect(rooms()).toHaveLength(1);
});

test('after a minute without any edge the connection has dropped', async () => {
  await session.join([]);
  answer = () => Promise.reject(new ApiError('unreachable', 0, ''));
  for (const url of ['ws://fra', 'ws://iad', 'ws://sin']) FakeRoom.dead.add(url);
  latest().emit(RoomEvent.Disconnected, undefined);
  await settle(70_000);
  expect(session.snapshot()).toMatchObject({ phase: 'ended', end: 'dropped' });
});

test('a meeting that ended while the connection was gone ends here too', async () => {
  await session.join([]);
  answer = () => Promise.reject(new ApiError('ended', 410, ''));
  latest().emit(RoomEvent.Disconnected, undefined);
  await settle();
  expect(session.snapshot()).toMatchObject({ phase: 'ended', end: 'ended' });
});

test.each([
  [DisconnectReason.PARTICIPANT_REMOVED, 'removed'],
  [DisconnectReason.DUPLICATE_IDENTITY, 'duplicate'],
  [DisconnectReason.ROOM_DELETED, 'ended'],
])('being told to go (%i) is final', async (reason, end) => {
  await session.join([]);
  latest().emit(RoomEvent.Disconnected, reason);
  await settle();
  expect(session.snapshot()).toMatchObject({ phase: 'ended', end });
  expect(rooms()).toHaveLength(1);
});

test('leaving while rejoining stops the search', async () => {
  await session.join([]);
  for (const url of ['ws://fra', 'ws://iad', 'ws://sin']) FakeRoom.dead.add(url);
  latest().emit(RoomEvent.Disconnected, undefined);
  await settle(500);
  await session.actions.leave();
  const tried = rooms().length;
  await settle(30_000);
  expect(rooms()).toHaveLength(tried);
  expect(session.snapshot().end).toBe('left');
});

test('a chat line that cannot be sent says so and can be sent again', async () => {
  await session.join([]);
  latest().localParticipant.sendText.mockRejectedValueOnce(new Error('gone'));
  await session.actions.sendChat('  hello ');
  await settle();
  expect(session.snapshot().chat).toMatchObject([{ text: 'hello', own: true, state: 'failed' }]);
  await session.actions.retryChat(session.snapshot().chat[0]?.id ?? '');
  await settle();
  expect(session.snapshot().chat).toMatchObject([{ text: 'hello', state: 'sent' }]);
});
