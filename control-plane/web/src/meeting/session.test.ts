import { ConnectionState, DisconnectReason, LocalAudioTrack, LocalVideoTrack, RoomEvent, RpcError, Track, type LocalTrack, type Room } from 'livekit-client';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { ApiError } from '../api/errors';
import type { JoinAnswer, JoinApi, JoinRequest } from '../api/client';
import { MeetingSession } from './session';

/** As much of a LiveKit room as the session touches. `dead` edges refuse to connect, `slow` ones answer when they are told to (`land`). */
class FakeRoom {
  static dead = new Set<string>();
  static slow = new Set<string>();
  static made: FakeRoom[] = [];
  /** What the next room's people answer when they are asked for a chat line. */
  static answers: (() => Promise<string>) = async () => 'seen';
  url = '';
  token = '';
  handOver: (told: boolean) => void = () => undefined;
  left = false;
  canPlaybackAudio = true;
  remoteParticipants = new Map<string, unknown>();
  land: () => void = () => undefined;
  words: { id: string; text: string }[] = [];
  asked: string[] = [];
  localParticipant = {
    ...person('ana'), isLocal: true, isMicrophoneEnabled: false,
    publishTrack: vi.fn((track: LocalTrack) => {
      this.localParticipant.trackPublications.set(track.source, { track });
      this.note(track.source, !track.isMuted);
    }),
    setMicrophoneEnabled: vi.fn(async (on: boolean) => this.note(Track.Source.Microphone, on)),
    setCameraEnabled: vi.fn(async (on: boolean) => this.note(Track.Source.Camera, on)),
    streamText: vi.fn(async ({ streamId }: { streamId: string }) => ({ write: async (text: string) => void this.words.push({ id: streamId, text }), close: async () => undefined })),
    performRpc: vi.fn(async ({ destinationIdentity }: { destinationIdentity: string }) => {
      this.asked.push(destinationIdentity);
      return FakeRoom.answers();
    }),
  };
  engine = { close: vi.fn(async () => undefined), client: { rtt: 0 }, fullReconnectOnNext: false };
  private readonly handlers = new Map<string, ((...args: never[]) => void)[]>();

  constructor() {
    FakeRoom.made.push(this);
  }

  registerTextStreamHandler() {}
  registerRpcMethod() {}
  isRecording = false;
  getActiveDevice() {
    return undefined;
  }
  private note(source: Track.Source, on: boolean) {
    if (source === Track.Source.Microphone) this.localParticipant.isMicrophoneEnabled = on;
    if (source === Track.Source.Camera) this.localParticipant.isCameraEnabled = on;
  }
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
    if (FakeRoom.slow.has(url)) await new Promise<void>((resolve) => (this.land = resolve));
    this.emit(RoomEvent.SignalConnected);
  }
  async disconnect() {
    this.left = true;
  }
}

