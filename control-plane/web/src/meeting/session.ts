/**
 * One person's stay in one meeting: asks the join API for an edge, connects, and keeps the stay alive when sockets, edges or networks die.
 * The screen sees a snapshot that survives all of that; rooms (livekit-client) come and go underneath.
 */
import { ConnectionState, RoomEvent, Track, type DisconnectReason, type LocalTrack, type Room } from 'livekit-client';
import { ApiError, sentence } from '../api/errors';
import type { EdgeAddress, JoinAnswer, JoinApi } from '../api/client';
import { rememberMedia } from '../media/choices';
import { candidates, type Candidate } from './candidates';
import { Changes } from './changes';
import { rtcConfigFor, type Relay } from './ice';
import { ChatLog } from './chat';
import { expectHandovers, receivesAll } from './handover';
import { Joining, type Patience } from './joining';
import type { EndReason, MeetingActions, MeetingSnapshot, MeetingSource, Notice, Phase, Placement } from './model';
import { Presence } from './presence';
import type { Measurement } from './probes';
import { record, RecordingError } from './recording';
import { Signals } from './signals';
import { watchPulse } from './pulse';
import { abandon, endOf, type HandOver, isScreen, publishedTracks, salvage, setSharing } from './room';
import type { Stay } from './tabs';
import { audioOf, devicesOf, peopleOf, soundIsHeldBack } from './roomView';

/** How long rejoining is tried before the person is told that the connection dropped. */
const REJOIN_BUDGET_MS = 60_000;
/** While failing over, the join API gets this long before the alternates we already have are tried. */
const ASK_FIRST_MS = 400;
const ASK_LATER_MS = 4_000;

/** In the first round of a rejoin speed wins: another edge is only a second away. */
const HURRIED: Patience = { socketMs: 1_000, mediaMs: 2_500 };
const PATIENT: Patience = { socketMs: 5_000, mediaMs: 8_000 };

/** Whoever moves waits so long for the new edge to bring what the old one does, */
const AS_GOOD_MS = 3_000;
/** and what is sent to the old one goes on for so long, until others receive the new. */
const BOTH_MS = 2_500;

const NOTICE_MS = 5_000;
const NOTICES_MAX = 4;

const VIEW_EVENTS = [
  RoomEvent.ParticipantConnected, RoomEvent.ParticipantDisconnected, RoomEvent.TrackSubscribed, RoomEvent.TrackUnsubscribed,
  RoomEvent.TrackPublished, RoomEvent.TrackUnpublished, RoomEvent.TrackMuted, RoomEvent.TrackUnmuted, RoomEvent.LocalTrackPublished,
  RoomEvent.LocalTrackUnpublished, RoomEvent.ActiveSpeakersChanged, RoomEvent.ConnectionQualityChanged, RoomEvent.ParticipantNameChanged,
  RoomEvent.ParticipantAttributesChanged, RoomEvent.AudioPlaybackStatusChanged, RoomEvent.RecordingStatusChanged, RoomEvent.ParticipantActive, RoomEvent.ActiveDeviceChanged, RoomEvent.Moved,
] as const;

export interface SessionOptions {
  api: JoinApi;
  makeRoom: (handOver: HandOver) => Room;
  code: string;
  title: string;
  name: string;
  passcode: string | undefined;
  from: string | undefined;
  relay: Relay | undefined;
  /** Of whoever started the meeting in this browser. */
  hostKey?: string | null;
  /** The token of a stay in another tab, to go on with it here. */
  continued?: string | undefined;
  /** Round trips measured so far; asked for at the first join. */
  probes?: () => Measurement[];
}

export class MeetingSession extends Changes implements MeetingSource {
  room: Room | null = null;
  private readonly chat = new ChatLog();
  private readonly signals = new Signals();
  private readonly joining = new Joining();
  private readonly presence = new Presence({ joined: (name) => this.notify(`${name} joined`), left: (name) => this.notify(`${name} left`) });
  private phase: Phase = 'joining';
  private end: EndReason | null = null;
  /** What is captured and sent; survives the room, which forgets its publications before it says that it is disconnected. */
  private captures: LocalTrack[] = [];
  private publishing = false;
  /** What the person wants on. Between two rooms this is all there is to switch. */
  private wanted = { microphone: false, camera: false };
  /** Another tab has the token: it is about to take this one's place. */
  private handedOver = false;
  /** The room being replaced: let go once the next one is joined, or the meeting is over. */
  private lost: Room | null = null;
  /** The room that is being left for another edge while it still serves. */
  private leaving: Room | null = null;
  private answer: JoinAnswer | null = null;
  private edge: EdgeAddress | null = null;
  private rttMs: number | null = null;
  private notices: Notice[] = [];
  private nextNotice = 1;
  private stopPulse: () => void = () => undefined;
  private wakeUp: () => void = () => undefined;
  private refreshQueued = false;
  private current: MeetingSnapshot;

  constructor(private readonly options: SessionOptions) {
    super();
    this.current = this.read(null);
    this.chat.subscribe(() => this.refresh());
    this.signals.subscribe(() => this.refresh());
  }

  readonly snapshot = (): MeetingSnapshot => this.current;

  /** The first join. Rejects with an ApiError (or the edge's refusal) and leaves nothing behind, so that it can simply be called again. */
  async join(tracks: LocalTrack[]): Promise<void> {
    const { api, code, name, passcode, from, continued, probes } = this.options;
    const on = (source: Track.Source) => tracks.some((track) => track.source === source && !track.isMuted);
    this.wanted = { microphone: on(Track.Source.Microphone), camera: on(Track.Source.Camera) };
    const answer = await api.join(code, { name, passcode, from, previousToken: continued, probes: probes?.() ?? [] });
    if (!(await this.tryEach(answer, candidates(answer, null, null, Date.now()), PATIENT))) throw new ApiError('unavailable', 0, '');
    await this.publish(tracks);
  }

  readonly actions: MeetingActions = {
    setMic: (on) => this.want('microphone', on),
    setCamera: (on) => this.want('camera', on),
    setSharing: (on) => this.share(on),
    useDevice: (kind, id) => this.useDevice(kind, id),
    sendChat: (text) => this.chat.send(text),
    retryChat: (id) => this.chat.retry(id),
    raiseHand: (up) => this.signals.raise(up),
    react: (reaction) => this.signals.react(reaction),
    record: (on) => this.record(on),
    allowSound: async () => void (await this.room?.startAudio()),
    dismiss: (notice) => this.dismiss(notice),
    leave: async () => {
      const room = this.room;
      this.finish('left');
      await room?.disconnect();
    },
  };

  /** For other tabs of this browser. */
  stay(): Stay {
    const handOver = () => {
      if (!this.answer || this.phase === 'ended') return null;
      this.handedOver = true;
      return this.answer.token;
    };
    return { code: this.options.code, name: this.options.name, handOver };
  }

  private async want(what: 'microphone' | 'camera', on: boolean): Promise<void> {
    this.wanted[what] = on;
    rememberMedia({ [what]: on });
    // Off means off at once, also while there is no room to tell.
    if (!this.room && !on) await Promise.all(this.captures.filter((track) => track.source === what && !track.isMuted).map((track) => track.mute()));
    await this.withDevice(what, (room) => this.switchTo(room, what));
    // A device that could not be switched stays as it is.
    if (this.room) this.wanted[what] = isOn(this.room, what);
    this.refresh();
  }

  private switchTo(room: Room, what: 'microphone' | 'camera'): Promise<unknown> {
    const me = room.localParticipant;
    return what === 'microphone' ? me.setMicrophoneEnabled(this.wanted.microphone) : me.setCameraEnabled(this.wanted.camera);
  }

  private async record(on: boolean): Promise<void> {
    const { api, code, hostKey } = this.options;
    if (!hostKey || !this.edge) return;
    try {
      await record(api, code, hostKey, this.edge.url, on);
    } catch (error) {
      this.notify(error instanceof RecordingError ? error.message : sentence(error), 'warning');
    }
  }

  private async share(on: boolean): Promise<void> {
    // Off means off at once here too: the next room gets no screen.
    if (!this.room && !on) {
      for (const track of this.captures) if (isScreen(track)) track.stop();
      this.captures = this.captures.filter((track) => !isScreen(track));
    }
    await this.withDevice('screen', (room) => setSharing(room, on));
  }