function person(identity: string) {
  return {
    identity, name: identity, isLocal: false, isMicrophoneEnabled: true, isCameraEnabled: false, isSpeaking: false, connectionQuality: 'excellent',
    attributes: {}, audioTrackPublications: new Map(), trackPublications: new Map<string, unknown>(), getTrackPublication: () => undefined,
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
  FakeRoom.slow.clear();
  FakeRoom.answers = async () => 'seen';
  FakeRoom.made = [];
  joins = [];
  answer = () => ANSWER;
  const api: JoinApi = {
    create: () => Promise.reject(new Error('unused')),
    meeting: () => Promise.reject(new Error('unused')),
    probes: async () => [],
    recordingToken: () => Promise.reject(new Error('unused')),
    join: async (_code, request) => {
      joins.push(request);
      return answer();
    },
  };
  session = new MeetingSession({ api, makeRoom: (handOver) => Object.assign(new FakeRoom(), { handOver }) as unknown as Room, code: 'abc-defg-hij', title: '', name: 'Ana', passcode: undefined, from: 'fra', relay: undefined });
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

test('an edge that says to go elsewhere serves until the next brings as much, and a moment longer for the others', async () => {
  await session.join([]);
  const first = latest();
  const wei = { ...person('wei'), trackPublications: new Map<string, unknown>([['TR_1', { source: 'microphone', isMuted: false, track: { mediaStreamTrack: { muted: false } } }]]) };
  first.remoteParticipants.set('wei', wei);
  await settle();
  answer = () => ({ ...ANSWER, edge: address('iad'), token: 'second' });
  first.handOver(true);
  await settle(200);
  const second = latest();
  expect(second).toMatchObject({ url: 'ws://iad', token: 'second' });
  expect(session.room, 'nothing comes from there yet').toBe(first);
  expect(session.snapshot()).toMatchObject({ phase: 'connected', placement: { edgeId: 'fra' } });
  first.emit(RoomEvent.Disconnected, DisconnectReason.DUPLICATE_IDENTITY);
  expect(session.snapshot().phase, 'our own doing').not.toBe('ended');
});

test('once the next edge brings everything it is the one on the screen; the old one is let go a moment later, without a goodbye', async () => {
  await session.join([]);
  const first = latest();
  const wei = { ...person('wei'), trackPublications: new Map<string, unknown>([['TR_1', { source: 'microphone', isMuted: false, track: { mediaStreamTrack: { muted: false } } }]]) };
  first.remoteParticipants.set('wei', wei);
  answer = () => ({ ...ANSWER, edge: address('iad'), token: 'second' });
  first.handOver(true);
  await settle(100);
  latest().remoteParticipants.set('wei', wei);
  await settle(100);
  expect(session.snapshot()).toMatchObject({ phase: 'connected', placement: { edgeId: 'iad' } });
  expect(first.engine.close, 'others may still receive it').not.toHaveBeenCalled();
  await settle(3_000);
  expect(first.engine.close).toHaveBeenCalled();
  expect(rooms()).toHaveLength(2);
});

test('whoever is told to go and finds no other edge comes back as after a failure', async () => {
  await session.join([]);
  for (const url of ['ws://iad', 'ws://sin']) FakeRoom.dead.add(url);
  latest().handOver(true);
  await settle(500);
  expect(latest().url, 'the edge at hand is better than none').toBe('ws://fra');
  expect(session.snapshot().phase).toBe('connected');
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

test('a join that was passed over and lands after the one that won is not the end, and is told to go after another', async () => {
  FakeRoom.slow.add('ws://fra');
  const joining = session.join([]);
  await settle(5_100);
  await joining;
  const [late, winner] = rooms() as [FakeRoom, FakeRoom];
  expect([late.url, winner.url, session.room]).toEqual(['ws://fra', 'ws://iad', winner]);
  expect(late.left, 'nothing has landed yet').toBe(false);
  late.land();
  await settle();
  expect(late.left, 'as the newest it would take the person with it').toBe(false);
  winner.emit(RoomEvent.Disconnected, DisconnectReason.DUPLICATE_IDENTITY);
  await settle(1_100);
  expect(session.snapshot()).toMatchObject({ phase: 'connected', end: null });
  expect(late.left).toBe(true);
  await settle(60_000);
  latest().emit(RoomEvent.Disconnected, DisconnectReason.DUPLICATE_IDENTITY);
  await settle();
  expect(session.snapshot().end, 'long after, it is somebody else').toBe('duplicate');
});

test('one that lands late and replaces nobody is told to go after a while, and at once when the person has left', async () => {
  FakeRoom.slow.add('ws://fra').add('ws://iad');
  const joining = session.join([]);
  await settle(10_100);
  await joining;
  const [first, second] = rooms() as [FakeRoom, FakeRoom];
  first.land();
  await settle(5_100);
  expect([first.left, session.snapshot().phase]).toEqual([true, 'connected']);
  await session.actions.leave();
  second.land();
  await settle();
  expect(second.left).toBe(true);
});

test('an edge that lets the person in and brings no media is told to go once another has won, not before', async () => {
  const connect = FakeRoom.prototype.connect;
  vi.spyOn(FakeRoom.prototype, 'connect').mockImplementationOnce(async function (this: FakeRoom, url: string, token: string) {
    await connect.call(this, url, token);
    await new Promise(() => undefined);
  });
  FakeRoom.slow.add('ws://iad');
  const joining = session.join([]);
  await settle(8_100);
  const [first, second] = rooms() as [FakeRoom, FakeRoom];
  expect([first.left, second.url]).toEqual([false, 'ws://iad']);
  second.land();
  await joining;
  await settle();
  expect([first.left, second.left]).toEqual([true, false]);
});

test('a stay that was handed to another tab ends when that tab has joined', async () => {
  FakeRoom.slow.add('ws://fra');
  const joining = session.join([]);
  await settle(5_100);
  await joining;
  expect(session.stay().handOver()).toBe('first');
  latest().emit(RoomEvent.Disconnected, DisconnectReason.DUPLICATE_IDENTITY);
  await settle();
  expect(session.snapshot().end).toBe('duplicate');
});

test('people who lost their edge too stay on the screen until they are back, and nobody is told that they left or joined', async () => {
  await session.join([]);
  const first = latest();
  for (const name of ['wei', 'cai']) first.remoteParticipants.set(name, person(name));
  first.emit(RoomEvent.ParticipantActive);
  await settle();
  first.emit(RoomEvent.Disconnected, undefined);
  await settle();
  const second = latest();
  const seen = () => session.snapshot().people.map(({ identity }) => identity);
  expect(seen()).toEqual(['ana', 'wei', 'cai']);
  second.remoteParticipants.set('wei', person('wei'));
  second.emit(RoomEvent.ParticipantConnected, person('wei'));
  await settle();
  expect(seen()).toEqual(['ana', 'wei', 'cai']);
  expect(session.snapshot().notices).toEqual([]);
  await settle(12_100);
  expect(seen(), 'who does not come back has left').toEqual(['ana', 'wei']);
  expect(session.snapshot().notices).toMatchObject([{ text: 'cai left' }]);
});

test.each([
  ['says goodbye', DisconnectReason.CLIENT_INITIATED, ['ana']],
  ['vanishes', DisconnectReason.UNKNOWN_REASON, ['ana', 'wei']],
])('somebody who %s', async (_, reason, seen) => {
  await session.join([]);
  const room = latest();
  room.remoteParticipants.set('wei', person('wei'));
  room.emit(RoomEvent.ParticipantActive);
  await settle();
  room.remoteParticipants.delete('wei');
  room.emit(RoomEvent.ParticipantDisconnected, person('wei'), reason);
  await settle();
  expect(session.snapshot().people.map(({ identity }) => identity)).toEqual(seen);
});

test('what is switched off while there is no room is off in the next', async () => {
  vi.stubGlobal('MediaStream', class {});
  const mic = microphone();
  await session.join([mic]);
  await settle();
  let release: (value: JoinAnswer) => void = () => undefined;
  answer = () => new Promise((resolve) => (release = resolve));
  latest().emit(RoomEvent.Disconnected, undefined);
  await settle();
  await session.actions.setMic(false);
  await settle();
  expect(session.snapshot()).toMatchObject({ phase: 'rejoining', micOn: false });
  release(ANSWER);
  await settle();
  expect(latest().localParticipant.publishTrack.mock.calls[0]?.[0]).toMatchObject({ source: Track.Source.Microphone, isMuted: true });
  expect(session.snapshot()).toMatchObject({ phase: 'connected', micOn: false });
});

test('a screen that is taken back while there is no room is not in the next', async () => {
  vi.stubGlobal('MediaStream', class {});
  const screen = Object.assign(microphone(), { source: Track.Source.ScreenShare });
  await session.join([screen]);
  await settle();
  let release: (value: JoinAnswer) => void = () => undefined;
  answer = () => new Promise((resolve) => (release = resolve));
  latest().emit(RoomEvent.Disconnected, undefined);
  await settle();
  expect(session.snapshot()).toMatchObject({ phase: 'rejoining', sharing: true });
  await session.actions.setSharing(false);
  await settle();
  expect(session.snapshot().sharing).toBe(false);
  release(ANSWER);
  await settle();
  expect(latest().localParticipant.publishTrack).not.toHaveBeenCalled();
  expect(screen.mediaStreamTrack.stop).toHaveBeenCalled();
});

function microphone(): LocalTrack {
  const capture = Object.assign(new EventTarget(), { kind: 'audio', readyState: 'live', id: 'microphone', enabled: true, stop: vi.fn(), getSettings: () => ({}), getConstraints: () => ({}), clone: () => capture });
  return Object.assign(new LocalAudioTrack(capture as unknown as MediaStreamTrack, undefined, false), { source: Track.Source.Microphone });
}

const chat = () => session.snapshot().chat.map(({ text, state }) => ({ text, state }));
async function joinWithWei() {
  await session.join([]);
  latest().remoteParticipants.set('wei', person('wei'));
}

test('a chat line is sent when somebody who should have it says so', async () => {
  await joinWithWei();
  let confirm: (answer: string) => void = () => undefined;
  FakeRoom.answers = () => new Promise((resolve) => (confirm = resolve));
  void session.actions.sendChat('  hello ');
  await settle(1_000);
  expect(chat()).toEqual([{ text: 'hello', state: 'sending' }]);
  confirm('seen');
  await settle();
  expect(chat()).toEqual([{ text: 'hello', state: 'sent' }]);
});

test('words that the lost edge may not have passed on are sent once more over the next, under the same id', async () => {
  await joinWithWei();
  FakeRoom.answers = () => new Promise(() => undefined);
  void session.actions.sendChat('hello');
  await settle(100);
  const [first] = rooms() as [FakeRoom];
  FakeRoom.answers = async () => 'seen';
  first.emit(RoomEvent.Disconnected, undefined);
  await settle(100);
  expect(latest()).not.toBe(first);
  expect([...first.words, ...latest().words].map(({ text }) => text)).toEqual(['hello', 'hello']);
  expect(latest().words[0]?.id).toBe(first.words[0]?.id);
  expect(chat()).toEqual([{ text: 'hello', state: 'sent' }]);
});

test('words that nobody confirms twice are kept and marked, and can be sent again', async () => {
  await joinWithWei();
  FakeRoom.answers = async () => 'missing';
  await session.actions.sendChat('hello');
  await settle();
  expect(latest().words).toHaveLength(2);
  expect(chat()).toEqual([{ text: 'hello', state: 'failed' }]);
  FakeRoom.answers = async () => 'seen';
  await session.actions.retryChat(session.snapshot().chat[0]?.id ?? '');
  await settle();
  expect(chat()).toEqual([{ text: 'hello', state: 'sent' }]);
  expect(new Set(latest().words.map(({ id }) => id)).size, 'one id, so that nobody sees it twice').toBe(1);
});

test('other SDKs do not know the question, and their refusal comes behind the words', async () => {
  await joinWithWei();
  FakeRoom.answers = () => Promise.reject(new RpcError(RpcError.ErrorCode.UNSUPPORTED_METHOD, ''));
  await session.actions.sendChat('hello');
  await settle();
  expect(chat()).toEqual([{ text: 'hello', state: 'sent' }]);
  expect(latest().words).toHaveLength(1);
});

test('in a crowd six people are asked, of different points of presence first', async () => {
  await session.join([]);
  const room = latest();
  for (let n = 0; n < 100; n++) room.remoteParticipants.set(`p${n}`, { ...person(`p${n}`), attributes: { 'meridian.pop': n < 50 ? 'fra' : n < 99 ? 'iad' : 'sin' } });
  await session.actions.sendChat('hello');
  expect(room.asked).toHaveLength(6);
  expect(room.asked).toEqual(expect.arrayContaining(['p0', 'p50', 'p99']));
});

test('words written while there is no room go over the next one', async () => {
  await session.join([]);
  let release: (value: JoinAnswer) => void = () => undefined;
  answer = () => new Promise((resolve) => (release = resolve));
  latest().emit(RoomEvent.Disconnected, undefined);
  await settle();
  await session.actions.sendChat('hello');
  await settle();
  expect(chat()).toEqual([{ text: 'hello', state: 'sending' }]);
  release(ANSWER);
  await settle();
  expect(latest().words).toMatchObject([{ text: 'hello' }]);
  expect(chat()).toEqual([{ text: 'hello', state: 'sent' }]);
});