  private async useDevice(kind: MediaDeviceKind, id: string): Promise<void> {
    rememberMedia({ [DEVICES[kind].remembered]: id });
    await this.withDevice(DEVICES[kind].name, (room) => room.switchActiveDevice(kind, id));
  }

  private async withDevice(what: string, use: (room: Room) => Promise<unknown>): Promise<void> {
    try {
      if (this.room) await use(this.room);
    } catch (error) {
      // Closing the browser's own picker is an answer, not a fault.
      const cancelled = what === 'screen' && error instanceof DOMException && error.name === 'NotAllowedError';
      if (!cancelled) this.notify(what === 'screen' ? 'The screen could not be shared.' : `The ${what} could not be used. Check the browser’s permission for this page.`, 'warning');
    }
    this.refresh();
  }

  // ---- connecting -----------------------------------------------------------------------------------------------------------------

  private async tryEach(answer: JoinAnswer, list: Candidate[], patience: Patience): Promise<boolean> {
    for (const candidate of list) {
      const room = await this.attempt(answer, candidate, patience);
      if (!room && this.phase === 'ended') return false;
      if (!room) continue;
      // The person may have pressed Leave while this edge was answering.
      if (this.phase === 'ended') {
        void room.disconnect();
        return false;
      }
      this.adopt(room, candidate, answer);
      return true;
    }
    return false;
  }

  private async attempt(answer: JoinAnswer, candidate: Candidate, patience: Patience): Promise<Room | null> {
    const room: Room = this.options.makeRoom((told) => room === this.room && void (told ? this.move() : this.rejoin()));
    this.attach(room);
    const rtcConfig = rtcConfigFor(answer, candidate.edge, this.options.relay);
    return (await this.joining.attempt(room, candidate.edge.url, candidate.token, patience, rtcConfig)) ? room : null;
  }

  /** Handlers that must exist before the first message; the view changes only once the room is adopted. */
  private attach(room: Room): void {
    this.chat.plugIn(room);
    this.signals.plugIn(room);
    const refresh = () => room === this.room && this.refresh();
    for (const event of VIEW_EVENTS) room.on(event, refresh);
    expectHandovers(room, refresh);
    room.on(RoomEvent.ParticipantConnected, (p) => room === this.room && this.presence.connected(p.identity, p.name || p.identity));
    room.on(RoomEvent.ParticipantDisconnected, (p, reason) => {
      const seen = this.current.people.find(({ identity }) => identity === p.identity);
      if (room === this.room) this.presence.disconnected(p.identity, p.name || p.identity, seen, reason);
    });
    room.on(RoomEvent.ConnectionStateChanged, (state) => room === this.room && this.onState(state));
    room.on(RoomEvent.Disconnected, (reason) => room === this.room && this.onDisconnected(reason));
  }

  private adopt(room: Room, candidate: Candidate, answer: JoinAnswer): void {
    this.room = room;
    this.edge = candidate.edge;
    this.answer = { ...answer, token: candidate.token, identity: room.localParticipant.identity || answer.identity };
    this.phase = 'connected';
    this.publishing = true;
    this.letGo();
    this.joining.won();
    this.presence.moved(this.current.people, new Set(room.remoteParticipants.keys()));
    this.chat.use(room);
    this.signals.use(room);
    this.stopPulse();
    this.stopPulse = watchPulse(room, candidate.edge.url, {
      rtt: (ms) => {
        this.rttMs = ms;
        this.refresh();
      },
      dead: () => void this.rejoin(),
    });
    this.refresh();
  }

  private async publish(tracks: LocalTrack[]): Promise<void> {
    const room = this.room;
    this.captures = tracks;
    if (!room) return;
    await this.send(room, tracks);
    await this.catchUp(room);
  }

  private async send(room: Room, tracks: LocalTrack[]): Promise<void> {
    const published = await Promise.allSettled(tracks.map((track) => room.localParticipant.publishTrack(track, { source: track.source })));
    if (published.some((outcome) => outcome.status === 'rejected') && room === this.room) {
      this.notify('Your camera or microphone could not be sent. Turn it off and on again.', 'warning');
    }
  }

  private async catchUp(room: Room): Promise<void> {
    if (room !== this.room) return;
    this.publishing = false;
    // What was pressed while there was no room, or while this one was being filled.
    for (const what of ['microphone', 'camera'] as const) {
      if (isOn(room, what) === this.wanted[what]) continue;
      await this.withDevice(what, () => this.switchTo(room, what));
      if (room === this.room) this.wanted[what] = isOn(room, what);
    }
    this.refresh();
  }

  // ---- losing the connection ------------------------------------------------------------------------------------------------------

  private onState(state: ConnectionState): void {
    // A full reconnect inside livekit-client returns to the same edge: take it over (see ResumeOnly).
    if (state === ConnectionState.Reconnecting) return void this.rejoin();
    if (state === ConnectionState.SignalReconnecting) this.phase = 'resuming';
    else if (state === ConnectionState.Connected && this.phase === 'resuming') this.phase = 'connected';
    this.refresh();
  }

  private onDisconnected(reason: DisconnectReason | undefined): void {
    if (this.phase === 'ended') return;
    const end = endOf(reason);
    // A join of our own that was passed over may have landed and taken this one's place: it is told to go, this one goes on.
    const ours = this.leaving !== null || this.joining.mayHaveReplacedUs(Date.now());
    const byOurselves = end === 'duplicate' && !this.handedOver && ours;
    if (end && !byOurselves) this.finish(end);
    else void this.rejoin();
  }

  /** The edge has said to go elsewhere, and serves until then: what is seen and sent goes on until the next edge does as well. */
  private async move(): Promise<void> {
    const from = this.room;
    if (this.phase !== 'connected' || this.leaving || !from) return this.rejoin();
    this.leaving = from;
    const stillLeaves = () => this.room === from && this.phase === 'connected';
    const fresh = await this.askAgain(ASK_LATER_MS);
    const answer = fresh ?? this.answer;
    const elsewhere = candidates(fresh, this.answer, this.edge?.url ?? null, Date.now()).filter(({ edge }) => edge.url !== this.edge?.url);
    for (const candidate of answer ? elsewhere : []) {
      if (!stillLeaves()) break;
      const room = await this.attempt(answer as JoinAnswer, candidate, PATIENT);
      if (!room) continue;
      if (stillLeaves() && (await this.settle(from, room, candidate, answer as JoinAnswer))) return;
      abandon(room);
      break;
    }
    this.leaving = null;
    // Also when the edge fell silent meanwhile: then this has begun already.
    if (stillLeaves()) await this.rejoin();
  }

  /** Sends to the new edge, waits until it brings what the old one does, and changes over. False: the old one was lost meanwhile. */
  private async settle(from: Room, room: Room, candidate: Candidate, answer: JoinAnswer): Promise<boolean> {
    const captures = await salvage(this.captures);
    await this.send(room, captures);
    const seen = await receivesAll(from, room, AS_GOOD_MS);
    // Until the screen has put everything on its elements, nobody looks at it there.
    setTimeout(seen, BOTH_MS);
    const lost = this.room !== from || this.phase !== 'connected';
    if (!lost) {
      this.captures = captures;
      this.leaving = null;
      this.adopt(room, candidate, answer);
      setTimeout(() => abandon(from), BOTH_MS);
      await this.catchUp(room);
    }
    return !lost;
  }

  /** Back into the meeting by whatever edge answers. The last picture of everybody stays on the screen meanwhile. */
  private async rejoin(): Promise<void> {
    if (this.phase === 'rejoining' || this.phase === 'ended' || !this.room) return;
    this.phase = 'rejoining';
    this.refresh();
    this.stopPulse();
    this.lost = this.room;
    this.room = null;
    this.chat.use(null);
    this.signals.use(null);
    this.captures = await salvage(this.captures);

    const startedMs = Date.now();
    for (let round = 0; Date.now() - startedMs < REJOIN_BUDGET_MS; round++) {
      const fresh = await this.askAgain(round === 0 ? ASK_FIRST_MS : ASK_LATER_MS);
      if (this.over()) return;
      const answer = fresh ?? this.answer;
      const list = candidates(fresh, this.answer, this.edge?.url ?? null, Date.now());
      if (answer && (await this.tryEach(answer, list, round === 0 ? HURRIED : PATIENT))) return this.publish(this.captures);
      if (this.over()) return;
      await this.pause(Math.min(250 * 2 ** round, 4_000));
    }
    this.finish('dropped');
  }

  private letGo(): void {
    if (this.lost) abandon(this.lost);
    this.lost = null;
  }

  private over(): boolean {
    return this.phase === 'ended';
  }

  /** Null when the control plane does not answer in time: the alternates and the token at hand serve then. */
  private async askAgain(patienceMs: number): Promise<JoinAnswer | null> {
    const { api, code, name, passcode, from } = this.options;
    try {
      return await api.join(code, { name, passcode, from, previousToken: this.answer?.token, avoid: this.edge ? [this.edge.id] : [] }, AbortSignal.timeout(patienceMs));
    } catch (error) {
      const problem = error instanceof ApiError ? error.problem : null;
      if (problem === 'ended' || problem === 'not_found') this.finish(problem);
      return null;
    }
  }

  private pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        removeEventListener('online', done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      addEventListener('online', done);
      this.wakeUp = done;
    });
  }

  private finish(end: EndReason): void {
    if (this.phase === 'ended') return;
    this.phase = 'ended';
    this.end = end;
    this.stopPulse();
    this.letGo();
    this.joining.close();
    this.presence.close();
    this.chat.use(null);
    this.signals.close();
    this.wakeUp();
    for (const track of this.captures) track.stop();
    this.refresh();
  }

  // ---- the snapshot ---------------------------------------------------------------------------------------------------------------

  private notify(text: string, tone: Notice['tone'] = 'plain'): void {
    const id = this.nextNotice++;
    this.notices = [...this.notices, { id, text, tone }].slice(-NOTICES_MAX);
    setTimeout(() => this.dismiss(id), tone === 'warning' ? 2 * NOTICE_MS : NOTICE_MS);
    this.refresh();
  }

  private dismiss(id: number): void {
    this.notices = this.notices.filter((notice) => notice.id !== id);
    this.refresh();
  }

  /** Many room events come together: they are drawn once. */
  private refresh(): void {
    if (this.refreshQueued) return;
    this.refreshQueued = true;
    queueMicrotask(() => {
      this.refreshQueued = false;
      if (this.room && !this.publishing && this.phase !== 'ended') this.captures = publishedTracks(this.room);
      this.current = this.read(this.room);
      this.changed();
    });
  }

  private read(room: Room | null): MeetingSnapshot {
    const shared = {
      phase: this.phase, end: this.end, code: this.options.code, title: this.options.title,
      mayRecord: Boolean(this.options.hostKey), chat: this.chat.lines, notices: this.notices, rttMs: this.rttMs, placement: this.placement(),
    };
    // Between two rooms everybody stays where they were.
    if (!room) return { ...EMPTY, ...this.current, ...shared, micOn: this.wanted.microphone, cameraOn: this.wanted.camera, sharing: this.captures.some(isScreen) };
    const me = room.localParticipant;
    return {
      ...shared,
      people: this.presence.with(peopleOf(room, this.edge?.region ?? '', this.signals)),
      audio: audioOf(room),
      micOn: me.isMicrophoneEnabled,
      cameraOn: me.isCameraEnabled,
      sharing: me.getTrackPublication(Track.Source.ScreenShare) !== undefined,
      soundBlocked: soundIsHeldBack(room),
      devices: devicesOf(room),
      recording: room.isRecording,
    };
  }

  private placement(): Placement | null {
    if (!this.edge || !this.answer) return null;
    const others = [this.answer.edge, ...this.answer.alternates].filter((edge) => edge.url !== this.edge?.url);
    return { edgeId: this.edge.id, region: this.edge.region, alternates: others.map((edge) => edge.region || edge.id), reasons: this.answer.reasons };
  }
}

/** Of each kind of device: how it is called, and under which name the choice is kept. */
const DEVICES = {
  audioinput: { name: 'microphone', remembered: 'microphoneId' },
  videoinput: { name: 'camera', remembered: 'cameraId' },
  audiooutput: { name: 'speaker', remembered: 'speakerId' },
} as const;

function isOn(room: Room, what: 'microphone' | 'camera'): boolean {
  const me = room.localParticipant;
  return what === 'microphone' ? me.isMicrophoneEnabled : me.isCameraEnabled;
}

const EMPTY = { people: [], audio: [], micOn: false, cameraOn: false, sharing: false, soundBlocked: false, devices: { audioinput: '', videoinput: '', audiooutput: '' }, recording: false };
